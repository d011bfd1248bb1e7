"""One recording's file, read as it is: bytes of a plain file, and no more of them than a recording has."""

import os
import stat
from pathlib import Path

from speakerprint.errors import InputError

MAX_BYTES = 2**30  # of a file, before decoding


class UndecodableAudio(InputError):
    """A recording that cannot be used: ``name`` says which, ``reason`` why."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_file(path: str | Path) -> bytes:
    """The bytes of an audio file. Raises UndecodableAudio if it is no plain file or larger than MAX_BYTES; OSError as `open`."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())  # of what was opened: a pipe does not block, and nothing is swapped meanwhile
        if not stat.S_ISREG(status.st_mode):
            raise UndecodableAudio(str(path), "is no plain file but a pipe, a device or a folder; copy the recording into a file")
        if status.st_size > MAX_BYTES:
            raise UndecodableAudio(str(path), f"is {status.st_size:,} bytes, expected at most {MAX_BYTES:,}; cut it into parts")
        return file.read(MAX_BYTES + 1)
