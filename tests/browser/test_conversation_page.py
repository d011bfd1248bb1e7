"""The page of a recording of several people, in a real browser."""

import numpy as np
import pytest

from speakerprint import Diarization, Turn
from speakerprint.pages.conversation import write_conversation
from tests.browser.conftest import VIEWS

NASTY = "</script><b>ob"
VOICE = np.ones(1, np.float32)
TURNS = [Turn(0.4, 3.0, "speaker 1", 0.9), Turn(4.5, 6.5, NASTY, 1.0)]
FOUND = Diarization(TURNS, {"speaker 1": VOICE, NASTY: VOICE}, 7.6, ("it echoes",))


@pytest.fixture
def opened(page, microphone, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    write_conversation(FOUND, microphone, tmp_path / "people.html")
    page.goto((tmp_path / "people.html").as_uri())
    yield page
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.slow
def test_a_turn_is_listened_to_and_names_are_saved(opened):
    assert opened.inner_text("#about").endswith("2 speakers, 2 turns\nDoubtful: it echoes")
    assert opened.locator(".lane").count() == 2
    assert opened.is_hidden("#cut")
    opened.get_by_label(f"{NASTY}, 4.5 to 6.5 s: listen").click()
    assert opened.evaluate("document.querySelector('audio').currentTime") == pytest.approx(4.5, abs=1)
    assert opened.evaluate("document.querySelector('audio').error") is None
    opened.get_by_label("Name of speaker 1").fill("Ann Lee")
    with opened.expect_download() as saved:
        opened.get_by_role("button", name="Save as RTTM").click()
    rows = [line.split() for line in saved.value.path().read_text().splitlines()]
    assert [row[1:5] + row[7:8] for row in rows] == [
        ["people", "1", "0.400", "2.600", "Ann_Lee"],
        ["people", "1", "4.500", "2.000", NASTY],
    ]
    heights = opened.eval_on_selector_all(".wave rect", "all => all.map((one) => +one.getAttribute('height'))")
    assert len(heights) == 400 and max(heights) > 20


@pytest.mark.slow
@pytest.mark.parametrize("page", VIEWS, indirect=True)
def test_it_is_accessible_and_fits(opened, violations):
    assert violations(opened) == {}
    assert opened.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
