"""Pages to look at and to listen to: a report in a file, and a page that this machine serves."""

from pathlib import Path
from typing import Annotated

import typer

from speakerprint.cli.options import ModelFolder
from speakerprint.errors import InputError

app = typer.Typer()


@app.command()
def report(
    source: Annotated[
        Path | None, typer.Argument(help="a folder per speaker, a folder of recordings, or a CSV with columns speaker,path")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="instead: an evaluation corpus of this project, after `dvc repro`")] = None,
    output: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    model: ModelFolder = None,
    max_recordings: Annotated[int, typer.Option(min=3, help="on the map, and to listen to beside the confused pairs")] = 500,
) -> None:
    """Write one HTML file to explore recordings in: figures, curves, a map, and the confused pairs to listen to.

    The figures need the speakers: a folder for each, or a CSV that names them. Without them there is the map, and what is most
    alike. A corpus of the project is embedded by the model in models/speakerprint unless --model names another one.

    Examples:

    - `speakerprint report recordings/ --output report.html`
    - `speakerprint report calls.csv --max-recordings 200`
    - `speakerprint report --corpus demo_dev`
    """
    if (source is None) == (corpus is None):
        raise InputError("give a folder or a CSV of recordings, or --corpus with the name of an evaluation corpus")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first")

    from speakerprint import SpeakerEmbedder
    from speakerprint.report import read_corpus, read_files, write_report

    if corpus is not None:
        embedder = SpeakerEmbedder.load(model or Path("models/speakerprint"))
        voices = read_corpus(corpus, embedder)
    else:
        embedder = SpeakerEmbedder.load(model)
        voices = read_files(source, embedder)
    write_report(voices, embedder, output, max_recordings)
    typer.echo(f"{output}: {len(voices.names):,} recordings, {output.stat().st_size / 1e6:.1f} MB")
