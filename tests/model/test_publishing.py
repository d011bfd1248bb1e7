"""What is shipped: half the size, the same embeddings but for float16, and what a user has to know in config.json."""

import json

import numpy as np
import pytest
import torch

from speakerprint.errors import InputError
from speakerprint.model.publishing import publish
from speakerprint.model.speaker_model import SpeakerModel
from tests.helpers import tiny_model

CLIPS = [np.random.default_rng(seed).normal(size=(60, 80)).astype(np.float32) for seed in range(4)]
THRESHOLDS = {"0.01": 0.25, "0.001": 0.5}


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    SpeakerModel(tiny_model(pooling="mean", embedding_dim=8)).save(tmp_path / "trained", "5eed")
    (tmp_path / "trained/params.yaml").write_text("# its recipe\n")
    return tmp_path / "trained"


@pytest.mark.slow
def test_it_is_half_the_size_and_embeds_nearly_the_same(trained, tmp_path):
    publish(trained, tmp_path / "out", THRESHOLDS, "french")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "out", trained)]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.05)
    whole, halved = (SpeakerModel.load(folder).embed_frames(CLIPS) for folder in (trained, tmp_path / "out"))
    assert (whole * halved).sum(axis=1).min() > 0.999
    assert (tmp_path / "out/params.yaml").read_text() == "# its recipe\n"


@pytest.mark.slow
def test_its_configuration_has_thresholds_and_what_made_it(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no repository: no commit
    publish(trained, tmp_path / "out", THRESHOLDS, "french")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["thresholds"], config["thresholds_from"], config["commit"]) == (THRESHOLDS, "french", None)
    assert config["run"] == "5eed"


@pytest.mark.slow
def test_weights_that_float16_cannot_hold_are_refused_and_nothing_is_written(trained, tmp_path):
    model = SpeakerModel.load(trained)
    with torch.no_grad():
        model.encoder.conv1.bias.fill_(1e6)
    model.save(tmp_path / "large", "5eed")
    with pytest.raises(InputError, match=r"encoder\.conv1\.bias has values that float16 cannot hold"):
        publish(tmp_path / "large", tmp_path / "out", THRESHOLDS, "french")
    assert not (tmp_path / "out").exists()
