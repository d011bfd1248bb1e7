"""Files and folders that are whole or not there.

What is written stands beside its place under a hidden name and takes the place when it is whole: until then what was there
stays, and after an error or a kill nobody takes half a file for all of it. The one module through which outputs are written.
"""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from speakerprint.errors import InputError

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}  # the disk, the largest file allowed, the user's quota
SPELLED = re.compile(r"(?:code: |[Ee]rrno |os error )(\d+)")  # how libraries of Rust and C++ name an error of the system
PROBE_BYTES = 1 << 16
STREAMS = tuple(map(Path, ("/dev", "/dev/fd", "/proc/self/fd")))  # whose names stand for what is open: never replaced


class DiskFull(InputError):
    """A file has no room: the message names it, the file system, and the bytes."""


class Busy(InputError):
    """A file is being written by another run."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Inside the block, the path to write to; after it, that file is at ``path``, or nothing has changed there.

    A link at ``path`` is replaced, not followed. A pipe or a device is written to directly. The folder must exist.
    Raises DiskFull where there is no room.
    """
    path = Path(path)
    if path.parent in STREAMS or (path.exists() and not path.is_file() and not path.is_dir()):
        yield path
        return
    part = _part(path)
    try:
        with explain_full_disk(path, part):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())  # some file systems say only now that there is no room
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Inside the block, an empty folder to fill with files; after it, they are in the folder ``path``, which is made if need be.

    Each takes the place of the one of its name, other files stay. After an error nothing has changed. Raises DiskFull where
    there is no room.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    shutil.rmtree(part, ignore_errors=True)
    try:
        with explain_full_disk(path, part):
            part.mkdir()
            yield part
        try:
            part.rename(path)
        except OSError:  # a folder with files is there, of another process that was quicker, perhaps
            if not path.is_dir():
                raise
            for file in part.iterdir():
                file.replace(path / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def alone_with(path: str | Path) -> Iterator[None]:
    """Inside the block, nobody else is in one for this path, in this process or another. Raises Busy, at once, where one is."""
    from filelock import FileLock, Timeout

    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name[:60]}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"{path} is being written by another run; wait for it to end, or name another file") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def write_text(text: str, path: str | Path) -> None:
    """Write text in UTF-8 as a file that is whole or not there. Raises DiskFull where there is no room."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


@contextmanager
def explain_full_disk(path: str | Path, part: Path | None = None) -> Iterator[None]:
    """Inside the block ``path`` is written, under the name ``part``. Raises DiskFull where that fails for want of room."""
    path, part = Path(path), Path(part or path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each library has its own
        code = _code(error) or _refusal(part)
        if code is None:
            raise
        raise DiskFull(_message(code, path, part)) from error


def _part(path: Path) -> Path:
    """The hidden name for ``path``, of this process and thread; what killed processes left under such names is removed."""
    stem = f".{path.name[:60]}."  # file systems allow 255 bytes, a character has up to four
    for left in path.parent.glob("*.part"):
        owner = re.fullmatch(rf"{re.escape(stem)}(\d+)-\d+\.part", left.name)
        if owner and not _runs(int(owner[1])):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f"{stem}{os.getpid()}-{threading.get_ident()}.part")


def _runs(process: int) -> bool:
    if os.name != "posix":  # where signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _code(error: BaseException) -> int | None:
    """Which of FULL an error says, or one that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        spelled = SPELLED.search(str(seen))
        code = getattr(seen, "errno", None) or (int(spelled[1]) if spelled else None)
        if code in FULL:
            return code
        seen = seen.__cause__ or seen.__context__
    return None


def _refusal(part: Path) -> int | None:
    """Which of FULL the file system says to some more bytes of a file: some libraries lose the reason (torch, numpy)."""
    if not part.is_file():
        return None
    size = part.stat().st_size
    try:
        with part.open("ab") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno if error.errno in FULL else None
    finally:
        os.truncate(part, size)
    return None


def _message(code: int, path: Path, part: Path) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    mount = next((one for one in (folder, *folder.parents) if one.is_mount()), folder)
    room = shutil.disk_usage(folder)
    files = [part] if part.is_file() else [one for one in part.rglob("*") if one.is_file()]
    written = sum(one.stat().st_size for one in files)
    return (
        f"{path} cannot be written ({os.strerror(code)}): {written:,} bytes of it were written, and the file system at {mount} "
        f"has {room.free:,} bytes free of {room.total:,}; free some, or raise the limit, and run it again"
    )
