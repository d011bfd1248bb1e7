"""Verification trials as a list gives them (VoxCeleb1-O, -E, -H and others of that form), instead of all pairs of recordings.

A line is ``1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav``: 1 for a target trial, 0 for a non-target trial, then
the two recordings. Every line is a trial, one that is there twice counts twice.
"""

import functools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from speakerprint.errors import InputError
from speakerprint.evaluation.trials import LEVELS_PER_UNIT, Scores, Trials, crossings
from speakerprint.inference.vectors import unit_vectors

BLOCK_TRIALS = 2**14


@dataclass(frozen=True)
class TrialList:
    """Trials of the recordings ``first`` and ``second`` (trials,), rows of a table whose speakers are ``speakers`` (recordings,).

    ``speakers`` are integer codes. ``skipped`` is how many more trials the list has, of recordings that could not be decoded.
    It is a `trial_sets.TrialSet`.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    speakers: NDArray[np.intp]
    skipped: int

    @property
    def is_target(self) -> NDArray[np.bool_]:
        """Which trials are of one speaker: (trials,)."""
        return self.speakers[self.first] == self.speakers[self.second]

    def score(self, embeddings: ArrayLike) -> Trials:
        """The scored trials; embeddings (recordings, dim)."""
        return self._chosen(self._levels(embeddings), np.array(True))

    def within(self, embeddings: ArrayLike, groups: ArrayLike) -> Trials:
        """The trials of recordings of one group; groups (recordings,) are codes, -1 where the group is not known."""
        groups = np.asarray(groups)
        same = (groups[self.first] == groups[self.second]) & (groups[self.first] >= 0)
        return self._chosen(self._levels(embeddings), same)

    def by_shorter(self, embeddings: ArrayLike, durations_s: ArrayLike, edges_s: Sequence[float]) -> Iterator[Trials]:
        """The trials by the duration of the shorter recording, at increasing edges, as `trials.pairs_by_shorter` has them."""
        durations_s, levels = np.asarray(durations_s), self._levels(embeddings)
        shorter_s = np.minimum(durations_s[self.first], durations_s[self.second])
        for low, high in pairwise([-np.inf, *edges_s, np.inf]):
            yield self._chosen(levels, (low <= shorter_s) & (shorter_s < high))

    def resampled_eers(self, embeddings: ArrayLike, scored: Trials, samples: int, seed: int) -> NDArray[np.float64]:
        """EERs of bootstrap samples of the speakers that the list names, (samples,); ``scored`` is what `score` gave.

        Speakers are drawn with replacement, as many as there are. With one drawn w times, its target trials weigh w, and a
        non-target trial weighs the product of both speakers' w; copies of one speaker make no new trials. Exact but for the
        draws. NaN: a draw that leaves no trial of one kind.
        """
        scores = self._levels(embeddings)
        rising = np.argsort(scores, kind="stable")
        levels = np.union1d(scored.target.levels, scored.nontarget.levels)
        place = np.searchsorted(levels, scores[rising])
        speakers, pairs = np.unique(self.speakers[np.array([self.first, self.second])[:, rising]], return_inverse=True)
        target, (one, other) = self.is_target[rising], pairs.reshape(2, -1)
        n = len(speakers)
        own, own_place = one[target], place[target]
        one, other, place = one[~target], other[~target], place[~target]
        eers = []
        for drawn in np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples).astype(np.float64):
            misses = np.bincount(own_place, drawn[own], minlength=len(levels)).cumsum()
            rejects = np.bincount(place, drawn[one] * drawn[other], minlength=len(levels)).cumsum()
            eers.append(crossings(misses[None], rejects[None]))
        return np.concatenate(eers)

    def _levels(self, embeddings: ArrayLike) -> NDArray[np.int32]:
        units = unit_vectors(embeddings)
        levels = np.empty(len(self.first), dtype=np.int32)
        for start in range(0, len(levels), BLOCK_TRIALS):
            block = slice(start, start + BLOCK_TRIALS)
            cosines = np.einsum("nd,nd->n", units[self.first[block]], units[self.second[block]])
            levels[block] = np.rint(cosines * LEVELS_PER_UNIT)
        return levels

    def _chosen(self, levels: NDArray[np.int32], chosen: NDArray[np.bool_]) -> Trials:
        target = self.is_target
        return Trials(Scores.of(levels[chosen & target]), Scores.of(levels[chosen & ~target]))


def read_trial_list(path: str | Path, recordings: pd.DataFrame, undecodable: Collection[str] = ()) -> TrialList:
    """Read a list of trials of ``recordings``, which it names by recording_id, with or without a file's extension.

    Trials of the recording_ids in ``undecodable`` are skipped and counted.

    Raises InputError, with the line, for a line of another form, a recording that is not there, and a trial whose kind is not
    what the recordings' speakers say; and where the list has no trial of one kind.
    """
    path = Path(path)
    speakers, _ = pd.factorize(recordings["speaker_id"])
    speaker_of_row = speakers.tolist()
    rows = dict.fromkeys(undecodable, -1) | {recording_id: row for row, recording_id in enumerate(recordings["recording_id"])}

    @functools.cache
    def row_of(name: str) -> int | None:
        return rows.get(name, rows.get(re.sub(r"\.\w+$", "", name)))

    pairs: list[tuple[int, int]] = []
    absent: dict[str, int] = {}  # recording -> the first line that names it
    n_trials = n_absent = 0
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise InputError(
                f"{path}, line {number}: {line.strip()[:200]!r}; expected `1 RECORDING RECORDING` (one speaker) or "
                "`0 RECORDING RECORDING` (two speakers)"
            )
        n_trials += 1
        found = [row_of(name) for name in fields[1:]]
        if None in found:
            n_absent += 1
            for name, row in zip(fields[1:], found, strict=True):
                if row is None:
                    absent.setdefault(name, number)
            continue
        first, second = (row for row in found if row is not None)
        if min(first, second) < 0:
            continue
        if (fields[0] == "1") != (speaker_of_row[first] == speaker_of_row[second]):
            ids = " and ".join(recordings["speaker_id"].iloc[[first, second]])
            raise InputError(f"{path}, line {number}: {line.strip()!r}, but the recordings' speakers are {ids}; mend the line")
        pairs.append((first, second))
    if absent:
        name, number = next(iter(absent.items()))
        raise InputError(
            f"{path}, line {number}: the corpus has no recording {name!r} (its recordings are called as "
            f"{recordings['recording_id'].iloc[0]!r}); {len(absent):,} recordings of the list are missing, in {n_absent:,} of "
            f"its {n_trials:,} trials: complete the corpus, or loosen its filter in params.yaml"
        )
    first_rows, second_rows = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    trials = TrialList(first_rows, second_rows, speakers.astype(np.intp), skipped=n_trials - len(pairs))
    if not trials.is_target.any() or trials.is_target.all():
        raise InputError(
            f"{path} has {int(trials.is_target.sum()):,} target and {int((~trials.is_target).sum()):,} non-target trials, "
            f"{trials.skipped:,} skipped; expected some of both kinds"
        )
    return trials


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
