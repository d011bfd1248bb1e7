"""What DVC costs beside the stages: nothing to do, a large store to hash, an experiment; and where its time goes.

    python -m benchmarks.bench_dvc
    python -m benchmarks.bench_dvc --store-gb 1 --rounds 3

In a temporary clone of this repository (what is committed), the stages are the pipeline's own, with their dependencies, params
and outputs, but their commands only write a few bytes to each output: what is left is DVC's own time, which is compared with
that of `dvc --version`. The store is a folder of files of 32 MB, as features have them; its hashing is compared with one MD5 of
all of it. Times are by the clock, medians.
"""

import argparse
import hashlib
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from benchmarks.side_by_side import row, take_turns

PROJECT = Path(__file__).parents[1]
FILE_BYTES = 32_000_000
PROFILED = ("status", "repro")
OWN = ("speakerprint", "stages")  # folders of this project's code


class Project:
    """A temporary clone whose stages do next to nothing, all of them done."""

    def __init__(self, folder: Path):
        self.folder = folder
        identity = {f"GIT_{who}_{what}": "benchmark@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.environment = os.environ | identity | {"DVC_NO_ANALYTICS": "1"}
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", PROJECT, folder], check=True)
        yaml = YAML()
        tree = yaml.load((folder / "dvc.yaml").read_text(encoding="utf-8"))
        for stage in tree["stages"].values():
            stage = stage.get("do", stage)
            stage["cmd"] = write_outputs(stage)
        with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(tree, file)
        self.dvc("repro")
        self.commit()

    def python(self, *arguments: str | Path) -> None:
        command = [sys.executable, *arguments]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True)

    def dvc(self, *arguments: str) -> None:
        self.python("-m", "dvc", *arguments)

    def commit(self) -> None:
        for command in (["add", "-A"], ["commit", "--quiet", "-m", "benchmark"]):
            subprocess.run(["git", *command], cwd=self.folder, env=self.environment, check=True)

    def slowest(self, *arguments: str) -> list[str]:
        """The ten functions with most time of their own in a dvc command, `file:line(name)`."""
        profile = self.folder.parent / "profile"
        self.python("-m", "cProfile", "-o", profile, "-m", "dvc", *arguments)
        stats = pstats.Stats(str(profile)).sort_stats("tottime")
        return [f"{file}:{line}({name})" for file, line, name in stats.fcn_list[:10]]  # type: ignore[attr-defined]


def write_outputs(stage: dict[str, Any]) -> str:
    """A shell command that writes something new to each output of a stage of dvc.yaml."""
    commands = []
    for output in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
        path = Path(output if isinstance(output, str) else next(iter(output)))
        path = path if path.suffix else path / "file.json"
        commands.append(f"""mkdir -p '{path.parent}' && date '+{{"at": %s%N}}' > '{path}'""")
    return " && ".join(commands)


def pipeline(project: Project, rounds: int) -> list[dict[str, Any]]:
    number = count(1)
    ways = {
        "dvc --version": lambda: project.dvc("--version"),
        "dvc status": lambda: project.dvc("status"),
        "dvc repro, nothing to do": lambda: project.dvc("repro"),
        "dvc exp run -S loss.ntxent_weight=…": lambda: project.dvc("exp", "run", "-S", f"loss.ntxent_weight={next(number)}"),
    }
    *others, experiment = ways
    seconds = take_turns({name: ways[name] for name in others}, rounds)
    seconds |= take_turns({experiment: ways[experiment]}, rounds)
    start = seconds.pop("dvc --version")
    return [row(f"{name}, against dvc --version", taken, start, "s", start / taken) for name, taken in seconds.items()]


def write_store(folder: Path, size: int) -> None:
    """Files of FILE_BYTES, no two of them alike, `size` bytes of them."""
    folder.mkdir()
    content = bytearray(os.urandom(FILE_BYTES))
    for number in range(max(1, size // FILE_BYTES)):
        content[:8] = number.to_bytes(8)
        (folder / f"{number}").write_bytes(content)


def hashing(project: Project, store_gb: float, rounds: int) -> list[dict[str, Any]]:
    store = project.folder / "store"
    write_store(store, round(1e9 * store_gb))
    (project.folder / "hashing").mkdir()
    stage = {"cmd": "echo done > done", "wdir": "..", "deps": ["store"], "outs": ["done"]}
    with (project.folder / "hashing/dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({"stages": {"hash": stage}}, file)
    project.dvc("repro", "hashing/dvc.yaml")
    files = sorted(store.iterdir())
    size_gb = sum(path.stat().st_size for path in files) / 1e9

    def changed() -> None:
        for path in files:
            path.touch()
        project.dvc("status", "hashing/dvc.yaml")

    def md5() -> None:
        digest = hashlib.md5(usedforsecurity=False)
        for path in files:
            digest.update(path.read_bytes())

    ways = {"hashed": changed, "known": lambda: project.dvc("status", "hashing/dvc.yaml"), "md5": md5}
    seconds = take_turns(ways, rounds)
    shutil.rmtree(store)
    return [
        row(
            f"dvc status, a store of {size_gb:.3g} GB, each file touched; MD5",
            seconds["hashed"],
            seconds["md5"],
            "s",
            seconds["md5"] / seconds["hashed"],
        ),
        row(
            "dvc status, the same, nothing touched; MD5", seconds["known"], seconds["md5"], "s", seconds["md5"] / seconds["known"]
        ),
    ]


def profiles(project: Project) -> dict[str, list[str]]:
    return {f"dvc {command}": project.slowest(command) for command in PROFILED}


def run(store_gb: float = 10.0, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of a table: what, ours, reference, unit, ratio, aim, met."""
    with tempfile.TemporaryDirectory() as temporary:
        free_gb = shutil.disk_usage(temporary).free / 1e9
        if free_gb < 1.2 * store_gb + 1:
            raise OSError(f"{temporary} has {free_gb:.1f} GB free, too few for a store of {store_gb} GB: give --store-gb")
        project = Project(Path(temporary) / "project")
        rows = [*pipeline(project, rounds), *hashing(project, store_gb, rounds)]
        for command, functions in profiles(project).items():
            print(f"{command}, the ten functions with most time of their own:", *functions, sep="\n  ", file=sys.stderr)
            own = sum(is_own(function) for function in functions)
            rows.append(
                row(f"this project's among the ten slowest functions of {command}", own, 10, "functions")
                | {"aim": "none", "met": own == 0}
            )
    return rows


def is_own(function: str) -> bool:
    """Whether `file:line(name)` is of this project's code."""
    return any(part in OWN for part in Path(function.rpartition(":")[0]).parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store-gb", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(pd.DataFrame(run(arguments.store_gb, arguments.rounds)).to_string(index=False))


if __name__ == "__main__":
    main()
