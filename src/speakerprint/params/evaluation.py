"""The section `evaluation` of params.yaml."""

from typing import Annotated

from pydantic import Field

from speakerprint.params.section import Count, Positive, PositiveInt, Section


class Evaluation(Section):
    corpora: list[str]
    batch_s: Positive
    bootstrap_samples: Annotated[int, Field(ge=100)]
    duration_edges_s: list[Positive]
    projected_speakers: PositiveInt
    seed: Count
