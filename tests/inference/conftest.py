"""The shipped model, and a recording put together from three CC0 clips of two speakers: ann twice, bob once."""

from importlib.resources import files

import numpy as np
import pytest
import soundfile

import speakerprint
from speakerprint import SpeakerEmbedder

PAUSE = np.zeros(12_000, np.float32)


@pytest.fixture(scope="module")
def embedder() -> SpeakerEmbedder:
    return SpeakerEmbedder.load()


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    folder = files(speakerprint) / "samples"
    return {name: soundfile.read(folder / f"{name}.ogg", dtype="float32")[0] for name in ("ann-1", "ann-2", "bob")}


@pytest.fixture(scope="module")
def conversation(clips) -> np.ndarray:
    return np.concatenate([clips["ann-1"], PAUSE, clips["bob"], PAUSE, clips["ann-2"]])
