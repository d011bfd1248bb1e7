"""From MP3 on disk to features in the store, one core: this pipeline's way, and the reference recipe's with the same libraries.

    python -m benchmarks.bench_data_path
    python -m benchmarks.bench_data_path --clips 20 --rounds 1

The clips are synthetic voices, 5 s at 48 kHz. Ours: the stages `resample` and `features` (soxr, FLAC unless a row names WAV,
log-mel of the clip's own length, ragged float16). Reference: resampy's kaiser_best, WhisperFeatureExtractor's padding to 30 s, a
dense float32 array with a chunk a clip. Each way has a process of its own and they take turns; times are medians of the rounds,
of the CPU.
"""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import soundfile

SECONDS, SAMPLE_RATE_HZ = 5, 48_000
WORDS = "the old violins and a heavy kettle were found beside our quiet railway station".split()  # noqa: SIM905


def write_clips(folder: Path, n_clips: int) -> None:
    import soxr

    from speakerprint.corpora.sources.espeak import ESPEAK_SAMPLE_RATE_HZ, SCENE_SAMPLE_RATE_HZ, draw_speaker, record, speak

    for number in range(n_clips):
        speaker, random = draw_speaker(1, "benchmark", number), np.random.default_rng(number)
        text = " ".join(random.permutation(WORDS))
        spoken = speak(f"{text}. {text}.", speaker.voice, rate_wpm=170, pitch=speaker.pitch, pitch_range=speaker.pitch_range)
        dry = soxr.resample(spoken, ESPEAK_SAMPLE_RATE_HZ, SCENE_SAMPLE_RATE_HZ)
        scene = record(dry, speaker.tilt_db, np.zeros_like(dry), random)
        clip = np.resize(soxr.resample(scene, SCENE_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ), SECONDS * SAMPLE_RATE_HZ)
        path = folder / f"clip{number:05d}.mp3"
        soundfile.write(path, clip, SAMPLE_RATE_HZ, bitrate_mode="VARIABLE", compression_level=0.9)


def decode_alone(clips: list[Path], _folder: Path) -> None:
    for path in clips:
        soundfile.read(path, dtype="float32")


def ours(clips: list[Path], folder: Path, encoding: Literal["flac", "wav"] = "flac") -> None:
    from speakerprint.corpora.features import extract_corpus
    from speakerprint.corpora.recordings import as_recordings
    from speakerprint.corpora.resampling import resample_corpus
    from speakerprint.params.resample import Resample

    rows = pd.DataFrame({"recording_id": [path.stem for path in clips], "speaker_id": "s", "location": [str(p) for p in clips]})
    settings = Resample(engine="soxr", encoding=encoding, min_duration_s=0.1, max_bad_fraction=0.0)
    resample_corpus(as_recordings(rows, "benchmark"), folder / "audio", settings)
    extract_corpus(folder / "audio", folder / "store")


def ours_by_wav(clips: list[Path], folder: Path) -> None:
    ours(clips, folder, "wav")


def reference(clips: list[Path], folder: Path) -> None:
    import resampy
    import zarr
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor()
    shape = (len(clips), 80, 3000)
    store = zarr.create_array(folder / "store", shape=shape, chunks=(1, *shape[1:]), dtype="float32")
    for row, path in enumerate(clips):
        samples, sample_rate_hz = soundfile.read(path, dtype="float32")
        samples = resampy.resample(samples, sample_rate_hz, 16_000, filter="kaiser_best")
        store[row] = extractor(samples, sampling_rate=16_000, return_tensors="np").input_features[0]


def measure(way: Callable[[list[Path], Path], None], clips: list[Path]) -> dict[str, float]:
    """CPU seconds, bytes of the store, and the process's peak memory so far."""
    with tempfile.TemporaryDirectory() as temporary:
        started = time.process_time()
        way(clips, Path(temporary))
        seconds = time.process_time() - started
        size = sum(path.stat().st_size for path in (Path(temporary) / "store").rglob("*") if path.is_file())
    return {"seconds": seconds, "bytes": size, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


def run(n_clips: int = 400, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of a table: what, ours, reference, unit, ratio, aim, met."""
    os.environ |= {"LOKY_MAX_CPU_COUNT": "1", "OMP_NUM_THREADS": "1"}  # of the processes started here: all work in themselves
    folder = Path(tempfile.mkdtemp())
    ways = (ours, ours_by_wav, reference, decode_alone)
    pools = {way: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for way in ways}
    try:
        pools[decode_alone].submit(write_clips, folder, n_clips).result()
        clips = sorted(folder.glob("*.mp3"))
        for way in ways:  # imports and just-in-time compilation are no part of a long run
            pools[way].submit(measure, way, clips[:5]).result()
        found = [{way: pools[way].submit(measure, way, clips).result() for way in ways} for _ in range(rounds)]
    finally:
        for pool in pools.values():
            pool.shutdown()
        shutil.rmtree(folder)

    def median(way: Callable, quantity: str) -> float:
        return statistics.median(of_round[way][quantity] for of_round in found)

    def row(what: str, mine: float, other: float, unit: str, ratio: float, aim: str | None, met: bool | None) -> dict[str, Any]:
        return dict(what=what, ours=round(mine, 2), reference=round(other, 2), unit=unit, ratio=round(ratio, 2), aim=aim, met=met)

    speed = {way: n_clips / median(way, "seconds") for way in ways}
    kilobytes = {way: median(way, "bytes") / n_clips / 1000 for way in ways}
    smaller = kilobytes[reference] / kilobytes[ours]
    mebibytes = {way: median(way, "MiB") for way in ways}
    leaner = mebibytes[reference] / mebibytes[ours]
    decoding = 1000 / speed[decode_alone]
    rows = []
    for way, how in ((ours, ""), (ours_by_wav, ", resample.encoding=wav")):
        faster, whole = speed[way] / speed[reference], 1000 / speed[way]
        store, alone = f"MP3 to features in the store{how}", f"MP3 to features, decoding alone{how}"
        rows += [
            row(store, speed[way], speed[reference], "clips/s and core", faster, ">= 15", faster >= 15),
            row(alone, whole, decoding, "CPU ms/clip", whole / decoding, "<= 3", whole / decoding <= 3),
        ]
    return [
        *rows,
        row("a clip in the store", kilobytes[ours], kilobytes[reference], "kB", smaller, ">= 10", smaller >= 10),
        row("peak memory of a process", mebibytes[ours], mebibytes[reference], "MiB", leaner, None, None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400, help="400: a whole shard of the store")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(pd.DataFrame(run(arguments.clips, arguments.rounds)).to_string(index=False))


if __name__ == "__main__":
    main()
