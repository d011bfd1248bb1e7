import base64
from pathlib import Path

import pandas as pd
import pytest

import speakerprint
from speakerprint.evaluation.audit import Audit, Finding
from speakerprint.pages.audit import ABOUT, render
from tests.browser.conftest import VIEWS


@pytest.fixture(scope="module")
def audit_page(tmp_path_factory):
    """The page of a finding of each kind: with a recording to listen to, without one, and with a name wider than a phone."""
    names = ["a.wav", "a_folder_whose_name_never_ends_/" * 8 + "b.wav", "c.wav"]
    rows = pd.DataFrame({"corpus": "mine", "recording_id": names, "speaker_id": ["ann", "bob", "ann"]})
    findings = [Finding(kind, 0, 1 if kind in ("exact_duplicate", "odd", "same_person") else None, 0.5, (0,)) for kind in ABOUT]
    page = tmp_path_factory.mktemp("audit") / "audit.html"
    audio = {0: base64.b64encode((Path(speakerprint.__file__).parent / "samples/bob.ogg").read_bytes()).decode()}
    page.write_text(render(Audit(rows, findings, {"recordings": 3, "speakers": 2}), "mine", audio), encoding="utf-8")
    return page


@pytest.mark.slow
@pytest.mark.parametrize("page", VIEWS, indirect=True)
def test_the_page_is_accessible_fits_and_asks_nobody(page, audit_page, violations):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(audit_page.as_uri())
    assert page.locator("section.card").count() == 1 + len(ABOUT)
    assert violations(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
