"""What `mkdocs build` does to the pages: links that leave docs/, the commands' reference, examples in docstrings."""

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(?:#[^)\s]*)?\)")
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", flags=re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Name files of the repository that the site does not hold, instead of linking to them, and list the commands.

    A link that leads nowhere stays as it is, so that a strict build fails.
    """
    docs, here = Path(config.docs_dir), Path(page.file.abs_src_path).parent

    def outside(link: re.Match[str]) -> str:
        text, target = link.group(1), (here / link.group(2)).resolve()
        if not target.exists() or (target.is_file() and target.is_relative_to(docs)):
            return link.group(0)
        path = target.relative_to(docs.parent).as_posix()
        return text if text.strip("`") in path else f"{text} (`{path}`)"

    return LINK.sub(outside, markdown).replace("<!-- commands -->", _commands())


def _commands() -> str:
    from typer.cli import get_docs_for_click
    from typer.main import get_command
    from typer.models import Context

    from speakerprint.cli import app

    group = get_command(app)
    context = Context(group, info_name="speakerprint")
    return "\n".join(
        get_docs_for_click(obj=command, ctx=context, name=name, title=name, call_prefix="speakerprint", indent=1)
        for name, command in group.commands.items()
    )


class Examples(Extension):
    """Fences the `>>>` examples of docstrings, which Markdown would take for quotations."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
