"""Learn a calibration from recordings of known speakers: slope, offset, thresholds, and how good they are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression

from speakerprint.errors import InputError
from speakerprint.evaluation.trials import LEVELS_PER_UNIT, Trials, eer_interval, score_trials
from speakerprint.inference.calibration import Calibration, Threshold
from speakerprint.inference.vectors import BLOCK_ROWS, unit_vectors

FALSE_ACCEPT_RATES = (0.01, 0.001)
FOLDS = 5
TAIL = (
    10  # the bootstrap keeps the highest scores, as many as so many times the false-accept rate: where its thresholds may fall,
)
MIN_TAIL = 1000  # and at least so many


def calibrate(
    embeddings: ArrayLike,
    speaker_ids: ArrayLike,
    false_accept_rates: Sequence[float] = FALSE_ACCEPT_RATES,
    model_id: str | None = None,
    bootstrap_samples: int = 1000,
    seed: int = 1,
) -> Calibration:
    """Calibrate the cosine of embeddings (n, dim) of known speakers (n,), over all pairs of recordings.

    Intervals are percentile bootstraps over speakers. Raises InputError unless two speakers have two recordings each, for a
    false-accept rate that is not between 0 and 1, where target trials score no higher than non-target trials, and where
    recordings of two speakers are so alike that no threshold keeps to a rate.
    """
    units, ids = unit_vectors(embeddings), np.asarray(speaker_ids)
    refuse_too_few(ids)
    if wrong := [rate for rate in false_accept_rates if not 0 < rate < 1]:
        raise InputError(f"a false-accept rate of {wrong[0]}; expected one between 0 and 1, such as 0.01")
    trials = score_trials(units, ids)
    target, nontarget = (np.asarray(scores) / LEVELS_PER_UNIT for scores in (trials.target, trials.nontarget))
    slope, offset = fit_llr(target, nontarget)
    if slope <= 0:
        raise InputError(
            f"target trials score {target.mean():.3f} on average, non-target trials {nontarget.mean():.3f}, expected less; "
            "check which recordings are said to be of one speaker"
        )
    low, high = eer_interval(units, ids, trials, bootstrap_samples, seed)
    return Calibration(
        model_id=model_id,
        recordings=len(units),
        speakers=len(np.unique(ids)),
        target_trials=len(target),
        nontarget_trials=len(nontarget),
        slope=slope,
        offset=offset,
        cllr=cllr(slope * target + offset, slope * nontarget + offset),
        held_out_cllr=_held_out_cllr(units, ids, seed),
        min_cllr=min_cllr(target, nontarget),
        eer=trials.equal_error_rate()[0],
        eer_low=low,
        eer_high=high,
        thresholds=_thresholds(units, ids, trials, false_accept_rates, bootstrap_samples, seed),
    )


def refuse_too_few(speaker_ids: ArrayLike) -> None:
    """Raise InputError unless two speakers have two recordings each."""
    _, counts = np.unique(np.asarray(speaker_ids), return_counts=True)
    if (several := int((counts > 1).sum())) < 2:
        raise InputError(
            f"{len(counts)} speakers, {several} of them with two recordings; expected at least two such speakers, "
            "and tens of them for figures to rely on"
        )


def fit_llr(target: ArrayLike, nontarget: ArrayLike) -> tuple[float, float]:
    """Slope and offset that turn scores of target trials (t,) and non-target trials (m,) into natural log-likelihood ratios.

    Logistic regression in which both kinds of trials weigh the same, so that the odds it learns are the likelihood ratio, however
    many there are of each (Brümmer & du Preez: "Application-independent evaluation of speaker detection", 2006). Each kind
    weighs as many trials as there are of the rarer one, against a standard normal prior of the slope per standard deviation of
    the scores, which matters only where trials are few or separate perfectly.
    """
    target, nontarget = np.asarray(target, dtype=np.float64), np.asarray(nontarget, dtype=np.float64)
    scores, labels, weights = _balanced(target, nontarget)
    mean = np.average(scores, weights=weights)
    std = np.sqrt(np.average((scores - mean) ** 2, weights=weights)) or 1.0
    model = LogisticRegression(tol=1e-8).fit((scores[:, None] - mean) / std, labels, weights * min(len(target), len(nontarget)))
    slope = float(model.coef_[0, 0] / std)
    return slope, float(model.intercept_[0] - slope * mean)


def cllr(target_llrs: ArrayLike, nontarget_llrs: ArrayLike) -> float:
    """Cost of log-likelihood ratios (natural) of target trials (t,) and of non-target trials (m,), in bits.

    Mean of log2(1 + 1/LR) over target and of log2(1 + LR) over non-target trials, halved (Brümmer & du Preez 2006). An LR of 1
    everywhere, which says nothing, costs 1.
    """
    miss, accept = np.logaddexp(0, -np.asarray(target_llrs)), np.logaddexp(0, np.asarray(nontarget_llrs))
    return float((miss.mean() + accept.mean()) / (2 * np.log(2)))


def min_cllr(target: ArrayLike, nontarget: ArrayLike) -> float:
    """The least Cllr, in bits, that any rising function of these scores has on them: by isotonic regression (PAV)."""
    scores, labels, weights = _balanced(target, nontarget)
    order = np.lexsort((~labels, scores))  # of equal scores the target trials come first, which pools them with the others
    labels, weights = labels[order], weights[order]
    posterior = isotonic_regression(labels.astype(np.float64), sample_weight=weights)
    bits = -np.log2(np.where(labels, posterior, 1 - posterior))
    return float(np.average(bits, weights=weights))


def _balanced(target: ArrayLike, nontarget: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Scores of both kinds, whether they are target trials, and weights that sum to 1 for either kind."""
    n_target, n_nontarget = len(np.asarray(target)), len(np.asarray(nontarget))
    labels = np.repeat([True, False], [n_target, n_nontarget])
    return np.concatenate([target, nontarget]), labels, np.where(labels, 1 / n_target, 1 / n_nontarget)


def _held_out_cllr(units: NDArray[np.float64], ids: NDArray, seed: int) -> float | None:
    """Cllr of the trials within each fold of the speakers, calibrated on the trials among all other speakers."""
    _, speakers, counts = np.unique(ids, return_inverse=True, return_counts=True)
    n_folds = min(FOLDS, len(counts) // 2)  # two speakers make a non-target trial
    if n_folds < 2:
        return None
    # dealt by falling number of recordings, so that the first two folds, and with it every rest, has a target trial
    dealt = np.lexsort((np.random.default_rng(seed).random(len(counts)), -counts))
    fold_of_speaker = np.empty(len(counts), dtype=np.intp)
    fold_of_speaker[dealt] = np.arange(len(counts)) % n_folds
    target, nontarget = [], []
    for fold in range(n_folds):
        held_out = fold_of_speaker[speakers] == fold
        learned, judged = (score_trials(units[chosen], speakers[chosen]) for chosen in (~held_out, held_out))
        slope, offset = fit_llr(np.asarray(learned.target) / LEVELS_PER_UNIT, np.asarray(learned.nontarget) / LEVELS_PER_UNIT)
        target.append(slope * (np.asarray(judged.target) / LEVELS_PER_UNIT) + offset)
        nontarget.append(slope * (np.asarray(judged.nontarget) / LEVELS_PER_UNIT) + offset)
    return cllr(np.concatenate(target), np.concatenate(nontarget))


def _thresholds(
    units: NDArray[np.float64], ids: NDArray, trials: Trials, rates: Sequence[float], samples: int, seed: int
) -> dict[float, Threshold]:
    """Thresholds with 95 % intervals: speakers are drawn with replacement, and a trial of s and t weighs as often as both came.

    Only the highest scores are kept, which is where thresholds fall. Draws without two different speakers are passed over.
    """
    kinds = np.asarray(trials.target), np.asarray(trials.nontarget)
    names, speakers, counts = np.unique(ids, return_inverse=True, return_counts=True)
    kept = max(TAIL * max(rates), MIN_TAIL / len(trials.nontarget))
    floor = trials.threshold_at(kept) * LEVELS_PER_UNIT if kept < 1 else trials.nontarget.levels[0]
    parts = []
    for start in range(0, len(units), BLOCK_ROWS):
        levels = np.rint(units[start : start + BLOCK_ROWS] @ units[start:].T * LEVELS_PER_UNIT).astype(np.int32)
        different = speakers[start : start + BLOCK_ROWS, None] != speakers[start:]
        rows, columns = np.nonzero(np.triu(different & (levels >= floor), k=1))
        parts.append((levels[rows, columns], speakers[start + rows], speakers[start + columns]))
    tail, s, t = (np.concatenate(part) for part in zip(*parts, strict=True))
    falling = np.argsort(-tail, kind="stable")
    tail, s, t = tail[falling], s[falling], t[falling]

    rng = np.random.default_rng(seed)
    too_low = []  # of each draw, the highest level at which a rate is exceeded
    for _ in range(samples):
        times = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)))
        recordings = times * counts
        if n_trials := (recordings.sum() ** 2 - (recordings**2).sum()) / 2:
            first = np.searchsorted(np.cumsum(times[s] * times[t]), np.array(rates) * n_trials, side="right")
            too_low.append(tail[np.minimum(first, len(tail) - 1)])
    above_all = np.int32(min(trials.ends()[1] + 1, LEVELS_PER_UNIT))
    above = [np.append(kind, above_all)[np.searchsorted(kind, too_low, "right")] for kind in kinds]
    lows, highs = np.quantile(np.minimum(*above) / LEVELS_PER_UNIT, [0.025, 0.975], axis=0)

    found = {}
    for rate, low, high in zip(rates, lows.tolist(), highs.tolist(), strict=True):
        score = trials.threshold_at(rate)
        if score > 1:
            raise InputError(
                f"recordings of speakers {names[s[0]]} and {names[t[0]]} have the same embedding, so no threshold keeps to a "
                f"false-accept rate of {rate:g}; expected each recording under one speaker: leave out what is there twice"
            )
        missed, rejected = (int(np.searchsorted(kind, round(score * LEVELS_PER_UNIT))) for kind in kinds)
        found[rate] = Threshold(
            score=score,
            low=low,
            high=high,
            miss_rate=missed / len(trials.target),
            nontarget_trials=len(trials.nontarget) - rejected,
        )
    return found
