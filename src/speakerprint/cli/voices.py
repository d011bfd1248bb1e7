"""What a model makes of recordings: their embeddings, and whether two are of one speaker."""

import csv
import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from speakerprint.cli.options import (
    AsJson,
    CalibrationFile,
    DeviceName,
    Files,
    ModelFolder,
    check_files,
    check_output,
    named_files,
    print_json,
)
from speakerprint.errors import InputError

app = typer.Typer()
OUTPUT_SUFFIXES = (".npy", ".npz", ".csv", ".json")
TrimSilence = Annotated[
    bool, typer.Option("--trim-silence", help="hear each from its first speech to its last; refuse one without speech")
]


@app.command()
def embed(
    files: Files,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    output: Annotated[Path | None, typer.Option(help="FILE.npy, .npz, .csv or .json; without it, JSON lines are printed")] = None,
    trim_silence: TrimSilence = False,
) -> None:
    """Embed recordings: one unit vector each, near each other for the same speaker.

    Examples:

    - `speakerprint embed monday.wav tuesday.mp3`
    - `speakerprint embed clips/*.flac --output embeddings.npz`
    - `find clips -name '*.opus' | speakerprint embed - --output embeddings.csv`
    """
    if output is not None and output.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"--output {output}: expected a name that ends in one of {', '.join(OUTPUT_SUFFIXES)}")
    check_output(output)
    names = named_files(files)

    import numpy as np

    from speakerprint import SpeakerEmbedder

    embeddings = SpeakerEmbedder.load(model, device, trim_silence=trim_silence).embed_files(names)
    # the shortest digits that read back as the same float32
    rows = [{"path": name, "embedding": [float(str(x)) for x in row]} for name, row in zip(names, embeddings, strict=True)]
    if output is None:
        for row in rows:
            print_json(row)
    elif output.suffix == ".npy":
        np.save(output, embeddings)
    elif output.suffix == ".npz":
        np.savez(output, paths=np.array(names), embeddings=embeddings)
    elif output.suffix == ".csv":
        with output.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", *range(embeddings.shape[1])])
            writer.writerows([row["path"], *row["embedding"]] for row in rows)
    else:
        output.write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def verify(
    first: Annotated[str, typer.Argument(help="a recording, in any format that libsndfile or FFmpeg reads")],
    second: Annotated[str, typer.Argument(help="another")],
    model: ModelFolder = None,
    device: DeviceName = "auto",
    false_accept_rate: Annotated[float, typer.Option(help="of the threshold: one that the model was given")] = 0.01,
    calibration: CalibrationFile = None,
    trim_silence: TrimSilence = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether two recordings are of one speaker. Exit status: 0 same speaker, 1 different speakers, 2 an error.

    A recording with less than half a second of speech is refused.

    Examples:

    - `speakerprint verify monday.wav tuesday.mp3`
    - `speakerprint verify monday.wav tuesday.mp3 --false-accept-rate 0.001 --json`
    - `speakerprint verify monday.wav tuesday.mp3 --calibration calibration.json`
    """
    check_files([first, second])
    own = None
    if calibration is not None:
        from speakerprint import Calibration

        own = Calibration.load(calibration)
    from speakerprint import SpeakerEmbedder

    embedder = SpeakerEmbedder.load(model, device, trim_silence=trim_silence, require_speech=True)
    result = embedder.verify(first, second, false_accept_rate, own)
    if as_json:
        print_json(result._asdict())
    else:
        verdict = "same speaker" if result.same_speaker else "different speakers"
        llr = "" if own is None else f"; log-likelihood ratio {result.log_likelihood_ratio:+.1f}"
        typer.echo(
            f"{verdict}: score {result.score:.3f}, threshold {result.threshold:.3f} at {false_accept_rate:.1%} false accepts{llr}"
        )
    if not result.same_speaker:
        raise typer.Exit(1)


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
        shutil.copyfile(recording, folder / recording.name)
        typer.echo(folder / recording.name)
