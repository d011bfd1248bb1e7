"""The version, and the Pythons that are supported, are written in pyproject.toml; what else names them agrees."""

import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_newest_entry_of_the_changelog_is_of_this_version():
    headings = re.findall(r"^## (\S+)", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == PYPROJECT["version"]


def test_the_citation_leaves_the_version_to_pyproject():
    assert "\nversion:" not in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")


def test_ci_runs_on_every_python_that_is_supported_and_on_no_other():
    ci = YAML(typ="safe").load((PROJECT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    supported = SpecifierSet(PYPROJECT["requires-python"])
    assert ci["jobs"]["run"]["strategy"]["matrix"]["python"] == [f"3.{n}" for n in range(30) if f"3.{n}.99" in supported]
