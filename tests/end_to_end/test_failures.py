"""What is left when a stage fails, is interrupted or is killed, shown by the real `dvc` on a tiny corpus."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.end_to_end.conftest import Project, stages_that_ran
from tests.kills import KILLS, moments

pytestmark = pytest.mark.slow

STAGES = (
    *(f"{stage} demo_dev" for stage in ("download", "identify_language", "filter", "resample", "features")),
    "train",
    "evaluate demo_dev",
    "audit mine",
)


# --- refused, or failed ---------------------------------------------------------------------------------------------


def test_a_mistyped_or_ill_typed_key_costs_nothing(project):
    before = project.contents()
    project.replace("params.yaml", "ntxent_temperature: 0.5", "ntxnt_temperature: 0.5")
    output = project.run("dvc", "repro", fails=True)
    assert "loss.ntxnt_temperature: unknown key" in output and stages_that_ran(output) == {"check"}
    assert project.contents() == before
    project.run("git", "checkout", "-q", "params.yaml")
    output = project.run("dvc", "exp", "run", "-S", "train.steps=many", fails=True)
    assert "train.steps: Input should be a valid integer, found 'many'" in output
    assert project.contents() == before


@pytest.mark.parametrize("name", ["x; touch pwned", "../.."])
@pytest.mark.parametrize("of", ["corpus", "audit"])
def test_a_name_that_is_more_than_a_name_runs_and_removes_nothing(project, name, of):
    before = project.contents()
    if of == "audit":
        project.replace("params.yaml", "  corpora: {}", f"  corpora: {{'{name}': [demo_dev]}}")
    else:
        project.replace("params.yaml", "\n  demo_dev:\n", f"\n  '{name}':\n")
        project.replace("params.yaml", "\n  - demo_dev\n", f"\n  - '{name}'\n")
    assert project.repro(fails=True) <= {"check"}
    assert not list(project.folder.rglob("pwned")) and (project.folder / ".git").is_dir()
    assert project.contents() == before


def test_too_few_speakers_are_told_before_any_audio_is_opened(project):
    before = project.contents()
    project.set_params({"sampling.speakers": 6})
    output = project.run("dvc", "repro", fails=True)
    assert "demo_train has 5" in output and "sampling.speakers 6" in output
    assert stages_that_ran(output) == {"check", "plan"}
    assert project.contents() == before


def test_a_training_that_fails_leaves_the_model_that_was_there(project):
    before = project.contents()
    project.set_params({"train.crop_s": 31.0})
    output = project.run("dvc", "repro", fails=True)
    assert "error: train.crop_s is 31.0" in output and "train" in stages_that_ran(output)
    assert "models/speakerprint, metrics/training: put back as before this run" in output
    assert project.contents() == before


def test_an_evaluation_that_fails_leaves_the_figures_that_were_there(project):
    before = project.contents()
    project.replace("stages/evaluate.py", 'write_json(evaluation.metrics, f"metrics/{corpus}.json")', "raise MemoryError")
    assert "MemoryError" in project.run("dvc", "repro", fails=True)
    assert project.contents() == before


def test_a_train_corpus_that_is_taken_out_by_hand_must_not_be_learned_from(project):
    folder = project.folder / "data/features/train/demo_extra"
    folder.mkdir()
    (folder / "recordings.parquet").touch()
    output = project.run("dvc", "repro", fails=True)
    assert "data/features/train/demo_extra belongs to no corpus" in output


# --- interrupted, or killed ------------------------------------------------------------------------------------------


def start_training(project: Project) -> subprocess.Popen:
    """`dvc repro`, once its training has left a checkpoint newer than any there was."""
    checkpoint = project.folder / "models/checkpoint/checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    training = subprocess.Popen(
        ["dvc", "repro"], cwd=project.folder, env=project.environment, process_group=0, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while training.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
            return training
        time.sleep(0.02)
    raise AssertionError("there was no checkpoint")


def test_an_interrupted_training_leaves_the_model_and_a_killed_one_the_cache_and_both_resume(project):
    before = project.contents()
    project.set_params({"train.steps": 15, "train.checkpoint_every_steps": 3})
    interrupted = start_training(project)
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(120) != 0
    assert project.contents() == before

    killed = start_training(project)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (project.folder / "models/speakerprint").exists()
    project.run("dvc", "checkout")
    assert project.contents() == before

    output = project.run("dvc", "repro")
    assert "resuming at step" in output and stages_that_ran(output) == {"train", "evaluate@demo_dev"}
    assert not (project.folder / "models/checkpoint/checkpoint.pt").exists()


@pytest.mark.torture
def test_each_stage_killed_again_and_again_leaves_no_half_file_and_ends_in_the_same_bytes(project):
    project.replace("params.yaml", "  corpora: {}", "  corpora: {mine: [demo_dev]}")
    changes = project.first.changes | project.count_changes("python", "-m", "stages.audit", "mine")[1]
    whole = project.contents()
    for stage in STAGES:
        command, n_killed = f"python -m stages.{stage}", 0
        for moment, size in moments(changes[command], KILLS, seed=len(stage)):
            project.remove_outputs(stage.replace(" ", "@"))
            n_killed += project.kill("python", moment, size, *command.split())
            assert (stage, half_files(project, whole)) == (stage, [])
        project.remove_outputs(stage.replace(" ", "@"))
        project.run(*command.split())
        assert project.contents() == whole and n_killed, stage
        print(f"{stage}: killed {n_killed} times")


def half_files(project: Project, whole: dict[str, bytes]) -> list[str]:
    """Of the files that have the names of whole ones, those that are not as these."""
    return [path for path, data in project.contents().items() if path in whole and data != whole[path]]


@pytest.mark.torture
def test_dvc_and_its_stages_killed_again_and_again_end_in_the_same_bytes(project):
    whole = project.contents()
    command = ("dvc", "repro", "--force", "--single-item", "resample@demo_dev", "features@demo_dev")
    programs = ("python", "dvc", "any")  # a stage alone, as when memory runs out; DVC alone; all at once, as in a power cut
    for number, (moment, size) in enumerate(moments(90, KILLS, seed=2)):
        program = programs[number % len(programs)]
        project.kill(program, moment, size, *command, group=program == "any")
        remove_half_lock(project)
        assert half_files(project, whole) == []
    project.run("dvc", "repro")
    assert project.contents() == whole and project.changed() == set()


def remove_half_lock(project: Project) -> None:
    """What docs/reliability.md says to do where DVC died while it wrote its own lock."""
    lock = project.folder / ".dvc/tmp/rwlock"
    try:
        json.loads(lock.read_text())
    except FileNotFoundError:
        pass
    except ValueError:
        lock.unlink()


def test_of_two_repros_at_once_one_says_so_or_both_are_right(project):
    whole = project.contents()
    command = ("dvc", "repro", "--force", "--single-item", "features@demo_dev")
    both = [
        subprocess.Popen(command, cwd=project.folder, env=project.environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=100)[1] for one in both]
    assert any(one.returncode == 0 for one in both), said
    assert all(one.returncode == 0 or "lock" in words or "busy" in words for one, words in zip(both, said, strict=True)), said
    assert project.contents() == whole and project.changed() == set()


def test_nothing_of_all_this_looked_up_a_name_or_opened_an_address(project):
    if project.watch is None:
        pytest.skip("nothing here can compile what watches name look-ups")
    assert project.watch.seen() == []
