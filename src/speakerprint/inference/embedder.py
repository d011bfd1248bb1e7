"""The public way to use a trained model: waveforms and files in, embeddings out."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeGuard, cast

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from speakerprint.audio.decode import MAX_CHANNELS, decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.files import read_file
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.audio.voice_activity import NoSpeech, require_speech, trim_silence
from speakerprint.errors import InputError
from speakerprint.inference.calibration import score_for_rate
from speakerprint.inference.hearing import MIN_DURATION_S, Heard, embed_heard, hear, hear_long, long_recording
from speakerprint.inference.model_folder import find_model
from speakerprint.inference.network import Network
from speakerprint.inference.vectors import unit_vectors
from speakerprint.runtime import Device

if TYPE_CHECKING:
    from speakerprint.inference.calibration import Calibration

Recording = str | Path | bytes | BinaryIO  # a path, a file's bytes, or a file opened to read them
LOUDEST = 2.0**31  # of samples that are no integers: those of 32 bits, unscaled; the power of far louder ones overflows
FILES_AT_ONCE, FRAMES_AT_ONCE = 256, 180_000  # decoded, then embedded: what memory holds, 58 MB of features
FILES_AHEAD = 16  # decoded meanwhile, by threads


class Verification(NamedTuple):
    """Whether two recordings are of one speaker: the cosine of their embeddings against a threshold.

    ``false_accept_rate`` is the fraction of pairs of different speakers that reached the threshold where it was chosen (the
    model's card says on which recordings); other microphones, languages or noise move it. None where the threshold was given.
    ``log_likelihood_ratio`` (natural logarithm) is what the score is worth, where a calibration says so. ``doubts`` is what makes
    a recording unfit to be judged (see `audio.quality` and `inference.two_voices`). With doubts, ``same_speaker`` is None,
    "cannot tell", unless the threshold was given or calibrated: it may be made for such recordings.
    """

    score: float
    same_speaker: bool | None
    threshold: float
    false_accept_rate: float | None
    log_likelihood_ratio: float | None = None
    doubts: tuple[str, ...] = ()


class Window(NamedTuple):
    """A stretch of a recording, in seconds from its start, and its embedding, (embedding_dim,) of unit length."""

    start_s: float
    end_s: float
    embedding: np.ndarray

    def __repr__(self) -> str:
        return f"Window(start_s={self.start_s:g}, end_s={self.end_s:g}, embedding={self.embedding.shape})"


class SpeakerEmbedder:
    """Speaker embeddings from a trained model.

    >>> embedder = SpeakerEmbedder.load()
    >>> same = embedder.embed(first, 48_000) @ embedder.embed(second, 16_000)  # cosine similarity, -1 to 1
    >>> embedder.verify("monday.wav", "tuesday.mp3").same_speaker

    Threads may share one.
    """

    def __init__(self, network: Network, trim_silence: bool = False, require_speech: bool = False):
        """require_speech: refuse a recording with less than 0.5 s of speech (see voice_activity). trim_silence: that, and embed
        the part from the first speech to the last."""
        self.network = network
        self.thresholds = dict(network.model.thresholds)  # the score to reach for each false-accept rate
        self.trim_silence, self.require_speech = trim_silence, require_speech

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path | None = None,
        device: Device = "auto",
        trim_silence: bool = False,
        require_speech: bool = False,
    ) -> "SpeakerEmbedder":
        """Load a model folder as `train` writes it, `owner/name` from the Hugging Face hub, or by default the shipped model.

        `owner/name@revision` is that commit, tag or branch. device: "cpu", "cuda", or "auto", which is a GPU where ONNX Runtime
        can use one. trim_silence, require_speech: as of the constructor.
        Raises InputError if there is no such model, it is damaged, or the device is not there.
        """
        return cls(Network(find_model(name_or_folder), device), trim_silence, require_speech)

    @property
    def model_id(self) -> str:
        """Digest of what decides an embedding, settings and weights: 16 hex digits. Embeddings of two ids are never compared."""
        return self.network.model.model_id

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.network.model.embedding_dim

    def __repr__(self) -> str:
        return (
            f"SpeakerEmbedder({str(self.network.model.path)!r}, model_id={self.model_id!r}, embedding_dim={self.embedding_dim})"
        )

    def embed(self, waveform: ArrayLike, sample_rate_hz: int) -> np.ndarray:
        """Embed one recording.

        waveform: (samples,), or (samples, channels) or (channels, samples), of which the axis of at most 64 is the channels; they
        are averaged. An array, a tensor of PyTorch (on any device) or a list, of floating-point numbers in -1 to 1 or integers of
        any width.
        Returns (embedding_dim,) float32 of unit length.
        Raises InputError for a recording under 0.1 s, digital silence, values that are not finite, another shape, or a rate
        that is not positive.
        """
        return self.embed_waveforms([waveform], sample_rate_hz)[0]

    def embed_with_doubts(
        self, waveform: ArrayLike, sample_rate_hz: int, name: str = "waveform"
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Embed one recording as `embed` does, and tell what makes it unfit to be judged, see `Verification`: mostly nothing."""
        heard = hear(*self._spoken(waveform, sample_rate_hz, name), name, judge=True)
        return embed_heard([heard], self.embed_frames)[0]

    def embed_waveforms(self, waveforms: Iterable[ArrayLike], sample_rate_hz: int) -> np.ndarray:
        """Embed recordings of any lengths, of one rate, windows of one length together.

        waveforms: each as `embed` takes it, which is refused for the same reasons. Returns (waveforms, embedding_dim) float32.
        """
        clips = [log_mel(self._prepare(waveform, sample_rate_hz, "waveform")) for waveform in waveforms]
        return self.embed_frames(clips)

    def embed_frames(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Embed log-mel features, each (frames, 80), as `log_mel` gives them: (clips, embedding_dim) float32 of unit length."""
        return self.network.embed_frames(clips)

    def embed_files(
        self,
        recordings: Recording | Iterable[Recording],
        on_doubt: Callable[[Recording, tuple[str, ...]], None] | None = None,
    ) -> np.ndarray:
        """Embed audio files of any format that libsndfile or PyAV reads, windows of one length together.

        A path of more than five minutes is heard in stretches of a minute, so that hours take no more memory.

        recordings: paths, file objects that were opened to read bytes, or a file's bytes; one of them, or any iterable of them.
        on_doubt: as `embed_each` takes it.
        Returns (recordings, embedding_dim) float32, in their order.
        Raises InputError naming the file that is missing, cannot be decoded, is silent, or is too short.
        """
        given = [recordings] if _is_recording(recordings) else cast(Iterable[Recording], recordings)
        total = len(given) if isinstance(given, Sized) else None
        progress = tqdm(self.embed_each(given, on_doubt=on_doubt), desc="embed", total=total, unit="file", disable=None)
        rows = [embedding for _, embedding in progress]
        return np.array(rows, dtype=np.float32).reshape(-1, self.embedding_dim)

    def embed_each(
        self,
        recordings: Iterable[Recording],
        on_error: Callable[[Recording, InputError], None] | None = None,
        on_doubt: Callable[[Recording, tuple[str, ...]], None] | None = None,
    ) -> Iterator[tuple[Recording, np.ndarray]]:
        """Embed recordings as `embed_files` does, in their order, while they are asked for: memory holds a few hundred.

        on_error: is told of each recording that is refused, and why; it is left out. Without it, InputError is raised.
        on_doubt: is told of each recording that is unfit to be judged, and why (see `Verification`), before it is yielded.
        Yields each recording and its embedding, (embedding_dim,) float32.
        """
        held: list[tuple[Recording, Heard]] = []
        n_frames = 0
        for recording, reading in self._read_ahead(recordings, on_doubt is not None):
            try:
                heard = reading.result()
            except InputError as error:
                if on_error is None:
                    raise
                on_error(recording, error)
                continue
            held.append((recording, heard))
            n_frames += sum(map(len, heard.clips))
            if len(held) >= FILES_AT_ONCE or n_frames >= FRAMES_AT_ONCE:
                yield from self._embed_held(held, on_doubt)
                held, n_frames = [], 0
        yield from self._embed_held(held, on_doubt)

    def _embed_held(
        self, held: list[tuple[Recording, Heard]], on_doubt: Callable[[Recording, tuple[str, ...]], None] | None
    ) -> Iterator[tuple[Recording, np.ndarray]]:
        if not held:
            return
        found = embed_heard([heard for _, heard in held], self.embed_frames)
        for (recording, _), (embedding, doubts) in zip(held, found, strict=True):
            if doubts and on_doubt is not None:
                on_doubt(recording, doubts)
            yield recording, embedding

    def _read_ahead(self, recordings: Iterable[Recording], judge: bool) -> Iterator[tuple[Recording, "Future[Heard]"]]:
        """Recordings and their log-mel features, which threads compute for a few of those that come next."""
        waiting: deque[tuple[Recording, Future[Heard]]] = deque()
        with ThreadPoolExecutor() as pool:
            try:
                for number, recording in enumerate(recordings, start=1):
                    waiting.append((recording, pool.submit(self._read, recording, number, judge)))
                    if len(waiting) > FILES_AHEAD:
                        yield waiting.popleft()
                while waiting:
                    yield waiting.popleft()
            finally:
                pool.shutdown(cancel_futures=True)

    def threshold(self, false_accept_rate: float, calibration: "Calibration | None" = None) -> float:
        """The score to reach for a false-accept rate, from the model's thresholds or its calibration's, see `score_for_rate`.

        Raises InputError for a rate that there is no threshold for, and another model's calibration.
        """
        if calibration is None:
            return score_for_rate(self.thresholds, false_accept_rate)
        calibration.refuse_other_model(self.model_id)
        return calibration.threshold(false_accept_rate)

    def verify(
        self,
        first: Recording | ArrayLike,
        second: Recording | ArrayLike,
        false_accept_rate: float = 0.01,
        calibration: "Calibration | None" = None,
        *,
        sample_rate_hz: int | None = None,
        threshold: float | None = None,
    ) -> Verification:
        """Tell whether two recordings are of one speaker.

        first, second: files as `embed_files` takes them; with sample_rate_hz, waveforms as `embed` does; or embeddings of this
        model, (embedding_dim,). At the threshold of a false-accept rate, see `threshold`, or at one that is given. Where the
        model's own threshold was made for better recordings, it cannot tell, see `Verification`.
        Raises InputError for recordings that are refused, an array that is no embedding, a rate without a threshold, and another
        model's calibration.
        """
        rate = None if threshold is not None else false_accept_rate
        if threshold is None:
            threshold = self.threshold(false_accept_rate, calibration)
        elif calibration is not None:
            calibration.refuse_other_model(self.model_id)
        heard = (self._hear(given, sample_rate_hz, number) for number, given in enumerate((first, second), start=1))
        (one, of_one), (other, of_other) = heard
        score, found = float(one @ other), of_one + of_other
        llr = None if calibration is None else float(calibration.llr(score))
        verdict = None if found and rate is not None and calibration is None else score >= threshold
        return Verification(score, verdict, threshold, rate, llr, found)

    def _hear(self, one: Recording | ArrayLike, sample_rate_hz: int | None, number: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """The embedding of a file, of a waveform where there is a sample rate, or of an embedding; and what is doubted of it."""
        name = f"recording {number}"
        if _is_recording(one):
            heard = self._read(one, number, judge=True)
            name, (embedding, found) = heard.name, embed_heard([heard], self.embed_frames)[0]
        elif sample_rate_hz is not None:
            embedding, found = self.embed_with_doubts(cast(ArrayLike, one), sample_rate_hz, name)
        else:
            embedding, found = self._embedding_given(cast(ArrayLike, one)), ()
        return embedding, tuple(f"{name}: {doubt}" for doubt in found)

    def _embedding_given(self, one: ArrayLike) -> np.ndarray:
        given = _as_array(one, "embedding")
        if given.shape != (self.embedding_dim,):
            raise InputError(
                f"found an array of shape {given.shape}, which is no embedding of this model, ({self.embedding_dim},); "
                "if it is a waveform, give its sample_rate_hz"
            )
        return unit_vectors(given[None])[0].astype(np.float32)

    def embed_stream(
        self, chunks: Iterable[ArrayLike], sample_rate_hz: int, window_s: float | None = None, step_s: float | None = None
    ) -> Iterator[Window]:
        """Embed a recording of any length in windows, each as soon as it is heard; one window is in memory, and one chunk.

        chunks: the recording's waveform in pieces of any size, each as `embed` takes it. window_s: by default the model's own;
        step_s: from one window's start to the next's, by default half a window.
        An embedding is what `embed` gives of that stretch (at 16 kHz; at another rate the stream is resampled as one). The
        windows are whole but for the last, which ends with the recording: it is left out if it is shorter than half a window
        and not the first. A window that is silent (see `embed`) is left out.
        Raises InputError for a step that is not within (0, window_s], and for chunks or a recording that `embed` refuses.
        """
        window_s = self.network.model.window_s if window_s is None else window_s
        step_s = window_s / 2 if step_s is None else step_s
        length, step = round(window_s * SAMPLE_RATE_HZ), round(step_s * SAMPLE_RATE_HZ)
        if not 0 < step <= length:
            raise InputError(f"windows of {window_s} s every {step_s} s: expected a step above 0 and no longer than a window")
        start, held = 0, np.zeros(0, np.float32)  # of the next window; what was heard from there on
        for samples in resampled(chunks, sample_rate_hz):
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

    def _read(self, recording: Recording, number: int, judge: bool) -> Heard:
        """What is to be embedded of a recording, the so-manieth."""
        if isinstance(recording, str | Path) and (stream := long_recording(recording)) is not None:
            return hear_long(resampled(stream, stream.sample_rate_hz), str(recording), self, judge)
        data, name = _bytes_of(recording, number)
        samples, sample_rate_hz = decode(data, name)
        return hear(*self._spoken(samples, sample_rate_hz, name), name, judge)

    def _prepare(self, waveform: ArrayLike, sample_rate_hz: int, name: str) -> np.ndarray:
        return self._spoken(waveform, sample_rate_hz, name)[0]

    def _spoken(self, waveform: ArrayLike, sample_rate_hz: int, name: str) -> tuple[np.ndarray, list[tuple[int, int]] | None]:
        """What is to be heard of a waveform at 16 kHz, (n_samples,), and its spans of speech where they were looked for."""
        samples = _mono(waveform, sample_rate_hz, name)
        if len(samples) < MIN_DURATION_S * sample_rate_hz:
            raise InputError(f"{name}: lasts {len(samples) / sample_rate_hz:.3f} s, expected at least {MIN_DURATION_S} s")
        if samples.min() == samples.max():
            raise NoSpeech(f"{name}: is digital silence, every sample {samples[0]:g}; check how it was recorded")
        samples = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ, "soxr")
        if self.trim_silence or self.require_speech:
            spans = require_speech(samples, name)
            return trim_silence(samples, spans) if self.trim_silence else (samples, spans)
        return samples, None


def _is_recording(given: object) -> TypeGuard[Recording]:
    return isinstance(given, str | Path | bytes | bytearray | memoryview) or hasattr(given, "read")


def _bytes_of(recording: Recording, number: int) -> tuple[bytes, str]:
    """A recording's bytes, and what messages call it."""
    if isinstance(recording, bytes | bytearray | memoryview):
        return bytes(recording), f"recording {number} (bytes)"
    if isinstance(recording, str | Path):
        try:
            return read_file(recording), str(recording)
        except OSError as error:
            raise InputError(f"{recording}: cannot be read ({error.strerror}); check the name and its permissions") from None
    if not hasattr(recording, "read"):
        raise InputError(
            f"recording {number} is of type {type(recording).__name__}, expected a path, a file or its bytes; "
            "for waveforms there are `embed` and `embed_waveforms`"
        )
    name = str(getattr(recording, "name", f"recording {number} ({type(recording).__name__})"))
    data = recording.read()
    if not isinstance(data, bytes):
        raise InputError(f"{name}: was opened to read text; open it to read bytes, with mode 'rb'")
    return data, name


def _as_array(given: Any, name: str) -> np.ndarray:
    """What is like an array, or a tensor of PyTorch, which need not be imported, as an array."""
    if isinstance(given, list | tuple) and any(getattr(one, "ndim", 0) for one in given[:2]):
        raise InputError(f"{name}: is a list of arrays, expected one; for several recordings there is `embed_waveforms`")
    if hasattr(given, "detach") and hasattr(given, "cpu"):
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given  # numpy has no bfloat16
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: is no array of numbers ({error})") from None


def _mono(waveform: ArrayLike, sample_rate_hz: int, name: str, channel_axis: int | None = None) -> np.ndarray:
    """A waveform as `embed` takes it as (n_samples,) float32. channel_axis: where its shape alone does not tell."""
    samples = _as_array(waveform, name)
    if samples.ndim not in (1, 2):
        raise InputError(f"{name}: has shape {samples.shape}, expected (samples,), (samples, channels) or (channels, samples)")
    if not (isinstance(sample_rate_hz, Real) and 0 < sample_rate_hz < math.inf):
        raise InputError(f"{name}: the sample rate is {sample_rate_hz!r} Hz, expected a positive number")
    if samples.dtype.kind not in "iuf":
        raise InputError(f"{name}: holds values of type {samples.dtype}, expected integers or floating-point numbers")
    if samples.dtype.kind in "iu":
        samples = _scaled(samples)
    samples = samples.astype(np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=_channel_axis(samples.shape, name, channel_axis))
    if not np.isfinite(samples).all():
        raise InputError(f"{name}: holds values that are not finite; check how it was made")
    if (loudest := np.abs(samples).max(initial=0)) > LOUDEST:
        raise InputError(f"{name}: holds values up to {loudest:g}, expected -1 to 1; check how it was made")
    return samples


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Integers as numbers from -1 to 1. Those of 64 bits, such as Python's own, are samples of 16 or 32 bits if those hold."""
    kind = samples.dtype
    if kind.itemsize == 8 and samples.size:
        loudest = max(abs(int(samples.min())), abs(int(samples.max())))
        kind = np.dtype("int16" if loudest <= 2**15 else "int32" if loudest <= 2**31 else "int64")
    limits = np.iinfo(kind)
    middle = (int(limits.max) + int(limits.min) + 1) // 2  # 0, or 128 for unsigned bytes
    return (samples.astype(np.float64) - middle) / (int(limits.max) - middle + 1)


def _channel_axis(shape: tuple[int, ...], name: str, otherwise: int | None = None) -> int:
    """Which of two axes has the channels: the one of at most 64, where the other has more."""
    few = [axis for axis in (0, 1) if shape[axis] <= MAX_CHANNELS]
    if len(few) == 1:
        return few[0]
    if few and otherwise is not None:
        return otherwise
    raise InputError(
        f"{name}: has shape {shape}, of which neither axis is surely the channels (at most {MAX_CHANNELS}, and fewer than the "
        "samples); give it as (samples,), its channels averaged"
    )


class Resampler:
    """A stream's chunks at 16 kHz, without a seam between them. A short one has its channels where those before have them."""

    def __init__(self, sample_rate_hz: int):
        """Raises InputError for a rate that is not positive."""
        import soxr

        _mono(np.zeros(0, np.float32), sample_rate_hz, "stream")
        self._sample_rate_hz = sample_rate_hz
        self._channel_axis: int | None = None
        same = sample_rate_hz == SAMPLE_RATE_HZ
        self._stream = None if same else soxr.ResampleStream(sample_rate_hz, SAMPLE_RATE_HZ, num_channels=1, quality="HQ")

    def hear(self, chunk: ArrayLike) -> np.ndarray:
        """What a chunk, as `SpeakerEmbedder.embed` takes a waveform, adds: (n_samples,) float32."""
        shape = np.shape(chunk)
        if len(shape) == 2 and max(shape) > MAX_CHANNELS:
            self._channel_axis = _channel_axis(shape, "chunk")
        samples = _mono(chunk, self._sample_rate_hz, "chunk", self._channel_axis)
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def end(self) -> np.ndarray:
        """What is left: (n_samples,) float32."""
        nothing = np.zeros(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)


def resampled(chunks: Iterable[ArrayLike], sample_rate_hz: int) -> Iterator[np.ndarray]:
    """A stream's chunks at 16 kHz, as `Resampler` gives them."""
    resampler = Resampler(sample_rate_hz)
    for chunk in chunks:
        yield resampler.hear(chunk)
    yield resampler.end()
