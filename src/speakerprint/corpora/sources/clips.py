"""Clips as bytes, from plain files, rows of parquet files, or straight out of archives, which are never unpacked to disk.

A tar archive is streamed; one with a member that could not be unpacked safely (a link, a device, an absolute name, one with
``..``) is refused.
"""

import functools
import gzip
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow.parquet as pq
from tqdm import tqdm

from speakerprint.audio import files
from speakerprint.corpora.sources import zips
from speakerprint.errors import InputError

HUB = "hf://"
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_ARCHIVE_PART = re.compile(rf"\.(?:tar|tar\.gz|tgz)/|{zips.ARCHIVE_PART.pattern}")
_PARQUET_ROW = re.compile(r"(?P<file>.+\.parquet)/(?P<column>[^/]+)/(?P<row>\d+)")
_GZIP_MAGIC = b"\x1f\x8b"
MAX_HEADER_BYTES = 1 << 20  # of a long name or other attributes, which tarfile reads into memory
ATTRIBUTES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
MAX_LIST_BYTES = 1 << 36  # of a member that is read as it comes; Common Voice's largest list has under 1 GB


def source_root(root: str) -> Path:
    """A source's ``root`` as a path, ``~`` expanded. Raises InputError if there is nothing there."""
    path = Path(root).expanduser()
    if not path.exists():
        raise InputError(f"{path} does not exist (working directory {Path.cwd()}); set the corpus's source.root to where it is")
    return path


def containers(locations: Sequence[str]) -> Iterator[str | None]:
    """Yield the archive or parquet file that each location leads into; None for a plain file."""
    is_folder = functools.cache(lambda path: Path(path).is_dir())
    for location in locations:
        parts = (location[: part.end() - 1] for part in _ARCHIVE_PART.finditer(location))
        if (cell := _PARQUET_ROW.fullmatch(location)) and not is_folder(cell["file"]):
            yield cell["file"]
        else:
            yield next((part for part in parts if not is_folder(part)), None)


def read_clips(locations: Sequence[str]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (index into ``locations``, the clip's bytes; None if it is absent), each index once.

    A location is a path, one part of which may be a tar archive (``release.tar.gz/cv-corpus/fr/clips/a.mp3``), a zip archive, or
    the first part of one that was split (``vox2_dev_aac_partaa/dev/aac/…``); or a row of a parquet file on disk or on the hub
    (``hf://datasets/owner/name@commit/train.parquet/audio/17``: column and row). Plain files are read one at a time, as they are
    asked for. Then of each parquet file the row groups that hold a wanted row, in its column alone. Then each archive is read
    once, front to back, a tar no further than its last wanted clip and of a zip the wanted clips only; its clips come in the
    archive's order, those it lacks at its end.

    Raises InputError if a file cannot be read, or an archive is missing, damaged or unsafe.
    """
    archives: dict[str, dict[str, list[int]]] = {}  # archive -> member -> indices
    columns: dict[tuple[str, str], dict[int, list[int]]] = {}  # parquet file, column -> row -> indices
    for index, (location, container) in enumerate(zip(locations, containers(locations), strict=True)):
        if container is None:
            yield index, read_file(Path(location))
            continue
        member = location[len(container) + 1 :]
        if container.endswith(".parquet"):
            column, number = member.split("/")
            columns.setdefault((container, column), {}).setdefault(int(number), []).append(index)
        else:
            archives.setdefault(container, {}).setdefault(member, []).append(index)
    for (file, column), rows in columns.items():
        for row, data in _read_rows(file, column, sorted(rows)):
            for index in rows[row]:
                yield index, data
    for archive, wanted in archives.items():
        read = zips.read_zip if zips.ARCHIVE_PART.search(f"{archive}/") else read_archive
        for name, data in read(Path(archive), wanted.__contains__):
            for index in wanted.pop(name):
                yield index, data
            if not wanted:
                break
        for indices in wanted.values():
            for index in indices:
                yield index, None


def read_file(path: Path) -> bytes | None:
    """A plain file's bytes, None if it is absent. Raises InputError if it cannot be read."""
    try:
        return files.read_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions and the disk it is on") from None


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """A parquet file on disk or, ``hf://…``, on the hub, of which no more is fetched than is read.

    Raises InputError if it, or what is read inside the ``with``, is missing or damaged, or the hub does not answer.
    """
    try:
        with _open(file) as stream, pq.ParquetFile(stream, pre_buffer=True) as parquet:  # neighbouring columns in one request
            yield parquet
    except InputError:
        raise
    except Exception as error:  # of Arrow, the disk, or the hub client's HTTP library, whichever that is
        reason = f"{type(error).__name__}: {(str(error).splitlines() or ['no more is known'])[0]}"
        if file.startswith(HUB):
            raise InputError(
                f"{file} cannot be read from the hub ({reason}); check the connection and run `dvc repro` again"
            ) from None
        raise InputError(f"{file} cannot be read ({reason}): absent, truncated or no parquet file; download it again") from None


def _open(file: str) -> IO[bytes]:
    if not file.startswith(HUB):
        return Path(file).open("rb")
    from huggingface_hub import HfFileSystem  # half a second to import

    return HfFileSystem().open(file, cache_type="none")  # reading ahead would fetch the audio that lies between metadata


def _read_rows(file: str, column: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (row, bytes) of those rows, which ascend; None where a row, or what it should hold, is absent."""
    waiting = list(reversed(rows))
    start = 0
    with open_parquet(file) as parquet:
        for group in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            if waiting and waiting[-1] < stop:
                cells = parquet.read_row_group(group, columns=[column]).column(column)
                while waiting and waiting[-1] < stop:
                    cell = cells[waiting[-1] - start].as_py()
                    yield waiting.pop(), cell["bytes"] if isinstance(cell, dict) else cell
            start = stop
    yield from ((row, None) for row in reversed(waiting))


def read_archive(
    archive: Path,
    wanted: Callable[[str], bool],
    read: Callable[[IO[bytes]], Any] = lambda file: file.read(),
    max_member_bytes: int = files.MAX_BYTES,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, bytes) of the archive's files for whose name ``wanted`` is true, in one pass that holds one file at a time.

    In place of its bytes comes what ``read`` makes of a file. Gzip is told by content, not by name. Raises InputError if the
    archive is missing, damaged, has an unsafe member or a wanted one of more than ``max_member_bytes``, or unpacks to more than
    zips.MAX_RATIO times its bytes.
    """
    try:
        with (
            archive.open("rb") as file,
            tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, desc=archive.name, leave=False, disable=None) as bar,
        ):
            stream: IO[bytes] = gzip.open(file) if file.peek(2)[:2] == _GZIP_MAGIC else file  # type: ignore[assignment]  # noqa: SIM115
            with tarfile.TarFile(fileobj=stream, tarinfo=_TarInfo) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header it has read
                    name = _safe_name(member, archive)
                    zips.refuse_bomb(archive, member.offset_data + member.size, archive.stat().st_size)
                    if wanted(name) and (contents := tar.extractfile(member)):
                        zips.refuse_large(archive, name, member.size, max_member_bytes)
                        yield name, read(contents)
                    bar.update(file.tell() - bar.n)
            while stream.read(1 << 20):  # to the end, where gzip compares checksums
                zips.refuse_bomb(archive, stream.tell(), archive.stat().st_size)
    except FileNotFoundError:
        raise InputError(f"{archive} does not exist; put the archive back or correct the corpus's source.root") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{archive} cannot be read to its end ({error}): truncated, damaged or not a tar archive; "
            "compare its size and checksum with the publisher's and download it again"
        ) from None


class _TarInfo(tarfile.TarInfo):
    """A header that is damaged or cut off is an error; tarfile takes it for the archive's end. So is one of many bytes."""

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo | None:
        if self.type in ATTRIBUTES and self.size > MAX_HEADER_BYTES:
            raise tarfile.SubsequentHeaderError(f"a header of {self.size:,} bytes")  # type: ignore[attr-defined]
        return super()._proc_member(tarfile_)  # type: ignore[misc]

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_TarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the zero block that ends a whole archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _safe_name(member: tarfile.TarInfo, archive: Path) -> str:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        fault = "has a name that leads out of the archive"
    elif member.issym() or member.islnk():
        fault = f"is a link (to {member.linkname!r})"
    elif not (member.isfile() or member.isdir()):
        fault = "is neither a file nor a folder"
    else:
        return str(path)
    raise InputError(f"{archive}: member {member.name!r} {fault}; no release has one: download it again from its publisher")
