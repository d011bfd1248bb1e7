"""Whisper's log-mel features on a recording's own length, of one recording and of a corpus."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from speakerprint.audio.dimensions import HOP_LENGTH, N_FFT, N_MELS


@functools.cache
def _constants() -> tuple[torch.Tensor, torch.Tensor]:
    """The window, (N_FFT,), and the mel filters, (N_FFT / 2 + 1, mels)."""
    filters = WhisperFeatureExtractor(feature_size=N_MELS).mel_filters  # its other defaults are Whisper base's
    return torch.hann_window(N_FFT), torch.from_numpy(filters.astype(np.float32))


@torch.autocast("cpu", enabled=False)
def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel features of (n_samples,) float32 at 16 kHz: (frames, mels) float32, frames = ceil(n_samples / 160), mels = 80.

    Within 1e-6 of the frames of WhisperFeatureExtractor's output that its attention mask keeps when it pads the clip to 30 s,
    but of a clip of any length, at half the time. The silence after the clip stands in for that padding: without it the last
    frame would see the clip reflected, as Whisper's own does of a clip that leaves no padding, being 30 s long.
    """
    n_frames = -(-len(samples) // HOP_LENGTH)
    if not n_frames:
        return np.zeros((0, N_MELS), np.float32)
    window, mel_filters = _constants()
    margin = N_FFT // 2  # so that frames are centred; before the clip it is reflected
    padded = np.zeros(margin + len(samples) + N_FFT, np.float32)
    padded[margin : margin + len(samples)] = samples
    padded[:margin] = padded[2 * margin : margin : -1]
    n_sounding = (len(samples) + margin - 1) // HOP_LENGTH + 1  # that hear any of it: the loudest may come after the last kept
    frames = torch.from_numpy(padded).unfold(0, N_FFT, HOP_LENGTH)[:n_sounding]
    spectrum = torch.fft.rfft(frames * window).numpy()
    power = spectrum.real**2 + spectrum.imag**2  # half of torch's time
    mel = (torch.from_numpy(power) @ mel_filters).numpy()  # numpy's own threads would keep torch's from the encoder
    log = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(log[:n_frames], log.max() - 8.0) + 4.0) / 4.0


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
