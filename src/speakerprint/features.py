"""Whisper's log-mel features on a recording's own length, of one recording and of a corpus."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import WhisperFeatureExtractor

from speakerprint.audio import UndecodableAudio, decode, in_parallel, read_audio, refuse_too_many_bad, report_of
from speakerprint.params import Features
from speakerprint.recordings import write_recordings
from speakerprint.store import DTYPE, N_MELS, write_features


@functools.cache
def _extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=N_MELS)  # its defaults are Whisper base's


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel features of (n_samples,) float32 at 16 kHz: (frames, mels) float32, frames = ceil(n_samples / 160), mels = 80.

    Equal to the frames of WhisperFeatureExtractor's output that its attention mask keeps when it pads the clip to 30 s, but
    of a clip of any length. The silence appended here stands in for that padding: without it the last frame would see the
    clip reflected, as Whisper's own does of a clip that leaves no padding, being 30 s long.
    """
    extractor = _extractor()
    followed_by_silence = np.concatenate([samples, np.zeros(extractor.n_fft, np.float32)])
    features = extractor(
        followed_by_silence, sampling_rate=extractor.sampling_rate, padding="longest", truncation=False, return_tensors="np"
    )
    n_frames = -(-len(samples) // extractor.hop_length)
    return features.input_features[0].T[:n_frames]


def extract_corpus(audio_folder: str | Path, out_folder: str | Path, settings: Features) -> dict[str, Any]:
    """Write the log-mel features of a folder made by audio.resample_corpus as a store that FeatureStore opens; return a report.

    The store is ``out_folder/features.zarr`` (see store.write_features) and ``out_folder/recordings.parquet``, in one order.
    A recording that cannot be decoded or is digital silence is skipped and listed in the report. Raises InputError if more
    than ``settings.max_bad_fraction`` of the recordings are bad, or none is left.
    """
    recordings, flacs = read_audio(audio_folder)
    problems: dict[int, str] = {}

    def good() -> Iterator[np.ndarray]:
        results = in_parallel(_features_or_problem, flacs)
        for row, result in enumerate(tqdm(results, total=len(recordings), desc="features", unit="recording", disable=None)):
            if isinstance(result, str):
                problems[row] = result
            else:
                yield result

    extractor = _extractor()
    attributes = {"sample_rate_hz": extractor.sampling_rate, "hop_length": extractor.hop_length, "n_fft": extractor.n_fft}
    offsets = write_features(out_folder, good(), attributes)
    bad = [
        {"recording_id": recordings.at[row, "recording_id"], "location": recordings.at[row, "location"], "reason": reason}
        for row, reason in problems.items()
    ]
    refuse_too_many_bad(bad, len(recordings), "features", settings.max_bad_fraction)
    recordings = recordings.drop(index=list(problems))
    write_recordings(recordings, Path(out_folder) / "recordings.parquet")
    return report_of(recordings, bad) | {"frames": int(offsets[-1])}


def _features_or_problem(flac: bytes) -> np.ndarray | str:
    try:
        samples, _ = decode(flac, "the resampled recording")
    except UndecodableAudio as error:
        return error.reason
    if not samples.any():
        return "digital silence"
    return log_mel(samples).astype(DTYPE)
