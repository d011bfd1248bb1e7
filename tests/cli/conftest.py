"""The command as a user types it, with a model that costs nothing."""

import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from speakerprint.cli import main, options
from speakerprint.errors import InputError
from speakerprint.inference.embedder import SpeakerEmbedder, Verification


class FakeEmbedder:
    """Embeds a file as the length of its name, and a third."""

    model_id = "0123456789abcdef"
    trim_silence = trims_silence = requires_speech = False
    embedding_dim = 2
    thresholds: ClassVar = {0.01: 0.4, 0.001: 0.6}
    threshold = SpeakerEmbedder.threshold

    @classmethod
    def load(cls, folder, device, trim_silence=False, require_speech=False):
        cls.trims_silence, cls.requires_speech = trim_silence, require_speech
        if folder is not None and folder.name != "speakerprint":
            raise InputError(f"{folder} holds no model; run `dvc repro`")
        return cls()

    def verify(self, first, second, false_accept_rate, calibration=None, threshold=None):
        llr = calibration and float(calibration.llr(0.5))
        doubts = tuple(f"{name}: it is clipped" for name in (first, second) if "loud" in name)
        return Verification(
            0.5, None if doubts else first == second, 0.4 if threshold is None else threshold, false_accept_rate, llr, doubts
        )

    def embed_each(self, paths, on_error=None, on_doubt=None):
        for path in paths:
            if "bad" not in str(path):
                yield path, self.embed_files([path], on_doubt)[0]
            elif on_error is None:
                raise InputError(f"{path}: no sound in it")
            else:
                on_error(path, InputError(f"{path}: no sound in it"))

    def embed_files(self, paths, on_doubt=None):
        for path in paths:
            if "loud" in str(path):
                on_doubt(path, ("it is clipped",))
        return np.array([[len(str(path)), 1 / 3] for path in paths], dtype=np.float32)


@pytest.fixture(autouse=True)
def every_recording_is_there(monkeypatch):
    """What a fake embedder hears needs no file."""
    monkeypatch.setattr(options, "is_there", lambda name: name != "missing.wav")


@pytest.fixture
def speakerprint(monkeypatch):
    def as_typed(*arguments: str) -> None:
        monkeypatch.setitem(sys.modules, "speakerprint.inference.embedder", SimpleNamespace(SpeakerEmbedder=FakeEmbedder))
        monkeypatch.setattr(sys, "argv", ["speakerprint", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        if exit.value.code:
            raise exit.value

    run: Any = as_typed
    run.embedder = FakeEmbedder  # for tests that change what it does
    return run
