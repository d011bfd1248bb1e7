"""What a stage tells its user when something is wrong."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from speakerprint.errors import InputError
from speakerprint.evaluation.trial_lists import TrialList
from speakerprint.evaluation.trial_sets import AllPairs
from speakerprint.params.whole import load_params
from stages import evaluate, features, fresh, run, write_json
from stages.train import main


def stage_that_raises(error):
    def stage():
        raise error

    return stage


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["stage"])


def test_bad_input_ends_in_its_message_and_status_1():
    with pytest.raises(SystemExit) as exit:
        run(stage_that_raises(InputError("clips.tsv: row 3 has no path")))
    assert exit.value.code == "error: clips.tsv: row 3 has no path"  # a string: printed to stderr, status 1


def test_a_full_disk_names_the_file_and_the_remedy():
    with pytest.raises(SystemExit, match=r"no space left .* data/audio/part\.parquet; free some .*dvc gc"):
        run(stage_that_raises(OSError(errno.ENOSPC, "No space left on device", "data/audio/part.parquet")))


def test_other_errors_keep_their_traceback():
    with pytest.raises(PermissionError):
        run(stage_that_raises(PermissionError(errno.EACCES, "denied")))


def test_the_command_lines_arguments_reach_the_stage(monkeypatch):
    monkeypatch.setattr("sys.argv", ["stage", "demo_train"])
    seen: list[str] = []
    run(seen.append)
    assert seen == ["demo_train"]


def test_a_report_is_readable_json(tmp_path):
    write_json({"reason": "é", "bad": [1]}, tmp_path / "deep/report.json")
    text = (tmp_path / "deep/report.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"reason": "é", "bad": [1]} and "é" in text and text.endswith("}\n")


@pytest.mark.parametrize("link", ["hardlink_to", "symlink_to"])
def test_a_report_is_not_written_through_a_link_into_the_cache(tmp_path, link):
    (tmp_path / "cached").write_text("before")
    getattr(tmp_path / "report.json", link)(tmp_path / "cached")
    write_json({"bad": []}, tmp_path / "report.json")
    assert (tmp_path / "cached").read_text() == "before"
    assert json.loads((tmp_path / "report.json").read_text()) == {"bad": []}


def test_a_folder_of_outputs_starts_empty(tmp_path):
    (tmp_path / "plots/old").mkdir(parents=True)
    assert not fresh(tmp_path / "plots").exists()
    assert fresh(tmp_path / "deep/plots").parent.is_dir()


def test_train_refuses_features_of_a_corpus_that_is_not_in_params(tmp_path, monkeypatch):
    params = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    (tmp_path / "data/features/train/forgotten").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data/features/train/forgotten belongs to no corpus"):
        main()


def test_features_of_a_corpus_whose_role_changed_leave_the_other_roles_folder(tmp_path, monkeypatch):
    params = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    corpora = load_params(tmp_path / "params.yaml").corpora
    name = next(name for name, corpus in corpora.items() if corpus.role == "evaluate")
    (tmp_path / f"data/features/train/{name}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "extract_corpus", lambda *_: {})
    features.main(name)
    assert not (tmp_path / f"data/features/train/{name}").exists()


def test_evaluate_runs_all_pairs_or_the_corpus_own_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ids = ["a/1", "a/2", "b/1"]
    table = pd.DataFrame({"recording_id": ids, "speaker_id": [id[0] for id in ids]})
    store: Any = SimpleNamespace(recordings=table, speaker_ids=table["speaker_id"].to_numpy())
    assert isinstance(evaluate.trials_of("mine", store), AllPairs)
    assert capsys.readouterr().out == "mine: all pairs of recordings (data/given/trials/mine.txt would replace them)\n"
    write_json({"bad": [{"recording_id": "b/2"}, {"recording_id": "b/3"}]}, tmp_path / "metrics/data/mine.resample.json")
    (tmp_path / "data/given/trials").mkdir(parents=True)
    (tmp_path / "data/given/trials/mine.txt").write_text(
        "1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n0 a/1.wav b/2.wav\n1 b/1.wav b/3.wav\n"
    )
    listed = evaluate.trials_of("mine", store)
    assert isinstance(listed, TrialList) and listed.second.tolist() == [1, 2]
    assert capsys.readouterr().out == "mine: 2 trials of data/given/trials/mine.txt, 2 skipped\n"
