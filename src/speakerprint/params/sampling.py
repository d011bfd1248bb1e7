"""The section `sampling` of params.yaml."""

from typing import Annotated

from pydantic import Field, field_validator

from speakerprint.params.section import PositiveInt, Section


class Sampling(Section):
    speakers: Annotated[int, Field(ge=2)]
    utterances: PositiveInt
    unlabelled: PositiveInt
    speeds: Annotated[list[Annotated[float, Field(ge=0.5, le=2.0)]], Field(min_length=1)]

    @field_validator("speeds")
    @classmethod
    def _distinct(cls, speeds: list[float]) -> list[float]:
        if 1.0 not in speeds or len(set(speeds)) < len(speeds):
            raise ValueError("speeds must be different and hold 1.0, the speakers as they are")
        return speeds
