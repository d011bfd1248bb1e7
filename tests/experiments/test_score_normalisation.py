import numpy as np
import pytest

from experiments.score_normalisation import normalised, speaker_means, vectors
from speakerprint.evaluation.trials import LEVELS_PER_UNIT, Scores, Trials, score_trials
from speakerprint.inference.vectors import unit_vectors

RNG = np.random.default_rng(1)
UNITS, COHORT = (unit_vectors(RNG.normal(size=(n, 4))) for n in (24, 50))
SPEAKERS = np.arange(24) // 4


def test_a_score_is_normalised_by_the_nearest_of_the_cohort_of_both_recordings():
    scores = normalised(UNITS, COHORT, nearest=3)
    first, second = (sorted((UNITS[row] @ one for one in COHORT), reverse=True)[:3] for row in (0, 1))
    score = UNITS[0] @ UNITS[1]
    by_hand = ((score - np.mean(first)) / np.std(first) + (score - np.mean(second)) / np.std(second)) / 2
    assert scores[0, 1] == scores[1, 0] == pytest.approx(by_hand)


def test_the_whole_cohort_counts_where_it_is_no_larger():
    np.testing.assert_array_equal(normalised(UNITS, COHORT, nearest=50), normalised(UNITS, COHORT, nearest=99))


def test_vectors_have_the_scores_as_cosines_but_for_a_factor():
    scores = normalised(UNITS, COHORT, nearest=10)
    units = unit_vectors(vectors(scores))
    pairs = np.triu_indices(len(scores), k=1)
    ratios = (units @ units.T)[pairs] / scores[pairs]
    assert ratios.min() > 0
    np.testing.assert_allclose(ratios, ratios[0])


def test_the_eer_of_vectors_is_that_of_their_scores():
    scores = np.array([[0, 3, -1, 2], [3, 0, 1, -2], [-1, 1, 0, 0.5], [2, -2, 0.5, 0]])
    # targets 3 and 0.5, non-targets -2, -1, 1 and 2: a threshold of 1 misses one of two and accepts two of four
    assert score_trials(vectors(scores), [0, 0, 1, 1]).equal_error_rate()[0] == pytest.approx(0.5)


def test_the_eer_of_vectors_is_that_of_counted_levels():
    scores = normalised(UNITS, COHORT, nearest=10)
    first, second = np.triu_indices(len(scores), k=1)
    levels = np.rint(scores[first, second] / np.abs(scores).max() * LEVELS_PER_UNIT)
    same = SPEAKERS[first] == SPEAKERS[second]
    expected = Trials(Scores.of(levels[same]), Scores.of(levels[~same])).equal_error_rate()[0]
    assert score_trials(vectors(scores), SPEAKERS).equal_error_rate()[0] == pytest.approx(expected)
    assert 0.05 < expected < 0.95


def test_a_speakers_mean_is_a_direction():
    means = speaker_means(np.array([[1.0, 0], [0, 1], [1, 0]]), np.array(["b", "b", "a"]))
    np.testing.assert_allclose(means, [[1, 0], [0.5**0.5, 0.5**0.5]])
