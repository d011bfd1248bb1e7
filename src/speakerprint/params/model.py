"""The section `model` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from speakerprint.params.section import PositiveInt, Section


class Model(Section):
    layers: Annotated[int, Field(ge=1, le=6)]
    layer_combination: Literal["concatenate", "last"]
    pooling: Literal["mean", "attentive_statistics"]
    projection: Literal["discriminant", "mlp"]
    embedding_dim: PositiveInt
    window_s: Annotated[float, Field(ge=0.1, le=30.0)]
