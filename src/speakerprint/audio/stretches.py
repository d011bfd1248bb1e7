"""A recording of any length in stretches, cut where nobody speaks: hours of it in the memory of a minute."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.voice_activity import CHUNK, SpeechDetector, spans_of

STRETCH_S = 60.0  # of audio in memory at a time

Spans = list[tuple[int, int]]


def stretches(
    blocks: Iterable[NDArray[np.float32]], find_spans: Callable[[NDArray[np.float32], int], Spans] = spans_of
) -> Iterator[tuple[int, NDArray[np.float32], Spans]]:
    """A recording at 16 kHz in stretches of at most STRETCH_S: where each starts, its samples, and the spans of speech in it.

    A stretch ends where speech is least probable in its second half. find_spans: of its probabilities and number of samples.
    """
    longest = round(STRETCH_S * SAMPLE_RATE_HZ) // CHUNK * CHUNK
    detector, start = SpeechDetector(), 0
    held, heard = np.zeros(0, np.float32), np.zeros(0, np.float32)
    for block in _seconds(blocks):
        for part in np.split(block, range(longest, len(block), longest)):
            held, heard = np.concatenate([held, part]), np.concatenate([heard, detector.hear(part)])
            while len(heard) * CHUNK >= longest:
                half = longest // CHUNK // 2
                cut = half + int(np.argmin(heard[half : 2 * half]))
                n = cut * CHUNK
                yield start, held[:n], find_spans(heard[:cut], n)
                start, held, heard = start + n, held[n:], heard[cut:]
    heard = np.concatenate([heard, detector.end()])
    yield start, held, find_spans(heard, len(held))


def _seconds(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Blocks of a second or more, but for the last: decoders give a few milliseconds at a time."""
    held: list[NDArray[np.float32]] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= SAMPLE_RATE_HZ:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)
