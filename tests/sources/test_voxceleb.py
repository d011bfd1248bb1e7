from pathlib import Path

import pandas as pd
import pytest

from speakerprint.errors import InputError
from speakerprint.params import VoxCelebSource
from speakerprint.sources import read_source
from tests.helpers import touch

META_1 = (
    "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
    "id10001\tA.J._Buckley\tm\tIreland\tdev\n"
    "id10270\tEartha_Kitt\tf\tUSA\ttest\n"
)
META_2 = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \nid00017 ,n000017 ,f ,test \n"


def read(root: Path) -> pd.DataFrame:
    return read_source(VoxCelebSource(kind="voxceleb", root=str(root)), root)


@pytest.mark.parametrize("folder", ["", "wav/", "dev/wav/", "test/wav/", "dev/", "aac/", "dev/aac/"])
def test_recordings_are_found_wherever_the_archives_unpack_to(tmp_path: Path, folder: str) -> None:
    touch(tmp_path, f"{folder}id10001/1zcIwhmdeo4/00002.wav", f"{folder}id10001/1zcIwhmdeo4/00001.wav")
    recordings = read(tmp_path)
    assert recordings["recording_id"].tolist() == ["id10001/1zcIwhmdeo4/00001", "id10001/1zcIwhmdeo4/00002"]
    assert recordings["speaker_id"].tolist() == ["id10001", "id10001"]
    assert recordings["location"][0] == f"{tmp_path}/{folder}id10001/1zcIwhmdeo4/00001.wav"


def test_what_is_no_speaker_or_no_audio_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "id00012/v/00001.m4a", "id00012/v/00001.txt", "id00012/v/._00001.m4a", "ideas/v/1.wav", "other/v/1.wav")
    assert read(tmp_path)["recording_id"].tolist() == ["id00012/v/00001"]


def test_gender_nationality_and_split_come_from_the_meta_files(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "wav/id10001/v/1.wav",
        "wav/id10270/v/1.wav",
        "wav/id10300/v/1.wav",
        "dev/aac/id00012/v/1.m4a",
        "aac/id00017/v/1.m4a",
    )
    (tmp_path / "vox1_meta.csv").write_text(META_1)
    (tmp_path / "vox2_meta.csv").write_text(META_2)
    recordings = read(tmp_path).fillna({"gender": "-", "accent": "-", "split": "-"})
    assert recordings[["speaker_id", "gender", "accent", "split"]].to_numpy().tolist() == [
        ["id00012", "male", "-", "dev"],
        ["id00017", "female", "-", "test"],
        ["id10001", "male", "Ireland", "dev"],
        ["id10270", "female", "USA", "test"],
        ["id10300", "-", "-", "-"],
    ]


def test_dev_and_test_folders_are_the_split_whatever_the_meta_file_says(tmp_path: Path) -> None:
    touch(tmp_path, "test/aac/id00012/v/1.m4a")
    (tmp_path / "vox2_meta.csv").write_text(META_2)
    assert read(tmp_path)["split"].tolist() == ["test"]


def test_meta_files_are_found_above_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "dev/aac/id00012/v/1.m4a")
    (tmp_path / "vox2_meta.csv").write_text(META_2.replace(",", "\t").replace("VoxCeleb2 ID", "Id"))
    assert read(tmp_path / "dev" / "aac")["gender"].tolist() == ["male"]


def test_a_recording_in_two_formats_is_an_error_that_names_both(tmp_path: Path) -> None:
    touch(tmp_path, "dev/aac/id00012/v/1.m4a", "dev/wav/id00012/v/1.wav")
    with pytest.raises(InputError, match=r"dev/aac/id00012/v/1\.m4a and .*dev/wav/id00012/v/1\.wav would both be"):
        read(tmp_path)


def test_no_recordings_is_an_error_that_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected id10001/<video>/\*\.wav"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ("id00012,n000012,m,dev\nid00017,n000017,f,dev\n", "columns id00012, n000012, m, dev"),
        ("Id,Gender,Set\nid00012,m\n", "line 2: 2 values, but the header has 3 columns"),
        ("Id,Gender,Set\nid00012,m,dev\nid00017,x,dev\n", "line 3: gender 'x'"),
    ],
)
def test_a_malformed_meta_file_is_an_error(tmp_path: Path, meta: str, fault: str) -> None:
    touch(tmp_path, "id00012/v/1.m4a")
    (tmp_path / "vox2_meta.csv").write_text(meta)
    with pytest.raises(InputError, match=r"vox2_meta\.csv") as error:
        read(tmp_path)
    assert fault in str(error.value)
