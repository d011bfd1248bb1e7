"""The documentation site, opened as files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import VIEWS

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=300)
    return folder


def test_the_search_finds_a_page_without_a_server_and_asks_nobody(page, site):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "api/commands.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("log-likelihood")
    page.locator(".md-search-result__link", has_text="Choose a threshold").first.wait_for()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("page", VIEWS, indirect=True)
@pytest.mark.parametrize("name", ["index", "try", "threshold", "api/commands"])
def test_no_code_is_cut(page, site, name):
    page.goto((site / f"{name}.html").as_uri())
    cut = "all => all.filter((code) => code.scrollWidth > code.clientWidth + 1).map((code) => code.textContent)"
    assert page.locator("pre > code").evaluate_all(cut) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


@pytest.mark.parametrize("page", VIEWS, indirect=True)
@pytest.mark.parametrize("name", ["index", "threshold", "api/decisions"])
def test_axe_finds_nothing_wrong(page, site, violations, name):
    page.goto((site / f"{name}.html").as_uri())
    assert violations(page) == {}


def test_the_landing_page_has_a_picture_for_light_and_one_for_dark(page, site):
    page.goto((site / "index.html").as_uri())
    pictures = page.locator(".md-content img")
    seen = "all => all.filter((one) => one.offsetWidth && one.naturalWidth).map((one) => one.src.match(/serve-\\w+/)[0])"
    assert pictures.evaluate_all(seen) == ["serve-light"]
    page.evaluate("document.body.dataset.mdColorScheme = 'slate'")
    assert pictures.evaluate_all(seen) == ["serve-dark"]


def test_every_command_has_real_output(page, site):
    page.goto((site / "api/commands.html").as_uri())
    commands = page.locator("article h2").evaluate_all("all => all.map((one) => one.id)")
    printed = page.locator("text=What it prints").count()
    assert len(commands) == printed > 15
