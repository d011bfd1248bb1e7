"""The section `sampling` of params.yaml."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from speakerprint.params.section import Positive, PositiveInt, Section


class Sampling(Section):
    speakers: Annotated[int, Field(ge=2)]
    utterances: PositiveInt
    speeds: Annotated[list[Annotated[float, Field(ge=0.5, le=2.0)]], Field(min_length=1)]
    corpus_weights: dict[str, Positive] | None
    single_gender: bool
    by_locale: bool

    @field_validator("speeds")
    @classmethod
    def _distinct(cls, speeds: list[float]) -> list[float]:
        if 1.0 not in speeds or len(set(speeds)) < len(speeds):
            raise ValueError("speeds must be different and hold 1.0, the speakers as they are")
        return speeds

    @model_validator(mode="after")
    def _one_order(self) -> "Sampling":
        if self.by_locale and self.corpus_weights:
            raise ValueError("by_locale is true and corpus_weights are given: they order speakers in different ways; drop one")
        return self
