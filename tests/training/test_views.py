"""What each augmentation may touch, and how it is drawn."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.signal import lfilter

from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.params.augmentation import Augmentation, AugmentationKind
from speakerprint.training.views import (
    augment,
    background_speech,
    bands_heard,
    change_speed,
    channel,
    coloured_noise,
    draw_kinds,
    frequency_mask,
    gaussian_noise,
    low_frequency_noise,
    recorded_noise,
    reverberation,
    time_mask,
)

KINDS: list[AugmentationKind] = ["gaussian_noise", "time_mask", "frequency_mask", "low_frequency_noise"]
REAL_WORLD = ["background_speech", "coloured_noise", "reverberation", "channel"]


@pytest.fixture
def settings():
    drawn = {"kinds": KINDS}
    return Augmentation.model_validate(
        {
            "gaussian_noise": {"std": 0.5},
            "time_mask": {"max_frames": 20},
            "frequency_mask": {"max_bands": 10},
            "low_frequency_noise": {"bands": 10, "std": 0.5},
            "recorded_noise": {"min_snr_db": 0.0, "max_snr_db": 20.0},
            "background_speech": {"min_snr_db": 5.0, "max_snr_db": 20.0},
            "coloured_noise": {"min_snr_db": 0.0, "max_snr_db": 20.0},
            "reverberation": {"min_decay_s": 0.2, "max_decay_s": 1.0, "min_direct_db": 0.0, "max_direct_db": 15.0},
            "channel": {"std_db": 4.0, "gain_db": 6.0},
            "draw_per": "clip",
            "ntxent": {**drawn, "views": 1, "kinds_per_view": 2},
            "triplet": {**drawn, "kinds_per_clip": 0, "gaussian_noise_std": 0.01, "low_frequency_noise_std": 0.03},
        }
    )


def batch(clips=64, frames=100, seed=0):
    return torch.randn(clips, 80, frames, generator=torch.Generator().manual_seed(seed)), torch.full((clips,), frames)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def augmented(features, n_frames, kinds, count, settings, generator, noise=None, clips_per_speaker=1):
    turns = draw_kinds(len(features), len(kinds), count, settings.draw_per, generator, clips_per_speaker)
    return augment(features, n_frames, kinds, turns, settings, generator, noise)


def test_gaussian_noise_has_the_asked_deviation():
    features, n_frames = batch()
    added = gaussian_noise(features, n_frames, 0.03, generator()) - features
    assert added.std().item() == pytest.approx(0.03, rel=0.01)
    assert added.mean().item() == pytest.approx(0.0, abs=1e-3)


def test_time_mask_replaces_one_span_of_whole_frames_within_its_limits():
    features, n_frames = batch(clips=200)
    changed = (time_mask(features, n_frames, 20, generator()) != features).all(dim=1)
    widths = changed.sum(dim=1)
    assert (widths.min(), widths.max()) == (2, 20)
    assert changed.int().diff(dim=1).abs().sum(dim=1).max() <= 2
    starts = changed.int().argmax(dim=1)
    assert starts.min() == 0 and (starts + widths).max() == 100


def test_time_mask_leaves_half_of_a_short_clip():
    features, n_frames = batch(frames=10)
    changed = (time_mask(features, n_frames, 200, generator()) != features).any(dim=1).sum(dim=1)
    assert changed.max() == 5
    assert torch.equal(time_mask(features[:, :, :1], n_frames * 0 + 1, 200, generator()), features[:, :, :1])


def test_frequency_mask_replaces_neighbouring_bands_within_its_limits():
    features, n_frames = batch(clips=200)
    changed = (frequency_mask(features, n_frames, 9, generator()) != features).all(dim=2)
    widths = changed.sum(dim=1)
    assert widths.unique().tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert changed.int().diff(dim=1).abs().sum(dim=1).max() <= 2


@pytest.mark.parametrize("mask", [time_mask, frequency_mask])
def test_masks_are_filled_with_faint_noise_about_0(mask):
    features, n_frames = batch()
    masked = mask(features + 100, n_frames, 9, generator())
    filling = masked[masked < 50]
    assert filling.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert filling.std().item() == pytest.approx(0.01, rel=0.03)


def test_low_frequency_noise_touches_the_lowest_bands_only():
    features, n_frames = batch()
    added = low_frequency_noise(features, n_frames, 10, 0.06, generator()) - features
    assert added[:, :10].std().item() == pytest.approx(0.06, rel=0.02)
    assert added[:, 10:].abs().max() == 0


def test_no_augmentation_gives_the_same_features(settings):
    features, n_frames = batch()
    assert augmented(features, n_frames, KINDS, 0, settings, generator()) is features


def test_each_clip_gets_as_many_kinds_as_asked(settings):
    features, n_frames = batch(clips=200)
    out = augmented(features, n_frames, ["gaussian_noise", "low_frequency_noise"], 1, settings, generator())
    high_changed = (out[:, 10:] != features[:, 10:]).flatten(1).any(dim=1)
    low_changed = (out[:, :10] != features[:, :10]).flatten(1).all(dim=1)
    assert low_changed.all()  # both kinds touch the low bands, one of them nothing else
    assert 60 < high_changed.sum() < 140


def changed_bands(settings, count, clips=400):
    """How each clip was changed, as the standard deviations of the change in the low and in the high bands, (clips, 2)."""
    features, n_frames = batch(clips)
    kinds: list[AugmentationKind] = ["gaussian_noise", "low_frequency_noise"]
    change = augmented(features, n_frames, kinds, count, settings, generator(), clips_per_speaker=4) - features
    return torch.stack([change[:, :10].flatten(1).std(dim=1), change[:, 10:].flatten(1).std(dim=1)], dim=1)


def test_drawn_per_speaker_a_speakers_clips_get_the_same_kinds(settings):
    per_speaker = (changed_bands(settings.model_copy(update={"draw_per": "speaker"}), 1)[:, 1] > 0).reshape(-1, 4)
    assert (per_speaker == per_speaker[:, :1]).all() and 30 < per_speaker[:, 0].sum() < 70
    odd_one = draw_kinds(7, 3, 2, "speaker", generator(), clips_per_speaker=4)
    assert [turn.shape for turn in odd_one] == [(7, 3)] * 2 and all((turn[4:] == turn[4]).all() for turn in odd_one)
    per_clip = (changed_bands(settings, 1)[:, 1] > 0).reshape(-1, 4)
    assert (per_clip != per_clip[:, :1]).any(dim=1).sum() > 50


@pytest.mark.slow
def test_drawn_per_speaker_a_kind_may_come_again(settings):
    low, high = changed_bands(settings.model_copy(update={"draw_per": "speaker"}), 2).T
    twice_white, once_white, never_white = (high > 0.6), (high > 0.4) & (high < 0.6), high == 0
    assert (twice_white | once_white | never_white).all()
    for share, expected in ((twice_white, 1 / 4), (once_white, 1 / 2), (never_white, 1 / 4)):
        assert share.float().mean().item() == pytest.approx(expected, abs=0.12)
    torch.testing.assert_close(low, torch.full_like(low, 0.5 * 2**0.5), rtol=0.15, atol=0)  # two of 0.5 in every clip
    low, high = changed_bands(settings, 2).T
    assert ((high > 0.4) & (high < 0.6)).all()  # per clip, both of the two


def test_the_triplet_losss_clips_have_strengths_of_their_own(settings):
    low, high = changed_bands(settings.for_triplet(), 1).T
    torch.testing.assert_close(high[high > 0], torch.full_like(high[high > 0], 0.01), rtol=0.15, atol=0)
    torch.testing.assert_close(low, torch.where(high > 0, 0.01, 0.03), rtol=0.15, atol=0)


def test_augmentations_follow_the_seed(settings):
    features, n_frames = batch()
    once, again, other = (augmented(features, n_frames, KINDS, 4, settings, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_padding_stays_zero(settings):
    features, n_frames = batch()
    n_frames[::2] = 60
    features[::2, :, 60:] = 0
    out = augmented(features, n_frames, KINDS, 4, settings, generator())
    assert out[::2, :, 60:].abs().max() == 0


def power(features):
    """What Whisper's features are the logarithm of."""
    return 10 ** (4 * features.double() - 4)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_background_speech_is_another_clip_at_the_asked_level(snr_db):
    features, n_frames = batch(clips=2)
    features, n_frames = 0.2 * features.double(), torch.tensor([100, 60])
    features[1, :, 60:] = 0
    mixed = background_speech(features, n_frames, snr_db, snr_db, generator())
    added = power(mixed[0]) - power(features[0])
    assert added[:, 60:].abs().max() < 1e-12  # the other clip has ended
    other = power(features[1, :, :60])
    gain = added[:, :60] / other
    torch.testing.assert_close(gain, gain.mean().expand_as(gain), rtol=1e-2, atol=0)
    ratio = power(features[0]).mean() / (gain.mean() * other.mean())
    assert 10 * ratio.log10().item() == pytest.approx(snr_db, abs=0.05)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_recorded_noise_is_mixed_in_at_the_asked_level(snr_db):
    (features, n_frames), (noise, _) = batch(clips=3), batch(clips=3)
    features, noise = 0.2 * features.double(), 0.1 * noise.double().flip(2)
    added = power(recorded_noise(features, n_frames, noise, snr_db, snr_db, generator())) - power(features)
    gain = added / power(noise)
    torch.testing.assert_close(gain, gain.mean(dim=(1, 2), keepdim=True).expand_as(gain))
    ratio_db = 10 * (power(features).mean(dim=(1, 2)) / added.mean(dim=(1, 2))).log10()
    torch.testing.assert_close(ratio_db, torch.full_like(ratio_db, snr_db))


def test_each_clip_that_is_drawn_for_recorded_noise_gets_its_own(settings):
    (features, n_frames), (noise, _) = batch(clips=16), batch(clips=16)
    features, noise = 0.2 * features.double(), 0.1 * noise.double().flip(2)
    mixed = augmented(features, n_frames, ["recorded_noise", "channel"], 1, settings, generator(), noise)
    gain = (power(mixed) - power(features)) / power(noise)
    alike = (gain / gain.mean(dim=(1, 2), keepdim=True) - 1).abs().amax(dim=(1, 2)) < 1e-3
    in_every_frame_alike = (mixed - features).std(dim=2).amax(dim=1) < 1e-6  # a channel's
    assert 0 < alike.sum() < 16 and torch.equal(alike, ~in_every_frame_alike)


def test_a_batch_of_one_has_no_background():
    features, n_frames = batch(clips=1)
    assert background_speech(features, n_frames, 0, 0, generator()) is features


def test_coloured_noise_is_at_the_asked_level_and_steady():
    features, n_frames = batch(clips=16, frames=300)
    features = 0.2 * features.double()
    added = power(coloured_noise(features, n_frames, 6.0, 6.0, generator())) - power(features)
    ratio_db = 10 * (power(features).mean(dim=(1, 2)) / added.mean(dim=(1, 2))).log10()
    torch.testing.assert_close(ratio_db, torch.full_like(ratio_db, 6.0), atol=0.05, rtol=0)
    halves = added[:, :, :150].mean(dim=2).log10(), added[:, :, 150:].mean(dim=2).log10()
    torch.testing.assert_close(*halves, atol=0.15, rtol=0)
    assert halves[0].std(dim=1).mean() > 0.3  # in tens of dB, over the bands: it has a colour
    assert 10 * added.log10().std(dim=2).median().item() == pytest.approx(2, rel=0.05)  # dB, from frame to frame


def test_reverberation_adds_a_tail_of_the_asked_power_and_decay():
    features, n_frames = torch.full((4, 80, 200), -1.5), torch.full((4,), 200)
    features[:, :, 20] = 1.0
    wet = power(reverberation(features, n_frames, 0.5, 0.5, 6.0, 6.0, generator()))
    dry = power(features)
    assert (wet - dry)[:, :, :20].max() < 1e-6 * dry.max()  # nothing before the sound
    tail = (wet - dry)[:, 0, 21:81]
    assert 10 * (dry[0, 0, 20] / tail[0].sum()).log10().item() == pytest.approx(6.0, abs=0.1)
    assert 10 * (tail[0, 0] / tail[0, 25]).log10().item() == pytest.approx(30.0, abs=0.5)  # 60 dB in 50 frames
    highest = (wet - dry)[0, 79, 21:31]
    assert 10 * (highest[0] / highest[9]).log10().item() == pytest.approx(21.6, abs=0.5)  # in 25 frames


def test_the_longest_reverberation_ends_after_60_frames():
    features, n_frames = torch.full((1, 80, 200), -1.5), torch.full((1,), 200)
    features[:, :, 20] = 1.0
    wet = power(reverberation(features, n_frames, 1000.0, 1000.0, 0.0, 0.0, generator()))[0, 0]
    torch.testing.assert_close(wet[21:81] / wet[20], torch.full((60,), 1 / 60).double(), rtol=0.03, atol=0)
    assert wet[81:].max() < 1e-6 * wet[20]


def test_reverberation_of_silence_is_silence_where_whispers_features_end():
    features, n_frames = torch.full((2, 80, 90), -2.5), torch.full((2,), 90)
    assert (reverberation(features, n_frames, 0.5, 0.5, 6.0, 6.0, generator()) == -2.0).all()


def test_a_channel_is_the_same_in_every_frame_and_smooth_over_the_bands():
    features, n_frames = batch()
    response = channel(features, n_frames, 4.0, 6.0, generator()) - features
    torch.testing.assert_close(response, response[:, :, :1].expand_as(response), atol=1e-5, rtol=0)
    curve = response[:, :, 0]
    assert 0.02 < curve.std(dim=1).mean() < 0.2
    assert curve.diff(dim=1).abs().max() < 0.1
    assert not torch.allclose(curve[0], curve[1])


@pytest.mark.parametrize("kind", REAL_WORLD)
def test_the_sounds_of_the_real_world_leave_padding_alone_and_follow_the_seed(settings, kind):
    features, n_frames = batch()
    features = 0.2 * features
    n_frames[::2] = 60
    features[::2, :, 60:] = 0
    once, again, other = (augmented(features, n_frames, [kind], 1, settings, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert once.isfinite().all() and once[::2, :, 60:].abs().max() == 0
    longer = torch.nn.functional.pad(features, (0, 50))
    if kind != "coloured_noise":  # which draws a number for each frame
        torch.testing.assert_close(
            augmented(longer, n_frames, [kind], 1, settings, generator(1))[:, :, :100], once, atol=1e-3, rtol=0
        )


def vowels(seconds=2.0):
    """Half a second each of four vowels (two resonances over pulses of 120 Hz and some breath), (samples,) at 16 kHz."""
    n = round(seconds / 4 * 16_000)
    source = 0.01 * np.random.default_rng(0).normal(size=n)
    source[::133] += 1
    parts = []
    for formants_hz in [(700, 1200), (300, 2300), (400, 2000), (350, 900)]:
        sound = source
        for hz in formants_hz:
            pole = 0.97 * np.exp(2j * np.pi * hz / 16_000)
            sound = lfilter([1], [1, -2 * pole.real, abs(pole) ** 2], sound)
        parts.append(sound / np.abs(sound).max())
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_another_speed_is_what_the_recording_played_at_that_speed_gives(speed):
    samples = vowels()
    played = log_mel(resample(samples, round(16_000 * speed), 16_000))
    plain = log_mel(samples)
    changed = change_speed(plain, speed)
    assert changed.shape == (round(len(plain) / speed), 80) and changed.dtype == np.float32
    n, heard = min(len(changed), len(played)), slice(0, 74)  # over 7200 Hz the slower recording holds nothing
    close = np.abs(changed[:n, heard] - played[:n, heard]).mean()
    stretched_only = change_speed(plain, 1.0)[np.linspace(0, len(plain) - 1, n).round().astype(int)]
    assert close < 0.5 * np.abs(stretched_only[:, heard] - played[:n, heard]).mean()


@pytest.mark.parametrize("speed", [0.7, 0.9, 1.1, 2.0])
@pytest.mark.parametrize("frames", [1, 2, 150])
def test_another_speed_is_linear_interpolation_between_frames_and_bands(speed, frames):
    features = np.random.default_rng(frames).normal(size=(frames, 80)).astype(np.float16)
    n = max(1, round(frames / speed))
    places = np.meshgrid((np.arange(n) + 0.5) * frames / n - 0.5, bands_heard(80, speed), indexing="ij")
    expected = map_coordinates(features.astype(np.float32), places, order=1, mode="nearest")
    np.testing.assert_allclose(change_speed(features, speed), expected, atol=2e-6)


def test_the_same_speed_changes_nothing_and_a_frame_is_left_of_the_shortest():
    features = np.random.default_rng(0).normal(size=(7, 80)).astype(np.float16)
    np.testing.assert_array_equal(change_speed(features, 1.0), features.astype(np.float32))
    assert change_speed(features[:1], 2.0).shape == (1, 80)
