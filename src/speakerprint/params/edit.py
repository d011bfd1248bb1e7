"""Edit a YAML file section by section with ruamel's round trip: whatever is not edited keeps its bytes, comments included."""

import io
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from speakerprint.errors import InputError

COMMENT_COLUMN = 42  # where the comments of params.yaml stand


def edit_section(text: str, name: str, change: Callable[[CommentedMap], None], **indent: int) -> str:
    """The text with ``change`` applied to ``{name: section}``; a section that comes out equal keeps its bytes.

    Blank lines and comments between sections belong to none, and stay. Raises InputError if there is no such section.
    """
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if re.match(r"\w", line)]
    start = next((number for number in starts if lines[number].startswith(f"{name}:")), None)
    if start is None:
        raise InputError(f"there is no section {name}; start from the repository's file")
    end = min((number for number in starts if number > start), default=len(lines))
    while lines[end - 1].isspace() or lines[end - 1].startswith("#"):
        end -= 1
    section = "".join(lines[start:end])

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(**indent)
    try:
        tree = yaml.load(section)
    except YAMLError as error:
        raise InputError(f"section {name} is no YAML of its own ({error}); write it without aliases of other sections") from None
    before = deepcopy(tree)
    change(tree)
    if tree != before:
        edited = io.StringIO()
        yaml.dump(tree, edited)
        section = edited.getvalue()
    return "".join([*lines[:start], section, *lines[end:]])


def set_section(text: str, name: str, values: Any) -> str:
    """The text with a section's values set, at any depth."""
    return edit_section(text, name, lambda tree: merge(tree, {name: values}))


def merge(tree: CommentedMap, values: Mapping[str, Any]) -> None:
    """Set the values that differ, at any depth; the comments of their lines stay."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        elif key not in tree or tree[key] != value:
            tree[key] = plain(value)
            if comment := tree.ca.items.get(key):
                comment[2].start_mark.column, comment[3] = COMMENT_COLUMN, None


def plain(value: Any) -> Any:
    """The same without comments and flow style: dumped as DVC does, an item a line."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
