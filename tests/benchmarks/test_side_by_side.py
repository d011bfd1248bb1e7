"""Each benchmark of `make bench` at a tiny size: the form of its rows, and what does not depend on the machine."""

import json
import os
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

from benchmarks import bench_data_path, bench_dvc, bench_embedding, bench_training_step, bench_trials
from benchmarks.__main__ import PROJECT, QUICK, main
from benchmarks.side_by_side import row, take_turns
from speakerprint.model.whisper import DIMS

COLUMNS = {"what", "ours", "reference", "unit", "ratio", "aim", "met"}


def by_what(rows):
    assert all(set(row) == COLUMNS for row in rows)
    json.dumps(rows, allow_nan=False)
    return {row["what"]: row for row in rows}


def test_an_aim_is_met_from_its_ratio_on_and_without_one_nothing_is_said():
    assert [row("w", 1, 2, "s", ratio, 2)["met"] for ratio in (1.99, 2.0)] == [False, True]
    assert row("w", 1, None, "s") == dict(what="w", ours=1, reference=None, unit="s", ratio=None, aim="", met=None)


def test_ways_take_turns_after_a_call_that_does_not_count():
    calls = []
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert set(seconds) == {"a", "b"}


@pytest.mark.slow
def test_a_training_step_is_measured_against_the_references(monkeypatch):
    monkeypatch.setattr(bench_training_step, "CROP_FRAMES", 100)
    monkeypatch.setattr(bench_training_step, "DIMS", replace(DIMS, n_layers=1))  # of the reference, whose six the next test sees
    rows = by_what(bench_training_step.run(n_clips=2, rounds=1, threads=1))
    assert "training step, float32" in rows
    assert next(row["aim"] for row in rows.values()) == ">= 10"
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["reference"], rel=0.01) for row in rows.values())


@pytest.mark.slow
def test_the_reference_model_pads_to_thirty_seconds():
    model, shapes = bench_training_step.ReferenceModel(), []
    model.encoder.register_forward_pre_hook(lambda _module, inputs: shapes.append(inputs[0].shape))
    with torch.inference_mode():
        embeddings = model(torch.zeros(1, 80, 500), None)
    assert shapes == [(1, 80, 3000)]
    assert embeddings.shape == (1, 256)
    assert len(model.encoder.layers) == 6


@pytest.mark.slow
def test_embedding_is_measured_without_peers_and_precisions_hardly_change_a_cosine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_embedding, "N_COMPARED", 4)
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    rows = by_what(bench_embedding.run(n_recordings=2, rounds=1, wheels=tmp_path))
    assert "Resemblyzer is left out" in capsys.readouterr().err
    assert not any("Resemblyzer" in what or "CAM++" in what for what in rows)
    assert rows["a recording of 7.7 s, the reference recipe's model"]["aim"] == ""
    assert rows["largest difference of cosine from torch, float32: ONNX Runtime, float32"]["ours"] < 1e-4
    assert rows["largest difference of cosine from torch, float32: torch, bfloat16"]["ours"] < 0.02
    assert 1e-4 < rows["largest difference of cosine from torch, float32: ours"]["ours"] < 0.03


@pytest.mark.slow
def test_dvc_is_measured_on_the_pipelines_own_stages_and_none_of_its_slow_functions_is_ours(monkeypatch):
    """Of DVC's commands the profiled one runs; the end-to-end tests run the others."""
    asked = []
    monkeypatch.setattr(bench_dvc.Project, "dvc", lambda self, *given: asked.append(given))
    monkeypatch.setattr(bench_dvc, "PROFILED", ("status",))
    rows = by_what(bench_dvc.run(store_gb=0.03, rounds=1))
    assert [row["met"] for what, row in rows.items() if "functions" in what] == [True]
    assert sum("MD5" in what for what in rows) == 2
    assert {given[0] for given in asked} == {"repro", "status", "exp", "--version"}


def test_a_function_of_this_project_is_told_from_others():
    assert bench_dvc.is_own("/home/me/speakerprint/src/speakerprint/params.py:12(load_params)")
    assert bench_dvc.is_own("stages/train.py:1(<module>)")
    assert not bench_dvc.is_own("/usr/lib/python3.11/posixpath.py:71(join)")
    assert not bench_dvc.is_own("~:0(<built-in method posix.stat>)")


@pytest.mark.slow
def test_all_pairs_give_the_eer_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(bench_trials, "in_its_own_process", bench_trials.in_this_process)
    rows = by_what(bench_trials.run(n_speakers=30, rounds=1))
    assert "peak memory, 4,005 pairs" in rows
    assert rows["EER"]["ours"] == pytest.approx(rows["EER"]["reference"], abs=0.5)  # steps of 1/90 between target trials


@pytest.mark.slow
def test_one_that_cannot_run_keeps_what_the_file_had(tmp_path, monkeypatch, capsys):
    before = {"dvc": {"commit": "before", "rows": [1]}, "verify": {"commit": "before", "rows": []}}
    (tmp_path / "out.json").write_text(json.dumps(before), encoding="utf-8")
    monkeypatch.setitem(QUICK, "verify", dict(rounds=1))
    monkeypatch.setitem(QUICK, "dvc", dict(store_gb=1e9, rounds=1))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--only", "verify", "dvc", "--out", str(tmp_path / "out.json")])
    main()
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["dvc"] == before["dvc"]
    assert {row.pop("benchmark") for row in written["verify"]["rows"]} == {"verify"}
    assert {"a cold verify, CPU time, torch", "a cold verify, memory, torch"} < set(by_what(written["verify"]["rows"]))
    assert {"commit", "date", "processor", "cores", "OMP_NUM_THREADS", "arguments"} < set(written["verify"])
    assert written["verify"]["commit"] != "before"
    assert "dvc is left out" in capsys.readouterr().err


class InThisProcess:
    """Takes the place of a ProcessPoolExecutor."""

    def __init__(self, *_, **__):
        pass

    def submit(self, function, *arguments) -> Future:
        done: Future = Future()
        done.set_result(function(*arguments))
        return done

    def shutdown(self) -> None:
        pass


@pytest.mark.slow
def test_both_ways_of_data_are_measured_on_the_same_clips(monkeypatch):
    monkeypatch.setattr(bench_data_path, "ProcessPoolExecutor", InThisProcess)
    rows = by_what(bench_data_path.run(n_clips=4, rounds=1))
    assert len(rows) == 6
    dense_bytes = 80 * 3000 * 4
    stored = rows["a clip in the store"]
    assert 0 < stored["ours"] * 1000 < 2 * 500 * 80 * 2  # frames of 5 s in float16, and a little
    assert stored["ours"] < stored["reference"] <= dense_bytes / 1000
    for how in ("", ", resample.encoding=wav"):
        speed = rows[f"MP3 to features in the store{how}"]
        assert speed["ratio"] == pytest.approx(speed["ours"] / speed["reference"], rel=0.01)
        assert rows[f"MP3 to features, decoding alone{how}"]["ours"] == pytest.approx(1000 / speed["ours"], rel=0.01)


@pytest.mark.slow
def test_make_bench_is_listed_and_what_it_calls_names_them_all():
    def says(*command: str) -> str:
        return subprocess.run(
            command, cwd=PROJECT, env=os.environ | {"PYTHONPATH": "src"}, stdout=subprocess.PIPE, text=True
        ).stdout

    assert "make bench " in says("make", "help")
    said = says(sys.executable, "-m", "benchmarks", "--help")
    assert all(name in said for name in QUICK)
