"""What the corpora are made of, as Markdown with histograms, from what the data stages left in metrics/data and data/features."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from speakerprint.corpora.recordings import read_recordings
from speakerprint.errors import InputError
from speakerprint.evaluation.metrics_files import read_metrics
from speakerprint.evaluation.plots import MODEL_COLOUR, WIDTH_INCHES, save_picture
from speakerprint.files import write_text
from speakerprint.params.whole import Params

BINS = 40
COUNTS = ("speakers", "recordings")


def write_report(params: Params, output: Path) -> None:
    """Write `describe_corpora` to a file, and its histograms into a folder beside it, of the file's name without extension.

    Raises InputError if a report is missing.
    """
    pictures: dict[str, str] = {}
    for name, corpus in params.corpora.items():
        table = Path(f"data/features/{corpus.role}/{name}/recordings.parquet")
        if table.is_file():
            folder = output.with_suffix("")
            folder.mkdir(exist_ok=True)
            pictures[name] = f"{folder.name}/{name}.png"
            save_picture(draw_histograms(read_recordings(table), name), folder / f"{name}.png")
    write_text(describe_corpora(params, pictures), output)


def describe_corpora(params: Params, pictures: dict[str, str] | None = None) -> str:
    """All corpora of params.yaml as Markdown: a table of all, then what each one's filter left and who is in it.

    ``pictures`` maps a corpus to a picture's path. Raises InputError if a stage has not left its report yet.
    """
    overview, sections = [], []
    for name, corpus in params.corpora.items():
        filtered, resampled, features = (_report(name, stage) for stage in ("filter", "resample", "features"))
        selected = filtered["selected"]
        per_speaker = selected["recordings_per_speaker"]
        overview.append(
            (
                name,
                corpus.role,
                f"{selected['speakers']:,}",
                f"{selected['recordings']:,}",
                f"{features['hours']:,.2f}",
                f"{per_speaker['min']} / {per_speaker['median']:g} / {per_speaker['max']}",
                _votes(selected["up_votes"]),
                _votes(selected["down_votes"]),
                f"{len(resampled['bad']):,}",
            )
        )
        sections.append(f"## {name}\n")
        if pictures and name in pictures:
            sections.append(f"![Recordings per speaker and durations]({pictures[name]})\n")
        sections.append(_table(["filter", *COUNTS], (_counted(rule["rule"], rule) for rule in filtered["rules"])))
        for kind in ("gender", "age", "locale"):
            sections.append(_table([kind, *COUNTS], (_counted(*item) for item in selected[f"by_{kind}"].items())))
    head = [
        "# Corpora\n",
        "Made by `speakerprint data`. What each corpus's filter selected; hours are of what could be decoded, recordings per "
        "speaker are least / median / most, votes least–most.\n",
        _table(
            ["corpus", "role", "speakers", "recordings", "hours", "per speaker", "up-votes", "down-votes", "undecodable"],
            overview,
        ),
    ]
    return "\n".join(head + sections)


def draw_histograms(recordings: pd.DataFrame, corpus: str) -> Figure:
    """How many recordings the speakers have, and how long the recordings are."""
    figure = Figure(figsize=(WIDTH_INCHES, 2.2), layout="constrained")
    figure.suptitle(corpus, fontsize=11)
    speakers, durations = figure.subplots(1, 2)
    per_speaker = recordings["speaker_id"].value_counts().to_numpy()
    step = max(
        1, -(-int(np.ptp(per_speaker) + 1) // BINS)
    )  # whole recordings wide, so that no bar counts more values than another
    speakers.hist(per_speaker, np.arange(per_speaker.min(), per_speaker.max() + step + 1, step) - 0.5, color=MODEL_COLOUR)
    speakers.set(xlabel="recordings of a speaker", ylabel="speakers")
    durations.hist(recordings["duration_s"], BINS, color=MODEL_COLOUR)
    durations.set(xlabel="duration (s)", ylabel="recordings")
    for axes in (speakers, durations):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    return figure


def _report(corpus: str, stage: str) -> dict[str, Any]:
    path = Path(f"metrics/data/{corpus}.{stage}.json")
    report = read_metrics(path, f"{stage}@{corpus}")
    if stage == "filter" and "by_age" not in report.get("selected", {}):  # as it was before votes and ages were counted
        raise InputError(f"{path} is of an earlier version; run `dvc repro {stage}@{corpus}` to make it")
    return report


def _counted(what: str, counts: dict[str, int]) -> tuple[str, ...]:
    return (what, *(f"{counts[name]:,}" for name in COUNTS))


def _votes(votes: dict[str, int] | None) -> str:
    return f"{votes['min']}–{votes['max']}" if votes else "unknown"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)
