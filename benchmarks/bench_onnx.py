"""Speed of the ONNX export against the model it was made of: CPU seconds a recording on one thread, and how far they are apart.

    python -m benchmarks.bench_onnx
    python -m benchmarks.bench_onnx --model models/speakerprint

Synthetic speech of eSpeak NG. "torch" is in the precision that SpeakerEmbedder chooses (bfloat16 where the processor computes
in it); the difference is between float32 and ONNX Runtime. Median of the repeats, features included; each is run once before
it is timed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch

from speakerprint import SpeakerEmbedder
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import resample
from speakerprint.corpora.sources.espeak import ESPEAK_SAMPLE_RATE_HZ, speak
from speakerprint.model.export import export_onnx

DURATIONS_S = (1, 3, 10, 60)


def seconds(embed: Callable[[], np.ndarray], repeats: int) -> float:
    """Median CPU time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        embed()
        times.append(time.process_time() - started)
    return float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a trained model; without it, the shipped one")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    exact = embedder = SpeakerEmbedder.load(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(embedder, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    text = "Seven small ships sailed past the old harbour while the keeper of the light was still asleep in his chair. "
    speech = resample(speak(20 * text, "en-us", rate_wpm=150, pitch=40, pitch_range=50), ESPEAK_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
    rows = []
    for duration_s in DURATIONS_S:
        clip = speech[: duration_s * SAMPLE_RATE_HZ]

        def by_torch(embedder: SpeakerEmbedder, clip: np.ndarray = clip) -> np.ndarray:
            return embedder.embed(clip, SAMPLE_RATE_HZ)

        def by_onnx(clip: np.ndarray = clip) -> np.ndarray:
            return session.run(None, {"waveform": clip[None]})[0][0]

        difference = float(np.abs(by_torch(exact) - by_onnx()).max())
        ways = (partial(by_torch, embedder), partial(by_torch, exact), by_onnx)
        rows.append((duration_s, *(seconds(way, arguments.repeats) for way in ways), f"{difference:.0e}"))
    columns = ["recording s", "torch CPU s", "torch float32 CPU s", "ONNX Runtime CPU s", "largest difference"]
    table = pd.DataFrame(rows, columns=columns)
    print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
