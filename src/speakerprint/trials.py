"""How well embeddings tell speakers apart: all-pairs verification trials and retrieval, from arrays to numbers.

A trial is an unordered pair of recordings, scored by the cosine of their embeddings: a target trial if both are of one
speaker, else a non-target trial. A verifier accepts a trial whose score is at least a threshold; its miss rate is the
fraction of target trials it rejects, its false-accept rate the fraction of non-target trials it accepts.

Everything but the bootstrap interval is exact over all pairs. Cosines are computed in float64, block by block, and rounded
to multiples of 2**-24, the grid on which float32 holds [-1, 1] exactly: far above the noise of a blocked matrix product, so
that pairs with the same cosine tie wherever they stand, and far below any difference that matters. Memory is four bytes a
pair and some blocks.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from speakerprint.errors import InputError

GRID = 2.0**-24
BLOCK_ROWS = 256
BOOTSTRAP_BINS = 2048


def unit_vectors(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Scale each row of (n, dim) to length 1. Raises InputError for a row that is not finite, or zero: it has no direction."""
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"embedding {row} of {len(rows)} has length {lengths[row, 0]:g}, expected a finite vector other than zero; "
            f"{int(bad.sum())} such rows: train again with a smaller learning rate, or look at those recordings"
        )
    return rows / lengths


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines on GRID of unit vectors (n, dim) and (m, dim): (n, m)."""
    cosines = a @ b.T
    cosines *= 1 / GRID
    np.rint(cosines, out=cosines)
    cosines *= GRID
    return cosines


def _speaker_codes(speaker_ids: ArrayLike, n: int) -> tuple[NDArray, NDArray[np.intp]]:
    """Distinct ids, sorted, and each recording's place among them."""
    ids, codes = np.unique(np.asarray(speaker_ids), return_inverse=True)
    if len(codes) != n:
        raise InputError(f"found {n} embeddings but {len(codes)} speaker ids; expected one id for each embedding")
    return ids, codes


# --- which pairs ------------------------------------------------------------------------------------------------------


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
    return [[Fan(order[low:], high - low)] for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


# --- verification -----------------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """Operating points of a verifier by rising threshold: false-accept rate from 1 to 0, miss rate from 0 to 1."""

    false_accept_rate: NDArray[np.float64]
    miss_rate: NDArray[np.float64]


@dataclass(frozen=True)
class Trials:
    """Scores of the target trials and of the non-target trials, float32, each ascending.

    The figures need at least one of both kinds; ``equal_error_rate`` raises InputError where one is missing.
    """

    target: NDArray[np.float32]
    nontarget: NDArray[np.float32]

    def rates(self, thresholds: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Miss rate and false-accept rate where scores at least as large as the threshold are accepted."""
        thresholds = np.asarray(thresholds, dtype=np.float32)  # any other type would have searchsorted copy all scores
        miss = np.searchsorted(self.target, thresholds) / len(self.target)
        accepted = len(self.nontarget) - np.searchsorted(self.nontarget, thresholds)
        return miss, accepted / len(self.nontarget)

    def equal_error_rate(self) -> tuple[float, float]:
        """EER, and the lowest score at which the miss rate reaches the false-accept rate.

        The EER is where the straight line from the operating point before that score to the one at it crosses
        miss rate = false-accept rate. Raises InputError where there are no target or no non-target trials.
        """
        if not len(self.target):
            raise InputError("there is no target trial, so no EER; expected a speaker with two recordings or more")
        if not len(self.nontarget):
            raise InputError("there is no non-target trial, so no EER; expected recordings of two speakers or more")
        threshold = self._lowest(lambda miss, false_accept: miss >= false_accept)
        before = max(scores[i - 1] for scores in (self.target, self.nontarget) if (i := np.searchsorted(scores, threshold)))
        (miss_before, miss), (accept_before, accept) = self.rates([before, threshold])
        gap_before, gap = accept_before - miss_before, miss - accept
        return float(miss_before + gap_before / (gap_before + gap) * (miss - miss_before)), float(threshold)

    def threshold_at(self, false_accept_rate: float) -> float:
        """The lowest score at which the false-accept rate is no more than that; above all scores if none is."""
        return float(self._lowest(lambda miss, false_accept: false_accept <= false_accept_rate))

    def _lowest(self, passes: Callable[[np.float64, np.float64], bool]) -> np.float32:
        """The lowest score whose (miss rate, false-accept rate) pass a test that, once passed, all higher scores pass."""
        above_all = np.nextafter(max(self.target[-1], self.nontarget[-1]), np.float32(2))
        lowest = [above_all]
        for scores in (self.target, self.nontarget):
            i = bisect_left(scores, True, key=lambda score: bool(passes(*self.rates(score))))
            lowest.extend(scores[i : i + 1])
        return min(lowest)

    def min_dcf(self, p_target: float = 0.01) -> float:
        """Least detection cost over all thresholds, both costs 1, normalised by the better of rejecting and accepting all.

        (P_target · miss + (1 − P_target) · false accepts) / min(P_target, 1 − P_target); NIST SRE evaluation plans. For a given
        miss rate the highest threshold is best, and that is a target score, or above all.
        """
        miss, accept = self.rates(self.target)
        cost = (p_target * miss + (1 - p_target) * accept).min()
        return float(min(cost, p_target) / min(p_target, 1 - p_target))

    def auc(self) -> float:
        """Chance that a random target trial scores higher than a random non-target trial; a tie counts half (Mann-Whitney)."""
        below = np.searchsorted(self.nontarget, self.target, side="left").mean()
        not_above = np.searchsorted(self.nontarget, self.target, side="right").mean()
        return float((below + not_above) / 2 / len(self.nontarget))

    def curve(self, max_points: int = 500) -> Curve:
        """Operating points, end points included, thinned at quantiles of both kinds of scores that suit linear and probit axes."""
        quantiles = ndtr(np.linspace(-4, 4, max_points // 2 - 1))
        both = [scores[np.rint(quantiles * (len(scores) - 1)).astype(int)] for scores in (self.target, self.nontarget)]
        lowest = min(self.target[0], self.nontarget[0])
        miss, accept = self.rates(np.unique(np.concatenate([[lowest], *both, [np.float32(2)]])))
        return Curve(accept, miss)


def score_trials(embeddings: ArrayLike, speaker_ids: ArrayLike, pairs: Sequence[Fan] | None = None) -> Trials:
    """Score the given pairs (default: all) of recordings with embeddings (n, dim) and speaker ids (n,).

    Raises InputError for an embedding that is zero or not finite, or another number of ids than embeddings.
    """
    units = unit_vectors(embeddings)
    _, speakers = _speaker_codes(speaker_ids, len(units))
    if pairs is None:
        pairs = all_pairs(len(units))
    scores = np.empty(sum(fan.n_pairs for fan in pairs), dtype=np.float32)
    n_target, rest = 0, len(scores)  # target scores fill the array from the front, non-target scores from the back
    for recordings, leading in pairs:
        fan_units, fan_speakers = units[recordings], speakers[recordings]
        for start in range(0, leading, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, leading))
            block = _cosines(fan_units[rows], fan_units[start:]).astype(np.float32)
            same = fan_speakers[rows, None] == fan_speakers[start:]
            later = ~np.tri(*block.shape, dtype=bool)
            target, nontarget = block[later & same], block[later & ~same]
            scores[n_target : n_target + len(target)] = target
            scores[rest - len(nontarget) : rest] = nontarget
            n_target, rest = n_target + len(target), rest - len(nontarget)
    scores[:n_target].sort()
    scores[n_target:].sort()
    return Trials(scores[:n_target], scores[n_target:])


def equal_error_rate(embeddings: ArrayLike, speaker_ids: ArrayLike) -> float:
    """EER over all pairs of recordings with embeddings (n, dim) and speaker ids (n,). Raises InputError where there is none."""
    return score_trials(embeddings, speaker_ids).equal_error_rate()[0]


def eer_interval(
    embeddings: ArrayLike, speaker_ids: ArrayLike, trials: Trials, samples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the EER over speakers; ``trials`` are all pairs of the same recordings.

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

    tails = [scores[round(q * (len(scores) - 1))] for scores in (trials.target, trials.nontarget) for q in (0.001, 0.999)]
    low, high = float(min(tails)), float(max(tails))
    scale = BOOTSTRAP_BINS / max(high - low, GRID)
    target = np.zeros((len(ids), BOOTSTRAP_BINS))
    nontarget = np.zeros_like(target)
    for start in range(0, len(units), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        bins = _cosines(units[rows], units)
        bins -= low
        bins *= scale
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
    usable = (misses[:, -1] > 0) & (rejects[:, -1] > 0)  # a draw may leave no trial of one kind
    misses, rejects = misses[usable], rejects[usable]
    gap = misses / misses[:, -1:] + rejects / rejects[:, -1:] - 1  # miss rate less false-accept rate at each bin's upper end
    gap = np.hstack([np.full((len(gap), 1), -1.0), gap])
    miss = np.hstack([np.zeros((len(gap), 1)), misses / misses[:, -1:]])
    draw, after = np.arange(len(gap)), np.argmax(gap >= 0, axis=1)
    step = gap[draw, after - 1] / (gap[draw, after - 1] - gap[draw, after])
    eers = miss[draw, after - 1] + step * (miss[draw, after] - miss[draw, after - 1])
    lower, upper = np.quantile(eers, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)


def mean_distance(scores: NDArray[np.float32]) -> float:
    """Mean Euclidean distance of unit vectors with these cosines: sqrt(2 − 2·cosine)."""
    chunks = (scores[i : i + 2**20].astype(np.float64) for i in range(0, len(scores), 2**20))
    return float(sum(np.sqrt(2 - 2 * chunk).sum() for chunk in chunks) / len(scores))


# --- retrieval and confusions -----------------------------------------------------------------------------------------


class Retrieval(NamedTuple):
    """Of queries with all other recordings as gallery: how many find their speaker first, among the nearest five, and
    what fraction of the nearest five is of their speaker."""

    top1: float
    top5: float
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
        raise InputError("no speaker has two recordings, so nothing can be retrieved; expected one that has")
    nearest = min(5, len(units) - 1)
    hits = np.zeros(3)
    for start in range(0, len(queries), BLOCK_ROWS):
        rows = queries[start : start + BLOCK_ROWS]
        block = _cosines(units[rows], units)
        same = speakers[rows, None] == speakers
        block[same] -= GRID / 2  # any other speaker's recording with the same score comes first
        block[np.arange(len(rows)), rows] = -np.inf
        near = np.argpartition(block, -nearest, axis=1)[:, -nearest:]
        found = np.take_along_axis(same, near, axis=1)
        first = np.take_along_axis(block, near, axis=1).argmax(axis=1)
        hits += found[np.arange(len(rows)), first].sum(), found.any(axis=1).sum(), found.mean(axis=1).sum()
    return Retrieval(*(hits / len(queries)).tolist())


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
        block = _cosines(means[start : start + BLOCK_ROWS], means[start:])
        block[np.tri(*block.shape, dtype=bool)] = -np.inf
        rows, columns = np.unravel_index(np.argsort(-block, axis=None, kind="stable")[:top], block.shape)
        found = zip(ids[start + rows], ids[start + columns], block[rows, columns].tolist(), strict=True)
        worst += [Confusion(str(a), str(b), score) for a, b, score in found if np.isfinite(score)]
    return sorted(worst, key=lambda confusion: (-confusion.mean_score, confusion))[:top]
