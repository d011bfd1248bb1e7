"""The graph of 8-bit integers: equal on all processors, equal in any company, and never far from the model."""

from importlib.resources import files

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from onnx import numpy_helper

import speakerprint
from speakerprint import SpeakerEmbedder
from speakerprint.audio.log_mel import log_mel
from speakerprint.inference import network
from speakerprint.inference.model_folder import SHIPPED, read_config, write_config
from speakerprint.inference.network import Network
from speakerprint.model import speaker_model
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.runtime import CPU, CUDA
from tests.helpers import tiny_model

UNSIGNED, SIGNED_16 = 255, 2**15 - 1  # the largest of 8 bits, and of 16


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    SpeakerModel(tiny_model(window_s=0.5)).save(tmp_path / "model", "a run")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """Log-mel features of three CC0 recordings of two speakers, whole, then in pieces of 1.5 s."""
    folder = files(speakerprint) / "samples"
    samples = [soundfile.read(folder / f"{name}.ogg", dtype="float32")[0] for name in ("ann-1", "ann-2", "bob")]
    pieces = [piece for one in samples for piece in np.array_split(one, len(one) // 24_000)]
    return [log_mel(one) for one in [*samples, *pieces]]


def test_no_processor_cuts_off_the_sum_of_two_products(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(SHIPPED / "model_int8.onnx", options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx")
    weights = {one.name: numpy_helper.to_array(one) for one in loaded.graph.initializer if one.data_type == onnx.TensorProto.INT8}
    products = [weights[node.input[1]] for node in loaded.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert len(products) == 2 + 3 * 6 + 2  # the convolutions, three layers, the pooling's attention
    largest = [np.abs(product.astype(int)).reshape(-1, 2, product.shape[1]).sum(axis=1).max() for product in products]
    assert max(largest) * UNSIGNED <= SIGNED_16
    assert min(largest) >= 126  # and hardly a step is wasted


def test_an_embedding_by_integers_does_not_depend_on_what_it_is_embedded_with(speech):
    network = Network(SHIPPED)
    np.testing.assert_array_equal(network.embed_frames(speech[:2]), [network.embed_frames([one])[0] for one in speech[:2]])


@pytest.mark.slow
def test_verdicts_by_integers_are_those_of_the_model_on_speech(speech):
    exact, rounded = (Network(SHIPPED, in_float32=in_float32).embed_frames(speech) for in_float32 in (True, False))
    pairs = np.triu_indices(len(speech), 1)
    scores, found = (exact @ exact.T)[pairs], (rounded @ rounded.T)[pairs]
    assert 1e-4 < np.abs(found - scores).max() < 0.04
    for threshold in SpeakerEmbedder.load().thresholds.values():
        differs = (scores >= threshold) != (found >= threshold)
        assert np.abs(scores[differs] - threshold).max(initial=0) < 0.02  # only where the model is itself of two minds
        assert differs.mean() < 0.05
    assert [score >= 0.446 for score in found[[0, 1, len(speech) - 1]]] == [True, False, False]  # ann and ann, ann and bob


@pytest.mark.slow
def test_a_folder_without_the_graph_of_integers_embeds_in_float32(folder, speech):
    (folder / "model_int8.onnx").unlink()
    write_config(folder, read_config(folder))
    found = SpeakerEmbedder.load(folder).embed_frames(speech[:1])
    np.testing.assert_array_equal(found, Network(folder, in_float32=True).embed_frames(speech[:1]))


def test_a_gpu_computes_in_float32(folder, monkeypatch):
    opened, real = [], network.open_session
    monkeypatch.setattr(network, "usable_providers", lambda device: [CUDA, CPU])
    monkeypatch.setattr(network, "open_session", lambda path, device: opened.append((path.name, device)) or real(path, "cpu"))
    Network(folder, "auto")
    assert opened == [("model.onnx", "auto")]


@pytest.mark.slow
def test_a_model_that_integers_change_too_much_is_saved_without_their_graph(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(speaker_model, "LEAST_COSINE", 1.1)
    with pytest.warns(UserWarning, match=r"embeds in float32: 8-bit integers turn it by a cosine of 1\.000"):
        SpeakerModel.load(folder).save(tmp_path / "again", "a run")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["config.json", "model.onnx", "model.safetensors"]
    assert sorted(read_config(tmp_path / "again")["files"]) == ["model.onnx", "model.safetensors"]
    SpeakerEmbedder.load(tmp_path / "again")


@pytest.mark.slow
def test_a_row_of_zeros_stays_zeros(folder):
    model = SpeakerModel.load(folder)
    weights = model.state_dict()  # which shares their memory
    weights["encoder.layers.0.fc1.weight"][3] = 0
    model.save(folder, "a run")
    assert "model_int8.onnx" in read_config(folder)["files"]
