"""Augmentations on a batch of log-mel features, on whatever device the batch is.

Each takes features (batch, mels, frames), the valid frames of each clip (batch,) and a seeded generator, and returns new
features. `draw_kinds` draws which clips get which of them, `augment` applies them.

Whisper's features are (log10(power) + 4) / 4: sounds add as ``logaddexp(NEPERS * a, NEPERS * b) / NEPERS``, 10 dB are 0.25, and
what a microphone or a line does to the spectrum is a sum.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.params.augmentation import Augmentation, AugmentationKind

NEPERS = 4 * math.log(10)  # natural logarithm of the power in one unit of the features
UNITS_PER_DB = 0.025
SILENCE = -2.0  # 80 dB under a loud sound: where Whisper's features end
REVERBERATION_FRAMES = 60
NARROWEST_MASK = 2  # frames or mel bands
MASK_STD = 0.01  # of the noise in masks, whose mean is 0: the middle of the features' range
HIGHEST_HZ = 8000  # where Whisper's mel bands end; they begin at 0, on Slaney's scale


def _randn(features: Tensor, generator: Generator) -> Tensor:
    return torch.randn(features.shape, generator=generator, device=features.device)


def _span(size: Tensor | int, largest: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A random span inside [0, size) for each clip: its first index and its end, each (batch, 1, 1).

    It is NARROWEST_MASK to `largest` long, (batch,), or `largest` where that is less.
    """
    draw = torch.rand(2, len(largest), generator=generator, device=largest.device)
    narrowest = largest.clamp(max=NARROWEST_MASK)
    width = narrowest + (draw[0] * (largest - narrowest + 1)).floor()
    start = (draw[1] * (size - width + 1)).floor()
    return start[:, None, None], (start + width)[:, None, None]


def _uniform(low: float, high: float, like: Tensor, generator: Generator) -> Tensor:
    """A number of [low, high) for each clip, (batch, 1, 1)."""
    return low + (high - low) * torch.rand(len(like), 1, 1, generator=generator, device=like.device)


def _curve(features: Tensor, generator: Generator) -> Tensor:
    """A smooth random curve over the mel bands of each clip, (batch, mels, 1), of standard deviation about 1."""
    weights = torch.randn(len(features), 4, generator=generator, device=features.device)
    band = torch.linspace(0, math.pi, features.shape[1], device=features.device)
    order = torch.arange(1, 5, device=features.device)
    return (weights / order.sqrt() @ torch.cos(order[:, None] * band))[:, :, None]


def _valid(features: Tensor, n_frames: Tensor) -> Tensor:
    """Which frames exist, (batch, 1, frames)."""
    return (torch.arange(features.shape[2], device=features.device) < n_frames[:, None])[:, None, :]


def _level(features: Tensor, valid: Tensor) -> Tensor:
    """The mean power of each clip's valid frames in the features' own unit, (batch, 1, 1)."""
    power = (NEPERS * features).masked_fill(~valid, -torch.inf).flatten(1).logsumexp(dim=1)
    return ((power - (valid.sum(dim=(1, 2)) * features.shape[1]).log()) / NEPERS)[:, None, None]


def _mix(features: Tensor, noise: Tensor, n_frames: Tensor, noise_frames: Tensor, snr_db: Tensor) -> Tensor:
    """Add the power of the noise to that of the clips, at a signal-to-noise ratio over each whole clip, (batch, 1, 1)."""
    heard = _valid(noise, noise_frames)
    gain = _level(features, _valid(features, n_frames)) - _level(noise, heard) - UNITS_PER_DB * snr_db
    noise = (noise + gain).masked_fill(~heard, -torch.inf)
    return torch.logaddexp(NEPERS * features, NEPERS * noise) / NEPERS


def gaussian_noise(features: Tensor, n_frames: Tensor, std: float, generator: Generator) -> Tensor:
    """Add Gaussian noise of standard deviation `std` to every value."""
    return features + std * _randn(features, generator)


def time_mask(features: Tensor, n_frames: Tensor, max_frames: int, generator: Generator) -> Tensor:
    """Replace a random span of at most `max_frames` frames, and at most half of the clip, by faint noise."""
    start, end = _span(n_frames, torch.clamp(n_frames // 2, max=max_frames), generator)
    frame = torch.arange(features.shape[2], device=features.device)[None, None, :]
    return torch.where((frame >= start) & (frame < end), MASK_STD * _randn(features, generator), features)


def frequency_mask(features: Tensor, n_frames: Tensor, max_bands: int, generator: Generator) -> Tensor:
    """Replace a random span of at most `max_bands` neighbouring mel bands by faint noise."""
    start, end = _span(features.shape[1], torch.full_like(n_frames, max_bands), generator)
    band = torch.arange(features.shape[1], device=features.device)[None, :, None]
    return torch.where((band >= start) & (band < end), MASK_STD * _randn(features, generator), features)


def low_frequency_noise(features: Tensor, n_frames: Tensor, bands: int, std: float, generator: Generator) -> Tensor:
    """Add Gaussian noise of standard deviation `std` to the lowest `bands` mel bands, as wind and handling do."""
    noise = std * _randn(features, generator)
    noise[:, bands:] = 0
    return features + noise


def recorded_noise(
    features: Tensor, n_frames: Tensor, noise: Tensor, min_snr_db: float, max_snr_db: float, generator: Generator
) -> Tensor:
    """Mix in recorded noise, in the mel-power domain. noise: (batch, mels, frames), as long as the features."""
    return _mix(features, noise, n_frames, n_frames, _uniform(min_snr_db, max_snr_db, features, generator))


def background_speech(features: Tensor, n_frames: Tensor, min_snr_db: float, max_snr_db: float, generator: Generator) -> Tensor:
    """Mix in another clip of the batch, in the mel-power domain."""
    n = len(features)
    if n < 2:
        return features
    step = torch.randint(1, n, (1,), generator=generator, device=features.device)
    other = (torch.arange(n, device=features.device) + step) % n
    snr_db = _uniform(min_snr_db, max_snr_db, features, generator)
    return _mix(features, features[other], n_frames, n_frames[other], snr_db)


def coloured_noise(features: Tensor, n_frames: Tensor, min_snr_db: float, max_snr_db: float, generator: Generator) -> Tensor:
    """Mix in steady noise of a random smooth spectrum (10 dB standard deviation), whose frames fluctuate as those of noise do."""
    flutter = 2 * UNITS_PER_DB * _randn(features, generator)
    noise = 10 * UNITS_PER_DB * _curve(features, generator) + flutter
    return _mix(features, noise, n_frames, n_frames, _uniform(min_snr_db, max_snr_db, features, generator))


def reverberation(
    features: Tensor,
    n_frames: Tensor,
    min_decay_s: float,
    max_decay_s: float,
    min_direct_db: float,
    max_direct_db: float,
    generator: Generator,
) -> Tensor:
    """Add to each frame an exponentially decaying tail of those before it, in the mel-power domain.

    decay: seconds until the tail has fallen by 60 dB, drawn for each clip; half as long in the highest band. direct: power of the
    direct sound over that of the whole tail, in dB.
    """
    frames = features.shape[2]
    band = torch.linspace(1.0, 0.5, features.shape[1], device=features.device)[None, :, None]
    decay_s = _uniform(min_decay_s, max_decay_s, features, generator) * band
    age = torch.arange(1, REVERBERATION_FRAMES + 1, device=features.device)
    tail = torch.exp(-math.log(1e6) * age / (decay_s * FRAMES_PER_SECOND))
    direct_db = _uniform(min_direct_db, max_direct_db, features, generator)
    tail = tail / tail.sum(dim=2, keepdim=True) * 10 ** (-direct_db / 10)
    kernel = torch.cat([torch.ones_like(tail[:, :, :1]), tail], dim=2)
    power = torch.exp(NEPERS * features) * _valid(features, n_frames)
    size = frames + REVERBERATION_FRAMES
    wet = torch.fft.irfft(torch.fft.rfft(power, size) * torch.fft.rfft(kernel, size), size)[:, :, :frames]
    floor = power.clamp(min=math.exp(NEPERS * SILENCE))  # below it is the rounding of the transform
    return wet.maximum(floor).log() / NEPERS


def channel(features: Tensor, n_frames: Tensor, std_db: float, gain_db: float, generator: Generator) -> Tensor:
    """Another microphone: a smooth random frequency response of this standard deviation, and a random gain of +- gain_db."""
    gain = _uniform(-gain_db, gain_db, features, generator)
    return features + UNITS_PER_DB * (std_db * _curve(features, generator) + gain)


def draw_kinds(clips: int, kinds: int, count: int, draw_per: str, generator: Generator, clips_per_speaker: int) -> list[Tensor]:
    """Which of so many clips get which of so many kinds, turn by turn: tables (clips, kinds) of bool, for `augment`.

    Per clip there is one turn, of `count` kinds for each clip, applied in the order in which they are listed. Per speaker, whose
    clips stand side by side, there are `count` turns, of one kind for each speaker; a kind may come again.
    """
    if count == 0:
        return []
    if draw_per == "clip":
        draw = torch.rand(clips, kinds, generator=generator, device=generator.device)
        return [draw.argsort(dim=1).argsort(dim=1) < count]
    drawn = torch.randint(kinds, (count, -(-clips // clips_per_speaker)), generator=generator, device=generator.device)
    own = drawn.repeat_interleave(clips_per_speaker, dim=1)[:, :clips]
    return list(own[:, :, None] == torch.arange(kinds, device=generator.device))


def augment(
    features: Tensor,
    n_frames: Tensor,
    kinds: Sequence[AugmentationKind],
    turns: Sequence[Tensor],
    settings: Augmentation,
    generator: Generator,
    noise: Tensor | None = None,
) -> Tensor:
    """Apply to each clip the kinds that `turns`, of draw_kinds, say it gets, with the settings of params.yaml.

    features: (batch, mels, frames). n_frames: (batch,) valid frames. Frames beyond them stay 0. noise: what `recorded_noise`
    mixes in, of the features' shape. Returns the features' shape; the features themselves if there is no turn.
    """
    if not turns:
        return features
    augmented = features.clone()
    for gets in turns:
        for column, kind in enumerate(kinds):
            chosen = gets[:, column].nonzero()[:, 0]
            if len(chosen):
                chosen = chosen.to(features.device, non_blocking=True)
                change, values = AUGMENTATIONS[kind], getattr(settings, kind).model_dump()
                if kind == "recorded_noise":
                    assert noise is not None, "recorded_noise was asked for without noise"
                    values["noise"] = noise[chosen]
                augmented[chosen] = change(augmented[chosen], n_frames[chosen], **values, generator=generator)
    return augmented * _valid(features, n_frames)


@functools.cache
def _band_centres_hz(mels: int) -> NDArray:
    """The middle of each of Whisper's mel bands, (mels,)."""
    return np.asarray(mel_to_hertz(np.linspace(0, hertz_to_mel(HIGHEST_HZ, "slaney"), mels + 2)[1:-1], "slaney"))


@functools.cache
def bands_heard(mels: int, speed: float) -> NDArray:
    """Where among the bands of a recording the sound lies that each band hears when it is played at that speed, (mels,)."""
    centre_hz = _band_centres_hz(mels)
    return np.interp(centre_hz / speed, centre_hz, np.arange(mels))


def frames_heard(frame: NDArray, frames: int | NDArray, n: int | NDArray) -> NDArray:
    """Where among the frames of a recording each of the `n` frames lies that it has when it is played at another speed."""
    return (frame + 0.5) * frames / n - 0.5


def neighbours(places: NDArray, rows: int | NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Between which of so many rows fractional places lie, and how much of the second of them counts; beyond an end, its row."""
    last = np.asarray(rows) - 1
    places = places.clip(0, last)
    before = places.astype(np.int64)
    return before, np.minimum(before + 1, last), (places - before).astype(np.float32)


def _rows_at(x: NDArray[np.float32], places: NDArray) -> NDArray[np.float32]:
    """Rows of x, (rows, width), at fractional places (n,), interpolated linearly: (n, width)."""
    before, after, share = neighbours(places, len(x))
    return x[before] * (1 - share[:, None]) + x[after] * share[:, None]


def change_speed(features: NDArray, speed: float) -> NDArray[np.float32]:
    """The features of a recording played `speed` times as fast: shorter, and every frequency that much higher.

    Ko, Peddinti, Povey, Khudanpur: "Audio Augmentation for Speech Recognition", 2015, section 2.1, here by interpolation between
    frames and between mel bands; bands whose sound would come from beyond the last one repeat that one.

    features: (frames, mels). speed: above 0. Returns (round(frames / speed), mels), at least one frame.
    """
    frames, mels = features.shape
    n = max(1, round(frames / speed))
    slower = _rows_at(features.astype(np.float32), frames_heard(np.arange(n), frames, n))
    return np.ascontiguousarray(_rows_at(slower.T, bands_heard(mels, speed)).T)


AUGMENTATIONS: dict[AugmentationKind, Callable[..., Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "time_mask": time_mask,
    "frequency_mask": frequency_mask,
    "low_frequency_noise": low_frequency_noise,
    "recorded_noise": recorded_noise,
    "background_speech": background_speech,
    "coloured_noise": coloured_noise,
    "reverberation": reverberation,
    "channel": channel,
}
