"""The SQLite file of a gallery: its schema, its connections, and rows that are checked whenever they are read."""

import os
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speakerprint.errors import InputError

DATABASE = "gallery.sqlite"
FORMAT = 2
REMEDY = "see whether the disk is full and the folder may be written; a damaged file has to come from a backup"
BUSY_TIMEOUT_S = 60.0
CHECKED_BYTES = 64 * 2**20  # the structure of a larger database is not checked on opening, which would take a second or more
DTYPE = np.dtype("<f4")
ROW = "recordings.id, embedding, recordings.digest, speaker, recordings.name"  # what `GalleryDatabase.arrays` takes

SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA user_version = {FORMAT};
CREATE TABLE gallery (
    model_id TEXT NOT NULL,
    embedding_dim INTEGER NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0,        -- recordings ever removed or replaced
    index_file TEXT,
    index_sha256 TEXT,
    index_size INTEGER NOT NULL DEFAULT 0,     -- recordings in it, those removed since included
    index_last INTEGER NOT NULL DEFAULT 0,     -- it holds the recordings up to this id
    index_removed INTEGER NOT NULL DEFAULT 0   -- `removed` when it was begun
);
CREATE TABLE speakers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    mean BLOB,                                 -- of the speaker's embeddings, float32
    digest INTEGER                             -- of name and mean: a file on a disk is not believed, see _digest
);
CREATE TABLE recordings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,      -- never used again, so an id is one embedding for ever
    speaker INTEGER NOT NULL REFERENCES speakers,
    name TEXT NOT NULL,
    embedding BLOB NOT NULL,                   -- unit vector, float32
    digest INTEGER NOT NULL,                   -- of speaker, name and embedding
    UNIQUE (speaker, name)
);
"""


class GalleryDatabase:
    """The database of a gallery. Threads and processes may share it: each transaction has a connection of its own.

    An error of SQLite, but for a constraint that is broken or a wrong call, is raised as InputError, which names the file.
    """

    def __init__(self, folder: Path, model_id: str | None, embedding_dim: int | None):
        """Open the one in a folder, or make it. Raises InputError as `Gallery` does."""
        self.path = folder / DATABASE
        if not self.path.is_file():
            if model_id is None:
                raise InputError(f"{folder} holds no gallery; name another folder, or enrol somebody to make one there")
            self.create(model_id, embedding_dim)
        self._refuse_damaged()
        with self.transaction() as db:
            self.model_id, self.embedding_dim = self.row(db, "SELECT model_id, embedding_dim FROM gallery")
        if not (isinstance(self.model_id, str) and isinstance(self.embedding_dim, int) and self.embedding_dim > 0):
            raise InputError(f"{self.path}: its model is {self.model_id!r}, {self.embedding_dim!r}; {REMEDY}")
        if model_id is not None and (model_id, embedding_dim) != (self.model_id, self.embedding_dim):
            raise InputError(
                f"{folder} is a gallery of model {self.model_id} ({self.embedding_dim} numbers an embedding), and this is model "
                f"{model_id} ({embedding_dim}): embeddings of two models cannot be compared. Use the model that the gallery was "
                "made with, or enrol the recordings in another folder"
            )

    def _refuse_damaged(self) -> None:
        """Check structure and format, and bring the first format up to date."""
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            checked = self.path.stat().st_size <= CHECKED_BYTES
            if checked and (found := db.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
                raise InputError(f"{self.path} is damaged: {found[0]}; {REMEDY}")
        if version == 1:
            self._add_digests()
        elif version != FORMAT:
            raise InputError(f"{self.path} has format {version}, expected {FORMAT}; enrol the recordings in another folder")

    def create(self, model_id: str, embedding_dim: int | None) -> None:
        """Make an empty database, unless another process is first: it appears whole, and never replaces one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path.parent) as temporary:
            path = Path(temporary) / DATABASE
            try:
                with closing(sqlite3.connect(path)) as db, db:
                    db.executescript(SCHEMA)
                    db.execute("INSERT INTO gallery (model_id, embedding_dim) VALUES (?, ?)", (model_id, embedding_dim))
            except sqlite3.OperationalError as error:
                raise InputError(f"{self.path}: {error}; {REMEDY}") from error
            try:
                with suppress(FileExistsError):
                    os.link(path, self.path)
            except OSError:  # a file system without hard links, such as exFAT: there the last of two at once would win
                if not self.path.exists():
                    path.rename(self.path)

    @contextmanager
    def transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"] = "DEFERRED") -> Iterator[sqlite3.Connection]:
        """A connection of its own (some 0.1 ms), so that threads and forks share none, in a transaction that an error undoes."""
        with self.connected() as db:
            db.execute(f"BEGIN {kind}")
            with db:
                yield db

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own. Raises InputError for what SQLite says of the file."""
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as db:
                db.execute("PRAGMA secure_delete = ON")  # a voice that is removed is biometric data
                yield db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise InputError(f"{self.path}: {error}; {REMEDY}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} is damaged: a name is not UTF-8; {REMEDY}") from error

    def row(self, db: sqlite3.Connection, sql: str) -> tuple[Any, ...]:
        """The one row that there is in a whole gallery."""
        row: tuple[Any, ...] | None = db.execute(sql).fetchone()
        if row is None:
            raise InputError(f"{self.path} is damaged: it does not say what it holds; {REMEDY}")
        return row

    def arrays(self, rows: Sequence[tuple[int, bytes, int, int, str]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """ids (n,) and vectors (n, dim) of rows of both, their digest and what else it is of. Raises InputError if it is not."""
        size = self.embedding_dim * DTYPE.itemsize
        for _, vector, digest, owner, name in rows:
            if not isinstance(vector, bytes) or len(vector) != size or digest != row_digest(owner, name, vector):
                raise InputError(f"{self.path} is damaged: {name!r} is not as it was enrolled; {REMEDY}")
        vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=DTYPE)
        return np.array([row[0] for row in rows], dtype=np.int64), vectors.reshape(-1, self.embedding_dim)

    def _add_digests(self) -> None:
        """Bring a gallery of format 1 to format 2, in one transaction; another process may be first."""
        with self.transaction("IMMEDIATE") as db:
            if db.execute("PRAGMA user_version").fetchone() != (1,):
                return
            db.create_function("digest", 3, row_digest, deterministic=True)
            db.execute("ALTER TABLE recordings ADD COLUMN digest INTEGER NOT NULL DEFAULT 0")
            db.execute("ALTER TABLE speakers ADD COLUMN digest INTEGER")
            db.execute("UPDATE recordings SET digest = digest(speaker, name, embedding)")
            db.execute("UPDATE speakers SET digest = digest(id, name, mean)")
            db.execute(f"PRAGMA user_version = {FORMAT}")


def row_digest(owner: int, name: str, vector: bytes) -> int:
    """CRC-32 of a row: tells a damaged disk or copy, not a forger, who could write another one."""
    return zlib.crc32(f"{owner} {name} ".encode() + vector)
