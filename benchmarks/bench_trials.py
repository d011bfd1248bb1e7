"""All-pairs evaluation against scikit-learn's roc_curve on the same pairs: seconds, peak memory, EER.

    OMP_NUM_THREADS=2 python -m benchmarks.bench_trials
    OMP_NUM_THREADS=2 python -m benchmarks.bench_trials --speakers 500 --rounds 1

Synthetic embeddings (256 dimensions, 4,252 speakers of three recordings unless --speakers says otherwise: VoxCeleb2 dev, English,
the size of the published evaluation). Each row runs in a process of its own, whose peak memory is the row's, imports included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.side_by_side import row
from speakerprint.evaluation.evaluate import evaluate
from speakerprint.evaluation.trials import score_trials
from speakerprint.params.evaluation import Evaluation

SETTINGS = Evaluation(corpora=[], bootstrap_samples=1000, duration_edges_s=[2.0, 4.0, 6.0])


class Corpus:
    """Embeddings that stand in for a store and a model: a recording's only 'frame' holds its index."""

    def __init__(self, n_speakers: int):
        rng = np.random.default_rng(1)
        self.speaker_ids = rng.permutation(np.repeat([f"speaker{i:05}" for i in range(n_speakers)], 3)).astype(object)
        speakers = pd.factorize(self.speaker_ids)[0]
        self.embeddings = rng.normal(size=(n_speakers, 256))[speakers] + 3.5 * rng.normal(size=(len(speakers), 256))
        self.n_frames = rng.integers(100, 900, len(speakers))
        self.recordings = pd.DataFrame(
            {"locale": np.where(speakers % 10, "en", "fr"), "gender": np.where(speakers % 2, "male", "female")}
        )

    def __len__(self) -> int:
        return len(self.speaker_ids)

    def frames(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).normal(size=(2, 80)) + [[i]] * 2

    def embed_frames(self, clips: list[np.ndarray]) -> np.ndarray:
        return self.embeddings[[round(clip.mean()) for clip in clips]].astype(np.float32)


def whole_evaluation(corpus: Any) -> float:
    """Every figure, condition and interval of model and log-mel floor, the projection too."""
    return evaluate(corpus, corpus, SETTINGS).metrics["eer"]


def eer_and_its_curve(corpus: Corpus) -> float:
    """The part of it that scikit-learn has: score all pairs, EER and curve."""
    trials = score_trials(corpus.embeddings, corpus.speaker_ids)
    trials.curve()
    return trials.equal_error_rate()[0]


def scikit_learn(corpus: Corpus) -> float:
    """Score all pairs at once, then roc_curve."""
    from sklearn.metrics import roc_curve

    units = corpus.embeddings / np.linalg.norm(corpus.embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(len(units), k=1)
    scores = (units @ units.T)[first, second]
    same = corpus.speaker_ids[first] == corpus.speaker_ids[second]
    accept, hit, _ = roc_curve(same, scores, drop_intermediate=False)
    crossing = np.argmin(np.abs(accept - (1 - hit)))
    return float(accept[crossing] + 1 - hit[crossing]) / 2


ROWS = {
    "speakerprint, whole evaluation": whole_evaluation,
    "speakerprint, EER": eer_and_its_curve,
    "scikit-learn, EER": scikit_learn,
}


def in_this_process(name: str, n_speakers: int) -> dict[str, float]:
    corpus = Corpus(n_speakers)
    started = time.perf_counter()
    eer = ROWS[name](corpus)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"EER %": 100 * eer, "seconds": seconds, "peak GiB": peak}


def in_its_own_process(name: str, n_speakers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_trials", "--speakers", str(n_speakers), "--row", name]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def run(n_speakers: int = 4252, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of a table: what, ours, reference, unit, ratio, aim, met. The ways take turns; seconds are medians, by the clock."""
    found = [{name: in_its_own_process(name, n_speakers) for name in ROWS} for _ in range(rounds)]
    table = {name: {key: statistics.median(of_round[name][key] for of_round in found) for key in found[0][name]} for name in ROWS}
    whole, mine, other = table.values()
    n = 3 * n_speakers
    pairs = f"{n * (n - 1) // 2:,} pairs"
    return [
        row(f"EER and its curve, {pairs}", mine["seconds"], other["seconds"], "s", other["seconds"] / mine["seconds"], 20),
        row(f"peak memory, {pairs}", mine["peak GiB"], other["peak GiB"], "GiB", other["peak GiB"] / mine["peak GiB"], 10),
        row("EER", mine["EER %"], other["EER %"], "%"),
        row(
            "whole evaluation, against only the EER", whole["seconds"], other["seconds"], "s", other["seconds"] / whole["seconds"]
        ),
        row("its peak memory", whole["peak GiB"], other["peak GiB"], "GiB", other["peak GiB"] / whole["peak GiB"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speakers", type=int, default=4252)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--row", choices=list(ROWS), help="run one row, in this process")
    arguments = parser.parse_args()
    if not arguments.row:
        print(pd.DataFrame(run(arguments.speakers, arguments.rounds)).to_string(index=False))
        return
    print(json.dumps(in_this_process(arguments.row, arguments.speakers)))


if __name__ == "__main__":
    main()
