"""One HTML file of a recording of several people: who spoke when, to listen to and to put names to.

It needs neither the network nor another file: the recording is in it, as Opus.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.stream import AudioStream
from speakerprint.files import write_text
from speakerprint.inference.diarization import Diarization
from speakerprint.inference.embedder import resampled
from speakerprint.pages import toolkit

N_PEAKS = 400  # of a waveform


def conversation_data(found: Diarization, recording: str | Path) -> dict[str, Any]:
    """What the page shows, as JSON. ``heard_s`` is None, or, of a long recording, how many seconds of it are in the page."""
    stream = AudioStream(recording)
    loudest = np.zeros(N_PEAKS, np.float32)
    sound = toolkit.Opus()
    n_samples = n_heard = 0
    for block in resampled(stream, stream.sample_rate_hz):
        add_peaks(loudest, block, n_samples, round(found.duration_s * SAMPLE_RATE_HZ))
        n_samples += len(block)
        if sound.size < toolkit.MAX_AUDIO_BYTES:
            sound.add(block)
            n_heard = n_samples
    return {
        "name": Path(recording).name,
        **shown(found, loudest),
        "audio": sound.base64(),
        "heard_s": n_heard / SAMPLE_RATE_HZ if n_heard < n_samples else None,
    }


def add_peaks(loudest: NDArray[np.float32], block: NDArray[np.float32], start: int, n_samples: int) -> None:
    """Raise the peaks of equal parts of a recording of n_samples, (parts,), by a block of it, (n,), that begins at ``start``."""
    if len(block):
        parts = (start + np.arange(len(block))) * len(loudest) // max(n_samples, start + len(block))
        places, starts = np.unique(parts, return_index=True)
        loudest[places] = np.maximum(loudest[places], np.maximum.reduceat(np.abs(block), starts))


def shown(found: Diarization, loudest: NDArray[np.float32]) -> dict[str, Any]:
    """What a timeline is drawn from: loudest (parts,) are the peaks of equal parts of the recording."""
    return {
        "duration_s": round(found.duration_s, 3),
        "turns": [
            {name: round(value, 3) if isinstance(value, float) else value for name, value in turn._asdict().items()}
            for turn in found.turns
        ],
        "speakers": list(found.speakers),
        "peaks": np.minimum(1, loudest).round(3).tolist(),
        "doubts": list(found.doubts),
    }


def write_conversation(found: Diarization, recording: str | Path, output: str | Path) -> None:
    """Write the page of a recording, of which ``found`` says who spoke when. Raises UndecodableAudio as `AudioStream`."""
    sources = "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    data = toolkit.as_script(conversation_data(found, recording))
    write_text(toolkit.fill("conversation.html", title="Who spoke when", sources=sources, data=data), output)
