import numpy as np
import pytest
import torch

from benchmarks.discriminant_starts import Projection, central, columns, statistics
from speakerprint.discriminant import discriminant
from speakerprint.model import DiscriminantProjection, SpeakerModel
from speakerprint.params import Model

RNG = np.random.default_rng(1)
SETTINGS = Model(
    layers=2,
    layer_combination="concatenate",
    convolution_channels=0,
    pooling="attentive_statistics",
    projection="discriminant",
    embedding_dim=8,
    window_s=4.0,
    centred=True,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return SpeakerModel(SETTINGS).eval()


def clips(n):
    return [RNG.normal(size=(RNG.integers(30, 60), 80)).astype(np.float32) for _ in range(n)]


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


def test_a_projection_is_that_of_a_model_that_starts_from_it(model):
    rows = RNG.normal(size=(60, 2048)).astype(np.float32)
    speakers = np.arange(60) // 3
    project = Projection(rows, speakers, columns([1, 2], 2), dim=8, shrinkage=0.3)
    one = SpeakerModel(SETTINGS).eval()
    assert isinstance(one.projection, DiscriminantProjection)
    one.projection.start(*discriminant(rows, speakers, 8, 0.3))
    with torch.inference_mode():
        one.centre.copy_(one.project(torch.from_numpy(rows)).mean(dim=0))
        expected = one.project(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(project(rows), expected, atol=1e-4)


def test_the_middle_of_a_clip_or_all_of_a_shorter_one():
    clip = np.arange(10)[:, None]
    assert central(clip, 4).ravel().tolist() == [3, 4, 5, 6]
    assert central(clip, 20).ravel().tolist() == list(range(10))
