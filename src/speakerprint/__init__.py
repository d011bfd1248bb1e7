"""Speaker embeddings from a pretrained Whisper encoder.

>>> import speakerprint
>>> embedder = speakerprint.load()
>>> embedder.embed(waveform, sample_rate_hz=48_000).shape
(128,)
"""

import importlib
from typing import TYPE_CHECKING, Any

from speakerprint.errors import InputError

if TYPE_CHECKING:
    from speakerprint.evaluation.calibrate import calibrate
    from speakerprint.inference.calibration import Calibration
    from speakerprint.inference.clustering import cluster
    from speakerprint.inference.diarization import Diarization, Turn, diarize
    from speakerprint.inference.embedder import SpeakerEmbedder, Verification, Window
    from speakerprint.inference.gallery import Gallery
    from speakerprint.inference.listener import Event, Listener

    load = SpeakerEmbedder.load

__all__ = [
    "Calibration",
    "Diarization",
    "Event",
    "Gallery",
    "InputError",
    "Listener",
    "SpeakerEmbedder",
    "Turn",
    "Verification",
    "Window",
    "calibrate",
    "cluster",
    "diarize",
    "load",
]

_MODULES = {  # imported on first use, so that nobody waits for what they do not use
    "Calibration": "inference.calibration",
    "Diarization": "inference.diarization",
    "Event": "inference.listener",
    "Gallery": "inference.gallery",
    "Listener": "inference.listener",
    "SpeakerEmbedder": "inference.embedder",
    "Turn": "inference.diarization",
    "Verification": "inference.embedder",
    "Window": "inference.embedder",
    "calibrate": "evaluation.calibrate",
    "cluster": "inference.clustering",
    "diarize": "inference.diarization",
}


def __getattr__(name: str) -> Any:
    if name == "load":
        return __getattr__("SpeakerEmbedder").load
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("speakerprint")
    if name in _MODULES:
        return getattr(importlib.import_module(f"speakerprint.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
