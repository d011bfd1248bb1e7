import importlib.resources
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn

import speakerprint
from speakerprint import SpeakerEmbedder
from speakerprint.inference.gallery import Gallery
from speakerprint.pages.guard import Connection
from speakerprint.pages.serve import create_app
from tests.browser.conftest import VIEWS
from tests.tones import ToneEmbedder, write_tones

pytestmark = pytest.mark.slow


@contextmanager
def serving(page, embedder, folder):
    """The page, from a real server with a gallery."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(embedder, Gallery.open(folder, embedder))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http=Connection, ws="wsproto"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}")
    page.wait_for_selector("#people li")
    yield page
    page.close()
    server.should_exit = True
    thread.join()


@pytest.fixture
def served(page, tmp_path):
    """The page, with an empty gallery."""
    with serving(page, ToneEmbedder(), tmp_path / "gallery") as opened:
        yield opened


@pytest.fixture
def clips(tmp_path):
    return write_tones(tmp_path, {"a.wav": 300, "b.wav": 320, "c.wav": 900})


def answer(page, form):
    page.click(f"#{form} button.main")
    return page.wait_for_selector(f"#{form} .verdict:is(.yes, .no, .error)").inner_text()


def test_two_files_are_compared(served, clips):
    served.set_input_files("#file-first", clips / "a.wav")
    served.set_input_files("#file-second", clips / "b.wav")
    assert answer(served, "verify") == "Same speaker\nScore 1.000 reaches the threshold 0.995, at 1 % false accepts."
    assert served.get_by_role("img", name="Score 1.000; thresholds 0.995 at 1 % false accepts").is_visible()
    served.set_input_files("#file-second", clips / "c.wav")
    assert answer(served, "verify").startswith("Different speakers\nScore 0.825 does not reach")


def test_a_file_can_be_dropped(served):
    served.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["x"], "dropped.wav", { type: "audio/wav" }));
            document.querySelector(".slot[data-name=first]").dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }"""
    )
    assert served.locator(".slot[data-name=first] .name").inner_text() == "dropped.wav"


def test_a_person_is_enrolled_identified_and_forgotten(served, clips):
    served.set_input_files("#file-recordings", [clips / "a.wav", clips / "b.wav"])
    served.get_by_label("Name").fill("Ann <i>")
    assert answer(served, "enrol") == "Ann <i> is enrolled"
    assert served.inner_text("#people li span.name") == "Ann <i>" and "2 recordings" in served.inner_text("#people")
    served.set_input_files("#file-recording", clips / "b.wav")
    assert (
        answer(served, "identify") == "Ann <i>\nScore 1.000, 0.005 above the threshold 0.995. At most 1 % of strangers reach it."
    )
    served.set_input_files("#file-recording", clips / "c.wav")
    assert answer(served, "identify") == (
        "Nobody who is enrolled\nNearest is Ann <i>: score 0.831, 0.164 below the threshold 0.995. "
        "At most 1 % of strangers reach it."
    )
    assert served.locator("#identify tbody td").all_inner_texts() == ["Ann <i>", "0.831", "−0.164"]
    served.get_by_role("button", name="Forget Ann <i>").click()
    served.wait_for_selector("text=Nobody is enrolled yet.")


def test_a_file_that_is_not_audio_is_an_error_on_the_page(served, clips):
    (clips / "notes.txt").write_text("not audio")
    served.set_input_files("#file-first", clips / "a.wav")
    served.set_input_files("#file-second", clips / "notes.txt")
    served.expected_problems = 1
    assert answer(served, "verify").startswith("notes.txt: neither libsndfile nor FFmpeg can read it")


def test_what_is_missing_is_said_before_anything_is_sent(served, clips):
    served.set_input_files("#file-first", clips / "a.wav")
    assert answer(served, "verify") == "Second recording: choose, drop or record one first"


def test_the_microphone_is_recorded_and_heard(served, clips):
    record = served.get_by_role("button", name="First recording: record from the microphone")
    record.click()
    served.wait_for_selector('button.recording:text-is("Stop (2 s)")')
    record.click()
    served.wait_for_selector(".slot[data-name=first] audio")
    assert served.inner_text(".slot[data-name=first] .name").endswith(".webm")
    served.set_input_files("#file-second", clips / "a.wav")
    served.click("#verify button.main")
    served.wait_for_selector("#verify .verdict:has-text('Score')")  # two people may be in what the microphone hears
    assert served.inner_text("#verify .verdict strong") in ("Same speaker", "Different speakers", "Cannot tell")


# --- an answer belongs to what is shown


def choose(page, slot, *paths):
    page.set_input_files(f"#file-{slot}", list(paths))


def shown(page, form):
    return page.inner_text(f"#{form} .answer")


@pytest.fixture
def compared(served, clips):
    """The page with a verdict on a.wav and b.wav."""
    choose(served, "first", clips / "a.wav")
    choose(served, "second", clips / "b.wav")
    assert answer(served, "verify").startswith("Same speaker")
    return served


def test_a_verdict_goes_when_a_recording_is_exchanged(compared, clips):
    choose(compared, "second", clips / "c.wav")
    assert shown(compared, "verify") == ""


def test_a_verdict_goes_when_a_recording_is_removed(compared):
    compared.get_by_role("button", name="Remove a.wav").click()
    assert shown(compared, "verify") == ""


def test_a_verdict_goes_when_another_threshold_is_chosen(compared):
    compared.locator("#verify select").select_option(label="0.1 %")
    assert shown(compared, "verify") == ""


def test_an_error_goes_with_the_recording_that_it_was_about(served, clips):
    (clips / "notes.txt").write_text("not audio")
    choose(served, "first", clips / "a.wav")
    choose(served, "second", clips / "notes.txt")
    served.expected_problems = 1
    assert answer(served, "verify").startswith("notes.txt: ")
    choose(served, "second", clips / "b.wav")
    assert shown(served, "verify") == ""


def test_an_answer_that_comes_after_a_recording_was_exchanged_is_not_shown(served, clips):
    late = []
    served.route("**/api/verify", lambda route: late.append(route))
    choose(served, "first", clips / "a.wav")
    choose(served, "second", clips / "b.wav")
    served.click("#verify button.main")
    served.wait_for_selector("text=Listening …")
    choose(served, "second", clips / "c.wav")
    served.unroute("**/api/verify")
    assert shown(served, "verify") == ""
    assert answer(served, "verify").startswith("Different speakers")
    assert len(late) == 1


def test_who_it_is_goes_when_the_people_change(served, clips):
    choose(served, "recording", clips / "a.wav")
    assert answer(served, "identify") == "Nobody who is enrolled\nNobody is enrolled yet: enrol somebody first."
    choose(served, "recordings", clips / "a.wav")
    served.get_by_label("Name").fill("Ann")
    assert answer(served, "enrol") == "Ann is enrolled"
    assert shown(served, "identify") == "" and served.input_value("#enrol input[name=speaker]") == ""
    assert answer(served, "identify").startswith("Ann\n")
    served.get_by_role("button", name="Forget Ann").click()
    served.wait_for_selector("text=Ann is forgotten")
    assert shown(served, "identify") == shown(served, "enrol") == ""


# --- in any browser


def test_the_axis_of_the_score_is_as_wide_as_its_place(compared):
    def widths():
        return [compared.locator(f"#verify {part}").bounding_box()["width"] for part in (".axis", ".answer")]

    wide = widths()
    assert wide[0] == wide[1] > 1000
    compared.set_viewport_size({"width": 360, "height": 900})
    compared.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # it is drawn again
    narrow = widths()
    assert narrow[0] == narrow[1] == compared.locator("#verify .axis").evaluate("axis => axis.viewBox.baseVal.width") < 360


def chooser_by_key(page, control):
    """The window for files that a key opens. On a busy machine Chromium now and then drops a key: it has three tries."""
    from playwright.sync_api import TimeoutError

    for tries_left in (2, 1, 0):
        page.bring_to_front()
        page.locator(control).focus()
        try:
            with page.expect_file_chooser(timeout=15_000) as opened:
                page.keyboard.press("Enter")
            return opened.value
        except TimeoutError:
            if not tries_left:
                raise
    return None


def test_all_can_be_done_with_the_keyboard_alone(served, clips):
    """Tab goes to each control in turn, as it reads; what the system's own window for files does, Playwright does."""
    order = []
    for _ in range(13):
        served.keyboard.press("Tab")
        order.append(served.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()"))
    assert order[:5] == [
        "First recording: choose a file", "First recording: record from the microphone",
        "Second recording: choose a file", "Second recording: record from the microphone", "Compare",
    ]  # fmt: skip
    chooser_by_key(served, "#file-first").set_files(clips / "a.wav")
    choose(served, "second", clips / "b.wav")
    served.locator("#verify button.main").focus()
    served.keyboard.press("Enter")
    assert served.wait_for_selector("#verify .verdict.yes")
    served.get_by_role("button", name="Remove a.wav").focus()
    served.keyboard.press("Space")
    assert shown(served, "verify") == ""
    served.set_input_files("#file-recordings", clips / "a.wav")
    served.get_by_label("Name").focus()
    served.keyboard.type("Ann")
    served.keyboard.press("Enter")
    served.wait_for_selector("text=Ann is enrolled")
    served.get_by_role("button", name="Forget Ann").focus()
    served.keyboard.press("Enter")
    served.wait_for_selector("text=Ann is forgotten")


@pytest.mark.parametrize("page", VIEWS, indirect=True)
def test_the_page_is_accessible_and_fits_with_all_its_answers_shown(served, clips, violations):
    choose(served, "recordings", clips / "a.wav", clips / "b.wav")
    served.get_by_label("Name").fill("Ann")
    answer(served, "enrol")
    for form, slots in (("verify", {"first": "a.wav", "second": "c.wav"}), ("identify", {"recording": "a.wav"})):
        for slot, name in slots.items():
            choose(served, slot, clips / name)
        answer(served, form)
    assert violations(served) == {}
    served.get_by_role("button", name="Remove c.wav").click()
    assert answer(served, "verify") == "Second recording: choose, drop or record one first"
    assert violations(served) == {}
    assert served.evaluate("document.documentElement.scrollWidth") <= served.viewport_size["width"]


@pytest.mark.slow
def test_who_speaks_into_the_microphone_is_shown_while_they_do(page, tmp_path):
    embedder = SpeakerEmbedder.load()
    bob = importlib.resources.files(speakerprint) / "samples/bob.ogg"
    Gallery.open(tmp_path / "gallery", embedder).enrol("Bob <b>", embedder.embed_files([str(bob)]), ["bob.ogg"])
    with serving(page, embedder, tmp_path / "gallery"):
        page.get_by_role("button", name="Listen", exact=True).click()
        page.wait_for_selector("#speaking:text-is('unknown 1')")
        page.wait_for_selector("#speaking:text-is('Bob <b>')")
        page.get_by_role("button", name="Stop", exact=True).click()
        page.wait_for_selector("#listen-button:text-is('Listen')")
        names = page.locator("#turns .name").all_inner_texts()
        assert set(names) == {"unknown 1", "Bob <b>"} and page.inner_text("#listen-problem") == ""
        assert page.locator("#turns li:last-child").inner_text().count("until") == 1


@pytest.mark.slow
def test_a_recording_of_several_people_has_a_lane_for_each_and_names_to_write_back(page, tmp_path, microphone):
    with serving(page, SpeakerEmbedder.load(), tmp_path / "gallery"):
        page.set_input_files("#file-meeting", microphone)
        page.click("#diarize button.main")
        page.wait_for_selector("#diarize .timeline")
        assert page.inner_text("#diarize .verdict") == "2 speakers, 3 turns" and page.locator(".lane").count() == 2
        page.get_by_label("How many speak").fill("1")
        page.click("#diarize button.main")
        page.wait_for_selector("#diarize .verdict:has-text('1 speaker,')")
        page.get_by_label("How many speak").fill("")
        page.click("#diarize button.main")
        page.wait_for_selector("#diarize .verdict:has-text('2 speakers,')")
        second = page.locator(".lane >> nth=1").locator(".turn")
        second.click()
        start_s = float(second.get_attribute("aria-label").split(", ")[1].split()[0])
        assert page.evaluate("document.querySelector('#diarize .answer audio').currentTime") == pytest.approx(start_s, abs=1)
        page.get_by_label("Name of unknown 2").fill("Bob the <b>uilder")
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save as RTTM").click()
        rows = [line.split() for line in saved.value.path().read_text().splitlines()]
        assert saved.value.suggested_filename == "people.rttm"
        assert [row[7] for row in rows] == ["unknown_1", "unknown_1", "Bob_the_<b>uilder"] and {len(row) for row in rows} == {10}
        assert {row[1] for row in rows} == {"people"} and float(rows[2][3]) == pytest.approx(start_s, abs=0.06)
