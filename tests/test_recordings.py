from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speakerprint.errors import InputError
from speakerprint.recordings import SCHEMA, as_recordings, read_recordings, write_recordings

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
