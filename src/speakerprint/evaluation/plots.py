"""What people look at: curves as CSV for DVC's plots, and pictures. The same evaluation gives the same bytes.

All pictures of the project have the style of `new_picture`: our model is blue and the log-mel floor grey, a legend stands
outside of the axes, and the letters can still be read where a phone shows the picture 360 pixels wide.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from speakerprint.evaluation.evaluate import Evaluation
from speakerprint.evaluation.trials import Curve
from speakerprint.files import whole_file

MODEL_COLOUR, FLOOR_COLOUR, TARGET_COLOUR = "#1f4e9c", "#8a8f98", "#d1662a"
OTHER_COLOURS = ("#d1662a", "#2a8f6d", "#8b5fbf", "#b98a00", "#c2185b", "#00838f", "#6d4c41", "#33691e")  # of other systems
WIDTH_INCHES, DPI = 4.6, 140  # 644 pixels; at 360, letters of 10 points are 11 pixels tall
DET_TICKS = np.array([0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
DET_LIMITS = (0.0005, 0.85)
MARKERS = "osD^vPX"
SHOWN_OF_ID = 12  # characters: an id can be looked up by how it begins


def new_picture(height_inches: float, title: str, about: str = "") -> tuple[Figure, Axes]:
    """A figure of the project's style with one pair of axes: a title, and, smaller, what the picture is about."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    figure.suptitle(title, fontsize=11)
    if about:
        axes.set_title(about, fontsize=9, color="0.35")
    return figure, axes


def legend_below(figure: Figure, columns: int = 1) -> None:
    """The legend of a figure, below its axes."""
    figure.legend(frameon=False, loc="outside lower center", ncols=columns, fontsize=9)


def save_picture(figure: Figure, path: str | Path) -> None:
    """Write a picture as PNG, the same bytes for the same figure."""
    with whole_file(path) as part:
        figure.savefig(part, dpi=DPI, format="png", metadata={"Software": None})


def write_plots(evaluation: Evaluation, corpus: str, folder: str | Path) -> None:
    """Write det.csv, roc.csv (rates as fractions), det.png, scores.png, projection.png and confusions.png into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    curve = evaluation.curve
    _write_csv(folder / "det.csv", false_accept_rate=curve.false_accept_rate, miss_rate=curve.miss_rate)
    _write_csv(folder / "roc.csv", false_accept_rate=curve.false_accept_rate, true_accept_rate=1 - curve.miss_rate)
    for name, draw in (
        ("det", draw_det),
        ("scores", draw_scores),
        ("projection", draw_projection),
        ("confusions", draw_confusions),
    ):
        save_picture(draw(evaluation, corpus), folder / f"{name}.png")


def _write_csv(path: Path, **columns: np.ndarray) -> None:
    rows = pd.DataFrame(columns)[::-1].round(6).drop_duplicates()
    with whole_file(path) as part:
        rows.to_csv(part, index=False, lineterminator="\n")


def draw_det(evaluation: Evaluation, corpus: str) -> Figure:
    """Detection error trade-off on normal-deviate axes (Martin et al., 1997), of the model and of the log-mel floor."""
    figure, axes = _axes(evaluation, corpus, "detection error trade-off", 5.2)
    metrics = evaluation.metrics
    _draw_det_curve(axes, evaluation.floor_curve, metrics["log_mel_floor_eer"], "log-mel floor", FLOOR_COLOUR)
    _draw_det_curve(axes, evaluation.curve, metrics["eer"], "model", MODEL_COLOUR)
    limits = ndtri(np.array(DET_LIMITS))
    axes.plot(limits, limits, color="0.8", linewidth=0.8, zorder=0)
    labels = [f"{100 * tick:g}" for tick in DET_TICKS]
    axes.set_xticks(ndtri(DET_TICKS), labels)
    axes.set_yticks(ndtri(DET_TICKS), labels)
    axes.set(xlim=limits, ylim=limits, xlabel="false accepts (%)", ylabel="misses (%)", aspect="equal")
    axes.grid(color="0.92")
    legend_below(figure)
    return figure


def _draw_det_curve(axes: Axes, curve: Curve, eer: float, name: str, colour: str) -> None:
    rates = np.clip(curve, 1e-6, 1 - 1e-6)  # 0 and 1 are infinitely far out; the limits cut both off
    axes.plot(*ndtri(rates), color=colour, label=f"{name}, EER {100 * eer:.2f} %")
    if DET_LIMITS[0] < eer < DET_LIMITS[1]:
        axes.plot(*ndtri([[eer], [eer]]), "o", color=colour, markersize=5)


def draw_scores(evaluation: Evaluation, corpus: str) -> Figure:
    """How the scores of target and of non-target trials are distributed, with the threshold at the EER."""
    figure, axes = _axes(evaluation, corpus, "scores of all trials", 4.2)
    scores = evaluation.scores
    for density, kind, colour in ((scores.nontarget, "nontarget", FLOOR_COLOUR), (scores.target, "target", TARGET_COLOUR)):
        label = f"{evaluation.details[f'{kind}_trials']:,} {kind.replace('non', 'non-')} trials"
        axes.stairs(density, scores.edges, fill=True, color=colour, alpha=0.55, label=label)
    axes.axvline(scores.threshold, color="black", linewidth=1, linestyle="--", label=f"threshold at EER, {scores.threshold:.3f}")
    axes.set(xlabel="cosine of the two embeddings", ylabel="density", xlim=scores.edges[[0, -1]])
    legend_below(figure)
    return figure


def draw_projection(evaluation: Evaluation, corpus: str) -> Figure:
    """Recordings of some speakers in the plane, a colour and marker for each speaker."""
    points, speaker_ids = evaluation.projection.points, evaluation.projection.speaker_ids
    speakers = sorted(set(speaker_ids))
    figure, axes = _axes(evaluation, corpus, f"t-SNE of {len(points)} recordings of {len(speakers)} speakers", 4.8)
    for i, speaker in enumerate(speakers):
        own = points[speaker_ids == speaker]
        colour = colormaps["turbo"]((i + 0.5) / len(speakers))
        axes.scatter(own[:, 0], own[:, 1], color=colour, marker=MARKERS[i % len(MARKERS)], s=30, edgecolor="white", linewidth=0.5)
    axes.set(xticks=[], yticks=[], xlabel="one colour and shape: one speaker", aspect="equal")
    axes.set_adjustable("datalim")
    return figure


def draw_confusions(evaluation: Evaluation, corpus: str) -> Figure:
    """The pairs of speakers with the highest mean score between them, against the threshold at the EER.

    Of a long id stands how it begins; the metrics file's details have it whole.
    """
    figure, axes = _axes(evaluation, corpus, "worst-confused speakers", 5.0)
    confusions = evaluation.confusions
    labels = [f"{_start(confusion.speaker)}\n{_start(confusion.other)}" for confusion in confusions]
    places = np.arange(len(confusions))
    axes.barh(places, [confusion.mean_score for confusion in confusions], color=MODEL_COLOUR, height=0.7)
    axes.set_yticks(places, labels, fontsize=7, family="monospace", linespacing=0.95)
    threshold = evaluation.scores.threshold
    axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlabel(
        f"mean cosine between the two (dashed: threshold, {threshold:.3f})\nids in full: metrics/{corpus}.details.json",
        fontsize=9,
    )
    return figure


def _axes(evaluation: Evaluation, corpus: str, what: str, height_inches: float) -> tuple[Figure, Axes]:
    metrics = evaluation.metrics
    size = f"{metrics['recordings']:,} recordings, {metrics['speakers']:,} speakers, EER {100 * metrics['eer']:.2f} %"
    return new_picture(height_inches, f"{corpus}: {what}", size)


def _start(speaker_id: str) -> str:
    return speaker_id if len(speaker_id) <= SHOWN_OF_ID + 2 else f"{speaker_id[:SHOWN_OF_ID]}…"
