"""`speakerprint embed FOLDER --output FILE.npz` of many recordings: processor time and memory, at two sizes.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_bulk                        # 1,000 and 20,000 recordings
    OMP_NUM_THREADS=1 python -m benchmarks.bench_bulk --recordings 100000

The recordings are hard links to four clips of 0.15 s, so that the time is mostly that of a file, and not of its seconds.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

import speakerprint

SAMPLES = Path(speakerprint.__file__).parent / "samples"
CLIP_S = 0.15
IN_A_FOLDER = 1000


class Spent(NamedTuple):
    """What one run took, and how many embeddings it wrote."""

    embeddings: int
    cpu_s: float
    peak_mib: float


def make_recordings(folder: Path, n_recordings: int) -> None:
    """Fill a folder with folders of recordings."""
    clips = []
    for name in ("ann-1", "bob"):
        samples, sample_rate_hz = soundfile.read(SAMPLES / f"{name}.ogg")
        for start_s in (0.5, 1.0):
            start = round(start_s * sample_rate_hz)
            clips.append(folder / f"{name}-{start}.wav")
            soundfile.write(clips[-1], samples[start : start + round(CLIP_S * sample_rate_hz)], sample_rate_hz)
    for number in range(n_recordings - len(clips)):
        place = folder / f"{number // IN_A_FOLDER:03}"
        place.mkdir(exist_ok=True)
        os.link(clips[number % len(clips)], place / f"{number:06}.wav")


def embed(n_recordings: int) -> Spent:
    """Run the command on so many recordings in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary, "clips"), Path(temporary, "embeddings.npz")
        folder.mkdir()
        make_recordings(folder, n_recordings)
        command = [sys.executable, "-m", "speakerprint", "embed", str(folder), "--output", str(output)]
        _, status, used = os.wait4(os.posix_spawn(sys.executable, command, os.environ), 0)
        if status:
            raise RuntimeError(f"embed ended with status {os.waitstatus_to_exitcode(status)}")
        found = len(np.load(output)["embeddings"])
    return Spent(found, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=20_000, help="%(default)s")
    for n_recordings in (1000, parser.parse_args().recordings):
        spent = embed(n_recordings)
        print(f"{spent.embeddings:>9,} embeddings: {spent.cpu_s:7.1f} CPU s, {spent.peak_mib:6.1f} MiB at most", flush=True)


if __name__ == "__main__":
    main()
