import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem, constants

from speakerprint.audio.resample import encode
from speakerprint.corpora.recordings import SCHEMA
from speakerprint.corpora.resampling import read_audio, resample_corpus
from speakerprint.corpora.selection import select
from speakerprint.corpora.sources import read_source
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.errors import InputError
from speakerprint.params.filter import Filter
from speakerprint.params.resample import Resample
from speakerprint.params.sources import HubSource
from tests.helpers import KEEP_EVERYTHING

COMMIT = "0123456789abcdef" * 2 + "01234567"
ROWS: dict[str, list[Any]] = {
    "client_id": ["anna", "anna", "ben", "cleo"],
    "path": ["en_train_0/a.mp3", "en_train_0/b.mp3", "en_train_0/c.mp3", "en_train_0/d.mp3"],
    "sentence": ["x"] * 4,
    "up_votes": [2, 3, 2, 0],
    "down_votes": [0, 0, 1, 0],
    "age": ["twenties", None, "", "fifties"],
    "gender": ["female_feminine", "female", "male_masculine", "do_not_wish_to_say"],
    "accent": ["Scots", None, None, None],
    "locale": ["en"] * 4,
    "audio": [b"a", b"b", b"c", b"d"],
}


def write_split(repository: Path, rows: dict[str, list[Any]], name: str = "train", group: int = 2, **features: Any) -> Path:
    """A split as `push_to_hub` writes it, of configuration ``en``; ``audio`` are the files' bytes."""
    rows = dict(rows)
    if "audio" in rows:
        rows["audio"] = [{"bytes": data, "path": f"{number}.mp3"} for number, data in enumerate(rows["audio"])]
        features.setdefault("audio", datasets.Audio())
    table = datasets.Dataset.from_dict(rows)
    for column, feature in features.items():
        table = table.cast_column(column, feature)
    path = repository / f"en/{name}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, batch_size=group)
    return path


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "dataset"
    write_split(folder, ROWS)
    splits = "".join(f"  - split: {split}\n    path: en/{split}-*.parquet\n" for split in ("train", "validated"))
    write_split(
        folder, {**ROWS, "path": ["en_validated_7/d.mp3", "e.mp3", "f.mp3", "g.mp3"], "client_id": ["cleo"] * 4}, "validated"
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: en\n  data_files:\n{splits}---\n")
    return folder


def source(repository: Path | str, **changes: Any) -> HubSource:
    usual = {"kind": "hub", "repository": str(repository), "revision": None, "configuration": "en", "splits": ["train"]}
    return HubSource(**{**usual, **changes})


def read(repository: Path | str, **changes: Any) -> pd.DataFrame:
    return read_source(source(repository, **changes), "unused")


# --- metadata -----------------------------------------------------------------------------------------------------------


def test_common_voice_columns_fill_the_schema(repository: Path) -> None:
    rows = read(repository)
    assert list(rows.columns) == SCHEMA.names
    assert rows["recording_id"].tolist() == ["a", "b", "c", "d"]
    assert rows["speaker_id"].tolist() == ["anna", "anna", "ben", "cleo"]
    assert rows["gender"].fillna("-").tolist() == ["female", "female", "male", "-"]
    assert rows["up_votes"].tolist() == [2, 3, 2, 0]
    first = rows.iloc[0]
    assert (first["age"], first["accent"], first["locale"], first["split"]) == ("twenties", "Scots", "en", "train")
    assert first["location"] == f"{repository}/en/train-00000-of-00001.parquet/audio/0"
    assert rows["duration_s"].isna().all()


def test_a_clip_of_two_splits_is_taken_once_in_the_one_listed_first(repository: Path) -> None:
    rows = read(repository, splits=["validated", "train"])
    assert dict(zip(rows["recording_id"], rows["split"], strict=True)) == {
        **dict.fromkeys("abc", "train"),
        **dict.fromkeys("defg", "validated"),
    }


def test_other_columns_are_used_where_params_name_them(repository: Path) -> None:
    rows: dict[str, list[Any]] = {"id": ["u/1.wav", "u/2.wav"], "who": [7, 11], "sex": [1, -1], "seconds": [1.5, 2.0]}
    write_split(repository, {**rows, "sound": [b"1", b"2"]}, sex=datasets.ClassLabel(names=["M", "F"]))
    named = {"recording_id": "id", "speaker_id": "who", "gender": "sex", "duration_s": "seconds", "audio": "sound"}
    found = read(repository, columns=named)
    assert found["recording_id"].tolist() == ["u/1.wav", "u/2.wav"]
    assert found["speaker_id"].tolist() == ["7", "11"]
    assert found["gender"].fillna("-").tolist() == ["female", "-"]
    assert found["duration_s"].tolist() == [1.5, 2.0]
    assert [data for _, data in read_clips(found["location"].tolist())] == [b"1", b"2"]


def test_recordings_without_a_name_are_called_by_split_and_row(repository: Path) -> None:
    write_split(repository, {key: values for key, values in ROWS.items() if key != "path"})
    assert read(repository)["recording_id"].tolist() == [f"train/0000000{row}" for row in range(4)]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ({}, {"configuration": "fr"}, r"cannot be had: BuilderConfig 'fr' not found. Available: \['en'\]; correct source.conf"),
        ({}, {"splits": ["dev"]}, r"has no split 'dev'; it has train, validated"),
        (
            {},
            {"columns": {"age": "alter"}},
            r"train-0.*parquet: no column 'alter' for age; it has client_id, path, .*columns.age",
        ),
        ({"client_id": ...}, {}, r"no column 'client_id' for speaker_id; it has path"),
        ({"audio": ...}, {}, r"no column 'audio' for audio; it has client_id"),
        ({}, {"columns": {"audio": "sentence"}}, r"column 'sentence' holds string, not audio files"),
        ({"client_id": ["anna", "anna", "", "x"]}, {}, r"train-0.*parquet, row 2: nothing in column 'client_id'"),
        ({"up_votes": ["1", "2", "many", "3"]}, {}, r"column 'up_votes' for up_votes: .*'many'"),
        ({}, {"repository": "owner/name"}, r"'owner/name', which is no folder here, and source.revision is empty; .*commit"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_and_remedy(
    repository: Path, rows: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    write_split(repository, {key: values for key, values in {**ROWS, **rows}.items() if values is not ...})
    with pytest.raises(InputError, match=message):
        read(**{"repository": repository, **changes})


def test_a_repository_of_something_else_than_parquet_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("client_id\nanna\n")
    with pytest.raises(InputError, match=r"train.csv, which is not parquet; .*refs/convert/parquet"):
        read(tmp_path, configuration=None)


def test_a_truncated_file_is_named(repository: Path) -> None:
    path = repository / "en/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train-00000-of-00001.parquet cannot be read \(ArrowInvalid: .*download it again"):
        read(repository)


# --- clips --------------------------------------------------------------------------------------------------------------


def test_only_row_groups_with_a_wanted_row_are_read(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []
    read_row_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda file, group, **how: groups.append(group) or read_row_group(file, group, **how)
    )
    path = repository / "en/train-00000-of-00001.parquet"
    assert list(read_clips([f"{path}/audio/{row}" for row in (3, 9, 2)])) == [(2, b"c"), (0, b"d"), (1, None)]
    assert groups == [1]


def test_a_folder_may_be_called_like_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "odd.parquet/audio").mkdir(parents=True)
    (tmp_path / "odd.parquet/audio/1").write_bytes(b"clip")
    assert list(read_clips([str(tmp_path / "odd.parquet/audio/1")])) == [(0, b"clip")]


def test_from_the_repository_to_resampled_audio_of_the_selected_alone(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    waveforms = [np.linspace(-0.5, 0.5, 1600 + 160 * number, dtype=np.float32) for number in range(4)]
    write_split(
        repository, {**ROWS, "audio": [encode(waveforms[0], "flac"), b"no audio", encode(waveforms[2], "flac"), b"no audio"]}
    )
    recordings = read(repository)
    selection, _ = select(recordings, Filter(**{**KEEP_EVERYTHING, "max_recordings_per_speaker": 1, "min_up_votes": 1}))
    assert selection["recording_id"].tolist() == ["c"]
    resample_corpus(
        selection, tmp_path / "audio", Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.0)
    )
    written, clips = read_audio(tmp_path / "audio")
    assert written["duration_s"].tolist() == pytest.approx([len(waveforms[2]) / 16_000])
    assert list(clips) == [encode(waveforms[2], "flac")]


# --- the hub, as a stand-in on this machine -----------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as `datasets` and HfFileSystem speak with one dataset, ``owner/name``, of one commit."""

    protocol_version = "HTTP/1.1"
    folder: Path
    ranges: list[tuple[int, int]]  # of files asked for, in order
    stall: list[float]  # seconds for which the next answers stop in their middle
    gated = False

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if not path.startswith(("/datasets/owner/name/", "/api/datasets/owner/name/")):
            return self.answer(404, X_Error_Code="RepoNotFound")
        if self.gated:
            return self.answer(403, X_Error_Code="GatedRepo")
        verb, commit, *rest = path.split("/owner/name/")[1].split("/", 2)
        if commit != COMMIT:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        file = self.folder / "".join(rest)
        if verb == "revision":
            files = [path for path in self.folder.rglob("*") if path.is_file()]
            siblings = [{"rfilename": str(path.relative_to(self.folder))} for path in files]
            return self.answer(200, json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode())
        if verb == "tree" and file.is_dir():
            return self.answer(200, json.dumps([self.entry(path) for path in file.iterdir()]).encode())
        if verb == "resolve" and file.is_file():
            return self.send_file(file.read_bytes())
        return self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def entry(self, path: Path) -> dict[str, Any]:
        kind = "file" if path.is_file() else "directory"
        return {"type": kind, "oid": "0" * 40, "size": path.stat().st_size, "path": str(path.relative_to(self.folder))}

    def send_file(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            return self.answer(200, data, ETag='"1"', X_Repo_Commit=COMMIT)
        start, stop = map(int, wanted.removeprefix("bytes=").split("-"))
        self.ranges.append((start, stop + 1))
        part = data[start : stop + 1]
        if not self.stall:
            return self.answer(206, part)
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: len(part) // 2])
        threading.Event().wait(self.stall.pop())
        self.close_connection = True
        return None


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client does not wait between one try and the next."""
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"folder": repository, "ranges": [], "stall": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
    HfFileSystem.clear_instance_cache()
    yield handler
    HfFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_of_a_dataset_on_the_hub_only_metadata_and_then_selected_rows_are_fetched(repository: Path, hub: type[Hub]) -> None:
    big = [bytes([number]) * 200_000 for number in range(4)]
    audio_of_group = [slice(0, 2), slice(2, 4)]
    path = write_split(repository, {**ROWS, "audio": big})
    rows = read("owner/name", revision=COMMIT)
    assert rows["location"][0] == f"hf://datasets/owner/name@{COMMIT}/en/train-00000-of-00001.parquet/audio/0"
    metadata = sum(stop - start for start, stop in hub.ranges)
    assert metadata < 80_000 < path.stat().st_size / 2  # a footer of at most 64 kB, and a few columns
    hub.ranges.clear()
    assert list(read_clips(rows["location"].tolist()[2:])) == list(enumerate(big[audio_of_group[1]]))
    assert 0 < sum(stop - start for start, stop in hub.ranges) - 70_000 < path.stat().st_size / 2 + 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": "f" * 40}, "Revision 'f+' doesn't exist .*; correct source.repository or source.revision"),
        ({"repository": "owner/other"}, r"Dataset 'owner/other' doesn't exist .*; correct source.repository"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: type[Hub], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(**{"repository": "owner/name", "revision": COMMIT, **changes})


@pytest.mark.slow
def test_a_gated_dataset_says_that_its_terms_must_be_accepted(hub: type[Hub]) -> None:
    hub.gated = True
    with pytest.raises(InputError, match=r"gated dataset .*accept its terms on its page and sign in"):
        read("owner/name", revision=COMMIT)


@pytest.mark.slow
def test_a_half_open_connection_is_given_up_and_the_range_asked_for_again(
    hub: type[Hub], no_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read("owner/name", revision=COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.ranges.clear()
    hub.stall.append(1.0)
    assert list(read_clips(rows["location"].tolist()[:1])) == [(0, b"a")]
    assert hub.ranges[-2] == hub.ranges[-3]


@pytest.mark.slow
def test_a_hub_that_stays_dead_is_an_error_that_names_the_file(
    hub: type[Hub], no_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read("owner/name", revision=COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    hub.stall += [0.2] * 20
    with pytest.raises(InputError, match=r"train-00000-of-00001.parquet cannot be read from the hub \(ReadTimeout: .*dvc repro"):
        list(read_clips(rows["location"].tolist()[:1]))


@pytest.mark.hub
def test_the_real_hub_names_a_dataset_that_it_does_not_have(no_waits: None) -> None:
    with pytest.raises(InputError) as caught:
        read("speakerprint-tests/there-is-no-such-dataset", revision=COMMIT)
    if "check the connection" in str(caught.value):
        pytest.skip(str(caught.value))
    assert "correct source.repository" in str(caught.value)
