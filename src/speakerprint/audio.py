"""Decode and resample recordings, and keep them as parquet shards of 16 kHz mono FLAC.

The shards open with ``datasets.load_dataset("parquet", data_files="…/part-*.parquet")``: ``audio`` is an ``Audio`` column.
"""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeVar

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
from joblib import Parallel, delayed
from tqdm import tqdm

from speakerprint.errors import InputError
from speakerprint.params import Resample
from speakerprint.recordings import SCHEMA
from speakerprint.sources.clips import read_clips

SAMPLE_RATE_HZ = 16_000  # Whisper's
HEADER_TOLERANCE_S = 0.1  # a header counts the encoder's delay and padding (up to two MP3 or AAC frames); decoders may cut them
METADATA_TOLERANCE = 0.1  # of the duration that a corpus's metadata give
MP3_LENGTH_HEADERS = (b"Xing", b"Info", b"VBRI")
RIFF_SIZE_UNKNOWN = 0x7FFF_0000  # a WAV written to a pipe says at least this much
SHARD_BYTES = 256 * 2**20
ROWS_PER_GROUP = 64  # rows that a reader holds in memory at once
WAVE = 2048  # recordings under way at once: what bounds memory

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        samples = file.read(dtype="float32", always_2d=True).mean(axis=1)
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


def encode_flac(samples: np.ndarray) -> bytes:
    """(n_samples,) at 16 kHz as a 16-bit FLAC file; samples beyond [-1, 1] are clipped."""
    pcm = np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


# --- a corpus -------------------------------------------------------------------------------------------------------


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) in the items' order, from all cores; no more than WAVE items and results are in memory."""
    source = iter(items)
    with Parallel(n_jobs=-1, return_as="generator") as parallel:
        n_done = WAVE
        while n_done == WAVE:  # joblib alone would run ahead of whoever reads the results
            n_done = 0
            wave = parallel(delayed(function)(item) for item in islice(source, WAVE))
            for n_done, result in enumerate(wave, start=1):  # noqa: B007  # counted, to see the end of the items
                yield result


def refuse_too_many_bad(bad: list[dict[str, str]], n_recordings: int, stage: str, max_bad_fraction: float) -> None:
    """Raise InputError if more of a corpus's recordings are bad than the stage allows, or none is left."""
    if n_recordings and len(bad) < n_recordings and len(bad) <= max_bad_fraction * n_recordings:
        return
    if not n_recordings:
        raise InputError(f"{stage}: there are no recordings; loosen the corpus's filter in params.yaml or mend its source")
    examples = "".join(f"\n  {row['location']}: {row['reason']}" for row in bad[:5]) + ("\n  …" if len(bad) > 5 else "")
    remedy = "mend them" if len(bad) == n_recordings else f"mend them or raise {stage}.max_bad_fraction"
    raise InputError(
        f"{stage}: {len(bad)} of {n_recordings} recordings are bad, {stage}.max_bad_fraction allows {max_bad_fraction:g} of them"
        f" and at least one must be good; {remedy}:{examples}"
    )


def report_of(recordings: pd.DataFrame, bad: list[dict[str, str]]) -> dict[str, Any]:
    """The report that a stage over recordings leaves in git; ``recordings`` are the good ones."""
    return {
        "recordings": len(recordings),
        "speakers": int(recordings["speaker_id"].nunique()),
        "hours": round(float(recordings["duration_s"].astype("float64").sum()) / 3600, 3),
        "bad": bad,
    }


class _Clip(NamedTuple):
    row: int  # of the selection
    data: bytes | None
    location: str
    expected_s: float  # from the corpus's metadata; NaN if unknown


class _Resampled(NamedTuple):
    row: int  # of the selection
    n_samples: int
    flac: bytes
    problem: str | None


def _resample_clip(clip: _Clip, settings: Resample) -> _Resampled:
    try:
        if clip.data is None:
            raise UndecodableAudio(clip.location, "there is no such file")
        samples, sample_rate_hz = decode(clip.data, clip.location)
        found_s = len(samples) / sample_rate_hz
        if found_s < settings.min_duration_s:
            raise UndecodableAudio(clip.location, f"lasts {found_s:.2f} s, less than resample.min_duration_s")
        if found_s < (1 - METADATA_TOLERANCE) * clip.expected_s:
            raise UndecodableAudio(clip.location, f"truncated: {found_s:.2f} s of the {clip.expected_s:.2f} s in the metadata")
    except UndecodableAudio as error:
        return _Resampled(clip.row, 0, b"", error.reason)
    samples = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ, settings.engine)
    return _Resampled(clip.row, len(samples), encode_flac(samples), None)


def resample_corpus(selection: pd.DataFrame, folder: str | Path, settings: Resample) -> dict[str, Any]:
    """Write the selected recordings as 16 kHz mono FLAC into ``folder/part-00000.parquet``, …, and return a report.

    A shard has the columns of a recording (``duration_s`` now exact), ``n_samples`` (int64) and ``audio`` (FLAC). Rows stand
    in the selection's order, whatever the order in which archives yield the clips: encoded clips wait in an unnamed file in
    ``folder``, which so needs twice the room for a while. A recording that is absent, undecodable, truncated or too short is
    skipped and listed in the report.

    Raises InputError if more than ``settings.max_bad_fraction`` of the recordings are bad, or none is left.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("part-*.parquet"):
        stale.unlink()
    selection = selection.reset_index(drop=True)
    locations = selection["location"].tolist()
    expected_s = selection["duration_s"].to_numpy(dtype="float64", na_value=np.nan)
    clips = (_Clip(row, data, locations[row], expected_s[row]) for row, data in read_clips(locations))
    n_samples = np.zeros(len(selection), np.int64)
    spans = np.zeros((len(selection), 2), np.int64)  # where the spool holds each clip: start, size
    problems: dict[int, str] = {}
    with tempfile.TemporaryFile(dir=folder) as spool:
        results = in_parallel(partial(_resample_clip, settings=settings), clips)
        for result in tqdm(results, total=len(selection), desc="resample", unit="recording", disable=None):
            if result.problem is not None:
                problems[result.row] = result.problem
                continue
            n_samples[result.row] = result.n_samples
            spans[result.row] = spool.tell(), len(result.flac)
            spool.write(result.flac)
        bad = [
            {"recording_id": selection.at[row, "recording_id"], "location": locations[row], "reason": problems[row]}
            for row in sorted(problems)
        ]
        refuse_too_many_bad(bad, len(selection), "resample", settings.max_bad_fraction)
        good = np.setdiff1d(np.arange(len(selection)), list(problems))
        recordings = selection.iloc[good].assign(n_samples=n_samples[good], duration_s=n_samples[good] / SAMPLE_RATE_HZ)
        _write_shards(recordings.reset_index(drop=True), spool, spans[good], folder)
    return report_of(recordings, bad)


def _write_shards(recordings: pd.DataFrame, spool: IO[bytes], spans: np.ndarray, folder: Path) -> None:
    import datasets  # a second to import, and no worker needs it

    schema = datasets.Features(
        {
            **datasets.Features.from_arrow_schema(SCHEMA),
            "n_samples": datasets.Value("int64"),
            "audio": datasets.Audio(sampling_rate=SAMPLE_RATE_HZ),
        }
    ).arrow_schema
    sizes = spans[:, 1]
    shard_of_row = (np.cumsum(sizes) - sizes) // SHARD_BYTES
    for number, shard in enumerate(np.unique(shard_of_row)):
        rows = np.flatnonzero(shard_of_row == shard)
        path = folder / f"part-{number:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:  # FLAC is dense already
            for group in np.array_split(rows, range(ROWS_PER_GROUP, len(rows), ROWS_PER_GROUP)):
                table = recordings.iloc[group]
                audio = []
                for (start, size), recording_id in zip(spans[group].tolist(), table["recording_id"], strict=True):
                    spool.seek(start)
                    audio.append({"bytes": spool.read(size), "path": f"{recording_id}.flac"})
                writer.write_table(pa.Table.from_pandas(table.assign(audio=audio), schema=schema, preserve_index=False))


def read_audio(folder: str | Path) -> tuple[pd.DataFrame, Iterator[bytes]]:
    """The recordings that resample_corpus wrote into ``folder``, and their FLAC files in the same order, read as asked for.

    Raises InputError if there are none or a shard is damaged.
    """
    paths = sorted(Path(folder).glob("part-*.parquet"))
    if not paths:
        raise InputError(f"{folder} holds no part-*.parquet; run `dvc repro` to make it")
    try:
        shards = [pq.ParquetFile(path) for path in paths]
        recordings = pa.concat_tables([shard.read(columns=SCHEMA.names) for shard in shards]).cast(SCHEMA).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{folder} is damaged ({error}); delete it and run `dvc repro` to make it again") from None
    flacs = (
        row["bytes"]
        for shard in shards
        for group in range(shard.num_row_groups)  # not iter_batches, which keeps the whole file
        for row in shard.read_row_group(group, columns=["audio"]).column("audio").to_pylist()
    )
    return recordings, flacs
