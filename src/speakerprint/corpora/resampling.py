"""The selected recordings of a corpus as parquet shards of 16 kHz mono, in 16-bit FLAC or WAV.

The shards open with ``datasets.load_dataset("parquet", data_files="…/part-*.parquet")``: ``audio`` is an ``Audio`` column,
not decoded, because the decoder of ``datasets``, torchcodec, is not among the requirements (docs/reading.md).
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.resample import encode, resample
from speakerprint.corpora.parquet import refuse_damaged
from speakerprint.corpora.recordings import SCHEMA, RecordingsFile
from speakerprint.corpora.shards import make_shards, move_whole
from speakerprint.corpora.sharing import SharedFolder, file_state
from speakerprint.corpora.sources.clips import read_file
from speakerprint.corpora.spool import ABSENT, PLAIN_FILE, Spool
from speakerprint.errors import InputError
from speakerprint.files import explain_full_disk
from speakerprint.params.resample import Resample

REMEDY = "the resampled audio is damaged; delete data/audio and run `dvc repro` to make it again"
METADATA_TOLERANCE = 0.1  # of the duration that a corpus's metadata give
SHARD_ROWS = 512  # 5 s each: at most 82 MB; divides recordings.CHUNK_ROWS
ROWS_PER_GROUP = 64  # rows that a reader or writer holds in memory at once


def _refuse_too_many_bad(bad: list[dict[str, str]], n_recordings: int, max_bad_fraction: float) -> None:
    """Raise InputError if more of a corpus's recordings are bad than is allowed, or none is left."""
    if n_recordings and len(bad) < n_recordings and len(bad) <= max_bad_fraction * n_recordings:
        return
    if not n_recordings:
        raise InputError("resample: there are no recordings; loosen the corpus's filter in params.yaml or mend its source")
    examples = "".join(f"\n  {row['location']}: {row['reason']}" for row in bad[:5]) + ("\n  …" if len(bad) > 5 else "")
    remedy = "mend them" if len(bad) == n_recordings else "mend them or raise resample.max_bad_fraction"
    raise InputError(
        f"resample: {len(bad)} of {n_recordings} recordings are bad, resample.max_bad_fraction allows {max_bad_fraction:g} of "
        f"them and at least one must be good; {remedy}:{examples}"
    )


def report_of(n_recordings: int, n_speakers: int, duration_s: float) -> dict[str, Any]:
    """The report that a stage over recordings leaves in git."""
    return {"recordings": n_recordings, "speakers": n_speakers, "hours": round(duration_s / 3600, 3)}


def resample_corpus(
    selection: pd.DataFrame | RecordingsFile,
    folder: str | Path,
    settings: Resample,
    unfinished: str | Path | None = None,
    spool: Spool | None = None,
    min_recordings_per_speaker: int = 1,
) -> dict[str, Any]:
    """Write the selected recordings as 16 kHz mono into ``folder/part-00000.parquet``, …, and return a report.

    A shard holds SHARD_ROWS rows of the selection, in its order, less those that are bad: absent, undecodable, truncated, too
    short or silent, which the report lists. So are, then, all recordings of a speaker of whom fewer good ones are left than the
    filter asks for (``min_recordings_per_speaker``). Its columns are those of a recording (``duration_s`` now exact),
    ``n_samples`` (int64) and ``audio`` (files in ``settings.encoding``). Clips that lie in archives or parquet files are first
    copied into the spool, this corpus's own unless given. Of a selection in a file a chunk is in memory, and where its clips are.

    All is made in the folder ``unfinished`` (``folder`` with that suffix, unless given) and moved when it is whole; a run that
    was killed goes on from there. Raises InputError if more than ``settings.max_bad_fraction`` of the recordings are bad, or
    none is left.
    """
    unfinished = Path(unfinished or f"{folder}.unfinished").resolve()
    parts = unfinished / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    chunks = [selection] if isinstance(selection, pd.DataFrame) else selection
    spool = spool or Spool(SharedFolder(unfinished / "spool"))
    keys, spans = spool.unpack(chunks)
    schema, root = shard_schema(), Path.cwd()
    paths = [parts / f"part-{number:05d}.parquet" for number in range(-(-len(spans) // SHARD_ROWS))]
    for stale in set(parts.iterdir()) - set(paths):
        stale.unlink()
    rows = [slice(start, start + SHARD_ROWS) for start in range(0, len(spans), SHARD_ROWS)]
    shards = (
        _AudioShard(path, recordings, keys[of_shard], spans[of_shard], spool.path, root, settings, schema)
        for path, of_shard, recordings in zip(paths, rows, _slices(chunks), strict=True)
    )
    bad: list[dict[str, str]] = []
    n_samples = 0
    with tqdm(total=len(spans), desc="resample", unit="recording", disable=None) as bar:
        for report in make_shards(shards, unfinished / "whole"):
            bad += report["bad"]
            n_samples += report["n_samples"]
            bar.update(min(SHARD_ROWS, len(spans) - bar.n))
    _refuse_too_many_bad(bad, len(spans), settings.max_bad_fraction)
    left = _good_per_speaker(chunks, {row["recording_id"] for row in bad})
    few = {speaker: n for speaker, n in left.items() if n < min_recordings_per_speaker}
    dropped: list[dict[str, Any]] = []
    if few:
        _refuse_none_left(few, left, min_recordings_per_speaker)
        dropped = _without_speakers(paths, unfinished / "kept", few, min_recordings_per_speaker)
        parts = unfinished / "kept"
    move_whole(parts, folder)
    shutil.rmtree(unfinished)
    n_samples -= sum(row.pop("n_samples") for row in dropped)
    return report_of(len(spans) - len(bad) - len(dropped), len(left) - len(few), n_samples / SAMPLE_RATE_HZ) | {
        "too_few_left": {"recordings": len(dropped), "speakers": len(few)},
        "bad": bad + dropped,
    }


def _refuse_none_left(few: dict[str, int], left: Counter[str], least: int) -> None:
    """Raise InputError if there are too few recordings of every speaker."""
    if len(few) == len(left):
        raise InputError(
            f"resample: no speaker has {least} good recordings left, which the corpus's filter.min_recordings_per_speaker wants "
            f"(at most {max(left.values())}); mend the bad ones, or lower that key in params.yaml"
        )


def _good_per_speaker(chunks: Iterable[pd.DataFrame], bad: set[str]) -> Counter[str]:
    """How many good recordings each speaker has who has one."""
    left: Counter[str] = Counter()
    for chunk in chunks:
        left.update(chunk["speaker_id"][~chunk["recording_id"].isin(bad)].tolist())
    return left


def _without_speakers(paths: Iterable[Path], folder: Path, few: dict[str, int], least: int) -> list[dict[str, Any]]:
    """Write the shards into a folder without speakers of whom too few recordings are left; returns these as bad ones.

    few: of each such speaker, how many are left of ``least``. The shards themselves stay as they are: a killed run needs them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    dropped: list[dict[str, Any]] = []
    names = pa.array(list(few))
    for path in paths:
        with (
            explain_full_disk(folder / path.name),
            pq.ParquetFile(path) as file,
            pq.ParquetWriter(folder / path.name, file.schema_arrow, compression="none", use_dictionary=False) as writer,
        ):
            for number in range(file.num_row_groups):
                group = file.read_row_group(number)
                gone = pc.is_in(group["speaker_id"], value_set=names)
                for row in group.filter(gone).select(["recording_id", "location", "speaker_id", "n_samples"]).to_pylist():
                    reason = (
                        f"{few[row.pop('speaker_id')]} good recordings of its speaker are left, fewer than the filter's {least}"
                    )
                    dropped.append(row | {"reason": reason})
                if not pc.all(gone).as_py():
                    writer.write_table(group.filter(pc.invert(gone)))
    return dropped


def _slices(chunks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The rows of chunks, each of which but the last holds whole shards, by the shard."""
    for chunk in chunks:
        for start in range(0, len(chunk), SHARD_ROWS):
            yield chunk.iloc[start : start + SHARD_ROWS]


def shard_schema() -> pa.Schema:
    """The columns of a shard, with what `datasets` reads of them, as its `Features` writes it; it need not be installed."""
    columns = pa.schema([*SCHEMA, ("n_samples", pa.int64())])
    names = {"float": "float32"}  # of types that the two call otherwise
    features: dict[str, dict[str, Any]] = {}
    for column in columns:
        kind = str(column.type)
        features[column.name] = {"dtype": names.get(kind, kind), "_type": "Value"}
    features["audio"] = {"sampling_rate": SAMPLE_RATE_HZ, "decode": False, "_type": "Audio"}
    audio = pa.field("audio", pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    return pa.schema([*columns, audio], metadata={"huggingface": json.dumps({"info": {"features": features}})})


@dataclass(frozen=True)
class _AudioShard:
    path: Path
    recordings: pd.DataFrame  # rows of the selection
    keys: np.ndarray  # (n_rows,) S16: what Spool.unpack says
    spans: (
        np.ndarray
    )  # (n_rows, 2) int64, likewise: start and size of each clip in `spool`; start PLAIN_FILE or ABSENT: it is not there
    spool: Path
    root: Path  # of locations that are relative
    settings: Resample
    schema: pa.Schema

    def inputs(self) -> Any:
        rows = json.loads(self.recordings.to_json(orient="values", double_precision=15))
        located = zip(self.recordings["location"], self.keys.tolist(), strict=True)
        clips = [key.hex() or file_state(self.root / location) for location, key in located]
        return [rows, clips, self.settings.engine, self.settings.encoding, self.settings.min_duration_s]

    def make(self) -> dict[str, Any]:
        bad: list[dict[str, str]] = []
        total = 0
        recordings = pa.Table.from_pandas(self.recordings, schema=SCHEMA, preserve_index=False)
        with (
            self.spool.open("rb") as spool,
            # FLAC is dense already, and WAV is chosen for speed
            pq.ParquetWriter(self.path, self.schema, compression="none", use_dictionary=False) as writer,
        ):
            for start in range(0, len(recordings), ROWS_PER_GROUP):
                group = recordings.slice(start, ROWS_PER_GROUP)
                good, n_samples, audio = [], [], []
                for number, row in enumerate(group.select(["recording_id", "location", "duration_s"]).to_pylist()):
                    try:
                        data = self._read(row["location"], self.spans[start + number], spool)
                        samples = _resample_clip(data, row["location"], row["duration_s"], self.settings)
                    except UndecodableAudio as error:
                        bad.append({"recording_id": row["recording_id"], "location": row["location"], "reason": error.reason})
                        continue
                    good.append(number)
                    n_samples.append(len(samples))
                    encoding = self.settings.encoding
                    audio.append({"bytes": encode(samples, encoding), "path": f"{row['recording_id']}.{encoding}"})
                if not good:
                    continue
                total += sum(n_samples)
                columns = dict(zip(SCHEMA.names, group.take(good).columns, strict=True))
                columns |= {"duration_s": np.array(n_samples) / SAMPLE_RATE_HZ, "n_samples": n_samples, "audio": audio}
                writer.write_table(pa.table(columns, schema=self.schema))
        return {"bad": bad, "n_samples": total}

    def _read(self, location: str, span: np.ndarray, spool: IO[bytes]) -> bytes | None:
        start, size = span
        if start == PLAIN_FILE:
            return read_file(self.root / location)
        if start == ABSENT:
            return None
        spool.seek(start)
        return spool.read(size)


def _resample_clip(data: bytes | None, location: str, expected_s: float | None, settings: Resample) -> np.ndarray:
    """(n_samples,) float32 at 16 kHz; ``expected_s`` is from the corpus's metadata, None if unknown."""
    if data is None:
        raise UndecodableAudio(location, "there is no such file")
    samples, sample_rate_hz = decode(data, location)
    found_s = len(samples) / sample_rate_hz
    if found_s < settings.min_duration_s:
        raise UndecodableAudio(location, f"lasts {found_s:.2f} s, less than resample.min_duration_s")
    if expected_s is not None and found_s < (1 - METADATA_TOLERANCE) * expected_s:
        raise UndecodableAudio(location, f"truncated: {found_s:.2f} s of the {expected_s:.2f} s in the metadata")
    samples = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ, settings.engine)
    if np.abs(samples).max(initial=0) * 2**15 <= 0.5:  # 16 bits hold nothing of it
        raise UndecodableAudio(location, "digital silence")
    return samples


def read_parts(folder: str | Path) -> Iterator[tuple[Path, pa.Table]]:
    """The shards that resample_corpus wrote into ``folder``, in order: the path of each, and its recordings with ``n_samples``.

    Raises InputError if there are none or a shard is damaged.
    """
    paths = sorted(Path(folder).glob("part-*.parquet"))
    if not paths:
        raise InputError(f"{folder} holds no part-*.parquet; run `dvc repro` to make it")
    schema = SCHEMA.append(pa.field("n_samples", pa.int64()))
    for path in paths:
        with refuse_damaged(path, REMEDY):
            table = pq.read_table(path, columns=schema.names).cast(schema)
        yield path, table


def read_encoded(shard: str | Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Audio files of a shard's rows from ``start`` up to ``stop`` or its end, in order; one row group at a time is in memory."""
    with refuse_damaged(shard, REMEDY):
        file = pq.ParquetFile(shard)
    with file:
        stop = file.metadata.num_rows if stop is None else stop
        first = 0
        for group in range(file.num_row_groups):  # not iter_batches, which keeps the whole file
            last = first + file.metadata.row_group(group).num_rows
            if start < last and first < stop:
                with refuse_damaged(shard, REMEDY):
                    cells = file.read_row_group(group, columns=["audio"]).column("audio")[max(0, start - first) : stop - first]
                yield from (cell["bytes"].as_py() for cell in cells)
            first = last


def read_audio(folder: str | Path) -> tuple[pd.DataFrame, Iterator[bytes]]:
    """The recordings that resample_corpus wrote into ``folder``, and their audio files in the same order, read as asked for.

    Raises InputError if there are none or a shard is damaged.
    """
    paths, tables = zip(*read_parts(folder), strict=True)
    clips = (clip for path in paths for clip in read_encoded(path))
    return pa.concat_tables(tables).select(SCHEMA.names).to_pandas(), clips
