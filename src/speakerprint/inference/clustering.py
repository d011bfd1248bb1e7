"""Which recordings are of one speaker, where neither the speakers nor their number is known."""

from functools import partial

import fastcluster
import numpy as np
from numpy.typing import ArrayLike, NDArray

from speakerprint.errors import InputError
from speakerprint.inference.vectors import BLOCK_ROWS, unit_vectors

MAX_RECORDINGS = 30_000  # 8 bytes for each of n² pairs: 7 GB
CUTS = 20  # thresholds tried in a range


def cluster(
    embeddings: ArrayLike, threshold: float | tuple[float, float] | None = None, n_speakers: int | None = None
) -> NDArray[np.intp]:
    """Cluster embeddings (n, dim) by speaker, by average linkage of their cosines.

    The two clusters with the highest mean cosine between them merge, again and again (UPGMA; Sokal & Michener 1958): down to a
    mean cosine of `threshold`, or until `n_speakers` clusters are left. Of a range of thresholds (low, high) the one is taken
    whose clusters have the highest `silhouette`, since all cosines are higher or lower on some recordings than on those that a
    model's thresholds are from; `threshold_range` gives a model's.

    Returns (n,) labels: 0 is the largest cluster, and of equally large ones that which comes first.
    Takes 8·n² bytes. Raises InputError for no embeddings or more than 30,000, and unless either a threshold or a number of
    speakers from 1 to n is given.
    """
    units = unit_vectors(embeddings)
    n = len(units)
    refuse_too_many(n)
    if (threshold is None) == (n_speakers is None):
        raise InputError("found neither or both of a threshold and a number of speakers; give one of them")
    if n_speakers is not None and not 1 <= n_speakers <= n:
        raise InputError(f"{n} recordings cannot be of {n_speakers} speakers; expected a number from 1 to {n}")
    if n == 1:
        return np.zeros(1, dtype=np.intp)
    merges = fastcluster.linkage(_cosine_distances(units), "average", preserve_input=False)
    if n_speakers is not None:
        return _cut(merges, n - n_speakers)
    lowest_cosines = np.linspace(*threshold, CUTS) if isinstance(threshold, tuple) else [threshold]
    counts = np.unique(np.searchsorted(merges[:, 2], 1 - np.array(lowest_cosines, dtype=np.float64), side="right"))
    if len(counts) == 1:
        return _cut(merges, counts[0])
    return max((_cut(merges, count) for count in counts), key=partial(silhouette, units))


def threshold_range(thresholds: dict[float, float]) -> tuple[float, float]:
    """Where `cluster` looks for a threshold, from the scores to reach for false-accept rates of 0.01 and 0.001.

    From the second to half their distance below the first: 0.1 to about 3 % false accepts. Raises InputError if one is missing.
    """
    if not {0.01, 0.001} <= thresholds.keys():
        others = f", only for {', '.join(f'{rate:g}' for rate in thresholds)}" if thresholds else ""
        raise InputError(
            f"there are no thresholds for false-accept rates of 0.01 and 0.001{others}; give a threshold, the number of "
            "speakers, or a calibration that has them (`speakerprint calibrate` without --false-accept-rate)"
        )
    return thresholds[0.01] - (thresholds[0.001] - thresholds[0.01]) / 2, thresholds[0.001]


def silhouette(embeddings: ArrayLike, labels: ArrayLike) -> float:
    """Mean silhouette by cosine distance of clusters (n,) of embeddings (n, dim): up to 1 the better they are told apart.

    Of a recording, (b − a) / max(a, b) with its mean distance a to the others of its cluster and b to the nearest other cluster,
    0 where it is alone (Rousseeuw 1987). Where all are in one cluster, 0. From sums of clusters: no matrix of all pairs.
    """
    units = unit_vectors(embeddings)
    _, labels, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if len(sizes) == 1:
        return 0.0
    sums = np.zeros((len(sizes), units.shape[1]))
    np.add.at(sums, labels, units)
    means = sums / sizes[:, None]
    total = 0.0
    several = np.flatnonzero(sizes[labels] > 1)
    for start in range(0, len(several), BLOCK_ROWS):
        rows = several[start : start + BLOCK_ROWS]
        clusters = labels[rows]
        cosines = units[rows] @ means.T
        own = 1 - (cosines[np.arange(len(rows)), clusters] * sizes[clusters] - 1) / (sizes[clusters] - 1)
        cosines[np.arange(len(rows)), clusters] = -np.inf
        nearest = 1 - cosines.max(axis=1)
        total += ((nearest - own) / np.maximum(np.maximum(nearest, own), np.finfo(float).tiny)).sum()
    return float(total / len(units))


def refuse_too_many(n_recordings: int) -> None:
    """Raise InputError for none, or more than can be clustered."""
    if not 1 <= n_recordings <= MAX_RECORDINGS:
        raise InputError(
            f"{n_recordings} recordings to cluster, expected 1 to {MAX_RECORDINGS}; of more, cluster a random part, "
            "and give each of the others to the cluster with the most similar mean embedding"
        )


def _cosine_distances(units: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 − cosine of all pairs of unit vectors (n, dim), condensed as scipy's `pdist`, four times as fast."""
    n = len(units)
    distances = np.empty(n * (n - 1) // 2)
    filled = 0
    for start in range(0, n, BLOCK_ROWS):
        block = 1 - units[start : start + BLOCK_ROWS] @ units[start:].T
        for row, values in enumerate(block, start=1):
            distances[filled : filled + len(values) - row] = values[row:]
            filled += len(values) - row
    return np.maximum(distances, 0, out=distances)


def _cut(merges: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Labels after the first so many merges, by falling size of clusters."""
    n = len(merges) + 1
    within = list(range(n + count))  # the cluster that one is part of: n + i is what merge i makes
    for number, (one, other) in enumerate(merges[:count, :2].astype(int).tolist(), start=n):
        within[one] = within[other] = number
    for number in reversed(range(n + count)):
        within[number] = within[within[number]]
    found = np.array(within[:n])
    _, first, labels, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    return np.argsort(np.lexsort((first, -sizes)))[labels]
