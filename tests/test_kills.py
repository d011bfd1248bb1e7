"""What writes is killed, at moments drawn from all that it has, and run again: nothing half, and the same as without the kill."""

import shutil
import sqlite3
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from speakerprint.errors import InputError
from speakerprint.inference.bulk import WRITERS, embed_into
from speakerprint.inference.embedder import SpeakerEmbedder
from speakerprint.inference.gallery import Gallery
from speakerprint.model.export import export_huggingface, export_onnx
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.pages.report import read_files, write_report
from speakerprint.pages.serve import create_app
from tests import kills
from tests.helpers import tiny_model
from tests.inference.test_bulk import fake_embedder
from tests.pages.test_serve import HERE, enrol, wav
from tests.tones import SPEAKERS, ToneEmbedder, write_tones

pytestmark = [pytest.mark.torture, pytest.mark.slow]
FORK = get_context("fork")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    SpeakerModel(tiny_model(window_s=1.0)).save(folder, "run")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_and_compare(run, folder: Path) -> None:
    """``run(path)`` writes a file or a folder: killed, there is nothing under that name, or all; in the end the same bytes.

    Two at once end in these bytes as well, and the one that comes too late may be refused.
    """
    for name in ("whole", "killed", "shared"):
        (folder / name).mkdir()
    run(folder / "whole/made")
    whole = files(folder / "whole")
    path = folder / "killed/made"

    def nothing_or_all() -> None:
        found = {name: data for name, data in files(folder / "killed").items() if name.split("/")[0] == "made"}
        assert found in ({}, whole)
        if path.is_dir():
            shutil.rmtree(path)  # as who exports does before the next run

    kills.kill_again_and_again(lambda: run(path), folder / "killed", nothing_or_all)
    if not path.exists():
        run(path)
    assert files(folder / "killed") == whole

    def unless_refused() -> None:
        with suppress(InputError):
            run(folder / "shared/made")

    both = [FORK.Process(target=unless_refused) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0] and files(folder / "shared") == whole


@pytest.mark.parametrize("form", ["onnx", "huggingface"])
def test_an_export_that_is_killed_leaves_nothing_or_all_of_it(form, model, tmp_path):
    runs = {
        "onnx": lambda path: export_onnx(SpeakerEmbedder.load(model, "cpu"), path),
        "huggingface": lambda path: export_huggingface(model, path),
    }
    kill_and_compare(runs[form], tmp_path)


def test_a_report_that_is_killed_leaves_nothing_or_all_of_it(tmp_path):
    voices = read_files(write_tones(tmp_path / "tones", SPEAKERS), ToneEmbedder())
    kill_and_compare(lambda path: write_report(voices, ToneEmbedder(), path), tmp_path)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_bulk_run_that_is_killed_goes_on_and_leaves_the_same_bytes(suffix, tmp_path):
    names = [str(tmp_path / f"{number}.wav") for number in range(12)]
    for number, name in enumerate(names):
        Path(name).write_bytes(bytes(number))
    embed_into(tmp_path / f"whole{suffix}", names, fake_embedder())
    output = tmp_path / "killed" / f"out{suffix}"
    output.parent.mkdir()

    def nothing_or_all() -> None:
        assert not output.exists() or output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()

    kills.kill_again_and_again(lambda: embed_into(output, names, fake_embedder()), output.parent, nothing_or_all)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


# --- known speakers -------------------------------------------------------------------------------------------------


class Watched(sqlite3.Connection):
    """Every 50th step of SQLite's machine is a moment to die."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.set_progress_handler(kills.tick, 50)


def new_person(folder: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(200, 2))
    Gallery(folder).enrol("new", rows, [f"{number}.wav" for number in range(200)])


def through_the_page(folder: Path) -> None:
    with TestClient(create_app(ToneEmbedder(), Gallery(folder)), base_url=HERE) as client:
        enrol(client, "new", wav(300), wav(310)).raise_for_status()


@pytest.mark.parametrize("run", [new_person, through_the_page])
def test_an_enrolment_that_is_killed_is_whole_or_not_there_and_nobody_else_is_lost(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    for name in ("whole", "killed"):
        Gallery(tmp_path / name, ToneEmbedder.model_id, 2).enrol("old", np.eye(2), ["0", "1"])
    before = Gallery(tmp_path / "whole").speakers()
    run(tmp_path / "whole")
    after = Gallery(tmp_path / "whole").speakers()

    def nothing_or_all() -> None:
        gallery = Gallery(tmp_path / "killed")
        assert gallery.speakers() in (before, after)
        assert gallery.identify([1.0, 0.0], threshold=-1).candidates
        if len(gallery) == 2:
            gallery.remove("new")

    kills.kill_again_and_again(lambda: run(tmp_path / "killed"), tmp_path / "killed", nothing_or_all)
    run(tmp_path / "killed")
    query = [0.6, 0.8]
    assert Gallery(tmp_path / "killed").search(query, 99) == Gallery(tmp_path / "whole").search(query, 99)
