"""The `speakerprint` command: switch params.yaml to a preset, print metrics, embed recordings and compare them."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from speakerprint.errors import InputError

app = typer.Typer(
    help="Speaker embeddings from a pretrained Whisper encoder. The pipeline itself is run by `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
OUTPUT_SUFFIXES = (".npy", ".npz", ".csv", ".json")


def main() -> None:
    """Entry point: what the user can mend ends in a message on stderr and status 2, as a wrong option does."""
    try:
        app(prog_name="speakerprint")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def use(
    preset: Annotated[str, typer.Argument(help="such as corpora/demo or recipes/reference; any other name lists them all")],
    root: Annotated[Path | None, typer.Option(help="where the recordings are, for a preset of corpora on disk")] = None,
    add: Annotated[bool, typer.Option("--add", help="keep the corpora that are there")] = False,
    params: Annotated[Path, typer.Option(help="the file to rewrite")] = Path("params.yaml"),
    dvc_yaml: Annotated[Path, typer.Option(help="the file whose plots show a curve per evaluation corpus")] = Path("dvc.yaml"),
) -> None:
    """Switch params.yaml to a preset, keeping the rest of it, and print what changed.

    Examples:

    - `speakerprint use corpora/common_voice_17 --root ~/data/cv-corpus-17.0-2024-03-15`
    - `speakerprint use corpora/voxceleb2 --root ~/data/voxceleb2 --add`
    - `speakerprint use recipes/reference`
    """
    from speakerprint.presets import use_preset

    change = use_preset(preset, params, root, dvc_yaml, add=add)
    typer.echo(change.diff or f"nothing to change: {params} has {preset} already\n", nl=False)
    for folder in change.removed:
        typer.echo(f"removed {folder}, which `train` would have read (DVC's cache keeps a copy)")


@app.command()
def metrics() -> None:
    """Print the metrics of every evaluation corpus, one column each (`dvc metrics show` prints one row each)."""
    import pandas as pd

    from speakerprint.params import load_params

    columns = {}
    for corpus in load_params().evaluation.corpora:
        path = Path(f"metrics/{corpus}.json")
        if not path.is_file():
            raise InputError(f"{path} does not exist; run `dvc repro` to make it")
        columns[corpus] = pd.json_normalize(json.loads(path.read_text(encoding="utf-8"))).astype(object).iloc[0]
    table = pd.DataFrame(columns).reindex(next(iter(columns.values())).index)  # in the order of the file
    shown = table.map(lambda value: "-" if pd.isna(value) else f"{value:.4f}" if isinstance(value, float) else f"{value:,}")
    typer.echo(shown.to_string())


@app.command()
def embed(
    files: Annotated[
        list[str], typer.Argument(help="recordings, in any format that libsndfile or FFmpeg reads; -: names on stdin")
    ],
    model: Annotated[Path | None, typer.Option(help="folder of a trained model; without it, the shipped one")] = None,
    output: Annotated[Path | None, typer.Option(help="FILE.npy, .npz, .csv or .json; without it, JSON lines are printed")] = None,
) -> None:
    """Embed recordings: one unit vector each, near each other for the same speaker.

    Examples:

    - `speakerprint embed monday.wav tuesday.mp3`
    - `speakerprint embed clips/*.flac --output embeddings.npz`
    - `find clips -name '*.opus' | speakerprint embed - --output embeddings.csv`
    """
    if output is not None and output.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"--output {output}: expected a name that ends in one of {', '.join(OUTPUT_SUFFIXES)}")
    if output is not None and not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first")
    names = [name for given in files for name in (sys.stdin.read().splitlines() if given == "-" else [given])]
    if not names:
        raise InputError("no recordings were named on stdin; give one file name per line")

    import numpy as np

    from speakerprint import SpeakerEmbedder

    embeddings = SpeakerEmbedder.load(model).embed_files(names)
    # the shortest digits that read back as the same float32
    rows = [{"path": name, "embedding": [float(str(x)) for x in row]} for name, row in zip(names, embeddings, strict=True)]
    if output is None:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    elif output.suffix == ".npy":
        np.save(output, embeddings)
    elif output.suffix == ".npz":
        np.savez(output, paths=np.array(names), embeddings=embeddings)
    elif output.suffix == ".csv":
        import pandas as pd

        pd.DataFrame(embeddings, index=pd.Index(names, name="path")).to_csv(output)
    else:
        output.write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def verify(
    first: Annotated[str, typer.Argument(help="a recording, in any format that libsndfile or FFmpeg reads")],
    second: Annotated[str, typer.Argument(help="another")],
    model: Annotated[Path | None, typer.Option(help="folder of a trained model; without it, the shipped one")] = None,
    false_accept_rate: Annotated[float, typer.Option(help="of the threshold: one that the model was given")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Tell whether two recordings are of one speaker. Exit status: 0 same speaker, 1 different speakers, 2 an error.

    Examples:

    - `speakerprint verify monday.wav tuesday.mp3`
    - `speakerprint verify monday.wav tuesday.mp3 --false-accept-rate 0.001 --json`
    """
    from speakerprint import SpeakerEmbedder

    result = SpeakerEmbedder.load(model).verify(first, second, false_accept_rate)
    if as_json:
        typer.echo(json.dumps(result._asdict()))
    else:
        verdict = "same speaker" if result.same_speaker else "different speakers"
        typer.echo(
            f"{verdict}: score {result.score:.3f}, threshold {result.threshold:.3f} at {false_accept_rate:.1%} false accepts"
        )
    if not result.same_speaker:
        raise typer.Exit(1)
