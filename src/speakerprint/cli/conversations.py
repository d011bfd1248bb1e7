"""Who spoke when in a recording of several people."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speakerprint.cli.options import (
    AsJson,
    DeviceName,
    ModelFolder,
    check_files,
    check_output,
    print_json,
    print_table,
    say_written,
)
from speakerprint.errors import InputError
from speakerprint.files import write_text

if TYPE_CHECKING:
    from speakerprint import Diarization

app = typer.Typer()
OUTPUT_SUFFIXES = (".rttm", ".json", ".csv", ".srt")


@app.command("diarize")
def diarize_command(
    file: Annotated[str, typer.Argument(help="a recording, in any format that libsndfile or FFmpeg reads")],
    output: Annotated[Path | None, typer.Option(help="FILE.rttm, .json, .csv or .srt; without it, a table is printed")] = None,
    speakers: Annotated[str | None, typer.Option(help="how many there are, N or FEWEST-MOST, where that is known")] = None,
    channels: Annotated[bool, typer.Option("--channels", help="each channel is one voice, as in a call recorded so")] = False,
    gallery: Annotated[Path | None, typer.Option(help="folder of a gallery: name those whom it knows")] = None,
    false_accept_rate: Annotated[float, typer.Option(help="of a name: strangers taken for anybody, at most")] = 0.01,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Tell who spoke when in a recording of several people. Exit status: 0 somebody speaks, 1 nobody does, 2 an error.

    Where two speak at once, one of them is found. Confidence, 0 to 1, says how much nearer a voice is than any other.

    Examples:

    - `speakerprint diarize meeting.wav`
    - `speakerprint diarize meeting.mp3 --speakers 2-4 --output meeting.rttm`
    - `speakerprint diarize meeting.m4a --gallery people --output meeting.srt`
    - `speakerprint diarize call.wav --channels --json`
    """
    if output is not None and output.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"--output {output}: expected a name that ends in one of {', '.join(OUTPUT_SUFFIXES)}")
    check_output(output)
    n_speakers = None if speakers is None else _range(speakers)
    check_files([file])

    from speakerprint import Gallery, SpeakerEmbedder, diarize

    if gallery is not None:
        Gallery(gallery)  # before the model takes its time: is there one?
    embedder = SpeakerEmbedder.load(model, device)
    known = None if gallery is None else Gallery.open(gallery, embedder)
    found = diarize(
        file,
        embedder=embedder,
        n_speakers=n_speakers,
        gallery=known,
        false_accept_rate=false_accept_rate,
        channels=channels,
    )
    if output is not None:
        write_text(as_text(found, output.suffix, Path(file).stem), output)
        said = f"{len(found.turns)} turns of {len(found.speakers)} speakers in {found.duration_s:.0f} s"
        say_written(output, said, as_json)
    if as_json:
        print_json(as_tree(found))
    elif output is None and found.turns:
        _print_turns(found)
    if not found.turns:
        typer.echo(f"{file}: nobody speaks in its {found.duration_s:.1f} s", err=True)
        raise typer.Exit(1)


def _range(speakers: str) -> tuple[int, int]:
    """The fewest and the most of N or FEWEST-MOST."""
    fewest, dash, most = speakers.partition("-")
    if not dash:
        most = fewest
    if not (fewest.isdecimal() and most.isdecimal()):
        raise InputError(f"--speakers {speakers}: expected a number, as in 3, or a range, as in 2-4")
    return int(fewest), int(most)


def as_tree(found: "Diarization") -> dict[str, Any]:
    """A diarization as JSON has it, numbers as short as they mean something."""
    turns = [
        {
            "start_s": round(turn.start_s, 3),
            "end_s": round(turn.end_s, 3),
            "speaker": turn.speaker,
            "confidence": round(turn.confidence, 3),
        }
        for turn in found.turns
    ]
    speakers = {name: [float(str(x)) for x in embedding] for name, embedding in found.speakers.items()}
    return {"duration_s": round(found.duration_s, 3), "turns": turns, "speakers": speakers}


def as_text(found: "Diarization", suffix: str, name: str) -> str:
    """A diarization as a file of one of OUTPUT_SUFFIXES holds it."""
    if suffix == ".rttm":
        return found.to_rttm(name)
    tree = as_tree(found)
    if suffix == ".json":
        return json.dumps(tree, ensure_ascii=False) + "\n"
    if suffix == ".csv":
        text = StringIO()
        writer = csv.DictWriter(text, ["start_s", "end_s", "speaker", "confidence"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(tree["turns"])
        return text.getvalue()
    return "\n".join(
        f"{number}\n{_clock(turn.start_s)} --> {_clock(turn.end_s)}\n{turn.speaker}\n"
        for number, turn in enumerate(found.turns, start=1)
    )


def _clock(at_s: float) -> str:
    """Hours, minutes, seconds and thousandths as SubRip has them."""
    ms = round(1000 * at_s)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


def _print_turns(found: "Diarization") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("start", "end", "speaker", "confidence", box=None, pad_edge=False)
    for turn in found.turns:
        table.add_row(_clock(turn.start_s), _clock(turn.end_s), escape(turn.speaker), f"{turn.confidence:.2f}")
    print_table(table)
