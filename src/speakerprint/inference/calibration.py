"""From a score to a decision: what a score is worth on the kind of recordings that a model is used on.

A calibration is learned from recordings of known speakers. It turns a score into a log-likelihood ratio, natural logarithm: how
much more likely it is if both recordings are of one speaker than if they are not. And it has the score to reach for each
false-accept rate.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.special import expit, logit

from speakerprint.errors import InputError


class Threshold(BaseModel):
    """The score to reach for a false-accept rate, its 95 % interval, and the miss rate there.

    ``nontarget_trials`` is how many non-target trials reach it: a threshold that rests on a handful is a guess.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float
    low: float
    high: float
    miss_rate: float
    nontarget_trials: int


class Calibration(BaseModel):
    """Log-likelihood ratio = slope · score + offset, thresholds, and how good they are on the trials they were learned from.

    ``cllr`` is in bits: 0 is perfect, 1 is knowing nothing. On its own trials it is optimistic; ``held_out_cllr`` is of trials
    within fifths of the speakers who had no part in slope and offset (None with fewer than four speakers). ``min_cllr`` is what
    the best monotonic calibration reaches on its own trials: what the model lost, and not the calibration.
    Scores are cosines of the embeddings of one model: ``model_id``, if it is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str | None
    recordings: int
    speakers: int
    target_trials: int
    nontarget_trials: int
    slope: float
    offset: float
    cllr: float
    held_out_cllr: float | None
    min_cllr: float
    eer: float
    eer_low: float
    eer_high: float
    thresholds: dict[float, Threshold]

    def llr(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Natural log-likelihood ratios of scores, of the same shape: above 0 speaks for one speaker."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset

    def posterior(self, scores: ArrayLike, prior: float) -> NDArray[np.float64]:
        """Probability of one speaker, for scores of any shape, where it was ``prior`` before they were known."""
        return expit(self.llr(scores) + logit(prior))

    def threshold(self, false_accept_rate: float) -> float:
        """The score to reach for one of the false-accept rates in ``thresholds``. Raises InputError for another one."""
        if false_accept_rate not in self.thresholds:
            known = ", ".join(map(str, self.thresholds))
            raise InputError(f"the calibration has no threshold for a false-accept rate of {false_accept_rate}; it has: {known}")
        return self.thresholds[false_accept_rate].score

    def refuse_other_model(self, model_id: str) -> None:
        """Raise InputError if the calibration is known to be of another model."""
        if self.model_id not in (None, model_id):
            raise InputError(f"the calibration is of model {self.model_id}, not of {model_id}; calibrate the model that is used")

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON."""
        Path(path).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote. Raises InputError if it is something else."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); `speakerprint calibrate` makes one") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
            raise InputError(
                f"{path} is not a calibration ({where}: {error.errors()[0]['msg']}); `speakerprint calibrate` makes one"
            ) from None
