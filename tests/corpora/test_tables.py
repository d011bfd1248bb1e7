"""Tables of recordings: what they say, and errors that name the line, the column and the remedy."""

import re

import pytest

from speakerprint.corpora.tables import NamedRecording, read_recording_table, read_rows
from speakerprint.errors import InputError


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A place for a table, of a folder that is not the working directory, with two recordings beside it."""
    (tmp_path / "calls/ann").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("ann/1.wav", "bob.wav"):
        (tmp_path / "calls" / name).touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "calls/table.csv"


def test_paths_are_relative_to_the_tables_folder_whatever_the_working_directory(table):
    table.write_text(f"Speaker, path, note\nann, ann/1.wav, x\nbob, {table.parent}/bob.wav, y\n")
    assert read_recording_table(table) == [
        NamedRecording("ann", "ann/1.wav", f"{table.parent}/ann/1.wav"),
        NamedRecording("bob", f"{table.parent}/bob.wav", f"{table.parent}/bob.wav"),
    ]


def test_speakers_may_be_unknown_where_that_is_allowed(table):
    table.write_text("path\nbob.wav\n")
    assert read_recording_table(table, speakers=False) == [NamedRecording("", "bob.wav", f"{table.parent}/bob.wav")]
    with pytest.raises(InputError, match=r"line 1: columns path; expected speaker,path$"):
        read_recording_table(table)


@pytest.mark.parametrize(
    ("text", "speakers", "message"),
    [
        (None, True, "table.csv: there is no such file; expected a CSV with the columns speaker,path"),
        ("", True, "table.csv has no recordings"),
        ("speaker,path\n", True, "table.csv has no recordings; expected the line speaker,path"),
        ("speaker,file\nann,bob.wav\n", False, "table.csv, line 1: columns speaker,file; expected speaker,path, or path alone"),
        ("speeker,path\nann,bob.wav\n", False, "table.csv, line 1: columns speeker,path"),
        ("speaker,path\nann,bob.wav\n,bob.wav\n", True, "table.csv, line 3, column speaker: nothing; expected a value"),
        ("speaker,path\nann,bob.wav\nann,\n", False, "table.csv, line 3, column path: nothing"),
        ("speaker,path\n\nann,ann.wav\n", True, "table.csv, line 3, column path: there is no file"),
        ("speaker,path\nann\n", True, "table.csv, line 2: 1 values, but the header has 2 columns"),
    ],
)
def test_an_error_names_the_line_the_column_and_the_remedy(table, text, speakers, message):
    if text is not None:
        table.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_recording_table(table, speakers)


def test_a_missing_file_is_named_where_it_was_looked_for(table):
    table.write_text("speaker,path\nann,../1.wav\n")
    with pytest.raises(InputError, match=re.escape(f"no file {table.parent}/../1.wav; paths are relative to the table's folder")):
        read_recording_table(table)


def test_a_table_that_is_not_utf8_is_named(table):
    table.write_bytes(b"speaker,path\n\xe9,bob.wav\n")
    with pytest.raises(InputError, match=r"table\.csv is not UTF-8"):
        read_recording_table(table)


def test_rows_have_columns_in_lower_case_and_values_without_blanks(table):
    table.write_text("\ufeffID\tGender \n7 \t m\n", encoding="utf-8")
    assert list(read_rows(table, "\t")) == [(f"{table}, line 2", {"id": "7", "gender": "m"})]
