"""Decode and resample recordings, and keep them as parquet shards of 16 kHz mono, in 16-bit FLAC or WAV.

The shards open with ``datasets.load_dataset("parquet", data_files="…/part-*.parquet")``: ``audio`` is an ``Audio`` column.
"""

import io
from typing import NamedTuple

import av
import numpy as np
import soundfile

from speakerprint.errors import InputError

HEADER_TOLERANCE_S = 0.1  # a header counts the encoder's delay and padding (up to two MP3 or AAC frames); decoders may cut them
MP3_LENGTH_HEADERS = (b"Xing", b"Info", b"VBRI")
RIFF_SIZE_UNKNOWN = 0x7FFF_0000  # a WAV written to a pipe says at least this much


class UndecodableAudio(InputError):
    """A recording that cannot be used: ``name`` says which, ``reason`` why."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class _Decoded(NamedTuple):
    samples: np.ndarray  # (n_samples,) float32
    sample_rate_hz: int
    declared_s: float  # what the header promises; 0 where it does not say or only guesses
    error: str | None  # what ended decoding before the end


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Decode an audio file with libsndfile, or with FFmpeg what libsndfile cannot read (M4A, WebM, …).

    Returns its samples, (n_samples,) float32 with channels averaged, and its sample rate in Hz. ``name`` is for messages.
    Raises UndecodableAudio if the file is in no known format, truncated as far as can be told, or holds samples that are
    not finite.
    """
    try:
        try:
            decoded = _decode_with_libsndfile(data)
        except soundfile.SoundFileError:
            decoded = _decode_with_ffmpeg(data)
    except av.error.FFmpegError as error:
        raise UndecodableAudio(name, f"neither libsndfile nor FFmpeg can read it ({error.strerror})") from None
    found_s = len(decoded.samples) / decoded.sample_rate_hz
    if found_s < decoded.declared_s - HEADER_TOLERANCE_S:
        raise UndecodableAudio(name, f"truncated: {found_s:.2f} s of the {decoded.declared_s:.2f} s that its header promises")
    if decoded.error:
        raise UndecodableAudio(name, f"{decoded.error} after {found_s:.2f} s")
    if not np.isfinite(decoded.samples).all():
        raise UndecodableAudio(name, "holds samples that are not finite")
    return decoded.samples, decoded.sample_rate_hz


def _decode_with_libsndfile(data: bytes) -> _Decoded:
    stream = io.BytesIO(data)
    with soundfile.SoundFile(stream) as file:
        samples = file.read(dtype="float32")
        samples = samples if samples.ndim == 1 else samples.mean(axis=1)
        declared_s = file.frames / file.samplerate
        if file.format == "MP3" and not any(header in data for header in MP3_LENGTH_HEADERS):
            declared_s = 0.0  # libsndfile guessed it from the first frame's bitrate, and reads no further than its guess
            if stream.tell() < len(data):
                samples = max(samples, _decode_with_ffmpeg(data).samples, key=len)
        error = "truncated: its last page or chunk is cut off" if _is_cut_off(data, file.format) else None
        return _Decoded(samples, file.samplerate, declared_s, error)


def _is_cut_off(data: bytes, container: str) -> bool:
    """Whether an Ogg or WAV file ends inside a page or chunk; libsndfile takes the rest for the whole."""
    if container == "OGG":  # RFC 3533: a page's 27-byte header ends in the number of segments, then come their sizes
        page = data[data.rfind(b"OggS") :]
        return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
    if container in ("WAV", "WAVEX"):
        promised = int.from_bytes(data[4:8], "little") + 8
        return len(data) + 1 < promised < RIFF_SIZE_UNKNOWN  # the last chunk's padding byte may be missing
    return False


def _decode_with_ffmpeg(data: bytes) -> _Decoded:
    """Raises av.error.FFmpegError if nothing at all can be decoded."""
    with av.open(io.BytesIO(data), mode="r") as container:
        if not container.streams.audio:
            raise av.error.InvalidDataError(0, "there is no audio in it")
        stream = container.streams.audio[0]
        declared_s = 0.0
        if container.format.name not in ("aac", "mp3"):  # raw streams: FFmpeg guesses their length
            if stream.duration is not None and stream.time_base is not None:
                declared_s = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                declared_s = container.duration / av.time_base
        to_float = av.AudioResampler(format="fltp")
        pieces: list[np.ndarray] = []
        error = None
        try:
            for frame in container.decode(stream):
                pieces += [part.to_ndarray().mean(axis=0) for part in to_float.resample(frame)]
        except av.error.FFmpegError as problem:
            if not pieces:
                raise
            error = problem.strerror
        samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        return _Decoded(samples, stream.codec_context.sample_rate, declared_s, error)
