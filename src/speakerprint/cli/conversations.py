"""Who spoke when in a recording of several people, and who is speaking now."""

import csv
import json
import sys
import wave
from collections.abc import Iterator, Sequence
from io import BufferedReader, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import typer

from speakerprint.cli.options import (
    AsJson,
    DeviceName,
    ModelFolder,
    check_files,
    check_output,
    list_doubtful,
    print_json,
    print_table,
    say_written,
)
from speakerprint.errors import InputError
from speakerprint.files import write_text

if TYPE_CHECKING:
    from speakerprint import Diarization, Event, Listener

app = typer.Typer()
OUTPUT_SUFFIXES = (".rttm", ".json", ".csv", ".srt", ".html")
CHUNKS_A_SECOND = 10  # read of a pipe


@app.command("diarize")
def diarize_command(
    file: Annotated[str, typer.Argument(help="a recording, in any format that libsndfile or FFmpeg reads")],
    output: Annotated[Path | None, typer.Option(help="FILE.rttm, .json, .csv, .srt or .html; else a table is printed")] = None,
    speakers: Annotated[str | None, typer.Option(help="how many there are, N or FEWEST-MOST, where that is known")] = None,
    channels: Annotated[bool, typer.Option("--channels", help="each channel is one voice, as in a call recorded so")] = False,
    gallery: Annotated[Path | None, typer.Option(help="folder of a gallery: name those whom it knows")] = None,
    false_accept_rate: Annotated[float, typer.Option(help="of a name: strangers taken for anybody, at most")] = 0.01,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Tell who spoke when in a recording of several people. Exit status: 0 somebody speaks, 1 nobody does, 2 an error.

    Where two speak at once, one of them is found. Confidence, 0 to 1, says how much nearer a voice is than any other. A
    recording that is clipped, echoes, is noisy or from a telephone is said to be doubtful: then turns and names are often wrong.

    Examples:

    - `speakerprint diarize meeting.wav`
    - `speakerprint diarize meeting.mp3 --speakers 2-4 --output meeting.rttm`
    - `speakerprint diarize meeting.m4a --gallery people --output meeting.srt`
    - `speakerprint diarize meeting.wav --output meeting.html`
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
        _write_turns(found, file, output, as_json)
    if as_json:
        print_json(as_tree(found))
    elif output is None and found.turns:
        _print_turns(found)
    if found.doubts and not as_json:
        list_doubtful({file: found.doubts})
    if not found.turns:
        typer.echo(f"{file}: nobody speaks in its {found.duration_s:.1f} s", err=True)
        raise typer.Exit(1)


def _write_turns(found: "Diarization", file: str, output: Path, as_json: bool) -> None:
    if output.suffix == ".html":
        from speakerprint.pages.conversation import write_conversation

        write_conversation(found, file, output)
    else:
        write_text(as_text(found, output.suffix, Path(file).stem), output)
    said = f"{len(found.turns)} turns of {len(found.speakers)} speakers in {found.duration_s:.0f} s"
    say_written(output, said, as_json)


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
    duration_s = round(found.duration_s, 3)
    return {"duration_s": duration_s, "turns": turns, "speakers": speakers, "doubts": list(found.doubts)}


def as_text(found: "Diarization", suffix: str, name: str) -> str:
    """A diarization as a file of one of OUTPUT_SUFFIXES holds it, but for a page."""
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


@app.command("listen")
def listen_command(
    file: Annotated[str, typer.Argument(help="a recording, or -: WAV or raw samples of 16 bits, one channel, on stdin")] = "-",
    rate: Annotated[int, typer.Option(min=1_000, max=384_000, help="samples a second, where raw samples are read")] = 16_000,
    gallery: Annotated[Path | None, typer.Option(help="folder of a gallery: name those whom it knows")] = None,
    false_accept_rate: Annotated[float, typer.Option(help="of a name: strangers taken for anybody, at most")] = 0.01,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print a line of JSON an event")] = False,
) -> None:
    """Tell who is speaking while they speak. Exit status: 0 somebody spoke, 1 nobody did, 2 an error.

    A line is printed when a speaker starts, and one when they end. Its time is when they did, which is known about a second
    later. Who is not in the gallery is unknown 1 and so on, the same voice by the same number. Sound that is clipped, echoes,
    is noisy or from a telephone is said to be doubtful: then names are often wrong.

    Examples:

    - `arecord -f S16_LE -r 16000 | speakerprint listen --gallery people`
    - `ffmpeg -i rtsp://camera -f wav - | speakerprint listen --json`
    - `speakerprint listen meeting.wav`
    """
    if file != "-":
        check_files([file])

    from speakerprint import Gallery, Listener, SpeakerEmbedder

    if gallery is not None:
        Gallery(gallery)  # before the model takes its time: is there one?
    embedder = SpeakerEmbedder.load(model, device)
    known = None if gallery is None else Gallery.open(gallery, embedder)
    sample_rate_hz, chunks = _chunks_of(file, rate)
    listener = Listener(sample_rate_hz, embedder=embedder, gallery=known, false_accept_rate=false_accept_rate)
    name = "stdin" if file == "-" else file
    anybody, said = False, False
    for events in _events_of(listener, chunks):
        anybody = anybody or bool(events)
        for event in events:
            _print_event(event, listener.doubts, as_json)
        if listener.doubts and not (said or as_json):
            said = True
            list_doubtful({name: listener.doubts})
    if not anybody:
        typer.echo(f"{name}: nobody speaks in its {listener.heard_s:.1f} s", err=True)
        raise typer.Exit(1)


def _events_of(listener: "Listener", chunks: Iterator[np.ndarray]) -> Iterator[list["Event"]]:
    """What each chunk brings to light, and then the end."""
    for chunk in chunks:
        yield listener.hear(chunk)
    yield listener.end()


def _chunks_of(file: str, rate: int) -> tuple[int, Iterator[np.ndarray]]:
    """The sample rate in Hz and the samples of a file, or of stdin as they come."""
    if file != "-":
        from speakerprint.audio.stream import AudioStream

        source = AudioStream(file)
        return source.sample_rate_hz, iter(source)
    stream = cast(BufferedReader, sys.stdin.buffer)
    return wav_chunks(stream) if stream.peek(4)[:4] == b"RIFF" else (rate, raw_chunks(stream, rate))


def raw_chunks(stream: BufferedReader, rate: int) -> Iterator[np.ndarray]:
    """Samples of 16 bits, little-endian, of one channel, as they come: each (n_samples,) int16."""
    while data := stream.read(2 * max(1, rate // CHUNKS_A_SECOND)):
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2")


def wav_chunks(stream: BufferedReader) -> tuple[int, Iterator[np.ndarray]]:
    """The sample rate in Hz of a WAV file that comes through a pipe, and its samples, each (n_samples, channels).

    Raises InputError for another format than PCM of 16 or 32 bits.
    """
    try:
        file = wave.open(stream)  # noqa: SIM115 — it is read as long as the program listens
    except (wave.Error, EOFError) as error:
        raise InputError(f"stdin is no WAV file that can be read ({error}); expected PCM of 16 or 32 bits") from None
    if file.getsampwidth() not in (2, 4):
        raise InputError(f"stdin is a WAV file of {8 * file.getsampwidth()} bits a sample, expected 16 or 32")
    size = max(1, file.getframerate() // CHUNKS_A_SECOND)
    kind, channels = f"<i{file.getsampwidth()}", file.getnchannels()

    def chunks() -> Iterator[np.ndarray]:
        while data := file.readframes(size):
            samples = np.frombuffer(data[: len(data) // file.getsampwidth() // channels * file.getsampwidth() * channels], kind)
            yield samples.reshape(-1, channels)

    return file.getframerate(), chunks()


def _print_event(event: "Event", doubts: Sequence[str], as_json: bool) -> None:
    if as_json:
        numbers = {"time_s": round(event.time_s, 3), "score": round(event.score, 3)}
        print_json(event._asdict() | numbers | {"doubts": list(doubts)})
    elif event.kind == "start":
        typer.echo(f"{_clock(event.time_s)}  {event.speaker} ({event.score:.2f})")
    else:
        typer.echo(f"{_clock(event.time_s)}  {event.speaker} ends")
