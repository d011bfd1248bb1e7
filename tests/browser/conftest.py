"""Pages in a real browser, headless; skipped where there is none."""

import importlib.resources
import shutil

import numpy as np
import pytest
import soundfile

import speakerprint

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def microphone(tmp_path_factory):
    """What the browser's microphone hears, again and again: two people, one after the other."""
    folder = importlib.resources.files(speakerprint) / "samples"
    clips = [soundfile.read(folder / f"{name}.ogg", dtype="float32")[0] for name in ("ann-1", "bob")]
    path = tmp_path_factory.mktemp("microphone") / "people.wav"
    pause = np.zeros(12_000, np.float32)
    soundfile.write(path, np.concatenate([clips[0], pause, clips[1], pause]), 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="session")
def browser(microphone):
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        arguments.append(f"--use-file-for-fake-audio-capture={microphone}")
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


VIEWS = {  # each width and each colour scheme: what depends on the one does not depend on the other
    "desktop, light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone, dark": {"viewport": {"width": 360, "height": 900}, "color_scheme": "dark"},
}


@pytest.fixture
def page(browser, request):
    """A page on which nothing may go wrong unnoticed: what the console calls an error fails the test.

    A parameter is the view of it, one of VIEWS by name; without one it is the first.
    """
    page = browser.new_page(**VIEWS[getattr(request, "param", next(iter(VIEWS)))])
    page.set_default_timeout(60_000)
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.expected_problems = 0  # a refused request is an error to the console
    yield page
    page.close()
    assert len(problems) == page.expected_problems, problems


@pytest.fixture
def violations():
    """What axe-core finds wrong with a page that is open: rules, each with the elements that break it."""
    script = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")

    def check(page):
        page.evaluate(script)
        found = page.evaluate("axe.run({preload: false})")["violations"]  # of style sheets, which hangs on pages that are files
        return {one["id"]: [(node["html"][:200], node["failureSummary"]) for node in one["nodes"]] for one in found}

    return check
