import io
import zipfile
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from ruamel.yaml import YAML

from speakerprint.corpora.resampling import read_audio, resample_corpus
from speakerprint.corpora.selection import select
from speakerprint.corpora.sources import read_source
from speakerprint.errors import InputError
from speakerprint.params.filter import Filter
from speakerprint.params.presets import PRESETS
from speakerprint.params.resample import Resample
from speakerprint.params.sources import VoxCelebSource
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


# --- as downloaded: zip archives, split ones too -------------------------------------------------------------------------


def aac(seed: int, seconds: float = 0.6) -> bytes:
    """A tone as AAC in an MP4, as VoxCeleb2 has its recordings."""
    stream = io.BytesIO()
    samples = 0.3 * np.sin(2 * np.pi * (200 + 20 * seed) * np.arange(int(16_000 * seconds)) / 16_000)
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=16_000, layout="mono")
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def write_zip(path: Path, clips: dict[str, bytes], part_bytes: int | None = None) -> None:
    """A zip of clips; with part_bytes in parts, `path` being their common beginning."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, clip in clips.items():
            archive.writestr(name, clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    if part_bytes is None:
        path.write_bytes(data.getvalue())
        return
    for number, start in enumerate(range(0, len(data.getvalue()), part_bytes)):
        path.with_name(f"{path.name}a{chr(97 + number)}").write_bytes(data.getvalue()[start : start + part_bytes])


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["", "vox2/"])
def test_a_split_archive_is_read_from_its_parts_three_recordings_of_each_speaker(tmp_path: Path, folder: str) -> None:
    n_clips = {"id00012": 5, "id00015": 2, "id00017": 3}  # the one with two is to be dropped
    names = [f"dev/aac/{speaker}/v{i % 2}/{i:05d}.m4a" for speaker, n in n_clips.items() for i in range(n)]
    clips = {name: aac(i) for i, name in enumerate(names)}
    write_zip(tmp_path / folder / "vox2_dev_aac_part", clips, part_bytes=12_000)
    (tmp_path / folder / "vox2_dev_mp4_partaa").write_bytes(b"video, and not even all parts of it")
    (tmp_path / folder / "vox2_meta.csv").write_text(META_2)
    assert len(list((tmp_path / folder).glob("vox2_dev_aac_part*"))) >= 4

    recordings = read(tmp_path)
    assert recordings["recording_id"].tolist() == sorted(name[len("dev/aac/") : -len(".m4a")] for name in names)
    known = recordings.drop_duplicates("speaker_id")[["speaker_id", "gender", "split"]].fillna("-")
    assert known.to_numpy().tolist() == [["id00012", "male", "dev"], ["id00015", "-", "dev"], ["id00017", "female", "dev"]]

    whole, preset = (YAML(typ="safe").load(PRESETS / f"{name}.yaml") for name in ("corpus", "corpora/voxceleb2"))
    settings = whole["corpus"]["filter"] | preset["corpora"]["voxceleb2"]["filter"]
    three_each = Filter(**settings | {"languages": None})  # tones are of none
    selection, _ = select(recordings, three_each)
    assert selection["speaker_id"].value_counts().to_dict() == {"id00012": 3, "id00017": 3}
    pd.testing.assert_frame_equal(selection, select(recordings, three_each)[0])
    others = [select(recordings, three_each.model_copy(update={"seed": seed}))[0]["recording_id"].tolist() for seed in range(9)]
    assert len(set(map(tuple, others))) > 1

    report = resample_corpus(
        selection, tmp_path / "audio", Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.0)
    )
    assert (report["recordings"], report["speakers"], report["bad"]) == (6, 2, [])
    found, encoded = read_audio(tmp_path / "audio")
    for name, clip in zip(found["recording_id"], encoded, strict=True):  # each is its own tone
        spectrum = np.abs(np.fft.rfft(soundfile.read(io.BytesIO(clip))[0][:8000]))
        assert abs(spectrum.argmax() * 2 - (200 + 20 * names.index(f"dev/aac/{name}.m4a"))) <= 2


def test_whole_archives_say_the_split_by_their_name(tmp_path: Path) -> None:
    write_zip(tmp_path / "vox1_test_wav.zip", {"wav/id10270/v/00001.wav": b"", "wav/readme.txt": b""})
    write_zip(tmp_path / "vox2/vox2_test_aac.zip", {"aac/id00017/v/00001.m4a": b""})
    write_zip(tmp_path / "vox2/vox2_aac.zip", {"dev/aac/id00012/v/00001.m4a": b""})
    write_zip(tmp_path / "other.zip", {"aac/id00099/v/00001.m4a": b""})
    recordings = read(tmp_path)
    assert recordings[["recording_id", "split"]].to_numpy().tolist() == [
        ["id00012/v/00001", "dev"],
        ["id00017/v/00001", "test"],
        ["id10270/v/00001", "test"],
    ]
    assert recordings["location"][0] == f"{tmp_path}/vox2/vox2_aac.zip/dev/aac/id00012/v/00001.m4a"


def test_parts_beside_what_was_unpacked_from_them_are_an_error(tmp_path: Path) -> None:
    write_zip(tmp_path / "vox2_test_aac.zip", {"aac/id00017/v/1.m4a": b""})
    touch(tmp_path, "aac/id00017/v/1.m4a")
    with pytest.raises(InputError, match=r"aac/id00017/v/1\.m4a and .*vox2_test_aac\.zip/aac/id00017/v/1\.m4a would both be"):
        read(tmp_path)


def test_a_missing_part_of_the_archive_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "vox2_dev_aac_part", {f"dev/aac/id00012/v/{i}.m4a": bytes(500) for i in range(9)}, part_bytes=2000)
    (tmp_path / "vox2_dev_aac_partaa").unlink()
    with pytest.raises(InputError, match="has no vox2_dev_aac_partaa; download what is missing"):
        read(tmp_path)
