"""A calibration is read as it was written, or not at all."""

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit, logit
from scipy.stats import norm

from speakerprint import Calibration
from speakerprint.errors import InputError
from speakerprint.inference.calibration import Threshold, score_for_rate

AT_1_PERCENT: dict[str, Any] = {"score": 0.4, "low": 0.3, "high": 0.5, "miss_rate": 0.1, "nontarget_trials": 12}
CALIBRATION = Calibration(
    model_id="0123456789abcdef",
    recordings=20,
    speakers=5,
    target_trials=30,
    nontarget_trials=160,
    slope=20.0,
    offset=-8.0,
    cllr=0.2,
    held_out_cllr=None,
    min_cllr=0.1,
    eer=0.05,
    eer_low=0.01,
    eer_high=0.1,
    thresholds={0.01: Threshold(**AT_1_PERCENT)},
)


@pytest.fixture
def saved(tmp_path):
    CALIBRATION.save(tmp_path / "own.json")
    return tmp_path / "own.json"


def test_what_was_saved_is_loaded(saved):
    assert Calibration.load(saved) == CALIBRATION


@pytest.mark.parametrize(("key", "value"), [("slope", 21.0), ("offset", -8.5), ("model_id", "another"), ("digest", None)])
def test_a_changed_calibration_is_refused(saved, key, value):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {key: value}))
    with pytest.raises(InputError, match=r"own\.json was changed or damaged"):
        Calibration.load(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("slope", 0.0),
        ("slope", -1.0),
        ("slope", float("nan")),
        ("offset", float("inf")),
        ("thresholds", {"0.01": AT_1_PERCENT | {"score": 5.0}}),
        ("thresholds", {"0.01": AT_1_PERCENT | {"score": float("nan")}}),
        ("thresholds", {"0.01": AT_1_PERCENT | {"low": -2.0}}),
        ("thresholds", {"2": AT_1_PERCENT}),
        ("thresholds", {"0.01": AT_1_PERCENT | {"hgih": 0.6}}),
        ("eer", 1.5),
        ("eer_low", -0.5),
        ("ofset", 1.0),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name_whatever_the_digest(saved, key, value):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {key: value}))
    with pytest.raises(InputError, match=rf"own\.json is not a calibration \({key}"):
        Calibration.load(saved)


def test_what_was_loaded_stays_as_it_is():
    for one in (CALIBRATION, CALIBRATION.thresholds[0.01]):
        with pytest.raises(ValidationError, match="frozen"):
            one.score = 0.9


def test_a_calibration_of_another_model_is_refused():
    CALIBRATION.refuse_other_model("0123456789abcdef")
    CALIBRATION.model_copy(update={"model_id": None}).refuse_other_model("any")
    with pytest.raises(InputError, match="of model 0123456789abcdef, not of another"):
        CALIBRATION.refuse_other_model("another")


@pytest.mark.parametrize("prior", [0.0, 1e-6, 0.3, 1.0])
def test_a_posterior_is_bayes_rule_at_any_prior(prior):
    scores = np.array([-1.0, 0.0, 0.4, 1.0])
    np.testing.assert_allclose(CALIBRATION.posterior(scores, prior), expit(20 * scores - 8 + logit(prior)), rtol=1e-12)


def test_the_score_for_a_rate_is_that_of_normal_scores():
    non_target = norm(0.2, 0.1)  # scores of pairs of two speakers
    thresholds = {rate: non_target.isf(rate) for rate in (0.01, 0.1, 0.001)}
    for rate in (0.1, 0.05, 0.01, 0.003, 0.001, 1e-5):
        assert score_for_rate(thresholds, rate) == pytest.approx(non_target.isf(rate), abs=1e-9)
    assert score_for_rate({0.01: 0.5, 0.001: 0.9}, 1e-9) == 1  # no cosine is higher


def test_between_rates_only_the_two_nearest_count():
    assert score_for_rate({0.1: 0.1, 0.01: 0.4, 0.001: 0.9}, 0.05) < 0.4
    assert score_for_rate({0.1: 0.1, 0.01: 0.4, 0.001: 0.9}, 0.05) == score_for_rate({0.1: 0.1, 0.01: 0.4}, 0.05)


@pytest.mark.parametrize(
    ("thresholds", "rate", "known"),
    [
        ({0.01: 0.4, 0.001: 0.5}, 0.02, r"there is: 0\.01, 0\.001, and any other up to 0\.01\. Choose one of them"),
        ({0.01: 0.4, 0.001: 0.5}, 0.0, "false-accept rate of 0.0"),
        ({0.01: 0.4, 0.001: 0.5}, float("nan"), "false-accept rate of nan"),
        ({0.01: 0.4}, 0.001, r"there is: 0\.01\. Choose"),
        ({}, 0.01, "there is: none"),
    ],
)
def test_a_rate_that_nothing_is_known_of_is_refused_with_what_is(thresholds, rate, known):
    with pytest.raises(InputError, match=known):
        score_for_rate(thresholds, rate)
