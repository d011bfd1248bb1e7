import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerprint.corpora.recordings import SCHEMA, RecordingsFile, as_recordings, read_recordings, sort_on_disk, write_recordings
from speakerprint.errors import InputError

ROWS = pd.DataFrame(
    {"location": ["b.wav", "a.wav"], "speaker_id": ["anna", "ben"], "recording_id": ["b", "a"], "up_votes": [2, None]}
)


def test_rows_are_brought_to_the_schema_and_sorted() -> None:
    recordings = as_recordings(ROWS, "here")
    assert list(recordings.columns) == SCHEMA.names
    assert recordings["recording_id"].tolist() == ["a", "b"]
    assert recordings["location"].tolist() == ["a.wav", "b.wav"]
    assert recordings["up_votes"].isna().tolist() == [True, False]
    assert recordings[["locale", "gender", "duration_s"]].isna().all(axis=None)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    recordings = as_recordings(ROWS.assign(gender=["male", None], duration_s=[1.5, None], accent="Île-de-France"), "here")
    write_recordings(recordings, tmp_path / "new" / "recordings.parquet")
    back = read_recordings(tmp_path / "new" / "recordings.parquet")
    pd.testing.assert_frame_equal(back, recordings)
    assert pq.read_schema(tmp_path / "new" / "recordings.parquet") == SCHEMA


def test_row_order_and_index_do_not_change_the_bytes(tmp_path: Path) -> None:
    write_recordings(as_recordings(ROWS, "here"), tmp_path / "1")
    write_recordings(as_recordings(ROWS[::-1].set_index(pd.Index([7, 3])), "there"), tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    write_recordings(as_recordings(ROWS[:0], "here"), tmp_path / "empty")
    assert len(read_recordings(tmp_path / "empty")) == 0


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (ROWS.assign(sex="m"), r"here: unknown columns \['sex'\]"),
        (ROWS.drop(columns="location"), "here: row 1 has no location"),
        (ROWS.assign(speaker_id=["anna", None]), "here: row 2 has no speaker_id"),
        (ROWS.assign(recording_id=["b", ""]), "here: row 2 has no recording_id"),
        (ROWS.assign(gender=["male", "m"]), "here: unknown gender 'm'; expected one of .*female"),
        (ROWS.assign(recording_id="b"), "here: recording_id 'b' occurs more than once"),
    ],
)
def test_rows_that_break_the_schema_are_refused(rows: pd.DataFrame, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        as_recordings(rows, "here")


def test_a_missing_or_foreign_file_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "foreign")
    for name, fault in [("gone", "does not exist"), ("text", "is not a parquet file"), ("foreign", r"has columns \['x'\]")]:
        with pytest.raises(InputError, match=f"{name} {fault}.*dvc repro"):
            read_recordings(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} {fault}.*dvc repro"):
            RecordingsFile(tmp_path / name)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 20), st.lists(st.integers(0, 20), max_size=4))
def test_however_a_table_is_cut_it_gives_the_same_bytes_and_chunks(n_rows: int, cuts: list[int]) -> None:
    rows = as_recordings(
        pd.DataFrame({"recording_id": [f"r{i:02}" for i in range(n_rows)], "speaker_id": "anna", "location": "x"}), "here"
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("speakerprint.corpora.recordings.CHUNK_ROWS", 7)
        whole, in_parts = Path(folder) / "whole", Path(folder) / "parts"
        write_recordings(rows, whole)
        edges = [0, *sorted(cuts), n_rows]
        write_recordings((rows.iloc[start:stop] for start, stop in pairwise(edges)), in_parts)
        assert whole.read_bytes() == in_parts.read_bytes()
        assert [len(chunk) for chunk in RecordingsFile(whole)] == [len(rows[i : i + 7]) for i in range(0, n_rows, 7)]


def test_a_table_whose_source_breaks_off_is_not_there(tmp_path: Path) -> None:
    def chunks() -> Iterator[pd.DataFrame]:
        yield as_recordings(ROWS, "here")
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"):
        write_recordings(chunks(), tmp_path / "recordings.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=9), st.integers(1, 6), st.integers(1, 6))
def test_a_sort_on_disk_is_a_sort_and_keeps_equal_keys_together(parts: list[list[int]], chunk: int, block: int) -> None:
    numbers = [number for part in parts for number in part]
    schema = pa.schema([("key", pa.string()), ("position", pa.int64())])
    whole = pa.table([list(map(str, numbers)), range(len(numbers))], schema=schema)
    ends = np.cumsum([0, *map(len, parts)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("speakerprint.corpora.recordings.CHUNK_ROWS", chunk)
        patch.setattr("speakerprint.corpora.recordings.BLOCK_ROWS", block)
        tables = (whole.slice(start, stop - start) for start, stop in pairwise(ends))
        found = [table.to_pylist() for table in sort_on_disk(tables, schema, ["key", "position"])]
    assert [row for table in found for row in table] == sorted(whole.to_pylist(), key=lambda row: (row["key"], row["position"]))
    assert all(one[-1]["key"] < other[0]["key"] for one, other in pairwise(found))
