"""Around `dvc repro`: switch params.yaml to a preset, print the metrics, describe the corpora."""

import math
from pathlib import Path
from typing import Annotated

import typer

from speakerprint.cli.options import AsJson, check_output, print_json, say_written

app = typer.Typer()


@app.command()
def use(
    preset: Annotated[str | None, typer.Argument(help="such as corpora/demo or recipes/reference")] = None,
    root: Annotated[Path | None, typer.Option(help="where the recordings are, for a preset of corpora on disk")] = None,
    add: Annotated[bool, typer.Option("--add", help="keep the corpora that are there")] = False,
    params: Annotated[Path, typer.Option(help="the file to rewrite")] = Path("params.yaml"),
    dvc_yaml: Annotated[Path, typer.Option(help="the file whose plots show a curve per evaluation corpus")] = Path("dvc.yaml"),
    show_list: Annotated[bool, typer.Option("--list", help="say which presets there are, and change nothing")] = False,
) -> None:
    """Switch params.yaml to a preset, keeping the rest of it, and print what changed.

    Examples:

    - `speakerprint use --list`
    - `speakerprint use corpora/common_voice_17 --root ~/data/cv-corpus-17.0-2024-03-15`
    - `speakerprint use corpora/voxceleb2 --root ~/data/voxceleb2 --add`
    - `speakerprint use recipes/reference`
    """
    from speakerprint.params.presets import list_presets, use_preset

    if show_list or preset is None:
        known = list_presets()
        for name, description in known.items():
            typer.echo(f"{name:{max(map(len, known))}}  {description}")
        return
    change = use_preset(preset, params, root, dvc_yaml, add=add)
    typer.echo(change.diff or f"nothing to change: {params} has {preset} already\n", nl=False)
    for folder in change.removed:
        typer.echo(f"removed {folder}, which `train` would have read (DVC's cache keeps a copy)")


def _figure(value: object) -> str:
    match value:
        case None:
            return "-"
        case float():
            return "-" if math.isnan(value) else f"{value:.4f}"
        case int():
            return f"{value:,}"
    return str(value)


@app.command()
def metrics(
    corpus: Annotated[str | None, typer.Argument(help="show all figures of this evaluation corpus")] = None,
    details: Annotated[bool, typer.Option("--details", help="show all figures of every evaluation corpus")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the figures that people compare, one column for each evaluation corpus (`dvc metrics show` prints one row each).

    Examples:

    - `speakerprint metrics`
    - `speakerprint metrics demo_dev`
    - `speakerprint metrics --details --json`
    """
    from speakerprint.evaluation.metrics_files import figures_of, side_by_side
    from speakerprint.params.whole import load_params

    corpora = load_params().evaluation.corpora if corpus is None else [corpus]
    figures = figures_of(corpora, details or corpus is not None)
    if as_json:
        print_json(figures)
    else:
        typer.echo(side_by_side(figures).map(_figure).to_string())


@app.command()
def data(
    output: Annotated[Path | None, typer.Option(help="FILE.md, with pictures in a folder beside it; without it, printed")] = None,
) -> None:
    """Describe every corpus: recordings, speakers, hours, votes, gender, age and locale, as Markdown.

    Histograms of duration and of recordings per speaker are drawn for corpora whose features are there.

    Examples:

    - `speakerprint data`
    - `speakerprint data --output docs/data.md`
    """
    check_output(output)

    from speakerprint.pages.data_report import describe_corpora, write_report
    from speakerprint.params.whole import load_params

    params = load_params()
    if output is None:
        typer.echo(describe_corpora(params), nl=False)
    else:
        write_report(params, output)
        say_written(output, f"{len(params.corpora)} corpora")
