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
LOGGED = """#!/bin/sh
printf "%s\\n" "$2 $3" >> "$LOG"
mkdir -p models/speakerprint metrics
if [ "$2" = experiments.steps_that_fit ]; then echo said before; echo 777; fi
if [ "$2 $3" = "$FAILING" ]; then exit 1; fi
"""


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

    def call(*arguments, failing=""):
        command = [PROJECT / "experiments/on_a_gpu", *arguments]
        return subprocess.run(command, env=environment | {"FAILING": failing}, check=True)

    return call


@pytest.fixture
def packed(script, tmp_path):
    """A hundred bytes of speech of each corpus and a teacher's embeddings, packed: nothing but the parts is left."""
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
    return tmp_path


def called(folder: Path) -> list[list[str]]:
    """The modules that were called, and with what."""
    return [line.removeprefix("stages.").split() for line in (folder / "log").read_text().splitlines()]


def settings(folder: Path) -> dict:
    return YAML(typ="safe").load(folder / "params.yaml")


@pytest.mark.slow
def test_what_is_packed_is_unpacked_and_learned_from_in_the_pipelines_order(script, packed):
    script("train", "parts", "results", "12", "3")
    for name in CORPORA:
        assert (packed / "data/unpacked" / name / "clip.ogg").stat().st_size == 100
    assert (packed / "data/given/teacher/aunt/french_train.parquet").read_bytes() == b"embeddings"
    params, calls = settings(packed), called(packed)
    assert params["train"]["steps"] == 3 and params["unlabelled_corpora"] == ["unlabelled"]
    assert params["loss"]["teacher_match_weight"] > 0 and params["train"]["mixed_precision"] == "auto"
    assert [params["sampling"][key] for key in ("speakers", "utterances", "unlabelled")] == [64, 2, 64]
    names = [name for name, *_ in calls]
    assert list(dict.fromkeys(names)) == ["download", "identify_language", "filter", "resample", "features", "train", "evaluate"]
    learned = set(params["train_corpora"]) | {"unlabelled", "recorded_noise"}
    judged = {corpus for name, *corpora in calls if name == "evaluate" for corpus in corpora}
    for corpus in learned | judged:
        own = [name for name, *corpora in calls if corpora == [corpus]]
        assert own == ["download", "identify_language", "filter", "resample", "features"] + ["evaluate"] * (corpus in judged)
    assert names.count("train") == 1 and names.index("train") > max(i for i, name in enumerate(names) if name == "features")
    assert all(corpus.endswith("_validation") for corpus in judged)
    assert (packed / "results/speakerprint").is_dir()


@pytest.mark.slow
def test_as_many_steps_are_taken_as_fit_into_the_minutes(script, packed):
    script("train", "parts", "results", "9")
    assert settings(packed)["train"]["steps"] == 777
    names, given = zip(*((name, given) for name, *given in called(packed)), strict=True)
    (seconds,) = given[names.index("experiments.steps_that_fit")]
    assert 0 < int(seconds) <= 9 * 60 - 90
    assert names.index("experiments.steps_that_fit") == names.index("train") - 1


@pytest.mark.slow
def test_a_killed_training_goes_on_as_it_was(script, packed):
    with pytest.raises(subprocess.CalledProcessError):
        script("train", "parts", "results", failing="stages.train ")
    (packed / "models/checkpoint").mkdir()
    (packed / "models/checkpoint/checkpoint.pt").touch()
    (packed / "log").unlink()
    script("train", "parts", "results")
    assert {name for name, *_ in called(packed)} == {"train", "evaluate"}
    assert settings(packed)["train"]["steps"] == 777


@pytest.mark.slow
def test_nothing_is_learned_where_the_features_of_a_corpus_cannot_be_made(script, packed):
    with pytest.raises(subprocess.CalledProcessError):
        script("train", "parts", "results", failing="stages.resample locales_train")
    assert "features french_train" in (packed / "log").read_text()
    assert not {"train", "evaluate"} & {name for name, *_ in called(packed)}


def test_without_a_command_it_says_how_it_is_called(script, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        script()
    assert "on_a_gpu pack DIR PARTS" in capfd.readouterr().err
