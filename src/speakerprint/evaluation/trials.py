"""How well embeddings tell speakers apart: all-pairs verification trials and retrieval, from arrays to numbers.

A trial is an unordered pair of recordings, scored by the cosine of their embeddings: a target trial if both are of one
speaker, else a non-target trial. A verifier accepts a trial whose score is at least a threshold; its miss rate is the
fraction of target trials it rejects, its false-accept rate the fraction of non-target trials it accepts.

Everything but the bootstrap interval is exact over all pairs. Cosines are computed in float64, block by block, and rounded to
whole levels of 2**-24 (6e-8): far above the noise of a blocked matrix product, so that pairs with the same cosine tie
wherever they stand, and no coarser than float32 just below 1. So there are no more than 2**25 + 1 different scores, and what
is kept is how often each occurs: nothing is sorted, and memory grows with the pairs only as far as that.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.special import ndtr

from speakerprint.errors import InputError
from speakerprint.inference.vectors import BLOCK_ROWS, unit_vectors

LEVELS_PER_UNIT = 2**24
BOOTSTRAP_BINS = 2048
MANY_PAIRS = 2**22  # from here on a table of all levels is quicker than a sort


def _levels(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of unit vectors (n, dim) and (m, dim) in whole levels: (n, m)."""
    levels = a @ b.T
    levels *= LEVELS_PER_UNIT
    return np.rint(levels, out=levels)


def _speaker_codes(speaker_ids: ArrayLike, n: int) -> tuple[NDArray, NDArray[np.intp]]:
    """Distinct ids, sorted, and each recording's place among them."""
    ids, codes = np.unique(np.asarray(speaker_ids), return_inverse=True)
    if len(codes) != n:
        raise InputError(f"found {n} embeddings but {len(codes)} speaker ids; expected one id for each embedding")
    return ids, codes


class Fan(NamedTuple):
    """The pairs of each of the first `leading` recordings with every recording after it in the list."""

    recordings: NDArray[np.intp]
    leading: int

    @property
    def n_pairs(self) -> int:
        return self.leading * (2 * len(self.recordings) - self.leading - 1) // 2


def all_pairs(n: int) -> list[Fan]:
    """All unordered pairs of n recordings."""
    return [Fan(np.arange(n), n)]


def pairs_within(groups: ArrayLike) -> list[Fan]:
    """Pairs of recordings of the same group; ``groups`` (n,) are integer codes, -1 where the group is not known."""
    groups = np.asarray(groups)
    members = (np.flatnonzero(groups == group) for group in np.unique(groups[groups >= 0]))
    return [Fan(recordings, len(recordings)) for recordings in members]


def pairs_by_shorter(durations_s: ArrayLike, edges_s: Sequence[float]) -> list[list[Fan]]:
    """All pairs, split by the duration of the shorter recording at increasing edges: [0, e1), [e1, e2), ... [ek, inf)."""
    durations_s = np.asarray(durations_s)
    order = np.argsort(durations_s, kind="stable")  # of two recordings, the shorter one comes first
    bounds = [0, *np.searchsorted(durations_s[order], edges_s).tolist(), len(order)]
    return [[Fan(order[low:], high - low)] for low, high in pairwise(bounds)]


class Curve(NamedTuple):
    """Operating points of a verifier by rising threshold: false-accept rate from 1 to 0, miss rate from 0 to 1."""

    false_accept_rate: NDArray[np.float64]
    miss_rate: NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of some trials: the different ones, ascending, and how many trials score less than each of them.

    ``levels`` (n,) are cosines in levels of 2**-24; ``below`` (n + 1,) ends with the number of all trials. `len` is that number,
    and as an array they are the levels (trials,) of each trial, ascending.
    """

    levels: NDArray[np.int32]
    below: NDArray[np.int64]

    @classmethod
    def counted(cls, levels: NDArray, counts: NDArray) -> "Scores":
        """Different levels (n,), ascending, and how many trials have each of them (n,)."""
        below = np.zeros(len(levels) + 1, dtype=np.int64)
        np.cumsum(counts, out=below[1:])
        return cls(levels.astype(np.int32), below)

    @classmethod
    def of(cls, levels: ArrayLike) -> "Scores":
        """The scores of trials with these levels (trials,), in any order."""
        return cls.counted(*np.unique(np.asarray(levels), return_counts=True))

    def __len__(self) -> int:
        return int(self.below[-1])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        return np.repeat(self.levels, np.diff(self.below)).astype(dtype or np.int32, copy=False)

    def less_than(self, levels: NDArray[np.int32]) -> NDArray[np.int64]:
        """How many trials score less than each of these levels."""
        levels = levels.astype(np.int32)  # for any other type searchsorted would copy all scores
        return self.below[np.searchsorted(self.levels, levels)]

    def ranked(self, ranks: ArrayLike) -> NDArray[np.int32]:
        """The levels of the trials with these ranks, the lowest score's being 0."""
        return self.levels[np.searchsorted(self.below, ranks, side="right") - 1]


@dataclass(frozen=True)
class Trials:
    """Scores of the target trials and of the non-target trials.

    The figures need at least one of both kinds; ``equal_error_rate`` raises InputError where one is missing.
    """

    target: Scores
    nontarget: Scores

    def equal_error_rate(self) -> tuple[float, float]:
        """EER, and the lowest threshold at which the miss rate reaches the false-accept rate.

        The EER is where the straight line between the operating points at that score and at the next lower one crosses
        miss rate = false-accept rate. Raises InputError where there are no target or no non-target trials.
        """
        if not len(self.target):
            raise InputError("there is no target trial, so no EER; expected a speaker with two recordings: loosen the filter")
        if not len(self.nontarget):
            raise InputError("there is no non-target trial, so no EER; expected two speakers: loosen the filter")
        level = self._lowest(lambda miss, false_accept: miss >= false_accept)
        kinds = self.target.levels, self.nontarget.levels
        lower = max(levels[i - 1] for levels in kinds if (i := np.searchsorted(levels, level)))
        (miss_before, miss), (accept_before, accept) = self._rates(np.array([lower, level]))
        gap_before, gap = accept_before - miss_before, miss - accept
        eer = miss_before + gap_before / (gap_before + gap) * (miss - miss_before)
        return float(eer), float(level / LEVELS_PER_UNIT)

    def threshold_at(self, false_accept_rate: float) -> float:
        """The lowest score at which the false-accept rate is no more than that; just above all scores if none is."""
        return float(self._lowest(lambda miss, false_accept: false_accept <= false_accept_rate) / LEVELS_PER_UNIT)

    def min_dcf(self, p_target: float = 0.01) -> float:
        """Least detection cost over all thresholds, both costs 1, normalised by the better of rejecting and accepting all.

        (P_target · miss + (1 − P_target) · false accepts) / min(P_target, 1 − P_target), as in NIST's speaker recognition
        evaluations. For a given miss rate the highest threshold is best, and that is a target score, or above all.
        """
        miss, accept = self._rates(self.target.levels)
        least = (p_target * miss + (1 - p_target) * accept).min()
        return float(min(least, p_target) / min(p_target, 1 - p_target))

    def auc(self) -> float:
        """Chance that a random target trial scores higher than a random non-target trial; a tie counts half (Mann-Whitney)."""
        lost_and_tied = self.nontarget.less_than(self.target.levels) + self.nontarget.less_than(self.target.levels + 1)
        twice = float(np.diff(self.target.below) @ lost_and_tied.astype(np.float64))  # whole numbers would overflow
        return twice / 2 / len(self.target) / len(self.nontarget)

    def curve(self, max_points: int = 500) -> Curve:
        """Operating points with both ends, thinned at quantiles of both kinds of scores that suit linear and probit axes."""
        quantiles = ndtr(np.linspace(-4, 4, max_points // 2 - 1))
        chosen = [scores.ranked(np.rint(quantiles * (len(scores) - 1))) for scores in (self.target, self.nontarget)]
        lowest, highest = self.ends()
        miss, accept = self._rates(np.unique(np.concatenate([[lowest, highest + 1], *chosen])))
        return Curve(accept, miss)

    def mean_distances(self) -> tuple[float, float]:
        """Mean Euclidean distance of unit vectors, sqrt(2 − 2·cosine), over the target and over the non-target trials."""

        def mean(scores: Scores) -> float:
            distances = np.sqrt(2 - 2 * (scores.levels / LEVELS_PER_UNIT))
            return float((distances * np.diff(scores.below)).sum() / len(scores))

        return mean(self.target), mean(self.nontarget)

    def densities(self, bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Edges (bins + 1,) of equal bins from the lowest score to the highest, and both kinds' probability densities (bins,)."""
        lowest, highest = self.ends()
        levels = np.linspace(lowest, highest + 1, bins + 1)
        edges = levels / LEVELS_PER_UNIT
        whole = np.ceil(levels).astype(np.int32)
        target, nontarget = (
            np.diff(scores.less_than(whole)) / len(scores) / np.diff(edges) for scores in (self.target, self.nontarget)
        )
        return edges, target, nontarget

    def ends(self) -> tuple[int, int]:
        """The lowest and the highest level of all trials."""
        return (
            int(min(self.target.levels[0], self.nontarget.levels[0])),
            int(max(self.target.levels[-1], self.nontarget.levels[-1])),
        )

    def _rates(self, levels: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Miss rate and false-accept rate where scores of at least that level are accepted."""
        miss = self.target.less_than(levels) / len(self.target)
        accept = (len(self.nontarget) - self.nontarget.less_than(levels)) / len(self.nontarget)
        return miss, accept

    def _lowest(self, passes: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]) -> np.int32:
        """The lowest score whose (miss rate, false-accept rate) pass a test that, once passed, all higher scores pass."""
        lowest = [np.int32(self.ends()[1] + 1)]
        for levels in (self.target.levels, self.nontarget.levels):
            i = bisect_left(levels, True, key=lambda level: bool(passes(*self._rates(level))))
            lowest.extend(levels[i : i + 1])
        return min(lowest)


def score_trials(embeddings: ArrayLike, speaker_ids: ArrayLike, pairs: Sequence[Fan] | None = None) -> Trials:
    """Score the given pairs (default: all) of recordings with embeddings (n, dim) and speaker ids (n,).

    Raises InputError for an embedding that is zero or not finite, or another number of ids than embeddings.
    """
    units = unit_vectors(embeddings)
    _, speakers = _speaker_codes(speaker_ids, len(units))
    if pairs is None:
        pairs = all_pairs(len(units))
    blocks = _blocks(units, speakers, pairs)
    n_pairs = sum(fan.n_pairs for fan in pairs)
    if n_pairs < MANY_PAIRS:
        none = np.empty(0, dtype=np.int32)
        target, nontarget = zip((none, none), *blocks, strict=True)
        return Trials(Scores.of(np.concatenate(target)), Scores.of(np.concatenate(nontarget)))
    counts = np.zeros((2, 2 * LEVELS_PER_UNIT + 1), dtype=np.min_scalar_type(n_pairs))
    one = counts.dtype.type(1)  # add.at takes twenty times as long for a number of another type
    for block in blocks:
        for of_kind, levels in zip(counts, block, strict=True):
            np.add.at(of_kind, levels + np.intp(LEVELS_PER_UNIT), one)
    return Trials(*map(_counted, counts))


def _blocks(
    units: NDArray[np.float64], speakers: NDArray[np.intp], pairs: Sequence[Fan]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield the levels of the target and of the non-target trials of some rows after others."""
    for recordings, leading in pairs:
        fan_units, fan_speakers = units[recordings], speakers[recordings]
        for start in range(0, leading, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, leading))
            levels = _levels(fan_units[rows], fan_units[start:]).astype(np.int32)
            same = fan_speakers[rows, None] == fan_speakers[start:]
            later = ~np.tri(*levels.shape, dtype=np.bool)
            yield levels[later & same], levels[later & ~same]


def _counted(table: NDArray[np.unsignedinteger]) -> Scores:
    """The scores of trials that were counted in a table of all levels, the lowest first."""
    found = np.flatnonzero(table)
    counts = table[found]
    found -= LEVELS_PER_UNIT
    return Scores.counted(found, counts)


def equal_error_rate(embeddings: ArrayLike, speaker_ids: ArrayLike) -> float:
    """EER over all pairs of recordings with embeddings (n, dim) and speaker ids (n,). Raises InputError where there is none."""
    return score_trials(embeddings, speaker_ids).equal_error_rate()[0]


def eer_interval(
    embeddings: ArrayLike, speaker_ids: ArrayLike, trials: Trials, samples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of `resampled_eers`: from its lower to its upper percentile."""
    return percentiles(resampled_eers(embeddings, speaker_ids, trials, samples, seed), confidence)


def percentiles(resampled: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of what was resampled, (samples,); NaN are left out."""
    lower, upper = np.nanquantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)


def resampled_eers(embeddings: ArrayLike, speaker_ids: ArrayLike, trials: Trials, samples: int, seed: int) -> NDArray[np.float64]:
    """EERs of bootstrap samples of the speakers, (samples,); ``trials`` are all pairs of the same recordings.

    The same seed draws the same speakers, so two models' EERs can be compared draw by draw.
    NaN: a draw without a trial of one kind.

    Speakers are drawn with replacement, as many as there are; one drawn w times counts w-fold, and a pair of its copies
    is no trial. So a target trial of speaker s weighs w_s, and a non-target trial of s and t weighs w_s·w_t, which is taken to
    first order around 1, as w_s + w_t − 1 (the linear terms of Hoeffding's decomposition of a two-sample statistic; what is
    left out shrinks with the number of speakers). A resampling is then a weighted sum of one histogram per speaker: of the
    target trials, and of the non-target trials it takes part in. Scores are binned, finely, where the bulk of both kinds
    lies; the counts are integers in float64, so the interval does not depend on the order of summation.
    """
    units = unit_vectors(embeddings)
    ids, speakers = _speaker_codes(speaker_ids, len(units))
    order = np.argsort(speakers, kind="stable")
    units, speakers = units[order], speakers[order]

    kinds = trials.target, trials.nontarget
    tails = np.array([scores.ranked([round(q * (len(scores) - 1)) for q in (0.001, 0.999)]) for scores in kinds])
    low, high = int(tails.min()), int(tails.max())
    target = np.zeros((len(ids), BOOTSTRAP_BINS))
    nontarget = np.zeros_like(target)
    for start in range(0, len(units), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        bins = _levels(units[rows], units)
        bins -= low
        bins *= BOOTSTRAP_BINS / max(high - low, 1)
        bins = np.clip(bins, 0, BOOTSTRAP_BINS - 1, out=bins).astype(np.intp)
        first, last = speakers[rows][0], speakers[rows][-1]
        bins += (speakers[rows, None] - first) * BOOTSTRAP_BINS
        shape = (last - first + 1, BOOTSTRAP_BINS)
        same = speakers[rows, None] == speakers
        every = np.bincount(bins.ravel(), minlength=shape[0] * shape[1])
        own = np.bincount(bins[same], minlength=shape[0] * shape[1])
        itself = np.bincount(bins.diagonal(start), minlength=shape[0] * shape[1])
        nontarget[first : last + 1] += (every - own).reshape(shape)
        target[first : last + 1] += (own - itself).reshape(shape) / 2  # each pair was seen from both ends

    drawn = np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=samples).astype(np.float64)
    misses = np.cumsum(drawn @ target, axis=1)
    rejects = np.cumsum(drawn @ nontarget - nontarget.sum(axis=0) / 2, axis=1)
    return crossings(misses, rejects)


def crossings(misses: NDArray[np.float64], rejects: NDArray[np.float64]) -> NDArray[np.float64]:
    """EERs of draws whose target and non-target trials weigh so much up to each level of the score: both (draws, levels).

    NaN for a draw that has no trial of one kind. A draw's EER is interpolated as in `Trials.equal_error_rate`.
    """
    usable = (misses[:, -1] > 0) & (rejects[:, -1] > 0)
    eers = np.full(len(usable), np.nan)
    misses, rejects = misses[usable], rejects[usable]
    gap = misses / misses[:, -1:] + rejects / rejects[:, -1:] - 1  # miss rate less false-accept rate at each level's upper end
    gap = np.hstack([np.full((len(gap), 1), -1.0), gap])
    miss = np.hstack([np.zeros((len(gap), 1)), misses / misses[:, -1:]])
    draw, after = np.arange(len(gap)), np.argmax(gap >= 0, axis=1)
    step = gap[draw, after - 1] / (gap[draw, after - 1] - gap[draw, after])
    eers[usable] = miss[draw, after - 1] + step * (miss[draw, after] - miss[draw, after - 1])
    return eers


class Retrieval(NamedTuple):
    """Of queries with all other recordings as gallery: how many find their speaker first, among the nearest five, and
    what fraction of the nearest five is of their speaker."""

    top_1: float
    top_5: float
    precision_at_5: float


def retrieve(embeddings: ArrayLike, speaker_ids: ArrayLike) -> Retrieval:
    """Leave-one-out retrieval by cosine, embeddings (n, dim) and speaker ids (n,); a tie counts against the query.

    Queries are the recordings whose speaker has another one. Of fewer than five other recordings, all are the nearest.
    Raises InputError where no speaker has two recordings.
    """
    units = unit_vectors(embeddings)
    _, speakers = _speaker_codes(speaker_ids, len(units))
    queries = np.flatnonzero(np.bincount(speakers)[speakers] > 1)
    if not len(queries):
        raise InputError("no speaker has two recordings, so nothing can be retrieved; loosen the filter")
    nearest = min(5, len(units) - 1)
    found = np.zeros((len(queries), nearest), dtype=bool)
    for start in range(0, len(queries), BLOCK_ROWS):
        rows = queries[start : start + BLOCK_ROWS]
        block = _levels(units[rows], units)
        same = speakers[rows, None] == speakers
        block[same] -= 0.5  # any other speaker's recording with the same score comes first
        row = np.arange(len(rows))
        block[row, rows] = -np.inf
        for rank in range(nearest):
            near = block.argmax(axis=1)
            found[start + row, rank] = same[row, near]
            block[row, near] = -np.inf
    return Retrieval(float(found[:, 0].mean()), float(found.any(axis=1).mean()), float(found.mean()))


class Confusion(NamedTuple):
    """Two speakers and the mean score of the trials between them."""

    speaker: str
    other: str
    mean_score: float


def confused_speakers(embeddings: ArrayLike, speaker_ids: ArrayLike, top: int) -> list[Confusion]:
    """The pairs of speakers with the highest mean score between them, worst first; embeddings (n, dim), speaker ids (n,)."""
    units = unit_vectors(embeddings)
    ids, speakers = _speaker_codes(speaker_ids, len(units))
    means = np.zeros((len(ids), units.shape[1]))  # the mean of all cosines is the product of the mean vectors
    np.add.at(means, speakers, units)
    means /= np.bincount(speakers)[:, None]
    worst: list[Confusion] = []
    for start in range(0, len(ids), BLOCK_ROWS):
        block = _levels(means[start : start + BLOCK_ROWS], means[start:]) / LEVELS_PER_UNIT
        block[np.tri(*block.shape, dtype=np.bool)] = -np.inf
        least = max(-1.0, np.partition(block, -top, axis=None)[-top]) if block.size > top else -1.0
        rows, columns = np.nonzero(block >= least)
        found = zip(ids[start + rows], ids[start + columns], block[rows, columns].tolist(), strict=True)
        worst += [Confusion(str(a), str(b), score) for a, b, score in found]
    return sorted(worst, key=lambda confusion: (-confusion.mean_score, confusion))[:top]
