"""Members of zip archives as bytes, from one file or from the parts that a publisher split it into (VoxCeleb: ``…_partaa``, …).

Nothing is unpacked or joined on disk: the parts are read as one file, and of that the directory and the wanted members only.
"""

import io
import re
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from string import ascii_lowercase

from tqdm import tqdm

from speakerprint.audio.files import MAX_BYTES
from speakerprint.errors import InputError

BUFFER_BYTES = 1 << 16
MAX_RATIO = 200  # of what an archive unpacks to and its own bytes: lists pack 20 to 1, audio not at all, zeros 1,000 to 1
SMALL_BYTES = 64 * 2**20  # what any archive may unpack to
ARCHIVE_PART = re.compile(r"(?:\.zip|_partaa)/")  # where a location goes on inside such an archive
_PART = re.compile(r"(.*_part)([a-z]{2})(?:\.zip)?")  # some publish the first part with the extension


class JoinedFile(io.RawIOBase):
    """Files, one after the other, as one seekable file to read."""

    def __init__(self, paths: list[Path]):
        self._files: list[io.FileIO] = []
        for path in paths:  # where one does not open, those before it are closed with this
            self._files.append(path.open("rb", buffering=0))
        self._ends = list(accumulate(path.stat().st_size for path in paths))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._ends[-1])[whence]
        if self._position < 0:
            raise OSError(f"there is no byte {self._position}")
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number = bisect_right(self._ends, self._position)
        if number == len(self._files):
            return 0
        left = self._ends[number] - self._position
        self._files[number].seek(-left, io.SEEK_END)
        n_read = self._files[number].readinto(memoryview(buffer)[:left]) or 0
        self._position += n_read
        return n_read

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def first_part(path: Path) -> Path:
    """The name under which a part's archive is known: that of its first part, without extension; other archives' own name."""
    match = _PART.fullmatch(path.name)
    return path.with_name(f"{match[1]}aa") if match else path


def read_zip(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the archive's files for whose name ``wanted`` is true, in the order in which they lie in it.

    ``archive`` is a zip file, or the first of its parts. Raises InputError, naming the file and what to do, if one is missing,
    cut off or damaged, or unpacks to more than MAX_RATIO times its bytes, or a wanted member has more than decode.MAX_BYTES.
    """
    parts = _parts(archive)
    with _opened(archive, parts) as zipped:
        chosen = sorted((info for info in zipped.infolist() if wanted(info.filename)), key=lambda info: info.header_offset)
        refuse_bomb(archive, sum(info.file_size for info in chosen), sum(path.stat().st_size for path in parts))
        for info in chosen:
            refuse_large(archive, info.filename, info.file_size)
        for info in tqdm(chosen, desc=archive.name, unit="file", leave=False, disable=None):
            try:
                data = zipped.read(info)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                ends = list(accumulate(path.stat().st_size for path in parts))
                part = parts[bisect_right(ends, info.header_offset)]
                raise InputError(f"{part}: member {info.filename!r} is damaged ({error}); download that file again") from None
            yield info.filename, data


def refuse_bomb(archive: Path, unpacked: int, packed: int) -> None:
    """Raise InputError for an archive of ``packed`` bytes that unpacks to ``unpacked``, if those are too many."""
    if unpacked > max(SMALL_BYTES, MAX_RATIO * packed):
        raise InputError(
            f"{archive}: its {packed:,} bytes unpack to {unpacked:,} or more, over {MAX_RATIO} times as many; no release does: "
            "download it again from its publisher"
        )


def refuse_large(archive: Path, member: str, n_bytes: int, most: int = MAX_BYTES) -> None:
    """Raise InputError for a member of more bytes than allowed, by default those that a recording may have."""
    if n_bytes > most:
        raise InputError(
            f"{archive}: member {member!r} has {n_bytes:,} bytes, expected at most {most:,}; download the archive again from its "
            "publisher, or pack that recording in parts"
        )


def zip_names(archive: Path) -> list[str]:
    """Names of the archive's files. Raises InputError as `read_zip` does."""
    with _opened(archive, _parts(archive)) as zipped:
        return [info.filename for info in zipped.infolist() if not info.is_dir()]


def _parts(archive: Path) -> list[Path]:
    """The files that make up an archive, in order; all but the last must be of one size, as `split` makes them."""
    if not (split := _PART.fullmatch(archive.name)):
        return [archive]
    found = {
        match[2]: path for path in archive.parent.glob("*") if (match := _PART.fullmatch(path.name)) and match[1] == split[1]
    }
    last = max(found, default="aa")
    names = [one + two for one in ascii_lowercase for two in ascii_lowercase if one + two <= last]
    missing = [f"{split[1]}{name}" for name in names if name not in found]
    if missing:
        raise InputError(
            f"{archive.parent} has no {', '.join(missing)}; download what is missing, and put all parts in one folder"
        )
    parts = [found[name] for name in names]
    sizes = [path.stat().st_size for path in parts]
    for path, size in zip(parts[:-1], sizes[:-1], strict=True):
        if size != max(sizes):
            raise InputError(f"{path} has {size:,} bytes of {max(sizes):,}, as many as the largest part; download it again")
    return parts


@contextmanager
def _opened(archive: Path, parts: list[Path]) -> Iterator[zipfile.ZipFile]:
    """The archive, which must be whole from its first byte to its directory, which stands at the end."""
    try:
        with io.BufferedReader(JoinedFile(parts), BUFFER_BYTES) as file, zipfile.ZipFile(file) as zipped:
            places = [info.header_offset for info in zipped.infolist()] or [0]
            if min(places) != 0 or max(places) >= zipped.start_dir:
                raise zipfile.BadZipFile("bytes are missing before its directory")
            yield zipped
    except FileNotFoundError:
        raise InputError(f"{archive} does not exist; put the archive back or correct the corpus's source.root") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
        last = parts[-1].name
        at_fault = "it is cut off, damaged or no zip file"
        if _PART.fullmatch(archive.name):
            at_fault = f"parts after {last} are missing, or one is cut off"
        raise InputError(
            f"{archive} cannot be read to its end ({error}): {at_fault}; compare sizes and checksums with the publisher's and "
            "download again what differs"
        ) from None
