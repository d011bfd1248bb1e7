"""What several corpora need of one archive is read once: by the first of them, for all whose turn is still to come."""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def file_state(path: str | Path) -> list[int] | None:
    """Size and time of the last change of a file, by which another one of that name is told; None if there is none."""
    try:
        state = Path(path).stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


class SharedFolder:
    """A folder in which corpora leave for each other what they have read. The last one that works with it removes it.

    corpus: the one at work. waiting: those that will come after it. (Those that are at work at the same time hold a lock each.)
    Whoever reads or writes the folder's index holds ``lock``; a second process waits for the first one instead of reading the
    same archive.
    """

    def __init__(self, path: str | Path, corpus: str = "it", waiting: Collection[str] = ()):
        self.path, self.corpus, self.waiting = Path(path).resolve(), corpus, set(waiting) - {corpus}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(f"{self.path}.lock")
        self._done = self.path / "done"

    @contextmanager
    def at_work(self) -> Iterator["SharedFolder"]:
        """For the time of the ``with`` the folder stays; one that ends without an error, as the last, removes it."""
        with FileLock(f"{self.path}.{self.corpus}.lock") as own:
            with self.lock:
                self._done.mkdir(parents=True, exist_ok=True)
                (self._done / self.corpus).unlink(missing_ok=True)
            yield self
            with self.lock:
                (self._done / self.corpus).touch()
                Path(own.lock_file).unlink()
                if self.waiting <= {path.name for path in self._done.iterdir()} and not self._others_at_work():
                    shutil.rmtree(self.path)

    def _others_at_work(self) -> bool:
        """Whether a process holds the lock of another corpus; one that was killed holds none."""
        for path in self.path.parent.glob(f"{self.path.name}.*.lock"):
            try:
                FileLock(path).acquire(timeout=0).lock.release()
            except Timeout:
                return True
        return False
