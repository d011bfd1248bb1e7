import json
import shutil
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from speakerprint.cli import main
from speakerprint.embedder import Verification
from speakerprint.errors import InputError
from speakerprint.presets import use_preset

PROJECT = Path(__file__).parents[1]


class FakeEmbedder:
    """Embeds a file as the length of its name, and a third."""

    @classmethod
    def load(cls, folder):
        if folder is not None and folder.name != "speakerprint":
            raise InputError(f"{folder} holds no model; run `dvc repro`")
        return cls()

    def verify(self, first, second, false_accept_rate):
        return Verification(0.5, first == second, 0.4, false_accept_rate)

    def embed_files(self, paths):
        return np.array([[len(str(path)), 1 / 3] for path in paths], dtype=np.float32)


@pytest.fixture
def speakerprint(monkeypatch):
    def run(*arguments: str) -> None:
        monkeypatch.setitem(sys.modules, "speakerprint.embedder", SimpleNamespace(SpeakerEmbedder=FakeEmbedder))
        monkeypatch.setattr(sys, "argv", ["speakerprint", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        if exit.value.code:
            raise exit.value

    return run


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project's settings, at the demo, whatever this checkout is switched to."""
    shutil.copytree(PROJECT / "presets", tmp_path / "presets")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    use_preset("corpora/demo")
    return tmp_path


def test_embed_prints_one_json_line_a_file_that_reads_back_as_the_same_float32(speakerprint, capsys):
    speakerprint("embed", "a.wav", "long.mp3")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"path": "a.wav", "embedding": [5.0, 0.33333334]}, {"path": "long.mp3", "embedding": [8.0, 0.33333334]}]
    assert np.float32(rows[0]["embedding"][1]) == np.float32(1 / 3)


def test_verify_says_what_it_found_and_exits_with_it(speakerprint, capsys):
    speakerprint("verify", "a.wav", "a.wav")
    assert capsys.readouterr().out == "same speaker: score 0.500, threshold 0.400 at 1.0% false accepts\n"
    with pytest.raises(SystemExit) as exit:
        speakerprint("verify", "a.wav", "b.wav", "--false-accept-rate", "0.001", "--json")
    assert exit.value.code == 1
    expected = {"score": 0.5, "same_speaker": False, "threshold": 0.4, "false_accept_rate": 0.001}
    assert json.loads(capsys.readouterr().out) == expected


def test_embed_reads_file_names_from_stdin(speakerprint, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO("with blanks in it.wav\nb.wav\n"))
    speakerprint("embed", "-")
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == ["with blanks in it.wav", "b.wav"]


def test_embed_saves_the_same_numbers_in_every_format(speakerprint, tmp_path):
    for suffix in ("npy", "npz", "csv", "json"):
        speakerprint("embed", "a.wav", "long.mp3", "--output", str(tmp_path / f"out.{suffix}"))
    expected = FakeEmbedder().embed_files(["a.wav", "long.mp3"])
    archive = np.load(tmp_path / "out.npz")
    table = pd.read_csv(tmp_path / "out.csv", index_col="path", dtype={"0": np.float32, "1": np.float32})
    listed = json.loads((tmp_path / "out.json").read_text())
    assert archive["paths"].tolist() == table.index.tolist() == [row["path"] for row in listed] == ["a.wav", "long.mp3"]
    for found in (
        np.load(tmp_path / "out.npy"),
        archive["embeddings"],
        table.to_numpy(),
        np.array([row["embedding"] for row in listed], dtype=np.float32),
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "--output", "out.txt"], "out.txt: expected a name that ends in one of .npy"),
        (["a.wav", "--model", "elsewhere"], "elsewhere holds no model"),
        (["-"], "no recordings were named on stdin"),
    ],
)
def test_what_the_user_can_mend_is_a_message_and_status_2(speakerprint, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "stdin", StringIO(""))
    with pytest.raises(SystemExit) as exit:
        speakerprint("embed", *arguments)
    assert exit.value.code == 2
    assert (said := capsys.readouterr().err).startswith("error: ") and message in said


def test_use_prints_the_diff_and_what_it_removed(speakerprint, project, capsys):
    (project / "data/features/train/demo_train").mkdir(parents=True)
    speakerprint("use", "corpora/folder", "--root", ".")
    out = capsys.readouterr().out
    assert "\n-  demo_train:\n+  folder_train:\n" in out
    assert "\n+        metrics/plots/folder_dev/det.csv: miss_rate\n" in out
    assert "removed data/features/train/demo_train" in out


def test_use_says_when_there_is_nothing_to_change(speakerprint, project, capsys):
    speakerprint("use", "corpora/demo")
    assert capsys.readouterr().out == "nothing to change: params.yaml has corpora/demo already\n"


def test_metrics_has_a_column_a_corpus_and_a_row_a_number(speakerprint, project, capsys):
    speakerprint("use", "corpora/voxceleb2", "--root", ".", "--add")
    (project / "metrics").mkdir()
    for corpus, eer in (("demo_dev", 0.125), ("voxceleb2", 0.25)):
        tree = {"trials": 66, "log_mel_floor": {"eer": eer}, "conditions": {"same_locale": {"eer": 0.5}}}
        if corpus == "voxceleb2":
            tree["conditions"]["same_locale"]["eer"] = None
        (project / f"metrics/{corpus}.json").write_text(json.dumps(tree))
    capsys.readouterr()
    speakerprint("metrics")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["demo_dev", "voxceleb2"],
        ["trials", "66", "66"],
        ["log_mel_floor.eer", "0.1250", "0.2500"],
        ["conditions.same_locale.eer", "0.5000", "-"],
    ]


def test_metrics_that_are_not_there_yet_are_named(speakerprint, project, capsys):
    with pytest.raises(SystemExit):
        speakerprint("metrics")
    assert "metrics/demo_dev.json does not exist; run `dvc repro`" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["use"], ["metrics"], ["embed"], ["verify"]])
def test_every_command_has_help(speakerprint, capsys, command):
    speakerprint(*command, "--help")
    assert "Usage: speakerprint" in capsys.readouterr().out
