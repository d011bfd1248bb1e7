import pytest
import torch

import speakerprint.training.start as start
from speakerprint.model.whisper import WhisperEncoder
from tests.helpers import narrow_encoders
from tests.training.runs import Run, tiny_recipe, write_store


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    narrow_encoders(monkeypatch)
    write_store(tmp_path / "a")
    torch.manual_seed(0)
    encoder = WhisperEncoder(1)
    monkeypatch.setattr(start, "load_encoder", lambda path, layers: encoder)
    return Run(tmp_path, tiny_recipe())
