"""What `mkdocs build` does to the pages: links that leave docs/, the commands' reference, examples in docstrings."""

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from griffe import Extension, Object

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(?:#[^)\s]*)?\)")
LIGHT = re.compile(r"(!\[[^\]]*\]\()([^)\s]+)-light\.png\)")
CODE = re.compile(r'<div class="((?:language-\w+ )?highlight)">(?=<pre>(.*?)</pre>)', flags=re.DOTALL)
CORNER = re.compile(r"<th([^>]*)></th>")
PART_OF_CONTENTS = re.compile(r'<nav class="md-nav" aria-label="[^"]*">')
SEARCH = 'data-md-component="search" role="dialog"'
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", flags=re.MULTILINE)


OUTPUTS = Path(__file__).parent / "api/outputs"


def on_config(config: Any) -> Any:
    """Link to the repository that this checkout was cloned from, if a browser can open it."""
    found = subprocess.run(["git", "remote", "get-url", "origin"], cwd=Path(__file__).parent, capture_output=True, text=True)
    config.repo_url = config.repo_url or repository_page(found.stdout.strip())
    config.repo_name = config.repo_name or (urlsplit(config.repo_url).path.strip("/") if config.repo_url else None)
    return config


def repository_page(remote: str) -> str | None:
    """The page of a git remote: of https addresses, without name and password, and of git@HOST:PATH; None of others."""
    ssh = re.fullmatch(r"(?:ssh://)?git@([^:/]+)[:/](.+)", remote)
    host, path = ssh.groups() if ssh else ((parts := urlsplit(remote)).netloc.rpartition("@")[2], parts.path.lstrip("/"))
    return f"https://{host}/{path.removesuffix('.git')}" if ssh or remote.startswith("https://") else None


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Name files of the repository that the site does not hold, instead of linking to them, and list the commands.

    Of a picture NAME-light.png, the site shows NAME-dark.png where it is dark.

    A link that leads nowhere stays as it is, so that a strict build fails.
    """
    docs, here = Path(config.docs_dir), Path(page.file.abs_src_path).parent

    def outside(link: re.Match[str]) -> str:
        text, target = link.group(1), (here / link.group(2)).resolve()
        if not target.exists() or (target.is_file() and target.is_relative_to(docs)):
            return link.group(0)
        path = target.relative_to(docs.parent).as_posix()
        return text if text.strip("`") in path else f"{text} (`{path}`)"

    both = LIGHT.sub(r"\1\2-light.png#only-light)\n\1\2-dark.png#only-dark)", LINK.sub(outside, markdown))
    return both.replace("<!-- commands -->", _commands())


def on_page_content(html: str, **_: Any) -> str:
    """Say of code that draws a table with lines how many columns these take, for site.css to keep them whole.

    The empty corner of a table heads nothing.
    """

    def drawn(code: re.Match[str]) -> str:
        columns = max((len(line.rstrip()) for line in re.sub("<.*?>", "", code[2]).splitlines() if line[:1] in "┏│"), default=0)
        return f'<div class="{code[1]} drawn" style="--columns: {columns}">' if columns else code[0]

    return CODE.sub(drawn, CORNER.sub(r"<td\1></td>", html))


def on_post_page(output: str, **_: Any) -> str:
    """Name the search, a dialogue that Material leaves without a name; and the parts of a table of contents are no landmarks."""
    named = output.replace(SEARCH, f'{SEARCH} aria-label="Search"')
    return PART_OF_CONTENTS.sub('<nav class="md-nav" role="none">', named)


def _commands() -> str:
    from typer.cli import get_docs_for_click
    from typer.main import get_command
    from typer.models import Context

    from speakerprint.cli import app

    group = get_command(app)
    context = Context(group, info_name="speakerprint")
    return "\n".join(
        get_docs_for_click(obj=command, ctx=context, name=name, title=name, call_prefix="speakerprint", indent=1) + _output(name)
        for name, command in group.commands.items()
    )


def _output(command: str) -> str:
    """What a command answers, as docs/outputs.py has recorded it."""
    recorded = OUTPUTS / f"{command}.txt"
    if not recorded.is_file():
        return ""
    text = recorded.read_text(encoding="utf-8")
    return f"**What it prints**:\n\n```console\n{text}```\n"


class Examples(Extension):
    """Fences the `>>>` examples of docstrings, which Markdown would take for quotations."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
