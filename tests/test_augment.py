"""What each augmentation may touch, and how it is drawn."""

import pytest
import torch

from speakerprint.augment import augment, frequency_mask, gaussian_noise, low_frequency_noise, time_mask
from speakerprint.params import Augmentation

KINDS = ["gaussian_noise", "time_mask", "frequency_mask", "low_frequency_noise"]


@pytest.fixture
def settings():
    drawn = {"kinds": KINDS}
    return Augmentation.model_validate(
        {
            "gaussian_noise": {"std": 0.5},
            "time_mask": {"max_frames": 20},
            "frequency_mask": {"max_bands": 10},
            "low_frequency_noise": {"bands": 10, "std": 0.5},
            "ntxent": {**drawn, "views": 1, "kinds_per_view": 2},
            "triplet": {**drawn, "kinds_per_clip": 0},
        }
    )


def batch(clips=64, frames=100, seed=0):
    return torch.randn(clips, 80, frames, generator=torch.Generator().manual_seed(seed)), torch.full((clips,), frames)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_gaussian_noise_has_the_asked_deviation():
    features, n_frames = batch()
    added = gaussian_noise(features, n_frames, 0.03, generator()) - features
    assert added.std().item() == pytest.approx(0.03, rel=0.01)
    assert added.mean().item() == pytest.approx(0.0, abs=1e-3)


def test_time_mask_replaces_one_span_of_whole_frames_within_its_limits():
    features, n_frames = batch()
    changed = (time_mask(features, n_frames, 20, generator()) != features).all(dim=1)
    widths = changed.sum(dim=1)
    assert widths.max() <= 20 and widths.max() > 10 and widths.min() < 5
    edges = changed.int().diff(dim=1).abs().sum(dim=1)
    assert edges.max() <= 2


def test_time_mask_leaves_half_of_a_short_clip():
    features, n_frames = batch(frames=10)
    changed = (time_mask(features, n_frames, 200, generator()) != features).any(dim=1).sum(dim=1)
    assert changed.max() == 5


def test_frequency_mask_sets_neighbouring_bands_to_the_clips_mean():
    features, n_frames = batch()
    masked = frequency_mask(features, n_frames, 10, generator())
    changed = (masked != features).all(dim=2)
    assert 5 < changed.sum(dim=1).max() <= 10
    assert changed.int().diff(dim=1).abs().sum(dim=1).max() <= 2
    clip = int(changed.sum(dim=1).argmax())
    torch.testing.assert_close(masked[clip][changed[clip]], features[clip].mean().expand(int(changed[clip].sum()), 100))


def test_low_frequency_noise_touches_the_lowest_bands_only():
    features, n_frames = batch()
    added = low_frequency_noise(features, n_frames, 10, 0.06, generator()) - features
    assert added[:, :10].std().item() == pytest.approx(0.06, rel=0.02)
    assert added[:, 10:].abs().max() == 0


def test_no_augmentation_gives_the_same_features(settings):
    features, n_frames = batch()
    assert augment(features, n_frames, KINDS, 0, settings, generator()) is features


def test_each_clip_gets_as_many_kinds_as_asked(settings):
    features, n_frames = batch(clips=200)
    out = augment(features, n_frames, ["gaussian_noise", "low_frequency_noise"], 1, settings, generator())
    high_changed = (out[:, 10:] != features[:, 10:]).flatten(1).any(dim=1)
    low_changed = (out[:, :10] != features[:, :10]).flatten(1).all(dim=1)
    assert low_changed.all()  # both kinds touch the low bands, one of them nothing else
    assert 60 < high_changed.sum() < 140


def test_augmentations_follow_the_seed(settings):
    features, n_frames = batch()
    once, again, other = (augment(features, n_frames, KINDS, 4, settings, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_padding_stays_zero(settings):
    features, n_frames = batch()
    n_frames[::2] = 60
    features[::2, :, 60:] = 0
    out = augment(features, n_frames, KINDS, 4, settings, generator())
    assert out[::2, :, 60:].abs().max() == 0


def test_what_a_mask_is_filled_with_does_not_depend_on_padding():
    features = torch.full((8, 80, 300), 0.5)
    padded, n_frames = torch.nn.functional.pad(features, (0, 700)), torch.full((8,), 300)
    assert torch.equal(frequency_mask(padded, n_frames, 10, generator())[:, :, :300], features)
    assert torch.equal(time_mask(padded, n_frames, 200, generator())[:, :, :300], features)
