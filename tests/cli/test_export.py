"""The commands that write and describe a model, with a model that costs nothing to load."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from speakerprint.cli import main
from speakerprint.inference.model_folder import describe, read_config, write_config
from speakerprint.model import averaging, export
from speakerprint.model.speaker_model import SpeakerModel
from tests.helpers import tiny_model


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    settings = tiny_model(pooling="mean", embedding_dim=8, window_s=2.5)
    made: dict[str, Any] = {"thresholds": {"0.01": 0.25}, "thresholds_from": "french", "commit": "c0ffee"}
    SpeakerModel(settings).save(tmp_path / "model", "5eed", **made)
    return tmp_path / "model"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["speakerprint", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        found = capsys.readouterr()
        assert not exit.value.code, found.err
        return found.out

    return run


@pytest.mark.slow
def test_info_says_what_the_model_is_and_where_it_came_from(run, folder):
    printed = run("info", "--model", folder)
    for said in ("2.5 s", "8 numbers", "0.250 at 1.0% false accepts (chosen on french)", "commit c0ffee, run 5eed", "not stated"):
        assert said in " ".join(printed.split())
    found = json.loads(run("info", "--model", folder, "--json"))
    assert found == describe(folder)
    write_config(folder, read_config(folder) | {"run": "of [/b] models"})
    assert "run of [/b] models" in " ".join(run("info", "--model", folder).split())


@pytest.mark.slow
def test_export_writes_onnx_and_says_how_near_it_is(run, folder, tmp_path, monkeypatch):
    def export_onnx(embedder, path):
        path.write_bytes(bytes(1_200_000))
        return 3.2e-7

    monkeypatch.setattr(export, "export_onnx", export_onnx)  # which has its own tests, and takes its time
    printed = run("export", "--format", "onnx", "--output", tmp_path / "it.onnx", "--model", folder)
    assert printed == f"{tmp_path}/it.onnx: 1.2 MB, within 3e-07 of the embedder's embeddings\n"


@pytest.mark.slow
def test_export_writes_a_folder_and_pushes_it_where_asked(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "push", lambda folder, name: f"https://hub.example/{name} from {folder.name}")
    arguments = ["export", "--format", "huggingface", "--output", tmp_path / "hub", "--model", folder]
    printed = run(*arguments, "--license", "cc0-1.0", "--push", "a/b")
    files, address = printed.splitlines()
    where, names = files.split(": ")
    assert where == f"{tmp_path}/hub"
    assert names.split(", ") == [
        "README.md",
        "config.json",
        "model.onnx",
        "model.safetensors",
        "model_int8.onnx",
        "modeling_speakerprint.py",
        "preprocessor_config.json",
    ]
    assert address == "https://hub.example/a/b from hub"
    assert json.loads(run("info", "--model", tmp_path / "hub", "--json"))["license"] == "cc0-1.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--output", "no/where.onnx"], "there is no folder no; make it first"),
        (["--format", "onnx", "--output", "it.onnx", "--push", "a/b"], "use them with --format huggingface"),
        (["--format", "huggingface", "--output", "hub", "--model", "elsewhere"], "no model in elsewhere"),
    ],
)
def test_what_the_user_can_mend_is_a_message_and_status_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["speakerprint", "export", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    assert (said := capsys.readouterr().err).startswith("error: ") and message in said
    assert not list(tmp_path.iterdir())


def test_average_takes_all_stores_of_the_project_and_says_how_near_the_models_are(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(averaging, "average_folders", lambda *given: asked.append(given) or [1.0, 0.75])
    for corpus in ("b_train", "a_train"):
        (tmp_path / "data/features/train" / corpus).mkdir(parents=True)
        (tmp_path / "data/features/train" / corpus / "recordings.parquet").touch()
    printed = run("average", "models/a", "models/b", "--share", "0.7", "--share", "0.3", "--output", "average")
    assert printed.splitlines()[1:] == [
        "models/b: once turned, its embeddings are at a mean cosine of 0.750",
        "average: the mean of 2 models",
    ]
    stores = [Path(f"data/features/train/{corpus}") for corpus in ("a_train", "b_train")]
    assert asked == [([Path("models/a"), Path("models/b")], stores, Path("average"), [0.7, 0.3])]


@pytest.mark.slow
def test_publish_takes_the_thresholds_from_a_corpus_metrics_and_details(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "params.yaml").touch()
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/dev.json").write_text('{"threshold_at_1pct_false_accepts": 0.5}')
    (tmp_path / "metrics/dev.details.json").write_text('{"threshold_at_0_1pct_false_accepts": 0.75}')
    assert (
        run("publish", "--model", folder, "--output", "mine", "--thresholds", "metrics/dev.json")
        == "mine: config.json, model.onnx, model.safetensors, model_int8.onnx, params.yaml\n"
    )
    assert json.loads(Path("mine/config.json").read_text())["thresholds"] == {"0.01": 0.5, "0.001": 0.75}
    assert "0.500 at 1.0% false accepts, 0.750 at 0.1% false accepts (chosen on dev)" in " ".join(
        run("info", "--model", "mine").split()
    )
