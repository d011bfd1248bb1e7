from pathlib import Path

import pytest

from speakerprint.errors import InputError
from speakerprint.whisper import obtain_encoder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def pretrained_encoder() -> Path:
    """A real encoder.safetensors: the pipeline's, or one obtained once and kept in .cache; skips where none can be had."""
    cached = ROOT / ".cache/pretrained/encoder.safetensors"
    for path in (ROOT / "data/pretrained/encoder.safetensors", cached):
        if path.is_file():
            return path
    try:
        obtain_encoder("auto", cached)
    except InputError as error:
        pytest.skip(str(error))
    return cached
