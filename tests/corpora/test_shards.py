import os
import shutil
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile

from speakerprint.corpora import feature_store, resampling, shards
from speakerprint.corpora.features import extract_corpus
from speakerprint.corpora.recordings import SCHEMA, as_recordings, write_recordings
from speakerprint.corpora.resampling import resample_corpus
from speakerprint.corpora.shards import make_shards
from speakerprint.errors import InputError
from speakerprint.params.resample import Resample
from tests import kills

PROJECT = Path(__file__).parents[2]
SETTINGS = Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.0)
N_CLIPS = 24


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A project's folder with clips of 0.3 s or more; shards are small."""
    monkeypatch.setattr(resampling, "SHARD_ROWS", 2)
    monkeypatch.setattr(feature_store, "CHUNK_FRAMES", 25)
    monkeypatch.setattr(feature_store, "SHARD_FRAMES", 25)
    monkeypatch.chdir(tmp_path)
    for number in range(N_CLIPS):
        write_clip(number, seed=number)
    rows = [{"recording_id": f"r{n:02d}", "speaker_id": "s", "location": f"clip{n}.wav"} for n in range(N_CLIPS)]
    write_recordings(as_recordings(pd.DataFrame(rows), "test"), tmp_path / "selection.parquet")
    return tmp_path


def write_clip(number: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, 2400 + 200 * number)
    soundfile.write(f"clip{number}.wav", noise, 8_000)


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def both_stages(into: str) -> dict[str, bytes]:
    resample_corpus(pd.read_parquet("selection.parquet"), f"{into}/audio", SETTINGS)
    extract_corpus(f"{into}/audio", f"{into}/features")
    return written(Path(into))


def times_of(folder: str) -> dict[str, int]:
    """When each file of a folder was written."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


# --- interrupted ----------------------------------------------------------------------------------------------------


STAGES = {
    "audio": ("parts", lambda: resample_corpus(pd.read_parquet("selection.parquet"), "run/audio", SETTINGS)),
    "features": ("store", lambda: extract_corpus("run/audio", "run/features")),
}


@pytest.mark.slow
def test_killed_stages_go_on_from_their_last_whole_shard_and_end_in_the_same_bytes(corpus):
    with joblib.parallel_config("threading", n_jobs=1):
        expected = both_stages("uninterrupted")
        for name, (unfinished, stage) in STAGES.items():
            n_changes = kills.changes_of(stage, corpus)
            shutil.rmtree(f"run/{name}")
            for moment in (n_changes // 3, n_changes // 3):
                assert kills.killed(stage, corpus, moment, None)
                assert not Path("run", name).exists()
            markers = list(Path(f"run/{name}.unfinished/whole").glob("[!.]*.json"))  # one that was being written has another name
            made = times_of(f"run/{name}.unfinished/{unfinished}")
            stage()
            assert 2 < len(markers) <= len(made.items() & times_of(f"run/{name}").items())
    assert written(Path("run")) == expected


def interrupted_after(n_shards: int, monkeypatch) -> None:
    """Resampling stops with an error after that many shards."""
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):

        def stopping(all_shards, folder):
            yield from make_shards(islice(all_shards, n_shards), folder)
            raise InterruptedError

        patch.setattr(resampling, "make_shards", stopping)
        resample_corpus(pd.read_parquet("selection.parquet"), "run/audio", SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["a clip", "the selection", "a setting", "the code", "all but four"])
def test_what_was_changed_in_between_is_made_anew(corpus, monkeypatch, change):
    settings, selection = SETTINGS, pd.read_parquet("selection.parquet")
    with joblib.parallel_config("threading"):
        interrupted_after(6, monkeypatch)
        made = times_of("run/audio.unfinished/parts")
        if change == "a clip":
            write_clip(3, seed=99)
        elif change == "the selection":
            selection = selection.iloc[1:].assign(speaker_id="t")
        elif change == "a setting":
            settings = SETTINGS.model_copy(update={"engine": "resampy"})
        elif change == "the code":
            monkeypatch.setattr(shards, "code_digest", lambda *packages: "another version")
        else:
            selection = selection.iloc[:4]
        resample_corpus(selection, "run/audio", settings)
        resample_corpus(selection, "fresh/audio", settings)
    assert written(Path("run")) == written(Path("fresh"))
    n_kept = len(made.items() & times_of("run/audio").items())
    assert n_kept == {"a clip": 5, "all but four": 2}.get(change, 0)


@pytest.mark.slow
def test_features_of_other_audio_are_made_anew(corpus, monkeypatch):
    with joblib.parallel_config("threading"):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr("speakerprint.corpora.features.write_recordings", lambda *_: 1 / 0)  # the last step
            both_stages("run")
        write_clip(3, seed=99)
        assert both_stages("run") == both_stages("fresh")


# --- in parallel ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slept:
    """A shard that says which process made it."""

    path: Path

    def inputs(self):
        return self.path.name

    def make(self):
        time.sleep(0.5)
        self.path.touch()
        return {"process": os.getpid()}


def processes(folder: Path) -> list[int]:
    """Of which processes eight shards were made."""
    (folder / "slept").mkdir()
    return [report["process"] for report in make_shards([Slept(folder / f"slept/{n}") for n in range(8)], folder / "markers")]


@pytest.fixture
def expected(corpus) -> dict[str, bytes]:
    with joblib.parallel_config("threading"):
        return both_stages("alone")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes_gives_the_same_bytes(corpus, expected, monkeypatch, workers):
    monkeypatch.setattr("joblib._parallel_backends.cpu_count", lambda *_: workers)
    assert len(set(processes(corpus))) == workers
    assert both_stages("run") == expected


class Workers:
    """A Dask client of two workers, of which one sees another disk."""

    def run(self, function, path):
        return {"tcp://10.0.0.1:4000": function(path), "tcp://10.0.0.2:4000": function(f"/other-disk{path}")}

    def scheduler_info(self, n_workers):
        return {"workers": {f"tcp://10.0.0.{n}:4000": {"name": f"machine{n}"} for n in (1, 2)}}


def test_a_dask_worker_that_does_not_see_the_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"1 of 2 Dask workers .* {tmp_path}: machine2 \(tcp://10\.0\.0\.2:4000\); they write"):
        shards._refuse_blind_workers(Workers())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_cluster_gives_the_same_bytes(corpus, expected, monkeypatch, engine, package):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; pip install -c constraints.txt -e '.[cluster]'")
    monkeypatch.setenv("SPEAKERPRINT_PARALLEL", engine)
    monkeypatch.setenv("RAY_ADDRESS", "local")  # one of its own, whatever else runs here
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT / 'src'}{os.pathsep}{PROJECT}")  # as docs/machines.md says; of tests, too
    assert len(set(processes(corpus))) > 1
    assert both_stages("run") == expected


def test_an_engine_that_is_not_known_is_refused(corpus, monkeypatch):
    monkeypatch.setenv("SPEAKERPRINT_PARALLEL", "spark")
    with pytest.raises(InputError, match="SPEAKERPRINT_PARALLEL is 'spark'; set it to loky, dask or ray"):
        list(make_shards([], corpus / "markers"))


def test_an_engine_that_is_not_installed_is_refused(corpus, monkeypatch):
    monkeypatch.setenv("SPEAKERPRINT_PARALLEL", "ray")
    for name in {"ray", *(name for name in sys.modules if name.startswith("ray."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"'ray', which is not installed; pip install -c constraints\.txt -e '\.\[cluster\]'"):
        list(make_shards([], corpus / "markers"))


def test_datasets_reads_a_shards_columns_as_if_it_had_written_them():
    from datasets import Audio, Features, Value

    columns = {**Features.from_arrow_schema(SCHEMA), "n_samples": Value("int64")}
    expected = Features({**columns, "audio": Audio(sampling_rate=16_000, decode=False)}).arrow_schema
    assert resampling.shard_schema().equals(expected, check_metadata=True)
