"""A `python` and a `dvc` that have imported what they need: each call is a fork, and saves the seconds that imports take.

    python warm_python.py FOLDER PID    # FOLDER/python and FOLDER/dvc, for as long as the process PID lives

Only other people's packages stay imported. The project's own modules are read anew in each call, from where the call is made.
"""

import atexit
import gc
import json
import os
import runpy
import shutil
import signal
import socket
import stat
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from select import select

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "check",
    "pretrained",
    "download",
    "identify_language",
    "filter",
    "plan",
    "resample",
    "features",
    "train",
    "evaluate",
    "audit",
)
LATE = (
    "dvc.cli.parser",
    "dvclive",
    "matplotlib.pyplot",
    "sklearn.manifold",
    "datasets",
    "transformers.models.whisper.modeling_whisper",
)
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
if {name!r} == "python" and sys.argv[1] != "-m":
    os.execv({python!r}, sys.argv)
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the call gets it as well, and says how it ended
    request = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ), os.getpgrp()]).encode()
    socket.send_fds(server, [len(request).to_bytes(8)], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.makefile().read()))
"""


def prepare() -> None:
    """Import what the stages and DVC import, then forget the project's own modules."""
    path = sys.path[1:]  # without this file's folder
    sys.path.insert(0, str(ROOT))
    for name in (*(f"stages.{stage}" for stage in STAGES), "tests.kills", *LATE):
        import_module(name)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("stages", "speakerprint")]:
        del sys.modules[name]
    gc.freeze()


def write_clients(folder: Path) -> None:
    for name in ("python", "dvc"):
        text = CLIENT.format(python=sys.executable, name=name, address=str(folder / "socket"))
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(stat.S_IRWXU)


def next_call(listener: socket.socket, master: int) -> tuple[str, list[str]]:
    """Wait for calls, and return in a process of its own for each, with the caller's files, folder,
    environment and group, which signals go to. It removes the folder and exits when its master is no more."""
    while True:
        while not select([listener], [], [], 1)[0]:
            try:
                os.kill(master, 0)
            except ProcessLookupError:
                shutil.rmtree(Path(listener.getsockname()).parent)
                sys.exit()
        caller, _ = listener.accept()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not os.fork():
            break
        caller.close()
    if child := os.fork():
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(BrokenPipeError):  # the caller may be killed
            caller.sendall(str(ended if ended >= 0 else 128 - ended).encode())
        os._exit(0)
    size, given, _, _ = socket.recv_fds(caller, 8, 3)
    with caller.makefile("rb") as stream:
        name, arguments, folder, environment, group = json.loads(stream.read(int.from_bytes(size)))
    for number, file in enumerate(given):
        os.dup2(file, number)
        os.close(file)
    caller.close()
    listener.close()
    os.setpgid(0, group)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return name, arguments


def status_of(name: str, arguments: list[str]) -> int:
    """Run the call; how it ended."""
    try:
        if name == "dvc":
            sys.argv = ["dvc", *arguments]
            sys.exit(import_module("dvc.cli").main())
        sys.argv = arguments[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    folder, master = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who was started in a shell's background ignores it
    prepare()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    write_clients(folder)  # the last thing: whoever sees them can call
    name, arguments = next_call(listener, master)
    kills = import_module("tests.kills")
    kills.obey(name)
    status = status_of(name, arguments)
    kills.note(f"{name} {' '.join(arguments)}")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # to take all modules apart would cost as much as the call


if __name__ == "__main__":
    main()
