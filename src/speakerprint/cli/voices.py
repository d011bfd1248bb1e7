"""What a model makes of recordings: their embeddings, and whether two are of one speaker."""

import shutil
import sys
import time
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
    Threshold,
    check_files,
    check_output,
    list_doubtful,
    named_files,
    print_json,
    read_calibration,
    say_written,
)
from speakerprint.errors import InputError
from speakerprint.files import Busy, whole_file

if TYPE_CHECKING:
    from speakerprint import SpeakerEmbedder

app = typer.Typer()
VERDICTS = {True: "same speaker", False: "different speakers", None: "cannot tell"}
CANNOT_TELL = 3  # the exit status
TrimSilence = Annotated[
    bool, typer.Option("--trim-silence", help="hear each from its first speech to its last; refuse one without speech")
]


@app.command()
def embed(
    files: Files,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    output: Annotated[
        Path | None, typer.Option(help="FILE.npz, .npy, .csv, .json or .jsonl; without it, JSON lines are printed")
    ] = None,
    trim_silence: TrimSilence = False,
    skip_errors: Annotated[bool, typer.Option("--skip-errors", help="leave out what cannot be embedded, and list it")] = False,
) -> None:
    """Embed recordings: one unit vector each, near each other for the same speaker.

    A recording with less than half a second of speech is refused. Those that are unfit to be judged, as `verify` says, are
    embedded and listed.

    With --output, what is done is kept in OUTPUT.part until all is. If the command is stopped, the same command goes on.

    Examples:

    - `speakerprint embed monday.wav tuesday.mp3`
    - `speakerprint embed clips/ --output embeddings.npz --skip-errors`
    - `find clips -name '*.opus' | speakerprint embed - --output embeddings.csv`
    """
    check_output(output)
    names = named_files(files)

    from speakerprint.inference.bulk import refuse_output

    if output is not None:
        refuse_output(output, skip_errors)

    from speakerprint import SpeakerEmbedder

    embedder = SpeakerEmbedder.load(model, device, trim_silence=trim_silence, require_speech=True)
    if output is None:
        _print_embeddings(embedder, names, skip_errors)
    else:
        _embed_into(output, embedder, names, skip_errors)


def _print_embeddings(embedder: "SpeakerEmbedder", names: list[str], skip_errors: bool) -> None:
    from tqdm import tqdm

    from speakerprint.inference.bulk import refuse_nothing, row

    left_out: dict[str, str] = {}
    doubtful: Doubtful = {}
    hidden = True if sys.stdout.isatty() else None  # on a terminal the lines show how far it is
    with tqdm(desc="embed", total=len(names), unit="file", disable=hidden) as progress:

        def refused(name: Any, error: InputError) -> None:
            left_out[name] = str(error)
            progress.update()

        for name, embedding in embedder.embed_each(names, refused if skip_errors else None, doubtful.__setitem__):
            print_json(row(str(name), embedding))
            progress.update()
    refuse_nothing(names, left_out)
    _list_left_out(left_out)
    list_doubtful(doubtful)


def _embed_into(output: Path, embedder: "SpeakerEmbedder", names: list[str], skip_errors: bool) -> None:
    """Embed into a file, and say how far it came where it is stopped."""
    from speakerprint.inference.bulk import embed_into, part_of

    kept = f"what is done is kept in {part_of(output)}: the same command goes on from there"
    started = time.monotonic()
    try:
        done = embed_into(output, names, embedder, skip_errors)
    except KeyboardInterrupt:
        typer.echo(f"stopped; {kept}", err=True)
        raise
    except Busy:
        raise
    except InputError as error:
        raise InputError(
            str(error) if skip_errors else f"{error}\n{kept}; with --skip-errors it leaves out such a file"
        ) from None
    new = done.embedded - done.resumed
    rate = f", {new / (time.monotonic() - started):.1f} files a second" if new > 0 else ""
    of_before = f", {done.resumed:,} of an earlier run" if done.resumed else ""
    left_out = f", {len(done.left_out):,} left out" if done.left_out else ""
    doubtful = f", {len(done.doubtful):,} doubtful" if done.doubtful else ""
    said = f"{done.embedded:,} embeddings of {embedder.embedding_dim} numbers{of_before}{left_out}{doubtful}{rate}"
    say_written(output, said)
    _list_left_out(done.left_out)
    list_doubtful(done.doubtful)


def _list_left_out(left_out: dict[str, str]) -> None:
    for reason in left_out.values():
        typer.echo(f"left out: {reason}", err=True)


@app.command()
def verify(
    first: Annotated[str, typer.Argument(help="a recording, in any format that libsndfile or FFmpeg reads")],
    second: Annotated[str, typer.Argument(help="another")],
    model: ModelFolder = None,
    device: DeviceName = "auto",
    false_accept_rate: Annotated[float, typer.Option(help="of the threshold: any up to 0.01, of the shipped model")] = 0.01,
    calibration: CalibrationFile = None,
    threshold: Threshold = None,
    trim_silence: TrimSilence = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether two recordings are of one speaker. Exit: 0 same speaker, 1 different speakers, 2 an error, 3 cannot tell.

    A recording with less than half a second of speech is refused. Where one is clipped, echoes, is noisy, comes from a telephone
    or has two voices, it says so, and that it cannot tell, unless the threshold is your own.

    Examples:

    - `speakerprint verify monday.wav tuesday.mp3`
    - `speakerprint verify monday.wav tuesday.mp3 --false-accept-rate 0.001 --json`
    - `speakerprint verify monday.wav tuesday.mp3 --calibration calibration.json`
    """
    check_files([first, second])
    own = read_calibration(calibration)

    from speakerprint import SpeakerEmbedder

    embedder = SpeakerEmbedder.load(model, device, trim_silence=trim_silence, require_speech=True)
    result = embedder.verify(first, second, false_accept_rate, own, threshold=threshold)
    if as_json:
        print_json(result._asdict())
    else:
        verdict = VERDICTS[result.same_speaker]
        rate = "" if threshold is not None else f" at {false_accept_rate:.1%} false accepts"
        llr = "" if own is None else f"; log-likelihood ratio {result.log_likelihood_ratio:+.1f}"
        typer.echo(f"{verdict}: score {result.score:.3f}, threshold {result.threshold:.3f}{rate}{llr}")
        for doubt in result.doubts:
            typer.echo(doubt, err=True)
    if not result.same_speaker:
        raise typer.Exit(CANNOT_TELL if result.same_speaker is None else 1)


@app.command()
def samples(folder: Annotated[Path, typer.Argument(help="the folder to put them in, made if need be")] = Path("voices")) -> None:
    """Write three short recordings to try the other commands with: two of one speaker, and one of another.

    Examples:

    - `speakerprint samples`
    - `speakerprint verify voices/ann-1.ogg voices/ann-2.ogg`
    - `speakerprint verify voices/ann-1.ogg voices/bob.ogg`
    """
    folder.mkdir(parents=True, exist_ok=True)
    for recording in sorted((Path(__file__).parents[1] / "samples").glob("*.ogg")):
        with whole_file(folder / recording.name) as part:
            shutil.copyfile(recording, part)
        typer.echo(folder / recording.name)


@app.command()
def demo_voices(
    folder: Annotated[Path, typer.Argument(help="the folder to put them in, made if need be")] = Path("demo"),
) -> None:
    """Make synthetic voices to try every task with: voices/, six speakers with names, and others/, 25 to choose thresholds with.

    Each has a folder with six recordings, which eSpeak NG speaks. The same voices are made each time.

    Examples:

    - `speakerprint demo-voices`
    - `speakerprint demo-voices demo && speakerprint evaluate demo/voices`
    """
    from speakerprint.corpora.sources.demo_voices import write_voices

    for name, split, speakers, seed in (
        # a draw of six different voices, of women and men as their names say, and the furthest apart in pitch and resonance
        ("voices", "dev", ["ann", "bob", "cid", "dora", "eva", "finn"], 2066),
        ("others", "train", [f"speaker{n:02}" for n in range(1, 26)], 1),
    ):
        write_voices(folder / name, split, speakers, seed)
        typer.echo(f"{folder / name}: {len(speakers)} speakers, 6 recordings each")
