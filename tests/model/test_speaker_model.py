"""The model: padding never matters, every option is reachable, what is saved is what is loaded."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from speakerprint.errors import InputError
from speakerprint.inference.model_folder import SHIPPED
from speakerprint.model.speaker_model import AttentiveStatistics, MeanPooling, SpeakerModel
from speakerprint.params.model import Model

EARLY = {"layers": 2, "layer_combination": "concatenate", "pooling": "attentive_statistics", "projection": "discriminant"}
REFERENCE = {"layers": 2, "layer_combination": "last", "pooling": "mean", "projection": "mlp"}


def model(seed=0, **settings) -> SpeakerModel:
    torch.manual_seed(seed)
    return SpeakerModel(Model(embedding_dim=8, **{"window_s": 30.0, **settings})).eval()


def clips(*lengths, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 80)).astype(np.float32) for n in lengths]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [EARLY, REFERENCE], ids=["early", "reference"])
def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(settings):
    embedder, recordings = model(**settings), clips(61, 200, 130, 33)
    together = embedder.embed_frames(recordings)
    alone = np.concatenate([embedder.embed_frames([clip]) for clip in recordings])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("settings", [EARLY, REFERENCE], ids=["early", "reference"])
def test_embeddings_have_unit_length(settings):
    embeddings = model(**settings).embed_frames(clips(50, 90))
    assert embeddings.shape == (2, 8) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("settings", [EARLY, REFERENCE], ids=["early", "reference"])
def test_a_recording_longer_than_a_window_is_the_mean_of_windows_that_cover_it(settings):
    embedder, (clip,) = model(**settings, window_s=0.5), clips(120)
    parts = embedder.embed_frames([clip[:50], clip[35:85], clip[70:]])
    np.testing.assert_allclose(embedder.embed_frames([clip])[0], parts.sum(axis=0) / np.linalg.norm(parts.sum(axis=0)), atol=1e-5)


@pytest.mark.slow
def test_concatenated_layers_keep_each_layers_statistics():
    embedder = model(layers=2, layer_combination="concatenate", pooling="mean", projection="discriminant")
    hidden = [torch.randn(3, 5, 512), 100 * torch.randn(3, 5, 512) + 3]
    expected = torch.cat([F.layer_norm(layer, (512,)).mean(dim=1) for layer in hidden], dim=1)
    torch.testing.assert_close(embedder.pool(hidden, None), expected)


def test_attentive_statistics_start_as_plain_ones():
    x, mask = torch.randn(2, 7, 4), torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    pooled = AttentiveStatistics(4)(x, mask)
    torch.testing.assert_close(pooled[1, :4], x[1, :5].mean(dim=0))
    torch.testing.assert_close(pooled[1, 4:], x[1, :5].var(dim=0, correction=0).clamp(min=1e-5).sqrt(), atol=1e-4, rtol=1e-4)


def test_mean_pooling_leaves_padding_out():
    x, mask = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[True, True, False]])
    assert MeanPooling(1)(x, mask).item() == 2


def test_attentive_statistics_with_even_attention_are_mean_and_deviation():
    pooling = AttentiveStatistics(3)
    for parameter in pooling.parameters():
        torch.nn.init.zeros_(parameter)
    x, mask = torch.randn(2, 7, 3), torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    for clip, n in enumerate([7, 4]):
        expected = torch.cat([x[clip, :n].mean(dim=0), x[clip, :n].std(dim=0, correction=0)])
        torch.testing.assert_close(pooling(x, mask)[clip], expected)


def test_the_reference_recipe_pools_after_the_final_norm():
    embedder, (clip,) = model(**REFERENCE), clips(40)
    hidden, _ = embedder.encode(torch.from_numpy(clip.T[None].copy()), None)
    pooled = embedder.encoder.final_norm(hidden[-1]).mean(dim=1)
    expected = F.normalize(embedder.projection(pooled))[0].detach().numpy()
    np.testing.assert_allclose(embedder.embed_frames([clip])[0], expected, atol=1e-6)


@pytest.mark.slow
def test_a_saved_model_loads_to_the_same_embeddings(tmp_path):
    embedder, recordings = model(**EARLY), clips(70, 45)
    embedder.save(tmp_path, "a run")
    np.testing.assert_array_equal(SpeakerModel.load(tmp_path).embed_frames(recordings), embedder.embed_frames(recordings))


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no model in .*config\.json is missing"):
        SpeakerModel.load(tmp_path)


@pytest.mark.slow
def test_damaged_weights_are_named(tmp_path):
    model(**EARLY).save(tmp_path, "a run")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        SpeakerModel.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "found"), [({"format": "other-9"}, "'other-9'"), ({}, "None")])
def test_another_format_is_refused(tmp_path, config, found):
    model(**EARLY).save(tmp_path, "a run")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json has format {found}, expected"):
        SpeakerModel.load(tmp_path)


@pytest.mark.parametrize("half", [False, True])
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, half):
    broken = model(**EARLY)
    with torch.no_grad():
        next(broken.projection.parameters()).view(-1)[0] = 1e6 if half else torch.nan
    with pytest.raises(InputError, match="float16 cannot hold" if half else "are not finite"):
        broken.save(tmp_path, "a run", half=half)
    assert not list(tmp_path.iterdir())


RECORDED = [  # the first numbers of two embeddings
    [-0.04097436, 0.03918864, -0.15030362, -0.03490478, 0.17978057, -0.03244898],
    [-0.08895596, 0.00881352, -0.19118871, -0.06674213, 0.19123465, -0.09117067],
]
FIRST_FORMAT = {**EARLY, "embedding_dim": 8, "window_s": 30.0, "convolution_channels": 0, "centred": False}


def save_in_the_first_format(folder, settings) -> SpeakerModel:
    """A model as version 0.1 wrote it: a format of its own, settings that are gone, and the tensor `centre`."""
    embedder = model(**EARLY)
    embedder.save(folder, "a run")
    save_file({**embedder.state_dict(), "centre": torch.zeros(8)}, folder / "model.safetensors")
    config = {"format": "speakerprint-1", "model": settings, "run": "a run"}
    (folder / "config.json").write_text(json.dumps(config))
    return embedder


@pytest.mark.slow
def test_a_model_of_the_first_format_loads_to_the_same_embeddings(tmp_path):
    embedder, recordings = save_in_the_first_format(tmp_path, FIRST_FORMAT), clips(70, 45)
    np.testing.assert_array_equal(SpeakerModel.load(tmp_path).embed_frames(recordings), embedder.embed_frames(recordings))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("centred", True),
        ("convolution_channels", 512),
        ("layer_combination", "mix"),
        ("pooling", "multi_head_attention"),
        ("projection", "linear"),
    ],
)
def test_a_model_that_uses_what_is_gone_is_refused_by_name(tmp_path, key, value):
    save_in_the_first_format(tmp_path, FIRST_FORMAT | {key: value})
    with pytest.raises(InputError, match=rf"was trained with model\.{key} {value!r}, which this version no longer has; train it"):
        SpeakerModel.load(tmp_path)


@pytest.mark.slow
def test_the_shipped_model_embeds_as_the_version_that_trained_it_did():
    """Recorded with commit 2831c5b, before its settings lost what is gone; the tolerance is what processors round differently."""
    embedder = SpeakerModel.load(SHIPPED)
    embeddings = embedder.embed_frames([0.3 * clip for clip in clips(50, 401)])
    np.testing.assert_allclose(embeddings[:, :6], RECORDED, atol=1e-5)
