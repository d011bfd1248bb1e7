"""Whether a recording is fit to be judged: clipped, echoing or noisy speech sounds alike, whoever speaks.

The bounds were chosen on validation speakers: fewer than 1 in 100 of their recordings is called unfit as it is
(`experiments/unfit_recordings.py` measures that, and what it saves).
"""

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import HOP_LENGTH, SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.voice_activity import MIN_SPEECH_S, speech_spans

MOST_CLIPPED = 0.02  # see `clipped_fraction`
LEAST_FALL_DB = 11.5  # see `fall_db`
FALL_FRAMES = 4  # 40 ms
DB_PER_UNIT = 40.0  # of log-mel features, (log10 of power + 4) / 4


def doubts(samples: NDArray[np.float32]) -> list[str]:
    """What makes a recording, (n_samples,) float32 at 16 kHz, unfit to be judged: nothing, as a rule, and where nobody speaks."""
    spans = speech_spans(samples)
    if sum(end - start for start, end in spans) < MIN_SPEECH_S * SAMPLE_RATE_HZ:
        return []
    found = []
    clipped = clipped_fraction(samples, spans)
    if clipped > MOST_CLIPPED:
        found.append(f"it is clipped: {clipped:.0%} of the speech is as loud as it gets; record at a lower level")
    fall = fall_db(samples, spans)
    if fall < LEAST_FALL_DB:
        found.append(f"it echoes or is noisy: its level falls by no more than {fall:.0f} dB in 40 ms; record nearer")
    return found


def clipped_fraction(samples: NDArray[np.float32], spans: list[tuple[int, int]]) -> float:
    """Of the samples within the spans of speech, how many reach 0.9 of their 99.9 % quantile."""
    loud = np.abs(np.concatenate([samples[start:end] for start, end in spans]))
    return float(np.mean(loud >= 0.9 * np.quantile(loud, 0.999)))


def fall_db(samples: NDArray[np.float32], spans: list[tuple[int, int]]) -> float:
    """How far the level of a mel band falls within 40 ms of speech at its 5 % steepest, in dB: the mean over bands.

    Echoes and noise keep it from falling.
    """
    features = log_mel(samples)
    spoken = np.zeros(len(features), bool)
    for start, end in spans:
        spoken[start // HOP_LENGTH : end // HOP_LENGTH] = True
    frames = features[spoken]
    steps = frames[FALL_FRAMES:] - frames[:-FALL_FRAMES]
    return float(-DB_PER_UNIT * np.quantile(steps, 0.05, axis=0).mean())
