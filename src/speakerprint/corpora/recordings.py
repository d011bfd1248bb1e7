"""The one table that flows through the pipeline: a row is a recording, from `download` to `evaluate`.

A source that lacks a field leaves it null. ``location`` is where the audio is: a path, relative to the project's root or
absolute, in which one part may be a tar archive (``release.tar.gz/cv-corpus/fr/clips/a.mp3``).
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from speakerprint.corpora.parquet import refuse_damaged
from speakerprint.errors import InputError
from speakerprint.files import whole_file

SCHEMA = pa.schema(
    [
        ("recording_id", pa.string()),  # unique within a corpus
        ("speaker_id", pa.string()),
        ("locale", pa.string()),
        ("gender", pa.string()),  # one of GENDERS, or null
        ("age", pa.string()),
        ("accent", pa.string()),  # for VoxCeleb, the nationality
        ("up_votes", pa.int32()),
        ("down_votes", pa.int32()),
        ("split", pa.string()),
        ("location", pa.string()),
        ("duration_s", pa.float32()),  # null until known; exact after `resample`
    ]
)
GENDERS = ("male", "female", "other")
REMEDY = "run `dvc repro` to make it"
REQUIRED = ("recording_id", "speaker_id", "location")
CHUNK_ROWS = 8192  # of a table that are in memory at once, and in a row group of its file; a multiple of audio.SHARD_ROWS
BLOCK_ROWS = 64  # of a sorted chunk that are read back at once: of each chunk so many wait in memory


def as_recordings(rows: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Bring rows to the schema: column order, types, nulls for what is missing; sorted by recording_id.

    ``origin`` names where the rows come from, for messages. Raises InputError for unknown columns, null ids, an unknown
    gender, or a recording_id that occurs twice.
    """
    unknown = sorted(set(rows.columns) - set(SCHEMA.names))
    if unknown:
        raise InputError(f"{origin}: unknown columns {unknown}; a recording has {SCHEMA.names}")
    table = rows.reindex(columns=SCHEMA.names)
    for name in REQUIRED:
        empty = table[name].isna() | (table[name] == "")
        if empty.any():
            raise InputError(f"{origin}: row {int(empty.to_numpy().argmax()) + 1} has no {name}; every recording needs one")
    strange = sorted(set(table["gender"].dropna()) - set(GENDERS))
    if strange:
        raise InputError(f"{origin}: unknown gender {strange[0]!r}; expected one of {GENDERS} or nothing")
    twice = table["recording_id"][table["recording_id"].duplicated()]
    if len(twice):
        raise InputError(f"{origin}: recording_id {twice.iloc[0]!r} occurs more than once; ids must be unique in a corpus")
    table = table.sort_values("recording_id", kind="stable", ignore_index=True)
    return pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False).to_pandas()


def write_recordings(recordings: pd.DataFrame | Iterable[pd.DataFrame], path: str | Path) -> None:
    """Write a table of the schema, or the chunks of one, as parquet; the same rows give the same bytes, however they are cut."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = [recordings] if isinstance(recordings, pd.DataFrame) else recordings
    tables = (pa.Table.from_pandas(chunk[SCHEMA.names], SCHEMA, preserve_index=False) for chunk in chunks)
    # a source that turns out to be damaged leaves no half of a table
    with whole_file(path) as part, pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
        for table in _cut(tables):
            writer.write_table(table)


def read_recordings(path: str | Path) -> pd.DataFrame:
    """Read a table written by write_recordings. Raises InputError if the file is missing or has other columns."""
    with _open(path) as file, refuse_damaged(path, REMEDY):
        return file.read().to_pandas()


class RecordingsFile:
    """A table written by write_recordings as an iterable of its chunks, which each ``for`` reads anew, one at a time.

    Raises InputError as `read_recordings` does.
    """

    def __init__(self, path: str | Path):
        self.path = path
        _open(path).close()

    def __iter__(self) -> Iterator[pd.DataFrame]:
        with _open(self.path) as file:
            for group in range(file.num_row_groups):  # not iter_batches, which keeps the whole file
                with refuse_damaged(self.path, REMEDY):
                    rows = file.read_row_group(group).to_pandas()
                yield rows


def _open(path: str | Path) -> pq.ParquetFile:
    with refuse_damaged(path, REMEDY):
        file = pq.ParquetFile(path)
        found = file.schema_arrow
    if not found.equals(SCHEMA):
        same_names = found.names == SCHEMA.names
        differing = [str(field) for field in found if field not in SCHEMA] if same_names else found.names
        raise InputError(f"{path} has columns {differing}, expected {SCHEMA.names}; {REMEDY}")
    return file


def sort_on_disk(tables: Iterable[pa.Table], schema: pa.Schema, keys: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of all tables sorted by ``keys``, of which the first is text; rows that share it come in one table.

    A merge sort: chunks are sorted one by one, at once, and wait, cut into blocks, in a temporary file (where TMPDIR says). In
    memory are a few chunks, less than two blocks of each chunk (a row in 64), and the first key of each block.
    """
    order = [(key, "ascending") for key in keys]
    starts: list[str] = []
    file = tempfile.TemporaryFile()  # noqa: SIM115
    with pa.ipc.new_file(file, schema) as writer:
        for table in _cut(tables):
            for block in table.sort_by(order).to_batches(BLOCK_ROWS):
                starts.append(block[keys[0]][0].as_py())
                writer.write_batch(block)
    return _merge(pa.ipc.open_file(file), starts, order)


def _merge(file: pa.ipc.RecordBatchFileReader, starts: list[str], order: list[tuple[str, str]]) -> Iterator[pa.Table]:
    """Yield the rows of sorted blocks, which begin with the keys ``starts``."""
    numbers = sorted(range(len(starts)), key=starts.__getitem__)
    waiting: list[pa.Table] = []
    n_waiting, enough = 0, CHUNK_ROWS
    for number, following in zip_longest(numbers, numbers[1:]):
        waiting.append(pa.Table.from_batches([file.get_batch(number)]))
        n_waiting += len(waiting[-1])
        if following is not None and n_waiting < enough:
            continue
        rows = pa.concat_tables(waiting).sort_by(order)
        n_done = n_waiting
        if following is not None:  # no block that is yet to come has a row before its start
            n_done = pc.sum(pc.less(rows[order[0][0]], starts[following])).as_py()
        if n_done:
            yield rows[:n_done]
        waiting, n_waiting = [rows[n_done:]], n_waiting - n_done
        enough = n_waiting + max(n_waiting, CHUNK_ROWS)


def _cut(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of CHUNK_ROWS, the last of which may have fewer, but has one."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= CHUNK_ROWS:
            rows = pa.concat_tables(waiting).combine_chunks()
            yield rows[:CHUNK_ROWS]
            waiting = [rows[CHUNK_ROWS:]]
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()
