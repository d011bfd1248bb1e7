"""Augmentations on a batch of log-mel features, on whatever device the batch is.

Each takes features (batch, mels, frames), the valid frames of each clip (batch,) and a seeded generator, and returns new
features. `augment` draws, for each clip by itself, which of them it gets.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from speakerprint.params import Augmentation, AugmentationKind


def _randn(features: Tensor, generator: Generator) -> Tensor:
    return torch.randn(features.shape, generator=generator, device=features.device)


def _span(size: Tensor | int, largest: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A random span inside [0, size) for each clip, at most `largest` long: its first index and its end, each (batch, 1, 1)."""
    draw = torch.rand(2, len(largest), generator=generator, device=largest.device)
    width = (draw[0] * (largest + 1)).floor()
    start = (draw[1] * (size - width + 1)).floor()
    return start[:, None, None], (start + width)[:, None, None]


def gaussian_noise(features: Tensor, n_frames: Tensor, std: float, generator: Generator) -> Tensor:
    """Add Gaussian noise of standard deviation `std` to every value."""
    return features + std * _randn(features, generator)


def _mean_and_std(features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
    """Of each clip's valid values, each (batch, 1, 1)."""
    valid = (torch.arange(features.shape[2], device=features.device) < n_frames[:, None])[:, None, :]
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


def augment(
    features: Tensor,
    n_frames: Tensor,
    kinds: Sequence[AugmentationKind],
    count: int,
    settings: Augmentation,
    generator: Generator,
) -> Tensor:
    """Apply `count` different augmentations, drawn from `kinds` for each clip by itself, with the settings of params.yaml.

    features: (batch, mels, frames). n_frames: (batch,) valid frames. Frames beyond them stay 0. Returns the shape it was given.
    """
    if count == 0:
        return features
    draw = torch.rand(len(features), len(kinds), generator=generator, device=features.device)
    gets = draw.argsort(dim=1).argsort(dim=1) < count  # (batch, kinds), `count` of them true in each row
    apply = {
        "gaussian_noise": lambda x: gaussian_noise(x, n_frames, settings.gaussian_noise.std, generator),
        "time_mask": lambda x: time_mask(x, n_frames, settings.time_mask.max_frames, generator),
        "frequency_mask": lambda x: frequency_mask(x, n_frames, settings.frequency_mask.max_bands, generator),
        "low_frequency_noise": lambda x: low_frequency_noise(
            x, n_frames, settings.low_frequency_noise.bands, settings.low_frequency_noise.std, generator
        ),
    }
    augmented = features
    for column, kind in enumerate(kinds):
        augmented = torch.where(gets[:, column, None, None], apply[kind](augmented), augmented)
    valid = torch.arange(features.shape[2], device=features.device)[None, :] < n_frames[:, None]
    return augmented * valid[:, None, :]
