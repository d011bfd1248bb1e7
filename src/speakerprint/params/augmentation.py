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
    max_frames: Annotated[int, Field(ge=2)]


class FrequencyMask(Section):
    max_bands: Annotated[int, Field(ge=2, le=80)]


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


class TripletAugmentation(Section):
    kinds: list[AugmentationKind]
    kinds_per_clip: Count
    gaussian_noise_std: NonNegative
    low_frequency_noise_std: NonNegative


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
    draw_per: Literal["clip", "speaker"]
    ntxent: NtxentViews
    triplet: TripletAugmentation

    @model_validator(mode="after")
    def _enough_kinds(self) -> "Augmentation":
        drawn = {
            "ntxent.kinds_per_view": (self.ntxent.kinds_per_view, self.ntxent.kinds),
            "triplet.kinds_per_clip": (self.triplet.kinds_per_clip, self.triplet.kinds),
        }
        for key, (count, kinds) in drawn.items():
            if count > len(kinds) and (self.draw_per == "clip" or not kinds):
                listed = f"{key.split('.')[0]}.kinds"
                raise ValueError(f"{key} is {count} but {listed} lists {len(kinds)}: list more or draw fewer")
        return self

    def for_triplet(self) -> "Augmentation":
        """The same with the standard deviations that the triplet loss's clips get."""
        of = self.triplet
        gaussian = self.gaussian_noise.model_copy(update={"std": of.gaussian_noise_std})
        low = self.low_frequency_noise.model_copy(update={"std": of.low_frequency_noise_std})
        return self.model_copy(update={"gaussian_noise": gaussian, "low_frequency_noise": low})
