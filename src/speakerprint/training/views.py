"""Augmentations on a batch of log-mel features, on whatever device the batch is.

Each takes features (batch, mels, frames), the valid frames of each clip (batch,) and a seeded generator, and returns new
features. `augment` draws, for each clip by itself, which of them it gets.

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

from speakerprint.params.augmentation import Augmentation, AugmentationKind

NEPERS = 4 * math.log(10)  # natural logarithm of the power in one unit of the features
UNITS_PER_DB = 0.025
SILENCE = -2.0  # 80 dB under a loud sound: where Whisper's features end
FRAMES_PER_SECOND = 100
REVERBERATION_FRAMES = 60
HIGHEST_HZ = 8000  # where Whisper's mel bands end; they begin at 0, on Slaney's scale


def _randn(features: Tensor, generator: Generator) -> Tensor:
    return torch.randn(features.shape, generator=generator, device=features.device)


def _span(size: Tensor | int, largest: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A random span inside [0, size) for each clip, at most `largest` long: its first index and its end, each (batch, 1, 1)."""
    draw = torch.rand(2, len(largest), generator=generator, device=largest.device)
    width = (draw[0] * (largest + 1)).floor()
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


def _mean_and_std(features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
    """Of each clip's valid values, each (batch, 1, 1)."""
    valid = _valid(features, n_frames)
    count = (n_frames * features.shape[1])[:, None, None]
    mean = (features * valid).sum(dim=(1, 2), keepdim=True) / count
    return mean, (((features - mean) * valid).square().sum(dim=(1, 2), keepdim=True) / count).sqrt()


def time_mask(features: Tensor, n_frames: Tensor, max_frames: int, generator: Generator) -> Tensor:
    """Fill a random span of at most `max_frames` frames, and at most half of the clip, with noise as loud as the clip.

    The noise is Gaussian with the mean and standard deviation of the clip's own features.
    """
    start, end = _span(n_frames, torch.clamp(n_frames // 2, max=max_frames), generator)
    frame = torch.arange(features.shape[2], device=features.device)[None, None, :]
    mean, std = _mean_and_std(features, n_frames)
    return torch.where((frame >= start) & (frame < end), mean + std * _randn(features, generator), features)


def frequency_mask(features: Tensor, n_frames: Tensor, max_bands: int, generator: Generator) -> Tensor:
    """Set a random span of at most `max_bands` neighbouring mel bands to the clip's mean."""
    start, end = _span(features.shape[1], torch.full_like(n_frames, max_bands), generator)
    band = torch.arange(features.shape[1], device=features.device)[None, :, None]
    return torch.where((band >= start) & (band < end), _mean_and_std(features, n_frames)[0], features)


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


def band_limit(features: Tensor, n_frames: Tensor, highest_low_band: int, lowest_high_band: int, generator: Generator) -> Tensor:
    """A telephone or a codec: bands under a random one, and over another, fall to the quietest value of the clip.

    The first band kept is drawn from 0 to highest_low_band, the last from lowest_high_band to the top.
    """
    low = _uniform(0, highest_low_band + 1, features, generator).floor()
    high = _uniform(lowest_high_band, features.shape[1], features, generator).floor()
    band = torch.arange(features.shape[1], device=features.device)[None, :, None]
    quietest = features.masked_fill(~_valid(features, n_frames), torch.inf).amin(dim=(1, 2), keepdim=True)
    return torch.where((band < low) | (band > high), quietest, features)


def codec(
    features: Tensor, n_frames: Tensor, min_depth_db: float, max_depth_db: float, std_db: float, generator: Generator
) -> Tensor:
    """A lossy codec at a low bit rate: what lies far under the loudest band of its frame becomes noise, the rest is inexact.

    depth: how far under, in dB, drawn for each clip. std_db: deviation of the error of what is kept.
    """
    depth = UNITS_PER_DB * _uniform(min_depth_db, max_depth_db, features, generator)
    return features.maximum(features.amax(dim=1, keepdim=True) - depth) + UNITS_PER_DB * std_db * _randn(features, generator)


def vocal_tract_warp(features: Tensor, n_frames: Tensor, max_warp: float, generator: Generator) -> Tensor:
    """A vocal tract that is shorter or longer by a fraction of at most `max_warp`: frequencies are multiplied by 1 ± that.

    Jaitly, Hinton: "Vocal Tract Length Perturbation (VTLP) Improves Speech Recognition", 2013, section 3, here by interpolation
    between mel bands; bands whose sound would come from beyond the last one repeat that one.
    """
    mels = features.shape[1]
    centre_hz = torch.tensor(_band_centres_hz(mels), dtype=torch.float32, device=features.device)
    wanted_hz = (centre_hz / _uniform(1 - max_warp, 1 + max_warp, features, generator)[:, 0]).clamp(max=centre_hz[-1])
    above = torch.searchsorted(centre_hz, wanted_hz).clamp(1, mels - 1)  # (batch, mels), as the next two
    share = (wanted_hz - centre_hz[above - 1]) / (centre_hz[above] - centre_hz[above - 1])
    upper, lower = (features.gather(1, band[:, :, None].expand_as(features)) for band in (above, above - 1))
    return lower.lerp(upper, share.clamp(min=0)[:, :, None])


def augment(
    features: Tensor,
    n_frames: Tensor,
    kinds: Sequence[AugmentationKind],
    count: int,
    settings: Augmentation,
    generator: Generator,
    noise: Tensor | None = None,
    chooser: Generator | None = None,
) -> Tensor:
    """Apply `count` different augmentations, drawn from `kinds` for each clip by itself, with the settings of params.yaml.

    features: (batch, mels, frames). n_frames: (batch,) valid frames. Frames beyond them stay 0. noise: what `recorded_noise`
    mixes in, of the features' shape. chooser: draws which clips get which kind, where not `generator` does; one of the CPU spares
    waiting for an accelerator. Returns the features' shape.
    """
    if count == 0:
        return features
    chooser = chooser or generator
    draw = torch.rand(len(features), len(kinds), generator=chooser, device=chooser.device)
    gets = draw.argsort(dim=1).argsort(dim=1) < count  # (batch, kinds), `count` of them true in each row
    augmented = features.clone()
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
def _bands_heard(mels: int, speed: float) -> NDArray:
    """Where among the bands of a recording the sound lies that each band hears when it is played at that speed, (mels,)."""
    centre_hz = _band_centres_hz(mels)
    return np.interp(centre_hz / speed, centre_hz, np.arange(mels))


def _rows_at(x: NDArray[np.float32], places: NDArray) -> NDArray[np.float32]:
    """Rows of x, (rows, width), at fractional places (n,), interpolated linearly; beyond an end, its last row: (n, width)."""
    places = places.clip(0, len(x) - 1)
    before = places.astype(np.int64)
    after, share = np.minimum(before + 1, len(x) - 1), (places - before).astype(np.float32)[:, None]
    return x[before] * (1 - share) + x[after] * share


def change_speed(features: NDArray, speed: float) -> NDArray[np.float32]:
    """The features of a recording played `speed` times as fast: shorter, and every frequency that much higher.

    Ko, Peddinti, Povey, Khudanpur: "Audio Augmentation for Speech Recognition", 2015, section 2.1, here by interpolation between
    frames and between mel bands; bands whose sound would come from beyond the last one repeat that one.

    features: (frames, mels). speed: above 0. Returns (round(frames / speed), mels), at least one frame.
    """
    frames, mels = features.shape
    n = max(1, round(frames / speed))
    slower = _rows_at(features.astype(np.float32), (np.arange(n) + 0.5) * frames / n - 0.5)
    return np.ascontiguousarray(_rows_at(slower.T, _bands_heard(mels, speed)).T)


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
    "band_limit": band_limit,
    "codec": codec,
    "vocal_tract_warp": vocal_tract_warp,
}
