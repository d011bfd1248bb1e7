"""Whether a recording is fit to be judged: clipped, echoing, very noisy or telephone speech sounds alike, whoever speaks.

The bounds were chosen on validation speakers: 1.1 in 100 of their recordings are called unfit as they are
(`experiments/unfit_recordings.py` measures that, and what it saves). Two voices in one: see `inference.two_voices`.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import HOP_LENGTH, SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.voice_activity import CHUNK, MIN_SPEECH_S, spans_of

MOST_CLIPPED = 0.02
LEAST_FALL_DB = 14.4
FALL_FRAMES = 4  # 40 ms
STEEPEST_BANDS = 20  # of 80: noise drowns the others and leaves these, an echo is in all
HIGH_BAND = 66  # of 80, from 4.7 kHz on: nothing of a telephone line is there
LEAST_HIGH_DB = -60.0  # of the loudest high band, below the loudest of all
DB_PER_UNIT = 40.0  # of log-mel features, (log10 of power + 4) / 4
PIECE_S, PIECES = 10.0, 6  # of a stream: it is measured so often, and judged by the latest so many with speech

Spans = list[tuple[int, int]]


class Quality(NamedTuple):
    """What is measured of speech: `clipped_fraction`, `fall_db`, and `high_db`."""

    clipped: float
    fall_db: float
    high_db: float

    def doubts(self) -> list[str]:
        """What makes it unfit to be judged: nothing, as a rule."""
        found = []
        if self.clipped > MOST_CLIPPED:
            found.append(f"it is clipped: {self.clipped:.0%} of the speech is as loud as it gets; record at a lower level")
        if self.fall_db < LEAST_FALL_DB:
            found.append(f"it echoes or is noisy: its level falls by no more than {self.fall_db:.0f} dB in 40 ms; record nearer")
        if self.high_db < LEAST_HIGH_DB:
            found.append("it has no sound above 4.7 kHz, like a telephone's; record without one, or calibrate on such recordings")
        return found


def measure(samples: NDArray[np.float32], spans: Spans, spoken: NDArray[np.float32]) -> Quality | None:
    """The quality of (n_samples,) float32 at 16 kHz, of its spans of speech and `spoken_frames`; None under 0.5 s of speech."""
    if sum(end - start for start, end in spans) < MIN_SPEECH_S * SAMPLE_RATE_HZ:
        return None
    return Quality(clipped_fraction(samples, spans), fall_db(spoken), high_db(spoken))


def doubts_of_many(measured: Iterable[Quality | None]) -> tuple[str, ...]:
    """What is doubted of a recording that was measured piece by piece: of its median piece. Nothing where nobody speaks."""
    found = [quality for quality in measured if quality is not None]
    return tuple(Quality(*np.median(found, axis=0)).doubts()) if found else ()


class StreamQuality:
    """What makes a stream unfit to be judged, by its latest minute of pieces with speech; its memory does not grow."""

    def __init__(self) -> None:
        self.doubts: tuple[str, ...] = ()
        self._samples, self._probabilities = np.zeros(0, np.float32), np.zeros(0, np.float32)
        self._measured: deque[Quality] = deque(maxlen=PIECES)

    def hear(self, samples: NDArray[np.float32], probabilities: NDArray[np.float32]) -> None:
        """The next samples at 16 kHz, (n_samples,), and the probabilities of the chunks that they complete, (chunks,)."""
        self._samples = np.concatenate([self._samples, samples])
        self._probabilities = np.concatenate([self._probabilities, probabilities])
        if len(self._probabilities) * CHUNK >= PIECE_S * SAMPLE_RATE_HZ:
            self.end()

    def end(self) -> None:
        """Judge what is held: as a rule too little for a piece."""
        n = min(len(self._samples), len(self._probabilities) * CHUNK)
        piece, spans = self._samples[:n], spans_of(self._probabilities, n)
        self._samples, self._probabilities = self._samples[n:], self._probabilities[:0]
        quality = measure(piece, spans, spoken_frames(log_mel(piece), spans)) if spans else None
        if quality is not None:
            self._measured.append(quality)
            self.doubts = doubts_of_many(self._measured)


def spoken_frames(features: NDArray[np.float32], spans: Spans) -> NDArray[np.float32]:
    """Of log-mel features (frames, 80) those within spans of samples."""
    spoken = np.zeros(len(features), bool)
    for start, end in spans:
        spoken[start // HOP_LENGTH : end // HOP_LENGTH] = True
    return features[spoken]


def clipped_fraction(samples: NDArray[np.float32], spans: Spans) -> float:
    """Of the samples within the spans of speech, how many reach 0.9 of their 99.9 % quantile."""
    loud = np.abs(np.concatenate([samples[start:end] for start, end in spans]))
    return float(np.mean(loud >= 0.9 * np.quantile(loud, 0.999)))


def fall_db(spoken: NDArray[np.float32]) -> float:
    """How far the level of a mel band falls within 40 ms of speech, (frames, 80), at its 5 % steepest, in dB.

    The mean over the 20 bands where it falls furthest. Echoes keep it from falling, and so does noise that drowns most bands.
    """
    steps = spoken[FALL_FRAMES:] - spoken[:-FALL_FRAMES]
    falls = np.sort(-DB_PER_UNIT * np.quantile(steps, 0.05, axis=0))
    return float(falls[-STEEPEST_BANDS:].mean())


def high_db(spoken: NDArray[np.float32]) -> float:
    """The level of the loudest mel band from 4.7 kHz on, below that of the loudest band, each where it is exceeded in 5 % of the
    speech, (frames, 80), in dB; -80 where there is nothing."""
    levels = DB_PER_UNIT * np.quantile(spoken, 0.95, axis=0)
    return float(levels[HIGH_BAND:].max() - levels.max())
