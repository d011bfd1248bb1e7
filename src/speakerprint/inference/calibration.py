"""From a score to a decision: what a score is worth on the kind of recordings that a model is used on.

A calibration is learned from recordings of known speakers. It turns a score into a log-likelihood ratio, natural logarithm: how
much more likely it is if both recordings are of one speaker than if they are not. And it has the score to reach for each
false-accept rate.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speakerprint.errors import InputError
from speakerprint.files import write_text

Score = Annotated[float, Field(ge=-1.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class Threshold(BaseModel):
    """The score to reach for a false-accept rate, its 95 % interval, and the miss rate there.

    ``nontarget_trials`` is how many non-target trials reach it: a threshold that rests on a handful is a guess.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    score: Score
    low: Score
    high: Score
    miss_rate: Rate
    nontarget_trials: int


class Calibration(BaseModel):
    """Log-likelihood ratio = slope · score + offset, thresholds, and how good they are on the trials they were learned from.

    ``cllr`` is in bits: 0 is perfect, 1 is knowing nothing. On its own trials it is optimistic; ``held_out_cllr`` is of trials
    within fifths of the speakers who had no part in slope and offset (None with fewer than four speakers). ``min_cllr`` is what
    the best monotonic calibration reaches on its own trials: what the model lost, and not the calibration.
    Scores are cosines of the embeddings of one model: ``model_id``, if it is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_id: str | None
    recordings: int
    speakers: int
    target_trials: int
    nontarget_trials: int
    slope: Annotated[float, Field(gt=0.0)]
    offset: float
    cllr: float
    held_out_cllr: float | None
    min_cllr: float
    eer: Rate
    eer_low: Rate
    eer_high: Rate
    thresholds: dict[Annotated[float, Field(gt=0.0, lt=1.0)], Threshold]

    def llr(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Natural log-likelihood ratios of scores, of the same shape: above 0 speaks for one speaker."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset

    def posterior(self, scores: ArrayLike, prior: float) -> NDArray[np.float64]:
        """Probability of one speaker, for scores of any shape, where it was ``prior`` before they were known."""
        with np.errstate(divide="ignore"):  # of a prior of 0 or 1
            log_odds = self.llr(scores) + np.log(prior) - np.log1p(-prior)
        return np.exp(-np.logaddexp(0, -log_odds))

    def threshold(self, false_accept_rate: float) -> float:
        """The score to reach for a false-accept rate, from ``thresholds`` by `score_for_rate`, which see."""
        return score_for_rate({rate: at.score for rate, at in self.thresholds.items()}, false_accept_rate)

    def refuse_other_model(self, model_id: str) -> None:
        """Raise InputError if the calibration is known to be of another model."""
        if self.model_id not in (None, model_id):
            raise InputError(f"the calibration is of model {self.model_id}, not of {model_id}; calibrate the model that is used")

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON, with a digest that `load` checks."""
        tree = self.model_dump(mode="json")
        write_text(json.dumps(tree | {"digest": _digest(tree)}, indent=2) + "\n", path)

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote. Raises InputError if it is something else, or was changed since."""
        remedy = "`speakerprint calibrate` makes one"
        try:
            tree = json.loads(Path(path).read_bytes())
            digest = tree.pop("digest", None) if isinstance(tree, dict) else None
            found = cls.model_validate(tree)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
            raise InputError(f"{path} is not a calibration ({where}: {error.errors()[0]['msg']}); {remedy}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not a calibration ({error}); {remedy}") from None
        if digest != _digest(tree):
            raise InputError(f"{path} was changed or damaged since it was written, or is of an earlier version; {remedy}")
        return found


def score_for_rate(thresholds: Mapping[float, float], false_accept_rate: float) -> float:
    """The score to reach for a false-accept rate, from the scores to reach for others.

    That of the rate itself where it is known. Else on the line through the two nearest, of scores against the rates' normal
    quantiles (a DET curve's axes, on which it is straight if non-target scores are normal; Martin et al. 1997). Below the lowest
    known rate the line is extended: the further, the more it is a guess.

    Raises InputError for a rate above the highest known one, or not above 0, and for another than known if only one is.
    """
    if false_accept_rate in thresholds:
        return thresholds[false_accept_rate]
    rates = sorted(thresholds)
    if len(rates) < 2 or not 0 < false_accept_rate < rates[-1]:
        known = ", ".join(map(str, thresholds)) or "none"
        between = f", and any other up to {rates[-1]}" if len(rates) > 1 else ""
        raise InputError(
            f"there is no threshold for a false-accept rate of {false_accept_rate}; there is: {known}{between}. Choose one of "
            "them, or have `speakerprint calibrate` find others"
        )
    above = next(index for index, rate in enumerate(rates) if rate > false_accept_rate)
    low, high = rates[max(above - 1, 0)], rates[max(above, 1)]
    at, left, right = (NormalDist().inv_cdf(rate) for rate in (false_accept_rate, low, high))
    score = thresholds[low] + (thresholds[high] - thresholds[low]) * (at - left) / (right - left)
    return min(score, 1.0)


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
