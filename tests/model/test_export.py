"""A model elsewhere gives the embeddings that it gives here."""

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from huggingface_hub.repocard import metadata_load

import speakerprint
from speakerprint import SpeakerEmbedder
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.corpora.sources.espeak import ESPEAK_SAMPLE_RATE_HZ, speak
from speakerprint.errors import InputError
from speakerprint.inference.model_folder import SHIPPED, describe
from speakerprint.inference.network import Network
from speakerprint.model.export import export_huggingface, export_onnx, push
from speakerprint.model.speaker_model import SpeakerModel
from tests.helpers import tiny_model

OTHER = tiny_model(pooling="mean")  # than the shipped one in every respect


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """12 s and more at 16 kHz."""
    text = "Seven small ships sailed past the old harbour while the keeper of the light was still asleep in his chair. "
    return resample(speak(3 * text, "en-us", rate_wpm=150, pitch=40, pitch_range=50), ESPEAK_SAMPLE_RATE_HZ, 16_000)


@pytest.fixture
def own_model(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "mine/model"
    SpeakerModel(OTHER).save(folder, "a run")
    return folder


# --- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["shipped", "other"])
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = SHIPPED
    if request.param == "other":
        folder = tmp_path_factory.mktemp("model")
        SpeakerModel(OTHER).save(folder, "a run", thresholds={0.01: 0.5})
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export_onnx(SpeakerEmbedder.load(folder), path) < 1e-4
    return SpeakerEmbedder(Network(folder, in_float32=True)), path


@pytest.mark.slow
def test_onnx_runtime_embeds_speech_of_any_length_as_the_model_does(exported, speech):
    embedder, path = exported
    session = onnxruntime.InferenceSession(path)
    for n in (1_600, 1_601, 20_000, 63_999, 64_000, 64_001, 100_003, 192_000):
        (found,) = session.run(None, {"waveform": speech[None, :n]})
        np.testing.assert_allclose(found[0], embedder.embed(speech[:n], 16_000), atol=1e-4)


@pytest.mark.slow
def test_a_batch_is_embedded_as_its_recordings_are(exported, speech):
    embedder, path = exported
    batch = speech[:195_000].reshape(3, 65_000)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"waveform": batch})
    np.testing.assert_allclose(found, [embedder.embed(clip, 16_000) for clip in batch], atol=1e-4)


@pytest.mark.slow
def test_the_file_is_valid_and_says_whose_embeddings_it_gives(exported):
    embedder, path = exported
    onnx.checker.check_model(path, full_check=True)
    properties = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert properties["model_id"] == embedder.model_id
    assert json.loads(properties["thresholds"]) == {str(rate): score for rate, score in embedder.thresholds.items()}


@pytest.mark.slow
@pytest.mark.parametrize("n", [1_600, 1_601, 1_759, 16_000, 48_123])
@pytest.mark.parametrize("loudest_at_the_end", [False, True])
def test_its_features_are_those_of_the_library(exported, n, loudest_at_the_end):
    embedder, path = exported
    waveform = np.random.default_rng(n).normal(scale=0.01, size=n).astype(np.float32)
    waveform[-40:] *= 100 if loudest_at_the_end else 0
    (found,) = onnxruntime.InferenceSession(path).run(None, {"waveform": waveform[None]})
    np.testing.assert_allclose(found, embedder.embed_frames([log_mel(waveform)]), atol=1e-4)


# --- the Hugging Face hub -----------------------------------------------------------------------------------------------


def metadata_of(card: Path) -> dict[str, Any]:
    metadata = metadata_load(card)
    assert metadata is not None
    return metadata


@pytest.mark.slow
def test_the_shipped_model_as_a_folder_of_the_hub_is_the_same_model_with_a_card(tmp_path):
    export_huggingface(None, tmp_path / "hub")
    again = SpeakerEmbedder.load(tmp_path / "hub")
    assert again.model_id == SpeakerEmbedder.load().model_id and sorted(again.thresholds) == [0.001, 0.01]
    metadata = metadata_of(tmp_path / "hub/README.md")
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "speakerprint"
    assert metadata["pipeline_tag"] == "feature-extraction" and "speaker-verification" in metadata["tags"]
    card = (tmp_path / "hub/README.md").read_text(encoding="utf-8")
    assert "# speakerprint-base" in card and "as in docs/protocol.md" in card and "../" not in card
    assert (tmp_path / "hub/params.yaml").read_bytes() == (SHIPPED / "params.yaml").read_bytes()


@pytest.mark.slow
def test_transformers_auto_classes_load_it_and_embed_as_the_embedder_does(speech, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    export_huggingface(None, tmp_path / "hub")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hub")
    model = transformers.AutoModel.from_pretrained(tmp_path / "hub", trust_remote_code=True)
    assert not model.training and model.config.model_id == describe(SHIPPED)["model_id"]
    waves = [speech[: 2 * SAMPLE_RATE_HZ], speech]  # shorter than a window, and longer
    expected = SpeakerEmbedder(Network(SHIPPED, in_float32=True)).embed_waveforms(waves, SAMPLE_RATE_HZ)
    for options in ({}, {"return_attention_mask": True}):
        features = extractor(waves, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", **options)
        found = model(**features).embeddings
        found.sum().backward()
        np.testing.assert_allclose(found.detach(), expected, atol=1e-3)


@pytest.mark.slow
def test_a_model_without_a_card_gets_one_that_claims_no_licence(own_model, tmp_path):
    export_huggingface(own_model, tmp_path / "hub")
    assert "license" not in metadata_of(tmp_path / "hub/README.md")
    assert 'speakerprint.load("OWNER/model")' in (tmp_path / "hub/README.md").read_text()
    assert describe(tmp_path / "hub")["license"] is None


@pytest.mark.slow
def test_a_cards_own_metadata_stay_and_the_licence_that_is_named_wins(own_model, tmp_path):
    card = "---\nlicense: mit\nlanguage: fr\ntags: [own]\n---\n# Mine\n\n[a](b.md), ![a](b.png), [a](https://b.example)\n"
    (own_model / "README.md").write_text(card)
    export_huggingface(own_model, tmp_path / "first")
    export_huggingface(own_model, tmp_path / "second", license="cc-by-4.0")
    first, second = (metadata_of(tmp_path / name / "README.md") for name in ("first", "second"))
    assert (first["license"], first["language"], first["tags"]) == ("mit", "fr", ["own"])
    assert second == {**first, "license": "cc-by-4.0"}
    text = (tmp_path / "first/README.md").read_text()
    assert text.endswith("# Mine\n\na, ![a](b.png), [a](https://b.example)\n")


def test_what_is_in_the_way_is_not_overwritten(tmp_path):
    (tmp_path / "note.txt").touch()
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        export_huggingface(None, tmp_path)


@pytest.mark.slow
def test_a_model_is_described_by_what_its_folder_says(own_model):
    found = describe(own_model)
    model = SpeakerModel(OTHER)
    assert (found["layers"], found["embedding_dim"], found["window_s"]) == (1, 12, 30.0)
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["bytes"] == sum(path.stat().st_size for path in own_model.glob("model*"))
    assert (found["run"], found["commit"], found["thresholds"]) == ("a run", None, {})
    assert describe()["commit"] == json.loads((SHIPPED / "config.json").read_text())["commit"]
    assert describe()["license"] == "apache-2.0"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: a folder per model."""

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        (tmp_path / "hub" / repo_id).rmdir()
        return folder_path.rename(tmp_path / "hub" / repo_id)

    def create_repo(self, repo_id, *, exist_ok):
        (tmp_path / "hub" / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub.example/{repo_id}"

    def snapshot_download(repo_id, *, revision, allow_patterns):
        if not (tmp_path / "hub" / repo_id).is_dir():
            raise FileNotFoundError("404")
        assert {"config.json", "model.onnx", "model_int8.onnx", "model.safetensors"} <= set(allow_patterns)
        if revision not in (None, "v2"):
            raise FileNotFoundError(f"no revision {revision}")
        return str(tmp_path / "hub" / repo_id)

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_what_is_pushed_to_the_hub_is_loaded_from_it_by_name(own_model, tmp_path):
    export_huggingface(own_model, tmp_path / "out")
    assert push(tmp_path / "out", "somebody/voices") == "https://hub.example/somebody/voices"
    assert speakerprint.load("somebody/voices").model_id == SpeakerEmbedder.load(own_model).model_id
    assert speakerprint.load("somebody/voices@v2").model_id == SpeakerEmbedder.load(own_model).model_id
    with pytest.raises(InputError, match="no revision v3"):
        speakerprint.load("somebody/voices@v3")


@pytest.mark.usefixtures("hub")
def test_what_is_neither_here_nor_on_the_hub_is_an_error_that_says_so():
    with pytest.raises(
        InputError, match=r"no folder somebody/else, and no such model can be had from .* hub: FileNotFoundError: 404"
    ):
        speakerprint.load("somebody/else")


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_the_hub_is_not_asked_for_what_stands_in_a_folder_that_is_here(own_model):
    assert speakerprint.load("mine/model").model_id == SpeakerEmbedder.load(own_model).model_id
    for name in ("mine/other", "other", "a/b/c"):
        with pytest.raises(InputError, match=f"no model in {name}"):
            speakerprint.load(name)


def test_a_hub_that_refuses_a_model_is_quoted_with_a_remedy(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError("401 Unauthorized")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match=r"does not take a/b: PermissionError: 401 Unauthorized\n`hf auth login`"):
        push(tmp_path, "a/b")


@pytest.mark.hub
def test_from_the_real_hub_a_repository_is_downloaded_and_found_to_hold_another_kind_of_model(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        speakerprint.load("hf-internal-testing/tiny-random-WhisperModel")
    if "can be had" in str(caught.value):
        pytest.skip(str(caught.value))
    assert "has format None, expected 'speakerprint-2'" in str(caught.value)
