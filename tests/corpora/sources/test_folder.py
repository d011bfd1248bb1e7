import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from speakerprint.corpora.sources import read_source
from speakerprint.errors import InputError
from speakerprint.params.sources import FolderSource
from tests.helpers import touch


def read(root: Path) -> pd.DataFrame:
    return read_source(FolderSource(kind="folder", root=str(root)), root)


def test_a_speaker_is_a_folder_and_files_may_lie_deeper(tmp_path: Path) -> None:
    recordings = read(touch(tmp_path, "ben/b.flac", "anna/2024/a.b.WAV", "anna/c.m4a"))
    assert recordings[["recording_id", "speaker_id", "location"]].to_numpy().tolist() == [
        ["anna/2024/a.b", "anna", f"{tmp_path}/anna/2024/a.b.WAV"],
        ["anna/c", "anna", f"{tmp_path}/anna/c.m4a"],
        ["ben/b", "ben", f"{tmp_path}/ben/b.flac"],
    ]


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    touch(
        tmp_path, "anna/a.wav", "anna/._a.wav", "anna/.wav", "anna/a.txt", "anna/wav", "anna/.old/b.wav", ".trash/c.wav", "d.wav"
    )
    assert read(tmp_path)["recording_id"].tolist() == ["anna/a"]


def test_a_relative_root_gives_relative_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "voices/anna/a.wav")
    monkeypatch.chdir(tmp_path)
    assert read(Path("voices"))["location"].tolist() == ["voices/anna/a.wav"]
    monkeypatch.chdir(tmp_path / "voices")
    assert read(Path())["location"].tolist() == ["anna/a.wav"]


def test_loose_audio_is_an_error_that_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has audio, but none in a speaker's folder; .*<speaker>/<clip>\.wav"):
        read(touch(tmp_path, "A.WAV"))


def test_a_folder_without_audio_is_an_error_that_lists_the_extensions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no audio .*\.flac"):
        read(touch(tmp_path, "anna/a.txt"))


def test_a_file_for_a_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.wav is not a folder"):
        read(touch(tmp_path, "a.wav") / "a.wav")


def test_names_that_differ_in_the_extension_only_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"anna/a\.mp3 and .*anna/a\.wav would both be recording 'anna/a'"):
        read(touch(tmp_path, "anna/a.wav", "anna/a.mp3", "anna/b.wav"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name themselves")
def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "anna/a.wav")
    (tmp_path / os.fsdecode(b"anna/\xe9.wav")).touch()
    with pytest.raises(InputError, match=r"anna/\\udce9\.wav': the name is not UTF-8"):
        read(tmp_path)


def test_speakers_csv_says_what_is_known(tmp_path: Path) -> None:
    touch(tmp_path, "anna/a.wav", "ben/b.wav", "carl/c.wav", "dora/d.wav")
    (tmp_path / "speakers.csv").write_text(
        '\ufeffspeaker_id, Gender,age,accent,locale\nanna,F,20,"Irish, north",en\nben,male,,,\nnobody,m,1,x,y\n\ndora,,,,de\n',
        encoding="utf-8",
    )
    recordings = read(tmp_path)[["speaker_id", "gender", "age", "accent", "locale"]]
    assert recordings.fillna("-").to_numpy().tolist() == [
        ["anna", "female", "20", "Irish, north", "en"],
        ["ben", "male", "-", "-", "-"],
        ["carl", "-", "-", "-", "-"],
        ["dora", "-", "-", "-", "de"],
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name,gender\nanna,f\n", "columns name, gender; expected speaker_id"),
        ("speaker_id,sex\nanna,f\n", "columns speaker_id, sex; expected speaker_id and any of gender, age, accent, locale"),
        ("speaker_id,gender\nanna,f\nben\n", "line 3: 1 values, but the header has 2 columns"),
        ("speaker_id,gender\nanna,woman\n", "line 2: gender 'woman'; expected one of m, male, f, female, other"),
        ("speaker_id\nanna\nanna\n", "line 3: speaker_id 'anna'; expected one line for each"),
        ("speaker_id,age\n,3\n", "line 2: speaker_id ''"),
        ('speaker_id\n"anna\n', "line 2: unexpected end of data"),
        ("speaker_id,accent\nanna,Orléans\n", "is not UTF-8"),
    ],
)
def test_a_malformed_speakers_csv_is_an_error(tmp_path: Path, text: str, fault: str) -> None:
    touch(tmp_path, "anna/a.wav")
    (tmp_path / "speakers.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"speakers\.csv") as error:
        read(tmp_path)
    assert fault in str(error.value)
