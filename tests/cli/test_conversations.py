import csv
import json

import numpy as np
import pytest

import speakerprint as package
from speakerprint import Diarization, Turn
from speakerprint.errors import InputError

FOUND = Diarization(
    [Turn(0.5, 2.25, "speaker 1", 0.9876), Turn(3661.0, 3662.5, "ann, [late]", 1.0)],
    {"speaker 1": np.array([0.6, 0.8], np.float32), "ann, [late]": np.array([1, 0], np.float32)},
    3700.0,
)


@pytest.fixture
def heard(monkeypatch):
    """What `diarize` is called with; it finds FOUND, or what a test puts there."""
    calls = {"found": FOUND}

    def diarize(file, **options):
        calls.update(options, file=file)
        return calls["found"]

    monkeypatch.setattr(package, "diarize", diarize, raising=False)
    return calls


def test_a_table_is_printed(speakerprint, heard, capsys):
    speakerprint("diarize", "meeting.wav")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["start", "end", "speaker", "confidence"]
    assert lines[1].split() == ["00:00:00,500", "00:00:02,250", "speaker", "1", "0.99"]
    assert "ann, [late]" in lines[2]
    assert heard["file"] == "meeting.wav" and heard["n_speakers"] is None and not heard["channels"]


def test_every_format_has_the_same_turns(speakerprint, heard, tmp_path, capsys):
    for suffix in ("rttm", "json", "csv", "srt"):
        speakerprint("diarize", "a/meeting.wav", "--output", str(tmp_path / f"out.{suffix}"))
    assert "2 turns of 2 speakers in 3700 s" in capsys.readouterr().out
    rttm = (tmp_path / "out.rttm").read_text().splitlines()
    assert rttm[0] == "SPEAKER meeting 1 0.500 1.750 <NA> <NA> speaker_1 0.988 <NA>"
    tree = json.loads((tmp_path / "out.json").read_text())
    assert tree["turns"][0] == {"start_s": 0.5, "end_s": 2.25, "speaker": "speaker 1", "confidence": 0.988}
    assert np.array(tree["speakers"]["speaker 1"], np.float32).tolist() == np.array([0.6, 0.8], np.float32).tolist()
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"start_s": "3661.0", "end_s": "3662.5", "speaker": "ann, [late]", "confidence": "1.0"}
    srt = (tmp_path / "out.srt").read_text()
    assert srt == ("1\n00:00:00,500 --> 00:00:02,250\nspeaker 1\n\n2\n01:01:01,000 --> 01:01:02,500\nann, [late]\n")


@pytest.mark.parametrize(("given", "expected"), [("3", (3, 3)), ("2-4", (2, 4))])
def test_a_number_of_speakers_or_a_range_is_passed_on(speakerprint, heard, given, expected):
    speakerprint("diarize", "a.wav", "--speakers", given)
    assert heard["n_speakers"] == expected


@pytest.mark.parametrize("given", ["two", "2-", "-3", "2-x", ""])
def test_what_is_no_number_of_speakers_is_refused(speakerprint, heard, given, capsys):
    with pytest.raises(SystemExit) as exit:
        speakerprint("diarize", "a.wav", f"--speakers={given}")
    assert exit.value.code == 2
    assert "expected a number, as in 3, or a range, as in 2-4" in capsys.readouterr().err


def test_nobody_is_an_answer_of_its_own(speakerprint, heard, capsys, tmp_path):
    heard["found"] = Diarization([], {}, 12.0)
    with pytest.raises(SystemExit) as exit:
        speakerprint("diarize", "rain.wav", "--output", str(tmp_path / "out.rttm"))
    assert exit.value.code == 1 and (tmp_path / "out.rttm").read_text() == ""
    assert capsys.readouterr().err == "rain.wav: nobody speaks in its 12.0 s\n"


def test_beside_json_what_was_written_is_said_on_stderr(speakerprint, heard, tmp_path, capsys):
    speakerprint("diarize", "meeting.wav", "--output", str(tmp_path / "out.srt"), "--json")
    said = capsys.readouterr()
    assert said.err == f"{tmp_path / 'out.srt'}: 2 turns of 2 speakers in 3700 s\n" and len(json.loads(said.out)["turns"]) == 2


def test_channels_and_json_go_together(speakerprint, heard, capsys):
    speakerprint("diarize", "call.wav", "--channels", "--json")
    assert heard["channels"] and json.loads(capsys.readouterr().out)["duration_s"] == 3700.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.wav"], "missing.wav: cannot be read"),
        (["a.wav", "--output", "turns.txt"], "expected a name that ends in one of .rttm, .json, .csv, .srt"),
        (["a.wav", "--gallery", "nowhere"], "nowhere holds no gallery"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_loaded(speakerprint, heard, monkeypatch, options, message, capsys):
    def load(*_, **__):
        raise InputError("the model was loaded")

    monkeypatch.setattr(speakerprint.embedder, "load", load)
    with pytest.raises(SystemExit) as exit:
        speakerprint("diarize", *options)
    assert exit.value.code == 2 and message in capsys.readouterr().err
