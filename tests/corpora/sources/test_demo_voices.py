"""Voices to try the commands with."""

import pytest

from speakerprint.corpora.sources.demo_voices import write_voices
from speakerprint.corpora.sources.folder import read_folder
from speakerprint.errors import InputError
from speakerprint.params.sources import FolderSource


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.mp3")}


def test_each_name_is_a_speaker_with_recordings_of_their_own_the_same_each_time(tmp_path):
    for folder in ("first", "second"):
        write_voices(tmp_path / folder, "dev", ["ann", "bob"], recordings_per_speaker=2)
    written = files(tmp_path / "first")
    assert sorted(written) == ["ann/1.mp3", "ann/2.mp3", "bob/1.mp3", "bob/2.mp3"]
    assert len(set(written.values())) == 4 and files(tmp_path / "second") == written
    table = read_folder(FolderSource(kind="folder", root=str(tmp_path / "first")))
    assert table["speaker_id"].tolist() == ["ann", "ann", "bob", "bob"]


def test_no_speaker_is_in_two_splits(tmp_path):
    for split in ("train", "dev"):
        write_voices(tmp_path / split, split, ["ann"], recordings_per_speaker=1)
    assert files(tmp_path / "train") != files(tmp_path / "dev")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="list some of train, dev, test"):
        write_voices(tmp_path, "dav", ["ann"])
