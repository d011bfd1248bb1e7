"""Where there is speech in a recording: silero-vad, to leave the silence out and to refuse what holds no voice.

Silero Team: "Silero VAD: pre-trained enterprise-grade Voice Activity Detector", 2024, github.com/snakers4/silero-vad (MIT).
"""

import functools
from typing import Any

import numpy as np

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.errors import InputError

MIN_SPEECH_S = 0.5
PAD_S = 0.5  # kept around the speech: breath, and the room that both recordings of one speaker often share


class NoSpeech(InputError):
    """A recording that holds no voice to judge, and why."""


@functools.cache
def _detector() -> Any:
    import torch

    threads = torch.get_num_threads()
    import silero_vad  # sets torch to one thread, for everybody

    torch.set_num_threads(threads)
    return silero_vad.load_silero_vad(sequence=True)  # of its forms the one without state: threads may share it


def speech_spans(samples: np.ndarray) -> list[tuple[int, int]]:
    """Where somebody speaks in (n_samples,) float32 at 16 kHz: first sample and the one after the last, of each span in turn."""
    detector = _detector()
    from silero_vad import get_speech_timestamps_sequence

    return [(span["start"], span["end"]) for span in get_speech_timestamps_sequence(samples, detector)]


def require_speech(samples: np.ndarray, name: str) -> list[tuple[int, int]]:
    """`speech_spans` of a recording. Raises NoSpeech, naming it, if there is less than 0.5 s of speech in all of them."""
    spans = speech_spans(samples)
    speech_s = sum(end - start for start, end in spans) / SAMPLE_RATE_HZ
    if speech_s < MIN_SPEECH_S:
        raise NoSpeech(f"{name}: holds {speech_s:.2f} s of speech, expected at least {MIN_SPEECH_S} s; record more, or nearer")
    return spans


def trim_silence(samples: np.ndarray, name: str) -> np.ndarray:
    """Cut (n_samples,) float32 at 16 kHz to its part from the first speech to the last, and 0.5 s around it; pauses stay.

    Raises NoSpeech as `require_speech` does.
    """
    spans = require_speech(samples, name)
    pad = round(PAD_S * SAMPLE_RATE_HZ)
    return samples[max(0, spans[0][0] - pad) : spans[-1][1] + pad]
