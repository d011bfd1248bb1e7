"""The section `train` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    encoder_learning_rate: NonNegative
    encoder_layer_decay: Annotated[float, Field(gt=0, le=1)]
    encoder_lora_rank: Count
    head_learning_rate: Positive
    freeze_encoder_steps: Count
    warmup_steps: Count
    weight_decay: NonNegative
    gradient_accumulation: PositiveInt
    gradient_cache_clips: PositiveInt | None
    gradient_clip: Positive
    start_weight: Fraction
    mixed_precision: Literal["auto", "bf16", "no"]
    validation_speakers: Fraction
    validation_max_recordings: PositiveInt
    validate_every_steps: PositiveInt
    early_stopping_validations: PositiveInt | None
    kept_weights: Literal["best", "last"]
    checkpoint_every_steps: PositiveInt

    @model_validator(mode="after")
    def _adaptable(self) -> "Train":
        if self.encoder_lora_rank and not self.encoder_learning_rate:
            raise ValueError(
                f"encoder_lora_rank is {self.encoder_lora_rank}, but with encoder_learning_rate 0 the encoder stays frozen: "
                "give it a rate (0.0001, say), or set the rank to 0"
            )
        return self
