"""The section `loss` of params.yaml."""

from pydantic import model_validator

from speakerprint.params.section import Count, NonNegative, Positive, Section


class Loss(Section):
    triplet_weight: NonNegative
    triplet_margin: Positive
    ntxent_weight: NonNegative
    ntxent_temperature: Positive
    gendered: bool
    supervised_contrastive_weight: NonNegative
    supervised_contrastive_temperature: Positive
    angular_margin_weight: NonNegative
    angular_margin: NonNegative
    angular_margin_scale: Positive
    angular_margin_warmup_steps: Count
    teacher_match_weight: NonNegative
    teacher_similarity_weight: NonNegative

    @model_validator(mode="after")
    def _some_loss(self) -> "Loss":
        if not any(value for name, value in self if name.endswith("_weight")):
            raise ValueError("every weight is 0: nothing would be learned; give at least one loss a weight")
        return self
