"""The sections of params.yaml that decide what is learned."""

from dataclasses import dataclass

from speakerprint.params.augmentation import Augmentation
from speakerprint.params.loss import Loss
from speakerprint.params.model import Model
from speakerprint.params.sampling import Sampling
from speakerprint.params.section import Section
from speakerprint.params.train import Discriminant, Train


@dataclass(frozen=True)
class Recipe:
    """The sections of params.yaml that decide what is learned."""

    model: Model
    loss: Loss
    sampling: Sampling
    augmentation: Augmentation
    discriminant: Discriminant
    train: Train

    def sections(self) -> dict[str, Section]:
        """The sections by their names."""
        return vars(self)


def without_recorded_noise(augmentation: Augmentation) -> Augmentation:
    """The augmentation with `recorded_noise` taken from what is drawn, and as many kinds drawn as before or as are left."""
    ntxent, triplet = augmentation.ntxent, augmentation.triplet
    of_view, of_clip = ([kind for kind in drawn.kinds if kind != "recorded_noise"] for drawn in (ntxent, triplet))
    return augmentation.model_copy(
        update={
            "ntxent": ntxent.model_copy(update={"kinds": of_view, "kinds_per_view": min(ntxent.kinds_per_view, len(of_view))}),
            "triplet": triplet.model_copy(update={"kinds": of_clip, "kinds_per_clip": min(triplet.kinds_per_clip, len(of_clip))}),
        }
    )
