"""Known speakers: enrol them in a gallery, identify who speaks in a recording, search for similar ones."""

from pathlib import Path
from typing import Annotated

import typer

from speakerprint.cli.options import (
    AsJson,
    CalibrationFile,
    DeviceName,
    Doubtful,
    Files,
    ModelFolder,
    Threshold,
    list_doubtful,
    named_files,
    print_json,
    print_table,
    read_calibration,
)
from speakerprint.errors import InputError

app = typer.Typer()
FILES_AT_ONCE = 1000  # embedded, then enrolled: what memory holds, and what is lost at most if the command is stopped
GalleryFolder = Annotated[Path, typer.Option("--gallery", envvar="SPEAKERPRINT_GALLERY", help="folder of the gallery")]
GALLERY = Path("gallery")


@app.command()
def enrol(
    name: Annotated[str | None, typer.Argument(help="who speaks in all the recordings")] = None,
    files: Annotated[list[str] | None, typer.Argument(help="recordings of that speaker; -: names on stdin")] = None,
    table: Annotated[
        Path | None, typer.Option(help="instead: a CSV with columns speaker,path; paths are relative to its folder")
    ] = None,
    gallery: GalleryFolder = GALLERY,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Enrol recordings of a speaker, known or new, in a gallery, which is made if there is none.

    Recordings are known by their whole path: enrolling one again replaces it. With --table they are enrolled 1000 at a time.

    Examples:

    - `speakerprint enrol ann ann/*.wav`
    - `find recordings/bob -name '*.mp3' | speakerprint enrol bob - --gallery club`
    - `speakerprint enrol --table speakers.csv`
    """
    if (table is None) == (name is None or not files):
        raise InputError("expected a name and recordings, or --table FILE.csv with many")
    if table is not None:
        from speakerprint.corpora.tables import read_recording_table

        pairs = [(row.speaker, row.location) for row in read_recording_table(table)]
    else:
        pairs = [(str(name), path) for path in named_files(files or [])]

    from speakerprint import Gallery, SpeakerEmbedder

    embedder = SpeakerEmbedder.load(model, device, require_speech=True)
    opened = Gallery.open(gallery, embedder)
    doubtful: Doubtful = {}
    for start in range(0, len(pairs), FILES_AT_ONCE):
        speakers, paths = zip(*pairs[start : start + FILES_AT_ONCE], strict=True)
        embeddings = embedder.embed_files(paths, doubtful.__setitem__)
        opened.enrol(speakers, embeddings, [str(Path(path).absolute()) for path in paths])
    opened.update_index()
    n_speakers = len({speaker for speaker, _ in pairs})
    if as_json:
        print_json({"gallery": str(gallery), "recordings": len(pairs), "speakers": n_speakers})
    else:
        of = pairs[0][0] if n_speakers == 1 else f"{n_speakers} speakers"
        typer.echo(f"{gallery}: {_counted(len(pairs), 'recording')} of {of} enrolled")
    list_doubtful(doubtful)


@app.command()
def identify(
    files: Files,
    gallery: GalleryFolder = GALLERY,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    false_accept_rate: Annotated[float, typer.Option(help="of the question: strangers taken for anybody, at most")] = 0.01,
    calibration: CalibrationFile = None,
    threshold: Threshold = None,
    as_json: AsJson = False,
) -> None:
    """Tell who of the gallery speaks in each recording. Exit status: 0 all are known, 1 somebody is not, 2 an error.

    A speaker's score is the mean cosine of the recording to those enrolled. The threshold rises with the number of speakers, so
    that at most 1 % of strangers are taken for any of them, on recordings like those that the thresholds are from. A recording
    that `verify` could not judge is said to be doubtful: then more strangers are.

    Examples:

    - `speakerprint identify who.wav`
    - `speakerprint identify meeting/*.flac --gallery club --false-accept-rate 0.001`
    - `speakerprint identify who.wav --calibration calibration.json`
    - `find inbox -name '*.opus' | speakerprint identify - --json`
    """
    names = named_files(files)

    from speakerprint import Gallery, SpeakerEmbedder

    Gallery(gallery)  # before the model takes its time: is there one?
    embedder = SpeakerEmbedder.load(model, device, require_speech=True)
    opened = Gallery.open(gallery, embedder)
    level = opened.threshold(false_accept_rate, read_calibration(calibration)) if threshold is None else threshold
    doubtful: Doubtful = {}
    found = [opened.identify(embedding, level) for embedding in embedder.embed_files(names, doubtful.__setitem__)]
    if as_json:
        for name, person in zip(names, found, strict=True):
            candidates = [candidate._asdict() for candidate in person.candidates]
            doubts = list(doubtful.get(name, []))
            print_json({"path": name, **person._asdict(), "candidates": candidates, "doubts": doubts})
    else:
        nearest = [person.candidates[0].speaker if person.candidates else "-" for person in found]
        _print_rows(
            ("recording", "speaker", "score", "most similar"),
            [(name, p.speaker or "unknown", f"{p.score:.3f}", near) for name, p, near in zip(names, found, nearest, strict=True)],
        )
        if threshold is None:
            among = _counted(len(opened), "speaker")
            typer.echo(f"threshold {level:.3f}: at most {false_accept_rate:.1%} of strangers are taken for one of {among}")
        list_doubtful(doubtful)
    if any(person.speaker is None for person in found):
        raise typer.Exit(1)


@app.command()
def search(
    files: Files,
    top: Annotated[int, typer.Option(min=1, help="how many, for each recording")] = 5,
    gallery: GalleryFolder = GALLERY,
    model: ModelFolder = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the enrolled recordings whose voices are most similar to each recording, best first.

    A recording that `verify` could not judge is said to be doubtful: then strangers are as similar.

    Examples:

    - `speakerprint search who.wav`
    - `speakerprint search who.wav --top 20 --json`
    - `speakerprint search inbox/`
    """
    names = named_files(files)

    from speakerprint import Gallery, SpeakerEmbedder

    Gallery(gallery)  # before the model takes its time: is there one?
    embedder = SpeakerEmbedder.load(model, device, require_speech=True)
    opened = Gallery.open(gallery, embedder)
    doubtful: Doubtful = {}
    for name, embedding in zip(names, embedder.embed_files(names, doubtful.__setitem__), strict=True):
        matches = opened.search(embedding, top)
        if as_json:
            rows = [{"speaker": m.speaker, "path": m.recording, "score": m.score} for m in matches]
            print_json({"path": name, "matches": rows, "doubts": list(doubtful.get(name, []))})
            continue
        if len(names) > 1:
            typer.echo(f"{name}:")
        _print_rows(("score", "speaker", "recording"), [(f"{m.score:.3f}", m.speaker, m.recording) for m in matches])
    if not as_json:
        list_doubtful(doubtful)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="who is to be forgotten")], gallery: GalleryFolder = GALLERY, as_json: AsJson = False
) -> None:
    """Forget a speaker and all their recordings; the files themselves stay where they are.

    Examples:

    - `speakerprint remove ann`
    """
    from speakerprint import Gallery

    n_recordings = Gallery(gallery).remove(name)
    if as_json:
        print_json({"gallery": str(gallery), "speaker": name, "recordings": n_recordings})
    else:
        typer.echo(f"{gallery}: {name} removed, with {_counted(n_recordings, 'recording')}")


@app.command()
def people(gallery: GalleryFolder = GALLERY, as_json: AsJson = False) -> None:
    """List who is enrolled; with --json their recordings, too.

    Examples:

    - `speakerprint people`
    - `speakerprint people --gallery club --json`
    """
    from speakerprint import Gallery

    speakers = Gallery(gallery).speakers()
    if as_json:
        print_json(speakers)
    else:
        _print_rows(("speaker", "recordings"), [(name, str(len(recordings))) for name, recordings in speakers.items()])


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _print_rows(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table, folding what is too long for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*map(escape, row))
    print_table(table)
