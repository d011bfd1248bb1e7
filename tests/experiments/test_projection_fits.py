"""experiments/projection_fits.py: fits of the projection learn, leave out what they are told to, and judge as embeddings do."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.projection_fits import (
    CONDITIONS,
    Pooled,
    everything,
    fit,
    fit_all,
    floats,
    judge,
    pool_all,
    pool_training,
    pool_validation,
    row,
    with_weights,
)
from speakerprint.audio.decode import decode
from speakerprint.audio.log_mel import log_mel
from speakerprint.corpora.resampling import read_audio
from speakerprint.errors import InputError
from speakerprint.evaluation.trials import equal_error_rate
from speakerprint.training.data import Stores
from speakerprint.training.loop import prepare
from speakerprint.training.start import initial_model
from tests.training.conftest import run  # noqa: F401
from tests.training.runs import teach, with_teacher, write_store


@pytest.fixture
def prepared(run):  # noqa: F811
    write_store(run.folder / "b", seed=7)
    settings = run.recipe.train.model_copy(update={"validation_speakers": 0.0})
    recipe = replace(run.recipe, train=settings)
    return prepare(Stores({"a": run.folder / "a", "b": run.folder / "b"}), recipe, "unused", print)


@pytest.fixture
def model(prepared):
    return initial_model(prepared.recipe.model, "unused").eval()


def test_a_fit_tells_speakers_apart_better_and_changes_the_projection_alone(prepared, model):
    pooled = pool_training(model, prepared)
    assert pooled.clips.shape == pooled.views.shape == (64, model.pooling.out_width)
    assert sorted(pooled.examples) == list(range(64))
    speakers = prepared.reader.examples.labels[pooled.examples]

    def eer():
        with torch.inference_mode():
            return equal_error_rate(model.project(floats(pooled.views)).numpy(), speakers)

    before, weights = eer(), {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, prepared, pooled)
    assert eer() < 0.7 * before
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {"projection.linear.weight", "projection.linear.bias"}


def test_a_corpus_that_is_left_out_is_not_learned_from(prepared, model):
    pooled = pool_training(model, prepared)
    of_b = prepared.data.corpora[pooled.examples] == "b"
    broken = Pooled(np.where(of_b[:, None], np.float16(np.nan), pooled.clips), pooled.views, pooled.examples)
    fit(model, prepared, broken, without="b")
    assert model.projection.linear.weight.isfinite().all()
    fit(model, prepared, broken)
    assert not model.projection.linear.weight.isfinite().all()


def test_recordings_are_judged_as_the_model_embeds_them(prepared, model, audio):
    eers = judge(model, pool_validation(model, audio / "report"))
    recordings, clips = read_audio(audio / "report")
    embeddings = model.embed_frames([log_mel(decode(clip, "clip")[0]) for clip in clips])
    assert eers[CONDITIONS.index("full")] == pytest.approx(100 * equal_error_rate(embeddings, recordings["speaker_id"]), abs=1)
    assert row("as it is", {"report": [1.0, 4.0]}) == "| as it is | 2.00 | 1.0 / 4.0 |"


def test_teachers_and_recordings_without_labels_take_part(run, prepared):  # noqa: F811
    folder = teach(run)
    shutil.copy(folder / "aunt/a.parquet", folder / "aunt/b.parquet")
    stores, only_match = Stores({"a": run.folder / "a"}, {"b": run.folder / "b"}), {"teacher_similarity_weight": 0.0}
    taught = prepare(stores, with_teacher(prepared.recipe, teacher_match_weight=10.0, **only_match), folder, print)
    model = initial_model(taught.recipe.model, "unused").eval()
    pooled = pool_training(model, taught)
    assert sorted(pooled.examples) == list(range(64))
    rows, heard = floats(pooled.clips), everything(taught).taught[0][pooled.examples]

    def unexplained():
        """Of what the teacher heard, the share that no affine map of the embeddings predicts."""
        embeddings = np.c_[model.project(rows).detach().numpy(), np.ones(64)]
        return np.linalg.lstsq(embeddings, heard, rcond=None)[1].sum() / np.square(heard - heard.mean(axis=0)).sum()

    before = unexplained()
    fit(model, taught, pooled)
    assert unexplained() < 0.8 * before


@pytest.mark.parametrize("weights", [["triplet"], ["triplet=heavy"], ["trplet=5"], ["triplet=-1"]])
def test_a_weight_of_another_form_is_refused(run, weights):  # noqa: F811
    with pytest.raises(InputError, match="expected NAME=WEIGHT, of triplet, ntxent"):
        with_weights(run.recipe, weights)
    assert with_weights(run.recipe, ["triplet=5"]).loss.triplet_weight == 5


def test_statistics_of_other_recordings_are_refused_and_so_is_leaving_out_what_is_not_heard(run, prepared, monkeypatch):  # noqa: F811
    run("trained", steps=1, validation_speakers=0.0)
    settings = prepared.recipe.train.model_copy(update={"init_from": str(run.folder / "trained/model")})
    ours = replace(prepared, recipe=replace(prepared.recipe, train=settings))
    monkeypatch.chdir(run.folder)
    with pytest.raises(InputError, match="has no statistics"):
        fit_all(ours, [], "", left_out=False)
    pool_all(ours, [])
    fewer = prepare(Stores({"a": run.folder / "a"}), ours.recipe, "unused", print)
    with pytest.raises(InputError, match="of another model or other recordings"):
        fit_all(fewer, [], "", left_out=False)
    with pytest.raises(InputError, match="c_train is to be left out"):
        fit_all(ours, ["c_validation"], "", left_out=True)
