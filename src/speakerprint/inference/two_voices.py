"""Whether two people speak in one recording: parts of it are compared as if they were recordings.

The bounds were chosen on validation speakers (experiments/LOG.md): of 146 recordings with two seconds of speech or more one falls
below them, and of 156 of which half is somebody else's 86 in 100.
"""

from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import FRAMES_PER_SECOND

LEAST_SPEECH_S = 2.0  # parts of less sound like nobody in particular
SPLITS = (1 / 3, 1 / 2, 2 / 3)  # of little speech: where the second voice may begin
MANY_FROM_S, PARTS = 8.0, 8  # of more: people may take turns, which splits would hide
LONGEST_PART = 4 * FRAMES_PER_SECOND  # a window of the shipped model
COSINE_PER_S, HIGHEST_COSINE = 0.08, 0.3  # below so much for each second of speech, and at most so much, they are two voices


def parts(spoken: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What is to be embedded of log-mel frames of speech, (frames, 80): before and after each of SPLITS, or 8 parts from 8 s on.

    None where there is too little speech to tell. Of a long part its start stands for it.
    """
    if len(spoken) < LEAST_SPEECH_S * FRAMES_PER_SECOND:
        return []
    if len(spoken) < MANY_FROM_S * FRAMES_PER_SECOND:
        return [part for split in SPLITS for part in np.split(spoken, [round(split * len(spoken))])]
    return [part[:LONGEST_PART] for part in np.array_split(spoken, PARTS)]


def doubts(embeddings: NDArray[np.float32], speech_s: float) -> list[str]:
    """What to say of the embeddings of a recording's parts, (parts, dim), that has so much speech: nothing, as a rule."""
    if len(embeddings) < 2:
        return []
    if speech_s < MANY_FROM_S:
        cosine = float(np.sum(embeddings[::2] * embeddings[1::2], axis=1).min())
    else:
        cosine = lowest_cosine(embeddings)
    if cosine >= min(HIGHEST_COSINE, COSINE_PER_S * speech_s):
        return []
    return [f"two voices: parts of it have a cosine of {cosine:.2f}; cut out the speech of one person"]


def lowest_cosine(embeddings: NDArray[np.float32]) -> float:
    """The least cosine between the sums of two groups of embeddings, (parts, dim), over all ways to share them out.

    Of more than two, a group has two at least: one may be a cough.
    """
    sides = _sides(len(embeddings))
    one, other = sides @ embeddings, (1 - sides) @ embeddings
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.sum(one * other, axis=1) / np.maximum(lengths, 1e-9)).min())


@cache
def _sides(count: int) -> NDArray[np.float32]:
    """For each way to share out so many parts, which of them are in the first group: (ways, parts) of 0 and 1."""
    if count < 4:
        return np.eye(1, count, dtype=np.float32)  # the first and the rest
    groups = [group for size in range(2, count // 2 + 1) for group in combinations(range(count), size)]
    sides = np.zeros((len(groups), count), np.float32)
    for row, group in zip(sides, groups, strict=True):
        row[list(group)] = 1
    return sides
