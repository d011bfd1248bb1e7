"""Which windows of speech are of one voice, and how many voices there are, by the evidence for each division into voices.

A window's embedding is its voice plus a deviation, both normally distributed, with one variance in all directions each (the
two-covariance model of PLDA; Ioffe 2006, Brümmer & de Villiers 2010). So the evidence that windows are of one voice depends on
how many they are and on the length of their sum alone. A window weighs less the more there are: the model is not quite true, and
what it leaves out would become voices (Miller & Dunson: "Robust Bayesian inference via coarsening", 2019).
What the constants are chosen by is in experiments/LOG.md: conversations made of validation speakers.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

VARIANCE = 1.5  # of voices, where that of deviations is 1: the squared length of a window
CERTAIN, MANY = 1.5, 400  # a window counts as so much, and as half of it where there are so many
SWEEPS = 10  # at most, until no group of windows moves


def voices_in(windows: NDArray[np.float32], groups: NDArray[np.intp], fewest: int, most: int) -> NDArray[np.intp]:
    """The voice of each window (n, dim) of unit length: (n,) from 0. Their number is that with the most evidence.

    groups: (n,) from 0 without gaps; windows of one are of one voice. The two groups whose merge gains most, or costs least,
    merge, again and again; from `most` voices on, groups are dealt out anew after each merge. There are `fewest` to `most`
    voices, but never more than groups.
    """
    share = CERTAIN * MANY / (MANY + len(windows))
    counts, sums = totals(np.full(len(windows), share), share * windows.astype(np.float64), groups)
    voices = merged(counts, sums, min(most, len(counts)))
    best, found = -np.inf, voices
    while True:
        moved = dealt_out(counts, sums, voices)
        voices = moved if moved.max() + 1 >= fewest else voices
        own_counts, own_sums = totals(counts, sums, voices)
        total = evidence(own_counts, np.square(own_sums).sum(axis=1)).sum()
        if total > best:
            best, found = total, voices
        if len(own_counts) <= fewest:
            return found[groups]
        voices = merged(own_counts, own_sums, len(own_counts) - 1)[voices]


def evidence(counts: Array, squares: Array) -> Array:
    """Log of how much better one voice explains sets of windows than none does: by counts, and squared lengths of sums."""
    return VARIANCE * squares / (1 + VARIANCE * counts) - np.log1p(VARIANCE * counts)


def totals(counts: Array, sums: Array, voices: NDArray[np.intp]) -> tuple[Array, Array]:
    """Counts (voices,) and sums (voices, dim) of voices, by those of groups."""
    whole = np.zeros((voices.max() + 1, sums.shape[1]))
    np.add.at(whole, voices, sums)
    return np.bincount(voices, counts).astype(np.float64), whole


def merged(counts: Array, sums: Array, number: int) -> NDArray[np.intp]:
    """The voice of each group, (groups,), after merges of the two sets that gain most by it, until so many are left."""
    counts, products = counts.astype(float), sums @ sums.T
    voices = np.arange(len(counts))
    own = evidence(counts, products.diagonal())
    squares = products.diagonal()[:, None] + products.diagonal() + 2 * products
    gains = evidence(counts[:, None] + counts, squares) - own[:, None] - own
    np.fill_diagonal(gains, -np.inf)
    for _ in range(len(counts) - number):
        one, other = divmod(int(gains.argmax()), len(counts))
        voices[voices == other] = one
        counts[one] += counts[other]
        products[one] += products[other]
        products[:, one] += products[:, other]
        own[one] = evidence(counts[one], products[one, one])
        gain = evidence(counts + counts[one], products.diagonal() + products[one, one] + 2 * products[one]) - own - own[one]
        gone = np.isneginf(gains[one])  # itself too
        gains[one] = gains[:, one] = np.where(gone, -np.inf, gain)
        gains[other] = gains[:, other] = -np.inf
    return np.unique(voices, return_inverse=True)[1]


def dealt_out(counts: Array, sums: Array, voices: NDArray[np.intp]) -> NDArray[np.intp]:
    """The voice of each group, (groups,), each moved to where it gains most until none moves. A voice may lose all groups."""
    voices = voices.copy()
    own_counts, own_sums = totals(counts, sums, voices)
    groups = np.bincount(voices)
    squares = np.square(sums).sum(axis=1)
    for _ in range(SWEEPS):
        before = voices.copy()
        for group, here in enumerate(before):
            groups[here] -= 1
            own_counts[here] -= counts[group]
            own_sums[here] -= sums[group]
            own = np.square(own_sums).sum(axis=1)
            gains = evidence(own_counts + counts[group], own + 2 * own_sums @ sums[group] + squares[group])
            gains -= evidence(own_counts, own)
            gains[(groups == 0) & (np.arange(len(groups)) != here)] = -np.inf
            there = voices[group] = int(gains.argmax())
            groups[there] += 1
            own_counts[there] += counts[group]
            own_sums[there] += sums[group]
        if (voices == before).all():
            break
    return np.unique(voices, return_inverse=True)[1]
