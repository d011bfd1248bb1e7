import csv
import json
import sys
import zlib
from io import StringIO
from pathlib import Path

import joblib
import numpy as np
import pytest
import soundfile

from speakerprint.inference.calibration import Calibration
from tests.helpers import touch

SPEAKERS = ("anna", "bert", "carla", "dirk")
LOUD = ("bert1", "dirk0")


@pytest.fixture
def voices(speakerprint, monkeypatch):
    """The fake model hears who speaks from the folder that a file is in, and something else from its name."""

    def embed_files(self, paths, on_doubt=None):
        rows = []
        for path in map(Path, paths):
            if path.stem in LOUD:
                on_doubt(str(path), ("it is clipped",))
            noise = np.random.default_rng(zlib.crc32(str(path.name).encode())).normal(scale=0.15, size=6)
            rows.append(np.eye(6)[SPEAKERS.index(path.parent.name)] + noise)
        return np.array(rows)

    monkeypatch.setattr(speakerprint.embedder, "embed_files", embed_files)


@pytest.fixture
def recordings(tmp_path, voices):
    """A folder of four speakers with five recordings each."""
    return touch(tmp_path / "recordings", *(f"{speaker}/{speaker}{i}.wav" for speaker in SPEAKERS for i in range(5)))


def test_calibrate_prints_figures_and_writes_what_verify_takes(speakerprint, recordings, tmp_path, capsys):
    speakerprint("calibrate", str(recordings), "--output", str(tmp_path / "own.json"))
    said = capsys.readouterr()
    assert "4 speakers, 20 recordings: 40 target and 150 non-target trials" in said.out
    assert "bits on speakers held out (cross-validated)" in said.out
    assert "warning: at 1.00% false accepts the threshold rests on 1.5 of 150 non-target trials" in said.err
    calibration = Calibration.load(tmp_path / "own.json")
    assert calibration.model_id == speakerprint.embedder.model_id and list(calibration.thresholds) == [0.01, 0.001]
    assert f"│ 1.00%         │ {calibration.threshold(0.01):.3f}     │" in said.out
    speakerprint("verify", "a.wav", "a.wav", "--calibration", str(tmp_path / "own.json"))
    assert capsys.readouterr().out.endswith(f"at 1.0% false accepts; log-likelihood ratio {calibration.llr(0.5):+.1f}\n")


@pytest.mark.slow
def test_calibrate_takes_a_table_whose_paths_are_relative_to_it_and_rates(speakerprint, recordings, tmp_path, capsys):
    rows = "".join(f"{speaker},{speaker}/{speaker}{i}.wav\n" for speaker in SPEAKERS for i in range(5))
    (recordings / "table.csv").write_text("speaker,path\n" + rows)
    speakerprint("calibrate", str(recordings), "--json", "--false-accept-rate", "0.2")
    of_folder = capsys.readouterr()
    speakerprint("calibrate", str(recordings / "table.csv"), "--json", "--false-accept-rate", "0.2")
    assert json.loads(capsys.readouterr().out) == json.loads(of_folder.out)
    assert list(json.loads(of_folder.out)["thresholds"]) == ["0.2"]
    (warning,) = of_folder.err.splitlines()
    assert warning.startswith("warning: 2 of 20 recordings are doubtful (`speakerprint embed` lists them), the first: ")
    assert warning.endswith("bert1.wav: it is clipped") and speakerprint.embedder.requires_speech


def test_cluster_prints_a_table_with_whole_names(speakerprint, voices, capsys):
    deep = "/".join(["a folder with a long name"] * 5)
    speakerprint("cluster", "anna/1.wav", f"{deep}/bert/1.wav", "anna/2.wav")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert lines == [["0", "2", "anna/1.wav"], ["", "", "anna/2.wav"], ["1", "1", f"{deep}/bert/1.wav"]]


def test_cluster_lists_what_is_unfit_to_be_judged(speakerprint, voices, capsys):
    speakerprint("cluster", "anna/anna1.wav", "bert/bert1.wav", "--threshold", "0.5")
    assert capsys.readouterr().err == "doubtful: bert/bert1.wav: it is clipped\n"
    assert speakerprint.embedder.requires_speech


def test_cluster_prints_brackets_as_they_are(speakerprint, voices, capsys):
    names = ["anna/talk [bold] 1.wav", "talks [/bert/1].wav"]
    speakerprint("cluster", "anna/1.wav", *names, "--speakers", "1")
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


def test_cluster_writes_a_table_of_the_names_on_stdin(speakerprint, voices, tmp_path, capsys, monkeypatch):
    names = ["bert/a, b.wav", "anna/1.wav", "bert/2.wav", "bert/3.wav", "anna/2.wav"]
    monkeypatch.setattr(sys, "stdin", StringIO("\n".join(names) + "\n\n"))
    speakerprint("cluster", "-", "--output", str(tmp_path / "clusters.csv"))
    with (tmp_path / "clusters.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "cluster"], *([name, "0" if "bert" in name else "1"] for name in names)]
    assert capsys.readouterr().out == f"{tmp_path}/clusters.csv: 5 recordings in 2 clusters\n"


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (["--threshold", "-1"], [0, 0, 0]),
        (["--threshold", "1"], [0, 1, 2]),
        (["--speakers", "2"], [0, 0, 1]),
        (["--false-accept-rate", "0.01"], [0, 0, 1]),
    ],
)
def test_cluster_does_as_it_is_told(speakerprint, voices, capsys, options, labels):
    speakerprint("cluster", "anna/1.wav", "anna/2.wav", "bert/1.wav", "--json", *options)
    assert [row["cluster"] for row in json.loads(capsys.readouterr().out)] == labels


def test_cluster_merges_down_to_the_threshold_of_a_calibration(speakerprint, recordings, tmp_path, capsys):
    speakerprint("calibrate", str(recordings), "--output", str(tmp_path / "own.json"), "--false-accept-rate", "0.2")
    own = Calibration.load(tmp_path / "own.json")
    own.model_copy(update={"thresholds": {0.2: own.thresholds[0.2].model_copy(update={"score": 0.99999})}}).save(
        tmp_path / "own.json"
    )
    capsys.readouterr()
    options = ["--calibration", str(tmp_path / "own.json"), "--json"]
    speakerprint("cluster", "anna/1.wav", "anna/2.wav", "--false-accept-rate", "0.2", *options)
    assert [row["cluster"] for row in json.loads(capsys.readouterr().out)] == [0, 1]
    with pytest.raises(SystemExit):
        speakerprint("cluster", "anna/1.wav", "anna/2.wav", *options)
    assert "no thresholds for false-accept rates of 0.01 and 0.001" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_gives_the_figures_of_the_pipeline(speakerprint, tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    for speaker, frequency_hz in (("anna", 200), ("bert", 800)):
        (tmp_path / "recordings" / speaker).mkdir(parents=True)
        for i in range(3):
            tone = 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(16_000) / 16_000) + rng.normal(scale=0.01, size=16_000)
            soundfile.write(tmp_path / "recordings" / speaker / f"{i}.wav", tone, 16_000)
    soundfile.write(tmp_path / "recordings/anna/silent.wav", np.zeros(16_000), 16_000)
    (tmp_path / "recordings/speakers.csv").write_text("speaker_id,gender,locale\nanna,female,de\nbert,male,de\n")
    mean_of_each_band = staticmethod(lambda clips: np.stack([clip.mean(axis=0) for clip in clips]))
    monkeypatch.setattr(speakerprint.embedder, "embed_frames", mean_of_each_band, raising=False)
    with joblib.parallel_config(backend="threading"):  # workers would take seconds to start
        speakerprint("evaluate", str(tmp_path / "recordings"), "--output", str(tmp_path / "metrics.json"))
    said = capsys.readouterr()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["recordings"], metrics["target_trials"], metrics["nontarget_trials"], metrics["eer"]) == (6, 6, 9, 0)
    assert metrics["conditions"]["same_locale"] == {"eer": 0, "target_trials": 6, "nontarget_trials": 9}
    assert "2 speakers, 6 recordings" in said.out and "│ EER (95 % interval)" in said.out
    assert f"warning: {tmp_path}/recordings/anna/silent.wav is left out: digital silence" in said.err
    assert (
        said.err.count("wav: holds 0.00 s of speech, expected at least 0.5 s; record more, or nearer; the figures count it") == 6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "few"], "3 speakers, 1 of them with two recordings"),
        (["calibrate", "nowhere"], "'nowhere' does not exist"),
        (["evaluate", "empty"], "put the recordings of each speaker in a folder of their own"),
        (["evaluate", "columns.csv"], "columns.csv, line 1: columns who,path; expected speaker,path"),
        (["evaluate", "twice.csv"], "recording_id 'a.wav' occurs more than once"),
        (["evaluate", "none.csv"], "none.csv has no recordings"),
        (["evaluate", "few", "--output", "nowhere/metrics.json"], "there is no folder nowhere; make it first"),
        (["cluster", "anna/1.wav", "--threshold", "0.5", "--speakers", "2"], "exclude each other"),
        (
            ["cluster", "anna/1.wav", "--false-accept-rate", "0.5"],
            "no threshold for a false-accept rate of 0.5; there is: 0.01, 0.001",
        ),
        (
            ["cluster", "anna/1.wav", "--calibration", "other.json"],
            "the calibration is of model another, not of 0123456789abcdef",
        ),
    ],
)
def test_what_the_user_can_mend_is_a_message_and_status_2(speakerprint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.wav", "few/anna/1.wav", "few/anna/2.wav", "few/bert/1.wav", "few/carla/1.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "columns.csv").write_text("who,path\nanna,a.wav\n")
    (tmp_path / "twice.csv").write_text("speaker,path\nanna,a.wav\nbert,a.wav\n")
    (tmp_path / "none.csv").write_text("speaker,path\n")
    zero = dict.fromkeys(Calibration.model_fields, 0) | {"model_id": "another", "slope": 1.0, "thresholds": {}}
    Calibration.model_validate(zero).save(tmp_path / "other.json")
    with pytest.raises(SystemExit) as exit:
        speakerprint(*arguments)
    assert exit.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
