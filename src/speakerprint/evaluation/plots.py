"""What people look at: curves as CSV for DVC's plots, and pictures. The same evaluation gives the same bytes."""

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

MODEL_COLOUR, FLOOR_COLOUR, TARGET_COLOUR = "#1f4e9c", "#9a9a9a", "#d1662a"
DET_TICKS = np.array([0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
DET_LIMITS = (0.0005, 0.85)
MARKERS = "osD^vPX"


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
        with whole_file(folder / f"{name}.png") as part:
            draw(evaluation, corpus).savefig(part, dpi=120, format="png", metadata={"Software": None})


def _write_csv(path: Path, **columns: np.ndarray) -> None:
    rows = pd.DataFrame(columns)[::-1].round(6).drop_duplicates()
    with whole_file(path) as part:
        rows.to_csv(part, index=False, lineterminator="\n")


def draw_det(evaluation: Evaluation, corpus: str) -> Figure:
    """Detection error trade-off on normal-deviate axes (Martin et al., 1997), of the model and of the log-mel floor."""
    figure, axes = _axes(evaluation, corpus, "detection error trade-off", (6.4, 6.4))
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
    axes.legend(frameon=False, loc="upper right")
    return figure


def _draw_det_curve(axes: Axes, curve: Curve, eer: float, name: str, colour: str) -> None:
    rates = np.clip(curve, 1e-6, 1 - 1e-6)  # 0 and 1 are infinitely far out; the limits cut both off
    axes.plot(*ndtri(rates), color=colour, label=f"{name}, EER {100 * eer:.2f} %")
    if DET_LIMITS[0] < eer < DET_LIMITS[1]:
        axes.plot(*ndtri([[eer], [eer]]), "o", color=colour, markersize=5)


def draw_scores(evaluation: Evaluation, corpus: str) -> Figure:
    """How the scores of target and of non-target trials are distributed, with the threshold at the EER."""
    figure, axes = _axes(evaluation, corpus, "scores of all trials", (7.2, 4.2))
    scores = evaluation.scores
    for density, kind, colour in ((scores.nontarget, "nontarget", FLOOR_COLOUR), (scores.target, "target", TARGET_COLOUR)):
        label = f"{evaluation.details[f'{kind}_trials']:,} {kind.replace('non', 'non-')} trials"
        axes.stairs(density, scores.edges, fill=True, color=colour, alpha=0.55, label=label)
    axes.axvline(scores.threshold, color="black", linewidth=1, linestyle="--", label=f"threshold at EER, {scores.threshold:.3f}")
    axes.set(xlabel="cosine of the two embeddings", ylabel="density", xlim=scores.edges[[0, -1]])
    axes.legend(frameon=False)
    return figure


def draw_projection(evaluation: Evaluation, corpus: str) -> Figure:
    """Recordings of some speakers in the plane, a colour and marker for each speaker."""
    points, speaker_ids = evaluation.projection.points, evaluation.projection.speaker_ids
    speakers = sorted(set(speaker_ids))
    figure, axes = _axes(evaluation, corpus, f"t-SNE of {len(points)} recordings of {len(speakers)} speakers", (6.4, 6.4))
    for i, speaker in enumerate(speakers):
        own = points[speaker_ids == speaker]
        colour = colormaps["turbo"]((i + 0.5) / len(speakers))
        axes.scatter(own[:, 0], own[:, 1], color=colour, marker=MARKERS[i % len(MARKERS)], s=44, edgecolor="white", linewidth=0.5)
    axes.set(xticks=[], yticks=[], xlabel="marks of one colour and shape are recordings of one speaker", aspect="equal")
    axes.set_adjustable("datalim")
    return figure


def draw_confusions(evaluation: Evaluation, corpus: str) -> Figure:
    """The pairs of speakers with the highest mean score between them, against the threshold at the EER."""
    figure, axes = _axes(evaluation, corpus, "worst-confused speakers", (7.2, 5.2))
    confusions = evaluation.confusions
    labels = [f"{_short(confusion.speaker)}  ·  {_short(confusion.other)}" for confusion in confusions]
    places = np.arange(len(confusions))
    axes.barh(places, [confusion.mean_score for confusion in confusions], color=MODEL_COLOUR, height=0.7)
    axes.set_yticks(places, labels, fontsize=8, family="monospace")
    threshold = evaluation.scores.threshold
    axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlabel(f"mean cosine of the trials between the two speakers\n(dashed: threshold at EER, {threshold:.3f})")
    return figure


def _axes(evaluation: Evaluation, corpus: str, what: str, size_inches: tuple[float, float]) -> tuple[Figure, Axes]:
    metrics = evaluation.metrics
    figure = Figure(figsize=size_inches, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    size = f"{metrics['recordings']:,} recordings, {metrics['speakers']:,} speakers, EER {100 * metrics['eer']:.2f} %"
    figure.suptitle(f"{corpus}: {what}", fontsize=12)
    axes.set_title(size, fontsize=9, color="0.35")
    return figure, axes


def _short(speaker_id: str) -> str:
    return speaker_id if len(speaker_id) <= 14 else f"{speaker_id[:8]}…{speaker_id[-4:]}"
