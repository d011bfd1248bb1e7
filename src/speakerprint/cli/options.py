"""What several commands take, and how they say what they found."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from speakerprint.errors import InputError

ModelFolder = Annotated[
    Path | None, typer.Option(help="a trained model's folder, or OWNER/NAME on the Hugging Face hub; without it, the shipped one")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Files = Annotated[list[str], typer.Argument(help="recordings, in any format that libsndfile or FFmpeg reads; -: names on stdin")]


def named_files(files: list[str]) -> list[str]:
    """The files that were named, with those that stdin names where `-` stands. Raises InputError if there are none."""
    names = [name for given in files for name in (sys.stdin.read().splitlines() if given == "-" else [given])]
    if not names:
        raise InputError("no recordings were named on stdin; give one file name per line")
    return names


def print_json(tree: Any) -> None:
    """Print one JSON value on a line of its own."""
    typer.echo(json.dumps(tree, ensure_ascii=False))
