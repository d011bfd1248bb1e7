"""A chained Ogg file: one recording after another in one file, as streams that were saved and files that were joined are.

libsndfile reads the first of its links and says nothing of the others. Here each is read as a file of its own.
"""

import io
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import BinaryIO

import numpy as np
import soundfile

MAX_STREAMS = 1000  # each takes a millisecond to open
FIRST_PAGE = re.compile(rb"OggS\0[\2\3\6\7]", re.DOTALL)  # RFC 3533: version 0, and the flag of a stream's first page
SEARCHED = 2**20  # bytes at a time
FIXED_BYTES = 27  # of a page's header, of which the last counts its segments; then come their sizes
HEADER_BYTES = FIXED_BYTES + 255  # at most
PAGE_BYTES = HEADER_BYTES + 255 * 255


class UnreadableChain(Exception):
    """Why the links of a chained file cannot be read as one recording, and what helps."""


class OggChain:
    """The links of a chained file as one sound: as much of `soundfile.SoundFile` as reading blocks takes."""

    format = "OGG"

    def __init__(self, file: BinaryIO, starts: list[int]):
        """``starts``: where each link begins, see `link_starts`. Raises UnreadableChain."""
        self._links = [_Part(file, start, end) for start, end in zip(starts, [*starts[1:], file.seek(0, 2)], strict=True)]
        self._at, self._open = 0, self._opened(0)
        self.samplerate, self.channels, self.frames = self._open.samplerate, self._open.channels, self._open.frames
        for number in range(1, len(self._links)):
            with self._opened(number) as link:
                self.frames += link.frames
                if (link.samplerate, link.channels) != (self.samplerate, self.channels):
                    raise UnreadableChain(
                        f"is a chain of Ogg streams, the first of {self.channels} channels at {self.samplerate:,} Hz, number "
                        f"{number + 1} of {link.channels} at {link.samplerate:,} Hz; take it apart, or convert it to one of them"
                    )

    def __enter__(self) -> "OggChain":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """The next samples, (at most frames, channels): fewer at the end of a link, none after the last."""
        while not len(block := self._open.read(frames, dtype=dtype, always_2d=always_2d)) and self._at + 1 < len(self._links):
            self._open.close()
            self._at += 1
            self._open = self._opened(self._at)
        return block

    def _opened(self, number: int) -> soundfile.SoundFile:
        try:
            if is_cut_off(self._links[number].tail()):
                raise UnreadableChain(f"truncated: of its chain of Ogg streams number {number + 1} is cut off in a page")
            return soundfile.SoundFile(self._links[number])
        except soundfile.SoundFileError as error:
            raise UnreadableChain(
                f"is a chain of {len(self._links)} Ogg streams; number {number + 1} cannot be read ({error}); take it apart"
            ) from None


class _Part(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self._file, self._start, self._size, self._at = file, start, end - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def tail(self) -> bytes:
        """Its last page, and what is before that."""
        self.seek(max(0, self._size - PAGE_BYTES))
        tail = self.read()
        self.seek(0)
        return tail


def open_sound(file: BinaryIO) -> "soundfile.SoundFile | OggChain":
    """A file opened by libsndfile; of a chained Ogg file all of it. Raises SoundFileError and UnreadableChain."""
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.SoundFileError:
        file.seek(0)
        if file.read(4) != b"OggS" or len(starts := link_starts(file)) == 1:
            raise
        return OggChain(file, starts)  # which says that its first link cannot be read; FFmpeg may leave out the others
    at = file.tell()
    if sound.format == "OGG" and len(starts := link_starts(file)) > 1:
        sound.close()
        return OggChain(file, starts)
    file.seek(at)
    return sound


def link_starts(file: BinaryIO) -> list[int]:
    """Where each link of an Ogg file begins: [0] for one that is no chain. The file is read in blocks, to its end as a rule.

    A link may hold several streams, whose first pages follow each other (RFC 3533, section 4): they are one link.
    Raises UnreadableChain for more than MAX_STREAMS.
    """
    pages = list(islice(_first_pages(file), MAX_STREAMS + 1))
    if len(pages) > MAX_STREAMS:
        raise UnreadableChain(f"holds over {MAX_STREAMS:,} Ogg streams; cut it into parts")
    return [0, *(at for (before, n_bytes), (at, _) in pairwise(pages) if at > before + n_bytes)]


def _first_pages(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where the first page of each stream is, and its bytes."""
    at, held = 0, b""
    file.seek(0)
    while True:
        block = file.read(SEARCHED)
        held += block
        done = len(held) - (HEADER_BYTES if block else 0)  # a header that is not all there is looked at with the next block
        for match in FIRST_PAGE.finditer(held):
            if match.start() < done:
                yield at + match.start(), _page_bytes(held, match.start())
        if not block:
            return
        at, held = at + max(0, done), held[max(0, done) :]


def _page_bytes(data: bytes, start: int) -> int:
    """How many bytes a page has that starts there, as far as the data says."""
    sizes = start + FIXED_BYTES
    segments = data[sizes - 1] if sizes <= len(data) else 0
    return FIXED_BYTES + segments + sum(data[sizes : sizes + segments])


def is_cut_off(data: bytes) -> bool:
    """Whether an Ogg file ends inside a page; libsndfile takes the rest for the whole. ``data``: its last page at least."""
    start = data.rfind(b"OggS")
    return start < 0 or len(data) - start < _page_bytes(data, start)
