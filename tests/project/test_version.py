"""The version is written in pyproject.toml; what else names it agrees."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2]
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def test_the_newest_entry_of_the_changelog_is_of_this_version():
    headings = re.findall(r"^## (\S+)", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == VERSION


def test_the_citation_leaves_the_version_to_pyproject():
    assert "\nversion:" not in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
