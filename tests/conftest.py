from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from speakerprint.errors import InputError
from speakerprint.model.whisper import obtain_encoder, obtain_whisper

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several workers (`make test`), none is left with a slow module at the end: those come first, the slowest before all."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "end_to_end" not in item.path.parts))


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
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cached}.lock"):  # another worker may be at it
        if not cached.is_file():
            try:
                obtain("auto", cached)
            except InputError as error:
                pytest.skip(str(error))
    return cached
