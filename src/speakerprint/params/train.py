"""The section `train` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from speakerprint.params.section import Count, Fraction, NonNegative, Positive, PositiveInt, Section


class Discriminant(Section):
    shrinkage: Fraction
    crop_s: Positive
    views: Count


class Train(Section):
    init_from: str
    new_head: bool
    seed: Count
    steps: Count
    crop_s: Positive
    last_crop_s: Positive | None
    crop_lengths: Literal["rising", "random"]
    crop_position: Literal["random", "start"]
    encoder_learning_rate: NonNegative
    encoder_layer_decay: Annotated[float, Field(gt=0, le=1)]
    head_learning_rate: Positive
    freeze_encoder_steps: Count
    warmup_steps: Count
    decay: Literal["cosine", "none"]
    weight_decay: NonNegative
    gradient_accumulation: PositiveInt
    gradient_clip: Positive
    start_weight: Fraction
    mixed_precision: Literal["auto", "bf16", "no"]
    validation_speakers: Fraction
    validation_max_recordings: PositiveInt
    validate_every_steps: PositiveInt
    early_stopping_validations: PositiveInt | None
    kept_weights: Literal["best", "last"]
    checkpoint_every_steps: PositiveInt
