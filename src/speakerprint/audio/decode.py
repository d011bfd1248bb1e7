"""Decode one recording, with bounds on everything: recordings come from strangers.

libsndfile decodes what it can, FFmpeg the rest. FFmpeg is given bytes, a list of audio containers and no protocol, so a file
cannot make it open another file or a socket. What a recording may hold at most is in the constants below; how large its file
may be, in files.py.
"""

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile

from speakerprint.audio import ogg_chain
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.ogg_chain import OggChain, UnreadableChain, open_sound

if TYPE_CHECKING:  # FFmpeg is loaded for what libsndfile cannot read
    import av

MAX_SAMPLES = 2**28  # of one channel, 1 GiB in memory: 4.6 hours at 16 kHz, 93 minutes at 48 kHz
MAX_CHANNELS = 64
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 384_000
BLOCK_SAMPLES = 2**18  # of all channels: what is in memory before they are averaged
CONTAINERS = "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,caf,flac,matroska,mov,mp3,ogg,tta,w64,wav,wv"  # by FFmpeg's names
FFMPEG_TIME_BASE = 1_000_000  # of a container's duration: microseconds
HEADER_TOLERANCE_S = 0.1  # a header counts the encoder's delay and padding (up to two MP3 or AAC frames); decoders may cut them
MP3_LENGTH_HEADERS = (b"Xing", b"Info", b"VBRI")
RIFF_SIZE_UNKNOWN = 0x7FFF_0000  # a WAV written to a pipe says at least this much


class _Refused(Exception):
    """Why a recording is beyond the bounds, or not to be read at all."""


class _Decoded(NamedTuple):
    samples: np.ndarray  # (n_samples,) float32
    sample_rate_hz: int
    declared_s: float  # what the header promises; 0 where it does not say or only guesses
    error: str | None  # what ended decoding before the end


def decode(data: bytes, name: str, max_duration_s: float = math.inf) -> tuple[np.ndarray, int]:
    """Decode an audio file with libsndfile, or with FFmpeg what libsndfile cannot read (M4A, WebM, …).

    Returns its samples, (n_samples,) float32 with channels averaged, and its sample rate in Hz. ``name`` is for messages.
    Raises UndecodableAudio if the recording is longer than ``max_duration_s``, or the file is in no known audio container,
    truncated as far as can be told, holds samples that are not finite, or has more samples or channels, or another rate, than the
    constants of this module allow.
    """
    try:
        try:
            decoded = _decode_with_libsndfile(data, max_duration_s)
        except soundfile.SoundFileError:
            decoded = _decode_with_ffmpeg(data, max_duration_s)
    except (_Refused, UnreadableChain) as refused:
        raise UndecodableAudio(name, str(refused)) from None
    found_s = len(decoded.samples) / decoded.sample_rate_hz
    if found_s < decoded.declared_s - HEADER_TOLERANCE_S:
        raise UndecodableAudio(name, f"truncated: {found_s:.2f} s of the {decoded.declared_s:.2f} s that its header promises")
    if decoded.error:
        raise UndecodableAudio(name, f"{decoded.error} after {found_s:.2f} s")
    if not np.isfinite(decoded.samples).all():
        raise UndecodableAudio(name, "holds samples that are not finite")
    return decoded.samples, decoded.sample_rate_hz


def _refuse_beyond_bounds(sample_rate_hz: int, channels: int, samples: int, max_duration_s: float) -> None:
    if not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
        raise _Refused(f"has a sample rate of {sample_rate_hz:,} Hz, expected {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,}")
    if channels > MAX_CHANNELS:
        raise _Refused(f"has {channels} channels, expected at most {MAX_CHANNELS}")
    if samples > max_duration_s * sample_rate_hz:
        raise _Refused(f"lasts more than {max_duration_s:g} s; cut it")
    if samples > MAX_SAMPLES:
        raise _Refused(f"lasts over {MAX_SAMPLES / sample_rate_hz / 60:.0f} minutes at {sample_rate_hz:,} Hz; cut it into parts")


def _joined(blocks: Iterator[np.ndarray], sample_rate_hz: int, channels: int, max_duration_s: float) -> np.ndarray:
    """Blocks, each (n, channels), as one array with channels averaged. Raises _Refused once they are more than is allowed."""
    kept, n_samples = [], 0
    for block in blocks:
        n_samples += len(block)
        _refuse_beyond_bounds(sample_rate_hz, channels, n_samples, max_duration_s)
        kept.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))
    return np.concatenate(kept) if kept else np.zeros(0, np.float32)


def _decode_with_libsndfile(data: bytes, max_duration_s: float) -> _Decoded:
    with open_sound(io.BytesIO(data)) as file:
        if file.format == "MP3" and not any(header in data for header in MP3_LENGTH_HEADERS):
            # libsndfile guesses its length from the first frame's bitrate, and reads no further than its guess
            return _decode_with_ffmpeg(data, max_duration_s)
        _refuse_beyond_bounds(file.samplerate, file.channels, file.frames, max_duration_s)
        samples = _joined(sound_blocks(file), file.samplerate, file.channels, max_duration_s)
        error = "truncated: its last page or chunk is cut off" if is_cut_off(data, file.format) else None
        return _Decoded(samples, file.samplerate, file.frames / file.samplerate, error)


def sound_blocks(file: soundfile.SoundFile | OggChain) -> Iterator[np.ndarray]:
    """The samples of a file, (n, channels) float32 at a time. (Its own `blocks` repeats the last one of a cut file.)"""
    n = max(1, BLOCK_SAMPLES // file.channels)
    while len(block := file.read(n, dtype="float32", always_2d=True)):
        yield block


def is_cut_off(data: bytes, container: str) -> bool:
    """Whether an Ogg or WAV file ends inside a page or chunk; libsndfile takes the rest for the whole."""
    if container == "OGG":
        return ogg_chain.is_cut_off(data)
    if container in ("WAV", "WAVEX"):
        promised = int.from_bytes(data[4:8], "little") + 8
        return len(data) + 1 < promised < RIFF_SIZE_UNKNOWN  # the last chunk's padding byte may be missing
    return False


def _decode_with_ffmpeg(data: bytes, max_duration_s: float) -> _Decoded:
    """Raises _Refused if nothing at all can be decoded."""
    import av

    try:
        return _decode_stream(data, max_duration_s)
    except av.error.FFmpegError as error:
        raise _Refused(f"neither libsndfile nor FFmpeg can read it ({error.strerror})") from None


def _decode_stream(data: bytes, max_duration_s: float) -> _Decoded:
    """Raises av.error.FFmpegError if nothing at all can be decoded."""
    import av

    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    with av.open(io.BytesIO(data), mode="r", options=options, metadata_errors="replace") as container:
        if not container.streams.audio:
            raise av.error.InvalidDataError(0, "there is no audio in it")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise av.error.InvalidDataError(0, "its codec is unknown")
        sample_rate_hz, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        promised_s = declared_s(container, stream)
        _refuse_beyond_bounds(sample_rate_hz, channels, round(promised_s * sample_rate_hz), max_duration_s)
        errors: list[str] = []
        samples = _joined(ffmpeg_frames(container, stream, errors), sample_rate_hz, channels, max_duration_s)
        return _Decoded(samples, sample_rate_hz, promised_s, errors[0] if errors else None)


def declared_s(container: "av.container.InputContainer", stream: "av.AudioStream") -> float:
    if container.format.name in ("aac", "mp3"):  # raw streams: FFmpeg guesses their length
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.duration is None else container.duration / FFMPEG_TIME_BASE


def ffmpeg_frames(container: "av.container.InputContainer", stream: "av.AudioStream", errors: list[str]) -> Iterator[np.ndarray]:
    """The samples of each frame, (n, channels) float32; what ends them early comes into `errors`, unless nothing was decoded."""
    import av

    to_float = av.AudioResampler(format="fltp")
    anything = False
    try:
        for frame in container.decode(stream):
            for part in to_float.resample(frame):
                anything = True
                yield part.to_ndarray().T
    except av.error.FFmpegError as problem:
        if not anything:
            raise
        errors.append(problem.strerror or "decoding stopped")
