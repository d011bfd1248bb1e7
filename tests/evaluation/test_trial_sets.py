"""All pairs, and a list that names all pairs, answer the four calls alike."""

import numpy as np
import pytest

from speakerprint.evaluation.trial_lists import TrialList
from speakerprint.evaluation.trial_sets import AllPairs
from speakerprint.evaluation.trials import percentiles

RNG = np.random.default_rng(1)
SPEAKERS = RNG.integers(15, size=70)
EMBEDDINGS = RNG.normal(size=(15, 8))[SPEAKERS] + RNG.normal(size=(70, 8))
GROUPS = RNG.integers(-1, 3, size=70)
DURATIONS_S = RNG.choice([1.0, 2.0, 3.0, 4.0, 9.0], size=70)
PAIRS, LIST = AllPairs(SPEAKERS), TrialList(*np.triu_indices(70, k=1), SPEAKERS, skipped=0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda trials: [trials.score(EMBEDDINGS)],
        lambda trials: [trials.within(EMBEDDINGS, GROUPS)],
        lambda trials: list(trials.by_shorter(EMBEDDINGS, DURATIONS_S, [2.0, 4.0])),
    ],
    ids=["score", "within", "by_shorter"],
)
def test_they_score_the_same_trials(ask):
    for of_pairs, of_list in zip(ask(PAIRS), ask(LIST), strict=True):
        np.testing.assert_array_equal(of_pairs.target, of_list.target)
        np.testing.assert_array_equal(of_pairs.nontarget, of_list.nontarget)
        assert len(of_list.target) and len(of_list.nontarget)


def test_their_intervals_hold_the_eer_and_are_of_one_width():
    """To first order of all pairs, exact of a list: so only nearly the same."""
    intervals = [percentiles(trials.resampled_eers(EMBEDDINGS, trials.score(EMBEDDINGS), 1000, 1)) for trials in (PAIRS, LIST)]
    eer = PAIRS.score(EMBEDDINGS).equal_error_rate()[0]
    assert all(low < eer < high for low, high in intervals)
    assert intervals[0] == pytest.approx(intervals[1], abs=0.04)


def test_only_a_list_can_skip_trials():
    assert (PAIRS.skipped, TrialList(*np.triu_indices(70, k=1), SPEAKERS, skipped=3).skipped) == (0, 3)
