"""Which trials a corpus is judged on: all pairs of its recordings, or a list. Both answer to the same four calls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speakerprint.evaluation.trials import Trials, pairs_by_shorter, pairs_within, resampled_eers, score_trials


class TrialSet(Protocol):
    """Trials of a corpus's recordings; `Trials`, which the calls return, has the EER, minDCF, the curve and the thresholds.

    Embeddings (recordings, dim) are in the corpus's order.
    """

    @property
    def skipped(self) -> int:
        """How many more trials the set should have, of recordings that could not be decoded."""

    def score(self, embeddings: ArrayLike) -> Trials:
        """All trials of the set, scored."""

    def within(self, embeddings: ArrayLike, groups: ArrayLike) -> Trials:
        """Those between recordings of one group; groups (recordings,) are integer codes, -1 where the group is not known."""

    def by_shorter(self, embeddings: ArrayLike, durations_s: ArrayLike, edges_s: Sequence[float]) -> Iterator[Trials]:
        """Those whose shorter recording lasts [0, e1), [e1, e2), ... [ek, inf) seconds, at increasing edges."""

    def resampled_eers(self, embeddings: ArrayLike, scored: Trials, samples: int, seed: int) -> NDArray[np.float64]:
        """EERs of bootstrap samples of the speakers, (samples,); ``scored`` is what `score` gave for these embeddings.

        The same seed draws the same speakers. NaN: a draw without a trial of one kind.
        """


@dataclass(frozen=True)
class AllPairs:
    """All unordered pairs of the recordings of these speakers (recordings,)."""

    speaker_ids: NDArray

    @property
    def skipped(self) -> int:
        return 0

    def score(self, embeddings: ArrayLike) -> Trials:
        return score_trials(embeddings, self.speaker_ids)

    def within(self, embeddings: ArrayLike, groups: ArrayLike) -> Trials:
        return score_trials(embeddings, self.speaker_ids, pairs_within(groups))

    def by_shorter(self, embeddings: ArrayLike, durations_s: ArrayLike, edges_s: Sequence[float]) -> Iterator[Trials]:
        return (score_trials(embeddings, self.speaker_ids, pairs) for pairs in pairs_by_shorter(durations_s, edges_s))

    def resampled_eers(self, embeddings: ArrayLike, scored: Trials, samples: int, seed: int) -> NDArray[np.float64]:
        return resampled_eers(embeddings, self.speaker_ids, scored, samples, seed)
