"""What scores are worth on one's own recordings, which of them are of one speaker, and how good a model is on them."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speakerprint.cli.options import (
    AsJson,
    CalibrationFile,
    Files,
    ModelFolder,
    named_files,
    print_json,
    threshold_at,
    thresholds_of,
)
from speakerprint.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

app = typer.Typer()
FEW_TRIALS = 10  # a threshold that rests on fewer is a guess
Recordings = Annotated[
    Path, typer.Argument(exists=True, help="a folder with a folder per speaker of any audio, or a CSV with columns speaker,path")
]


@app.command()
def calibrate(
    recordings: Recordings,
    model: ModelFolder = None,
    output: Annotated[Path | None, typer.Option(help="FILE.json, for `verify --calibration`")] = None,
    false_accept_rate: Annotated[list[float], typer.Option(help="to find the threshold of; may be repeated")] = [0.01, 0.001],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Learn from recordings of known speakers what a score is worth on their kind: thresholds and log-likelihood ratios.

    Intervals are of 95 %, bootstrapped over speakers. Cllr, in bits, is 0 for perfect and 1 for useless log-likelihood ratios.

    Examples:

    - `speakerprint calibrate recordings/ --output calibration.json`
    - `speakerprint calibrate speakers.csv --false-accept-rate 0.05 --false-accept-rate 0.01`
    - `speakerprint verify monday.wav tuesday.mp3 --calibration calibration.json`
    """
    _refuse_missing_folder(output)
    table = _read(recordings)

    from rich.table import Table

    from speakerprint import SpeakerEmbedder
    from speakerprint.evaluation.calibrate import calibrate, refuse_too_few

    refuse_too_few(table["speaker_id"])
    embedder = SpeakerEmbedder.load(model)
    found = calibrate(
        embedder.embed_files(table["location"].tolist()), table["speaker_id"], false_accept_rate, model_id=embedder.model_id
    )
    if output is not None:
        found.save(output)
    for rate in found.thresholds:
        if rate * found.nontarget_trials < FEW_TRIALS:
            typer.echo(
                f"warning: at {rate:.2%} false accepts the threshold rests on {rate * found.nontarget_trials:.1f} of "
                f"{found.nontarget_trials:,} non-target trials; record more speakers, or ask for a higher rate",
                err=True,
            )
    if as_json:
        print_json(found.model_dump())
        return
    shown = Table("false accepts", "threshold", "95 % interval", "misses")
    for rate, at in found.thresholds.items():
        shown.add_row(f"{rate:.2%}", f"{at.score:.3f}", f"{at.low:.3f}–{at.high:.3f}", f"{at.miss_rate:.1%}")
    _print(shown)
    held_out = "unknown (fewer than four speakers)" if found.held_out_cllr is None else f"{found.held_out_cllr:.3f}"
    typer.echo(
        f"{found.speakers:,} speakers, {found.recordings:,} recordings: {found.target_trials:,} target and "
        f"{found.nontarget_trials:,} non-target trials\n"
        f"EER {found.eer:.1%} ({found.eer_low:.1%}–{found.eer_high:.1%})\n"
        f"log-likelihood ratio = {found.slope:.2f} · score {found.offset:+.2f} (natural logarithm)\n"
        f"Cllr {held_out} bits on speakers held out (cross-validated), {found.cllr:.3f} on its own trials, "
        f"{found.min_cllr:.3f} with the best calibration"
    )


@app.command()
def cluster(
    files: Files,
    model: ModelFolder = None,
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

    Without a threshold or the number of speakers, a threshold between those of 0.1 % and of about 3 % false accepts is chosen
    that tells the clusters apart best. Where most speakers have one recording only, that merges too many: name a threshold.

    Examples:

    - `speakerprint cluster interviews/*.wav`
    - `speakerprint cluster interviews/*.wav --speakers 3 --json`
    - `find interviews -name '*.opus' | speakerprint cluster - --false-accept-rate 0.01 --output clusters.csv`
    """
    if sum(option is not None for option in (threshold, false_accept_rate, speakers)) > 1:
        raise InputError("--threshold, --false-accept-rate and --speakers exclude each other; give one of them")
    _refuse_missing_folder(output)
    names = named_files(files)

    import pandas as pd
    from rich.markup import escape
    from rich.table import Table

    from speakerprint import SpeakerEmbedder
    from speakerprint.inference.clustering import cluster, refuse_too_many, threshold_range

    refuse_too_many(len(names))
    embedder = SpeakerEmbedder.load(model)
    at: float | tuple[float, float] | None = threshold
    if false_accept_rate is not None:
        at = threshold_at(false_accept_rate, embedder, calibration)
    elif threshold is None and speakers is None:
        at = threshold_range(thresholds_of(embedder, calibration))
    labels = cluster(embedder.embed_files(names), at, speakers)
    found = pd.DataFrame({"path": names, "cluster": labels})
    if output is not None:
        found.to_csv(output, index=False)
    if as_json:
        print_json(found.to_dict("records"))
    elif output is None:
        shown = Table("cluster", "recordings", "files")
        for label, members in found.groupby("cluster")["path"]:
            shown.add_row(str(label), str(len(members)), escape("\n".join(members)))
        _print(shown)


@app.command()
def evaluate(
    recordings: Recordings,
    model: ModelFolder = None,
    output: Annotated[Path | None, typer.Option(help="FILE.json for the metrics")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on one's own recordings of known speakers: the figures that the pipeline's `evaluate` gives.

    EER with its 95 % interval (bootstrapped over speakers), minDCF, retrieval, distances and thresholds over all pairs, and the
    log-mel floor, which is what the recordings give away without any training. A `speakers.csv` in the folder, with columns
    speaker_id, gender and locale, adds the EER of pairs of one gender and of one locale.

    Examples:

    - `speakerprint evaluate recordings/`
    - `speakerprint evaluate speakers.csv --model models/speakerprint --output metrics.json`
    """
    _refuse_missing_folder(output)
    table = _read(recordings)

    from rich.table import Table

    from speakerprint import SpeakerEmbedder
    from speakerprint.corpora.feature_store import FeatureStore
    from speakerprint.corpora.features import extract_corpus
    from speakerprint.corpora.resampling import resample_corpus
    from speakerprint.evaluation.evaluate import evaluate
    from speakerprint.params.evaluation import Evaluation
    from speakerprint.params.resample import Resample

    embedder = SpeakerEmbedder.load(model)
    settings = Evaluation(  # those of params.yaml; of the projection, which is not shown, as little as there can be
        corpora=[], batch_s=120.0, bootstrap_samples=1000, duration_edges_s=[2.0, 4.0, 6.0], projected_speakers=2, seed=1
    )
    with tempfile.TemporaryDirectory() as folder:  # the pipeline's own stages, so that its figures come out
        audio, features = Path(folder, "audio"), Path(folder, "features")
        report = resample_corpus(table, audio, Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=1.0))
        extract_corpus(audio, features)
        for bad in report["bad"]:
            typer.echo(f"warning: {bad['location']} is left out: {bad['reason']}", err=True)
        found = evaluate(FeatureStore(features), embedder.model, settings)
    metrics = found.metrics | found.details
    if output is not None:
        output.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(metrics)
        return
    floor = metrics["log_mel_floor"]
    shown = Table("", "model", "log-mel floor", title=f"{metrics['speakers']:,} speakers, {metrics['recordings']:,} recordings")
    shown.add_row(
        "EER (95 % interval)", *(f"{of['eer']:.1%} ({of['eer_low']:.1%}–{of['eer_high']:.1%})" for of in (metrics, floor))
    )
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
        shown.add_row(name, format(metrics[key], form), format(floor[key], form) if key in floor else "–")
    for condition, figures in metrics["conditions"].items():
        if figures["eer"] is not None:
            shown.add_row(f"EER, {condition.replace('_', ' ')}", f"{figures['eer']:.1%}", "–")
    _print(shown)


def _read(source: Path) -> "pd.DataFrame":
    """The recordings of a folder per speaker, or of a table whose paths are relative to where it is."""
    import pandas as pd

    from speakerprint.corpora.recordings import as_recordings
    from speakerprint.corpora.sources.folder import read_folder, read_table
    from speakerprint.params.sources import FolderSource

    if source.is_dir():
        return read_folder(FolderSource(kind="folder", root=str(source)))
    rows = []
    for where, row in read_table(source, ","):
        if not {"speaker", "path"} <= row.keys():
            raise InputError(f"{where}: columns {', '.join(row)}; expected speaker,path in the first line")
        rows.append((row["path"], row["speaker"], str(source.parent / row["path"])))
    if not rows:
        raise InputError(f"{source} has no recordings; expected a line speaker,path and a line for each recording")
    return as_recordings(pd.DataFrame(rows, columns=["recording_id", "speaker_id", "location"], dtype="str"), str(source))


def _refuse_missing_folder(output: Path | None) -> None:
    if output is not None and not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first")


def _print(table: "Table") -> None:
    from rich.console import Console

    console = Console()
    console.print(table) if console.is_terminal else Console(width=10_000).print(table)  # names are not broken in a pipe
