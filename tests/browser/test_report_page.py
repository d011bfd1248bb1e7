import pytest

from speakerprint.pages.report import read_files, render, report_data, write_report
from tests.browser.conftest import VIEWS
from tests.tones import SPEAKERS, ToneEmbedder, write_tones

pytestmark = pytest.mark.slow


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


def names_on_the_map(page):
    return page.locator("#map .annotation-text").all_text_contents()


def test_the_map_names_the_speakers_as_many_as_do_not_cover_each_other(report):
    names = names_on_the_map(report)
    assert names and set(names) <= {"ann", "bob", "cyd", "d <b>"}
    boxes = [report.locator("#map .annotation").nth(i).bounding_box() for i in range(len(names))]
    inside = report.locator("#map").bounding_box()
    for i, box in enumerate(boxes):
        assert box["x"] >= inside["x"] and box["x"] + box["width"] <= inside["x"] + inside["width"]
        for other in boxes[:i]:
            apart = abs(box["x"] - other["x"]) >= min(box["width"], other["width"]) or abs(box["y"] - other["y"]) >= 12
            assert apart, (names, boxes)


def test_the_speaker_chosen_is_named_on_the_map(report):
    for name, speaker in (("bob/1.wav", "bob"), ("d <b>/&amp;.wav", "d <b>")):
        report.get_by_label("Recording", exact=True).select_option(label=f"{name} (speaker {speaker})")
        report.locator("#map .annotation-text", has_text=speaker).wait_for()


def test_before_a_click_the_page_says_what_to_do(report):
    assert report.inner_text("#selected").startswith("Choose a recording: click on a point of the map, or choose one in the list")
    report.get_by_label("Recording", exact=True).select_option(index=1)
    assert "Choose a recording" not in report.inner_text("#selected")


def test_all_can_be_done_with_the_keyboard_alone(report):
    focused = "document.activeElement.id || document.activeElement.textContent || document.activeElement.tagName"
    order = []
    for _ in range(12):
        report.keyboard.press("Tab")
        order.append(report.evaluate(focused))
    assert order[0] == "threshold" and order[1].startswith("EER: ") and "recording" in order
    report.locator("#threshold").focus()
    report.keyboard.press("Home")
    assert report.inner_text("#miss-rate") == "0.00 %"
    report.locator("#presets button").first.focus()
    report.keyboard.press("Enter")
    assert report.inner_text("#accept-rate") != "100.00 %"
    report.locator("#recording").focus()
    report.keyboard.press("ArrowDown")
    assert report.locator("#selected .neighbours li").count() == 5


@pytest.mark.parametrize("page", VIEWS, indirect=True)
def test_the_page_is_accessible_and_fits_before_and_after_a_choice(report, violations):
    assert violations(report) == {}
    report.get_by_label("Recording", exact=True).select_option(index=1)
    assert violations(report) == {}
    assert report.evaluate("document.documentElement.scrollWidth") <= report.viewport_size["width"]


@pytest.mark.parametrize("page", VIEWS, indirect=True)
def test_the_words_of_the_plots_can_be_read(report):
    """WCAG 2 AA, which axe-core does not look for in SVG: a contrast of at least 4.5 between words and what they stand on."""
    contrasts = report.evaluate(
        """() => {
            const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255);
            const light = (colour) => channels(colour).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
            const ground = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
            return [...document.querySelectorAll(".plot text")].filter((one) => one.textContent.trim()).map((one) => {
                const ink = light(getComputedStyle(one).fill);
                return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
            });
        }"""
    )
    assert len(contrasts) > 20 and min(contrasts) >= 4.5


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
