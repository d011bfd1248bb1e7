"""The licences of what is installed: stated on docs/licences.md, and none is the GPL unless the page says why it may be."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec: Any = importlib.util.spec_from_file_location("licences", ROOT / "docs/licences.py")
licences = importlib.util.module_from_spec(spec)
spec.loader.exec_module(licences)


@pytest.fixture(scope="module")
def installed():
    return {name: licences.licence(package) for name, package in licences.packages(licences.FULL).items()}


def test_every_installed_package_says_what_its_licence_is(installed):
    assert len(installed) > len(licences.packages(licences.LIGHT)) > 20
    assert [name for name, licence in installed.items() if not licence] == []


def test_none_is_the_gpl_but_those_that_are_named_with_the_reason(installed):
    assert {name for name, licence in installed.items() if licences.is_gpl(licence)} <= licences.ALLOWED.keys()


def test_the_page_has_every_installed_package_with_its_licence(installed):
    page = licences.PAGE.read_text(encoding="utf-8")
    missing = [name for name, licence in installed.items() if f"| `{name}` | {licence} |\n" not in page]
    assert missing == [], "run `python docs/licences.py`"


@pytest.mark.parametrize(
    ("licence", "is_gpl"),
    [
        ("GPL-3.0-or-later", True),
        ("GPLv2 with linking exception", True),
        ("AGPL-3.0-only", True),
        ("GNU General Public License v2 (GPLv2)", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0 OR GPL-2.0-or-later", False),
        ("GPLv2 or EPLv1", False),
        ("MIT", False),
    ],
)
def test_a_gpl_without_another_choice_is_told(licence, is_gpl):
    assert licences.is_gpl(licence) == is_gpl
