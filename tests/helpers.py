"""What several test modules build on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speakerprint.params.model import Model

KEEP_EVERYTHING: dict[str, Any] = {  # a corpus's `filter` section without any rule
    "exclude": None,
    "min_up_votes": 0,
    "max_down_votes": None,
    "min_duration_s": 0.0,
    "max_duration_s": None,
    "genders": None,
    "locales": None,
    "languages": None,
    "speaker_range": [0.0, 1.0],
    "min_recordings_per_speaker": 1,
    "max_recordings_per_speaker": None,
    "when_too_many": "drop",
    "seed": 1,
}


def touch(root: Path, *names: str) -> Path:
    """Make empty files, and the folders they are in; returns `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def tiny_model(**settings: Any) -> Model:
    """Settings of a model of one layer that embeds in milliseconds; what is given differs."""
    tiny: dict[str, Any] = {
        "layers": 1,
        "layer_combination": "last",
        "pooling": "attentive_statistics",
        "projection": "mlp",
        "embedding_dim": 12,
        "window_s": 30.0,
    }
    return Model(**(tiny | settings))


def narrow_encoders(patch: pytest.MonkeyPatch) -> None:
    """From now on Whisper's encoder is a quarter as wide, with heads as wide as ever: what takes seconds takes tenths."""
    from speakerprint.model import onnx_graph, speaker_model, whisper

    narrow = replace(whisper.DIMS, width=128, n_heads=2)
    patch.setattr(whisper, "DIMS", narrow)
    patch.setattr(speaker_model, "DIMS", narrow)
    patch.setattr(onnx_graph, "WIDTH", narrow.width)
