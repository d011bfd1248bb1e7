"""Known speakers on disk, with drawn embeddings: three or more a speaker, near the speaker's own direction."""

import multiprocessing
import re
import shutil
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import speakerprint
from speakerprint.errors import InputError
from speakerprint.inference import gallery as module
from speakerprint.inference.gallery import Gallery
from speakerprint.inference.gallery_database import DATABASE, SCHEMA
from speakerprint.inference.gallery_index import write_index

DIM = 32
FORK = multiprocessing.get_context("fork")  # a process that starts anew takes a second to import this


def voices(n, per_speaker, seed=0):
    """Speakers' names (n · per_speaker,), recordings' names, and unit vectors with a cosine of about 0.7 within a speaker."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(n, DIM)), per_speaker, axis=0) + 0.65 * rng.normal(size=(n * per_speaker, DIM))
    speakers = [f"s{i:03}" for i in range(n) for _ in range(per_speaker)]
    recordings = [f"{i}.wav" for _ in range(n) for i in range(per_speaker)]
    return speakers, recordings, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def filled(folder, n=40, per_speaker=4):
    gallery = Gallery(folder, "model", DIM)
    speakers, recordings, rows = voices(n, per_speaker)
    gallery.enrol(speakers, rows, recordings)
    return gallery, speakers, recordings, rows


@pytest.fixture
def indexed(monkeypatch):
    """Galleries of more than 50 recordings have an index."""
    monkeypatch.setattr(module, "UNINDEXED", 50)


def test_the_package_offers_it():
    assert speakerprint.Gallery is Gallery


@pytest.mark.slow
def test_search_finds_the_nearest_recordings_with_their_cosines(tmp_path):
    gallery = Gallery(tmp_path / "new/gallery", "model", 2)
    gallery.enrol("ann", [[3.0, 0.0], [1.0, 1.0]], ["a", "b"])
    gallery.enrol("bob", [[0.0, 5.0]], ["a"])
    found = gallery.search([2.0, 0.0], k=2)
    assert [match[:2] for match in found] == [("ann", "a"), ("ann", "b")]
    assert [match.score for match in found] == pytest.approx([1, 0.5**0.5])
    assert [match[:2] for match in gallery.search([2.0, 0.0])] == [("ann", "a"), ("ann", "b"), ("bob", "a")]


def test_the_threshold_is_that_of_one_question_however_many_are_enrolled(tmp_path):
    embedder: Any = SimpleNamespace(model_id="model", embedding_dim=2, thresholds={0.01: 0.4, 0.001: 0.6, 0.0001: 0.7})
    gallery = Gallery.open(tmp_path, embedder)
    gallery.enrol("ann", [[1.0, 0.0]], ["a"])
    assert gallery.threshold() == gallery.identify([0.0, 1.0]).threshold == 0.4
    gallery.enrol([f"speaker {n}" for n in range(9)], [[1.0, n] for n in range(9)], 9 * ["a"])
    assert gallery.threshold() == gallery.identify([0.0, 1.0]).threshold == 0.6
    assert gallery.identify([0.0, 1.0], false_accept_rate=0.001).threshold == 0.7
    assert gallery.identify([0.0, 1.0], threshold=0.5, false_accept_rate=0.001).threshold == 0.5
    gallery.remove("ann")
    assert gallery.threshold() == gallery.identify([0.0, 1.0]).threshold < 0.6
    with pytest.raises(
        InputError, match=r"^0\.5 of strangers among 9 speakers is 0\.0555556 of comparisons; there is no threshold"
    ):
        gallery.identify([0.0, 1.0], false_accept_rate=0.5)
    with pytest.raises(InputError, match=r"there is: none.*; or give a threshold"):
        Gallery(tmp_path).identify([0.0, 1.0])


def test_a_gallery_says_what_it_is(tmp_path):
    gallery = Gallery(tmp_path, "model", 2)
    gallery.enrol("ann", [[1.0, 0.0]], ["a"])
    assert repr(gallery) == f"Gallery({str(tmp_path)!r}, model_id='model', speakers=1)"


def test_a_speakers_score_is_the_mean_cosine_to_their_recordings(tmp_path):
    gallery = Gallery(tmp_path, "model", 2)
    gallery.enrol("ann", [[1.0, 0.0], [0.0, 1.0]], ["a", "b"])
    gallery.enrol("bob", [[0.6, 0.8]], ["a"])
    person = gallery.identify([1.0, 0.0], threshold=0.55)
    assert person.speaker == "bob" and person.threshold == 0.55
    assert [candidate.speaker for candidate in person.candidates] == ["bob", "ann"]
    assert [candidate.score for candidate in person.candidates] == pytest.approx([0.6, 0.5])
    gallery.enrol("ann", [[1.0, 0.0]], ["c"])
    assert gallery.identify([1.0, 0.0], threshold=0.55)[:2] == ("ann", pytest.approx(2 / 3))
    reached = gallery.identify([1.0, 0.0], threshold=gallery.identify([1.0, 0.0], threshold=1.0).score, n_candidates=0)
    assert reached.speaker == "ann" and reached.candidates == []


@pytest.mark.slow
def test_an_unknown_voice_is_rejected_and_a_known_one_is_not(tmp_path):
    gallery, speakers, _, rows = filled(tmp_path)
    rng = np.random.default_rng(1)
    for i in range(40):
        known = rows[4 * i : 4 * i + 4].mean(axis=0) + 0.05 * rng.normal(size=DIM)
        assert gallery.identify(known, threshold=0.7).speaker == speakers[4 * i]
        stranger = gallery.identify(rng.normal(size=DIM), threshold=0.7)
        assert stranger.speaker is None and stranger.score == stranger.candidates[0].score < 0.7


@pytest.mark.slow
def test_more_recordings_of_a_speaker_let_no_more_strangers_in(tmp_path):
    gallery = Gallery(tmp_path, "model", DIM)
    rng = np.random.default_rng(2)
    _, recordings, rows = voices(1, 20)
    gallery.enrol("one", rows[:1], recordings[:1])
    gallery.enrol("many", rows, recordings)
    strangers = rng.normal(size=(300, DIM))
    scores = [{c.speaker: c.score for c in gallery.identify(stranger, 0).candidates} for stranger in strangers]
    accepted = {name: np.mean([score[name] >= 0.3 for score in scores]) for name in ("one", "many")}
    assert 0 < accepted["many"] <= accepted["one"]


def test_an_empty_gallery_knows_nobody(tmp_path):
    gallery = Gallery(tmp_path, "model", 2)
    assert gallery.search([1, 0]) == [] and gallery.speakers() == {} and len(gallery) == 0
    assert gallery.identify([1, 0], threshold=-1) == (None, -1.0, -1, [])


def test_it_lists_speakers_and_their_recordings(tmp_path):
    gallery, *_ = filled(tmp_path, 3, 2)
    gallery.enrol("s001", [np.ones(DIM)], ["later.wav"])
    assert gallery.speakers() == {"s000": ["0.wav", "1.wav"], "s001": ["0.wav", "1.wav", "later.wav"], "s002": ["0.wav", "1.wav"]}
    assert len(gallery) == 3


def test_enrolling_a_recording_again_replaces_it(tmp_path):
    gallery = Gallery(tmp_path, "model", 2)
    for direction in ([0, 1], [1, 0], [1, 0]):
        gallery.enrol("ann", [direction], ["a"])
        gallery.enrol("bob", [[0, 1]], ["a"])
        gallery.search([1, 0])
    assert gallery.speakers() == {"ann": ["a"], "bob": ["a"]}
    assert [match.score for match in gallery.search([1, 0])] == pytest.approx([1, 0])
    assert gallery.identify([1, 0], 0.9).score == pytest.approx(1)


def test_what_was_replaced_does_not_pile_up_in_the_index(tmp_path, indexed):
    for _ in range(4):
        gallery, _, _, rows = filled(tmp_path)  # 160 recordings, the same
        gallery.search(rows[0])
    with sqlite3.connect(tmp_path / DATABASE) as db:
        assert db.execute("SELECT index_size FROM gallery").fetchone() == (160,)


def test_a_gallery_that_another_process_made_in_the_meantime_is_kept(tmp_path):
    gallery, *_ = filled(tmp_path)
    gallery._database.create("another", 2)
    assert len(Gallery(tmp_path, "model", DIM)) == 40


def test_a_gallery_is_made_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    gallery, *_ = filled(tmp_path, 2)
    gallery._database.create("another", 2)
    assert len(Gallery(tmp_path, "model", DIM)) == 2 and len(list(tmp_path.iterdir())) == 1


def test_another_models_gallery_is_refused(tmp_path):
    filled(tmp_path)
    for other in (("other", DIM), ("model", DIM + 1)):
        with pytest.raises(InputError, match=r"is a gallery of model model \(32 numbers an embedding\).*cannot be compared"):
            Gallery(tmp_path, *other)
    assert Gallery(tmp_path).model_id == Gallery(tmp_path, "model", DIM).model_id == "model"


def test_without_a_model_no_gallery_is_made(tmp_path):
    with pytest.raises(InputError, match="holds no gallery"):
        Gallery(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("speaker", "embeddings", "recordings", "message"),
    [
        ("ann", np.ones((2, 3)), ["a", "b"], r"shape \(2, 3\), expected \(n, 2\)"),
        ("ann", np.ones(2), ["a"], r"shape \(2,\)"),
        ("ann", np.ones((2, 2)), ["a"], "2 embeddings, 1 recordings, 1 speakers"),
        (["ann"], np.ones((2, 2)), ["a", "b"], "2 embeddings, 2 recordings, 1 speakers"),
        ("ann", np.ones((0, 2)), [], "0 embeddings"),
        ("ann", [[1, 1], [0, 0]], ["a", "b"], "embedding 1 of 2 has length 0"),
        ("ann", [[np.nan, 0]], ["a"], "has length nan"),
        ("ann", np.ones((2, 2)), ["a", "a"], "'a' of speaker 'ann' is there 2 times"),
        ("", np.ones((1, 2)), ["a"], "a name is empty"),
        (" ", np.ones((1, 2)), ["a"], "a name is empty"),
        ("ann", np.ones((1, 2)), [""], "a name is empty"),
        ("nna\u202e", np.ones((1, 2)), ["a"], r"'nna\\u202e', recording 'a': a name has control characters"),
        ("ann", np.ones((1, 2)), ["caf\udce9.wav"], r"'caf\\udce9.wav': a name has control characters or is not UTF-8"),
    ],
)
def test_what_cannot_be_enrolled_is_refused_and_leaves_no_trace(tmp_path, speaker, embeddings, recordings, message):
    gallery = Gallery(tmp_path, "model", 2)
    with pytest.raises(InputError, match=message):
        gallery.enrol(speaker, embeddings, recordings)
    assert len(gallery) == 0


@pytest.mark.parametrize("name", ["علی\u200cرضا", "山田\u3000太郎", "Zoe\u0308 O'Neil-Li", "👩\u200d🎤"])
def test_a_name_of_any_language_is_kept(tmp_path, name):
    gallery = Gallery(tmp_path, "model", 2)
    gallery.enrol(name, [[1, 0]], [f"Aufnahme 9.41\u202fPM {name}.m4a"])  # as macOS writes the time
    assert gallery.identify([1, 0], 0.9).speaker == name
    assert gallery.speakers() == {name: [f"Aufnahme 9.41\u202fPM {name}.m4a"]}
    assert gallery.remove(name) == 1


def test_a_removed_speaker_is_never_found_again(tmp_path, indexed):
    gallery, speakers, _, rows = filled(tmp_path)
    reader = Gallery(tmp_path)  # has the index open while the other object removes
    reader.search(rows[0])
    assert gallery.remove("s000") == 4
    for opened in (gallery, reader, Gallery(tmp_path)):
        assert {match.speaker for match in opened.search(rows[0], k=156)} == set(speakers) - {"s000"}
        assert "s000" not in {candidate.speaker for candidate in opened.identify(rows[0], 0, n_candidates=99).candidates}
        assert "s000" not in opened.speakers()
    with pytest.raises(InputError, match="knows no speaker 's000'"):
        gallery.remove("s000")


def test_a_removed_person_is_in_none_of_the_gallery_s_files(tmp_path, indexed):
    gallery, speakers, recordings, rows = filled(tmp_path)
    gallery.enrol("Petra Removed", rows[:8] + 0.1, [f"petra{i}.wav" for i in range(8)])
    gallery.enrol("Petra Removed", rows[8:12], [f"petra{i}.wav" for i in range(4)])  # in the place of the first four
    gallery.update_index()
    mean = gallery._database.row(_open(tmp_path), "SELECT mean FROM speakers WHERE name LIKE 'Petra%'")[0]
    units = gallery._units(np.concatenate([rows[:8] + 0.1, rows[8:12]]))
    reader = _open(tmp_path)  # so that the write-ahead log stays
    gallery.remove("Petra Removed")
    reader.close()
    found = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not [trace for trace in (b"Petra", b"petra", mean, *(unit.tobytes() for unit in units[:8])) if trace in found]
    assert gallery._units(rows[:1]).tobytes() in found
    assert not list(tmp_path.glob("index-*"))
    assert_exact(gallery, rows, list(zip(speakers, recordings, strict=True)), rows[:3] + 0.05)  # with a new index


def _open(folder):
    db = sqlite3.connect(folder / DATABASE, isolation_level=None)
    db.execute("SELECT * FROM gallery").fetchall()
    return db


# --- damage -----------------------------------------------------------------------------------------------------------


def edited(folder, sql, *values):
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        db.execute(sql, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("UPDATE recordings SET embedding = ? WHERE id = 1", np.eye(DIM, dtype="<f4")[0].tobytes()),
        ("UPDATE recordings SET embedding = ? WHERE id = 1", b"short"),
        ("UPDATE recordings SET embedding = ? WHERE id = 1", "text"),
        ("UPDATE recordings SET name = ? WHERE id = 1", "another.wav"),
        ("UPDATE recordings SET speaker = ? WHERE id = 1", 99),
        ("UPDATE speakers SET mean = ? WHERE name = 's000'", None),
        ("UPDATE speakers SET name = ? WHERE name = 's000'", "somebody else"),
    ],
)
def test_a_row_that_is_not_as_it_was_enrolled_is_refused(tmp_path, sql, value):
    gallery, _, _, rows = filled(tmp_path, n=3)
    edited(tmp_path, sql, value)
    with pytest.raises(InputError, match=r"gallery\.sqlite is damaged: .* is not as it was enrolled; .*backup"):
        for row in rows:
            gallery.identify(row, 0.0)


@pytest.mark.parametrize("name", ["/tmp/planted.faiss", "../planted.faiss", "index-.faiss", "", 7])
def test_the_database_cannot_name_an_index_elsewhere(tmp_path, indexed, monkeypatch, name):
    gallery = filled(tmp_path)[0]
    gallery.update_index()
    edited(tmp_path, "UPDATE gallery SET index_file = ?", name)
    monkeypatch.setattr(module, "read_index", None)  # nothing of it is even read
    assert gallery._load_index(gallery._state(_open(tmp_path))) is None


@pytest.mark.parametrize("sql", ["DELETE FROM gallery", "UPDATE gallery SET embedding_dim = 'x'", "DROP TABLE speakers"])
def test_a_database_that_lacks_what_it_needs_is_refused(tmp_path, sql):
    _, _, _, rows = filled(tmp_path, n=3)
    edited(tmp_path, sql)
    with pytest.raises(InputError, match=r"gallery\.sqlite"):
        Gallery(tmp_path).identify(rows[0], 0.0)


@pytest.mark.slow
def test_flipped_bytes_anywhere_in_the_database_change_no_answer(tmp_path):
    gallery, _, _, rows = filled(tmp_path, n=10)
    right = gallery.identify(rows[0], 0.0)
    content, rng = (tmp_path / DATABASE).read_bytes(), np.random.default_rng(0)
    for place in rng.integers(len(content), size=200).tolist():
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / DATABASE).write_bytes(damaged)
        try:
            assert Gallery(tmp_path).identify(rows[0], 0.0) == right, place
        except InputError as error:
            assert str(tmp_path) in str(error)


def test_a_gallery_of_the_first_format_is_brought_up_to_date(tmp_path):
    gallery, _, _, rows = filled(tmp_path, n=3)
    right = gallery.identify(rows[0], 0.0)
    first = re.sub(r".*digest INTEGER.*\n", "", SCHEMA).replace("user_version = 2", "user_version = 1")
    (tmp_path / DATABASE).rename(tmp_path / "second")
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        db.executescript(first.replace("mean BLOB,", "mean BLOB"))
        db.execute("ATTACH ? AS second", (str(tmp_path / "second"),))
        for table, columns in (("gallery", "*"), ("speakers", "id, name, mean"), ("recordings", "id, speaker, name, embedding")):
            db.execute(f"INSERT INTO {table} SELECT {columns} FROM second.{table}")
        db.commit()
    assert Gallery(tmp_path).identify(rows[0], 0.0) == right
    assert Gallery(tmp_path, "model", DIM).remove("s000") == 4


@pytest.mark.parametrize("unindexed", [50, 1000])
def test_neighbours_behind_a_crowd_of_replaced_ones_are_found(tmp_path, monkeypatch, unindexed):
    for constant, value in (("UNINDEXED", unindexed), ("STALE_FRACTION", 1.0), ("IDENTIFIED_AMONG", 2), ("RESCORED", 0)):
        monkeypatch.setattr(module, constant, value)
    gallery, _, _, rows = filled(tmp_path)
    east, names = np.eye(DIM)[0], [str(i) for i in range(40)]
    gallery.enrol("crowd", [east + 0.01 * np.eye(DIM)[i % DIM] for i in range(40)], names)
    gallery.search(east)
    gallery.enrol("crowd", [-east] * 40, names)
    assert [match.score for match in gallery.search(east, k=3)] == pytest.approx(np.sort(rows @ east)[:-4:-1], abs=1e-6)
    assert gallery.identify(east, -1).score > 0


# --- the index --------------------------------------------------------------------------------------------------------


def index_file(folder):
    (path,) = folder.glob("index-*.faiss")
    return path


def assert_exact(gallery, rows, names, queries):
    """Search and identification agree with products of all rows."""
    for query in queries:
        scores = rows @ (query / np.linalg.norm(query))
        best = np.argsort(-scores)[:5]
        found = gallery.search(query, k=5)
        assert [match[:2] for match in found] == [names[i] for i in best]
        assert [match.score for match in found] == pytest.approx(scores[best].tolist(), abs=1e-6)
        speakers = sorted({name for name, _ in names})
        means = [scores[[name == speaker for name, _ in names]].mean() for speaker in speakers]
        assert gallery.identify(query, -1)[:2] == (speakers[np.argmax(means)], pytest.approx(max(means), abs=1e-6))


@pytest.mark.slow
def test_search_agrees_with_exact_search_while_the_gallery_grows_and_shrinks(tmp_path, indexed):
    gallery, reader = Gallery(tmp_path, "model", DIM), Gallery(tmp_path, "model", DIM)
    speakers, recordings, rows = voices(60, 4)
    queries = np.concatenate([rows[::25] + 0.05, np.random.default_rng(4).normal(size=(5, DIM))])
    indexes = set()
    for end in (40, 80, 120, 160, 240):
        new = slice(end - 80 if end == 240 else end - 40, end)
        gallery.enrol(speakers[new], rows[new], recordings[new])
        names = list(zip(speakers[:end], recordings[:end], strict=True))
        assert_exact(reader, rows[:end], names, queries)
        assert_exact(gallery, rows[:end], names, queries)
        assert len(reader._vectors.ids) <= 50  # the others are in the index only
        indexes |= set(tmp_path.glob("index-*"))
    assert len(indexes) == 3  # at 80, 160 and 240
    for speaker in speakers[:80:4]:
        gallery.remove(speaker)
    assert_exact(reader, rows[80:], list(zip(speakers, recordings, strict=True))[80:], queries)
    indexes |= set(tmp_path.glob("index-*"))
    assert len(indexes) == 4  # a third of it was removed
    for speaker in speakers[80:200:4]:
        gallery.remove(speaker)
    assert_exact(reader, rows[200:], list(zip(speakers, recordings, strict=True))[200:], queries)
    assert not list(tmp_path.glob("index-*.faiss"))  # 40 are left


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty"])
def test_a_damaged_index_is_made_again(tmp_path, indexed, damage):
    gallery, speakers, recordings, rows = filled(tmp_path)
    gallery.update_index()
    path = index_file(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.unlink()
    if damage != "missing":
        path.write_bytes({"truncated": content[:-100], "flipped": content, "empty": b""}[damage])
    assert_exact(Gallery(tmp_path), rows, list(zip(speakers, recordings, strict=True)), rows[::20])
    assert index_file(tmp_path) != path


def test_an_embedding_of_another_length_is_damage_that_is_named(tmp_path):
    _, _, _, rows = filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db, db:
        db.execute("UPDATE recordings SET embedding = x'00' WHERE id = 1")
    with pytest.raises(InputError, match=r"gallery\.sqlite is damaged: .* backup"):
        Gallery(tmp_path).search(rows[0], 3)


def test_a_disk_without_space_for_a_new_gallery_is_named(tmp_path, monkeypatch):
    class Full(sqlite3.Connection):
        def executescript(self, script):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Full))
    with pytest.raises(InputError, match=r"gallery\.sqlite: database or disk is full; see whether the disk is full"):
        Gallery(tmp_path, "model", 8)
    assert not list(tmp_path.iterdir())


def test_an_index_of_later_than_a_restored_database_is_not_used(tmp_path, indexed):
    gallery, speakers, recordings, rows = filled(tmp_path / "gallery")
    shutil.copy(tmp_path / "gallery" / DATABASE, tmp_path / "backup")
    gallery.enrol("s999", voices(1, 60, seed=5)[2], [str(i) for i in range(60)])
    gallery.update_index()
    shutil.copy(tmp_path / "backup", tmp_path / "gallery" / DATABASE)
    assert_exact(Gallery(tmp_path / "gallery"), rows, list(zip(speakers, recordings, strict=True)), rows[::20])


def test_what_a_killed_process_left_of_an_index_is_removed(tmp_path, indexed):
    gallery, _, _, rows = filled(tmp_path)
    (tmp_path / "index-of-a-killed-process.faiss").write_bytes(b"half of it")
    gallery.search(rows[0])
    assert index_file(tmp_path).name != "index-of-a-killed-process.faiss"


def test_of_two_that_make_the_index_one_waits_for_the_other(tmp_path, indexed, monkeypatch):
    gallery, *_ = filled(tmp_path)
    made: Counter[str] = Counter()
    monkeypatch.setattr(module, "write_index", lambda index, path: made.update(["index"]) or write_index(index, path))
    threads = [threading.Thread(target=Gallery(tmp_path).update_index) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {"index": 1} and index_file(tmp_path)
    assert gallery.search(np.ones(DIM))


def test_an_index_that_nobody_needs_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNINDEXED", 40)
    gallery, *_ = filled(tmp_path, 10)
    gallery.update_index()
    assert not list(tmp_path.glob("index-*.faiss"))
    gallery.enrol(*[voices(40, 4)[i] for i in (0, 2, 1)])
    gallery.update_index()
    index = index_file(tmp_path)
    gallery.update_index()
    assert index_file(tmp_path) == index
    filled(tmp_path, 4)  # a tenth of the 160 recordings in it are replaced
    assert gallery.search(np.ones(DIM)) and index_file(tmp_path) == index
    filled(tmp_path, 1)
    assert len(gallery.search(np.ones(DIM), k=999)) == 160 and index_file(tmp_path) != index


def test_without_faiss_an_indexed_gallery_is_compared_one_by_one(tmp_path, indexed, monkeypatch):
    gallery, speakers, recordings, rows = filled(tmp_path)
    gallery.update_index()
    monkeypatch.setattr(module, "faiss_module", lambda: None)
    assert_exact(Gallery(tmp_path), rows, list(zip(speakers, recordings, strict=True)), rows[:1])


def test_the_nearest_of_many_are_found_without_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RESCORED", 0)
    gallery, speakers, recordings, rows = filled(tmp_path)
    assert_exact(gallery, rows, list(zip(speakers, recordings, strict=True)), rows[:3] + 0.05)


# --- many at once -----------------------------------------------------------------------------------------------------


def enrol_many(folder, name, times, recordings=3, started=None):
    gallery = Gallery(folder, "model", DIM)
    rng = np.random.default_rng(len(name))
    for i in range(times):
        gallery.enrol(f"{name}{i}", rng.normal(size=(recordings, DIM)), [str(j) for j in range(recordings)])
        gallery.enrol("both", rng.normal(size=(1, DIM)), [f"{name}{i}"])
        if started:
            started.set()


@pytest.mark.slow
def test_processes_that_enrol_at_once_lose_nothing(tmp_path):
    writers = [FORK.Process(target=enrol_many, args=(tmp_path / "gallery", name, 30)) for name in ("a", "bb")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    speakers = Gallery(tmp_path / "gallery").speakers()
    assert {name: len(recordings) for name, recordings in speakers.items()} == (
        {f"{name}{i}": 3 for name in ("a", "bb") for i in range(30)} | {"both": 60}
    )
    assert [path.name for path in (tmp_path / "gallery").iterdir()] == [DATABASE]


@pytest.mark.slow
def test_a_writer_killed_leaves_whole_enrolments(tmp_path):
    started = FORK.Event()
    writer = FORK.Process(target=enrol_many, args=(tmp_path, "a", 100_000, 500, started))
    writer.start()
    assert started.wait(60)
    time.sleep(0.3)
    writer.kill()
    writer.join()
    gallery = Gallery(tmp_path, "model", DIM)
    speakers = gallery.speakers()
    both = speakers.pop("both")
    assert len(speakers) - len(both) in (0, 1) and both
    assert set(map(len, speakers.values())) == {500}
    gallery.enrol("after", [np.ones(DIM)], ["0"])
    assert gallery.search(np.ones(DIM), 1)[0].speaker == "after"
    with sqlite3.connect(tmp_path / DATABASE) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_threads_share_a_gallery(tmp_path, indexed):
    gallery, speakers, recordings, rows = filled(tmp_path)
    wrong: Counter[str] = Counter()

    def search(offset):
        for i in range(offset, len(rows), 8):
            wrong[gallery.search(rows[i], 1)[0][:2] != (speakers[i], recordings[i])] += 1
            wrong[gallery.identify(rows[i], 0.5).speaker != speakers[i]] += 1

    threads = [threading.Thread(target=search, args=(offset,)) for offset in range(8)]
    threads.append(threading.Thread(target=lambda: enrol_many(tmp_path, "new", 20)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == {False: 2 * len(rows)}


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / DATABASE).write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match=r"gallery\.sqlite: file is not a database"):
        Gallery(tmp_path, "model", DIM)
    (tmp_path / DATABASE).write_bytes(b"")
    with pytest.raises(InputError, match="has format 0, expected 2"):
        Gallery(tmp_path, "model", DIM)


operations = st.lists(
    st.tuples(st.sampled_from(["enrol", "remove", "search"]), st.sampled_from("abc"), st.integers(0, 9)), max_size=40
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(operations)
def test_it_does_what_a_dictionary_does(tmp_path_factory, operations):
    """Any order of enrolments, removals and searches, with an index as soon as there are more than 20 recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "UNINDEXED", 20)
        gallery, *_, rows = filled(tmp_path_factory.mktemp("gallery"), 1, 20)
        known = {("s000", f"{number}.wav"): row for number, row in enumerate(rows)}
        for what, name, number in operations:
            vector = np.random.default_rng([ord(name), number]).normal(size=DIM)
            if what == "enrol":
                gallery.enrol(name, [vector], [str(number)])
                known[name, str(number)] = vector / np.linalg.norm(vector)
            elif what == "remove" and any(key[0] == name for key in known):
                gallery.remove(name)
                known = {key: row for key, row in known.items() if key[0] != name}
            elif what == "search":
                expected = {key: float(row @ vector / np.linalg.norm(vector)) for key, row in known.items()}
                found = {match[:2]: match.score for match in gallery.search(vector, k=99)}
                assert found == pytest.approx(expected, abs=1e-6)
        listed = {(name, recording) for name, recordings in gallery.speakers().items() for recording in recordings}
        assert listed == set(known)
