"""The public way to use a trained model: waveforms and files in, embeddings out."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from speakerprint.audio import SAMPLE_RATE_HZ, decode, resample
from speakerprint.errors import InputError
from speakerprint.features import log_mel
from speakerprint.model import SpeakerModel

if TYPE_CHECKING:
    from speakerprint.calibration import Calibration

MIN_DURATION_S = 0.1
BATCH = 16
SHIPPED = Path(__file__).resolve().parents[2] / "models/pretrained/speakerprint-base"  # in the repository, beside src/


class Verification(NamedTuple):
    """Whether two recordings are of one speaker: the cosine of their embeddings against a threshold.

    ``false_accept_rate`` is the fraction of pairs of different speakers that reached the threshold where it was chosen (the
    model's card says on which recordings); other microphones, languages or noise move it. ``log_likelihood_ratio`` (natural
    logarithm) is what the score is worth, where a calibration says so.
    """

    score: float
    same_speaker: bool
    threshold: float
    false_accept_rate: float
    log_likelihood_ratio: float | None = None


class SpeakerEmbedder:
    """Speaker embeddings from a trained model.

    >>> embedder = SpeakerEmbedder.load()
    >>> same = embedder.embed(first, 48_000) @ embedder.embed(second, 16_000)  # cosine similarity, -1 to 1
    >>> embedder.verify("monday.wav", "tuesday.mp3").same_speaker
    """

    def __init__(self, model: SpeakerModel, thresholds: dict[float, float] | None = None):
        """thresholds: the score to reach for each false-accept rate, where the model has been given some."""
        self.model = model.eval()
        self.thresholds = thresholds or {}

    @cached_property
    def model_id(self) -> str:
        """Digest of what decides an embedding, settings and weights: 16 hex digits. Embeddings of two ids are never compared."""
        digest = hashlib.sha256(json.dumps(self.model.settings.model_dump(), sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str | torch.device = "cpu") -> "SpeakerEmbedder":
        """Load a model folder as `train` writes it, or without one the model that the repository ships.

        Raises InputError if there is none.
        """
        if folder is None and not SHIPPED.is_dir():
            raise InputError(f"the shipped model is in the repository, and {SHIPPED} is not there; name the folder of a model")
        folder = SHIPPED if folder is None else Path(folder)
        model = SpeakerModel.load(folder).to(device)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(model, {float(rate): score for rate, score in config.get("thresholds", {}).items()})

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.model.settings.embedding_dim

    def embed(self, waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        """Embed one recording.

        waveform: (samples,) or (samples, channels), averaged to mono; floating point in -1 to 1, or integers of any width.
        Returns (embedding_dim,) float32 of unit length.
        Raises InputError for a recording under 0.1 s, values that are not finite, another shape, or a rate that is not positive.
        """
        return self.model.embed_frames([log_mel(self._prepare(waveform, sample_rate_hz, "waveform"))])[0]

    def embed_files(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Embed audio files of any format that libsndfile or PyAV reads, in batches of similar length.

        Returns (len(paths), embedding_dim) float32, in the order of the paths.
        Raises InputError naming the file that is missing, cannot be decoded, or is too short.
        """
        frames = []
        for path in tqdm(paths, desc="decode", unit="file", disable=None):
            try:
                samples, sample_rate_hz = decode(Path(path).read_bytes(), str(path))
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); check the name and its permissions") from None
            frames.append(log_mel(self._prepare(samples, sample_rate_hz, str(path))))
        embeddings = np.empty((len(frames), self.embedding_dim), dtype=np.float32)
        by_length = np.argsort([len(clip) for clip in frames], kind="stable")
        for start in tqdm(range(0, len(frames), BATCH), desc="embed", unit="batch", disable=None):
            chosen = by_length[start : start + BATCH]
            embeddings[chosen] = self.model.embed_frames([frames[index] for index in chosen])
        return embeddings

    def verify(
        self, first: str | Path, second: str | Path, false_accept_rate: float = 0.01, calibration: "Calibration | None" = None
    ) -> Verification:
        """Tell whether two files are of one speaker, at one of the false-accept rates of the model or of its calibration.

        Raises InputError for files that `embed_files` refuses, a rate without a threshold, and another model's calibration.
        """
        if calibration is not None:
            calibration.refuse_other_model(self.model_id)
            threshold = calibration.threshold(false_accept_rate)
        elif false_accept_rate in self.thresholds:
            threshold = self.thresholds[false_accept_rate]
        else:
            known = ", ".join(map(str, self.thresholds)) or "none; `experiments/publish_model.py` gives it some"
            raise InputError(f"the model has no threshold for a false-accept rate of {false_accept_rate}; it has: {known}")
        one, other = self.embed_files([first, second])
        score = float(one @ other)
        llr = None if calibration is None else float(calibration.llr(score))
        return Verification(score, score >= threshold, threshold, false_accept_rate, llr)

    @staticmethod
    def _prepare(waveform: np.ndarray, sample_rate_hz: int, name: str) -> np.ndarray:
        samples = np.asarray(waveform)
        if samples.ndim not in (1, 2):
            raise InputError(f"{name}: has shape {samples.shape}, expected (samples,) or (samples, channels)")
        if sample_rate_hz <= 0:
            raise InputError(f"{name}: the sample rate is {sample_rate_hz} Hz, expected a positive number")
        if np.issubdtype(samples.dtype, np.integer):
            limits = np.iinfo(samples.dtype)
            middle = (int(limits.max) + int(limits.min) + 1) // 2  # 0, or 128 for unsigned bytes
            samples = (samples.astype(np.float64) - middle) / (int(limits.max) - middle + 1)
        samples = samples.astype(np.float32)
        if samples.ndim == 2:
            samples = samples.mean(axis=1)
        if len(samples) < MIN_DURATION_S * sample_rate_hz:
            raise InputError(f"{name}: lasts {len(samples) / sample_rate_hz:.3f} s, expected at least {MIN_DURATION_S} s")
        if not np.isfinite(samples).all():
            raise InputError(f"{name}: holds values that are not finite; check how it was made")
        return resample(samples, sample_rate_hz, SAMPLE_RATE_HZ, "soxr")
