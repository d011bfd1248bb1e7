import csv
import io
import json
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import soundfile

import speakerprint as package
from speakerprint import Diarization, Event, Turn
from speakerprint.errors import InputError
from speakerprint.pages import conversation  # noqa: F401 — loaded before a test puts another embedder in its place

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


def test_a_page_is_written_by_diarize_and_by_report(speakerprint, heard, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("meeting.wav", np.zeros(16_000), 16_000)
    monkeypatch.setattr(package.SpeakerEmbedder, "load", lambda *_: None)
    for command in (["diarize", "meeting.wav", "--output", "a.html"], ["report", "meeting.wav", "--output", "b.html"]):
        speakerprint(*command)
        assert f"{command[-1]}: 2 turns of 2 speakers in 3700 s" in capsys.readouterr().out
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()
    with pytest.raises(SystemExit) as exit:
        speakerprint("report", "gone.wav")
    assert exit.value.code == 2 and "gone.wav" in capsys.readouterr().err


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


def test_what_is_unfit_to_be_judged_is_doubtful(speakerprint, heard, tmp_path, capsys):
    heard["found"] = replace(FOUND, doubts=("it is clipped", "it echoes"))
    speakerprint("diarize", "meeting.wav", "--output", str(tmp_path / "out.rttm"))
    assert capsys.readouterr().err == "doubtful: meeting.wav: it is clipped; it echoes\n"
    speakerprint("diarize", "meeting.wav", "--json")
    said = capsys.readouterr()
    assert json.loads(said.out)["doubts"] == ["it is clipped", "it echoes"] and said.err == ""


def test_channels_and_json_go_together(speakerprint, heard, capsys):
    speakerprint("diarize", "call.wav", "--channels", "--json")
    assert heard["channels"] and json.loads(capsys.readouterr().out)["duration_s"] == 3700.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.wav"], "missing.wav: cannot be read"),
        (["a.wav", "--output", "turns.txt"], "expected a name that ends in one of .rttm, .json, .csv, .srt, .html"),
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


# --- who is speaking now


class FakeListener:
    """Hears somebody from the first sample that is not zero; knows what it was made with."""

    made: ClassVar[dict] = {}

    def __init__(self, sample_rate_hz, **options):
        self.made.update(options, rate=sample_rate_hz, n_samples=0)
        self.speaking, self.heard_s, self.doubts = False, 2.0, ()

    def hear(self, chunk):
        self.made["n_samples"] += len(chunk)
        if self.speaking or not np.any(chunk):
            return []
        self.speaking, self.doubts = True, self.made.get("doubts", ())
        return [Event("start", 1.25, "ann, [late]", 0.61239)]

    def end(self):
        return [Event("end", 3661.0, "ann, [late]", 0.7)] if self.speaking else []


@pytest.fixture
def listens(monkeypatch):
    """Put bytes on stdin; what the listener was made with and heard is returned."""
    monkeypatch.setattr(package, "Listener", FakeListener, raising=False)

    def on_stdin(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
        FakeListener.made.clear()
        return FakeListener.made

    return on_stdin


def wav(samples, rate, subtype="PCM_16"):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype=subtype)
    return stream.getvalue()


def test_turns_are_printed_as_they_begin_and_end(speakerprint, listens, capsys):
    made = listens(np.full(8_001, 7, "<i2").tobytes() + b"?")
    speakerprint("listen")
    assert capsys.readouterr().out == "00:00:01,250  ann, [late] (0.61)\n01:01:01,000  ann, [late] ends\n"
    assert made["rate"] == 16_000 and made["n_samples"] == 8_001 and made["gallery"] is None


def test_a_wav_header_says_the_rate_and_the_channels(speakerprint, listens, capsys):
    for subtype in ("PCM_16", "PCM_32"):
        made = listens(wav(np.full((4_801, 2), 0.5), 48_000, subtype))
        speakerprint("listen", "-", "--rate", "8000")
        assert made["rate"] == 48_000 and made["n_samples"] == 4_801


def test_json_is_a_line_an_event(speakerprint, listens, capsys):
    listens(np.full(800, 7, "<i2").tobytes())
    speakerprint("listen", "--json", "--rate", "8000")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"kind": "start", "time_s": 1.25, "speaker": "ann, [late]", "score": 0.612, "doubts": []}
    assert second["kind"] == "end"


def test_a_stream_that_is_unfit_to_be_judged_is_said_once_to_be_doubtful(speakerprint, listens, capsys, monkeypatch):
    monkeypatch.setattr(FakeListener, "made", {"doubts": ("it is clipped",)})
    listens(np.full(8_000, 7, "<i2").tobytes())
    FakeListener.made["doubts"] = ("it is clipped",)
    speakerprint("listen")
    assert capsys.readouterr().err == "doubtful: stdin: it is clipped\n"
    listens(np.full(8_000, 7, "<i2").tobytes())
    FakeListener.made["doubts"] = ("it is clipped",)
    speakerprint("listen", "--json")
    said = capsys.readouterr()
    assert [json.loads(line)["doubts"] for line in said.out.splitlines()] == [["it is clipped"]] * 2 and said.err == ""


def test_a_file_is_heard_as_a_stream_is(speakerprint, listens, capsys, tmp_path):
    made = listens(b"")
    soundfile.write(tmp_path / "a.flac", np.full(2_000, 0.5), 8_000)
    speakerprint("listen", str(tmp_path / "a.flac"))
    assert made["rate"] == 8_000 and made["n_samples"] == 2_000


def test_a_stream_without_a_voice_is_an_answer_of_its_own(speakerprint, listens, capsys):
    listens(bytes(3_200))
    with pytest.raises(SystemExit) as exit:
        speakerprint("listen")
    assert exit.value.code == 1 and capsys.readouterr().err == "stdin: nobody speaks in its 2.0 s\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"RIFF", "no WAV file that can be read"), (wav(np.ones(9), 8_000, "PCM_24"), "of 24 bits a sample, expected 16 or 32")],
)
def test_what_is_no_pcm_is_refused(speakerprint, listens, data, message, capsys):
    listens(data)
    with pytest.raises(SystemExit) as exit:
        speakerprint("listen")
    assert exit.value.code == 2 and message in capsys.readouterr().err
