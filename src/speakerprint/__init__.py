"""Speaker embeddings from a pretrained Whisper encoder.

>>> from speakerprint import SpeakerEmbedder
>>> embedder = SpeakerEmbedder.load()
>>> embedder.embed(waveform, sample_rate_hz=48_000).shape
(256,)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speakerprint.embedder import SpeakerEmbedder

__all__ = ["SpeakerEmbedder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # imported on first use, so that a data stage does not wait for torch
    if name == "SpeakerEmbedder":
        from speakerprint.embedder import SpeakerEmbedder

        return SpeakerEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
