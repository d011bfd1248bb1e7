import json
import shutil
from pathlib import Path

import pytest

from speakerprint.params.presets import use_preset

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project's settings, at the demo, whatever this checkout is switched to."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    use_preset("corpora/demo")
    return tmp_path


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


@pytest.mark.slow
def test_metrics_has_a_column_a_corpus_and_a_row_a_number_and_more_on_request(speakerprint, project, capsys):
    speakerprint("use", "corpora/voxceleb2", "--root", ".", "--add")
    (project / "metrics").mkdir()
    for corpus, eer in (("demo_dev", 0.125), ("voxceleb2", 0.25)):
        (project / f"metrics/{corpus}.json").write_text(json.dumps({"eer": eer, "recordings": 66}))
        same_locale = {"eer": None if corpus == "voxceleb2" else 0.5}
        (project / f"metrics/{corpus}.details.json").write_text(json.dumps({"conditions": {"same_locale": same_locale}}))

    def printed(*arguments):
        capsys.readouterr()
        speakerprint("metrics", *arguments)
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    in_brief = [["demo_dev", "voxceleb2"], ["eer", "0.1250", "0.2500"], ["recordings", "66", "66"]]
    assert printed() == in_brief
    assert printed("--details") == [*in_brief, ["conditions.same_locale.eer", "0.5000", "-"]]
    assert printed("demo_dev") == [
        ["demo_dev"],
        ["eer", "0.1250"],
        ["recordings", "66"],
        ["conditions.same_locale.eer", "0.5000"],
    ]
    speakerprint("metrics", "--details", "--json")
    assert json.loads(capsys.readouterr().out) == {
        corpus: {"eer": eer, "recordings": 66, "conditions": {"same_locale": {"eer": of_pairs}}}
        for corpus, eer, of_pairs in (("demo_dev", 0.125, 0.5), ("voxceleb2", 0.25, None))
    }


def test_metrics_without_their_details_are_shown_in_brief_and_the_details_are_named(speakerprint, project, capsys):
    (project / "metrics").mkdir()
    (project / "metrics/demo_dev.json").write_text('{"eer": 0.125}')
    speakerprint("metrics")
    assert "eer" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        speakerprint("metrics", "demo_dev")
    assert "metrics/demo_dev.details.json does not exist; run `dvc repro evaluate@demo_dev`" in capsys.readouterr().err


def test_metrics_that_are_not_there_yet_are_named(speakerprint, project, capsys):
    with pytest.raises(SystemExit):
        speakerprint("metrics")
    assert "metrics/demo_dev.json does not exist; run `dvc repro evaluate@demo_dev`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<<<<<<< HEAD\n{"eer": 0.1}\n', "is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("\udc80", "is not JSON ('utf-8' codec can't decode byte 0x80"),
        ("[]", "is empty or no JSON object"),
        ("{}", "is empty or no JSON object"),
    ],
)
def test_damaged_metrics_are_named_with_what_makes_them_again(speakerprint, project, capsys, text, found):
    (project / "metrics").mkdir()
    (project / "metrics/demo_dev.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SystemExit):
        speakerprint("metrics")
    error = capsys.readouterr().err
    assert f"metrics/demo_dev.json {found}" in error
    assert "run `dvc repro evaluate@demo_dev` to make it again" in error


def test_metrics_that_are_no_numbers_are_shown_as_they_are(speakerprint, project, capsys):
    (project / "metrics").mkdir()
    (project / "metrics/demo_dev.json").write_text('{"eer": "low", "trials": 1000}')
    speakerprint("metrics")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["demo_dev"], ["eer", "low"], ["trials", "1,000"]]


def test_data_prints_or_writes_what_the_corpora_are_made_of(speakerprint, project, capsys):
    (project / "metrics/data").mkdir(parents=True)
    counts = {"speakers": 2, "recordings": 9}
    groups = {f"by_{kind}": {"unknown": counts} for kind in ("gender", "age", "locale")}
    per_speaker = {"min": 4, "median": 4.5, "max": 5}
    selected = {**counts, **groups, "up_votes": None, "down_votes": None, "recordings_per_speaker": per_speaker}
    for corpus in ("demo_train", "demo_dev"):
        for stage, tree in (
            ("filter", {"rules": [{"rule": "all", **counts}], "selected": selected}),
            ("resample", {"bad": []}),
            ("features", {"bad": [], "hours": 0.5}),
        ):
            (project / f"metrics/data/{corpus}.{stage}.json").write_text(json.dumps(tree))
    speakerprint("data")
    printed = capsys.readouterr().out
    assert "| demo_dev | evaluate | 2 | 9 | 0.50 | 4 / 4.5 / 5 | unknown | unknown | 0 |" in printed
    speakerprint("data", "--output", "data.md")
    assert Path("data.md").read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("command", [["data"], ["embed", "a.wav"], ["report", "calls"], ["export", "--format", "onnx"]])
def test_an_output_whose_folder_is_missing_is_refused_before_anything_runs(speakerprint, project, capsys, command):
    with pytest.raises(SystemExit):
        speakerprint(*command, "--output", "nowhere/out.csv")
    assert "--output nowhere/out.csv: there is no folder nowhere; make it first" in capsys.readouterr().err
