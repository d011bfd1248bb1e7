"""A model folder is read as it was written, or not at all."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import speakerprint
from speakerprint.errors import InputError
from speakerprint.inference.model_folder import find_model, read_config, read_model, write_config
from speakerprint.model.export import export_huggingface
from speakerprint.model.speaker_model import SpeakerModel
from tests.helpers import tiny_model

FILES = ["config.json", "model.onnx", "model_int8.onnx", "model.safetensors"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    SpeakerModel(tiny_model()).save(folder, "a run", thresholds={"0.01": 0.4})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_a_flipped_bit_anywhere_is_refused(folder, file, place):
    content = bytearray((folder / file).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / file).write_bytes(content)
    for load in (speakerprint.load, SpeakerModel.load):
        with pytest.raises(InputError, match=r"damaged|format|missing"):
            load(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_cut_or_missing_file_is_named(folder, file):
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(InputError, match=rf"{file}.*(damaged|no JSON)"):
        speakerprint.load(folder)
    (folder / file).unlink()
    with pytest.raises(InputError, match=rf"no model in .*{file} is missing"):
        speakerprint.load(folder)


@pytest.mark.parametrize(("rate", "score"), [("0.01", float("nan")), ("0.01", 5), ("0.01", -2), ("0", 0.5), ("1", 0.5)])
def test_a_threshold_that_no_score_can_mean_is_never_written_and_never_read(folder, rate, score):
    with pytest.raises(InputError, match="expected a rate between 0 and 1 and a score from -1 to 1"):
        write_config(folder, read_config(folder) | {"thresholds": {rate: score}})
    assert speakerprint.load(folder).thresholds == {0.01: 0.4}


@pytest.mark.parametrize("content", ["[]", "null", "7", "{", "\x00"])
def test_a_config_that_is_no_object_is_damaged(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="damaged"):
        speakerprint.load(folder)


def test_a_network_whose_answer_is_no_number_gives_an_error_and_no_embedding(folder):
    weights = load_file(folder / "model.safetensors")
    weights["projection.2.bias"][3] = torch.nan
    save_file(weights, folder / "model.safetensors")
    write_config(folder, read_config(folder))  # whole, but for what it computes
    with pytest.raises(InputError, match="gives embeddings that are not finite"):
        speakerprint.load(folder).embed(np.random.default_rng(0).normal(size=16_000), 16_000)


@pytest.mark.slow
def test_a_model_of_the_first_format_is_made_one_of_today_by_export(folder, tmp_path):
    weights, config = load_file(folder / "model.safetensors"), read_config(folder)
    old = tmp_path / "old"
    old.mkdir()
    save_file(weights | {"centre": torch.zeros(12)}, old / "model.safetensors")
    settings = config["model"] | {"convolution_channels": 0, "centred": False}
    (old / "config.json").write_text(json.dumps({"format": "speakerprint-1", "model": settings, "run": "a run"}))
    with pytest.raises(InputError, match="has format 'speakerprint-1', expected 'speakerprint-2'; make it again with"):
        speakerprint.load(old)
    export_huggingface(old, tmp_path / "new")
    assert read_model(tmp_path / "new").model_id == read_model(folder).model_id


def test_without_the_hubs_client_a_name_is_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"there is no folder some/model; .* pip install 'speakerprint\[hub\]'"):
        find_model("some/model")
