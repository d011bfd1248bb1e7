"""The section `audit` of params.yaml."""

from typing import Annotated

from pydantic import Field

from speakerprint.params.section import Fraction, Name, NonNegative, Positive, Section


class Audit(Section):
    corpora: dict[Name, Annotated[list[Name], Field(min_length=1)]]
    model: str
    batch_s: Positive
    odd_false_rejects: Annotated[float, Field(gt=0, lt=1)]
    same_person_false_alarms: Positive
    duplicate_correlation: Annotated[float, Field(gt=0, le=1)]
    min_level_dbfs: float
    max_clipped_fraction: Fraction
    min_speech_s: NonNegative
    min_speech_fraction: Fraction
