"""What the pages share: templates that are filled to one file whole in itself, and recordings in it to listen to."""

import base64
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import resample

if TYPE_CHECKING:
    from speakerprint.evaluation.trials import Trials

PAGES = Path(__file__).parent
BATCH_S = 120.0  # seconds of audio embedded at once
SCORE_BINS = 80
MAX_LISTEN_S = 20.0
MAX_AUDIO_BYTES = 24 * 2**20  # of Opus, a third more in the page
OPUS_BIT_RATE = 20_000


def fill(template: str, **parts: str) -> str:
    """A template of this folder with each ``{{part}}`` filled in: a part's text as it is, or, of a name with a dot, a file's.

    Of files, HTML is a template in turn. Parts that came from a user are escaped by the caller (`html.escape`, `as_script`).
    """

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if "." not in name:
            return parts[name]
        return fill(name, **parts) if name.endswith(".html") else (PAGES / name).read_text(encoding="utf-8")

    return re.sub(r"\{\{(.+?)\}\}", part, (PAGES / template).read_text(encoding="utf-8"))


def as_script(data: Any) -> str:
    """Data as JSON for a <script>: no name of a file or a speaker in it can end the script."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def score_histogram(trials: "Trials") -> dict[str, list[float]]:
    """Densities of the scores of the target and of the non-target trials, between edges, as JSON."""
    names = ("edges", "target", "nontarget")
    return {name: np.round(values, 4).tolist() for name, values in zip(names, trials.densities(SCORE_BINS), strict=True)}


def embed_audio(recordings: Iterable[tuple[int, NDArray[np.float32], int]]) -> dict[int, str]:
    """Recordings (index, samples, sample rate in Hz), cut after 20 s, as Opus in base64: the first ones, while there is room."""
    texts: dict[int, str] = {}
    room = MAX_AUDIO_BYTES
    for index, samples, sample_rate_hz in recordings:
        opus = encode_opus(samples[: round(MAX_LISTEN_S * sample_rate_hz)], sample_rate_hz)
        room -= len(opus)
        if room < 0:
            break
        texts[index] = base64.b64encode(opus).decode()
    return texts


def encode_opus(samples: NDArray[np.float32], sample_rate_hz: int) -> bytes:
    """(n_samples,) as Ogg Opus at 20 kbit/s, to be listened to."""
    sound = Opus()
    sound.add(resample(samples, sample_rate_hz, SAMPLE_RATE_HZ))
    return sound.bytes()


class Opus:
    """Ogg Opus at 20 kbit/s, to be listened to, made of blocks of samples at 16 kHz as they come."""

    def __init__(self) -> None:
        self._stream = io.BytesIO()
        # the same recording gives the same bytes: without bitexact, an Ogg stream has a random number
        self._file = av.open(self._stream, "w", format="ogg", options={"fflags": "+bitexact"})
        settings = {"application": "voip", "compression_level": "5"}  # of 10, which takes half as long again for no fewer bytes
        self._track = self._file.add_stream(
            "libopus", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=OPUS_BIT_RATE, options=settings
        )

    @property
    def size(self) -> int:
        """Bytes so far, about."""
        return self._stream.tell()

    def add(self, samples: NDArray[np.float32]) -> None:
        """Encode (n_samples,) more."""
        if not len(samples):
            return
        wave = np.ascontiguousarray(np.clip(samples, -1, 1), np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        self._file.mux(self._track.encode(frame))

    def bytes(self) -> bytes:
        """The whole file: nothing can be added any more."""
        self._file.mux(self._track.encode(None))
        self._file.close()
        return self._stream.getvalue()

    def base64(self) -> str:
        """The whole file, for a ``data:`` address."""
        return base64.b64encode(self.bytes()).decode()
