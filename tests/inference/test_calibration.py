"""A calibration is read as it was written, or not at all."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from speakerprint import Calibration
from speakerprint.errors import InputError
from speakerprint.inference.calibration import Threshold

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
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name_whatever_the_digest(saved, key, value):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {key: value}))
    with pytest.raises(InputError, match=rf"own\.json is not a calibration \({key}"):
        Calibration.load(saved)


@pytest.mark.parametrize("prior", [0.0, 1e-6, 0.3, 1.0])
def test_a_posterior_is_bayes_rule_at_any_prior(prior):
    scores = np.array([-1.0, 0.0, 0.4, 1.0])
    np.testing.assert_allclose(CALIBRATION.posterior(scores, prior), expit(20 * scores - 8 + logit(prior)), rtol=1e-12)
