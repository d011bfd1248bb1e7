from argparse import ArgumentTypeError
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.discriminant_starts import Projection, Tried, central, columns, some_layers, statistics
from speakerprint.corpora.feature_store import FeatureStore, create_store, seal, write_shard
from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.evaluation.trials import pairs_within, score_trials
from speakerprint.inference.vectors import unit_vectors
from speakerprint.model.speaker_model import Bfloat16Model, DiscriminantProjection, SpeakerModel, native_bf16
from speakerprint.params.model import Model
from speakerprint.training.discriminant import discriminant

RNG = np.random.default_rng(1)
SETTINGS = Model(
    layers=2,
    layer_combination="concatenate",
    pooling="attentive_statistics",
    projection="discriminant",
    embedding_dim=8,
    window_s=4.0,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return SpeakerModel(SETTINGS).eval()


def clips(n):
    return [RNG.normal(size=(RNG.integers(30, 60), 80)).astype(np.float32) for _ in range(n)]


@pytest.mark.slow
def test_statistics_are_what_the_model_pools_of_each_clip(model):
    given = clips(20)
    found = statistics(model, given, len(given))
    for row, clip in zip(found, given, strict=True):
        alone = statistics(model, [clip], 1)[0]
        np.testing.assert_allclose(row, alone, atol=0.05)  # in bfloat16 where the processor computes in it
    assert found.shape == (20, 2 * 2 * 512)
    assert np.abs(found - found.mean(axis=0)).max() > 0.5


def test_columns_are_the_means_and_deviations_of_the_layers_named(model):
    given = clips(1)
    both = statistics(model, given, 1)[0]
    with torch.inference_mode():
        hidden, _ = model.encoder(torch.from_numpy(given[0].T[None]), None)
    chosen = both[columns([2], 2)]
    assert len(chosen) == 2 * 512
    np.testing.assert_array_equal(both[columns([1, 2], 2)], both)
    assert np.corrcoef(chosen[:512], hidden[1][0].mean(dim=0).numpy())[0, 1] > 0.99
    assert np.corrcoef(chosen[512:], hidden[1][0].std(dim=0).numpy())[0, 1] > 0.99


@pytest.mark.slow
def test_a_projection_is_that_of_a_model_that_starts_from_it(model):
    rows = RNG.normal(size=(60, 2048)).astype(np.float32)
    speakers = np.arange(60) // 3
    chosen = columns([2], 2)
    project = Projection(rows, speakers, chosen, dim=8, shrinkage=0.3)
    one = SpeakerModel(SETTINGS.model_copy(update={"layers": 1})).eval()
    assert isinstance(one.projection, DiscriminantProjection)
    one.projection.start(*discriminant(rows[:, chosen], speakers, 8, 0.3))
    with torch.inference_mode():
        expected = one.project(torch.from_numpy(rows[:, chosen])).numpy()
    np.testing.assert_allclose(project(rows), expected, atol=1e-4)


@pytest.mark.slow
def test_a_corpus_is_judged_as_the_model_would_embed_it(model, tmp_path):
    lengths = [120, 450, 900, 60, 130, 850, 410, 220]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    create_store(tmp_path, offsets, list("abcdabcd"), [None] * 8, {})
    write_shard(tmp_path, 0, RNG.normal(size=(offsets[-1], 80)).astype(np.float16))
    ids = [f"r{number}" for number in range(8)]
    table = pd.DataFrame({"recording_id": ids, "speaker_id": list("abcdabcd"), "locale": list("xxyyxxyy"), "location": "-"})
    write_recordings(as_recordings(table, "test"), tmp_path / "recordings.parquet")
    seal(tmp_path)
    tried, store = Tried(tmp_path, model), FeatureStore(tmp_path)
    rows = np.concatenate([tried.windows, tried.short])
    speakers = np.concatenate([tried.owner, np.arange(8)])
    project = Projection(rows, speakers, columns([1, 2], 2), dim=8, shrinkage=0.3)
    one: Any = SpeakerModel(SETTINGS).eval()
    one.load_state_dict(model.state_dict())
    one.projection.start(*discriminant(rows, speakers, 8, 0.3))
    whole = [store.frames(row).astype(np.float32) for row in range(8)]
    embedder = Bfloat16Model(one) if native_bf16("cpu") else one
    embeddings = np.concatenate([embedder.embed_frames([clip]) for clip in whole])
    short = np.concatenate([embedder.embed_frames([central(clip, 200)]) for clip in whole])
    within = pairs_within(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    expected = [score_trials(embeddings, table["speaker_id"]), score_trials(embeddings, table["speaker_id"], within)]
    expected.append(score_trials(short, table["speaker_id"]))
    assert [len(head) for head in tried.heads] == [len(tmp_path.name) + n for n in (0, 13, 5)]
    # one of 4 target trials is a quarter; rounding to bfloat16 may move a trial
    np.testing.assert_allclose(list(tried.errors(project)), [100 * one.equal_error_rate()[0] for one in expected], atol=15)
    sums = np.zeros((8, 8))
    np.add.at(sums, tried.owner, project(tried.windows))
    np.testing.assert_allclose(unit_vectors(sums), embeddings, atol=0.05)


@pytest.mark.parametrize("digits", ["0", "7", "", "1x"])
def test_layers_that_the_encoder_lacks_are_refused(digits):
    with pytest.raises(ArgumentTypeError, match="expected layers from 1 to 6"):
        some_layers(digits)
    assert some_layers("136") == [1, 3, 6]


def test_the_middle_of_a_clip_or_all_of_a_shorter_one():
    clip = np.arange(10)[:, None]
    assert central(clip, 4).ravel().tolist() == [3, 4, 5, 6]
    assert central(clip, 20).ravel().tolist() == list(range(10))
