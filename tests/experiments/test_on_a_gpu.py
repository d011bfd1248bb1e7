"""experiments/on_a_gpu: what it packs here is what it unpacks there, and the stages run in the pipeline's order."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[2]
CORPORA = ("french", "english", "locales", "speechocean", "librispeech", "noise", "unlabelled")
LOGGED = '#!/bin/sh\nprintf "%s\\n" "$2 $3" >> "$LOG"\nmkdir -p models/speakerprint metrics\n'


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Call the script in a project whose stages only say that they were called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(LOGGED)
    (tmp_path / "bin/python").chmod(0o755)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    path = f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"  # our python before the one with speakerprint
    environment = os.environ | {"PATH": path, "LOG": str(tmp_path / "log")}

    def call(*arguments):
        return subprocess.run([PROJECT / "experiments/on_a_gpu", *arguments], env=environment, check=True)

    return call


@pytest.mark.slow
def test_what_is_packed_is_unpacked_and_learned_from_in_the_pipelines_order(script, tmp_path):
    shared, linked = tmp_path / "shared", tmp_path / "linked"
    linked.mkdir()
    for name in CORPORA:
        (shared / name).mkdir(parents=True)
        (shared / name / "clip.ogg").write_bytes(os.urandom(100))
        (linked / name).symlink_to(shared / name)
    taught = tmp_path / "data/given/teacher/aunt/french_train.parquet"
    taught.parent.mkdir(parents=True)
    taught.write_bytes(b"embeddings")
    script("pack", "linked", "parts")
    shutil.rmtree(shared), shutil.rmtree(tmp_path / "data")

    script("train", "parts", "results", "3")
    for name in CORPORA:
        assert (tmp_path / "data/unpacked" / name / "clip.ogg").stat().st_size == 100
    assert taught.read_bytes() == b"embeddings"
    params = YAML(typ="safe").load(tmp_path / "params.yaml")
    assert params["train"]["steps"] == 3 and params["unlabelled_corpora"] == ["unlabelled"]
    assert params["loss"]["teacher_similarity_weight"] > 0
    stages = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    names = [stage.removeprefix("stages.") for stage, *_ in stages]
    assert list(dict.fromkeys(names)) == ["download", "identify_language", "filter", "resample", "features", "train", "evaluate"]
    learned = set(params["train_corpora"]) | {"unlabelled", "recorded_noise"}
    judged = {corpus for stage, *corpora in stages if stage == "stages.evaluate" for corpus in corpora}
    assert {corpus for stage, *corpora in stages if stage == "stages.features" for corpus in corpora} == learned | judged
    assert all(corpus.endswith("_validation") for corpus in judged)
    assert (tmp_path / "results/speakerprint").is_dir()


def test_without_a_command_it_says_how_it_is_called(script, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        script()
    assert "on_a_gpu pack DIR PARTS" in capfd.readouterr().err
