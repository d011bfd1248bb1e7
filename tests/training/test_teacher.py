"""What a teacher hears: its files, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speakerprint.errors import InputError
from speakerprint.training.teacher import read_teacher, read_teachers, write_teacher

RNG = np.random.default_rng(1)
ROWS = RNG.standard_normal((4, 5)).astype(np.float32)


def test_embeddings_come_back_in_the_order_asked_for_centred_and_of_unit_length(tmp_path):
    write_teacher(tmp_path / "one.parquet", ["a", "b"], ROWS[:2])
    write_teacher(tmp_path / "other.parquet", ["a", "c"], ROWS[2:])
    (taught,) = read_teacher(tmp_path, {"other": ["c", "a"], "one": ["b"]})
    expected = ROWS[[3, 2, 1]] - ROWS.mean(axis=0)
    assert np.allclose(taught, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert taught.dtype == np.float32


def test_a_recording_that_the_teacher_has_not_heard_is_0(tmp_path):
    write_teacher(tmp_path / "one.parquet", ["a", "b"], ROWS[:2])
    (taught,) = read_teacher(tmp_path, {"one": ["b", "new", "a"]})
    assert taught.any(axis=1).tolist() == [True, False, True]


def test_embeddings_at_each_speed_are_centred_by_themselves(tmp_path):
    rows = RNG.standard_normal((6, 5)).astype(np.float32)
    write_teacher(tmp_path / "one.parquet", list("abcabc"), rows, [1.1, 1.1, 1.1, 1.0, 1.0, 1.0])
    taught = read_teacher(tmp_path, {"one": ["c", "a"]}, [1.0, 0.9, 1.1])
    assert taught.shape == (3, 2, 5) and not taught[1].any()
    for of_speed, own in ((rows[3:], taught[0]), (rows[:3], taught[2])):
        expected = of_speed[[2, 0]] - of_speed.mean(axis=0)
        assert np.allclose(own, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_a_file_without_speeds_is_of_recordings_as_they_are(tmp_path):
    write_teacher(tmp_path / "one.parquet", ["a", "b"], ROWS[:2])
    before = read_teacher(tmp_path, {"one": ["a", "b"]})
    pq.write_table(pq.read_table(tmp_path / "one.parquet").drop_columns("speed"), tmp_path / "one.parquet")
    assert np.array_equal(read_teacher(tmp_path, {"one": ["a", "b"]}), before)


def test_a_teacher_that_has_heard_nothing_at_the_speeds_is_refused(tmp_path):
    write_teacher(tmp_path / "one.parquet", ["a", "b"], ROWS[:2])
    with pytest.raises(InputError, match=r"has heard no recording at any of the speeds \[0\.9\]"):
        read_teacher(tmp_path, {"one": ["a"]}, [0.9])


def test_each_teacher_has_a_folder_and_embeddings_of_its_own_length(tmp_path):
    write_teacher(tmp_path / "uncle/one.parquet", ["a"], ROWS[:1])
    write_teacher(tmp_path / "aunt/one.parquet", ["a", "b"], ROWS[2:, :3])
    taught = read_teachers(tmp_path, {"one": ["b", "a"]})
    assert list(taught) == ["aunt", "uncle"]
    assert np.array_equal(taught["aunt"], read_teacher(tmp_path / "aunt", {"one": ["b", "a"]}))
    assert taught["uncle"].shape == (1, 2, 5)


def test_a_file_in_no_teachers_folder_is_refused_with_the_place_to_move_it_to(tmp_path):
    write_teacher(tmp_path / "one.parquet", ["a"], ROWS[:1])
    with pytest.raises(InputError, match=r"one\.parquet is in no teacher's folder; move it to .*/NAME/one\.parquet"):
        read_teachers(tmp_path, {"one": ["a"]})


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(
        InputError, match=r"one\.parquet does not exist; make it with `python -m experiments\.teacher_embeddings`"
    ):
        read_teacher(tmp_path, {"one": ["a"]})


def test_embeddings_of_two_lengths_are_refused(tmp_path):
    write_teacher(tmp_path / "one.parquet", ["a", "b"], ROWS[:2])
    write_teacher(tmp_path / "other.parquet", ["a"], ROWS[2:3, :3])
    with pytest.raises(InputError, match=r"one\.parquet have 5 numbers, those in .*other\.parquet 3"):
        read_teacher(tmp_path, {"one": ["a"], "other": ["a"]})


def broken(path: Path, kind: str) -> None:
    write_teacher(path, ["a", "b"], ROWS[:2])
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "another column":
        pq.write_table(pq.read_table(path).rename_columns(["id", "speed", "embedding"]), path)
    elif kind == "ragged":
        pq.write_table(
            pa.table({"recording_id": ["a", "b"], "embedding": pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))}), path
        )
    elif kind == "not a number":
        write_teacher(path, ["a", "b"], np.where(np.eye(2, 5) > 0, np.nan, ROWS[:2])[[1, 0]])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut short", "is not a parquet file"),
        ("another column", "has no column 'recording_id', but .'id', 'speed', 'embedding'."),
        ("ragged", r"as many numbers, but there are \[1, 2\]"),
        ("not a number", "the embedding of a holds what is not a number"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, kind, message):
    broken(tmp_path / "one.parquet", kind)
    with pytest.raises(InputError, match=rf"one\.parquet.*{message}"):
        read_teacher(tmp_path, {"one": ["a"]})


def test_a_write_that_fails_leaves_no_half_file(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        write_teacher(tmp_path / "one.parquet", ["a", "b"], ROWS)
    assert not (tmp_path / "one.parquet").exists()
