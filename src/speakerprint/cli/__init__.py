"""The `speakerprint` command, a module for each group of its commands.

Exit status: 0 done, or yes; 1 no (different speakers, nobody known); 2 an error, or a wrong option; 130 stopped by Ctrl+C; 141
nobody reads on (`speakerprint embed … | head -1`).
"""

import sys
import traceback
from typing import Annotated, NoReturn

import typer

from speakerprint.cli import conversations, decisions, export, gallery, pages, pipeline, voices
from speakerprint.errors import InputError

app = typer.Typer(
    help="Speaker embeddings from a pretrained Whisper encoder. The pipeline itself is run by `dvc repro`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
READER_GONE = 141  # what a shell says of a program that SIGPIPE ended
EXTRAS = {  # what has to be installed for a module that inference does without
    **dict.fromkeys(["fastapi", "plotly", "uvicorn", "python_multipart"], "pages"),
    **dict.fromkeys(["onnx", "huggingface_hub"], "export"),
    **dict.fromkeys(["espeakng_loader", "joblib", "pandas", "pyarrow", "scipy", "sklearn", "zarr"], "measure"),
    **dict.fromkeys(
        ["accelerate", "datacollective", "datasets", "dvc", "dvclive", "matplotlib", "resampy", "ruamel", "safetensors", "torch"],
        "pipeline",
    ),
}
for group in (voices, decisions, gallery, conversations, pages, export, pipeline):
    app.add_typer(group.app)


def _print_version(asked: bool) -> None:
    if asked:
        from speakerprint import __version__

        typer.echo(f"speakerprint {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: what the user can mend ends in a message on stderr. The status of any error is 2, because 1 is an answer."""
    try:
        app(prog_name="speakerprint")
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # which typer gives the status of a no
            sys.exit(READER_GONE)
        raise
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror or error}; check the path, its permissions and the space on its disk")
    except UnicodeEncodeError as error:
        remedy = "rename the file, or, if only the terminal cannot show it, set PYTHONUTF8=1"
        _fail(f"{_around(error)!a} cannot be written in {error.encoding}; {remedy}")
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            traceback.print_exc()
            sys.exit(2)
        _fail(f"this command needs {error.name}, which is not installed; pip install 'speakerprint[{extra}]'")
    except Exception:
        traceback.print_exc()
        sys.exit(2)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _around(error: UnicodeEncodeError) -> str:
    """The line of what could not be encoded, at most 60 characters before and after."""
    before, after = error.object[: error.start], error.object[error.start :]
    return before.rpartition("\n")[2][-60:] + after.partition("\n")[0][:60]
