import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speakerprint.audio.decode import decode
from speakerprint.corpora.sources import demo_voices
from speakerprint.files import alone_with
from speakerprint.inference.bulk import part_of
from speakerprint.inference.embedder import SpeakerEmbedder
from tests.cli.conftest import FakeEmbedder
from tests.helpers import touch

ROOT = Path(__file__).parents[2]


def test_embed_prints_one_json_line_a_file_that_reads_back_as_the_same_float32(speakerprint, capsys):
    speakerprint("embed", "a.wav", "long.mp3")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"path": "a.wav", "embedding": [5.0, 0.33333334]}, {"path": "long.mp3", "embedding": [8.0, 0.33333334]}]
    assert np.float32(rows[0]["embedding"][1]) == np.float32(1 / 3)


def test_verify_says_what_it_found_and_exits_with_it(speakerprint, capsys):
    speakerprint("verify", "a.wav", "a.wav")
    assert capsys.readouterr().out == "same speaker: score 0.500, threshold 0.400 at 1.0% false accepts\n"
    assert FakeEmbedder.requires_speech
    speakerprint("verify", "a.wav", "a.wav", "--threshold", "0.45")
    assert capsys.readouterr().out == "same speaker: score 0.500, threshold 0.450\n"
    with pytest.raises(SystemExit) as exit:
        speakerprint("verify", "a.wav", "b.wav", "--false-accept-rate", "0.001", "--json")
    assert exit.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert found.items() >= {"score": 0.5, "same_speaker": False, "threshold": 0.4, "false_accept_rate": 0.001}.items()
    assert (found["log_likelihood_ratio"], found["doubts"]) == (None, [])


def test_verify_says_that_it_cannot_tell_and_why(speakerprint, capsys):
    with pytest.raises(SystemExit) as exit:
        speakerprint("verify", "a.wav", "loud.wav")
    said = capsys.readouterr()
    assert exit.value.code == 3
    assert said.out == "cannot tell: score 0.500, threshold 0.400 at 1.0% false accepts\n"
    assert said.err == "loud.wav: it is clipped\n"


def test_of_two_that_embed_into_one_file_the_second_is_refused_and_costs_nothing(speakerprint, capsys, tmp_path):
    output = tmp_path / "out.csv"
    part_of(output).write_text("the first one's")
    with alone_with(output), pytest.raises(SystemExit):
        speakerprint("embed", "a.wav", "--output", str(output))
    assert "out.csv is being written by another run; wait for it" in (said := capsys.readouterr().err) and ".part" not in said
    assert part_of(output).read_text() == "the first one's"
    part_of(output).unlink()
    speakerprint("embed", "a.wav", "--output", str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


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
    for suffix in ("npy", "npz", "csv", "json", "jsonl"):
        speakerprint("embed", "a.wav", "long.mp3", "--output", str(tmp_path / f"out.{suffix}"))
    expected = FakeEmbedder().embed_files(["a.wav", "long.mp3"])
    archive = np.load(tmp_path / "out.npz")
    table = pd.read_csv(tmp_path / "out.csv", index_col="path", dtype={"0": np.float32, "1": np.float32})
    listed = json.loads((tmp_path / "out.json").read_text())
    assert listed == [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
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
        (["a.wav", "--output", "out.npy", "--skip-errors"], "out.npy: .npy has no names"),
        (["bad.wav", "--skip-errors"], "none of 1 recordings can be embedded"),
    ],
)
def test_what_the_user_can_mend_is_a_message_and_status_2(speakerprint, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "stdin", StringIO(""))
    with pytest.raises(SystemExit) as exit:
        speakerprint("embed", *arguments)
    assert exit.value.code == 2
    assert (said := capsys.readouterr().err).startswith("error: ") and message in said


def test_embed_says_what_it_wrote_and_lists_what_it_left_out(speakerprint, tmp_path, capsys):
    speakerprint("embed", "a.wav", "bad.wav", "c.wav", "--output", str(tmp_path / "out.npz"), "--skip-errors")
    said = capsys.readouterr()
    assert re.fullmatch(rf"{tmp_path}/out\.npz: 2 embeddings of 2 numbers, 1 left out, [\d.]+ files a second\n", said.out)
    assert said.err == "left out: bad.wav: no sound in it\n"
    assert np.load(tmp_path / "out.npz")["paths"].tolist() == ["a.wav", "c.wav"]
    speakerprint("embed", "a.wav", "bad.wav", "c.wav", "--skip-errors")
    assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == ["a.wav", "c.wav"]


def test_embed_lists_what_is_unfit_to_be_judged(speakerprint, tmp_path, capsys):
    speakerprint("embed", "a.wav", "loud.wav", "--output", str(tmp_path / "out.npz"))
    said = capsys.readouterr()
    assert "2 embeddings of 2 numbers, 1 doubtful, " in said.out and said.err == "doubtful: loud.wav: it is clipped\n"
    speakerprint("embed", "a.wav", "loud.wav")
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and said.err == "doubtful: loud.wav: it is clipped\n"
    assert speakerprint.embedder.requires_speech


def test_embed_goes_on_from_where_it_was_stopped(speakerprint, tmp_path, capsys):
    command = ["embed", "a.wav", "bad.wav", "c.wav", "--output", str(tmp_path / "out.csv")]
    with pytest.raises(SystemExit) as ended:
        speakerprint(*command)
    assert ended.value.code == 2 and not (tmp_path / "out.csv").exists()
    assert f"error: bad.wav: no sound in it\nwhat is done is kept in {tmp_path}/out.csv.part" in capsys.readouterr().err
    speakerprint(*command, "--skip-errors")
    assert "2 embeddings of 2 numbers, 1 of an earlier run, 1 left out" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_ctrl_c_says_how_to_go_on(speakerprint, tmp_path, capsys, monkeypatch):
    def embed_each(self, paths, on_error=None, on_doubt=None):
        yield paths[0], np.zeros(2, np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(speakerprint.embedder, "embed_each", embed_each)
    with pytest.raises(SystemExit) as ended:
        speakerprint("embed", "a.wav", "b.wav", "--output", str(tmp_path / "out.csv"))
    assert ended.value.code == 130
    assert f"stopped; what is done is kept in {tmp_path}/out.csv.part: the same command goes on" in capsys.readouterr().err


def test_a_folder_stands_for_all_audio_in_it(speakerprint, tmp_path, capsys):
    touch(tmp_path, "b/2.MP3", "a.wav", "b/notes.txt", ".hidden/c.wav", "b/.d.wav")
    speakerprint("embed", str(tmp_path), "other.wav")
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == [f"{tmp_path}/a.wav", f"{tmp_path}/b/2.MP3", "other.wav"]
    with pytest.raises(SystemExit):
        speakerprint("embed", str(touch(tmp_path / "empty", "notes.txt")))
    assert "empty: has no audio in it or in its folders" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_stops_reading_is_no_answer():
    command = f"{sys.executable} -c 'from speakerprint.cli import main; main()' embed src/speakerprint/samples"
    piped = ["bash", "-o", "pipefail", "-c", f"{command} | true"]
    done = subprocess.run(piped, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": "src"})
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", [("verify", "a.wav", "missing.wav"), ("embed", "missing.wav"), ("cluster", "missing.wav")])
def test_a_recording_that_is_not_there_is_refused_before_the_model_is_loaded(speakerprint, capsys, monkeypatch, command):
    monkeypatch.setattr(speakerprint.embedder, "load", None)
    with pytest.raises(SystemExit):
        speakerprint(*command)
    assert "missing.wav: cannot be read (No such file or directory); check the name" in capsys.readouterr().err


@pytest.mark.slow
def test_the_samples_are_two_recordings_of_one_speaker_and_one_of_another(speakerprint, tmp_path, capsys):
    speakerprint("samples", str(tmp_path / "voices"))
    assert capsys.readouterr().out.split() == [f"{tmp_path}/voices/{name}.ogg" for name in ("ann-1", "ann-2", "bob")]
    embedder = SpeakerEmbedder.load(require_speech=True)
    ann, bob = tmp_path / "voices/ann-1.ogg", tmp_path / "voices/bob.ogg"
    assert embedder.verify(ann, tmp_path / "voices/ann-2.ogg", 0.001).same_speaker
    assert embedder.verify(ann, bob).same_speaker is False
    samples, rate = decode(ann.read_bytes(), "ann")
    shouted = np.clip(30 * samples, -1, 1)
    found = embedder.verify(ann, shouted, sample_rate_hz=rate)
    assert found.same_speaker is None and [doubt.partition(":")[0] for doubt in found.doubts] == ["recording 2"]
    assert embedder.verify(ann, shouted, sample_rate_hz=rate, threshold=0.1).same_speaker is True
    assert all(path.stat().st_size <= 60_000 for path in (tmp_path / "voices").iterdir())


def test_demo_voices_are_six_with_names_and_25_others(speakerprint, capsys, monkeypatch, tmp_path):
    written = {}
    monkeypatch.setattr(
        demo_voices, "write_voices", lambda folder, split, names, seed: written.update({folder: (split, len(names))})
    )
    speakerprint("demo-voices", str(tmp_path))
    assert written == {tmp_path / "voices": ("dev", 6), tmp_path / "others": ("train", 25)}
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path / 'voices'}: 6 speakers, 6 recordings each"
