"""Recordings whose speaker can be told by pitch, and an embedder that does: what tests of pages build on."""

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import soundfile

from speakerprint.audio.decode import decode
from speakerprint.corpora.features import extract_corpus
from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.resampling import resample_corpus
from speakerprint.inference.embedder import SpeakerEmbedder
from speakerprint.params.resample import Resample


class ToneEmbedder(Any):
    """The embedding of a tone is a point on a circle, a radian for each kilohertz."""

    model_id = "0123456789abcdef"
    embedding_dim = 2
    threshold = SpeakerEmbedder.threshold

    def __init__(self):
        self.thresholds = {0.01: float(np.cos(0.1)), 0.001: float(np.cos(0.05))}  # 100 and 50 Hz apart
        self.model = self

    def embed(self, samples, sample_rate_hz):
        loudest_hz = np.abs(np.fft.rfft(samples)).argmax() * sample_rate_hz / len(samples)
        return np.array([np.cos(loudest_hz / 1000), np.sin(loudest_hz / 1000)], dtype=np.float32)

    def embed_with_doubts(self, samples, sample_rate_hz, name):
        doubts = ("it is clipped",) if samples.max() > 0.4 else ()
        return self.embed(samples, sample_rate_hz), doubts

    def embed_files(self, paths, on_doubt=None):
        return np.stack([self.embed(*decode(Path(path).read_bytes(), str(path))) for path in paths])

    def embed_frames(self, clips):
        angles = np.array([clip.mean(axis=0).argmax() / 80 for clip in clips])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def tone(hz: float, seconds: float = 1.0, sample_rate_hz: int = 16_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz)).astype(np.float32)


def write_tones(root: Path, pitches_hz: dict[str, float]) -> Path:
    """A WAV file for each name."""
    for name, hz in pitches_hz.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, tone(hz), 16_000)
    return root


SPEAKERS: dict[str, float] = {
    **{f"ann/{i}.wav": 300 + i for i in range(3)},
    **{f"bob/{i}.wav": 600 + i for i in range(3)},
    **{f"cyd/{i}.wav": 900 + 20 * i for i in range(3)},
}


def write_project(root: Path, corpus: str) -> None:
    """What `dvc repro` leaves of an evaluation corpus, of the recordings of SPEAKERS."""
    write_tones(root / "clips", SPEAKERS)
    rows = [{"recording_id": name[:-4], "speaker_id": name[:3], "location": str(root / "clips" / name)} for name in SPEAKERS]
    selection = as_recordings(pd.DataFrame(rows), "test")
    audio, features = root / "data/audio" / corpus, root / "data/features/evaluate" / corpus
    with joblib.parallel_config("threading"):  # processes take seconds to start
        resample_corpus(selection, audio, Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.0))
        extract_corpus(audio, features)
