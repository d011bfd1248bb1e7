"""What a score is worth: log-likelihood ratios, their cost, and thresholds."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm

from speakerprint.errors import InputError
from speakerprint.evaluation.calibrate import calibrate, cllr, fit_llr, min_cllr
from speakerprint.inference.calibration import Calibration

LN3 = np.log(3)


def voices(n_speakers, recordings_each, noise=0.6, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, 8) and speaker ids (n,) of speakers who can be confused."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(n_speakers), recordings_each)
    return rng.normal(size=(n_speakers, 8))[speakers] + rng.normal(scale=noise, size=(len(speakers), 8)), speakers


def listed_trials(embeddings, speakers):
    """Cosines of all pairs, one after the other: of one speaker, and of two."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for i, j in combinations(range(len(units)), 2):
        kinds[bool(speakers[i] == speakers[j])].append(units[i] @ units[j])
    return np.array(kinds[True]), np.array(kinds[False])


def test_gaussian_scores_of_equal_variance_get_their_linear_llr():
    between = (np.arange(20_000) + 0.5) / 20_000
    target, nontarget = norm.ppf(between, 0.5, 0.2), norm.ppf(between, 0.1, 0.2)
    slope, offset = fit_llr(target, nontarget)
    # ln N(x; 0.5, 0.2) - ln N(x; 0.1, 0.2) = (0.4 x - (0.25 - 0.01) / 2) / 0.04
    assert (slope, offset) == (pytest.approx(10, rel=2e-3), pytest.approx(-3, rel=2e-3))


def test_the_llr_does_not_depend_on_how_many_trials_there_are_of_a_kind():
    target, nontarget = listed_trials(*voices(10, 4))
    assert fit_llr(target, np.tile(nontarget, 7)) == pytest.approx(fit_llr(target, nontarget), rel=1e-4)


def test_scores_scaled_and_shifted_get_the_same_llrs():
    target, nontarget = listed_trials(*voices(10, 4))
    slope, offset = fit_llr(target, nontarget)
    other_slope, other_offset = fit_llr(50 * target + 7, 50 * nontarget + 7)
    np.testing.assert_allclose(other_slope * (50 * target + 7) + other_offset, slope * target + offset, atol=1e-4)


def test_few_trials_that_separate_perfectly_get_modest_llrs():
    slope, offset = fit_llr([0.9, 0.8], [0.1, 0.2, 0.0, 0.1])
    assert 0 < slope * 0.85 + offset < 5 and -5 < slope * 0.1 + offset < 0


def test_cllr_is_what_its_definition_says():
    # log2(1 + 1/LR) of targets with LR 3 and 1: log2(4/3) and 1; of non-targets with LR 1/3 and 1 the same
    assert cllr([LN3, 0], [-LN3, 0]) == pytest.approx((np.log2(4 / 3) + 1) / 2)
    assert cllr([0], [0, 0, 0]) == 1
    assert cllr([-1000], [0]) == pytest.approx((1000 / np.log(2) + 1) / 2)


def test_min_cllr_is_what_pooling_by_hand_gives():
    # by rising score: non-target | target, non-target (pooled: LR 1, one bit each) | target
    assert min_cllr([1, 3], [0, 2]) == pytest.approx(0.5)
    assert min_cllr([5], [5, 5]) == pytest.approx(1)
    assert min_cllr([2, 3], [0, 1, 1]) == 0


def test_no_rising_function_of_the_scores_costs_less_than_min_cllr():
    target, nontarget = listed_trials(*voices(10, 4))
    least = min_cllr(target, nontarget)
    slope, offset = fit_llr(target, nontarget)
    assert 0 < least < cllr(slope * target + offset, slope * nontarget + offset) < 1
    assert least == pytest.approx(min_cllr(np.exp(target), np.exp(nontarget)))
    assert least < cllr(10 * target**3 - 1, 10 * nontarget**3 - 1)


def test_calibrate_counts_and_costs_all_pairs():
    embeddings, speakers = voices(10, 4)
    found = calibrate(embeddings, [f"speaker {s}" for s in speakers], model_id="a model")
    target, nontarget = listed_trials(embeddings, speakers)
    assert (found.model_id, found.recordings, found.speakers) == ("a model", 40, 10)
    assert (found.target_trials, found.nontarget_trials) == (len(target), len(nontarget)) == (60, 720)
    assert (found.slope, found.offset) == pytest.approx(fit_llr(target, nontarget), rel=1e-4)
    assert found.cllr == pytest.approx(cllr(found.llr(target), found.llr(nontarget)), abs=1e-6)
    assert found.min_cllr == pytest.approx(min_cllr(target, nontarget), abs=1e-6)
    assert found.eer_low <= found.eer <= found.eer_high


def test_the_held_out_cllr_is_of_trials_whose_speakers_were_not_learned_from():
    embeddings, speakers = voices(4, 5, noise=1.0)
    by_halves = []
    for half in ([0, 1], [0, 2], [0, 3]):  # two folds of two speakers: which, is drawn
        inside = np.isin(speakers, half)
        llrs: dict[bool, list[float]] = {True: [], False: []}
        for held_out in (inside, ~inside):
            slope, offset = fit_llr(*listed_trials(embeddings[~held_out], speakers[~held_out]))
            for kind, scores in zip((True, False), listed_trials(embeddings[held_out], speakers[held_out]), strict=True):
                llrs[kind] += (slope * scores + offset).tolist()
        by_halves.append(cllr(llrs[True], llrs[False]))
    assert np.abs(np.array(by_halves) - calibrate(embeddings, speakers).held_out_cllr).min() < 1e-4
    assert calibrate(*voices(3, 5)).held_out_cllr is None


def test_posteriors_are_the_odds_that_the_prior_and_the_llr_make():
    found = calibrate(*voices(10, 4))
    scores = np.array([[-0.5, 0.0], [0.4, 0.9]])
    posterior = found.posterior(scores, prior=0.2)
    np.testing.assert_allclose(posterior / (1 - posterior), np.exp(found.llr(scores)) / 4)


def test_a_threshold_keeps_its_false_accept_rate_and_says_what_it_rests_on():
    embeddings, speakers = voices(10, 4)
    target, nontarget = listed_trials(embeddings, speakers)
    found = calibrate(embeddings, speakers, [0.1, 0.01])
    for rate, threshold in found.thresholds.items():
        assert found.threshold(rate) == threshold.score
        accepted = int((nontarget >= threshold.score - 1e-7).sum())
        assert accepted == threshold.nontarget_trials <= rate * len(nontarget)
        assert threshold.miss_rate == pytest.approx((target < threshold.score - 1e-7).mean())
    with pytest.raises(InputError, match=r"no threshold for a false-accept rate of 0\.5; there is: 0\.1, 0\.01"):
        found.threshold(0.5)


def test_the_interval_of_a_threshold_is_that_of_speakers_drawn_again():
    embeddings, speakers = voices(8, 4)
    rate, samples, seed = 0.05, 100, 3
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    observed = np.sort(np.concatenate(listed_trials(embeddings, speakers)))
    rng = np.random.default_rng(seed)
    thresholds = []
    for _ in range(samples):
        drawn = np.repeat(np.arange(8), rng.multinomial(8, np.full(8, 1 / 8)))
        scores = [
            (units[speakers == a] @ units[speakers == b].T).ravel() for a, b in combinations(drawn, 2) if a != b
        ]  # copies of one speaker make no trial
        nontarget = np.concatenate(scores)
        thresholds.append(next(score for score in observed if (nontarget >= score - 1e-7).mean() <= rate))
    found = calibrate(embeddings, speakers, [rate], bootstrap_samples=samples, seed=seed).thresholds[rate]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(thresholds, [0.025, 0.975])), abs=1e-6)
    assert found.low < found.score < found.high


def test_a_calibration_reads_back_as_it_was_saved(tmp_path):
    found = calibrate(*voices(10, 4), model_id="a model")
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file"),
        ("{}", "is not a calibration .*model_id: Field required"),
        ("[", "is not a calibration .Expecting value"),
    ],
)
def test_what_is_not_a_calibration_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "found.json").write_text(content)
    with pytest.raises(InputError, match=rf"found\.json.*{message}"):
        Calibration.load(tmp_path / "found.json")


@pytest.mark.parametrize(
    ("speakers", "rates", "message"),
    [
        (list("aabc"), [0.01], "3 speakers, 1 of them with two recordings"),
        (list("aabb"), [0.0], "false-accept rate of 0.0; expected one between 0 and 1"),
        (list("abab"), [0.01], "target trials score .* on average, non-target trials .*, expected less"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_a_reason(speakers, rates, message):
    with pytest.raises(InputError, match=message):
        calibrate(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]), speakers, rates)


def test_a_highest_score_of_two_speakers_leaves_a_threshold_above_it_up_to_1():
    embeddings, speakers = voices(10, 4)
    embeddings[5] = embeddings[0] + 0.01  # speaker 1's, and closer to one of speaker 0 than any two of one speaker
    highest = listed_trials(embeddings, speakers)[1].max()
    found = calibrate(embeddings, speakers, [0.001], bootstrap_samples=9).thresholds[0.001]
    assert highest < found.score == found.high < highest + 1e-6 and found.nontarget_trials == 0
    embeddings[5] = 3 * embeddings[0]
    with pytest.raises(InputError, match=r"speakers 0 and 1 have the same embedding, so no threshold .* of 0\.001; .* twice"):
        calibrate(embeddings, speakers, [0.5, 0.001], bootstrap_samples=9)
