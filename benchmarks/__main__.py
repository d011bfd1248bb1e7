"""All side-by-side measurements in one table, and in benchmarks/results.json with where and when each was taken.

    make bench
    python -m benchmarks --only training_step embedding     # of the others the file keeps what it has
    python -m benchmarks --quick                            # small sizes, few rounds: minutes

Each benchmark has a process of its own; one that lacks a package, a file or room on the disk is left out, by name. With the peers
in the table: `.peers/bin/python -m benchmarks` in the environment that experiments/peers.py describes.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.side_by_side import measure
from speakerprint.errors import InputError

PROJECT = Path(__file__).parents[1]
QUICK: dict[str, dict[str, Any]] = {  # the benchmarks, and the arguments of their `run` with --quick
    "training_step": dict(n_clips=4, rounds=5),
    "embedding": dict(n_recordings=48, rounds=5),
    "verify": dict(rounds=3),
    "data_path": dict(n_clips=10, rounds=3),
    "dvc": dict(store_gb=1.0, rounds=5),
    "trials": dict(n_speakers=1500, rounds=5),
}


def processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure_all(arguments: dict[str, dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each benchmark named, and its rows, run with its arguments."""
    for name, its in arguments.items():
        print(f"{name} ...", file=sys.stderr)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                yield name, pool.submit(measure, name, its).result()
            except (ModuleNotFoundError, InputError, OSError, subprocess.CalledProcessError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)


def circumstances() -> dict[str, Any]:
    """Commit, processor, threads, date."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, stdout=subprocess.PIPE, text=True).stdout
    return {
        "commit": commit.strip() or None,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(QUICK), default=list(QUICK), metavar="NAME", help=", ".join(QUICK))
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks/results.json", help="%(default)s")
    given = parser.parse_args()
    arguments = {name: QUICK[name] if given.quick else {} for name in given.only}
    about, rows = circumstances(), []
    results = json.loads(given.out.read_text("utf-8")) if given.out.exists() else {}
    for name, of_one in measure_all(arguments):
        rows += of_one
        results[name] = {**about, "arguments": arguments[name], "rows": of_one}
        given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(pd.DataFrame(rows).astype(object).fillna("").to_string(index=False))


if __name__ == "__main__":
    main()
