"""What scores are worth on one's own recordings, which of them are of one speaker, and how good a model is on them."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speakerprint.cli.options import (
    AsJson,
    CalibrationFile,
    DeviceName,
    Doubtful,
    Files,
    ModelFolder,
    check_output,
    count_doubtful,
    list_doubtful,
    named_files,
    print_json,
    print_table,
    read_calibration,
    say_written,
    thresholds_of,
)
from speakerprint.errors import InputError
from speakerprint.files import whole_file, write_text

if TYPE_CHECKING:
    from speakerprint import Calibration

app = typer.Typer()
FEW_TRIALS = 10  # a threshold that rests on fewer is a guess
Recordings = Annotated[
    Path, typer.Argument(exists=True, help="a folder with a folder per speaker of any audio, or a CSV with columns speaker,path")
]


@app.command("calibrate")
def calibrate_command(
    recordings: Recordings,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    output: Annotated[Path | None, typer.Option(help="FILE.json, for `verify --calibration`")] = None,
    false_accept_rate: Annotated[list[float], typer.Option(help="to find the threshold of; may be repeated")] = [0.01, 0.001],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Learn from recordings of known speakers what a score is worth on their kind: thresholds and log-likelihood ratios.

    Intervals are of 95 %, bootstrapped over speakers. Cllr, in bits, is 0 for perfect and 1 for useless log-likelihood ratios.
    A recording without speech is refused; those that `verify` could not judge are counted.

    Examples:

    - `speakerprint calibrate recordings/ --output calibration.json`
    - `speakerprint calibrate speakers.csv --false-accept-rate 0.05 --false-accept-rate 0.01`
    - `speakerprint verify monday.wav tuesday.mp3 --calibration calibration.json`
    """
    check_output(output)

    from speakerprint.corpora.sources.folder import read_folder_or_table

    table = read_folder_or_table(recordings)  # before the model takes its time

    from speakerprint import SpeakerEmbedder
    from speakerprint.evaluation.calibrate import calibrate, refuse_too_few

    refuse_too_few(table["speaker_id"])
    embedder = SpeakerEmbedder.load(model, device, require_speech=True)
    doubtful: Doubtful = {}
    embeddings = embedder.embed_files(table["location"].tolist(), doubtful.__setitem__)
    found = calibrate(embeddings, table["speaker_id"], false_accept_rate, model_id=embedder.model_id)
    if output is not None:
        found.save(output)
        say_written(output, f"a calibration of {len(found.thresholds)} thresholds, for `--calibration`", as_json)
    for rate in found.thresholds:
        if rate * found.nontarget_trials < FEW_TRIALS:
            typer.echo(
                f"warning: at {rate:.2%} false accepts the threshold rests on {rate * found.nontarget_trials:.1f} of "
                f"{found.nontarget_trials:,} non-target trials; record more speakers, or ask for a higher rate",
                err=True,
            )
    count_doubtful(doubtful, len(embeddings))
    if as_json:
        print_json(found.model_dump())
    else:
        _print_calibration(found)


def _print_calibration(found: "Calibration") -> None:
    from rich.table import Table

    shown = Table("false accepts", "threshold", "95 % interval", "misses")
    for rate, at in found.thresholds.items():
        shown.add_row(f"{rate:.2%}", f"{at.score:.3f}", f"{at.low:.3f}–{at.high:.3f}", f"{at.miss_rate:.1%}")
    print_table(shown)
    held_out = "unknown (fewer than four speakers)" if found.held_out_cllr is None else f"{found.held_out_cllr:.3f}"
    typer.echo(
        f"{found.speakers:,} speakers, {found.recordings:,} recordings: {found.target_trials:,} target and "
        f"{found.nontarget_trials:,} non-target trials\n"
        f"EER {found.eer:.1%} ({found.eer_low:.1%}–{found.eer_high:.1%})\n"
        f"log-likelihood ratio = {found.slope:.2f} · score {found.offset:+.2f} (natural logarithm)\n"
        f"Cllr {held_out} bits on speakers held out (cross-validated), {found.cllr:.3f} on its own trials, "
        f"{found.min_cllr:.3f} with the best calibration"
    )


@app.command("cluster")
def cluster_command(
    files: Files,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    threshold: Annotated[float | None, typer.Option(help="mean cosine down to which clusters merge")] = None,
    false_accept_rate: Annotated[float | None, typer.Option(help="merge down to the threshold of this rate")] = None,
    speakers: Annotated[int | None, typer.Option(help="how many there are, where that is known")] = None,
    calibration: CalibrationFile = None,
    output: Annotated[
        Path | None, typer.Option(help="FILE.csv with columns path,cluster; without it, a table is printed")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out which recordings are of one speaker. Clusters are numbered from 0, the largest.

    A recording without speech is refused; those that `verify` could not judge are listed, since they may be anywhere.

    Without a threshold or the number of speakers, a threshold between those of 0.1 % and of about 3 % false accepts is chosen
    that tells the clusters apart best. Where most speakers have one recording only, that merges too many: name a threshold.

    Examples:

    - `speakerprint cluster interviews/*.wav`
    - `speakerprint cluster interviews/*.wav --speakers 3 --json`
    - `find interviews -name '*.opus' | speakerprint cluster - --false-accept-rate 0.01 --output clusters.csv`
    """
    if sum(option is not None for option in (threshold, false_accept_rate, speakers)) > 1:
        raise InputError("--threshold, --false-accept-rate and --speakers exclude each other; give one of them")
    check_output(output)
    names = named_files(files)

    from rich.markup import escape
    from rich.table import Table

    from speakerprint import SpeakerEmbedder
    from speakerprint.inference.clustering import cluster, refuse_too_many, threshold_range

    refuse_too_many(len(names))
    embedder = SpeakerEmbedder.load(model, device, require_speech=True)
    at: float | tuple[float, float] | None = threshold
    if false_accept_rate is not None:
        at = embedder.threshold(false_accept_rate, read_calibration(calibration))
    elif threshold is None and speakers is None:
        at = threshold_range(thresholds_of(embedder, calibration))
    doubtful: Doubtful = {}
    labels = cluster(embedder.embed_files(names, doubtful.__setitem__), at, speakers).tolist()
    if output is not None:
        with whole_file(output) as part, part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "cluster"), *zip(names, labels, strict=True)])
        say_written(output, f"{len(names):,} recordings in {len(set(labels)):,} clusters", as_json)
    if as_json:
        print_json([{"path": name, "cluster": label} for name, label in zip(names, labels, strict=True)])
    elif output is None:
        shown = Table("cluster", "recordings", "files")
        for label in sorted(set(labels)):
            members = [name for name, of in zip(names, labels, strict=True) if of == label]
            shown.add_row(str(label), str(len(members)), escape("\n".join(members)))
        print_table(shown)
    list_doubtful(doubtful)


@app.command("evaluate")
def evaluate_command(
    recordings: Recordings,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    output: Annotated[Path | None, typer.Option(help="FILE.json for the metrics")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on one's own recordings of known speakers: the figures that the pipeline's `evaluate` gives.

    EER with its 95 % interval (bootstrapped over speakers), minDCF, retrieval, distances and thresholds over all pairs, and the
    log-mel floor, which is what the recordings give away without any training. A `speakers.csv` in the folder, with columns
    speaker_id, gender and locale, adds the EER of pairs of one gender and of one locale. Recordings without speech are listed.

    Examples:

    - `speakerprint evaluate recordings/`
    - `speakerprint evaluate speakers.csv --model models/speakerprint --output metrics.json`
    """
    check_output(output)

    from speakerprint.corpora.sources.folder import read_folder_or_table

    table = read_folder_or_table(recordings)  # before the model takes its time

    from speakerprint import SpeakerEmbedder
    from speakerprint.evaluation.own_recordings import evaluate_recordings

    found, left_out, silent = evaluate_recordings(table, SpeakerEmbedder.load(model, device))
    for bad in left_out:
        typer.echo(f"warning: {bad['location']} is left out: {bad['reason']}", err=True)
    for reason in silent:
        typer.echo(f"warning: {reason}; the figures count it, take it out", err=True)
    figures = found.metrics | found.details
    if output is not None:
        write_text(json.dumps(figures, indent=2) + "\n", output)
        say_written(output, "the figures, and more of them", as_json)
    if as_json:
        print_json(figures)
    else:
        _print_figures(figures)


def _print_figures(figures: dict[str, Any]) -> None:
    from rich.table import Table

    floor = figures["log_mel_floor"]
    shown = Table("", "model", "log-mel floor", title=f"{figures['speakers']:,} speakers, {figures['recordings']:,} recordings")
    errors = (f"{of['eer']:.1%} ({of['eer_low']:.1%}–{of['eer_high']:.1%})" for of in (figures, floor))
    shown.add_row("EER (95 % interval)", *errors)
    for key, name, form in (
        ("min_dcf", "minDCF(0.01)", ".3f"),
        ("auc", "AUC", ".4f"),
        ("top_1", "top-1", ".1%"),
        ("top_5", "top-5", ".1%"),
        ("precision_at_5", "precision at 5", ".1%"),
        ("intra_speaker_distance", "intra-speaker distance", ".3f"),
        ("inter_speaker_distance", "inter-speaker distance", ".3f"),
        ("threshold_at_eer", "threshold at the EER", ".3f"),
        ("threshold_at_1pct_false_accepts", "threshold at 1 % false accepts", ".3f"),
        ("threshold_at_0_1pct_false_accepts", "threshold at 0.1 % false accepts", ".3f"),
    ):
        shown.add_row(name, format(figures[key], form), format(floor[key], form) if key in floor else "–")
    for condition, of in figures["conditions"].items():
        if of["eer"] is not None:
            shown.add_row(f"EER, {condition.replace('_', ' ')}", f"{of['eer']:.1%}", "–")
    print_table(shown)
