from collections.abc import Callable
from pathlib import Path

import pytest

from speakerprint.errors import InputError
from speakerprint.model.whisper import obtain_encoder, obtain_whisper

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def pretrained_encoder() -> Path:
    """A real encoder.safetensors: the pipeline's, or one obtained once and kept in .cache; skips where none can be had."""
    return _pretrained("encoder.safetensors", obtain_encoder)


@pytest.fixture(scope="session")
def pretrained_whisper() -> Path:
    """The same of whisper.safetensors."""
    return _pretrained("whisper.safetensors", obtain_whisper)


def _pretrained(name: str, obtain: Callable[[str, Path], None]) -> Path:
    cached = ROOT / ".cache/pretrained" / name
    for path in (ROOT / "data/pretrained" / name, cached):
        if path.is_file():
            return path
    try:
        obtain("auto", cached)
    except InputError as error:
        pytest.skip(str(error))
    return cached
