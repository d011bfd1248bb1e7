"""Who is trained on and who is held out to validate, as far as counts tell: before audio is opened, and again by training."""

from collections.abc import Mapping, Sequence

import numpy as np

from speakerprint.errors import InputError


def n_held_out(n_speakers: int, fraction: float) -> int:
    """How many of the training speakers are held out to validate: at least two, or none for a fraction of 0."""
    return 0 if fraction == 0 else max(2, round(fraction * n_speakers))


def refuse_too_few_speakers(
    recordings_per_speaker: Mapping[str, np.ndarray], batch_speakers: int, speeds: Sequence[float], validation_speakers: float
) -> None:
    """Raise InputError if too few speakers are left to make a batch of, or none of them has two recordings.

    recordings_per_speaker: of each train corpus, (n_speakers,) ints. batch_speakers: `sampling.speakers`. speeds: at each of
    `sampling.speeds` a speaker counts once. validation_speakers: the fraction held out.
    """
    found = {corpus: len(counts) for corpus, counts in recordings_per_speaker.items()}
    n_speakers = sum(found.values())
    held_out = n_held_out(n_speakers, validation_speakers)
    left = max(0, n_speakers - held_out) * len(speeds)
    there = ", ".join(f"{corpus} has {number:,}" for corpus, number in found.items())
    if left < batch_speakers:
        at_speeds = f" at {len(speeds)} speeds" if len(speeds) > 1 else ""
        raise InputError(
            f"too few speakers to train on: {there}; train.validation_speakers {validation_speakers:g} holds out {held_out} of "
            f"{n_speakers:,}, and {left}{at_speeds} are left for batches of sampling.speakers {batch_speakers}; lower "
            "sampling.speakers or train.validation_speakers, loosen the corpora's filters, or add a corpus"
        )
    if max(counts.max(initial=0) for counts in recordings_per_speaker.values()) < 2:
        raise InputError(
            f"no speaker has two recordings ({there} speakers), so there is nothing to compare; raise "
            "min_recordings_per_speaker of the corpora's filters to 2, or add a corpus"
        )
