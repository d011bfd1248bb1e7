"""Whisper's log-mel features on a recording's own length, of one recording and of a corpus."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from speakerprint.audio.dimensions import HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE_HZ

FRAMES_AT_ONCE = 128  # whose spectra stay in a processor's cache
LINEAR_UNTIL_HZ, HZ_PER_MEL, LOG_STEP = 1000.0, 200.0 / 3, math.log(6.4) / 27  # of Slaney's mel scale


@functools.cache
def _constants() -> tuple[np.ndarray, np.ndarray]:
    """The window, (N_FFT,) float64, and the mel filters, (N_FFT / 2 + 1, mels) float32."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT), mel_filters().astype(np.float32)


def mel_filters() -> np.ndarray:
    """Whisper's 80 triangles from 0 to 8000 Hz, (N_FFT / 2 + 1, mels): Slaney's mel scale, each of area 1.

    Slaney: "Auditory Toolbox", 1998. Below 1000 Hz the scale is linear, above it is logarithmic.
    """
    linear = LINEAR_UNTIL_HZ / HZ_PER_MEL  # mels
    highest = linear + math.log(SAMPLE_RATE_HZ / 2 / LINEAR_UNTIL_HZ) / LOG_STEP
    mels = np.linspace(0, highest, N_MELS + 2)
    edges_hz = np.where(mels < linear, mels * HZ_PER_MEL, LINEAR_UNTIL_HZ * np.exp((mels - linear) * LOG_STEP))
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, N_FFT // 2 + 1)[:, None]
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    triangles = np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre))
    return np.maximum(triangles, 0) * (2 / (high - low))


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel features of (n_samples,) float32 at 16 kHz: (frames, mels) float32, frames = ceil(n_samples / 160), mels = 80.

    Within 1e-6 of the frames of WhisperFeatureExtractor's output (computed by numpy; its torch path is a float32 one, 3e-5 away)
    that its attention mask keeps when it pads the clip to 30 s, but of a clip of any length, at half the time.
    The silence after the clip stands in for that padding: without it the last frame would see the clip reflected, as Whisper's
    own does of a clip that leaves no padding, being 30 s long.
    """
    n_frames = -(-len(samples) // HOP_LENGTH)
    if not n_frames:
        return np.zeros((0, N_MELS), np.float32)
    window, filters = _constants()
    margin = N_FFT // 2  # so that frames are centred; before the clip it is reflected
    padded = np.zeros(margin + len(samples) + N_FFT, np.float32)
    padded[margin : margin + len(samples)] = samples
    padded[:margin] = padded[2 * margin : margin : -1]
    n_sounding = (len(samples) + margin - 1) // HOP_LENGTH + 1  # that hear any of it: the loudest may come after the last kept
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH][:n_sounding]
    mel = np.empty((n_sounding, N_MELS), np.float32)
    for start in range(0, n_sounding, FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        spectrum = np.fft.rfft(frames[part] * window)
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        np.matmul(power.astype(np.float32), filters, out=mel[part])
    log = np.log10(np.maximum(mel, 1e-10, out=mel), out=mel)
    lowest = log.max() - 8.0
    return (np.maximum(log[:n_frames], lowest) + 4.0) / 4.0


def pad_batch(features: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack features, each (frames, mels), in Whisper's own form, padded with zeros to the longest.

    Returns ``input_features`` (batch, mels, frames) float32 and ``attention_mask`` (batch, frames) int64, 1 where a frame exists.
    """
    n_frames = np.array([len(one) for one in features])
    mask = (np.arange(n_frames.max()) < n_frames[:, None]).astype(np.int64)
    batch = np.zeros((len(features), features[0].shape[1], n_frames.max()), np.float32)
    for row, one in zip(batch, features, strict=True):
        row[:, : len(one)] = one.T
    return batch, mask


def windows(clip: np.ndarray, n_frames: int) -> list[np.ndarray]:
    """The fewest windows of `n_frames` frames that cover a clip, (frames, 80), spread evenly; a short clip is its own window."""
    count = -(-len(clip) // n_frames)
    if count <= 1:
        return [clip]
    starts = np.linspace(0, len(clip) - n_frames, count).round().astype(int)
    return [clip[start : start + n_frames] for start in starts]
