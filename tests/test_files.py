"""What is written is whole or not there: after an error, a kill, and on a full disk, whoever the writer is."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from speakerprint.corpora.languages import empty_table, write_languages
from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.corpora.shards import _make
from speakerprint.evaluation.plots import _write_csv, new_picture, save_picture
from speakerprint.files import DiskFull, whole_file, whole_folder, write_text
from speakerprint.inference.embedder import SpeakerEmbedder
from speakerprint.inference.gallery_index import write_index
from speakerprint.model.export import export_huggingface, export_onnx
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.checkpoint import Checkpoint
from speakerprint.training.teacher import write_teacher
from tests.helpers import tiny_model

ROOM = 16 << 10  # bytes; each writer below wants more
NOISE = np.random.default_rng(0).normal(size=(2000, 128)).astype(np.float32)


# --- a file, a folder -----------------------------------------------------------------------------------------------


def test_a_file_appears_whole_and_takes_the_place_of_what_was_there(tmp_path):
    write_text("old", tmp_path / "a.txt")
    with whole_file(tmp_path / "a.txt") as part:
        part.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "new")]


def test_after_an_error_what_was_there_stays_and_nothing_else_is_there(tmp_path):
    write_text("old", tmp_path / "a.txt")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "folder") as part:
        (part / "a").touch()
        _ = 1 / 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    write_text("in the cache", tmp_path / "cached")
    (tmp_path / "a").symlink_to(tmp_path / "cached")
    write_text("new", tmp_path / "a")
    assert (tmp_path / "cached").read_text() == "in the cache"
    assert not (tmp_path / "a").is_symlink()


def test_a_folder_s_other_files_stay(tmp_path):
    write_text("by hand", tmp_path / "README.md")
    write_text("old", tmp_path / "a")
    with whole_folder(tmp_path) as part:
        write_text("new", part / "a")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "by hand", "a": "new"}


def test_a_folder_that_another_process_made_in_the_meantime_is_filled(tmp_path):
    with whole_folder(tmp_path / "made") as part:
        write_text("ours", part / "a")
        (tmp_path / "made").mkdir()
        write_text("theirs", tmp_path / "made/a")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert [(path.name, path.read_text()) for path in (tmp_path / "made").iterdir()] == [("a", "ours")]


def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path):
    write_text("lost", os.devnull)
    assert Path(os.devnull).is_char_device()
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    write_text("through", tmp_path / "pipe")
    assert reader.communicate(timeout=20)[0] == "through"
    assert (tmp_path / "pipe").is_fifo()


def test_what_a_killed_process_left_is_gone_after_the_next_write(tmp_path):
    script = """if True:
        import os, signal, sys
        from speakerprint.files import whole_file
        with whole_file(sys.argv[1]) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)"""
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "a"])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] != ["a"]
    write_text("whole", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- a full disk ----------------------------------------------------------------------------------------------------


@contextmanager
def no_larger_file_than(n_bytes):
    """As a full disk, for who is not root: writing more fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of ROOM bytes; skips who may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    SpeakerModel(tiny_model()).save(folder, "run")
    return folder


def recordings(n=2000):
    rng = np.random.default_rng(0)
    ids = [rng.bytes(20).hex() for _ in range(n)]
    return as_recordings(pd.DataFrame({"recording_id": ids, "speaker_id": ids, "location": ids}), "test")


class Shard:
    def __init__(self, path):
        self.path = path

    def inputs(self):
        return 1

    def make(self):
        self.path.write_bytes(bytes(4 * ROOM))
        return {}


def languages(n=2000):
    rows = pd.DataFrame({"group": recordings(n)["recording_id"], "language": "en", "probability": 1.0, "clips": 1})
    return pd.concat([empty_table(), rows])


WRITERS = {
    "text": lambda path, model: write_text("x" * 4 * ROOM, path),
    "curve": lambda path, model: _write_csv(path, miss_rate=np.linspace(0, 1, 10_000)),
    "picture": lambda path, model: save_picture(drawn(), path),
    "recordings": lambda path, model: write_recordings(recordings(), path),
    "languages": lambda path, model: write_languages(languages(), path),
    "teacher": lambda path, model: write_teacher(path, [str(i) for i in range(2000)], NOISE),
    "checkpoint": lambda path, model: save_checkpoint(path),
    "model": lambda path, model: SpeakerModel(tiny_model()).save(path, "run"),
    "onnx": lambda path, model: export_onnx(SpeakerEmbedder.load(model, "cpu"), path),
    "huggingface": lambda path, model: export_huggingface(model, path),
    "index": lambda path, model: write_index(index(), path),
}


def drawn():
    figure, axes = new_picture(4, "noise")
    axes.imshow(NOISE)
    return figure


def save_checkpoint(path):
    checkpoint = Checkpoint(path.parent, "run")
    checkpoint.path = path
    checkpoint.save(weights=torch.from_numpy(NOISE))


def index():
    faiss = pytest.importorskip("faiss")
    made = faiss.IndexFlatIP(128)
    made.add(NOISE)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("full", ["limit", "disk"])
def test_on_a_full_disk_every_writer_leaves_what_was_there_and_says_which_file_disk_and_bytes(
    writer, full, tmp_path, request, tiny_folder
):
    folder = request.getfixturevalue("small_disk") if full == "disk" else tmp_path
    path = folder / "made"
    is_folder = writer in ("model", "huggingface")
    if not is_folder:
        write_text("old", path)
    with no_larger_file_than(ROOM) if full == "limit" else nullcontext(), pytest.raises(DiskFull) as refused:
        WRITERS[writer](path, tiny_folder)
    disk = folder if full == "disk" else "/"
    assert re.search(
        rf"^{path} cannot be written \(.*\): [\d,]+ bytes of it .*file system at {disk}.* bytes free", str(refused.value)
    )
    assert [one.name for one in folder.iterdir() if one.name != "disk"] == ([] if is_folder else ["made"])
    assert is_folder or path.read_text() == "old"


def test_a_shard_that_has_no_room_leaves_no_marker_and_is_made_later(tmp_path, small_disk):
    shard = Shard(small_disk / "shard")
    with pytest.raises(DiskFull, match=r"shard cannot be written .* file system at .*disk"):
        _make(shard, tmp_path / "shard.json")
    assert not (tmp_path / "shard.json").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("chained", [False, True])
def test_a_library_s_own_error_is_told_by_its_cause(code, chained, tmp_path):
    with pytest.raises(DiskFull, match=re.escape(os.strerror(code))), whole_file(tmp_path / "a"):
        try:
            raise OSError(code, os.strerror(code))
        except OSError as error:
            if not chained:
                raise
            raise RuntimeError("the library's own words") from error


def test_an_error_for_another_reason_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="another"), whole_file(tmp_path / "a") as part:
        part.write_text("half")
        raise RuntimeError("another")
