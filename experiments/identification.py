"""Strangers who are taken for somebody enrolled, and enrolled people who are named, by how many are enrolled: a table.

    python -m experiments.identification data/features/evaluate/{french,locales,speechocean}_validation

So many speakers are drawn and enrolled with three recordings each; every recording of the others asks as a stranger, and what the
enrolled have left asks as themselves. Mean of some draws, in %. `one comparison`: with the threshold of 1 % a comparison.
`the question`: with that of 1 % a question, as `Gallery.identify` takes it by default. Named means: by the right name.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerprint import SpeakerEmbedder
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.evaluation.evaluate import embed_store
from speakerprint.inference.calibration import score_for_rate
from speakerprint.inference.vectors import unit_vectors

ENROLLED = (1, 5, 10, 20, 40, 80)
RECORDINGS = 3
FEWEST_STRANGERS = 5
RATE = 0.01


class Asked(NamedTuple):
    """Best scores, (draws · queries,), of strangers and of the enrolled, and whether the latter's best is who they are."""

    strangers: NDArray[np.float64]
    enrolled: NDArray[np.float64]
    right: NDArray[np.bool_]


def ask(units: NDArray[np.float64], speakers: NDArray, n_enrolled: int, draws: int) -> Asked:
    """Enrol so many of the speakers (n,) of unit vectors (n, dim) at random, time and again, and ask with what is left."""
    names, random, parts = np.unique(speakers), np.random.default_rng(1), []
    for _ in range(draws):
        chosen = random.choice(names, n_enrolled, replace=False)
        rows = [random.permutation(np.flatnonzero(speakers == name)) for name in chosen]
        means = np.stack([units[row[:RECORDINGS]].mean(axis=0) for row in rows])
        scores = units @ means.T
        best, name = scores.max(axis=1), chosen[scores.argmax(axis=1)]
        stranger = ~np.isin(speakers, chosen)
        left = np.concatenate([row[RECORDINGS:] for row in rows])
        parts.append(Asked(best[stranger], best[left], name[left] == speakers[left]))
    return Asked(*map(np.concatenate, zip(*parts, strict=True)))


def row(corpus: str, n_speakers: int, n_enrolled: int, asked: Asked, thresholds: dict[float, float]) -> str:
    """A row of the table."""
    cells = []
    for rate in (RATE, RATE / n_enrolled):
        level = score_for_rate(thresholds, rate)
        named = (asked.enrolled >= level) & asked.right
        cells += [f"{level:.3f}", f"{100 * (asked.strangers >= level).mean():.1f}", f"{100 * named.mean():.0f}"]
    return f"| {corpus}, {n_speakers} speakers | {n_enrolled} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+", help="feature stores")
    parser.add_argument("--model", help="folder of a model; without it, the shipped one")
    parser.add_argument("--draws", type=int, default=200)
    arguments = parser.parse_args()
    embedder = SpeakerEmbedder.load(arguments.model, "cpu")
    found: dict[str, tuple[NDArray[np.float64], NDArray]] = {}
    for folder in arguments.stores:
        store = FeatureStore(folder)
        found[folder.name] = (
            unit_vectors(embed_store(store, embedder)),
            np.array([f"{folder.name} {s}" for s in store.speaker_ids]),
        )
    rows, names = zip(*found.values(), strict=True)
    found["all of them"] = np.concatenate(rows), np.concatenate(names)
    heads = ["corpus", "enrolled", *2 * ("threshold", "strangers named", "enrolled named")]
    print(f"| | | one comparison | | | the question | | |\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for corpus, (units, speakers) in found.items():
        n_speakers = len(np.unique(speakers))
        for n_enrolled in ENROLLED:
            if n_enrolled + FEWEST_STRANGERS <= n_speakers:
                print(row(corpus, n_speakers, n_enrolled, ask(units, speakers, n_enrolled, arguments.draws), embedder.thresholds))


if __name__ == "__main__":
    main()
