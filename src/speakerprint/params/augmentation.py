"""The section `augmentation` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from speakerprint.params.section import Count, NonNegative, Positive, Section

AugmentationKind = Literal[
    "gaussian_noise",
    "time_mask",
    "frequency_mask",
    "low_frequency_noise",
    "recorded_noise",
    "background_speech",
    "coloured_noise",
    "reverberation",
    "channel",
]


class GaussianNoise(Section):
    std: NonNegative


class TimeMask(Section):
    max_frames: Count


class FrequencyMask(Section):
    max_bands: Annotated[int, Field(ge=0, le=80)]


class LowFrequencyNoise(Section):
    bands: Annotated[int, Field(ge=1, le=80)]
    std: NonNegative


class Ranges(Section):
    """Settings drawn from between a ``min_…`` and the ``max_…`` of the same name."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        settings = dict(self)
        for lowest, highest in ((f"min_{name[4:]}", name) for name in settings if name.startswith("max_")):
            if settings[lowest] > settings[highest]:
                raise ValueError(f"{lowest} {settings[lowest]} is above {highest} {settings[highest]}")
        return self


class NoiseLevel(Ranges):
    min_snr_db: float
    max_snr_db: float


class Reverberation(Ranges):
    min_decay_s: Positive
    max_decay_s: Positive
    min_direct_db: float
    max_direct_db: float


class Channel(Section):
    std_db: NonNegative
    gain_db: NonNegative


class NtxentViews(Section):
    views: Count
    kinds: list[AugmentationKind]
    kinds_per_view: Count

    @model_validator(mode="after")
    def _enough_kinds(self) -> "NtxentViews":
        if self.kinds_per_view > len(self.kinds):
            raise ValueError(
                f"kinds_per_view is {self.kinds_per_view} but kinds lists {len(self.kinds)}: list more or draw fewer"
            )
        return self


class TripletAugmentation(Section):
    kinds: list[AugmentationKind]
    kinds_per_clip: Count

    @model_validator(mode="after")
    def _enough_kinds(self) -> "TripletAugmentation":
        if self.kinds_per_clip > len(self.kinds):
            raise ValueError(
                f"kinds_per_clip is {self.kinds_per_clip} but kinds lists {len(self.kinds)}: list more or draw fewer"
            )
        return self


class Augmentation(Section):
    gaussian_noise: GaussianNoise
    time_mask: TimeMask
    frequency_mask: FrequencyMask
    low_frequency_noise: LowFrequencyNoise
    recorded_noise: NoiseLevel
    background_speech: NoiseLevel
    coloured_noise: NoiseLevel
    reverberation: Reverberation
    channel: Channel
    ntxent: NtxentViews
    triplet: TripletAugmentation
