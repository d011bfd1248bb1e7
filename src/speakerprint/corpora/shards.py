"""Work in parallel processes; what a stage makes shard by shard, so that one that was killed goes on from its whole shards.

The processes are joblib's: this machine's cores or, with ``SPEAKERPRINT_PARALLEL=dask`` or ``ray`` in the environment, the
workers of a cluster (docs/machines.md). How many there are changes no byte: a shard depends on nothing but its inputs.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from joblib import Parallel, delayed, parallel_config

from speakerprint.code_digest import code_digest
from speakerprint.errors import InputError
from speakerprint.files import explain_full_disk, write_text

ENGINE = "SPEAKERPRINT_PARALLEL"
WAVE = 512  # items that `in_parallel` holds at once

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) in the items' order, from all processes; no more than WAVE items and results are in memory."""
    source = iter(items)
    with _engine() as return_as, Parallel(n_jobs=-1, return_as=return_as) as parallel:
        while wave := list(islice(source, WAVE)):
            yield from parallel(delayed(function)(item) for item in wave)


class Shard(Protocol):
    """A part of a stage's output that can be made without the others, in any process."""

    @property
    def path(self) -> Path:
        """The file or folder that holds it, absolute."""

    def inputs(self) -> Any:
        """All that decides what is in it, apart from the code, as JSON takes it."""
        ...

    def make(self) -> dict[str, Any]:
        """Write it to ``path``; returns a report, as JSON takes it."""


def make_shards(shards: Iterable[Shard], markers: str | Path) -> Iterator[dict[str, Any]]:
    """Make the shards in parallel and yield each one's report, in their order.

    A shard that is whole leaves a marker in the folder ``markers``. One whose marker says that it was made from the same
    inputs by the same code is not made again. Raises InputError if the engine is unknown or not installed.
    """
    markers = Path(markers).resolve()
    markers.mkdir(parents=True, exist_ok=True)
    with _engine() as return_as, Parallel(n_jobs=-1, batch_size=1, return_as=return_as) as parallel:
        yield from parallel(delayed(_make)(shard, markers / f"{shard.path.name}.json") for shard in shards)


def _make(shard: Shard, marker: Path) -> dict[str, Any]:
    key = digest(shard.inputs())
    if shard.path.exists() and (made := _read_marker(marker)).get("key") == key:
        return made["report"]
    marker.unlink(missing_ok=True)
    _remove(shard.path)
    with explain_full_disk(shard.path):
        report = shard.make()
    write_text(json.dumps({"key": key, "report": report}), marker)
    return report


def _read_marker(marker: Path) -> dict[str, Any]:
    """What a marker says; nothing where there is none, or a damaged one: its shard is made again."""
    try:
        made = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) and isinstance(made.get("report"), dict) else {}


@contextmanager
def _engine() -> Iterator[str]:
    """The processes that joblib hands work to, for the time of the ``with``; yields how it can return results."""
    name = os.environ.get(ENGINE, "loky")
    try:
        if name == "loky":
            yield "generator"
        elif name == "dask":
            import dask
            from distributed import Client

            # the cluster that DASK_SCHEDULER_ADDRESS names, or one of this machine's cores
            address = dask.config.get("scheduler-address", None)
            with Client(address) if address else Client(threads_per_worker=1) as client, parallel_config("dask"):
                _refuse_blind_workers(client)
                yield "generator"
        elif name == "ray":
            from ray.util.joblib import register_ray

            register_ray()  # the cluster that RAY_ADDRESS names, or one of this machine's cores
            with parallel_config("ray"):
                yield "list"
        else:
            raise InputError(f"{ENGINE} is {name!r}; set it to loky, dask or ray, or to nothing")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("distributed", "dask", "ray"):
            raise
        raise InputError(
            f"{ENGINE} is {name!r}, which is not installed; pip install -c constraints.txt -e '.[cluster]'"
        ) from None


def _refuse_blind_workers(client: Any) -> None:
    """Raise InputError, with their names, if workers of a Dask client do not see a file that is made in this folder."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".seen-by-workers-") as probe:
        sees = client.run(os.path.exists, probe.name)  # of the standard library: what is asked need not be installed there
    workers = client.scheduler_info(n_workers=-1)["workers"]
    blind = [f"{workers[address]['name']} ({address})" for address, there in sees.items() if not there]
    if blind:
        raise InputError(
            f"{len(blind)} of {len(sees)} Dask workers do not see {Path.cwd()}: {', '.join(blind)}; they write into it, so put "
            "the project on a disk that all machines share, at the same path, or stop these workers"
        )


def digest(inputs: Any) -> str:
    """SHA-256 of what JSON takes, and of the code that makes shards."""
    return hashlib.sha256(json.dumps([code_digest("audio", "corpora", "params"), inputs]).encode()).hexdigest()


def move_whole(made: Path, folder: str | Path) -> None:
    """Put a folder that is whole in the place of whatever is there."""
    _remove(Path(folder))
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
