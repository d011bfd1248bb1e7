"""Known speakers on disk: enrol them, search their recordings, identify who speaks in a new one.

A gallery is a folder. ``gallery.sqlite`` is the truth: every speaker, every enrolled recording and its embedding. An enrolment is
one transaction, durable when `Gallery.enrol` returns; any number of processes may write and read at the same time (on a local
disk: the database's write-ahead log does not work over a network), and one that is killed leaves nothing half done.

``index-….faiss``, in galleries of more than UNINDEXED recordings and where faiss is installed, is a cache that the database
names, with its digest: see `gallery_index`. Recordings enrolled since are compared one by one, until they are so many that the
index is extended. What it finds is looked up in the database, where removed recordings are no longer found, and scored with the
embeddings there. Lost or damaged, it is made again. Every row has a digest, which is checked whenever the row is read.
"""

import json
import re
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from speakerprint.errors import InputError
from speakerprint.inference.calibration import score_for_rate
from speakerprint.inference.gallery_database import DTYPE, REMEDY, ROW, GalleryDatabase, row_digest
from speakerprint.inference.gallery_index import faiss_module, read_index, train_index, write_index
from speakerprint.inference.vectors import unit_vectors

if TYPE_CHECKING:
    import faiss

    from speakerprint.inference.calibration import Calibration
    from speakerprint.inference.embedder import SpeakerEmbedder

UNINDEXED = 100_000  # as many embeddings of 128 numbers are compared one by one in some 10 ms
RESCORED = 400  # recordings looked up beyond those asked for, as two bits a number are rough: by benchmarks/bench_gallery.py
IDENTIFIED_AMONG = 100  # the nearest recordings, whose speakers are compared
STALE_FRACTION = 0.1  # of the indexed recordings removed since: the index is made again
ROWS = 10_000  # read at once to be indexed
LEARNED_FROM = 50_000  # recordings, at most, that the index's code is learned from
UNSHOWABLE = re.compile(r"[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # ends a line, turns text, or is none
INDEX_NAME = re.compile(r"index-[0-9a-f]{32}\.faiss")  # in the gallery's folder: the database cannot name another file


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
    n_speakers: int
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
        self._database = GalleryDatabase(self.folder, model_id, embedding_dim)
        self.model_id, self.embedding_dim = self._database.model_id, self._database.embedding_dim
        self.thresholds: dict[float, float] = {}  # of one comparison; `open` takes the embedder's
        self._vectors: _Vectors | None = None
        self._loading = threading.Lock()

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
            if not name.strip() or not recording:
                raise InputError(f"speaker {name!r}, recording {recording!r}: a name is empty; name both")
            if UNSHOWABLE.search(f"{name}{recording}"):
                raise InputError(
                    f"speaker {name!a}, recording {recording!a}: a name has control characters or is not UTF-8; rename it"
                )
            if times > 1:
                raise InputError(f"recording {recording!r} of speaker {name!r} is there {times} times; name it once")
        with self._database.transaction("IMMEDIATE") as db:
            db.executemany("INSERT OR IGNORE INTO speakers (name) VALUES (?)", ((name,) for name in set(names)))
            ids = {name: db.execute("SELECT id FROM speakers WHERE name = ?", (name,)).fetchone()[0] for name in set(names)}
            keys = [(ids[name], recording) for name, recording in named]
            replaced = db.executemany("DELETE FROM recordings WHERE speaker = ? AND name = ?", keys).rowcount
            db.execute("UPDATE gallery SET removed = removed + ?", (replaced,))
            db.executemany(
                "INSERT INTO recordings (speaker, name, embedding, digest) VALUES (?, ?, ?, ?)",
                ((*key, unit.tobytes(), row_digest(*key, unit.tobytes())) for key, unit in zip(keys, units, strict=True)),
            )
            for name, id in ids.items():
                own = self._database.arrays(db.execute(f"SELECT {ROW} FROM recordings WHERE speaker = ?", (id,)).fetchall())[1]
                mean = own.mean(axis=0, dtype=np.float64).astype(DTYPE).tobytes()
                db.execute("UPDATE speakers SET mean = ?, digest = ? WHERE id = ?", (mean, row_digest(id, name, mean), id))

    def remove(self, speaker: str) -> int:
        """Forget a speaker. Returns how many recordings they had.

        Nothing of them is left in the gallery's files: the database is rewritten without them (a second for each 100,000
        recordings), and the index is made anew, without them, by the next search or `update_index`.

        Raises InputError if nobody has that name.
        """
        with FileLock(self.folder / "index.lock"):  # so that no index is under way that holds them
            with self._database.transaction("IMMEDIATE") as db:
                own = "speaker = (SELECT id FROM speakers WHERE name = ?)"
                n_recordings = db.execute(f"DELETE FROM recordings WHERE {own}", (speaker,)).rowcount
                if not n_recordings:
                    raise InputError(f"{self.folder} knows no speaker {speaker!r}; `speakerprint people` lists those it knows")
                db.execute("DELETE FROM speakers WHERE name = ?", (speaker,))
                no_index = "index_file = NULL, index_size = 0, index_last = 0"
                db.execute(f"UPDATE gallery SET removed = removed + ?, {no_index}", (n_recordings,))
            for path in self.folder.glob("index-*.faiss"):
                path.unlink()
            with self._database.connected() as db:
                db.execute("VACUUM")  # wiped cells leave copies behind where pages were split
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return n_recordings

    def speakers(self) -> dict[str, list[str]]:
        """All speakers, by name, each with their recordings in the order of enrolment."""
        listed: dict[str, list[str]] = {}
        sql = """SELECT speakers.name, recordings.name FROM recordings JOIN speakers ON speakers.id = speaker
                 ORDER BY speakers.name, recordings.id"""
        with self._database.transaction() as db:
            for speaker, recording in db.execute(sql):
                listed.setdefault(speaker, []).append(recording)
        return listed

    def __len__(self) -> int:
        """How many speakers there are."""
        with self._database.transaction() as db:
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
                raise InputError(f"{self._database.path} is damaged: recordings have no speaker; {REMEDY}")
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
                raise InputError(f"{self._database.path} is damaged: recordings have no speaker; {REMEDY}")
            if threshold is None:
                threshold = self._threshold(false_accept_rate, calibration, vectors.n_speakers)
        scores = self._database.arrays(rows)[1] @ query
        candidates = [Candidate(row[4], score) for row, score in zip(rows, scores.tolist(), strict=True)]
        candidates.sort(key=lambda candidate: (-candidate.score, candidate))
        name, score = candidates[0] if candidates else (None, -1.0)
        return Identification(name if score >= threshold else None, score, threshold, candidates[:n_candidates])

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

    def update_index(self) -> None:
        """Bring the index file up to date, anew if it is missing, damaged or stale: a million recordings take some 20 seconds.

        Searches do so when more than UNINDEXED recordings are not in it. After a large enrolment this does it ahead of them.
        """
        if not faiss_module():
            return
        with FileLock(self.folder / "index.lock"):  # the system lets go of it if this process is killed
            with self._database.transaction() as db:
                state = self._state(db)
            index = self._load_index(state)
            last, removed = (0, state.removed) if index is None else (state.index_last, state.index_removed)
            with self._database.transaction() as db:
                due = self._many_after(db, last)
            if index is not None and not due:
                return
            file, digest, size = None, None, 0
            if due:
                if index is None:
                    index = train_index(self._examples())
                last = self._add_after(last, index)
                file = f"index-{uuid.uuid4().hex}.faiss"
                digest, size = write_index(index, self.folder / file), index.ntotal
            with self._database.transaction("IMMEDIATE") as db:
                sql = "UPDATE gallery SET (index_file, index_sha256, index_size, index_last, index_removed) = (?, ?, ?, ?, ?)"
                db.execute(sql, (file, digest, size, last, removed))
            for path in self.folder.glob("index-*.faiss"):  # the one before, and what killed processes left
                if path.name != file:
                    path.unlink()

    @contextmanager
    def _searchable(self) -> Iterator[tuple[sqlite3.Connection, _Vectors]]:
        """A transaction, and the vectors as it sees them."""
        while True:
            with self._database.transaction() as db:
                vectors = self._load(db)
                if vectors is not None:
                    yield db, vectors
                    return
            self.update_index()

    def _state(self, db: sqlite3.Connection) -> _State:
        columns = ", ".join(_State._fields[:-1])
        state = _State(*self._database.row(db, f"SELECT {columns}, (SELECT coalesce(max(id), 0) FROM recordings) FROM gallery"))
        return state if faiss_module() else state._replace(index_file=None, index_sha256=None, index_size=0, index_last=0)

    def _load(self, db: sqlite3.Connection) -> _Vectors | None:
        """The vectors of the state that a transaction sees; None if the index has to be brought up to date first."""
        state = self._state(db)
        with self._loading:
            held = self._vectors
            if held is not None and held.state == state:
                return held
            if state.stale or self._many_after(db, state.index_last):
                return None
            indexed, ids, embeddings = None, *self._database.arrays([])
            if held is None or held.state.index_file != state.index_file:
                indexed = self._load_index(state)
                if indexed is None and state.index_file is not None:
                    return None
            else:
                indexed = held.indexed
                if held.state.removed == state.removed and held.state.last <= state.last:
                    ids, embeddings = held.ids, held.embeddings
            after = int(ids[-1]) if len(ids) else state.index_last
            sql = f"SELECT {ROW} FROM recordings WHERE id > ? ORDER BY id"
            new_ids, new = self._database.arrays(db.execute(sql, (after,)).fetchall())
            (n_speakers,) = db.execute("SELECT count(*) FROM speakers").fetchone()
            ids, embeddings = np.concatenate([ids, new_ids]), np.concatenate([embeddings, new])
            self._vectors = _Vectors(state, n_speakers, indexed, ids, embeddings)
            return self._vectors

    def _nearest(
        self, db: sqlite3.Connection, vectors: _Vectors, query: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Ids, speakers' ids and scores of the nearest `count` recordings, best first."""
        sql = f"SELECT {ROW} FROM recordings WHERE id IN (SELECT value FROM json_each(?))"
        wanted = count + RESCORED
        while True:
            rows = db.execute(sql, (json.dumps(vectors.nearest(query, wanted)),)).fetchall()
            ids, embeddings = self._database.arrays(rows)
            from_index = np.count_nonzero(ids <= vectors.state.index_last)
            if from_index >= count + RESCORED // 2 or wanted >= vectors.state.index_size:
                break
            wanted *= 4  # too many of those that the index found were removed
        scores = embeddings @ query
        best = np.lexsort((ids, -scores))[:count]
        return ids[best], np.array([row[3] for row in rows], dtype=np.int64)[best], scores[best]

    def _many_after(self, db: sqlite3.Connection, last: int) -> bool:
        if not faiss_module():
            return False
        sql = "SELECT count(*) FROM (SELECT 1 FROM recordings WHERE id > ? LIMIT ?)"
        return bool(db.execute(sql, (last, UNINDEXED + 1)).fetchone()[0] > UNINDEXED)

    def _load_index(self, state: _State) -> "faiss.Index | None":
        """The index that the database names; None if there is none, it is damaged, or stale."""
        if state.index_file is None or state.stale or not INDEX_NAME.fullmatch(state.index_file):
            return None
        return read_index(self.folder / state.index_file, str(state.index_sha256))

    def _examples(self) -> NDArray[np.float32]:
        """Embeddings drawn from the whole gallery, (n, dim), that an index's code is learned from."""
        sql = f"SELECT {ROW} FROM recordings WHERE id % max(1, (SELECT max(id) FROM recordings) / ?) = 0"
        with self._database.transaction() as db:
            return self._database.arrays(db.execute(sql, (LEARNED_FROM,)).fetchall())[1]

    def _add_after(self, last: int, index: "faiss.Index") -> int:
        """Add all recordings after an id to an index, and return the last one's."""
        sql = f"SELECT {ROW} FROM recordings WHERE id > ? ORDER BY id LIMIT ?"
        with tqdm(desc="index", unit="recording", disable=None) as progress:
            while True:
                with self._database.transaction() as db:  # short ones, for the log of a writing process cannot shrink during any
                    ids, embeddings = self._database.arrays(db.execute(sql, (last, ROWS)).fetchall())
                if not len(ids):
                    return last
                index.add_with_ids(embeddings, ids)
                last = int(ids[-1])
                progress.update(len(ids))

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
