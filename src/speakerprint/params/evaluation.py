"""The section `evaluation` of params.yaml."""

from typing import Annotated

from pydantic import Field

from speakerprint.params.section import Positive, Section


class Evaluation(Section):
    corpora: list[str]
    bootstrap_samples: Annotated[int, Field(ge=100)]
    duration_edges_s: list[Positive]
