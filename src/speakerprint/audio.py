"""Decode and resample recordings, and keep them as parquet shards of 16 kHz mono, in 16-bit FLAC or WAV.

The shards open with ``datasets.load_dataset("parquet", data_files="…/part-*.parquet")``: ``audio`` is an ``Audio`` column.
"""

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
from tqdm import tqdm

from speakerprint.errors import InputError
from speakerprint.params import Resample
from speakerprint.recordings import SCHEMA, RecordingsFile
from speakerprint.shards import digest, file_state, make_shards, move_whole
from speakerprint.sources.clips import containers, read_clips, read_file

SAMPLE_RATE_HZ = 16_000  # Whisper's
HEADER_TOLERANCE_S = 0.1  # a header counts the encoder's delay and padding (up to two MP3 or AAC frames); decoders may cut them
METADATA_TOLERANCE = 0.1  # of the duration that a corpus's metadata give
MP3_LENGTH_HEADERS = (b"Xing", b"Info", b"VBRI")
RIFF_SIZE_UNKNOWN = 0x7FFF_0000  # a WAV written to a pipe says at least this much
FLAC_LEVEL = 0.0  # of 0-1; the quickest to write and to read, for 5-7 % more bytes than the default
SHARD_ROWS = 512  # 5 s each: at most 82 MB; divides recordings.CHUNK_ROWS
ROWS_PER_GROUP = 64  # rows that a reader or writer holds in memory at once
PLAIN_FILE, ABSENT = -1, -2  # in place of where a clip starts


class UndecodableAudio(InputError):
    """A recording that cannot be used: ``name`` says which, ``reason`` why."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


# --- one recording --------------------------------------------------------------------------------------------------


class _Decoded(NamedTuple):
    samples: np.ndarray  # (n_samples,) float32
    sample_rate_hz: int
    declared_s: float  # what the header promises; 0 where it does not say or only guesses
    error: str | None  # what ended decoding before the end


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Decode an audio file with libsndfile, or with FFmpeg what libsndfile cannot read (M4A, WebM, …).

    Returns its samples, (n_samples,) float32 with channels averaged, and its sample rate in Hz. ``name`` is for messages.
    Raises UndecodableAudio if the file is in no known format, truncated as far as can be told, or holds samples that are
    not finite.
    """
    try:
        try:
            decoded = _decode_with_libsndfile(data)
        except soundfile.SoundFileError:
            decoded = _decode_with_ffmpeg(data)
    except av.error.FFmpegError as error:
        raise UndecodableAudio(name, f"neither libsndfile nor FFmpeg can read it ({error.strerror})") from None
    found_s = len(decoded.samples) / decoded.sample_rate_hz
    if found_s < decoded.declared_s - HEADER_TOLERANCE_S:
        raise UndecodableAudio(name, f"truncated: {found_s:.2f} s of the {decoded.declared_s:.2f} s that its header promises")
    if decoded.error:
        raise UndecodableAudio(name, f"{decoded.error} after {found_s:.2f} s")
    if not np.isfinite(decoded.samples).all():
        raise UndecodableAudio(name, "holds samples that are not finite")
    return decoded.samples, decoded.sample_rate_hz


def _decode_with_libsndfile(data: bytes) -> _Decoded:
    stream = io.BytesIO(data)
    with soundfile.SoundFile(stream) as file:
        samples = file.read(dtype="float32")
        samples = samples if samples.ndim == 1 else samples.mean(axis=1)
        declared_s = file.frames / file.samplerate
        if file.format == "MP3" and not any(header in data for header in MP3_LENGTH_HEADERS):
            declared_s = 0.0  # libsndfile guessed it from the first frame's bitrate, and reads no further than its guess
            if stream.tell() < len(data):
                samples = max(samples, _decode_with_ffmpeg(data).samples, key=len)
        error = "truncated: its last page or chunk is cut off" if _is_cut_off(data, file.format) else None
        return _Decoded(samples, file.samplerate, declared_s, error)


def _is_cut_off(data: bytes, container: str) -> bool:
    """Whether an Ogg or WAV file ends inside a page or chunk; libsndfile takes the rest for the whole."""
    if container == "OGG":  # RFC 3533: a page's 27-byte header ends in the number of segments, then come their sizes
        page = data[data.rfind(b"OggS") :]
        return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
    if container in ("WAV", "WAVEX"):
        promised = int.from_bytes(data[4:8], "little") + 8
        return len(data) + 1 < promised < RIFF_SIZE_UNKNOWN  # the last chunk's padding byte may be missing
    return False


def _decode_with_ffmpeg(data: bytes) -> _Decoded:
    """Raises av.error.FFmpegError if nothing at all can be decoded."""
    with av.open(io.BytesIO(data), mode="r") as container:
        if not container.streams.audio:
            raise av.error.InvalidDataError(0, "there is no audio in it")
        stream = container.streams.audio[0]
        declared_s = 0.0
        if container.format.name not in ("aac", "mp3"):  # raw streams: FFmpeg guesses their length
            if stream.duration is not None and stream.time_base is not None:
                declared_s = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                declared_s = container.duration / av.time_base
        to_float = av.AudioResampler(format="fltp")
        pieces: list[np.ndarray] = []
        error = None
        try:
            for frame in container.decode(stream):
                pieces += [part.to_ndarray().mean(axis=0) for part in to_float.resample(frame)]
        except av.error.FFmpegError as problem:
            if not pieces:
                raise
            error = problem.strerror
        samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        return _Decoded(samples, stream.codec_context.sample_rate, declared_s, error)


def resample(samples: np.ndarray, from_hz: int, to_hz: int, engine: Literal["soxr", "resampy"] = "soxr") -> np.ndarray:
    """Resample (n_samples,) to about n_samples · to_hz / from_hz samples, float32, with soxr's HQ or resampy's kaiser_best."""
    if from_hz == to_hz:
        return samples
    if engine == "soxr":
        return soxr.resample(samples, from_hz, to_hz, quality="HQ")
    from resampy import resample as resample_with_resampy  # slow to import, for numba

    return resample_with_resampy(samples, from_hz, to_hz, filter="kaiser_best")


def encode(samples: np.ndarray, encoding: Literal["flac", "wav"]) -> bytes:
    """(n_samples,) at 16 kHz, clipped to [-1, 1], as a 16-bit file; FLAC and WAV decode to the same samples."""
    scaled = np.rint(samples * 2**15)
    pcm = np.clip(scaled, -(2**15), 2**15 - 1, out=scaled).astype(np.int16)
    stream = io.BytesIO()
    level = FLAC_LEVEL if encoding == "flac" else None
    soundfile.write(stream, pcm, SAMPLE_RATE_HZ, format=encoding.upper(), subtype="PCM_16", compression_level=level)
    return stream.getvalue()


# --- a corpus -------------------------------------------------------------------------------------------------------


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
    selection: pd.DataFrame | RecordingsFile, folder: str | Path, settings: Resample, unfinished: str | Path | None = None
) -> dict[str, Any]:
    """Write the selected recordings as 16 kHz mono into ``folder/part-00000.parquet``, …, and return a report.

    A shard holds SHARD_ROWS rows of the selection, in its order, less those that are bad: absent, undecodable, truncated, too
    short or silent, which the report lists. Its columns are those of a recording (``duration_s`` now exact), ``n_samples``
    (int64) and ``audio`` (files in ``settings.encoding``). Clips that lie in archives or parquet files are first copied into
    one file. Of a selection in a file a chunk is in memory, and where each of its clips is.

    All is made in the folder ``unfinished`` (``folder`` with that suffix, unless given) and moved when it is whole; a run that
    was killed goes on from there. Raises InputError if more than ``settings.max_bad_fraction`` of the recordings are bad, or
    none is left.
    """
    unfinished = Path(unfinished or f"{folder}.unfinished").resolve()
    parts = unfinished / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    chunks = [selection] if isinstance(selection, pd.DataFrame) else selection
    spool, spans = _unpack((chunk["location"].tolist() for chunk in chunks), unfinished)
    schema, root = _schema(), Path.cwd()
    paths = [parts / f"part-{number:05d}.parquet" for number in range(-(-len(spans) // SHARD_ROWS))]
    for stale in set(parts.iterdir()) - set(paths):
        stale.unlink()
    shards = (
        _AudioShard(path, recordings, spans[start : start + SHARD_ROWS], spool, root, settings, schema)
        for path, start, recordings in zip(paths, range(0, len(spans), SHARD_ROWS), _slices(chunks), strict=True)
    )
    bad: list[dict[str, str]] = []
    n_samples = 0
    with tqdm(total=len(spans), desc="resample", unit="recording", disable=None) as bar:
        for report in make_shards(shards, unfinished / "whole"):
            bad += report["bad"]
            n_samples += report["n_samples"]
            bar.update(min(SHARD_ROWS, len(spans) - bar.n))
    _refuse_too_many_bad(bad, len(spans), settings.max_bad_fraction)
    unusable = {row["recording_id"] for row in bad}
    speakers = {speaker for chunk in chunks for speaker in chunk["speaker_id"][~chunk["recording_id"].isin(unusable)].unique()}
    move_whole(parts, folder)
    shutil.rmtree(unfinished)
    return report_of(len(spans) - len(bad), len(speakers), n_samples / SAMPLE_RATE_HZ) | {"bad": bad}


def _slices(chunks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The rows of chunks, each of which but the last holds whole shards, by the shard."""
    for chunk in chunks:
        for start in range(0, len(chunk), SHARD_ROWS):
            yield chunk.iloc[start : start + SHARD_ROWS]


def _unpack(chunks: Iterable[list[str]], folder: Path) -> tuple[Path, np.ndarray]:
    """Copy the clips that lie in archives or parquet files into one file, where any process can read any of them.

    chunks: the locations of all recordings. Returns the file's path and ``spans`` as in _AudioShard. The index beside it names
    what is there: a killed run goes on after that.
    """
    n_recordings, packed, locations, archives = 0, [], [], set()
    for chunk in chunks:
        for row, (location, container) in enumerate(zip(chunk, containers(chunk), strict=True), n_recordings):
            if container is not None:
                packed.append(row)
                locations.append(location)
                archives.add(container)
        n_recordings += len(chunk)
    state = [[archive, file_state(archive)] for archive in sorted(archives)]
    spool_path = folder / f"clips-{digest([state, locations])[:16]}"
    index_path = spool_path.with_suffix(".index")
    for stale in set(folder.glob("clips-*")) - {spool_path, index_path}:
        stale.unlink()
    spans = np.full((n_recordings, 2), PLAIN_FILE, np.int64)
    with spool_path.open("ab") as spool, index_path.open("a+b") as index:
        index.seek(0)
        known = index.read()
        done = np.frombuffer(known[: len(known) // 24 * 24], np.int64).reshape(-1, 3)  # which of `locations`, start, size
        spans[np.array(packed, np.int64)[done[:, 0]]] = done[:, 1:]
        end = done[:, 1:].sum(axis=1).max(initial=0)
        index.truncate(done.nbytes)
        spool.truncate(end)
        waiting = np.setdiff1d(np.arange(len(locations)), done[:, 0]).tolist()
        clips = read_clips([locations[position] for position in waiting])
        for number, data in tqdm(clips, "unpack", len(waiting), unit="clip", disable=None):
            span = (ABSENT, 0) if data is None else (end, len(data))
            spans[packed[waiting[number]]] = span
            if data is not None:
                end += spool.write(data)
                spool.flush()
            index.write(np.array([waiting[number], *span]).tobytes())
            index.flush()
    return spool_path, spans


def _schema() -> pa.Schema:
    import datasets  # a second to import, and no worker needs it

    columns = {**datasets.Features.from_arrow_schema(SCHEMA), "n_samples": datasets.Value("int64")}
    return datasets.Features({**columns, "audio": datasets.Audio(sampling_rate=SAMPLE_RATE_HZ)}).arrow_schema


@dataclass(frozen=True)
class _AudioShard:
    path: Path
    recordings: pd.DataFrame  # rows of the selection
    spans: np.ndarray  # (n_rows, 2) int64: start and size of each clip in `spool`; start PLAIN_FILE or ABSENT: it is not there
    spool: Path
    root: Path  # of locations that are relative
    settings: Resample
    schema: pa.Schema

    def inputs(self) -> Any:
        rows = json.loads(self.recordings.to_json(orient="values", double_precision=15))
        located = zip(self.recordings["location"], self.spans.tolist(), strict=True)
        clips = [file_state(self.root / location) if span[0] == PLAIN_FILE else span for location, span in located]
        return [rows, clips, self.spool.name, self.settings.engine, self.settings.encoding, self.settings.min_duration_s]

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
        try:
            table = pq.read_table(path, columns=schema.names).cast(schema)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{folder} is damaged ({error}); delete it and run `dvc repro` to make it again") from None
        yield path, table


def read_encoded(shard: str | Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Audio files of a shard's rows from ``start`` up to ``stop`` or its end, in order; one row group at a time is in memory."""
    with pq.ParquetFile(shard) as file:
        stop = file.metadata.num_rows if stop is None else stop
        first = 0
        for group in range(file.num_row_groups):  # not iter_batches, which keeps the whole file
            last = first + file.metadata.row_group(group).num_rows
            if start < last and first < stop:
                cells = file.read_row_group(group, columns=["audio"]).column("audio")
                yield from (cell["bytes"].as_py() for cell in cells[max(0, start - first) : stop - first])
            first = last


def read_audio(folder: str | Path) -> tuple[pd.DataFrame, Iterator[bytes]]:
    """The recordings that resample_corpus wrote into ``folder``, and their audio files in the same order, read as asked for.

    Raises InputError if there are none or a shard is damaged.
    """
    paths, tables = zip(*read_parts(folder), strict=True)
    clips = (clip for path in paths for clip in read_encoded(path))
    return pa.concat_tables(tables).select(SCHEMA.names).to_pandas(), clips
