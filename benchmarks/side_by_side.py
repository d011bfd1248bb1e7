"""What the side-by-side benchmarks share: ways that take turns, and the row of their table."""

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

Way = TypeVar("Way", bound=Hashable)

# what a process took is asked of a small one in between: its peak begins at that of the process that starts it
IN_BETWEEN = """
import json, os, sys
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent), 0)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)]))
"""


class Spent(NamedTuple):
    """What a command took, and its exit status."""

    cpu_s: float
    peak_mib: float
    status: int


def spent(*command: str, quiet: bool = False) -> Spent:
    """Run a Python command, the arguments of `python`, in a process of its own; quiet: without its messages on stderr."""
    stderr = subprocess.DEVNULL if quiet else None
    run = [sys.executable, "-c", IN_BETWEEN, sys.executable, *command]
    return Spent(*json.loads(subprocess.run(run, stdout=subprocess.PIPE, stderr=stderr, check=True).stdout))


def take_turns(
    ways: dict[Way, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Way, float]:
    """Median seconds, by the clock, of a call of each way; each is called once before it is timed."""
    for call in ways.values():
        call()
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            started = clock()
            call()
            seconds[way].append(clock() - started)
    return {way: statistics.median(values) for way, values in seconds.items()}


def measure(name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the benchmark of that name, run with these arguments."""
    rows = importlib.import_module(f"benchmarks.bench_{name}").run(**arguments)
    return [{"benchmark": name, **row} for row in rows]


def row(
    what: str, ours: float, reference: float | None, unit: str, ratio: float | None = None, at_least: float | None = None
) -> dict[str, Any]:
    """A row of the table; `ratio` says how many times better ours is, `at_least` what it is meant to be (empty: no aim)."""
    aim = "" if at_least is None else f">= {at_least:g}"
    met = None if at_least is None or ratio is None else ratio >= at_least
    rounded = [None if value is None else float(f"{value:.4g}") for value in (ours, reference, ratio)]
    return dict(what=what, ours=rounded[0], reference=rounded[1], unit=unit, ratio=rounded[2], aim=aim, met=met)
