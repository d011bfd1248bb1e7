"""experiments/teacher_embeddings.py with the one peer that needs no package: the log-mel floor."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import speakerprint
from experiments import teacher_embeddings as teacher
from experiments.peers import log_mel_statistics
from speakerprint.audio.decode import decode
from speakerprint.audio.resample import resample
from speakerprint.corpora.resampling import read_audio
from speakerprint.inference.embedder import SpeakerEmbedder
from speakerprint.training.teacher import read_teacher

PACKAGE = Path(speakerprint.__file__).parent


@pytest.fixture
def ask(audio, tmp_path, monkeypatch):
    """Call the script with these arguments in a project that has the audio."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/audio").symlink_to(audio)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["teacher", *arguments])
        teacher.main()

    return call


def test_each_recording_of_a_corpus_gets_the_embedding_that_the_system_makes_of_it(ask, audio, capsys):
    ask("report", "--system", "log-mel floor")
    recordings, clips = read_audio(audio / "report")
    rows = pq.read_table("data/given/teacher/log-mel floor/report.parquet").to_pylist()
    assert [row["recording_id"] for row in rows] == recordings["recording_id"].tolist()
    for row, clip in zip(rows, clips, strict=True):
        np.testing.assert_allclose(row["embedding"], log_mel_statistics(decode(clip, "clip")[0]), rtol=1e-5)
    (taught,) = read_teacher("data/given/teacher/log-mel floor", {"report": recordings["recording_id"].tolist()})
    assert taught.shape == (6, 160) and taught.any(axis=1).all()
    ask("report", "--system", "log-mel floor")
    assert "report: there already" in capsys.readouterr().out


def test_each_recording_is_heard_at_each_of_the_speeds_asked_for(ask, audio):
    ask("report", "--system", "log-mel floor", "--speeds", "0.9", "1.0")
    recordings, clips = read_audio(audio / "report")
    rows = pq.read_table("data/given/teacher/log-mel floor/report.parquet").to_pylist()
    ids = recordings["recording_id"].tolist()
    assert [(row["recording_id"], row["speed"]) for row in rows] == [(name, speed) for name in ids for speed in (0.9, 1.0)]
    for slow, as_recorded, clip in zip(rows[::2], rows[1::2], clips, strict=True):
        samples = decode(clip, "clip")[0]
        slower = resample(samples, 14_400, 16_000)
        assert len(slower) == pytest.approx(len(samples) / 0.9, abs=2)
        np.testing.assert_allclose(slow["embedding"], log_mel_statistics(slower), rtol=1e-5)
        np.testing.assert_allclose(as_recorded["embedding"], log_mel_statistics(samples), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["strange", "--system", "log-mel floor"], "strange"),
        (["report", "--wheels", "nowhere"], r"set up \.peers as the docstring of experiments/peers\.py says"),
    ],
)
def test_what_cannot_be_had_is_named_and_leaves_no_file(ask, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        ask(*arguments)
    assert not list(tmp_path.glob("data/given/teacher/*/*"))


def test_a_speed_that_nothing_is_heard_at_is_refused(ask, capsys):
    with pytest.raises(SystemExit):
        ask("report", "--system", "log-mel floor", "--speeds", "1.0", "0")
    assert "--speeds 0: a recording is heard at a speed above 0" in capsys.readouterr().err


def test_a_model_of_this_project_teaches_under_the_name_that_it_is_given(ask, audio):
    folder = PACKAGE / "models/speakerprint-base"
    ask("report", "--model", f"itself={folder}")
    recordings, clips = read_audio(audio / "report")
    rows = pq.read_table("data/given/teacher/itself/report.parquet").to_pylist()
    assert [row["recording_id"] for row in rows] == recordings["recording_id"].tolist()
    embedder = SpeakerEmbedder.load(folder)
    for row, clip in zip(rows, clips, strict=True):
        np.testing.assert_allclose(row["embedding"], embedder.embed(decode(clip, "clip")[0], 16_000), atol=1e-5)
    with pytest.raises(SystemExit, match="expected NAME=FOLDER"):
        ask("report", "--model", "itself")
