"""Label quality: recordings that are not what their corpus says, from a trained model and from the audio itself.

It is about data, never about who somebody is: a finding is a recording, or two ids of the corpus, to listen to and decide on.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.stats import norm

from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import FRAMES_PER_SECOND, SAMPLE_RATE_HZ
from speakerprint.audio.voice_activity import speech_spans
from speakerprint.inference.vectors import BLOCK_ROWS, unit_vectors
from speakerprint.params.audit import Audit as AuditParams

KINDS = {  # in the order in which a recording gets its one reason to be left out
    "near_silent": "level (dBFS)",
    "little_speech": "speech (s)",
    "clipped": "share of samples near the peak",
    "exact_duplicate": "",
    "near_duplicate": "correlation",
    "odd": "mean score",
    "same_person": "mean score",
}
MIN_LEVEL_DBFS = -60.0  # dB below full scale (RMS); a quieter recording is near silent
MIN_SPEECH_S, MIN_SPEECH_FRACTION = 0.5, 0.2  # that a recording should hold: seconds, and of its duration
MAX_CLIPPED_FRACTION = 0.03  # of the samples near the peak; more are clipped
DUPLICATE_CORRELATION = 0.75  # of log-mel features in time, from which two recordings are copies
NEAR_PEAK = 0.9  # of the largest sample: speech is there for a moment, clipped speech for a while, whatever the gain since
COPY_TOLERANCE_S = 0.2  # by which copies differ in duration: an encoder's padding
FRAMES_POOLED, MELS_POOLED = 2, 4  # 20 ms and a tenth of an octave or so: finer grain is the codec's
UPPER_TAIL = 0.9  # the quantile of different ids' scores from which their spread is taken
WORST = 20  # of each kind in the report


# --- one recording's sound ------------------------------------------------------------------------------------------------


class Sound(NamedTuple):
    """What is measured of a recording's samples: SHA-256 of them at 16 bits, RMS level, share near the peak, seconds."""

    digest: str
    level_dbfs: float
    clipped_fraction: float
    speech_s: float
    duration_s: float


def hear(samples: NDArray[np.float32]) -> Sound:
    """Measure (n_samples,) at 16 kHz. Digital silence has a level of -inf and is not clipped."""
    peak = np.abs(samples).max()
    with np.errstate(divide="ignore"):
        level_dbfs = float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))
    return Sound(
        digest=hashlib.sha256(np.rint(samples * 2**15).astype(np.int32).tobytes()).hexdigest(),
        level_dbfs=level_dbfs,
        clipped_fraction=float((np.abs(samples) >= NEAR_PEAK * peak).mean()) if peak > 0 else 0.0,
        speech_s=sum(end - start for start, end in speech_spans(samples)) / SAMPLE_RATE_HZ,
        duration_s=len(samples) / SAMPLE_RATE_HZ,
    )


def hear_encoded(clip: bytes) -> Sound:
    """`hear` an encoded recording of a corpus."""
    return hear(decode(clip, "audio")[0])


# --- a recording against its speaker's others -------------------------------------------------------------------------------


def own_scores(units: NDArray[np.float64], speakers: NDArray[np.intp]) -> NDArray[np.float64]:
    """Mean cosine of each recording to the other recordings of its speaker; NaN where there is no other.

    units (n, dim) of length 1, speakers (n,) codes from 0. Returns (n,).
    """
    counts = np.bincount(speakers)[speakers]
    cosines = np.einsum("ij,ij->i", units, _sums(units, speakers)[speakers])
    return np.where(counts > 1, (cosines - 1) / np.maximum(counts - 1, 1), np.nan)


def _sums(units: NDArray[np.float64], speakers: NDArray[np.intp]) -> NDArray[np.float64]:
    sums = np.zeros((int(speakers.max(initial=-1)) + 1, units.shape[1]))
    np.add.at(sums, speakers, units)
    return sums


def odd_threshold(scores: NDArray[np.float64], false_rejects: float) -> float:
    """The score below which that share of good recordings would fall, if their `own_scores` (n,) are normal.

    Median and median absolute deviation stand for mean and spread, so that the odd ones have no say (Iglewicz & Hoaglin: "How to
    detect and handle outliers", 1993). NaN scores are left out; of nothing else the threshold is NaN.
    """
    known = scores[~np.isnan(scores)]
    if not len(known):
        return float("nan")
    middle = np.median(known)
    return float(middle + norm.ppf(false_rejects) * np.median(np.abs(known - middle)) / norm.ppf(0.75))


def odd_recordings(
    units: NDArray[np.float64], speakers: NDArray[np.intp], threshold: float | NDArray[np.float64]
) -> dict[int, float]:
    """Recordings whose mean cosine to the speaker's others is below the threshold (or thresholds (n,)), with that score.

    Of each speaker the lowest goes first and the others are scored again without it, or it would pull good ones down with it. Of
    two that are left and disagree nothing says which is wrong: both are returned.
    """
    thresholds = np.broadcast_to(threshold, len(units))
    found: dict[int, float] = {}
    left = np.arange(len(units))
    while len(left):
        scores = own_scores(units[left], np.unique(speakers[left], return_inverse=True)[1])
        frame = pd.DataFrame({"speaker": speakers[left], "score": scores, "below": scores < thresholds[left]})
        pairs = frame.groupby("speaker")["score"].transform("size") == 2
        lowest = frame["score"] == frame.groupby("speaker")["score"].transform("min")
        gone = (frame["below"] & (lowest | pairs)).to_numpy()
        if not gone.any():
            break
        found |= dict(zip(left[gone].tolist(), scores[gone].tolist(), strict=True))
        left = left[~gone]
    return found


def would_be_found(units: NDArray[np.float64], speakers: NDArray[np.intp], threshold: float) -> float:
    """Of recordings put under another speaker's id, the share that would score below the threshold there; NaN for one speaker."""
    sums, counts = _sums(units, speakers), np.bincount(speakers)
    below = n_trials = 0
    for start in range(0, len(units), BLOCK_ROWS):
        scores = units[start : start + BLOCK_ROWS] @ sums.T / np.maximum(counts, 1)
        other = (counts > 0) & (np.arange(len(counts)) != speakers[start : start + BLOCK_ROWS, None])
        below += int((scores < threshold)[other].sum())
        n_trials += int(other.sum())
    return below / n_trials if n_trials else float("nan")


# --- ids against ids --------------------------------------------------------------------------------------------------------


class AlikeIds(NamedTuple):
    """Pairs of speakers' codes with their mean cosine, highest first, all at least ``threshold``; of ``n_pairs`` in all."""

    pairs: list[tuple[int, int, float]]
    threshold: float
    n_pairs: int


def alike_ids(units: NDArray[np.float64], speakers: NDArray[np.intp], false_alarms: float, least: float = -1.0) -> AlikeIds:
    """Ids whose recordings score, on average over all pairs, as those of different people do not.

    The threshold stands for a false-accept rate of ``false_alarms`` / number of pairs of ids, so that so many pairs of different
    people are expected above it, however many pairs there are (Bonferroni). It is the quantile of a normal distribution with the
    pairs' median and, since the rate lies far out, the spread between that and their 90 % quantile; or ``least``, where that
    is higher.
    """
    codes, speakers = np.unique(speakers, return_inverse=True)
    n_pairs = len(codes) * (len(codes) - 1) // 2
    if not n_pairs:
        return AlikeIds([], 1.0, 0)
    means = _sums(units, speakers) / np.bincount(speakers)[:, None]
    firsts, seconds = np.triu_indices(len(codes), k=1)
    scores = (means @ means.T)[firsts, seconds]
    middle, upper = np.quantile(scores, [0.5, UPPER_TAIL])
    rare = middle + norm.isf(min(0.5, false_alarms / n_pairs)) * (upper - middle) / norm.ppf(UPPER_TAIL)
    threshold = float(max(rare, least))
    found = np.flatnonzero(scores >= threshold)
    found = found[np.argsort(-scores[found], kind="stable")]
    pairs = zip(codes[firsts[found]].tolist(), codes[seconds[found]].tolist(), scores[found].tolist(), strict=True)
    return AlikeIds(list(pairs), threshold, n_pairs)


# --- copies -----------------------------------------------------------------------------------------------------------------


def candidates(units: NDArray[np.float64], durations_s: NDArray[np.float64], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of recordings of nearly the same duration whose cosine is at least the threshold."""
    order = np.argsort(durations_s, kind="stable")
    ends = np.searchsorted(durations_s[order], durations_s[order] + COPY_TOLERANCE_S, side="right")
    for start in range(0, len(order), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(order)))
        columns = np.arange(start, ends[rows[-1]])
        near = (columns > rows[:, None]) & (columns < ends[rows, None])
        alike = units[order[rows]] @ units[order[columns]].T >= threshold
        for row, column in np.argwhere(near & alike).tolist():
            yield int(order[rows[row]]), int(order[columns[column]])


def correlation(first: NDArray, second: NDArray) -> float:
    """How far two recordings' log-mel features, each (frames, mels), are the same movement in time: up to 1, for copies.

    Pearson's correlation over time and groups of mels, at the best of all shifts of at most 0.2 s. Each group's mean is removed
    (a gain, or a filter, adds one number to it), then each moment's (or where speech and pauses are would say it all).
    """
    a, b = _movement(first), _movement(second)
    n = next_fast_len(len(a) + len(b), real=True)
    shifted = irfft((rfft(a, n, axis=0) * rfft(b, n, axis=0).conj()).sum(axis=1), n)
    reach = round(COPY_TOLERANCE_S * FRAMES_PER_SECOND / FRAMES_POOLED)
    return float(np.concatenate([shifted[: reach + 1], shifted[-reach:]]).max())


def _movement(features: NDArray) -> NDArray[np.float64]:
    """Pooled features (frames / 2, mels / 4), columns and rows of mean 0, all of them together of length 1."""
    frames = len(features) // FRAMES_POOLED
    whole = features[: frames * FRAMES_POOLED].astype(np.float64)
    pooled = whole.reshape(frames, -1, features.shape[1] // MELS_POOLED, MELS_POOLED).mean(axis=(1, 3))
    moved = pooled - pooled.mean(axis=0)
    moved -= moved.mean(axis=1, keepdims=True)
    return moved / max(float(np.linalg.norm(moved)), np.finfo(float).tiny)


# --- the whole --------------------------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """A recording and, of some kinds, another one, by row; ``excluded`` are the rows that are proposed to be left out for it."""

    kind: str
    recording: int
    other: int | None
    value: float
    excluded: tuple[int, ...]


@dataclass(frozen=True)
class Audit:
    """Findings in recordings (rows with columns corpus, recording_id, speaker_id), worst first within a kind; and the report."""

    recordings: pd.DataFrame
    findings: list[Finding]
    report: dict[str, Any]


@dataclass(frozen=True)
class _Material:
    """What is audited, row by row: unit vectors (n, dim), the speakers' codes (n,), and what gives a row's log-mel features."""

    recordings: pd.DataFrame
    sounds: Sequence[Sound]
    units: NDArray[np.float64]
    speakers: NDArray[np.intp]
    features: Callable[[int], NDArray]

    @property
    def corpora(self) -> NDArray[np.object_]:
        return self.recordings["corpus"].to_numpy()


def audit(
    recordings: pd.DataFrame,
    sounds: Sequence[Sound],
    embeddings: ArrayLike,
    features: Callable[[int], NDArray],
    settings: AuditParams,
) -> Audit:
    """Look for wrong labels, unusable audio and copies in the recordings of one or several corpora.

    recordings: rows with columns corpus, recording_id and speaker_id (an id is a speaker of its corpus). sounds and embeddings
    (n, dim): of each. features: gives the log-mel features, (frames, mels), of a row. What is unusable as audio
    is left out of the rest, and a copy out of what is said of speakers.
    """
    units = unit_vectors(embeddings)
    speakers = recordings.groupby(["corpus", "speaker_id"]).ngroup().to_numpy()
    material = _Material(recordings, sounds, units, speakers, features)
    corpora = material.corpora
    findings = list(_unusable(sounds))
    usable = np.setdiff1d(np.arange(len(units)), [one.recording for one in findings])

    scores = np.full(len(units), np.nan)
    scores[usable] = own_scores(units[usable], speakers[usable])
    thresholds = {name: odd_threshold(scores[corpora == name], settings.odd_false_rejects) for name in dict.fromkeys(corpora)}
    # what recordings of one speaker should reach in any of the corpora
    lowest = min((known for known in thresholds.values() if not np.isnan(known)), default=-1.0)
    findings += _copies(material, usable, scores, lowest)

    kept = np.setdiff1d(usable, [row for one in findings if one.kind.endswith("duplicate") for row in one.excluded])
    own_thresholds = np.array([thresholds[name] for name in corpora[kept]])
    odd = odd_recordings(units[kept], speakers[kept], own_thresholds)
    findings += _odd(material, kept, odd)

    kept = np.delete(kept, list(odd))
    alike = alike_ids(units[kept], speakers[kept], settings.same_person_false_alarms, lowest)
    findings += _same_person(material, kept, alike)
    return Audit(recordings, findings, _report(material, findings, kept, thresholds, alike, settings))


def _report(
    material: _Material,
    findings: Sequence[Finding],
    kept: NDArray[np.intp],
    thresholds: dict[str, float],
    alike: AlikeIds,
    settings: AuditParams,
) -> dict[str, Any]:
    """The report as JSON; kept: rows without a fault but for `alike`; thresholds: of each corpus, for odd recordings."""
    recordings, units, speakers, corpora = material.recordings, material.units, material.speakers, material.corpora
    counted = Counter((one.kind, corpora[one.recording]) for one in findings)
    return {
        "recordings": len(recordings),
        "speakers": len(np.unique(speakers)),
        "found": {kind: sum(counted[kind, name] for name in thresholds) for kind in KINDS},
        "corpora": {
            name: {
                "recordings": int((corpora == name).sum()),
                "odd_threshold": _known(threshold),
                "would_be_found": _known(would_be_found(units[mine], speakers[mine], threshold)),
                "found": {kind: counted[kind, name] for kind in KINDS},
            }
            for name, threshold in thresholds.items()
            for mine in [kept[corpora[kept] == name]]
        },
        "same_person": {
            "pairs_of_ids": alike.n_pairs,
            "threshold": round(alike.threshold, 4),
            "false_accept_rate": settings.same_person_false_alarms / max(alike.n_pairs, 1),
        },
        "worst": {kind: [_plain(one, recordings) for one in _of_kind(findings, kind)[:WORST]] for kind in KINDS},
    }


def _odd(material: _Material, kept: NDArray[np.intp], odd: dict[int, float]) -> Iterator[Finding]:
    """The recordings, by place in ``kept``, that are unlike their speaker's others, each with a typical one of those."""
    units, speakers = material.units, material.speakers
    for place, score in sorted(odd.items(), key=lambda item: item[1]):
        row, mates = int(kept[place]), kept[speakers[kept] == speakers[kept[place]]]
        yield Finding("odd", row, _typical(units, mates[mates != row]), score, (row,))


def _same_person(material: _Material, kept: NDArray[np.intp], alike: AlikeIds) -> Iterator[Finding]:
    """A typical recording of each of two ids with one voice; the id with fewer recordings is proposed to be left out."""
    speakers = material.speakers[kept]
    members = {code: kept[places] for code, places in pd.Series(speakers).groupby(speakers).indices.items()}
    for first, second, score in alike.pairs:
        fewer, more = sorted((second, first), key=lambda code: len(members[code]))
        one, other = (_typical(material.units, members[code]) for code in (fewer, more))
        yield Finding("same_person", one, other, score, tuple(members[fewer].tolist()))


def _unusable(sounds: Sequence[Sound]) -> Iterator[Finding]:
    found = []
    for row, sound in enumerate(sounds):
        if sound.level_dbfs < MIN_LEVEL_DBFS:
            found.append(Finding("near_silent", row, None, max(sound.level_dbfs, -200.0), (row,)))
        elif sound.speech_s < max(MIN_SPEECH_S, MIN_SPEECH_FRACTION * sound.duration_s):
            found.append(Finding("little_speech", row, None, sound.speech_s, (row,)))
        elif sound.clipped_fraction > MAX_CLIPPED_FRACTION:
            found.append(Finding("clipped", row, None, sound.clipped_fraction, (row,)))
    yield from sorted(found, key=lambda one: -one.value if one.kind == "clipped" else one.value)


def _copies(
    material: _Material,
    usable: NDArray[np.intp],
    scores: NDArray[np.float64],
    candidate_score: float,
) -> Iterator[Finding]:
    """Copies, each with what it is a copy of: of the two the one that fits its speaker less, by scores (n,), is the copy."""
    sounds, units, speakers = material.sounds, material.units, material.speakers
    rank = np.argsort(np.argsort(-np.nan_to_num(scores, nan=-2.0), kind="stable"))
    gone: set[int] = set()

    def better_first(pair: tuple[int, int]) -> tuple[int, int]:
        same_speaker = speakers[pair[0]] == speakers[pair[1]]
        first, second = sorted(pair, key=(lambda row: row) if same_speaker else rank.__getitem__)
        return first, second

    first_of: dict[str, int] = {}
    for row in sorted(usable.tolist(), key=rank.__getitem__):
        original = first_of.setdefault(sounds[row].digest, row)
        if original != row:
            gone.add(row)
            yield Finding("exact_duplicate", row, original, 1.0, (row,))
    rest = np.array([row for row in usable.tolist() if row not in gone], dtype=np.intp)
    durations_s = np.array([sounds[row].duration_s for row in rest])
    cached = functools.lru_cache(maxsize=4096)(material.features)
    near = []
    for one, other in candidates(units[rest], durations_s, candidate_score):
        pair = better_first((int(rest[one]), int(rest[other])))
        if (value := correlation(cached(pair[0]), cached(pair[1]))) >= DUPLICATE_CORRELATION:
            near.append((value, *pair))
    for value, original, copy in sorted(near, reverse=True):
        if copy not in gone and original not in gone:
            gone.add(copy)
            yield Finding("near_duplicate", copy, original, value, (copy,))


def _typical(units: NDArray[np.float64], rows: NDArray[np.intp]) -> int:
    """Of some rows, the one with the highest mean cosine to all of them."""
    return int(rows[(units[rows] @ units[rows].sum(axis=0)).argmax()])


def _of_kind(findings: Sequence[Finding], kind: str) -> list[Finding]:
    return [one for one in findings if one.kind == kind]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def name_of(recordings: pd.DataFrame, row: int) -> str:
    """``corpus/recording_id``."""
    return f"{recordings['corpus'].iat[row]}/{recordings['recording_id'].iat[row]}"


def _plain(one: Finding, recordings: pd.DataFrame) -> dict[str, Any]:
    other = {} if one.other is None else {"other": name_of(recordings, one.other)}
    return {"recording": name_of(recordings, one.recording), **other, "value": round(one.value, 4)}
