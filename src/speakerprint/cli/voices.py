"""What a model makes of recordings: their embeddings, and whether two are of one speaker."""

import json
from pathlib import Path
from typing import Annotated

import typer

from speakerprint.cli.options import AsJson, CalibrationFile, Files, ModelFolder, check_output, named_files, print_json
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

    embeddings = SpeakerEmbedder.load(model, trim_silence=trim_silence).embed_files(names)
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
        import pandas as pd

        pd.DataFrame(embeddings, index=pd.Index(names, name="path")).to_csv(output)
    else:
        output.write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def verify(
    first: Annotated[str, typer.Argument(help="a recording, in any format that libsndfile or FFmpeg reads")],
    second: Annotated[str, typer.Argument(help="another")],
    model: ModelFolder = None,
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
    from speakerprint import Calibration, SpeakerEmbedder

    own = None if calibration is None else Calibration.load(calibration)
    embedder = SpeakerEmbedder.load(model, trim_silence=trim_silence, require_speech=True)
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
