"""The files a reader of results opens: present, readable, and the same bytes for the same evaluation."""

import csv

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.patches import Rectangle

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


@pytest.mark.parametrize("spread", [0.7, 0.0])
def test_every_declared_file_is_written(spread, tmp_path):
    write_plots(evaluation_of(spread), "fake", tmp_path / "plots/fake")
    names = {path.name for path in (tmp_path / "plots/fake").iterdir()}
    assert names == {"det.csv", "roc.csv", "det.png", "scores.png", "projection.png", "confusions.png"}
    for name in names:
        if name.endswith(".png"):
            assert imread(tmp_path / "plots/fake" / name)[..., :3].std() > 0.01  # something is drawn


def test_the_same_evaluation_gives_the_same_bytes(evaluation, tmp_path):
    for folder in ("first", "second"):
        write_plots(evaluation, "fake", tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


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
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
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


def test_long_speaker_ids_are_shortened(evaluation):
    axes = draw_confusions(evaluation, "fake").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["01234567…cdef  ·  id00012", "b  ·  c"]
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [0.75, 0.5]
