"""`speakerprint embed FOLDER --output FILE.npz` of many recordings: processor time and memory, at two sizes.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_bulk                        # 1,000 and 20,000 recordings
    OMP_NUM_THREADS=1 python -m benchmarks.bench_bulk --recordings 100000

The recordings are hard links to four clips of 1 s: what is embedded has to have half a second of speech.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile

import speakerprint
from benchmarks.side_by_side import Spent, spent

SAMPLES = Path(speakerprint.__file__).parent / "samples"
CLIP_S = 1.0
IN_A_FOLDER = 1000


def make_recordings(folder: Path, n_recordings: int) -> None:
    """Fill a folder with folders of recordings."""
    clips = []
    for name in ("ann-1", "bob"):
        samples, sample_rate_hz = soundfile.read(SAMPLES / f"{name}.ogg")
        for start_s in (0.8, 1.8):
            start = round(start_s * sample_rate_hz)
            clips.append(folder / f"{name}-{start}.wav")
            soundfile.write(clips[-1], samples[start : start + round(CLIP_S * sample_rate_hz)], sample_rate_hz)
    for number in range(n_recordings - len(clips)):
        place = folder / f"{number // IN_A_FOLDER:03}"
        place.mkdir(exist_ok=True)
        os.link(clips[number % len(clips)], place / f"{number:06}.wav")


def embed(n_recordings: int) -> tuple[int, Spent]:
    """Run the command on so many recordings: how many embeddings it wrote, and what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary, "clips"), Path(temporary, "embeddings.npz")
        folder.mkdir()
        make_recordings(folder, n_recordings)
        took = spent("-m", "speakerprint", "embed", str(folder), "--output", str(output))
        if took.status:
            raise RuntimeError(f"embed ended with status {took.status}")
        return len(np.load(output)["embeddings"]), took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=20_000, help="%(default)s")
    for n_recordings in (1000, parser.parse_args().recordings):
        found, took = embed(n_recordings)
        print(f"{found:>9,} embeddings: {took.cpu_s:7.1f} CPU s, {took.peak_mib:6.1f} MiB at most", flush=True)


if __name__ == "__main__":
    main()
