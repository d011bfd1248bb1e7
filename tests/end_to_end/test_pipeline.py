"""Which stages run after which change, shown by the real `dvc` on a tiny corpus.

The tests share one project, whose stages are up to date before and after each of them; values are used once, since DVC would
bring back a result it has seen instead of running the stage again.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import pandas as pd
import pytest
from safetensors.numpy import load_file

from tests.end_to_end.conftest import stages_that_ran

pytestmark = pytest.mark.slow

SELECTION = ("identify_language", "filter", "resample", "features")
DATA = {f"{stage}@{corpus}" for stage in ("download", *SELECTION) for corpus in ("demo_train", "demo_dev")}
TRAIN_AND_EVALUATE = {"train", "evaluate@demo_dev"}


def test_the_first_run_runs_every_stage(project):
    assert project.first_run == {"pretrained"} | DATA | TRAIN_AND_EVALUATE


def test_metrics_and_pictures_are_there(project):
    metrics = json.loads((project.folder / "metrics/demo_dev.json").read_text())
    assert 0 <= metrics["eer_low"] <= metrics["eer"] <= metrics["eer_high"] <= 1
    assert 0 < metrics["log_mel_floor_eer"] < 1
    details = json.loads((project.folder / "metrics/demo_dev.details.json").read_text())
    assert details["log_mel_floor"]["eer"] == metrics["log_mel_floor_eer"]
    pictures = {path.name for path in (project.folder / "metrics/plots/demo_dev").glob("*.png")}
    assert pictures == {"det.png", "scores.png", "projection.png", "confusions.png"}


def test_nothing_changed_runs_nothing(project):
    assert project.repro() == set()


def test_a_vote_threshold_reruns_that_corpus_from_filter_on(project):
    project.set_params({"corpora.demo_train.filter.min_up_votes": 1})
    ran = project.repro()
    of_corpus = {f"{stage}@demo_train" for stage in SELECTION}
    assert ran == of_corpus | TRAIN_AND_EVALUATE


def test_a_filter_of_an_evaluation_corpus_does_not_train(project):
    project.set_params({"corpora.demo_dev.filter.max_down_votes": 9})
    assert project.repro() == {f"{stage}@demo_dev" for stage in (*SELECTION, "evaluate")}


@pytest.mark.parametrize(
    "change",
    [
        {"loss.ntxent_weight": 0.3},
        {"loss.triplet_weight": 0.7},
        {"augmentation.gaussian_noise.std": 0.2},
        {"train.head_learning_rate": 0.002},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_training_reads_reruns_train_and_evaluate_only(project, change):
    project.set_params(change)
    assert project.repro() == TRAIN_AND_EVALUATE


def test_an_evaluation_setting_reruns_evaluate_only(project):
    project.set_params({"evaluation.bootstrap_samples": 150})
    assert project.repro() == {"evaluate@demo_dev"}


def test_a_changed_trial_list_reruns_evaluate_only(project):
    recordings = pd.read_parquet(project.folder / "data/features/evaluate/demo_dev/recordings.parquet")
    ids = recordings.groupby("speaker_id")["recording_id"].agg(list).tolist()
    path = project.folder / "data/given/trials/demo_dev.txt"
    lines = [f"1 {ids[0][0]}.mp3 {ids[0][1]}.mp3", f"0 {ids[0][0]}.mp3 {ids[1][0]}.mp3"]
    for n_trials in (2, 3):
        path.write_text("\n".join([*lines, f"0 {ids[0][1]} {ids[1][1]}"][:n_trials]))
        assert project.repro() == {"evaluate@demo_dev"}
        details = json.loads((project.folder / "metrics/demo_dev.details.json").read_text())
        assert (details["target_trials"], details["nontarget_trials"], details["skipped_trials"]) == (1, n_trials - 1, 0)
    path.unlink()
    project.repro()


def test_the_source_of_losses_reruns_train_and_evaluate(project):
    (project.folder / "src/speakerprint/losses.py").open("a").write("# a change\n")
    assert project.repro() == TRAIN_AND_EVALUATE


def test_the_source_of_plots_reruns_evaluate_only(project):
    (project.folder / "src/speakerprint/plots.py").open("a").write("# a change\n")
    assert project.repro() == {"evaluate@demo_dev"}


def test_a_feature_store_written_twice_has_the_same_hash(project):
    lock = (project.folder / "dvc.lock").read_text()
    assert project.repro("--force", "--single-item", "features@demo_dev") == {"features@demo_dev"}
    assert (project.folder / "dvc.lock").read_text() == lock


def test_a_mistyped_key_in_the_file_is_refused_by_name(project):
    path = project.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("ntxent_temperature: 0.5", "ntxnt_temperature: 0.5"))
    output = project.run("dvc", "repro", fails=True)
    path.write_text(before)
    assert "loss.ntxnt_temperature: unknown key" in output


def test_a_dead_first_run_leaves_nothing_to_commit_by_mistake(project, tmp_path):
    project.commit()
    project.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = type(project)(tmp_path / "clone")
    done = "    if accelerator.is_main_process:\n        if progress.kept_model is None"
    clone.replace("src/speakerprint/training.py", done, f"    raise SystemExit('the machine died')\n{done}")
    clone.run("git", "commit", "-qam", "a training that dies after its last step")
    ran = clone.repro(fails=True)
    assert "train" in ran and "evaluate@demo_dev" not in ran
    assert any((clone.folder / "models/checkpoint/curves").rglob("loss.tsv"))
    clone.run("git", "add", "-A")
    staged = clone.run("git", "diff", "--cached", "--name-only", "--diff-filter=d").split()
    assert all(name == "dvc.lock" or name.startswith("metrics/data/") for name in staged), staged


def test_a_training_that_was_killed_resumes_with_the_next_repro(project):
    project.set_params({"train.steps": 80})
    checkpoint = project.folder / "models/checkpoint/checkpoint.pt"
    killed = subprocess.Popen(["dvc", "repro"], cwd=project.folder, env=project.environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert checkpoint.exists()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    output = project.run("dvc", "repro")
    assert "resuming at step" in output and stages_that_ran(output) == TRAIN_AND_EVALUATE
    assert not checkpoint.exists()


def test_a_train_corpus_that_is_taken_out_by_hand_reruns_train(project):
    """Its features are still there, and train says so instead of learning from them."""
    path = project.folder / "params.yaml"
    before = path.read_text()
    corpus = before.split("  demo_train:\n")[1].split("  demo_dev:\n")[0]
    added = before.replace("  demo_dev:\n", f"  demo_extra:\n{corpus}  demo_dev:\n")
    path.write_text(added.replace("\n- demo_train\n", "\n- demo_train\n- demo_extra\n"))
    of_corpus = {f"{stage}@demo_extra" for stage in ("download", *SELECTION)}
    assert project.repro() == of_corpus | TRAIN_AND_EVALUATE
    path.write_text(before)
    assert "data/features/train/demo_extra belongs to no corpus" in project.run("dvc", "repro", fails=True)
    shutil.rmtree(project.folder / "data/features/train/demo_extra")
    assert project.repro() == TRAIN_AND_EVALUATE


def test_an_experiment_changes_the_key_and_keeps_the_comments(project):
    project.commit()
    before = (project.folder / "params.yaml").read_text().splitlines()
    output = project.run("dvc", "exp", "run", "-S", "loss.ntxent_weight=0.55", "--name", "heavier")
    assert stages_that_ran(output) == TRAIN_AND_EVALUATE
    after = (project.folder / "params.yaml").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1 and changed[0][1].split("#")[0].split() == ["ntxent_weight:", "0.55"] and "#" in changed[0][1]
    diff = json.loads(project.run("dvc", "metrics", "diff", "--json"))
    assert "metrics/demo_dev.json" in diff["metrics"] if "metrics" in diff else "metrics/demo_dev.json" in diff
    project.run("dvc", "plots", "diff", "HEAD", "--out", "dvc_plots")
    page = (project.folder / "dvc_plots/index.html").read_text()
    assert "DET" in page and "false accept rate" in page
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q", "--force")


def test_a_mistyped_key_of_an_experiment_is_refused(project):
    project.commit()
    assert "ntxnt_weight" in project.run("dvc", "exp", "run", "-S", "loss.ntxnt_weight=0.5", fails=True)


def test_queued_experiments_run_and_are_shown(project):
    project.commit()
    project.run("dvc", "exp", "run", "--queue", "-S", "loss.ntxent_weight=0,0.1,0.5")
    project.run("dvc", "exp", "run", "--run-all")
    shown = json.loads(project.run("dvc", "exp", "show", "--json", "--only-changed", "--hide-workspace"))
    experiments = [revision["data"] for exp in shown[-1]["experiments"] or [] for revision in exp["revs"]]
    weights = {data["params"]["params.yaml"]["data"]["loss"]["ntxent_weight"] for data in experiments if data}
    assert {0, 0.1, 0.5} <= weights
    assert all(data["metrics"]["metrics/demo_dev.json"]["data"]["eer"] >= 0 for data in experiments)


def test_the_model_folder_holds_weights_configuration_and_params(project):
    folder = project.folder / "models/speakerprint"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "params.yaml"}
    assert any(name.startswith("encoder.layers.0.") for name in load_file(folder / "model.safetensors"))
    assert not (project.folder / "models/checkpoint/checkpoint.pt").exists()
