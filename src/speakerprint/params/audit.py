"""The section `audit` of params.yaml."""

from typing import Annotated

from pydantic import Field

from speakerprint.params.section import Name, Positive, Section


class Audit(Section):
    corpora: dict[Name, Annotated[list[Name], Field(min_length=1)]]
    model: str
    odd_false_rejects: Annotated[float, Field(gt=0, lt=1)]
    same_person_false_alarms: Positive
