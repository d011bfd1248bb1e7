"""The model: padding never matters, every option is reachable, what is saved is what is loaded."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from speakerprint.errors import InputError
from speakerprint.model.speaker_model import (
    AttentiveStatistics,
    LayerMix,
    MaskedNorm,
    MeanPooling,
    MultiHeadAttention,
    SpeakerModel,
    windows,
)
from speakerprint.params.model import Model

EARLY = {
    "layers": 2,
    "layer_combination": "mix",
    "convolution_channels": 16,
    "pooling": "attentive_statistics",
    "projection": "linear",
}
DISCRIMINANT = {**EARLY, "layer_combination": "concatenate", "convolution_channels": 0, "projection": "discriminant"}
REFERENCE = {"layers": 2, "layer_combination": "last", "convolution_channels": 0, "pooling": "mean", "projection": "mlp"}


def model(seed=0, **settings) -> SpeakerModel:
    torch.manual_seed(seed)
    return SpeakerModel(Model(embedding_dim=8, **{"centred": False, "window_s": 30.0, **settings})).eval()


def clips(*lengths, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 80)).astype(np.float32) for n in lengths]


@pytest.mark.parametrize("settings", [EARLY, REFERENCE, DISCRIMINANT], ids=["convolutions", "reference", "discriminant"])
def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(settings):
    embedder, recordings = model(**settings), clips(61, 200, 130, 33)
    together = embedder.embed_frames(recordings)
    alone = np.concatenate([embedder.embed_frames([clip]) for clip in recordings])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("settings", [EARLY, REFERENCE, DISCRIMINANT], ids=["convolutions", "reference", "discriminant"])
def test_embeddings_have_unit_length(settings):
    embeddings = model(**settings).embed_frames(clips(50, 90))
    assert embeddings.shape == (2, 8) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("settings", [EARLY, DISCRIMINANT], ids=["convolutions", "discriminant"])
def test_a_recording_longer_than_a_window_is_the_mean_of_windows_that_cover_it(settings):
    embedder, (clip,) = model(**settings, window_s=0.5), clips(120)
    parts = embedder.embed_frames([clip[:50], clip[35:85], clip[70:]])
    np.testing.assert_allclose(embedder.embed_frames([clip])[0], parts.sum(axis=0) / np.linalg.norm(parts.sum(axis=0)), atol=1e-5)


@given(st.integers(1, 700), st.integers(1, 300))
def test_windows_are_whole_start_and_end_with_the_clip_and_leave_nothing_out(frames, n_frames):
    clip = np.arange(frames)[:, None]
    parts = windows(clip, n_frames)
    assert {len(part) for part in parts} == {min(frames, n_frames)}
    assert parts[0][0] == 0 and parts[-1][-1] == frames - 1
    assert len(np.unique(np.concatenate(parts))) == frames
    assert len(parts) == max(1, -(-frames // n_frames))


def test_layer_mix_starts_as_the_mean_of_normalised_layers():
    hidden = [torch.randn(2, 5, 12), 100 * torch.randn(2, 5, 12) + 3]
    expected = (F.layer_norm(hidden[0], (12,)) + F.layer_norm(hidden[1], (12,))) / 2
    torch.testing.assert_close(LayerMix(2)(hidden), expected)


def test_concatenated_layers_keep_each_layers_statistics():
    embedder = model(layers=2, layer_combination="concatenate", convolution_channels=0, pooling="mean", projection="discriminant")
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


def test_heads_of_one_attention_are_means_of_the_values_that_they_attend_to():
    pooling = MultiHeadAttention(3)
    with torch.no_grad():
        pooling.score.weight[1:] = 0  # all heads but the first weigh all positions equally
        pooling.score.weight[0] *= 50
    x, mask = torch.randn(2, 7, 3), torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    pooled = pooling(x, mask).unflatten(1, (pooling.HEADS, pooling.COMPRESSED))
    values = pooling.value(x[1, :4])
    torch.testing.assert_close(pooled[1, 1], values.mean(dim=0))
    attention = pooling.score(pooling.key(x[1, :4]))[:, 0].softmax(dim=0)
    torch.testing.assert_close(pooled[1, 0], attention @ values)
    torch.testing.assert_close(pooling(x[1:, :4], None), pooling(x, mask)[1:])


def test_masked_norm_learns_from_valid_positions_only():
    norm, x = MaskedNorm(4).train(), torch.randn(3, 4, 6)
    mask = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    valid = x.mT[mask]
    norm(x.masked_fill(~mask[:, None], 1e6), mask)
    torch.testing.assert_close(norm.running_mean, 0.1 * valid.mean(dim=0))


def test_the_reference_recipe_pools_after_the_final_norm():
    embedder, (clip,) = model(**REFERENCE), clips(40)
    hidden, _ = embedder.encode(torch.from_numpy(clip.T[None].copy()), None)
    pooled = embedder.encoder.final_norm(hidden[-1]).mean(dim=1)
    expected = F.normalize(embedder.projection(pooled))[0].detach().numpy()
    np.testing.assert_allclose(embedder.embed_frames([clip])[0], expected, atol=1e-6)


def test_a_saved_model_loads_to_the_same_embeddings(tmp_path):
    embedder, recordings = model(**EARLY), clips(70, 45)
    embedder.save(tmp_path, "a run")
    np.testing.assert_array_equal(SpeakerModel.load(tmp_path).embed_frames(recordings), embedder.embed_frames(recordings))


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no model in .*config\.json is missing"):
        SpeakerModel.load(tmp_path)


def test_damaged_weights_are_named(tmp_path):
    model(**EARLY).save(tmp_path, "a run")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        SpeakerModel.load(tmp_path)


@pytest.mark.parametrize(("config", "found"), [({"format": "other-9"}, "'other-9'"), ({}, "None"), ([], "None"), (None, "None")])
def test_another_format_is_refused(tmp_path, config, found):
    model(**EARLY).save(tmp_path, "a run")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json has format {found}, expected"):
        SpeakerModel.load(tmp_path)
