"""Models: the mean of several, one to ship, one for elsewhere, and what is known of one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from speakerprint.cli.options import AsJson, ModelFolder, check_output, print_json
from speakerprint.errors import InputError

app = typer.Typer()


class Format(StrEnum):
    onnx = "onnx"
    huggingface = "huggingface"


@app.command("export")
def export_command(
    format: Annotated[Format, typer.Option(help="one ONNX file, or a folder for the Hugging Face hub")],
    output: Annotated[Path, typer.Option(help="the file or folder to write")],
    model: ModelFolder = None,
    license: Annotated[str | None, typer.Option(help="for the hub, such as apache-2.0; without it, what the model says")] = None,
    push: Annotated[str | None, typer.Option(help="upload the folder as this OWNER/NAME on the hub, made public if new")] = None,
) -> None:
    """Write a model for elsewhere: as ONNX, waveform in and embedding out, or as a folder for the Hugging Face hub.

    Examples:

    - `speakerprint export --format onnx --output speakerprint.onnx`
    - `speakerprint export --format huggingface --output hub --model models/speakerprint --license cc-by-4.0`
    - `speakerprint export --format huggingface --output hub --push owner/name`
    """
    check_output(output)
    if format is Format.onnx and (license or push):
        raise InputError("--license and --push are of the hub: use them with --format huggingface")

    if format is Format.onnx:
        from speakerprint import SpeakerEmbedder
        from speakerprint.model.export import export_onnx

        difference = export_onnx(SpeakerEmbedder.load(model), output)
        typer.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB, within {difference:.0e} of the embedder's embeddings")
        return
    from speakerprint.model.export import export_huggingface
    from speakerprint.model.export import push as push_to_hub

    export_huggingface(model, output, license)
    typer.echo(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    if push:
        typer.echo(push_to_hub(output, push))


@app.command()
def average(
    models: Annotated[
        list[Path], typer.Argument(help="folders of models trained from one start; embeddings are like the first's")
    ],
    output: Annotated[Path, typer.Option(help="the folder of the model that is made")],
    features: Annotated[
        list[Path] | None,
        typer.Option(help="a feature store that they learned from; repeat for more; without it, all of data/features/train"),
    ] = None,
    share: Annotated[list[float] | None, typer.Option(help="how much a model counts, in their order; in sum 1")] = None,
) -> None:
    """Make one model of several that were trained from one start: their mean, as large and as quick as each of them.

    Evaluate it then: models of different starts, or too far from theirs, have no useful mean.

    Examples:

    - `speakerprint average models/a models/b --output models/average`
    - `speakerprint average models/a models/b --share 0.7 --share 0.3 --output models/average`
    """
    check_output(output)

    from speakerprint.model.averaging import average_folders

    stores = features or sorted(path.parent for path in Path("data/features/train").glob("*/recordings.parquet"))
    if not stores:
        raise InputError("data/features/train has no feature stores; run `dvc repro features`, or name some with --features")
    for folder, near in zip(models, average_folders(models, stores, output, share), strict=True):
        typer.echo(f"{folder}: once turned, its embeddings are at a mean cosine of {near:.3f}")
    typer.echo(f"{output}: the mean of {len(models)} models")


@app.command("publish")
def publish_command(
    output: Annotated[Path, typer.Option(help="the folder to write")],
    thresholds: Annotated[
        Path, typer.Option(help="metrics/CORPUS.json of a corpus whose speakers are neither trained nor reported on")
    ],
    model: Annotated[Path, typer.Option(help="the folder of a trained model")] = Path("models/speakerprint"),
) -> None:
    """Make a trained model ready to ship: half the size, with thresholds and the commit that made it in its config.json.

    Examples:

    - `speakerprint publish --output models/mine --thresholds metrics/folder_dev.json`
    - `speakerprint publish --output models/other --thresholds metrics/folder_dev.json --model models/average`
    """
    check_output(output)

    from speakerprint.evaluation.metrics_files import thresholds_of
    from speakerprint.model.publishing import publish

    publish(model, output, thresholds_of(thresholds), thresholds.stem)
    typer.echo(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


@app.command()
def info(model: ModelFolder = None, as_json: AsJson = False) -> None:
    """Print what is known of a model: its id, card in short, files, shape, size, thresholds, licence, and what it came from.

    Examples:

    - `speakerprint info`
    - `speakerprint info --model models/speakerprint --json`
    """
    from speakerprint.inference.model_folder import describe

    found = describe(model)
    if as_json:
        print_json(found)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    thresholds = ", ".join(f"{score:.3f} at {float(rate):.1%} false accepts" for rate, score in found["thresholds"].items())
    made = "commit {commit}, run {run}" if found["commit"] else "run {run}"
    rows = {
        "model": found["model_id"],
        "about": found["about"] or "no card",
        "folder": found["folder"],
        "files": ", ".join(found["files"]),
        "encoder layers": found["layers"],
        "embedding": f"{found['embedding_dim']} numbers",
        "window": f"{found['window_s']:g} s",
        "parameters": f"{found['parameters']:,}" if found["parameters"] else "not stated",
        "size": f"{found['bytes'] / 1e6:.1f} MB",
        "thresholds": f"{thresholds} (chosen on {found['thresholds_from']})" if thresholds else "none",
        "made by": made.format(**found),
        "licence": found["license"] or "not stated",
    }
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    Console().print(table)
