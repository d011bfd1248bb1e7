"""Files of recordings: which they are, those in a folder, and the bytes of one, no more of them than a recording has."""

import os
import stat
from pathlib import Path

from speakerprint.errors import InputError

MAX_BYTES = 2**30  # of a file, before decoding
# fmt: off
AUDIO_SUFFIXES = frozenset({  # what libsndfile or PyAV reads
    ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp3",
    ".mp4", ".oga", ".ogg", ".opus", ".rf64", ".snd", ".sph", ".w64", ".wav", ".webm", ".wma",
})
# fmt: on


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


def audio_files(folder: str | Path) -> list[str]:
    """Paths of all audio below a folder, sorted; hidden files and folders are passed over."""
    found = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in names if is_audio(name)]  # noqa: PTH118  # ten times as fast
    return sorted(found)


def is_audio(name: str) -> bool:
    """Whether a file's name says that it is a recording, and is not hidden."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and not name.startswith(".") and f"{dot}{suffix.lower()}" in AUDIO_SUFFIXES
