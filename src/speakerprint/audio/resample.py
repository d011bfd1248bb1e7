"""Another sample rate for one recording, and its 16-bit file."""

import io
from typing import Literal

import numpy as np
import soundfile
import soxr

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ

FLAC_LEVEL = 0.0  # of 0-1; the quickest to write and to read, for 5-7 % more bytes than the default


def resample(samples: np.ndarray, from_hz: int, to_hz: int, engine: Literal["soxr", "resampy"] = "soxr") -> np.ndarray:
    """Resample (n_samples,) to about n_samples · to_hz / from_hz samples, float32, with soxr's HQ or resampy's kaiser_best."""
    if from_hz == to_hz:
        return samples
    if engine == "soxr":
        return soxr.resample(samples, from_hz, to_hz, quality="HQ")
    from resampy import resample as resample_with_resampy  # slow to import, for numba

    return resample_with_resampy(samples, from_hz, to_hz, filter="kaiser_best")


def encode(samples: np.ndarray, encoding: Literal["flac", "wav"]) -> bytes:
    """(n_samples,) at 16 kHz, clipped to [-1, 1], as a 16-bit file; FLAC and WAV decode to the same samples."""
    scaled = np.rint(samples * 2**15)
    pcm = np.clip(scaled, -(2**15), 2**15 - 1, out=scaled).astype(np.int16)
    stream = io.BytesIO()
    level = FLAC_LEVEL if encoding == "flac" else None
    soundfile.write(stream, pcm, SAMPLE_RATE_HZ, format=encoding.upper(), subtype="PCM_16", compression_level=level)
    return stream.getvalue()
