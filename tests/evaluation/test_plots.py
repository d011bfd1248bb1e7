"""The files a reader of results opens: present, readable, and the same bytes for the same evaluation."""

import csv

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from speakerprint.evaluation.evaluate import Evaluation, Projection, ScoreHistogram
from speakerprint.evaluation.plots import draw_confusions, draw_det, draw_projection, draw_scores, write_plots
from speakerprint.evaluation.trials import Confusion, score_trials


def evaluation_of(spread: float, n_speakers: int = 20) -> Evaluation:
    rng = np.random.default_rng(1)
    speakers = np.repeat(np.arange(n_speakers), 4)
    embeddings = rng.normal(size=(n_speakers, 8))[speakers] + spread * rng.normal(size=(len(speakers), 8))
    trials = score_trials(embeddings, speakers)
    floor = score_trials(rng.normal(size=embeddings.shape), speakers)
    eer, threshold = trials.equal_error_rate()
    return Evaluation(
        metrics={
            "recordings": len(speakers),
            "speakers": n_speakers,
            "eer": eer,
            "log_mel_floor_eer": floor.equal_error_rate()[0],
        },
        details={"target_trials": len(trials.target), "nontarget_trials": len(trials.nontarget)},
        curve=trials.curve(),
        floor_curve=floor.curve(),
        scores=ScoreHistogram(*trials.densities(50), threshold),
        projection=Projection(embeddings[:, :2], speakers.astype(str).astype(object)),
        confusions=[Confusion("0123456789abcdef0123456789abcdef", "id00012", 0.75), Confusion("b", "c", 0.5)],
    )


@pytest.fixture(scope="module")
def evaluation():
    return evaluation_of(spread=0.7)


def rows(path):
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.7, 0.0])
def test_every_declared_file_is_written(spread, tmp_path):
    write_plots(evaluation_of(spread), "fake", tmp_path / "plots/fake")
    names = {path.name for path in (tmp_path / "plots/fake").iterdir()}
    assert names == {"det.csv", "roc.csv", "det.png", "scores.png", "projection.png", "confusions.png"}
    for name in names:
        if name.endswith(".png"):
            assert imread(tmp_path / "plots/fake" / name)[..., :3].std() > 0.01  # something is drawn


@pytest.mark.slow
def test_the_same_evaluation_gives_the_same_bytes(evaluation, tmp_path):
    for folder in ("first", "second"):
        write_plots(evaluation, "fake", tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


@pytest.mark.slow
def test_curves_are_thin_and_hold_both_ends(evaluation, tmp_path):
    write_plots(evaluation, "fake", tmp_path)
    det, roc = rows(tmp_path / "det.csv"), rows(tmp_path / "roc.csv")
    assert 50 < len(det) <= 500
    assert det[0] == {"false_accept_rate": 0, "miss_rate": 1}
    assert det[-1] == {"false_accept_rate": 1, "miss_rate": 0}
    assert [row["false_accept_rate"] for row in det] == sorted(row["false_accept_rate"] for row in det)
    assert [row["true_accept_rate"] for row in roc] == pytest.approx([1 - row["miss_rate"] for row in det], abs=1e-6)


def test_the_det_picture_shows_the_model_and_the_floor_in_percent(evaluation):
    axes = draw_det(evaluation, "fake").axes[0]
    (legend,) = axes.figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        f"log-mel floor, EER {100 * evaluation.metrics['log_mel_floor_eer']:.2f} %",
        f"model, EER {100 * evaluation.metrics['eer']:.2f} %",
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false accepts (%)", "misses (%)")


@pytest.mark.parametrize("draw", [draw_det, draw_scores, draw_projection, draw_confusions])
def test_every_picture_says_corpus_size_and_eer(evaluation, draw):
    figure = draw(evaluation, "fake")
    assert figure.get_suptitle().startswith("fake: ")
    assert figure.axes[0].get_title() == f"80 recordings, 20 speakers, EER {100 * evaluation.metrics['eer']:.2f} %"


def test_every_projected_speaker_has_a_look_of_its_own(evaluation):
    collections = draw_projection(evaluation, "fake").axes[0].collections
    assert len(collections) == 20
    assert len({str(collection.get_facecolor()) for collection in collections}) == 20


def test_a_long_speaker_id_is_shown_as_it_begins_and_the_picture_says_where_it_stands_whole(evaluation):
    axes = draw_confusions(evaluation, "fake").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0123456789ab…\nid00012", "b\nc"]
    assert "metrics/fake.details.json" in axes.get_xlabel()
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [0.75, 0.5]


@pytest.mark.parametrize("draw", [draw_det, draw_scores, draw_projection, draw_confusions])
def test_every_picture_can_be_read_on_a_phone_and_nothing_stands_outside_of_it(evaluation, draw):
    figure = draw(evaluation, "fake")
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    shrunk = 360 / figure.get_figwidth() / 72  # pixels of a phone for a point
    assert min(text.get_fontsize() for text in texts) * shrunk >= 7.5
    assert np.mean([text.get_fontsize() * shrunk >= 9 for text in texts if "\n" not in text.get_text()]) > 0.9
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert (box.min > -0.01).all() and (box.max < size + 0.01).all()


def test_no_legend_covers_what_is_drawn(evaluation):
    for draw in (draw_det, draw_scores):
        figure = draw(evaluation, "fake")
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0
