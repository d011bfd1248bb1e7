"""A process that dies at a chosen moment: before it changes the file system for the n-th time, or while it writes a file.

What Python does to files is heard through its audit hooks. A file that a library in C writes dies by its size: once the moment
is there, the first write that makes a file larger than so many bytes ends the process.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR
KILLS = int(os.environ.get("TORTURE_KILLS", "3"))  # of each program; `make torture` kills more often
KILL_AT, CHANGES_LOG = "KILL_AT", "CHANGES_LOG"  # in the environment of a called program
made = 0  # moments of this process so far
_strike: Callable[[], None] | None = None  # what `die_at` does at its moment
_moment = 0


def listen(folder: Path) -> None:
    """From now on each change of the file system in a folder is a moment, for as long as this process lives."""
    root = str(folder.resolve())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike):
            name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 — a Path would be heard
            if name.startswith(root) and "__pycache__" not in name:
                tick()

    sys.addaudithook(hook)


def tick() -> None:
    """A moment: what a library in C does by itself may call it, such as SQLite's progress handler."""
    global made
    made += 1
    if made == _moment and _strike:
        _strike()


def die_at(moment: int, size: int | None, folder: Path, group: bool = False) -> None:
    """This process dies at the moment-th change in a folder: at once, or in the write that makes a file larger than ``size``.

    group: all processes of its group die with it.
    """
    global made, _strike, _moment

    def strike() -> None:
        if size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        elif group:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    made, _strike, _moment = 0, strike, moment
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    listen(folder)


def moments(n_changes: int, how_many: int, seed: int) -> list[tuple[int, int | None]]:
    """Different moments for `die_at` in the order of time, among the changes that a whole run makes; half of them by size."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.permutation(n_changes)[:how_many]) + 1
    return [(int(moment), int(10 ** rng.uniform(0, 4)) if place % 2 else None) for place, moment in enumerate(at)]


def changes_of(run: Callable[[], Any], folder: Path) -> int:
    """How many moments a run has, in a fork, so that this process is as before; it must not fail."""
    reader, writer = os.pipe()

    def counted() -> None:
        die_at(0, None, folder)
        run()
        os.write(writer, str(made).encode())

    assert _forked(counted) == 0
    os.close(writer)
    with os.fdopen(reader) as stream:
        return int(stream.read())


def kill_again_and_again(run: Callable[[], Any], folder: Path, check: Callable[[], Any], seed: int = 0) -> None:
    """A run is killed KILLS times, each time further on, and goes on from what is left; after each death ``check`` looks at it.

    folder: where it writes. ``run`` must begin where a run of before was killed, and may find there what one left that was not.
    """
    n_killed, n_changes = 0, changes_of(run, folder)
    check()
    for moment, size in moments(n_changes, KILLS, seed):
        n_killed += killed(run, folder, moment, size)
        check()
    run()
    check()
    assert n_killed
    print(f"killed {n_killed} times")


def killed(run: Callable[[], Any], folder: Path, moment: int, size: int | None) -> bool:
    """Whether a run that is to die at that moment did; one that writes no file of that size ends as it would without."""

    def doomed() -> None:
        die_at(moment, size, folder)
        run()

    status = _forked(doomed)
    assert status in (0, -signal.SIGKILL, -signal.SIGXFSZ), f"it failed with {status} instead of being killed"
    return status != 0


def _forked(run: Callable[[], None]) -> int:
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        run()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


# --- a program that is called ---------------------------------------------------------------------------------------


def obey(program: str) -> None:
    """Do in a called program what KILL_AT says, `PROGRAM MOMENT SIZE GROUP`, if it is meant; count changes for CHANGES_LOG."""
    order = os.environ.get(KILL_AT, "").split()
    if order and order[0] in (program, "any"):
        size = None if order[2] == "None" else int(order[2])
        die_at(int(order[1]), size, Path.cwd(), group=order[3] == "True")
    elif CHANGES_LOG in os.environ:
        die_at(0, None, Path.cwd())


def note(call: str) -> None:
    """Add to CHANGES_LOG, if there is one, how many changes a called program made."""
    if log := os.environ.get(CHANGES_LOG):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{made} {call}\n")
