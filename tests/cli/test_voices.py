import json
import sys
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from speakerprint.inference.embedder import SpeakerEmbedder
from tests.cli.conftest import FakeEmbedder


def test_embed_prints_one_json_line_a_file_that_reads_back_as_the_same_float32(speakerprint, capsys):
    speakerprint("embed", "a.wav", "long.mp3")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"path": "a.wav", "embedding": [5.0, 0.33333334]}, {"path": "long.mp3", "embedding": [8.0, 0.33333334]}]
    assert np.float32(rows[0]["embedding"][1]) == np.float32(1 / 3)


def test_verify_says_what_it_found_and_exits_with_it(speakerprint, capsys):
    speakerprint("verify", "a.wav", "a.wav")
    assert capsys.readouterr().out == "same speaker: score 0.500, threshold 0.400 at 1.0% false accepts\n"
    assert FakeEmbedder.requires_speech
    with pytest.raises(SystemExit) as exit:
        speakerprint("verify", "a.wav", "b.wav", "--false-accept-rate", "0.001", "--json")
    assert exit.value.code == 1
    expected = {"score": 0.5, "same_speaker": False, "threshold": 0.4, "false_accept_rate": 0.001, "log_likelihood_ratio": None}
    assert json.loads(capsys.readouterr().out) == expected


def test_embed_reads_file_names_from_stdin(speakerprint, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO("with blanks in it.wav\nb.wav\n"))
    speakerprint("embed", "-")
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == ["with blanks in it.wav", "b.wav"]


@pytest.mark.parametrize("command", ["embed", "verify"])
def test_silence_is_trimmed_where_that_is_asked_for(speakerprint, command):
    for options in ([], ["--trim-silence"]):
        speakerprint(command, "a.wav", "a.wav", *options)
        assert sys.modules["speakerprint.inference.embedder"].SpeakerEmbedder.trims_silence is bool(options)


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


@pytest.mark.parametrize("command", [("verify", "a.wav", "missing.wav"), ("embed", "missing.wav"), ("cluster", "missing.wav")])
def test_a_recording_that_is_not_there_is_refused_before_the_model_is_loaded(speakerprint, capsys, monkeypatch, command):
    monkeypatch.setattr(speakerprint.embedder, "load", None)
    with pytest.raises(SystemExit):
        speakerprint(*command)
    assert "missing.wav: cannot be read (No such file or directory); check the name" in capsys.readouterr().err


def test_the_samples_are_two_recordings_of_one_speaker_and_one_of_another(speakerprint, tmp_path, capsys):
    speakerprint("samples", str(tmp_path / "voices"))
    assert capsys.readouterr().out.split() == [f"{tmp_path}/voices/{name}.ogg" for name in ("ann-1", "ann-2", "bob")]
    embedder = SpeakerEmbedder.load(require_speech=True)
    ann, bob = tmp_path / "voices/ann-1.ogg", tmp_path / "voices/bob.ogg"
    assert embedder.verify(ann, tmp_path / "voices/ann-2.ogg", 0.001).same_speaker
    assert not embedder.verify(ann, bob).same_speaker
    assert all(path.stat().st_size <= 60_000 for path in (tmp_path / "voices").iterdir())
