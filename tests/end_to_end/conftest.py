"""A copy of the project with a tiny corpus, in which the real `dvc` runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from dvc.repo import Repo
from filelock import FileLock
from ruamel.yaml import YAML

from tests.kills import CHANGES_LOG, KILL_AT
from tests.network import NetworkWatch, network_watch

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "corpora.demo_train.source.speakers": 5,
    "corpora.demo_train.source.recordings_per_speaker": 4,
    "corpora.demo_train.filter.min_recordings_per_speaker": 2,
    "corpora.demo_dev.source.speakers": 4,
    "corpora.demo_dev.source.recordings_per_speaker": 3,
    "corpora.demo_dev.filter.min_recordings_per_speaker": 2,
    "model.layers": 1,
    "model.embedding_dim": 8,
    "sampling.speakers": 2,
    "sampling.utterances": 2,
    "train.steps": 2,
    "train.crop_s": 1.0,
    "train.validation_speakers": 0.0,  # so that the last step's model is kept, and every change to training shows
    "train.checkpoint_every_steps": 1,
    "evaluation.bootstrap_samples": 100,
}


@dataclass
class FirstRun:
    """What the first `dvc repro` of a project did."""

    stages: list[str]
    changes: dict[str, int]  # of its calls, such as "python -m stages.filter demo_dev": see `Project.count_changes`
    looked_up: list[str]  # names and addresses


class Project:
    """A git and DVC repository in a temporary folder, whose `python` and `dvc` are warm_python's."""

    first: FirstRun

    def __init__(self, folder: Path, programs: Path, watch: NetworkWatch | None = None):
        self.folder, self.programs, self.watch = folder, programs, watch
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        identity = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        alone = {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}  # other processes take longer to start than to do the work
        self.environment = {**os.environ, **identity, **alone, "PATH": path, "COLUMNS": "300"}
        self.environment |= watch.environment if watch else {}
        for name in ("PYTHONPATH", "CI", "DVC_NO_ANALYTICS"):  # the copy's own code runs, and its own settings stop telemetry
            self.environment.pop(name, None)

    def make(self, pretrained_encoder: Path) -> None:
        """Copy this checkout, with a tiny corpus and settings to match, and run it for the first time."""
        for name in tracked_files():
            if name != "dvc.lock" and not name.startswith(("metrics/", "docs/", "tests/", "benchmarks/", "experiments/")):
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        self.set_params({**TINY, "pretrained.source": str(pretrained_encoder)})
        self.run("git", "init", "-q")
        self.commit()
        output, changes = self.count_changes("dvc", "repro")
        self.first = FirstRun(sorted(stages_that_ran(output)), changes, self.watch.seen() if self.watch else [])
        self.commit()

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command in the project and return what it printed; `fails` says which exit is expected."""
        result = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        output = result.stdout + result.stderr
        assert (result.returncode != 0) == fails, output
        return output

    def count_changes(self, *command: str) -> tuple[str, dict[str, int]]:
        """Run a command; what it printed, and how often each call of ours in it changed the file system."""
        log = self.folder.parent / "changes"
        log.unlink(missing_ok=True)
        self.environment[CHANGES_LOG] = str(log)
        output = self.run(*command)
        del self.environment[CHANGES_LOG]
        lines = (line.partition(" ") for line in log.read_text(encoding="utf-8").splitlines())
        return output, {call: int(count) for count, _, call in lines}

    def kill(self, program: str, moment: int, size: int | None, *command: str, group: bool = False) -> bool:
        """Run a command whose `program` ("python", "dvc" or "any") dies as kills.die_at says; whether the command failed."""
        order = {KILL_AT: f"{program} {moment} {size} {group}"}
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | order, capture_output=True, text=True, process_group=0
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode != 0

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", "state")

    def repro(self, *arguments: str, fails: bool = False) -> set[str]:
        """`dvc repro`; the names of the stages that ran."""
        return stages_that_ran(self.run("dvc", "repro", *arguments, fails=fails))

    def set_params(self, changes: dict[str, Any]) -> None:
        yaml = YAML()
        yaml.width = 4096
        path = self.folder / "params.yaml"
        tree = yaml.load(path.read_text())
        for key, value in changes.items():
            *parents, last = key.split(".")
            section = tree
            for parent in parents:
                section = section[parent]
            assert last in section, key
            section[last] = value
        with path.open("w") as file:
            yaml.dump(tree, file)

    def replace(self, path: str, old: str, new: str) -> None:
        """Change a file; `old` must be there."""
        text = (self.folder / path).read_text()
        assert old in text, f"{path} does not contain {old!r}"
        (self.folder / path).write_text(text.replace(old, new))

    def remove_outputs(self, stage: str) -> None:
        """Remove what a stage of dvc.lock left, as DVC does before it runs one."""
        lock = YAML(typ="safe").load((self.folder / "dvc.lock").read_text())
        for output in lock["stages"].get(stage, {"outs": []})["outs"]:
            path = self.folder / output["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def changed(self) -> set[str]:
        """The stages whose own dependencies changed, as `dvc status` has them; a process of its own would take a second."""
        with Repo(self.folder) as repo:
            return {stage.rpartition(":")[2] for stage in repo.status()}  # it says which dvc.yaml, too

    def outputs(self) -> list[Path]:
        """What there is in data/, models/ and metrics/."""
        return [path for root in ("data", "models", "metrics") for path in (self.folder / root).rglob("*")]

    def state(self) -> dict[Path, tuple[int, int]]:
        """Which file stands where: DVC's links into its cache share what they link to."""
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else (0, 0) for path in self.outputs()}

    def contents(self) -> dict[str, bytes]:
        """What the stages left: every file of data/, models/ and metrics/ by its path, but for what a killed run resumes from."""
        contents = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in self.outputs() if path.is_file()}
        return {path: data for path, data in contents.items() if not path.startswith(("models/checkpoint", "data/unfinished"))}


def stages_that_ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def tracked_files() -> Iterable[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def watch(tmp_path_factory) -> NetworkWatch | None:
    """What the project's programs look up and connect to; None where nothing can watch it."""
    return network_watch(tmp_path_factory.mktemp("watch"))


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def programs(common, watch) -> Path:
    """A folder with warm_python's `python` and `dvc`, started by the first worker that needs it; it ends with the whole run."""
    whole_run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    with FileLock(common / "programs.lock"):
        if not (common / "programs.txt").exists():
            folder = Path(mkdtemp())  # a short path, as sockets need
            alone = os.environ | {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"} | (watch.environment if watch else {})
            alone.pop("PYTHONDONTWRITEBYTECODE", None)
            code = Path(__file__).with_name("warm_python.py")
            server = subprocess.Popen([sys.executable, code, folder, str(whole_run)], env=alone)
            while not (folder / "dvc").exists():
                assert server.poll() is None
                time.sleep(0.05)
            (common / "programs.txt").write_text(str(folder), encoding="utf-8")
    return Path((common / "programs.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def first_project(tmp_path_factory, common, pretrained_encoder, programs, watch) -> Project:
    """The project's files with the tiny corpus, reproduced once, by the first worker that needs it, and committed."""
    folder = tmp_path_factory.mktemp("project")
    with FileLock(common / "project.lock"):
        if not (common / "project.json").exists():
            made = Project(common / "project", programs, watch)
            made.make(pretrained_encoder)
            with tarfile.open(common / "project.tar", "w") as tar:  # which keeps DVC's links into its cache
                tar.add(made.folder, ".")
            (common / "project.json").write_text(json.dumps(made.first.__dict__), encoding="utf-8")
    with tarfile.open(common / "project.tar") as tar:
        tar.extractall(folder, filter="fully_trusted")
    project = Project(folder, programs, watch)
    project.first = FirstRun(**json.loads((common / "project.json").read_text(encoding="utf-8")))
    return project


@pytest.fixture
def project(first_project) -> Iterator[Project]:
    """The same project for every test, which finds it as it was after its first run."""
    before = first_project.state()
    yield first_project
    as_before = first_project.state() == before
    if not as_before:
        for outputs in ("data", "models", "metrics"):
            shutil.rmtree(first_project.folder / outputs)
    first_project.run("git", "reset", "-q", "--hard")
    first_project.run("git", "clean", "-q", "-d", "-f")
    if not as_before:
        first_project.run("dvc", "checkout", "-q", "--force")
