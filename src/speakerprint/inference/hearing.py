"""A recording between reading and embedding: what is to be embedded of it, and what is doubted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.quality import measure, spoken_frames
from speakerprint.audio.voice_activity import speech_spans
from speakerprint.inference import two_voices

EmbedFrames = Callable[[Sequence[NDArray[np.float32]]], NDArray[np.float32]]


class Heard(NamedTuple):
    """A recording by name. ``clips`` are log-mel features, (frames, 80) each: of all of it, then of the parts of its speech."""

    name: str
    clips: list[NDArray[np.float32]]
    doubts: list[str]
    speech_s: float = 0.0


def hear(samples: NDArray[np.float32], spans: list[tuple[int, int]] | None, name: str, judge: bool) -> Heard:
    """A recording, (n_samples,) float32 at 16 kHz, with its spans of speech where they are known; judge: look for doubts."""
    features = log_mel(samples)
    if not judge:
        return Heard(name, [features], [])
    spans = speech_spans(samples) if spans is None else spans
    spoken = spoken_frames(features, spans)
    quality = measure(samples, spans, spoken)
    found = [] if quality is None else quality.doubts()
    return Heard(name, [features, *two_voices.parts(spoken)], found, len(spoken) / FRAMES_PER_SECOND)


def embed_heard(held: Sequence[Heard], embed_frames: EmbedFrames) -> list[tuple[NDArray[np.float32], tuple[str, ...]]]:
    """The embedding of each recording, (dim,), and all that is doubted of it."""
    rows = embed_frames([clip for heard in held for clip in heard.clips])
    found, start = [], 0
    for heard in held:
        end = start + len(heard.clips)
        doubts = heard.doubts + two_voices.doubts(rows[start + 1 : end], heard.speech_s)
        found.append((rows[start], tuple(doubts)))
        start = end
    return found
