"""The description of the corpora: every figure is that of the stages' reports, and the pictures show what they say."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.corpora.selection import select
from speakerprint.errors import InputError
from speakerprint.pages.data_report import describe_corpora, draw_histograms, write_report
from speakerprint.params.filter import Filter
from speakerprint.params.presets import use_preset
from speakerprint.params.whole import Params, load_params
from tests.helpers import KEEP_EVERYTHING

PROJECT = Path(__file__).parents[2]


def recordings_of(n_each: list[int], **columns: object) -> pd.DataFrame:
    ids = [(f"s{speaker}", f"s{speaker}-{i}") for speaker, n in enumerate(n_each) for i in range(n)]
    rows = pd.DataFrame(ids, columns=["speaker_id", "recording_id"]).assign(location="x", **columns)
    return as_recordings(rows, "test")


@pytest.fixture
def params(tmp_path, monkeypatch) -> Params:
    """A project whose demo corpora are through the data stages."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    use_preset("corpora/demo")
    (tmp_path / "metrics/data").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for name, table in (
        ("demo_train", recordings_of([1, 2, 4], gender="female", locale="en|gb", up_votes=3, down_votes=0, duration_s=2.0)),
        ("demo_dev", recordings_of([1500], age="teens")),
    ):
        _, report = select(table, Filter(**KEEP_EVERYTHING))
        bad = [{"recording_id": "x", "location": "x", "reason": "silence"}]
        for stage, tree in (("filter", report), ("resample", {"bad": bad}), ("features", {"hours": 1234.5})):
            (tmp_path / f"metrics/data/{name}.{stage}.json").write_text(json.dumps(tree))
    return load_params()


def test_the_table_has_what_the_stages_reported(params):
    lines = describe_corpora(params).splitlines()
    assert "| demo_train | train | 3 | 7 | 1,234.50 | 1 / 2 / 4 | 3–3 | 0–0 | 1 |" in lines
    assert "| demo_dev | evaluate | 1 | 1,500 | 1,234.50 | 1500 / 1500 / 1500 | unknown | unknown | 1 |" in lines
    train, dev = (lines.index(f"## demo_{name}") for name in ("train", "dev"))
    assert "| min_up_votes >= 0 | 3 | 7 |" in lines[train:dev]
    assert "| female | 3 | 7 |" in lines[train:dev]
    assert "| en&#124;gb | 3 | 7 |" in lines[train:dev]
    assert lines[dev:].count("| teens | 1 | 1,500 |") == 1


def test_tables_have_as_many_cells_in_every_line(params):
    for block in describe_corpora(params).split("\n\n"):
        rows = [line.count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1


@pytest.mark.slow
def test_pictures_are_of_the_corpora_whose_features_are_there(params, tmp_path):
    table = recordings_of([1, 2, 4], duration_s=2.0)
    write_recordings(table, tmp_path / "data/features/train/demo_train/recordings.parquet")
    write_report(params, Path("docs/data.md"))
    text = Path("docs/data.md").read_text(encoding="utf-8")
    assert text.count("![") == text.count("(data/demo_train.png)") == 1
    assert imread("docs/data/demo_train.png")[..., :3].std() > 0.01
    first = Path("docs/data/demo_train.png").read_bytes()
    write_report(params, Path("docs/data.md"))
    assert Path("docs/data/demo_train.png").read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("n_each", [[3, 3], [1, 2, 4], list(range(1, 300))])
def test_histograms_hold_every_speaker_and_recording_in_bars_as_wide_as_whole_recordings(n_each):
    histograms = draw_histograms(recordings_of(n_each, duration_s=2.0), "fake").axes
    speakers, durations = ([bar for bar in axes.patches if isinstance(bar, Rectangle)] for axes in histograms)
    assert sum(bar.get_height() for bar in speakers) == len(n_each)
    assert sum(bar.get_height() for bar in durations) == sum(n_each)
    assert {bar.get_width() % 1 for bar in speakers} == {0.0}
    assert len(speakers) <= 41


@pytest.mark.slow
def test_a_report_that_is_not_there_yet_is_named_with_the_command_that_makes_it(params):
    Path("metrics/data/demo_dev.resample.json").unlink()
    with pytest.raises(InputError, match=r"demo_dev\.resample\.json does not exist; run `dvc repro resample@demo_dev`"):
        describe_corpora(params)


def test_a_damaged_report_is_named_with_the_command_that_makes_it(params):
    Path("metrics/data/demo_dev.resample.json").write_text("{")
    with pytest.raises(InputError, match=r"demo_dev\.resample\.json is not JSON \(.*\); run `dvc repro resample@demo_dev`"):
        describe_corpora(params)


def test_a_report_of_an_earlier_version_is_an_error(params):
    path = Path("metrics/data/demo_dev.filter.json")
    tree = json.loads(path.read_text())
    del tree["selected"]["by_age"]
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"demo_dev\.filter\.json is of an earlier version; run `dvc repro filter@demo_dev`"):
        describe_corpora(params)
