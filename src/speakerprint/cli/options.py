"""What several commands take, and how they say what they found."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speakerprint.errors import InputError
from speakerprint.runtime import Device

if TYPE_CHECKING:
    from rich.table import Table

    from speakerprint import Calibration, SpeakerEmbedder

ModelFolder = Annotated[
    Path | None,
    typer.Option(help="a model's folder, or OWNER/NAME[@REVISION] on the Hugging Face hub; by default the shipped one"),
]
DeviceName = Annotated[Device, typer.Option("--device", help="auto, cpu or cuda; auto is a GPU where ONNX Runtime can use one")]
CalibrationFile = Annotated[Path | None, typer.Option(help="what `calibrate` wrote: its thresholds, not the model's")]
Threshold = Annotated[float | None, typer.Option(help="score to reach, whatever the false-accept rate")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Files = Annotated[
    list[str],
    typer.Argument(help="recordings, in any format that libsndfile or FFmpeg reads, or folders of them; -: names on stdin"),
]


Doubtful = dict[Any, Sequence[str]]  # of recordings, what makes them unfit to be judged


def list_doubtful(doubtful: Mapping[Any, Sequence[str]]) -> None:
    """Say on stderr which recordings are unfit to be judged, and why."""
    for name, doubts in doubtful.items():
        typer.echo(f"doubtful: {name}: {'; '.join(doubts)}", err=True)


def count_doubtful(doubtful: Doubtful, n_recordings: int) -> None:
    """Say on stderr how many recordings are unfit to be judged, and why the first is."""
    if doubtful:
        name, doubts = next(iter(doubtful.items()))
        typer.echo(
            f"warning: {len(doubtful):,} of {n_recordings:,} recordings are doubtful (`speakerprint embed` lists them), "
            f"the first: {name}: {'; '.join(doubts)}",
            err=True,
        )


def named_files(files: list[str]) -> list[str]:
    """The files that were named, those that stdin names where `-` stands, and all audio in folders.

    Raises InputError if one is not there, or a folder holds none.
    """
    named = [name for given in files for name in (filter(str.strip, sys.stdin.read().splitlines()) if given == "-" else [given])]
    if not named:
        raise InputError("no recordings were named on stdin; give one file name per line")
    check_files(named)
    return [name for given in named for name in (_recordings_in(given) if Path(given).is_dir() else [given])]


def _recordings_in(folder: str) -> list[str]:
    from speakerprint.audio.files import AUDIO_SUFFIXES, audio_files

    found = audio_files(folder)
    if not found:
        raise InputError(f"{folder}: has no audio in it or in its folders ({' '.join(sorted(AUDIO_SUFFIXES))})")
    return found


def is_there(name: str) -> bool:
    """Whether something has that name."""
    return os.path.exists(name)  # noqa: PTH110 — also of a name that is too long


def check_files(names: list[str]) -> None:
    """Raise InputError, before the model takes its time, for recordings that are not there."""
    if missing := [name for name in names if not is_there(name)]:
        others = f", nor can {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}: cannot be read (No such file or directory){others}; check the name and its permissions")


def check_output(output: Path | None) -> None:
    """Raise InputError, before a command takes its time, where the file or folder of --output cannot be made."""
    if output is not None and not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first")


def print_table(table: "Table") -> None:
    """Print a table as wide as the terminal; into a pipe, whole lines, so that no name is broken."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def say_written(path: Path, what: str, as_json: bool = False) -> None:
    """Say what a command wrote where; beside JSON, on stderr."""
    typer.echo(f"{path}: {what}", err=as_json)


def print_json(tree: Any) -> None:
    """Print one JSON value on a line of its own."""
    typer.echo(json.dumps(tree, ensure_ascii=False))


def read_calibration(path: Path | None) -> "Calibration | None":
    """The calibration in a file, if one is named. Raises InputError for what is none."""
    if path is None:
        return None
    from speakerprint import Calibration

    return Calibration.load(path)


def thresholds_of(embedder: "SpeakerEmbedder", calibration: Path | None) -> dict[float, float]:
    """Score to reach for each false-accept rate, from the calibration or the model. Raises InputError for another model's."""
    own = read_calibration(calibration)
    if own is None:
        return embedder.thresholds
    own.refuse_other_model(embedder.model_id)
    return {rate: at.score for rate, at in own.thresholds.items()}
