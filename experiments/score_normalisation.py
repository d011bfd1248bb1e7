"""Adaptive symmetric score normalisation, and centring, by a cohort of training recordings, against plain cosines: a table.

    python -m experiments.score_normalisation data/features/evaluate/{french,locales,speechocean}_validation \
        --cohort data/features/train/*_train [--seconds 2]

A cosine s of recordings a and b becomes ((s - m_a) / d_a + (s - m_b) / d_b) / 2, where m_a and d_a are mean and standard
deviation of a's N highest cosines to the cohort (Matějka et al.: "Analysis of Score Normalization in Multilingual Speaker
Recognition", 2017). The cohort is each speaker's mean embedding, or all recordings, of all --cohort stores or of the
one with the corpus's own name (french_train for french_validation); it is taken whole where N is larger. `centred`: the cohort's
mean is subtracted from the embeddings, and cosines are not normalised. EER in %, with its 95 % interval.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.peers import Figures, measure
from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.inference.model_folder import find_model
from speakerprint.inference.vectors import unit_vectors
from speakerprint.model.speaker_model import Bfloat16Model, SpeakerModel, native_bf16

NEAREST = (20, 50, 100, 200, 300)


def normalised(units: NDArray[np.float64], cohort: NDArray[np.float64], nearest: int) -> NDArray[np.float64]:
    """Scores (n, n) of unit vectors (n, dim), normalised by each one's ``nearest`` highest cosines to the cohort's (m, dim)."""
    highest = np.sort(units @ cohort.T, axis=1)[:, -nearest:]
    scaled = (units @ units.T - highest.mean(axis=1)[:, None]) / highest.std(axis=1)[:, None]
    return (scaled + scaled.T) / 2


def vectors(scores: NDArray[np.float64]) -> NDArray:
    """Vectors (n, n) whose cosines are these scores (n, n), symmetric, times one number: they can be measured as embeddings are.

    A recording's score with itself is no trial, so the diagonal is free: with one constant on it, high enough, the matrix is that
    of the inner products of some vectors, all of one length.
    """
    values, directions = np.linalg.eigh(scores - np.diag(scores.diagonal()))
    return directions * np.sqrt(values - values[0])


def speaker_means(units: NDArray[np.float64], speaker_ids: NDArray) -> NDArray[np.float64]:
    """The direction of each speaker's mean: (speakers, dim)."""
    return unit_vectors(pd.DataFrame(units).groupby(speaker_ids).mean())


def embed(store: FeatureStore, model: SpeakerModel, seconds: float | None) -> NDArray:
    """Embeddings (recordings, dim) of what is before ``seconds``, or of all, of each recording."""
    stop = None if seconds is None else round(seconds * FRAMES_PER_SECOND)
    clips = tqdm((store.frames(row, 0, stop) for row in range(len(store))), "embed", len(store), disable=None)
    return unit_vectors(np.concatenate([model.embed_frames([clip]) for clip in clips]))


def cell(figures: Figures) -> str:
    return f"{100 * figures.eer:.2f} ({100 * figures.eer_low:.1f}–{100 * figures.eer_high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+", help="feature stores whose recordings are the trials")
    parser.add_argument("--cohort", type=Path, nargs="+", required=True, help="feature stores of other speakers")
    parser.add_argument("--model", help="folder of a model; without it, the shipped one")
    parser.add_argument("--seconds", type=float, help="cut the trials' recordings and the cohort's to their first seconds")
    arguments = parser.parse_args()
    model = SpeakerModel.load(find_model(arguments.model))
    if native_bf16("cpu"):
        model = Bfloat16Model(model)

    cohort = {}
    for folder in arguments.cohort:
        store = FeatureStore(folder)
        cohort[folder.name] = (embed(store, model, arguments.seconds), f"{folder.name}/" + store.speaker_ids)
    heads = ["trials", "cohort", "plain", "centred", *(f"N = {n}" for n in NEAREST), "N = all"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for folder in arguments.stores:
        store = FeatureStore(folder)
        units = embed(store, model, arguments.seconds)
        trials = store.speaker_ids, store.recordings["locale"]
        plain = list(measure(units, *trials))
        own = f"{folder.name.rpartition('_')[0]}_train"
        for name, parts in {"all": list(cohort.values()), **({own: [cohort[own]]} if own in cohort else {})}.items():
            recordings, speaker_ids = (np.concatenate(part) for part in zip(*parts, strict=True))
            for kind, members in {"speakers": speaker_means(recordings, speaker_ids), "recordings": recordings}.items():
                changed: list[NDArray] = [unit_vectors(units - members.mean(axis=0))]
                changed += [vectors(normalised(units, members, n)) for n in (*NEAREST, len(members))]
                figures = [plain, *(list(measure(one, *trials)) for one in changed)]
                for of_trials in zip(*figures, strict=True):
                    line = [f"{folder.name}, {of_trials[0].trials}", f"{name}: {len(members):,} {kind}", *map(cell, of_trials)]
                    print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
