"""One recording, decoded block by block, as often as it is iterated: hours of audio in the memory of a block."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile

from speakerprint.audio.decode import (
    CONTAINERS,
    HEADER_TOLERANCE_S,
    MAX_CHANNELS,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    MP3_LENGTH_HEADERS,
    RIFF_SIZE_UNKNOWN,
    declared_s,
    ffmpeg_frames,
    is_cut_off,
    sound_blocks,
)
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.ogg_chain import PAGE_BYTES, OggChain, UnreadableChain, open_sound

if TYPE_CHECKING:
    import av

MP3_HEADER_BYTES = 2**20  # in which an MP3's length is looked for


class AudioStream:
    """An audio file as blocks, (n_samples, channels) float32. ``duration_s`` is what its header says, 0 where it does not."""

    def __init__(self, path: str | Path):
        """Raises UndecodableAudio as `decode`, but for a file of any length; OSError as `open`."""
        self.path = path
        with self._opened() as (source, _):
            if isinstance(source, soundfile.SoundFile | OggChain):
                self.sample_rate_hz, self.channels = source.samplerate, source.channels
                self.duration_s = source.frames / source.samplerate
            else:
                codec = source.streams.audio[0].codec_context
                self.sample_rate_hz, self.channels = codec.sample_rate, codec.channels
                self.duration_s = declared_s(source, source.streams.audio[0])
        if not (MIN_RATE_HZ <= self.sample_rate_hz <= MAX_RATE_HZ and self.channels <= MAX_CHANNELS):
            reason = f"has {self.channels} channels at {self.sample_rate_hz:,} Hz, expected at most {MAX_CHANNELS}"
            raise UndecodableAudio(str(path), f"{reason} at {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz")

    def __iter__(self) -> Iterator[np.ndarray]:
        """Raises UndecodableAudio after the last block if the file is truncated, or at one with samples that are not finite."""
        errors: list[str] = []
        n_samples = 0
        with self._opened() as (source, cut_off):
            if isinstance(source, soundfile.SoundFile | OggChain):
                blocks = sound_blocks(source)
            else:
                blocks = ffmpeg_frames(source, source.streams.audio[0], errors)
            try:
                for block in blocks:
                    if not np.isfinite(block).all():
                        raise UndecodableAudio(str(self.path), "holds samples that are not finite")
                    n_samples += len(block)
                    yield block
            except (soundfile.SoundFileError, UnreadableChain) as error:
                reason = f"damaged after {n_samples / self.sample_rate_hz:.2f} s of it ({error})"
                raise UndecodableAudio(str(self.path), reason) from None
        found_s = n_samples / self.sample_rate_hz
        if cut_off or errors or found_s < self.duration_s - HEADER_TOLERANCE_S:
            raise UndecodableAudio(str(self.path), f"truncated: {found_s:.2f} s of it can be read")

    @contextmanager
    def _opened(self) -> Iterator[tuple["soundfile.SoundFile | OggChain | av.container.InputContainer", bool]]:
        """What decodes it, and whether its last page or chunk is cut off."""
        if not Path(self.path).is_file() and Path(self.path).exists():
            raise UndecodableAudio(str(self.path), "is no plain file but a pipe, a device or a folder")
        with Path(self.path).open("rb") as file:
            head = file.read(MP3_HEADER_BYTES)
            n_bytes = file.seek(0, 2)
            file.seek(max(0, n_bytes - PAGE_BYTES))
            tail = file.read()
            file.seek(0)
            try:
                sound = _with_libsndfile(file, head)
            except UnreadableChain as error:
                raise UndecodableAudio(str(self.path), str(error)) from None
            if sound is not None:
                with sound:
                    promised = int.from_bytes(head[4:8], "little") + 8
                    short = sound.format in ("WAV", "WAVEX") and n_bytes + 1 < promised < RIFF_SIZE_UNKNOWN
                    yield sound, short or (sound.format == "OGG" and is_cut_off(tail, "OGG"))
                return
            with _with_ffmpeg(file, str(self.path)) as container:
                yield container, False


def _with_libsndfile(file: BinaryIO, head: bytes) -> soundfile.SoundFile | OggChain | None:
    """The file opened by libsndfile, or, from its start again, None where FFmpeg is to read it, as `decode` does."""
    try:
        sound = open_sound(file)
    except soundfile.SoundFileError:
        sound = None
    if sound is not None and sound.format == "MP3" and not any(header in head for header in MP3_LENGTH_HEADERS):
        sound.close()
        sound = None
    if sound is None:
        file.seek(0)
    return sound


@contextmanager
def _with_ffmpeg(file: BinaryIO, name: str) -> Iterator["av.container.InputContainer"]:
    import av

    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        with av.open(file, mode="r", options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise UndecodableAudio(name, "there is no audio in it")
            if container.streams.audio[0].codec_context is None:
                raise UndecodableAudio(name, "its codec is unknown")
            yield container
    except av.error.FFmpegError as error:
        raise UndecodableAudio(name, f"neither libsndfile nor FFmpeg can read it ({error.strerror})") from None
