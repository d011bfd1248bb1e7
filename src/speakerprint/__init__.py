"""Speaker embeddings from a pretrained Whisper encoder.

>>> from speakerprint import SpeakerEmbedder
>>> embedder = SpeakerEmbedder.load()
>>> embedder.embed(waveform, sample_rate_hz=48_000).shape
(256,)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speakerprint.calibration import Calibration, calibrate
    from speakerprint.clustering import cluster
    from speakerprint.embedder import SpeakerEmbedder

__all__ = ["Calibration", "SpeakerEmbedder", "calibrate", "cluster"]
__version__ = "0.1.0"

_MODULES = {  # imported on first use, so that a data stage does not wait for torch
    "Calibration": "calibration",
    "SpeakerEmbedder": "embedder",
    "calibrate": "calibration",
    "cluster": "clustering",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"speakerprint.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
