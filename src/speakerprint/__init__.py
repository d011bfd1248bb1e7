"""Speaker embeddings from a pretrained Whisper encoder.

>>> import speakerprint
>>> embedder = speakerprint.load()
>>> embedder.embed(waveform, sample_rate_hz=48_000).shape
(256,)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speakerprint.evaluation.calibrate import calibrate
    from speakerprint.inference.calibration import Calibration
    from speakerprint.inference.clustering import cluster
    from speakerprint.inference.embedder import SpeakerEmbedder
    from speakerprint.inference.gallery import Gallery

    load = SpeakerEmbedder.load

__all__ = ["Calibration", "Gallery", "SpeakerEmbedder", "calibrate", "cluster", "load"]
__version__ = "0.1.0"

_MODULES = {  # imported on first use, so that a data stage does not wait for torch
    "Calibration": "inference.calibration",
    "Gallery": "inference.gallery",
    "SpeakerEmbedder": "inference.embedder",
    "calibrate": "evaluation.calibrate",
    "cluster": "inference.clustering",
}


def __getattr__(name: str) -> Any:
    if name == "load":
        return __getattr__("SpeakerEmbedder").load
    if name in _MODULES:
        return getattr(importlib.import_module(f"speakerprint.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
