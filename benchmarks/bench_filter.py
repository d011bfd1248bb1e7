"""The stages that read metadata, on a synthetic Common Voice release of a million rows: seconds, peak memory.

    python -m benchmarks.bench_filter
    python -m benchmarks.bench_filter --rows 200000 --clips

The release has train.tsv and clip_durations.tsv in the columns of release 17, and is read with the preset common_voice_17. With
--clips each row has a clip as well, of a quarter of a second, the release is packed into a .tar.gz, and `resample` runs too.
Each row is a stage as `dvc repro` runs it, in a process of its own, whose peak memory is the row's, imports included.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from speakerprint.corpora.languages import empty_table, write_languages
from speakerprint.params.presets import use_preset

PROJECT = Path(__file__).parents[1]
CORPUS = "common_voice_17_train"
TINY_S = 0.25  # seconds of a clip
SENTENCE = 'The "benchmark" holds the same sentence again and again, of about the length that others have.'


def release(n_rows: int, clip_s: float | None = None) -> dict[str, pd.DataFrame]:
    """Tables of a release whose speakers have from a few to thousands of recordings, as those of English have.

    clip_s: how long all recordings are, in seconds; None where there are none and durations are only told.
    """
    rng = np.random.default_rng(1)
    sizes = np.minimum(rng.lognormal(2.0, 1.8, n_rows).astype(int) + 1, 20_000)
    speaker = np.repeat(np.arange(n_rows), sizes)[:n_rows]
    paths = pd.Series(
        np.char.add(np.char.add("common_voice_en_", np.arange(10_000_000, 10_000_000 + n_rows).astype(str)), ".mp3")
    )
    ids = np.array([rng.bytes(64).hex() for _ in range(speaker[-1] + 1)])
    genders = np.array(["", "male_masculine", "female_feminine"])[rng.integers(0, 3, len(ids))]
    train = pd.DataFrame({"client_id": ids[speaker], "path": paths, "sentence_id": "0" * 64, "sentence": SENTENCE})
    train = train.assign(sentence_domain="", up_votes=rng.integers(2, 5, n_rows), down_votes=rng.integers(0, 2, n_rows))
    train = train.assign(age="twenties", gender=genders[speaker], accents="", variant="", locale="en", segment="")
    durations = pd.DataFrame(
        {"clip": paths, "duration[ms]": round(1000 * clip_s) if clip_s else rng.integers(2000, 9000, n_rows)}
    )
    return {"train": train.iloc[rng.permutation(n_rows)], "clip_durations": durations}


def a_clip(seconds: float) -> bytes:
    """Noise, so that its features fill as much of a shard as speech does."""
    stream = io.BytesIO()
    noise = 0.1 * np.random.default_rng(1).standard_normal(round(seconds * 32_000))
    soundfile.write(stream, noise, 32_000, format="MP3")
    return stream.getvalue()


def write_folder(tables: dict[str, pd.DataFrame], root: Path, clips: Sequence[str] = (), data: bytes = b"") -> Path:
    """The release as a folder, in which each of the named clips is `data`."""
    (root / "en/clips").mkdir(parents=True)
    for name, table in tables.items():
        text = table.to_csv(sep="\t", index=False, quoting=3, quotechar=None, lineterminator="\n")
        (root / f"en/{name}.tsv").write_text(text, encoding="utf-8")
    for clip in clips:
        (root / "en/clips" / clip).write_bytes(data)
    return root


def write_archive(tables: dict[str, pd.DataFrame], folder: Path, clips: Sequence[str], data: bytes) -> Path:
    """The same as one .tar.gz; lists first, as they come."""
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(write_folder(tables, folder), folder.name)
        for clip in clips:
            member = tarfile.TarInfo(f"{folder.name}/en/clips/{clip}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def make(n_rows: int, clips: bool, folder: Path) -> tuple[Path, int]:
    """The release's path and its number of speakers."""
    tables = release(n_rows, TINY_S if clips else None)
    root = folder / "cv-corpus-17.0-2024-03-15"
    path = write_archive(tables, root, tables["clip_durations"]["clip"], a_clip(TINY_S)) if clips else write_folder(tables, root)
    return path, tables["train"]["client_id"].nunique()


def measure(stage: str, project: Path) -> dict[str, float]:
    """Run a stage; the clock's and the CPU's seconds and peak GiB of its process; workers may not be among them."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}", CORPUS], cwd=project, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"stage {stage} failed")
    seconds = {"seconds": time.perf_counter() - started, "CPU seconds": usage.ru_utime + usage.ru_stime}
    return {name: round(value, 1) for name, value in seconds.items()} | {"peak GiB": round(usage.ru_maxrss / 2**20, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clips", action="store_true", help="make clips too, and resample them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ProcessPoolExecutor(1) as pool:  # a stage's process would count among its peak what this one holds
            root, n_speakers = pool.submit(make, arguments.rows, arguments.clips, folder).result()
        (folder / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
        (folder / "dvc.yaml").write_bytes((PROJECT / "dvc.yaml").read_bytes())
        use_preset("corpora/common_voice_17", folder / "params.yaml", root, folder / "dvc.yaml")
        write_languages(empty_table(), folder / f"data/languages/{CORPUS}.parquet")  # no language is asked for
        stages = ["download", "filter", "resample"] if arguments.clips else ["download", "filter"]
        table = pd.DataFrame({stage: measure(stage, folder) for stage in stages}).T
        kept = len(pd.read_parquet(folder / f"data/selection/{CORPUS}.parquet"))
    print(f"{arguments.rows:,} rows of {n_speakers:,} speakers, {kept:,} selected\n{table.to_string()}")


if __name__ == "__main__":
    main()
