"""The commands, with a model that embeds a file as a direction that its name tells: an angle in degrees before the suffix."""

import json
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from speakerprint.cli import main
from speakerprint.evaluation.calibrate import calibrate
from speakerprint.inference.embedder import SpeakerEmbedder
from tests.helpers import touch


class Compass:
    model_id = "compass"
    embedding_dim = 2
    thresholds = {0.01: 0.9, 0.001: 0.99}  # noqa: RUF012
    threshold = SpeakerEmbedder.threshold

    @classmethod
    def load(cls, folder, device, require_speech):
        assert require_speech
        return cls() if folder is None else North()

    def embed_files(self, paths, on_doubt=None):
        for path in paths:
            if path.endswith(".mp3"):
                on_doubt(path, ("it is clipped", "two voices"))
        angles = np.deg2rad([float(Path(path).stem) for path in paths])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class North(Compass):
    model_id = "north"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a command in an empty folder; returns its exit status and what it printed on stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPEAKERPRINT_GALLERY", raising=False)
    monkeypatch.setitem(sys.modules, "speakerprint.inference.embedder", SimpleNamespace(SpeakerEmbedder=Compass))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["speakerprint", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize("command", ["enrol", "identify", "search", "remove", "people"])
def test_every_command_has_help_with_examples(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0 and "Examples:" in out and f"speakerprint {command}" in out


def test_who_is_enrolled_is_identified_and_a_stranger_is_not(run):
    assert run("enrol", "ann", "10.wav", "20.wav") == (0, "gallery: 2 recordings of ann enrolled\n", "")
    assert run("enrol", "bob", "90.wav")[1] == "gallery: 1 recording of bob enrolled\n"
    status, out, _ = run("identify", "15.wav", "91.flac")
    assert status == 0
    *table, threshold = out.splitlines()
    assert [line.split() for line in table] == [
        ["recording", "speaker", "score", "most", "similar"],
        ["15.wav", "ann", "0.996", "ann"],
        ["91.flac", "bob", "1.000", "bob"],
    ]
    assert threshold == "threshold 0.929: at most 1.0% of strangers are taken for one of 2 speakers"
    status, out, _ = run("identify", "15.wav", "180.wav")
    assert status == 1 and out.splitlines()[2].split() == ["180.wav", "unknown", "0.000", "bob"]


def test_who_is_named_in_a_recording_unfit_to_be_judged_is_doubtful(run):
    said = "doubtful: 11.mp3: it is clipped; two voices\n"
    assert run("enrol", "ann", "10.wav", "11.mp3")[2] == said
    status, out, err = run("identify", "12.wav", "11.mp3")
    assert (status, err) == (0, said) and "11.mp3" in out
    status, out, err = run("identify", "12.wav", "11.mp3", "--json")
    assert [json.loads(line)["doubts"] for line in out.splitlines()] == [[], ["it is clipped", "two voices"]] and err == ""
    status, out, err = run("search", "12.wav", "11.mp3", "--top", "1")
    assert (status, err) == (0, said) and "11.mp3" in out
    status, out, err = run("search", "12.wav", "11.mp3", "--json")
    assert [json.loads(line)["doubts"] for line in out.splitlines()] == [[], ["it is clipped", "two voices"]] and err == ""


def test_the_threshold_is_a_rates_or_a_number(run):
    run("enrol", "ann", "0.wav")
    assert run("identify", "20.wav")[0] == 0
    assert run("identify", "20.wav", "--false-accept-rate", "0.001")[0] == 1
    assert run("identify", "20.wav", "--threshold", "0.95")[0] == 1
    assert "strangers" not in run("identify", "20.wav", "--threshold", "0.93")[1]
    status, _, err = run("identify", "20.wav", "--false-accept-rate", "0.5")
    assert status == 2 and "no threshold for a false-accept rate of 0.5; there is: 0.01, 0.001, and any other up to 0.01" in err


def test_the_threshold_may_be_a_calibrations(run, tmp_path):
    angles = [0, 1, 60, 61, 150, 152]
    found = calibrate(Compass().embed_files([f"{angle}.wav" for angle in angles]), [*"aabbcc"], [0.2], model_id="compass")
    found.save(tmp_path / "own.json")
    run("enrol", "ann", "0.wav")
    options = ["--calibration", "own.json", "--false-accept-rate", "0.2", "--json"]
    assert json.loads(run("identify", "1.wav", *options)[1])["threshold"] == found.threshold(0.2)
    found.model_copy(update={"model_id": "another"}).save(tmp_path / "own.json")
    status, _, err = run("identify", "1.wav", *options)
    assert status == 2 and "the calibration is of model another" in err


def test_json_says_it_all(run, tmp_path):
    path = str(tmp_path / "0.wav")
    assert json.loads(run("enrol", "ann", "0.wav", "--json")[1]) == {"gallery": "gallery", "recordings": 1, "speakers": 1}
    assert json.loads(run("people", "--json")[1]) == {"ann": [path]}
    matches = [{"speaker": "ann", "path": path, "score": 1.0}]
    assert json.loads(run("search", "0.wav", "--json")[1]) == {"path": "0.wav", "matches": matches, "doubts": []}
    known, unknown = map(json.loads, run("identify", "0.wav", "180.wav", "--json")[1].splitlines())
    assert known == {
        "path": "0.wav",
        "speaker": "ann",
        "score": 1.0,
        "threshold": 0.9,
        "candidates": [{"speaker": "ann", "score": 1.0}],
        "doubts": [],
    }
    assert unknown["speaker"] is None and unknown["candidates"] == [{"speaker": "ann", "score": -1.0}]
    assert json.loads(run("remove", "ann", "--json")[1]) == {"gallery": "gallery", "speaker": "ann", "recordings": 1}


def test_search_lists_the_most_similar_recordings_first(run, tmp_path):
    run("enrol", "ann", "10.wav", "60.wav")
    run("enrol", "bob", "30.wav")
    rows = [line.split() for line in run("search", "0.wav", "--top", "2")[1].splitlines()[1:]]
    assert rows == [["0.985", "ann", str(tmp_path / "10.wav")], ["0.866", "bob", str(tmp_path / "30.wav")]]


def test_folders_are_enrolled_identified_and_searched(run, tmp_path):
    touch(tmp_path, "ann/10.wav", "ann/old/20.wav", "asked/12.wav", "asked/16.wav")
    assert run("enrol", "ann", "ann")[1] == "gallery: 2 recordings of ann enrolled\n"
    asked = [json.loads(line) for line in run("identify", "asked", "--json")[1].splitlines()]
    assert [(row["path"], row["speaker"]) for row in asked] == [("asked/12.wav", "ann"), ("asked/16.wav", "ann")]
    found = run("search", "asked", "--top", "1")[1].splitlines()
    assert [found[0], found[3]] == ["asked/12.wav:", "asked/16.wav:"]
    assert found[2].split() == ["0.999", "ann", str(tmp_path / "ann/10.wav")]


def test_who_is_removed_is_unknown(run):
    run("enrol", "ann", "0.wav")
    assert run("remove", "ann") == (0, "gallery: ann removed, with 1 recording\n", "")
    assert run("identify", "0.wav")[0] == 1
    status, _, err = run("remove", "ann")
    assert status == 2 and "knows no speaker 'ann'" in err


def test_a_recording_is_known_by_its_whole_path(run, tmp_path, monkeypatch):
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        for _ in range(2):
            run("enrol", "ann", "0.wav", "--gallery", "../gallery")
    monkeypatch.chdir(tmp_path)
    assert [line.split() for line in run("people")[1].splitlines()] == [["speaker", "recordings"], ["ann", "2"]]


def test_many_are_enrolled_from_a_table(run, tmp_path, monkeypatch):
    monkeypatch.setattr("speakerprint.cli.gallery.FILES_AT_ONCE", 2)
    club = tmp_path / "club"  # whose table's paths are relative to it
    club.mkdir()
    for name in ("0.wav", "90.wav", "5.wav"):
        (club / name).touch()
    (club / "speakers.csv").write_text("speaker,path\nann,0.wav\nbob,90.wav\nann,5.wav\n")
    assert run("enrol", "--table", "club/speakers.csv")[1] == "gallery: 3 recordings of 2 speakers enrolled\n"
    people = json.loads(run("people", "--json")[1])
    assert people == {"ann": [str(club / "0.wav"), str(club / "5.wav")], "bob": [str(club / "90.wav")]}


def test_names_come_from_stdin_too(run, monkeypatch):
    for command in (["enrol", "ann", "-"], ["identify", "-"]):
        monkeypatch.setattr(sys, "stdin", StringIO("0.wav\n1.wav\n"))
        assert run(*command)[0] == 0


def test_the_environment_names_the_gallery(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SPEAKERPRINT_GALLERY", "club")
    run("enrol", "ann", "0.wav")
    assert (tmp_path / "club").is_dir() and run("people", "--gallery", "club")[0] == 0


@pytest.mark.parametrize("command", [["identify", "0.wav"], ["search", "0.wav"], ["people"], ["remove", "ann"]])
def test_only_enrolling_makes_a_gallery(run, tmp_path, command):
    status, _, err = run(*command)
    assert status == 2 and err.startswith("error: gallery holds no gallery;")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["identify", "0.wav"], ["search", "0.wav"], ["enrol", "ann", "0.wav"]])
def test_another_models_gallery_is_refused(run, command):
    run("enrol", "ann", "0.wav")
    status, _, err = run(*command, "--model", "elsewhere")
    assert status == 2 and "gallery of model compass (2 numbers an embedding), and this is model north" in err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("speaker,path\nann,\n", "line 2, column path: nothing"),
        (None, "no such file"),
    ],
)
def test_a_bad_table_is_refused(run, tmp_path, table, message):
    if table is not None:
        (tmp_path / "speakers.csv").write_text(table)
    status, _, err = run("enrol", "--table", "speakers.csv")
    assert status == 2 and message in err


@pytest.mark.parametrize("arguments", [[], ["ann"], ["ann", "0.wav", "--table", "speakers.csv"]])
def test_enrol_takes_a_name_with_recordings_or_a_table(run, arguments):
    status, _, err = run("enrol", *arguments)
    assert status == 2 and "expected a name and recordings, or --table" in err
