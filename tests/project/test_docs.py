"""What README.md and docs/ tell people to type exists, and what they link to is there."""

import ast
import importlib
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from markdown.extensions.toc import slugify
from typer.exceptions import TyperException
from typer.main import get_command

from speakerprint.cli import app

PROJECT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "experiments/*.md",
        "data/*.md",
        "data/given/*.md",
        "models/*.md",
        "src/speakerprint/models/*/*.md",
        "notebooks/*.ipynb",
    )
    for page in PROJECT.glob(pattern)
)
GROUP: Any = get_command(app)  # typer says of it only that it is a command
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
IN_LINE = re.compile(r"`(speakerprint [^`]+)`")
LINK = re.compile(r"\]\(((?!\w+:)[^)\s]+)\)")
SEPARATORS = {"&&", "||", ";", "|", "&"}


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(text, language):
    return [body for name, body in FENCE.findall(text) if name == language]


def commands(shell):
    """The `speakerprint` commands of a piece of shell, each as its words."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.wordchars += "{},:[]!$%"
        for separator, group in itertools.groupby(lexer, SEPARATORS.__contains__):
            words = list(group)
            if not separator and "speakerprint" in words:
                yield words[words.index("speakerprint") + 1 :]


def fault(words):
    """What is wrong with a command, or None. A command alone, without its arguments, is a name for it."""
    name, *rest = words
    if name not in GROUP.commands:
        return f"there is no command {name!r}"
    command = GROUP.commands[name]
    context = command.make_context(name, ["--help"], resilient_parsing=True)
    try:
        values, left, _ = command.make_parser(context).parse_args(list(rest))
        for parameter in command.params:
            if values.get(parameter.name) is not None:
                parameter.process_value(context, values[parameter.name])
    except TyperException as error:
        return None if str(error).endswith("does not exist.") else str(error)  # the files are the reader's
    return f"left over: {left}" if left else None


def test_a_mistyped_command_option_choice_or_argument_is_found():
    assert fault(["verify", "a.wav", "b.wav", "--false-accept-rate", "0.001", "--json"]) is None
    assert fault(["verfy", "a.wav", "b.wav"])
    assert fault(["verify", "a.wav", "b.wav", "--jsn"])
    assert fault(["verify", "a.wav", "b.wav", "c.wav"])
    assert fault(["verify", "a.wav", "b.wav", "--model"])
    assert fault(["export", "--format", "onx", "--output", "a.onnx"])
    assert list(commands("find x | speakerprint embed - --output 'a b.csv'  # all\nmake && X=1 speakerprint \\\n info")) == [
        ["embed", "-", "--output", "a b.csv"],
        ["info"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_its_commands_exist_with_their_options(page):
    text = text_of(page)
    shell = [*blocks(text, "sh"), *IN_LINE.findall(FENCE.sub("", text))]
    faults = {shlex.join(words): fault(words) for piece in shell for words in commands(piece) if not words[0].isupper()}
    assert {command: what for command, what in faults.items() if what} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_its_python_compiles_and_imports_what_is_there(page):
    for block in blocks(text_of(page), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "speakerprint":
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_its_links_lead_to_files_and_headings_that_are_there(page):
    broken = []
    for link in LINK.findall(FENCE.sub("", text_of(page))):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(link)
    assert broken == []


def headings(page):
    return {slugify(title, "-") for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), flags=re.MULTILINE)}


def test_every_page_is_in_the_site_and_every_command_in_some_page():
    listed = set(re.findall(r"\S+\.md", text_of(PROJECT / "mkdocs.yml")))
    assert listed == {page.relative_to(PROJECT / "docs").as_posix() for page in PROJECT.glob("docs/**/*.md")}
    shell = "\n".join(block for page in PAGES for block in blocks(text_of(page), "sh"))
    assert {words[0] for words in commands(shell)} >= set(GROUP.commands)
