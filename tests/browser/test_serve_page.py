import socket
import threading

import pytest
import uvicorn

from speakerprint.inference.gallery import Gallery
from speakerprint.pages.serve import create_app
from tests.tones import ToneEmbedder, write_tones


@pytest.fixture
def served(page, tmp_path):
    """The page, from a real server with an empty gallery."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(ToneEmbedder(), Gallery.open(tmp_path / "gallery", ToneEmbedder()))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
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
def clips(tmp_path):
    return write_tones(tmp_path, {"a.wav": 300, "b.wav": 320, "c.wav": 900})


def answer(page, form):
    page.click(f"#{form} button.main")
    return page.wait_for_selector(f"#{form} .verdict:is(.yes, .no, .error)").inner_text()


def test_two_files_are_compared(served, clips):
    served.set_input_files("#file-first", clips / "a.wav")
    served.set_input_files("#file-second", clips / "b.wav")
    assert answer(served, "verify").startswith("Same speaker")
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
    assert answer(served, "identify").startswith("Ann <i>")
    served.set_input_files("#file-recording", clips / "c.wav")
    assert answer(served, "identify").startswith("Nobody who is enrolled")
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
    assert answer(served, "verify").startswith(("Same speaker", "Different speakers"))


def test_the_page_fits_a_phone(served):
    served.set_viewport_size({"width": 360, "height": 740})
    assert served.evaluate("document.documentElement.scrollWidth") <= 360
