"""Voices to try the commands with."""

import pytest
import soundfile

from speakerprint.corpora.sources.demo_voices import write_voices
from speakerprint.corpora.sources.folder import read_folder
from speakerprint.errors import InputError
from speakerprint.params.sources import FolderSource


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    write_voices(folder, "dev", ["ann", "bob"], seed=1)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.mp3"))}


@pytest.mark.slow
def test_each_name_is_a_speaker_with_six_recordings_of_some_seconds(folder):
    table = read_folder(FolderSource(kind="folder", root=str(folder)))
    assert table["speaker_id"].tolist() == ["ann"] * 6 + ["bob"] * 6
    assert len(set(contents(folder).values())) == 12
    assert all(2 < soundfile.info(location).duration < 8 for location in table["location"])


@pytest.mark.slow
def test_the_same_arguments_give_the_same_bytes_and_another_split_other_speakers(folder, tmp_path):
    for split in ("dev", "train"):
        write_voices(tmp_path / split, split, ["ann"], seed=1)
    ann = {name: clip for name, clip in contents(folder).items() if name.startswith("ann")}
    assert contents(tmp_path / "dev") == ann
    assert not set(contents(tmp_path / "train").values()) & set(ann.values())


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="split 'dav'; expected one of train, dev, test"):
        write_voices(tmp_path, "dav", ["ann"], seed=1)
