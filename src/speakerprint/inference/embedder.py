"""The public way to use a trained model: waveforms and files in, embeddings out."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import soxr
import torch
from tqdm import tqdm

from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.audio.voice_activity import NoSpeech, require_speech, trim_silence
from speakerprint.errors import InputError
from speakerprint.model.speaker_model import Bfloat16Model, SpeakerModel, native_bf16

if TYPE_CHECKING:
    from speakerprint.inference.calibration import Calibration

MIN_DURATION_S = 0.1
LOUDEST = 2.0**31  # of samples that are no integers: those of 32 bits, unscaled; the power of far louder ones overflows
BATCH, BATCH_ON_CPU = 16, 4  # recordings; of more, what lies between the layers does not fit into a processor's cache
SHIPPED = Path(__file__).parents[1] / "models/speakerprint-base"  # in the package
MODEL_FILES = ["README.md", "config.json", "model.safetensors", "params.yaml"]
Precision = Literal["auto", "float32", "bfloat16"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name


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


class Window(NamedTuple):
    """A stretch of a recording, in seconds from its start, and its embedding, (embedding_dim,) of unit length."""

    start_s: float
    end_s: float
    embedding: np.ndarray


def find_model(name_or_folder: str | Path | None = None) -> Path:
    """The folder of a model: by default the shipped one, of `owner/name` its copy from the Hugging Face hub, else as given.

    What stands in a folder that exists, such as `models/mine`, is never looked for on the hub. Raises InputError where the
    shipped model is not there, or the hub does not give the model.
    """
    if name_or_folder is None:
        if not SHIPPED.is_dir():
            raise InputError(f"the shipped model is in the repository, and {SHIPPED} is not there; name the folder of a model")
        return SHIPPED
    folder = Path(name_or_folder)
    if folder.parent.is_dir() or not HUB_ID.fullmatch(folder.as_posix()):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(folder.as_posix(), allow_patterns=MODEL_FILES))
    except Exception as error:  # of the hub client's HTTP library, whichever that is
        raise InputError(
            f"there is no folder {folder}, and no such model can be had from the Hugging Face hub: "
            f"{type(error).__name__}: {error}"
        ) from error


class SpeakerEmbedder:
    """Speaker embeddings from a trained model.

    >>> embedder = SpeakerEmbedder.load()
    >>> same = embedder.embed(first, 48_000) @ embedder.embed(second, 16_000)  # cosine similarity, -1 to 1
    >>> embedder.verify("monday.wav", "tuesday.mp3").same_speaker

    Threads may share one.
    """

    def __init__(
        self,
        model: SpeakerModel,
        thresholds: dict[float, float] | None = None,
        trim_silence: bool = False,
        require_speech: bool = False,
        precision: Precision = "auto",
    ):
        """thresholds: the score to reach for each false-accept rate, where the model has been given some.

        require_speech: refuse a recording with less than 0.5 s of speech (see voice_activity). trim_silence: that, and embed the
        part from the first speech to the last. precision: what the encoder computes in; auto is bfloat16 on a processor that
        does so itself, float32 elsewhere. Raises InputError for another precision.
        """
        if precision not in get_args(Precision):
            raise InputError(f"the precision is {precision!r}, expected one of {', '.join(get_args(Precision))}")
        device_type = model.device.type
        if precision == "auto":
            precision = "bfloat16" if device_type == "cpu" and native_bf16(device_type) else "float32"
        self.model = model.eval()  # as it was trained: of it is the id, and it is what is exported and evaluated
        self._embeds_with = Bfloat16Model(model) if precision == "bfloat16" else self.model
        self.thresholds = thresholds or {}
        self.trim_silence, self.require_speech = trim_silence, require_speech

    @cached_property
    def model_id(self) -> str:
        """Digest of what decides an embedding, settings and weights: 16 hex digits. Embeddings of two ids are never compared."""
        digest = hashlib.sha256(json.dumps(self.model.settings.model_dump(), sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path | None = None,
        device: str | torch.device = "cpu",
        trim_silence: bool = False,
        require_speech: bool = False,
        precision: Precision = "auto",
    ) -> "SpeakerEmbedder":
        """Load a model folder as `train` writes it, `owner/name` from the Hugging Face hub, or by default the shipped model.

        trim_silence, require_speech, precision: as of the constructor. Raises InputError if there is none.
        """
        folder = find_model(name_or_folder)
        model = SpeakerModel.load(folder).to(device)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        try:
            thresholds = {float(rate): float(score) for rate, score in config.get("thresholds", {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"{folder}/config.json: thresholds are to be a score for each false-accept rate, as "
                f'{{"0.01": 0.4}} ({error}); mend them or make the model again'
            ) from None
        return cls(model, thresholds, trim_silence, require_speech, precision)

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.model.settings.embedding_dim

    def embed(self, waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        """Embed one recording.

        waveform: (samples,) or (samples, channels), averaged to mono; floating point in -1 to 1, or integers of any width.
        Returns (embedding_dim,) float32 of unit length.
        Raises InputError for a recording under 0.1 s, digital silence, values that are not finite, another shape, or a rate
        that is not positive.
        """
        return self._embeds_with.embed_frames([log_mel(self._prepare(waveform, sample_rate_hz, "waveform"))])[0]

    def embed_files(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Embed audio files of any format that libsndfile or PyAV reads, in batches of similar length.

        Returns (len(paths), embedding_dim) float32, in the order of the paths.
        Raises InputError naming the file that is missing, cannot be decoded, is silent, or is too short.
        """
        with ThreadPoolExecutor() as pool:
            frames = list(tqdm(pool.map(self._read, paths), "decode", len(paths), unit="file", disable=None))
        embeddings = np.empty((len(frames), self.embedding_dim), dtype=np.float32)
        by_length = np.argsort([len(clip) for clip in frames], kind="stable")
        size = BATCH_ON_CPU if self.model.device.type == "cpu" else BATCH
        for start in tqdm(range(0, len(frames), size), desc="embed", unit="batch", disable=None):
            chosen = by_length[start : start + size]
            embeddings[chosen] = self._embeds_with.embed_frames([frames[index] for index in chosen])
        return embeddings

    def threshold(self, false_accept_rate: float, calibration: "Calibration | None" = None) -> float:
        """The score to reach for a false-accept rate, one of the model's or of its calibration's.

        Raises InputError for a rate without a threshold, and another model's calibration.
        """
        if calibration is not None:
            calibration.refuse_other_model(self.model_id)
            return calibration.threshold(false_accept_rate)
        if false_accept_rate not in self.thresholds:
            known = ", ".join(map(str, self.thresholds)) or "none"
            raise InputError(
                f"the model has no threshold for a false-accept rate of {false_accept_rate}; it has: {known}. Choose one of "
                "them, or have `speakerprint calibrate` find others"
            )
        return self.thresholds[false_accept_rate]

    def verify(
        self, first: str | Path, second: str | Path, false_accept_rate: float = 0.01, calibration: "Calibration | None" = None
    ) -> Verification:
        """Tell whether two files are of one speaker, at one of the false-accept rates of the model or of its calibration.

        Raises InputError for files that `embed_files` refuses, a rate without a threshold, and another model's calibration.
        """
        threshold = self.threshold(false_accept_rate, calibration)
        one, other = self.embed_files([first, second])
        score = float(one @ other)
        llr = None if calibration is None else float(calibration.llr(score))
        return Verification(score, score >= threshold, threshold, false_accept_rate, llr)

    def embed_stream(
        self, chunks: Iterable[np.ndarray], sample_rate_hz: int, window_s: float | None = None, step_s: float | None = None
    ) -> Iterator[Window]:
        """Embed a recording of any length in windows, each as soon as it is heard; one window is in memory, and one chunk.

        chunks: the recording's waveform in pieces of any size, each as `embed` takes it. window_s: by default the model's own;
        step_s: from one window's start to the next's, by default half a window.
        An embedding is what `embed` gives of that stretch (at 16 kHz; at another rate the stream is resampled as one). The
        windows are whole but for the last, which ends with the recording: it is left out if it is shorter than half a window
        and not the first. A window that is silent (see `embed`) is left out.
        Raises InputError for a step that is not within (0, window_s], and for chunks or a recording that `embed` refuses.
        """
        window_s = self.model.settings.window_s if window_s is None else window_s
        step_s = window_s / 2 if step_s is None else step_s
        length, step = round(window_s * SAMPLE_RATE_HZ), round(step_s * SAMPLE_RATE_HZ)
        if not 0 < step <= length:
            raise InputError(f"windows of {window_s} s every {step_s} s: expected a step above 0 and no longer than a window")
        start, held = 0, np.zeros(0, np.float32)  # of the next window; what was heard from there on
        for samples in _resampled(chunks, sample_rate_hz):
            held = np.concatenate([held, samples])
            while len(held) >= length:
                yield from self._window(held[:length], start)
                start, held = start + step, held[step:]
        heard_more = len(held) > length - step and len(held) >= length / 2
        if start == 0 or heard_more:
            yield from self._window(held, start)

    def _window(self, samples: np.ndarray, start: int) -> Iterator[Window]:
        try:
            embedding = self.embed(samples, SAMPLE_RATE_HZ)
        except NoSpeech:
            return
        yield Window(start / SAMPLE_RATE_HZ, (start + len(samples)) / SAMPLE_RATE_HZ, embedding)

    def _read(self, path: str | Path) -> np.ndarray:
        """The log-mel features of a file."""
        try:
            samples, sample_rate_hz = decode(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the name and its permissions") from None
        return log_mel(self._prepare(samples, sample_rate_hz, str(path)))

    def _prepare(self, waveform: np.ndarray, sample_rate_hz: int, name: str) -> np.ndarray:
        samples = _mono(waveform, sample_rate_hz, name)
        if len(samples) < MIN_DURATION_S * sample_rate_hz:
            raise InputError(f"{name}: lasts {len(samples) / sample_rate_hz:.3f} s, expected at least {MIN_DURATION_S} s")
        if samples.min() == samples.max():
            raise NoSpeech(f"{name}: is digital silence, every sample {samples[0]:g}; check how it was recorded")
        samples = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ, "soxr")
        if self.trim_silence:
            return trim_silence(samples, name)
        if self.require_speech:
            require_speech(samples, name)
        return samples


def _mono(waveform: np.ndarray, sample_rate_hz: int, name: str) -> np.ndarray:
    """A waveform as `embed` takes it as (n_samples,) float32."""
    samples = np.asarray(waveform)
    if samples.ndim not in (1, 2):
        raise InputError(f"{name}: has shape {samples.shape}, expected (samples,) or (samples, channels)")
    if not (isinstance(sample_rate_hz, Real) and 0 < sample_rate_hz < math.inf):
        raise InputError(f"{name}: the sample rate is {sample_rate_hz!r} Hz, expected a positive number")
    if samples.dtype.kind not in "iuf":
        raise InputError(f"{name}: holds values of type {samples.dtype}, expected integers or floating-point numbers")
    if np.issubdtype(samples.dtype, np.integer):
        limits = np.iinfo(samples.dtype)
        middle = (int(limits.max) + int(limits.min) + 1) // 2  # 0, or 128 for unsigned bytes
        samples = (samples.astype(np.float64) - middle) / (int(limits.max) - middle + 1)
    samples = samples.astype(np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise InputError(f"{name}: holds values that are not finite; check how it was made")
    if (loudest := np.abs(samples).max(initial=0)) > LOUDEST:
        raise InputError(f"{name}: holds values up to {loudest:g}, expected -1 to 1; check how it was made")
    return samples


def _resampled(chunks: Iterable[np.ndarray], sample_rate_hz: int) -> Iterator[np.ndarray]:
    """A stream's chunks at 16 kHz, without a seam between them."""
    resampler = None
    for chunk in chunks:
        samples = _mono(chunk, sample_rate_hz, "chunk")
        if sample_rate_hz != SAMPLE_RATE_HZ:
            resampler = resampler or soxr.ResampleStream(sample_rate_hz, SAMPLE_RATE_HZ, num_channels=1, quality="HQ")
            samples = resampler.resample_chunk(samples)
        yield samples
    if resampler:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
