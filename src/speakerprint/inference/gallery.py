"""Known speakers on disk: enrol them, search their recordings, identify who speaks in a new one.

A gallery is a folder. ``gallery.sqlite`` is the truth: every speaker, every enrolled recording and its embedding. An enrolment is
one transaction, durable when `Gallery.enrol` returns; any number of processes may write and read at the same time (on a local
disk: the database's write-ahead log does not work over a network), and one that is killed leaves nothing half done.

``index-….faiss``, in galleries of more than UNINDEXED recordings and where faiss is installed, is a cache that the database
names, with its digest: copies of the embeddings at two bits a number, all of which a search compares (product quantisation with
tables that fit in registers: André, Kermarrec and Le Scouarnec, arXiv 1704.07355; after a random rotation, so that all numbers
weigh alike). Recordings enrolled since are compared one by one, until they are so many that the index is extended. What it
finds is looked up in the database, where removed recordings are no longer found, and scored with the embeddings there. Lost or
damaged, it is made again. Every row has a digest, which is checked whenever the row is read.
"""

import functools
import hashlib
import importlib
import json
import os
import re
import sqlite3
import tempfile
import threading
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from speakerprint.errors import InputError
from speakerprint.files import whole_file
from speakerprint.inference.calibration import score_for_rate
from speakerprint.inference.vectors import unit_vectors

if TYPE_CHECKING:
    import faiss

    from speakerprint.inference.calibration import Calibration
    from speakerprint.inference.embedder import SpeakerEmbedder

DATABASE = "gallery.sqlite"
FORMAT = 2
UNINDEXED = 100_000  # as many embeddings of 128 numbers are compared one by one in some 10 ms
RESCORED = 400  # recordings looked up beyond those asked for, as two bits a number are rough: by benchmarks/bench_gallery.py
IDENTIFIED_AMONG = 100  # the nearest recordings, whose speakers are compared
STALE_FRACTION = 0.1  # of the indexed recordings removed since: the index is made again
REMEDY = "see whether the disk is full and the folder may be written; a damaged file has to come from a backup"
BUSY_TIMEOUT_S = 60.0
CHECKED_BYTES = 64 * 2**20  # the structure of a larger database is not checked on opening, which would take a second or more
ROWS = 10_000  # read at once to be indexed
LEARNED_FROM = 50_000  # recordings, at most, that the index's code is learned from
DTYPE = np.dtype("<f4")
INDEX_NAME = re.compile(r"index-[0-9a-f]{32}\.faiss")  # in the gallery's folder: the database cannot name another file
ROW = "recordings.id, embedding, recordings.digest, speaker, recordings.name"  # what `_arrays` takes

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


@functools.cache
def _faiss() -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError:
        return None


class Match(NamedTuple):
    """An enrolled recording, and the cosine of its embedding and the query's."""

    speaker: str
    recording: str
    score: float


class Candidate(NamedTuple):
    """A speaker, and the mean cosine of their embeddings and the query's."""

    speaker: str
    score: float


class Identification(NamedTuple):
    """Who speaks: the best candidate if their score reaches the threshold, else None. Candidates come best first.

    ``score`` is the best candidate's, or -1, the lowest there is, where nobody is enrolled.
    """

    speaker: str | None
    score: float
    threshold: float
    candidates: list[Candidate]


class _State(NamedTuple):
    """Which recordings there are, and which of them the index file holds: the same state, the same recordings."""

    removed: int
    index_file: str | None
    index_sha256: str | None
    index_size: int
    index_last: int
    index_removed: int
    last: int  # the newest recording's id

    @property
    def stale(self) -> bool:
        return self.index_file is not None and self.removed - self.index_removed > STALE_FRACTION * self.index_size


class _Vectors(NamedTuple):
    """The recordings of a state, ready to be searched: the index of the first, and a matrix of those enrolled since."""

    state: _State
    indexed: "faiss.Index | None"
    ids: NDArray[np.int64]
    embeddings: NDArray[np.float32]

    def nearest(self, query: NDArray[np.float32], count: int) -> list[int]:
        """Ids of the `count` nearest of either part, or all of it if it has fewer; the index may find removed ones."""
        scores = self.embeddings @ query
        found = self.ids[np.argpartition(-scores, count)[:count]] if count < len(scores) else self.ids
        if self.indexed is None:
            return found.tolist()
        likely = self.indexed.search(query[None], min(count, self.indexed.ntotal))[1][0]
        return found.tolist() + likely[likely >= 0].tolist()


class Gallery:
    """Enrolled speakers in a folder, of one model. Threads may share an object, and processes a folder.

    >>> gallery = Gallery.open("gallery", embedder)
    >>> gallery.enrol("ann", embedder.embed_files(["ann1.wav", "ann2.wav"]), ["ann1.wav", "ann2.wav"])
    >>> gallery.identify(embedder.embed_files("who.wav")[0]).speaker
    'ann'
    """

    def __init__(self, folder: str | Path, model_id: str | None = None, embedding_dim: int | None = None):
        """Open the gallery in a folder; with a model's id and its embeddings' length make one if there is none.

        Raises InputError for a gallery of another model, a damaged one, and, without a model, a folder that holds none.
        """
        self.folder = Path(folder)
        self._database = self.folder / DATABASE
        self.thresholds: dict[float, float] = {}  # of one comparison; `open` takes the embedder's
        self._vectors: _Vectors | None = None
        self._counted: tuple[_State, int] | None = None  # speakers, in the state of the vectors
        self._loading = threading.Lock()
        if not self._database.is_file():
            if model_id is None:
                raise InputError(f"{folder} holds no gallery; name another folder, or enrol somebody to make one there")
            self._create(model_id, embedding_dim)
        with self._transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if self._database.stat().st_size <= CHECKED_BYTES and (found := db.execute("PRAGMA quick_check(1)").fetchone()) != (
                "ok",
            ):
                raise InputError(f"{self._database} is damaged: {found[0]}; {REMEDY}")
        if version == 1:
            self._add_digests()
        elif version != FORMAT:
            raise InputError(f"{self._database} has format {version}, expected {FORMAT}; enrol the recordings in another folder")
        with self._transaction() as db:
            self.model_id, self.embedding_dim = self._row(db, "SELECT model_id, embedding_dim FROM gallery")
        if not (isinstance(self.model_id, str) and isinstance(self.embedding_dim, int) and self.embedding_dim > 0):
            raise InputError(f"{self._database}: its model is {self.model_id!r}, {self.embedding_dim!r}; {REMEDY}")
        if model_id is not None and (model_id, embedding_dim) != (self.model_id, self.embedding_dim):
            raise InputError(
                f"{folder} is a gallery of model {self.model_id} ({self.embedding_dim} numbers an embedding), and this is model "
                f"{model_id} ({embedding_dim}): embeddings of two models cannot be compared. Use the model that the gallery was "
                "made with, or enrol the recordings in another folder"
            )

    @classmethod
    def open(cls, folder: str | Path, embedder: "SpeakerEmbedder") -> Self:
        """Open the gallery of an embedder's model in a folder, or make one. Raises InputError as the constructor does."""
        gallery = cls(folder, embedder.model_id, embedder.embedding_dim)
        gallery.thresholds = embedder.thresholds
        return gallery

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, model_id={self.model_id!r}, speakers={len(self)})"

    def enrol(self, speaker: str | Sequence[str], embeddings: ArrayLike, recordings: Sequence[str]) -> None:
        """Enrol recordings, by name, (n,) with embeddings (n, dim): all of them, or none if anything is wrong.

        speaker: who speaks in all of them, or in each, (n,). A speaker who is known keeps what they have; only a
        recording of the same name is replaced, so an enrolment can be repeated.

        Raises InputError for embeddings of another length, zero or not finite, an empty name, and a recording named twice.
        """
        names = [speaker] * len(recordings) if isinstance(speaker, str) else list(speaker)
        units = self._units(embeddings)
        if not len(units) == len(names) == len(recordings) > 0:
            raise InputError(
                f"found {len(units)} embeddings, {len(recordings)} recordings, {len(names)} speakers; expected as many of each"
            )
        named = Counter(zip(names, recordings, strict=True))
        for (name, recording), times in named.items():
            if not name or not recording:
                raise InputError(f"speaker {name!r}, recording {recording!r}: a name is empty; name both")
            if not f"{name}{recording}".isprintable():
                raise InputError(
                    f"speaker {name!a}, recording {recording!a}: a name has control characters or is not UTF-8; rename it"
                )
            if times > 1:
                raise InputError(f"recording {recording!r} of speaker {name!r} is there {times} times; name it once")
        with self._transaction("IMMEDIATE") as db:
            db.executemany("INSERT OR IGNORE INTO speakers (name) VALUES (?)", ((name,) for name in set(names)))
            ids = {name: db.execute("SELECT id FROM speakers WHERE name = ?", (name,)).fetchone()[0] for name in set(names)}
            keys = [(ids[name], recording) for name, recording in named]
            replaced = db.executemany("DELETE FROM recordings WHERE speaker = ? AND name = ?", keys).rowcount
            db.execute("UPDATE gallery SET removed = removed + ?", (replaced,))
            db.executemany(
                "INSERT INTO recordings (speaker, name, embedding, digest) VALUES (?, ?, ?, ?)",
                ((*key, unit.tobytes(), _digest(*key, unit.tobytes())) for key, unit in zip(keys, units, strict=True)),
            )
            for name, id in ids.items():
                own = self._arrays(db.execute(f"SELECT {ROW} FROM recordings WHERE speaker = ?", (id,)).fetchall())[1]
                mean = own.mean(axis=0, dtype=np.float64).astype(DTYPE).tobytes()
                db.execute("UPDATE speakers SET mean = ?, digest = ? WHERE id = ?", (mean, _digest(id, name, mean), id))

    def remove(self, speaker: str) -> int:
        """Forget a speaker. Returns how many recordings they had.

        Nothing of them is left in the gallery's files: the database is rewritten without them (a second for each 100,000
        recordings), and the index is made anew, without them, by the next search or `update_index`.

        Raises InputError if nobody has that name.
        """
        with FileLock(self.folder / "index.lock"):  # so that no index is under way that holds them
            with self._transaction("IMMEDIATE") as db:
                own = "speaker = (SELECT id FROM speakers WHERE name = ?)"
                n_recordings = db.execute(f"DELETE FROM recordings WHERE {own}", (speaker,)).rowcount
                if not n_recordings:
                    raise InputError(f"{self.folder} knows no speaker {speaker!r}; `speakerprint people` lists those it knows")
                db.execute("DELETE FROM speakers WHERE name = ?", (speaker,))
                no_index = "index_file = NULL, index_size = 0, index_last = 0"
                db.execute(f"UPDATE gallery SET removed = removed + ?, {no_index}", (n_recordings,))
            for path in self.folder.glob("index-*.faiss"):
                path.unlink()
            with self._connected() as db:
                db.execute("VACUUM")  # wiped cells leave copies behind where pages were split
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return n_recordings

    def speakers(self) -> dict[str, list[str]]:
        """All speakers, by name, each with their recordings in the order of enrolment."""
        listed: dict[str, list[str]] = {}
        sql = """SELECT speakers.name, recordings.name FROM recordings JOIN speakers ON speakers.id = speaker
                 ORDER BY speakers.name, recordings.id"""
        with self._transaction() as db:
            for speaker, recording in db.execute(sql):
                listed.setdefault(speaker, []).append(recording)
        return listed

    def __len__(self) -> int:
        """How many speakers there are."""
        with self._transaction() as db:
            return int(db.execute("SELECT count(*) FROM speakers").fetchone()[0])

    def search(self, embedding: ArrayLike, k: int = 10) -> list[Match]:
        """The k recordings most similar to an embedding (dim,), best first; of up to UNINDEXED recordings surely those.

        Raises InputError for an embedding of another length, zero or not finite.
        """
        query = self._query(embedding)
        with self._searchable() as (db, vectors):
            ids, _, scores = self._nearest(db, vectors, query, k)
            sql = """SELECT recordings.id, speakers.name, recordings.name FROM recordings JOIN speakers ON speakers.id = speaker
                     WHERE recordings.id IN (SELECT value FROM json_each(?))"""
            names = {id: (speaker, recording) for id, speaker, recording in db.execute(sql, (json.dumps(ids.tolist()),))}
            if len(names) < len(ids):
                raise InputError(f"{self._database} is damaged: recordings have no speaker; {REMEDY}")
        matches = [Match(*names[id], score) for id, score in zip(ids.tolist(), scores.tolist(), strict=True)]
        return sorted(matches, key=lambda match: (-match.score, match))

    def identify(
        self,
        embedding: ArrayLike,
        threshold: float | None = None,
        n_candidates: int = 5,
        false_accept_rate: float = 0.01,
        calibration: "Calibration | None" = None,
    ) -> Identification:
        """Tell whose voice an embedding (dim,) is, or that it is nobody's, if no speaker's score reaches the threshold.

        A speaker's score is the mean of the cosines to all their recordings. Not the best one, which grows with their number as
        chances to be taken for somebody else do, nor the cosine to their mean direction, which grows, too, as averaging shortens
        the mean: a threshold chosen on pairs of recordings would let more strangers in than it says. The speakers compared are
        those of the IDENTIFIED_AMONG nearest recordings.

        false_accept_rate: how many of a hundred strangers are taken for anybody at all, at most, divided by a hundred. A stranger
        is accepted if any of N speakers' scores reaches the threshold, so it is that of false_accept_rate / N in one comparison
        (Boole's inequality), from the embedder's thresholds or the calibration's, see `score_for_rate`. threshold: instead, a
        score to reach, however many are enrolled.

        Raises InputError for an embedding of another length, zero or not finite, and where there is nothing to take a threshold
        from: the gallery was not opened with `Gallery.open`, or its model has none.
        """
        query = self._query(embedding)
        with self._searchable() as (db, vectors):
            speakers = set(self._nearest(db, vectors, query, IDENTIFIED_AMONG)[1].tolist())
            sql = "SELECT id, mean, digest, id, name FROM speakers WHERE id IN (SELECT value FROM json_each(?))"
            rows = db.execute(sql, (json.dumps(list(speakers)),)).fetchall()
            if len(rows) < len(speakers):
                raise InputError(f"{self._database} is damaged: recordings have no speaker; {REMEDY}")
            if threshold is None:
                threshold = self._threshold(false_accept_rate, calibration, self._count(db, vectors.state))
        scores = self._arrays(rows)[1] @ query
        candidates = [Candidate(row[4], score) for row, score in zip(rows, scores.tolist(), strict=True)]
        candidates = sorted(candidates, key=lambda candidate: (-candidate.score, candidate))[:n_candidates]
        name, score = candidates[0] if candidates else (None, -1.0)
        return Identification(name if score >= threshold else None, score, threshold, candidates)

    def threshold(self, false_accept_rate: float = 0.01, calibration: "Calibration | None" = None) -> float:
        """The score that `identify` asks for, with as many speakers as there are now. Raises InputError as it does."""
        return self._threshold(false_accept_rate, calibration, len(self))

    def _threshold(self, false_accept_rate: float, calibration: "Calibration | None", n_speakers: int) -> float:
        one_comparison = false_accept_rate / max(n_speakers, 1)
        if calibration is not None:
            calibration.refuse_other_model(self.model_id)
        try:
            return calibration.threshold(one_comparison) if calibration else score_for_rate(self.thresholds, one_comparison)
        except InputError as error:
            question = f"{false_accept_rate:g} of strangers among {n_speakers:,} speakers is {one_comparison:g} of comparisons"
            raise InputError(f"{question}; {error}; or give a threshold") from None

    def _count(self, db: sqlite3.Connection, state: _State) -> int:
        """How many speakers a state has, counted once."""
        counted = self._counted
        if counted is None or counted[0] != state:
            counted = self._counted = state, int(db.execute("SELECT count(*) FROM speakers").fetchone()[0])
        return counted[1]

    def update_index(self) -> None:
        """Bring the index file up to date, anew if it is missing, damaged or stale: a million recordings take some 20 seconds.

        Searches do so when more than UNINDEXED recordings are not in it. After a large enrolment this does it ahead of them.
        """
        if not _faiss():
            return
        with FileLock(self.folder / "index.lock"):  # the system lets go of it if this process is killed
            with self._transaction() as db:
                state = self._state(db)
            index = self._load_index(state)
            last, removed = (0, state.removed) if index is None else (state.index_last, state.index_removed)
            with self._transaction() as db:
                due = self._many_after(db, last)
            if index is not None and not due:
                return
            file, digest, size = None, None, 0
            if due:
                if index is None:
                    index = self._new_index()
                last = self._add_after(last, index)
                file = f"index-{uuid.uuid4().hex}.faiss"
                digest, size = self._save_index(index, self.folder / file), index.ntotal
            with self._transaction("IMMEDIATE") as db:
                sql = "UPDATE gallery SET (index_file, index_sha256, index_size, index_last, index_removed) = (?, ?, ?, ?, ?)"
                db.execute(sql, (file, digest, size, last, removed))
            for path in self.folder.glob("index-*.faiss"):  # the one before, and what killed processes left
                if path.name != file:
                    path.unlink()

    def _create(self, model_id: str, embedding_dim: int | None) -> None:
        """Make an empty database, unless another process is first: it appears whole, and never replaces one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            path = Path(temporary) / DATABASE
            try:
                with closing(sqlite3.connect(path)) as db, db:
                    db.executescript(SCHEMA)
                    db.execute("INSERT INTO gallery (model_id, embedding_dim) VALUES (?, ?)", (model_id, embedding_dim))
            except sqlite3.OperationalError as error:
                raise InputError(f"{self._database}: {error}; {REMEDY}") from error
            with suppress(FileExistsError):
                os.link(path, self._database)

    @contextmanager
    def _transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"] = "DEFERRED") -> Iterator[sqlite3.Connection]:
        """A connection of its own (some 0.1 ms), so that threads and forks share none, in a transaction that an error undoes."""
        with self._connected() as db:
            db.execute(f"BEGIN {kind}")
            with db:
                yield db

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own. Raises InputError for what SQLite says of the file."""
        try:
            with closing(sqlite3.connect(self._database, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as db:
                db.execute("PRAGMA secure_delete = ON")  # a voice that is removed is biometric data
                yield db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise InputError(f"{self._database}: {error}; {REMEDY}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self._database} is damaged: a name is not UTF-8; {REMEDY}") from error

    @contextmanager
    def _searchable(self) -> Iterator[tuple[sqlite3.Connection, _Vectors]]:
        """A transaction, and the vectors as it sees them."""
        while True:
            with self._transaction() as db:
                vectors = self._load(db)
                if vectors is not None:
                    yield db, vectors
                    return
            self.update_index()

    def _state(self, db: sqlite3.Connection) -> _State:
        columns = ", ".join(_State._fields[:-1])
        state = _State(*self._row(db, f"SELECT {columns}, (SELECT coalesce(max(id), 0) FROM recordings) FROM gallery"))
        return state if _faiss() else state._replace(index_file=None, index_sha256=None, index_size=0, index_last=0)

    def _load(self, db: sqlite3.Connection) -> _Vectors | None:
        """The vectors of the state that a transaction sees; None if the index has to be brought up to date first."""
        state = self._state(db)
        with self._loading:
            held = self._vectors
            if held is not None and held.state == state:
                return held
            if state.stale or self._many_after(db, state.index_last):
                return None
            if held is None or held.state.index_file != state.index_file:
                held = _Vectors(state, self._load_index(state), *self._arrays([]))
                if held.indexed is None and state.index_file is not None:
                    return None
            elif held.state.removed != state.removed or held.state.last > state.last:
                held = _Vectors(state, held.indexed, *self._arrays([]))
            after = int(held.ids[-1]) if len(held.ids) else state.index_last
            sql = f"SELECT {ROW} FROM recordings WHERE id > ? ORDER BY id"
            ids, embeddings = self._arrays(db.execute(sql, (after,)).fetchall())
            tail = np.concatenate([held.ids, ids]), np.concatenate([held.embeddings, embeddings])
            self._vectors = _Vectors(state, held.indexed, *tail)
            return self._vectors

    def _nearest(
        self, db: sqlite3.Connection, vectors: _Vectors, query: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Ids, speakers' ids and scores of the nearest `count` recordings, best first."""
        sql = f"SELECT {ROW} FROM recordings WHERE id IN (SELECT value FROM json_each(?))"
        wanted = count + RESCORED
        while True:
            rows = db.execute(sql, (json.dumps(vectors.nearest(query, wanted)),)).fetchall()
            ids, embeddings = self._arrays(rows)
            from_index = np.count_nonzero(ids <= vectors.state.index_last)
            if from_index >= count + RESCORED // 2 or wanted >= vectors.state.index_size:
                break
            wanted *= 4  # too many of those that the index found were removed
        scores = embeddings @ query
        best = np.lexsort((ids, -scores))[:count]
        return ids[best], np.array([row[3] for row in rows], dtype=np.int64)[best], scores[best]

    def _many_after(self, db: sqlite3.Connection, last: int) -> bool:
        if not _faiss():
            return False
        sql = "SELECT count(*) FROM (SELECT 1 FROM recordings WHERE id > ? LIMIT ?)"
        return bool(db.execute(sql, (last, UNINDEXED + 1)).fetchone()[0] > UNINDEXED)

    def _load_index(self, state: _State) -> "faiss.Index | None":
        """The index that the database names; None if there is none, it is damaged, or stale."""
        if state.index_file is None or state.stale or not INDEX_NAME.fullmatch(state.index_file):
            return None
        path = self.folder / state.index_file
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != state.index_sha256:
            return None
        return _faiss().deserialize_index(np.frombuffer(content, dtype=np.uint8))

    def _new_index(self) -> "faiss.Index":
        """An empty index, whose code is learned from recordings drawn from the whole gallery."""
        pairs = -(-self.embedding_dim // 2)  # of numbers, four bits each
        faiss = _faiss()
        index = faiss.index_factory(self.embedding_dim, f"IDMap,RR{2 * pairs},PQ{pairs}x4fs", faiss.METRIC_INNER_PRODUCT)
        sql = f"SELECT {ROW} FROM recordings WHERE id % max(1, (SELECT max(id) FROM recordings) / ?) = 0"
        with self._transaction() as db:
            index.train(self._arrays(db.execute(sql, (LEARNED_FROM,)).fetchall())[1])
        return index

    def _add_after(self, last: int, index: "faiss.Index") -> int:
        """Add all recordings after an id to an index, and return the last one's."""
        sql = f"SELECT {ROW} FROM recordings WHERE id > ? ORDER BY id LIMIT ?"
        with tqdm(desc="index", unit="recording", disable=None) as progress:
            while True:
                with self._transaction() as db:  # short ones, for the log of a writing process cannot shrink during any
                    ids, embeddings = self._arrays(db.execute(sql, (last, ROWS)).fetchall())
                if not len(ids):
                    return last
                index.add_with_ids(embeddings, ids)
                last = int(ids[-1])
                progress.update(len(ids))

    @staticmethod
    def _save_index(index: "faiss.Index", path: Path) -> str:
        """Write an index to disk for good, and return its digest."""
        content = _faiss().serialize_index(index).tobytes()
        with whole_file(path) as part:
            part.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def _units(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        rows = np.asarray(embeddings)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_dim:
            raise InputError(
                f"embeddings have shape {rows.shape}, expected (n, {self.embedding_dim}), as the gallery's model gives"
            )
        return unit_vectors(rows).astype(DTYPE)

    def _query(self, embedding: ArrayLike) -> NDArray[np.float32]:
        query: NDArray[np.float32] = self._units(np.asarray(embedding)[None])[0]
        return query

    def _row(self, db: sqlite3.Connection, sql: str) -> tuple[Any, ...]:
        """The one row that there is in a whole gallery."""
        row: tuple[Any, ...] | None = db.execute(sql).fetchone()
        if row is None:
            raise InputError(f"{self._database} is damaged: it does not say what it holds; {REMEDY}")
        return row

    def _arrays(self, rows: Sequence[tuple[int, bytes, int, int, str]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """ids (n,) and vectors (n, dim) of rows of both, their digest and what else it is of. Raises InputError if it is not."""
        size = self.embedding_dim * DTYPE.itemsize
        for _, vector, digest, owner, name in rows:
            if not isinstance(vector, bytes) or len(vector) != size or digest != _digest(owner, name, vector):
                raise InputError(f"{self._database} is damaged: {name!r} is not as it was enrolled; {REMEDY}")
        vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=DTYPE)
        return np.array([row[0] for row in rows], dtype=np.int64), vectors.reshape(-1, self.embedding_dim)

    def _add_digests(self) -> None:
        """Bring a gallery of format 1 to format 2, in one transaction; another process may be first."""
        with self._transaction("IMMEDIATE") as db:
            if db.execute("PRAGMA user_version").fetchone() != (1,):
                return
            db.create_function("digest", 3, _digest, deterministic=True)
            db.execute("ALTER TABLE recordings ADD COLUMN digest INTEGER NOT NULL DEFAULT 0")
            db.execute("ALTER TABLE speakers ADD COLUMN digest INTEGER")
            db.execute("UPDATE recordings SET digest = digest(speaker, name, embedding)")
            db.execute("UPDATE speakers SET digest = digest(id, name, mean)")
            db.execute(f"PRAGMA user_version = {FORMAT}")


def _digest(owner: int, name: str, vector: bytes) -> int:
    """CRC-32 of a row: tells a damaged disk or copy, not a forger, who could write another one."""
    return zlib.crc32(f"{owner} {name} ".encode() + vector)
