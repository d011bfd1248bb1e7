"""Damaged files: a message that names the file, or the answer of the whole one; never a traceback, a hang, or memory without end.

`make test` damages each kind of file a few times, `make torture` 600 times (24,000 cases), and prints what came of them.
"""

import io
import json
import os
import re
import resource
import signal
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import av
import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speakerprint.audio.decode import decode
from speakerprint.audio.files import read_file
from speakerprint.audio.stream import AudioStream
from speakerprint.corpora import shards
from speakerprint.corpora.feature_store import DTYPE, FeatureStore, create_store, seal, write_shard
from speakerprint.corpora.languages import empty_table, read_languages, write_languages
from speakerprint.corpora.recordings import RecordingsFile, as_recordings, read_recordings, write_recordings
from speakerprint.corpora.resampling import read_audio, resample_corpus
from speakerprint.corpora.selection import read_exclude_list
from speakerprint.corpora.sources.common_voice import read_common_voice
from speakerprint.corpora.sources.folder import read_folder
from speakerprint.corpora.sources.voxceleb import read_voxceleb
from speakerprint.corpora.sources.zips import read_zip
from speakerprint.corpora.tables import read_recording_table
from speakerprint.errors import InputError
from speakerprint.evaluation.metrics_files import thresholds_of
from speakerprint.evaluation.trial_lists import read_trial_list
from speakerprint.inference import calibration, model_folder
from speakerprint.inference.calibration import Calibration
from speakerprint.inference.gallery import Gallery
from speakerprint.inference.network import Network
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.params.resample import Resample
from speakerprint.params.section import read_tree
from speakerprint.params.sources import CommonVoiceSource, FolderSource, VoxCelebSource
from speakerprint.params.whole import parse_params
from speakerprint.training.checkpoint import Checkpoint
from speakerprint.training.teacher import read_teacher, write_teacher
from tests.corpora.sources.test_common_voice import COLUMNS_17, tsv
from tests.helpers import tiny_model, touch
from tests.inference.test_calibration import CALIBRATION

CASES = int(os.environ.get("TORTURE_CASES", "12"))
SECONDS = 10  # a case may take
MEMORY_BYTES = 1 << 30  # all cases of a kind may add
ROOT = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)
ROWS = as_recordings(pd.DataFrame({"recording_id": list("abcd"), "speaker_id": list("xxyy"), "location": list("abcd")}), "test")


@dataclass
class Kind:
    """A file that we read. ``checked``: what it says is stored with a digest, so that only the whole file's answer counts."""

    make: Callable[[Path], Path]  # in an empty folder; returns the file to damage
    read: Callable[[Path], Any]
    checked: bool = False


def written(name: str, write: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return make


def languages(path: Path) -> None:
    rows = pd.DataFrame({"group": list("abcd"), "language": "en", "probability": 0.5, "clips": 1})
    write_languages(pd.concat([empty_table(), rows]), path)


def table(path: Path) -> None:
    path.write_text("speaker,path\nann,a.wav\nbob,b.wav\n", encoding="utf-8")
    for name in ("a.wav", "b.wav"):
        (path.parent / name).touch()


def metrics(path: Path) -> None:
    figures = {"threshold_at_1pct_false_accepts": 0.4, "threshold_at_0_1pct_false_accepts": 0.5, "eer": 0.1}
    path.write_text(json.dumps(figures), encoding="utf-8")
    path.with_suffix(".details.json").write_text('{"auc": 1.0}', encoding="utf-8")


def gallery(folder: Path) -> Path:
    Gallery(folder, "model", 8).enrol(list("xxyy"), np.eye(8)[:4], list("abcd"))
    return folder / "gallery.sqlite"


def model(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        SpeakerModel(tiny_model()).save(folder, "run")
        return folder / name

    return make


def embedding(path: Path) -> bytes:
    return Network(path.parent).embed_frames([np.ones((20, 80), np.float32)]).tobytes()


def embedding_by_a_stranger(path: Path) -> bytes:
    """Whoever makes a model makes its digest: what is in the config is not believed either."""
    with patch.object(model_folder, "_digest", lambda tree: tree.get("digest")):
        return embedding(path)


def unsigned_calibration(path: Path) -> None:
    path.write_text(CALIBRATION.model_dump_json(indent=1), encoding="utf-8")


def decisions_by_a_stranger(path: Path) -> list[Any]:
    with patch.object(calibration, "_digest", lambda tree: None):
        found = Calibration.load(path)
    return [found.llr([-1, 0.5]), found.posterior(0.5, 0.01), *map(found.threshold, found.thresholds)]


def sound(form: str) -> Kind:
    noise = 0.1 * np.random.default_rng(1).normal(size=8000)
    return Kind(
        written(f"a.{form}", lambda path: soundfile.write(path, noise, 16_000, format=form.upper())),
        lambda path: decode(read_file(path), str(path)),
    )


def params(path: Path) -> None:
    path.write_bytes((ROOT / "params.yaml").read_bytes())


def trials(path: Path) -> None:
    path.write_text("1 a b\n0 a c\n1 c d\n", encoding="utf-8")


def coded(name: str, container: str, codec: str) -> Callable[[Path], Path]:
    """Sound that libsndfile cannot read, so that FFmpeg does."""

    def make(folder: Path) -> Path:
        with av.open(str(folder / name), "w", format=container) as file:
            track: Any = file.add_stream(codec, rate=48_000, layout="mono")
            noise = np.random.default_rng(1).normal(0, 0.1, (1, 24_000)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate = 48_000
            resampler = av.AudioResampler(track.format, track.layout, track.rate, frame_size=track.frame_size or None)
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                file.mux(track.encode(part))
            file.mux(track.encode(None))
        return folder / name

    return make


def stream(path: Path) -> list[bytes]:
    return [block.tobytes() for block in AudioStream(path)]


def store(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made, offsets = folder / "store", np.array([0, 20, 40, 60, 80])
        create_store(made, offsets, list("xxyy"), [None] * 4, {})
        write_shard(made, 0, np.random.default_rng(1).normal(size=(80, 80)).astype(DTYPE))
        write_recordings(ROWS, made / "recordings.parquet")
        seal(made)
        return made / file

    return make


def features(path: Path) -> bytes:
    folder = next(parent for parent in path.parents if parent.name == "store")
    return FeatureStore(folder).frames(2).tobytes()


def resampled(folder: Path) -> Path:
    soundfile.write(folder / "a.wav", np.random.default_rng(1).normal(0, 0.1, 8000), 16_000)
    rows = ROWS.assign(location=str(folder / "a.wav"))
    with joblib.parallel_config("threading", n_jobs=1):
        resample_corpus(rows, folder / "audio", Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0))
    return folder / "audio/part-00000.parquet"


def common_voice(archived: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rows = [{"path": f"{name}.mp3", "client_id": name} for name in "abcd"]
        release = folder / "cv-corpus/fr"
        release.mkdir(parents=True)
        (release / "train.tsv").write_text(tsv(COLUMNS_17, *rows), encoding="utf-8")
        if not archived:
            return release / "train.tsv"
        with tarfile.open(folder / "cv.tar.gz", "w:gz") as tar:
            tar.add(folder / "cv-corpus", "cv-corpus")
        return folder / "cv.tar.gz"

    return make


def release(path: Path) -> pd.DataFrame:
    source = CommonVoiceSource(kind="common_voice", root=str(path.parent if path.suffix == ".tsv" else path), splits=["train"])
    return pd.concat(read_common_voice(source))


def speakers(folder: Path) -> Path:
    touch(folder, "ann/a.wav", "bob/b.wav")
    (folder / "speakers.csv").write_text("speaker_id,gender,age\nann,f,30\nbob,m,\n", encoding="utf-8")
    return folder / "speakers.csv"


def voxceleb(folder: Path) -> Path:
    touch(folder, "id10001/video/00001.wav")
    text = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA\tm\tIreland\tdev\n"
    (folder / "vox1_meta.csv").write_text(text, encoding="utf-8")
    return folder / "vox1_meta.csv"


def exclusions(path: Path) -> None:
    path.write_text("recording_id,reason\na,odd\nb,clipped\n", encoding="utf-8")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("id00012/v/00001.m4a", bytes(500))
        file.writestr("id00012/v/00002.m4a", bytes(range(250)))


class OneShard:
    def __init__(self, path: Path):
        self.path = path

    def inputs(self) -> str:
        return "the same"

    def make(self) -> dict[str, int]:
        self.path.touch()
        return {"n": 1}


def marker(path: Path) -> None:
    shards._make(OneShard(path.with_name("shard")), path)


def checkpoint(path: Path) -> None:
    made = Checkpoint(path.parent, "run")
    made.path = path
    made.save(weights=torch.ones(100), step=3)


def resume(path: Path) -> dict[str, Any] | None:
    made = Checkpoint(path.parent, "run")
    made.path = path
    with redirect_stdout(io.StringIO()):  # it says what is wrong, and training starts anew
        return made.load()


RECORDINGS = written("r.parquet", lambda path: write_recordings(ROWS, path))
TEACHER = written("t.parquet", lambda path: write_teacher(path, list("abcd"), np.eye(4, dtype=np.float32)))
KINDS = {
    "params": Kind(written("params.yaml", params), lambda path: parse_params(read_tree(path), path)),
    "recordings": Kind(RECORDINGS, read_recordings),
    "recordings in chunks": Kind(RECORDINGS, lambda path: pd.concat(RecordingsFile(path))),
    "languages": Kind(written("l.parquet", languages), read_languages),
    "teacher": Kind(TEACHER, lambda path: read_teacher(path.parent, {"t": list("abcd")})),
    "table of recordings": Kind(written("t.csv", table), read_recording_table),
    "trial list": Kind(written("t.txt", trials), lambda path: read_trial_list(path, ROWS)),
    "metrics": Kind(written("m.json", metrics), thresholds_of),
    "calibration": Kind(written("c.json", CALIBRATION.save), Calibration.load, checked=True),
    "a stranger's calibration": Kind(written("c.json", unsigned_calibration), decisions_by_a_stranger),
    "a stranger's config": Kind(model("config.json"), embedding_by_a_stranger),
    "gallery": Kind(gallery, lambda path: Gallery(path.parent).identify(np.eye(8)[0], 0.5), checked=True),
    "model's config": Kind(model("config.json"), embedding, checked=True),
    "model's graph": Kind(model("model.onnx"), embedding, checked=True),
    "model's graph of integers": Kind(model("model_int8.onnx"), embedding, checked=True),
    "model's weights": Kind(model("model.safetensors"), embedding, checked=True),
    **{form: sound(form) for form in ("wav", "flac", "ogg", "mp3")},
    "m4a, in blocks": Kind(coded("a.m4a", "mp4", "aac"), stream),
    "m4a": Kind(coded("a.m4a", "mp4", "aac"), lambda path: decode(read_file(path), str(path))),
    "webm": Kind(coded("a.webm", "webm", "libopus"), lambda path: decode(read_file(path), str(path))),
    "flac, in blocks": Kind(sound("flac").make, stream),
    "ogg, in blocks": Kind(sound("ogg").make, stream),
    "mp3, in blocks": Kind(sound("mp3").make, stream),
    "webm, in blocks": Kind(coded("a.webm", "webm", "libopus"), stream),
    "store's digests": Kind(store("digests.json"), features, checked=True),
    "store's shard": Kind(store("features.zarr/features/c/0/0"), features, checked=True),
    "store's array": Kind(store("features.zarr/features/zarr.json"), features, checked=True),
    "store's recordings": Kind(store("recordings.parquet"), features, checked=True),
    "resampled audio": Kind(resampled, lambda path: [decode(clip, str(path)) for clip in read_audio(path.parent)[1]]),
    "Common Voice's table": Kind(common_voice(archived=False), release),
    "Common Voice's archive": Kind(common_voice(archived=True), release),
    "VoxCeleb's table": Kind(voxceleb, lambda path: read_voxceleb(VoxCelebSource(kind="voxceleb", root=str(path.parent)))),
    "zip archive": Kind(written("a.zip", zipped), lambda path: list(read_zip(path, lambda name: name.endswith(".m4a")))),
    "speakers' table": Kind(speakers, lambda path: read_folder(FolderSource(kind="folder", root=str(path.parent)))),
    "list of exclusions": Kind(written("e.csv", exclusions), lambda path: sorted(read_exclude_list(path, [ROWS]))),
    "shard's marker": Kind(written("m.json", marker), lambda path: shards._make(OneShard(path.with_name("shard")), path)),
    "checkpoint": Kind(written("c.pt", checkpoint), resume),
}


class Found(NamedTuple):
    """What broke a reader once: for each kind of file, its content, made of the whole one's."""

    kind: str
    content: Callable[[bytes], bytes]


def edited(*keys: str, **changes: Any) -> Callable[[bytes], bytes]:
    """A JSON object with other values at a path of keys."""

    def content(whole: bytes) -> bytes:
        tree = at = json.loads(whole)
        for key in keys:
            at = at[key]
        at.update(changes)
        return json.dumps(tree).encode()

    return content


def beyond_its_end(whole: bytes) -> bytes:
    """A zip archive whose directory says that its last file begins behind it."""
    place = whole.rfind(b"PK\1\2") + 42
    return whole[:place] + (2**24).to_bytes(4, "little") + whole[place + 4 :]


FOUND = [  # by tests/fuzz.py, and by reading the code for it
    *(Found("a stranger's config", edited("model", embedding_dim=dim)) for dim in (7, 10**12, float("inf"))),
    *(Found("a stranger's config", edited("model", window_s=seconds)) for seconds in (1e-9, 1e9)),
    *(Found("a stranger's config", edited(files=names)) for names in ({}, {"/dev/zero": ""}, {"../c": ""})),
    *(Found(kind, lambda whole: b"[" * 100_000) for kind in ("a stranger's config", "a stranger's calibration", "metrics")),
    Found("zip archive", beyond_its_end),
    Found("Common Voice's table", lambda whole: whole.replace(b"\n", b"\t\t\n")),
    Found("Common Voice's table", lambda whole: b"client_id\tpath\tx\rx\tup_votes\tdown_votes\n"),
    Found("list of exclusions", lambda whole: b"reason,recording_id\nodd\n"),
    Found("list of exclusions", lambda whole: b'recording_id\n"a'),
    Found("table of recordings", lambda whole: b"speaker,path\nann," + 5000 * b"x" + b"\n"),
    Found("params", lambda whole: whole + b"\na: !!bool 5\n"),
    Found("params", lambda whole: whole + b'\na: "\\UFFFFFFFF"\n'),
]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes flipped, cut out, doubled or put in, or the end cut off."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        place, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 40))
        match rng.integers(5):
            case 0:
                data = data[:place]
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = rng.bytes(length)
            case 3:
                data[place:place] = data[max(0, place - length) : place]
            case _:
                for one in rng.integers(len(data), size=3) if data else ():
                    data[one] = int(rng.integers(256))
    return bytes(data)


def as_text(answer: Any) -> str:
    return answer.to_json() if isinstance(answer, pd.DataFrame) else repr(answer)


@pytest.mark.parametrize("found", FOUND, ids=[f"{number}, {found.kind}" for number, found in enumerate(FOUND)])
def test_what_broke_a_reader_once_ends_in_a_message(found, tmp_path):
    kind = KINDS[found.kind]
    path = kind.make(tmp_path)
    path.write_bytes(found.content(path.read_bytes()))
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        kind.read(path)


@pytest.mark.slow
@pytest.mark.torture
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_ends_in_a_message_or_in_the_whole_one_s_answer(name, tmp_path, record_property):
    kind, rng = KINDS[name], np.random.default_rng(len(name))
    path = kind.make(tmp_path)
    whole, answer = path.read_bytes(), as_text(kind.read(path))
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Counter[str]()
    there = {one.name for one in tmp_path.iterdir()}
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"{name}: a case takes over {SECONDS} s"))
    for number in range(CASES):
        path.write_bytes(damaged(whole, rng))
        signal.alarm(SECONDS)
        try:
            same = as_text(kind.read(path)) == answer
            assert same or not kind.checked, f"case {number}: another answer"
            found["the same answer" if same else "another answer"] += 1
        except InputError as error:
            assert path.name in str(error) or str(tmp_path) in str(error), f"case {number}: {error} names no file"
            found["a message"] += 1
        finally:
            signal.alarm(0)
    assert {one.name for one in tmp_path.iterdir()} - there <= {"gallery.sqlite-wal", "gallery.sqlite-shm"}
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY_BYTES
    print(f"{name}: {CASES} cases, {dict(found)}")
