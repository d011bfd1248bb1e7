"""The `speakerprint` command, a module for each group of its commands.

Exit status: 0 done, or yes; 1 no (different speakers, nobody known); 2 an error that the user can mend, or a wrong option.
"""

import sys

import typer

from speakerprint.cli import decisions, export, gallery, pages, pipeline, voices
from speakerprint.errors import InputError

app = typer.Typer(
    help="Speaker embeddings from a pretrained Whisper encoder. The pipeline itself is run by `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for group in (voices, decisions, gallery, pages, export, pipeline):
    app.add_typer(group.app)


def main() -> None:
    """Entry point: what the user can mend ends in a message on stderr and status 2, as a wrong option does."""
    try:
        app(prog_name="speakerprint")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
