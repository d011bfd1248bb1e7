import pytest

from speakerprint.pages.report import read_files, render, report_data, write_report
from tests.tones import SPEAKERS, ToneEmbedder, write_tones


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_tones(tmp_path_factory.mktemp("speakers"), {**SPEAKERS, "d <b>/&amp;.wav": 450})
    shown = report_data(read_files(root, ToneEmbedder()), ToneEmbedder())
    (root / "report.html").write_text(render(shown), encoding="utf-8")
    return root / "report.html", shown


@pytest.fixture
def report(page, data):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(data[0].as_uri())
    page.wait_for_selector("#map .points path")
    yield page
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def click_on_map(page, at):
    """Click on the point of a recording where Plotly has drawn it."""
    place = page.evaluate(
        """(at) => {
            const map = document.getElementById("map"), box = map.getBoundingClientRect(), { xaxis, yaxis } = map._fullLayout;
            const { x, y, customdata } = map.data[0], i = customdata.indexOf(at);
            return [box.left + xaxis._offset + xaxis.d2p(x[i]), box.top + yaxis._offset + yaxis.d2p(y[i])];
        }""",
        at,
    )
    page.mouse.click(*place)


def test_the_slider_changes_the_rates_and_the_verdicts(report, data):
    rates = data[1]["measured"]["rates"]
    report.locator("#threshold").focus()
    report.keyboard.press("Home")
    assert report.inner_text("#miss-rate") == "0.00 %" and report.inner_text("#accept-rate") == "100.00 %"
    assert set(report.locator("#likest .tag").all_inner_texts()) == {"false accept"}
    assert set(report.locator("#unlikest .tag").all_inner_texts()) == {"accepted"}
    report.keyboard.press("End")
    assert report.inner_text("#miss-rate") == "100.00 %" and report.inner_text("#accept-rate") == "0.00 %"
    assert set(report.locator("#likest .tag").all_inner_texts()) == {"rejected"}
    assert set(report.locator("#unlikest .tag").all_inner_texts()) == {"miss"}
    report.keyboard.press("ArrowLeft")
    missed = rates["misses"][-2]
    assert report.inner_text("#miss-count").startswith(f"{missed} of {rates['n_target']} ")
    threshold = (rates["first"] + len(rates["misses"]) - 2) / rates["steps_per_unit"]
    assert report.evaluate("document.getElementById('scores').layout.shapes[0].x0") == threshold


def test_a_threshold_can_be_jumped_to(report, data):
    name, score = data[1]["measured"]["marks"][1]
    report.get_by_role("button", name=f"{name}: {score:.3f}").click()
    assert float(report.inner_text("#threshold-value")) == pytest.approx(score, abs=1e-3)
    assert float(report.inner_text("#accept-rate").split()[0]) <= 1.0


def test_a_click_on_the_map_plays_that_recording(report, data):
    recordings = data[1]["recordings"]
    at = next(i for i, one in enumerate(recordings) if one["name"] == "bob/1.wav")
    report.locator("#map").scroll_into_view_if_needed()
    click_on_map(report, at)
    audio = report.locator("#selected audio").first
    assert audio.get_attribute("src") == f"data:audio/ogg;base64,{recordings[at]['audio']}"
    heard = "audio => new Promise((yes, no) => { audio.onended = yes; if (audio.ended) yes(); setTimeout(no, 15_000); })"
    audio.evaluate(heard)
    assert report.locator("#selected .name").first.inner_text() == "bob/1.wav"
    scores = report.locator("#selected .neighbours .score").all_inner_texts()
    assert scores == [f"{score:.3f}" for _, score in recordings[at]["nearest"]]


def test_the_list_does_what_the_map_does_for_those_who_use_the_keyboard(report, data):
    report.get_by_label("Recording", exact=True).select_option(label="d <b>/&amp;.wav (speaker d <b>)")
    assert report.locator("#selected .name").first.inner_text() == "d <b>/&amp;.wav"
    assert report.locator("#selected .neighbours li").count() == 5


def test_only_one_recording_sounds_at_a_time(report):
    for i in (0, 1):
        report.locator("#likest audio").nth(i).evaluate("audio => { audio.loop = true; return audio.play(); }")
    assert report.locator("#likest audio").evaluate_all("all => all.map(audio => audio.paused)")[:2] == [True, False]


def test_without_speakers_the_page_shows_the_map_and_what_is_alike(page, tmp_path):
    write_tones(tmp_path, {"a.wav": 300, "b.wav": 310, "c.wav": 700})
    write_report(read_files(tmp_path, ToneEmbedder()), ToneEmbedder(), tmp_path / "report.html")
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("#map .points path")
    assert page.locator("h2:visible").all_inner_texts() == ["Map of the recordings", "Pairs to listen to"]
    assert page.locator("h3:visible").all_inner_texts() == ["Most alike"]


def test_the_page_fits_a_phone(page, data):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(data[0].as_uri())
    page.wait_for_selector("#map .points path")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
