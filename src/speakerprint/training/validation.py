"""How good a model is on speakers that it does not learn from, and which step's weights are kept."""

from collections.abc import Iterable
from itertools import islice

import numpy as np

from speakerprint.evaluation.trials import equal_error_rate
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.data import TrainingSet

EMBEDDED_AT_ONCE = 64


def embed_crops(model: SpeakerModel, crops: Iterable[np.ndarray]) -> np.ndarray:
    """Embeddings of crops, each (frames, 80), in `eval` mode: (crops, dim); the model is left in `train` mode.

    Crops of about one length are embedded together, so that little is padded.
    """
    model.eval()
    waiting, embeddings = iter(crops), []
    for block in iter(lambda: list(islice(waiting, 16 * EMBEDDED_AT_ONCE)), []):
        order = np.argsort([len(crop) for crop in block], kind="stable")
        together = np.split(order, range(EMBEDDED_AT_ONCE, len(order), EMBEDDED_AT_ONCE))
        rows = np.concatenate([model.embed_frames([block[i] for i in batch]) for batch in together])
        embeddings.append(rows[order.argsort()])
    model.train()
    return np.concatenate(embeddings)


def validate(model: SpeakerModel, data: TrainingSet, recordings: np.ndarray, n_frames: int) -> float:
    """EER over all pairs of the validation recordings' central crops."""
    crops = (data.crop(index, n_frames, 0.5) for index in recordings)
    return equal_error_rate(embed_crops(model, crops), data.speaker_ids[recordings])


def one_trial(speaker_ids: np.ndarray) -> float:
    """The share of one target trial among all: an EER over all pairs of these recordings tells no smaller difference."""
    _, counts = np.unique(speaker_ids, return_counts=True)
    return 1 / max(1, int((counts * (counts - 1)).sum()) // 2)
