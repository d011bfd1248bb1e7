"""Teachers: other systems, whose embeddings of the training recordings the model's are drawn towards.

``data/given/teacher/<teacher>/<corpus>.parquet`` has a row for each recording of a training corpus that the teacher has heard,
and for each speed that it has heard it at. Its columns: ``recording_id``, ``speed`` (times as fast as recorded; without it, 1)
and ``embedding``, a list of numbers, as many in every row of a teacher. Any system can be a teacher;
experiments/teacher_embeddings.py writes those of the ones that it knows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speakerprint.corpora.parquet import refuse_damaged
from speakerprint.errors import InputError
from speakerprint.files import whole_file

TEACHER_PATH = Path("data/given/teacher")  # in the pipeline
SCHEMA = pa.schema([("recording_id", pa.string()), ("speed", pa.float64()), ("embedding", pa.list_(pa.float32()))])
REMEDY = (
    "make it with `python -m experiments.teacher_embeddings`, or set loss.teacher_match_weight and "
    "loss.teacher_similarity_weight to 0"
)


def write_teacher(
    path: str | Path, recording_ids: Sequence[str], embeddings: NDArray[np.float32], speeds: Sequence[float] | None = None
) -> None:
    """Write what a teacher hears in a corpus's recordings, (n,), as embeddings (n, dim); a whole file or none.

    speeds: (n,) how many times as fast as recorded it heard each; None: all as recorded. A recording may come at several.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    as_heard = [1.0] * len(recording_ids) if speeds is None else speeds
    table = pa.table([pa.array(recording_ids), pa.array(as_heard), pa.array(list(embeddings.astype(np.float32)))], schema=SCHEMA)
    with whole_file(path) as part:
        pq.write_table(table, part, compression="zstd")


def read_teachers(
    folder: str | Path, recordings: Mapping[str, Sequence[str]], speeds: Sequence[float] = (1.0,)
) -> dict[str, NDArray[np.float32]]:
    """What each teacher hears, {its name: what read_teacher returns}: each has a folder of its own in this one.

    Raises InputError as read_teacher does, where there is no teacher, and for a file that lies beside the teachers' folders.
    """
    folder = Path(folder)
    if stray := sorted(folder.glob("*.parquet")):
        raise InputError(
            f"{stray[0]} is in no teacher's folder; move it to {folder}/NAME/{stray[0].name}, NAME being its teacher"
        )
    teachers = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    if not teachers:
        raise InputError(f"there is to be a teacher, but {folder} holds no folder of one; {REMEDY}")
    return {path.name: read_teacher(path, recordings, speeds) for path in teachers}


def read_teacher(
    folder: str | Path, recordings: Mapping[str, Sequence[str]], speeds: Sequence[float] = (1.0,)
) -> NDArray[np.float32]:
    """What the teacher hears in the recordings of each corpus, {corpus: recording ids}, one corpus after the other.

    Returns (speeds, recordings, dim), each row less the mean of all that was heard at its speed and of unit length; 0 for a
    recording that the teacher has not heard at the speed. Raises InputError for a corpus without a file, a file of another form,
    embeddings of different lengths, and where nothing was heard at any of the speeds.
    """
    heard: list[dict[tuple[str, str], NDArray[np.float64]]] = [{} for _ in speeds]
    dims: dict[int, Path] = {}
    for corpus in recordings:
        path = Path(folder) / f"{corpus}.parquet"
        ids, at_speeds, embeddings = _read(path)
        dims[embeddings.shape[1]] = path
        for recording_id, speed, row in zip(ids, at_speeds, embeddings, strict=True):
            if speed in speeds:
                heard[speeds.index(speed)][corpus, recording_id] = row
    if len(dims) > 1:
        (one, first), (other, second), *_ = dims.items()
        raise InputError(f"the embeddings in {first} have {one} numbers, those in {second} {other}; they must be one teacher's")
    if not any(heard):
        raise InputError(f"the teacher in {folder} has heard no recording at any of the speeds {list(speeds)}; {REMEDY}")
    taught = []
    for of_speed in heard:
        mean = np.mean(list(of_speed.values()), axis=0) if of_speed else np.zeros(next(iter(dims)))
        nothing = mean  # and so 0 without it
        rows = np.stack([of_speed.get((corpus, one), nothing) for corpus, ids in recordings.items() for one in ids]) - mean
        taught.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
    return np.stack(taught).astype(np.float32)


def _read(path: Path) -> tuple[list[str], list[float], NDArray[np.float64]]:
    if not path.exists():
        raise InputError(f"there is to be a teacher, but {path} does not exist; {REMEDY}")
    with refuse_damaged(path, REMEDY):
        return _heard(pq.read_table(path), path)


def _heard(table: pa.Table, path: Path) -> tuple[list[str], list[float], NDArray[np.float64]]:
    if missing := [name for name in ("recording_id", "embedding") if name not in table.column_names]:
        raise InputError(f"{path} has no column {missing[0]!r}, but {table.column_names}; {REMEDY}")
    ids, lists = table["recording_id"].to_pylist(), table["embedding"].to_pylist()
    speeds = table["speed"].to_pylist() if "speed" in table.column_names else [1.0] * len(ids)
    lengths = {0 if one is None else len(one) for one in lists}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(f"{path}: every embedding must have as many numbers, but there are {sorted(lengths)}; {REMEDY}")
    embeddings = np.array(lists, np.float64)
    if not np.isfinite(embeddings).all():
        row = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise InputError(f"{path}: the embedding of {ids[row]} holds what is not a number; {REMEDY}")
    return ids, speeds, embeddings
