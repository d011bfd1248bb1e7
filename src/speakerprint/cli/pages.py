"""Pages to look at and to listen to: a report in a file, and a page that this machine serves."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speakerprint.audio.files import AUDIO_SUFFIXES
from speakerprint.cli.options import DeviceName, Doubtful, ModelFolder, check_files, check_output, count_doubtful
from speakerprint.errors import InputError

if TYPE_CHECKING:
    from speakerprint import SpeakerEmbedder

app = typer.Typer()


@app.command()
def report(
    source: Annotated[
        Path | None, typer.Argument(help="a folder per speaker, a folder of recordings, a CSV of speaker,path, or one recording")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="instead: an evaluation corpus of this project, after `dvc repro`")] = None,
    output: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    model: ModelFolder = None,
    device: DeviceName = "auto",
    max_recordings: Annotated[int, typer.Option(min=3, help="on the map, and to listen to beside the confused pairs")] = 500,
) -> None:
    """Write one HTML file to explore recordings in: figures, curves, a map, and the confused pairs to listen to.

    The figures need the speakers: a folder for each, or a CSV that names them. Without them there is the map, and what is most
    alike. A recording without speech is refused. A corpus of the project is embedded by the model in models/speakerprint unless
    --model names another one. Of one recording the page shows who spoke when; `speakerprint diarize --output FILE.html` can be
    told more.

    Examples:

    - `speakerprint report recordings/ --output report.html`
    - `speakerprint report calls.csv --max-recordings 200`
    - `speakerprint report meeting.wav`
    - `speakerprint report --corpus demo_dev`
    """
    if (source is None) == (corpus is None):
        raise InputError("give a folder or a CSV of recordings, or --corpus with the name of an evaluation corpus")
    check_output(output)

    from speakerprint import SpeakerEmbedder

    if source is not None and source.suffix.lower() in AUDIO_SUFFIXES:
        _report_conversation(source, output, SpeakerEmbedder.load(model, device))
        return

    from speakerprint.pages.report import read_corpus, read_files, write_report

    if source is not None:
        embedder = SpeakerEmbedder.load(model, device, require_speech=True)
        doubtful: Doubtful = {}
        voices = read_files(source, embedder, doubtful.__setitem__)
        count_doubtful(doubtful, len(voices.names))
    elif corpus is not None:
        embedder = SpeakerEmbedder.load(model or Path("models/speakerprint"), device)
        voices = read_corpus(corpus, embedder)
    write_report(voices, embedder, output, max_recordings)
    typer.echo(f"{output}: {len(voices.names):,} recordings, {output.stat().st_size / 1e6:.1f} MB")


def _report_conversation(recording: Path, output: Path, embedder: "SpeakerEmbedder") -> None:
    from speakerprint import diarize
    from speakerprint.pages.conversation import write_conversation

    check_files([str(recording)])
    found = diarize(recording, embedder=embedder)
    write_conversation(found, recording, output)
    typer.echo(f"{output}: {len(found.turns)} turns of {len(found.speakers)} speakers in {found.duration_s:.0f} s")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="the address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="a name or address that other machines call this one by; repeat for more")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="folder to keep the embeddings of enrolled people in")] = None,
    corpus: Annotated[str | None, typer.Option(help="show scores among those of this evaluation corpus of the project")] = None,
    model: ModelFolder = None,
    device: DeviceName = "auto",
) -> None:
    """Serve a page on this machine to compare two recordings, enrol people, identify them, and see who is speaking now.

    Recordings stay in memory and are kept nowhere; of enrolled people, the gallery keeps the embeddings. Only this machine can
    open the page, unless --host and --allow-host say otherwise: then anyone who reaches it can, without a password.

    Examples:

    - `speakerprint serve`
    - `speakerprint serve --gallery people/ --port 8080`
    - `speakerprint serve --model models/speakerprint --corpus demo_dev`
    - `speakerprint serve --host 0.0.0.0 --allow-host 192.168.1.20`
    """
    local = host in ("127.0.0.1", "localhost", "::1")
    if not local and not allow_host:
        raise InputError(
            f"--host {host} lets other machines in, without a password; if you mean it, give --allow-host with the name or "
            "address that they call this machine by"
        )

    import uvicorn

    from speakerprint import SpeakerEmbedder
    from speakerprint.pages.guard import MAX_CONNECTIONS, Connection
    from speakerprint.pages.serve import LOOPBACK, MAX_MESSAGE_BYTES, create_app, reference_scores

    embedder = SpeakerEmbedder.load(model, device, require_speech=True)
    reference = reference_scores(corpus, embedder) if corpus is not None else None
    people = None
    if gallery is not None:
        from speakerprint.inference.gallery import Gallery

        people = Gallery.open(gallery, embedder)
    page = create_app(embedder, people, reference, [*LOOPBACK, *(allow_host or [])])
    if not local:
        typer.echo(f"warning: whoever reaches {host} port {port} can use this page: no password, no encryption", err=True)
    ipv6 = ":" in host
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ipv6 else socket.AF_INET)
    except OSError as error:
        raise InputError(f"cannot listen at {host} port {port} ({error.strerror}); give another --port or --host") from None
    typer.echo(f"http://{f'[{host}]' if ipv6 else host}:{port} (Ctrl+C stops it)")
    # the page does nothing as it starts or stops: with a lifespan, Ctrl+C while it starts would print a traceback
    limits: dict[str, Any] = {"limit_concurrency": MAX_CONNECTIONS, "ws_max_size": MAX_MESSAGE_BYTES}
    config = uvicorn.Config(page, log_level="warning", http=Connection, ws="wsproto", lifespan="off", **limits)
    uvicorn.Server(config).run(sockets=[listener])
