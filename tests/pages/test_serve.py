"""The API behind the page: what it answers, what it refuses, and what it leaves behind."""

import io
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from speakerprint.errors import InputError
from speakerprint.inference.gallery import Gallery
from speakerprint.pages import serve
from speakerprint.pages.serve import create_app, reference_scores
from tests.tones import ToneEmbedder, tone, write_project

HERE = "http://127.0.0.1:8000"


def wav(hz, seconds=1.0):
    stream = io.BytesIO()
    soundfile.write(stream, tone(hz, seconds), 16_000, format="WAV")
    return stream.getvalue()


def webm(hz, seconds=1.0):
    """As browsers record: Opus in WebM, written to a stream, so without a duration in its header."""

    class Stream:
        def __init__(self):
            self.data = b""

        def write(self, piece):
            self.data += piece
            return len(piece)

    stream = Stream()
    with av.open(stream, "w", format="webm", options={"live": "1"}) as file:
        track = file.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(hz, seconds, 48_000)[None], format="flt", layout="mono")
        frame.sample_rate = 48_000
        file.mux([*track.encode(frame), *track.encode(None)])
    return stream.data


def client_of(gallery=None, embedder=None):
    return TestClient(create_app(embedder or ToneEmbedder(), gallery), base_url=HERE)


@pytest.fixture
def client(tmp_path):
    return client_of(Gallery.open(tmp_path / "gallery", ToneEmbedder()))


def verify(client, first, second, **more):
    return client.post("/api/verify", files={"first": ("a.wav", first), "second": ("b.wav", second)}, **more)


def enrol(client, speaker, *recordings):
    files = [("recordings", (f"{i}.wav", data)) for i, data in enumerate(recordings)]
    return client.post("/api/enrol", data={"speaker": speaker}, files=files)


# --- answers


def test_two_recordings_are_compared_at_the_models_threshold(client):
    same, different = verify(client, wav(300), wav(380)).json(), verify(client, wav(300), wav(420)).json()
    assert (same["same_speaker"], different["same_speaker"]) == (True, False)
    assert same["score"] == pytest.approx(np.cos(0.08), abs=1e-6)
    assert (same["threshold"], same["false_accept_rate"]) == (ToneEmbedder().thresholds[0.01], 0.01)


def test_it_cannot_tell_where_a_recording_is_unfit(client, monkeypatch):
    monkeypatch.setattr(serve, "doubts", lambda samples: ["it is clipped"] if samples.max() > 0.4 else [])
    louder = io.BytesIO()
    soundfile.write(louder, 3 * tone(300), 16_000, format="WAV")
    found = verify(client, wav(300), louder.getvalue()).json()
    assert (found["same_speaker"], found["doubts"]) == (None, ["b.wav: it is clipped"])
    assert found["score"] == pytest.approx(1)


def test_a_stricter_threshold_can_be_asked_for(client):
    assert verify(client, wav(300), wav(380), data={"false_accept_rate": 0.001}).json()["same_speaker"] is False
    refused = verify(client, wav(300), wav(380), data={"false_accept_rate": 0.5})
    assert refused.status_code == 422
    assert "no threshold for a false-accept rate of 0.5; there is: 0.01, 0.001" in refused.json()["detail"]


def test_what_a_browser_records_is_heard(client):
    assert verify(client, webm(300), wav(300)).json()["score"] == pytest.approx(1, abs=1e-5)


def test_people_are_enrolled_identified_and_forgotten(client):
    assert enrol(client, "ann", wav(300), wav(310)).json() == {"ann": ["0.wav", "1.wav"]}
    assert (
        enrol(client, "bob/o’b", wav(900)).json()
        == client.get("/api/people").json()
        == {"ann": ["0.wav", "1.wav"], "bob/o’b": ["0.wav"]}
    )
    found = client.post("/api/identify", files={"recording": wav(320)}).json()
    assert found["speaker"] == "ann" and found["score"] == pytest.approx(np.cos(0.015), abs=1e-4)
    assert [candidate["speaker"] for candidate in found["candidates"]] == ["ann", "bob/o’b"]
    assert client.delete("/api/people/bob/o’b").json() == {"ann": ["0.wav", "1.wav"]}
    assert client.delete("/api/people/bob").status_code == 404


def test_an_unknown_voice_is_nobody(client):
    enrol(client, "ann", wav(300))
    found = client.post("/api/identify", files={"recording": wav(420)}).json()
    assert found["speaker"] is None and found["false_accept_rate"] == 0.01
    assert found["threshold"] == ToneEmbedder().thresholds[0.01]  # with one person there is one comparison


def test_who_asks_for_a_rate_gets_the_threshold_that_the_command_and_python_take(client, tmp_path):
    for number in range(10):
        enrol(client, f"person {number}", wav(300 + 10 * number))
    found = client.post("/api/identify", files={"recording": wav(1000)}, data={"false_accept_rate": "0.01"}).json()
    expected = Gallery.open(tmp_path / "gallery", ToneEmbedder()).threshold()
    assert found["threshold"] == expected == ToneEmbedder().thresholds[0.001]


def test_who_is_enrolled_is_known_to_the_next_server(client, tmp_path):
    enrol(client, "ann", wav(300))
    assert client_of(Gallery.open(tmp_path / "gallery", ToneEmbedder())).get("/api/people").json() == {"ann": ["0.wav"]}


def test_one_bad_recording_enrols_nobody(client):
    assert enrol(client, "ann", wav(300), b"not audio").status_code == 422
    assert client.get("/api/people").json() == {}


def test_without_a_gallery_nobody_can_be_enrolled():
    client = client_of()
    assert client.get("/api/model").json()["gallery"] is False
    for answer in (
        client.get("/api/people"),
        enrol(client, "ann", wav(300)),
        client.post("/api/identify", files={"recording": wav(1)}),
    ):
        assert answer.status_code == 409 and "without --gallery" in answer.json()["detail"]


def test_the_scores_of_a_corpus_come_with_the_page_and_give_thresholds_to_a_model_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, "tones_dev")
    embedder = ToneEmbedder()
    embedder.thresholds = {}
    with pytest.raises(InputError, match="--corpus"):
        create_app(embedder)
    reference = reference_scores("tones_dev", embedder)
    assert sorted(embedder.thresholds) == [0.001, 0.01]
    shown = TestClient(create_app(embedder, None, reference), base_url=HERE).get("/api/model").json()["reference"]
    assert shown["corpus"] == "tones_dev" and len(shown["edges"]) == len(shown["target"]) + 1


# --- what is refused


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (b"not audio", "b.wav: neither libsndfile nor FFmpeg can read it"),
        (b"", "b.wav: neither libsndfile nor FFmpeg can read it"),
        (wav(0), "b.wav: is silent"),
        (wav(300, 2.0), "b.wav: lasts more than 1.5 s"),
        (webm(300, 2.0), "b.wav: lasts more than 1.5 s"),
    ],
    ids=["text", "nothing", "silence", "long", "long, and its header does not say so"],
)
def test_a_recording_that_cannot_be_used_is_named_with_the_reason(client, monkeypatch, recording, message):
    monkeypatch.setattr(serve, "MAX_DURATION_S", 1.5)
    answer = verify(client, wav(300), recording)
    assert answer.status_code == 422 and answer.json()["detail"].startswith(message)


def test_a_request_that_is_too_large_or_does_not_say_how_large_it_is_is_not_read(client, monkeypatch):
    assert verify(client, wav(300), wav(300)).status_code == 200
    monkeypatch.setattr(serve, "MAX_REQUEST_BYTES", 60_000)
    client = client_of()
    answer = verify(client, wav(300), wav(300))
    assert answer.status_code == 413 and "send shorter or fewer recordings" in answer.json()["detail"]
    assert client.post("/api/verify", content=iter([b"x"])).status_code == 411


def test_a_person_needs_a_name(client):
    assert enrol(client, "", wav(300)).status_code == 422
    assert enrol(client, "x" * 101, wav(300)).status_code == 422


@pytest.mark.parametrize(
    "sent",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8001"},
        {"Origin": "http://127.0.0.1:8000.elsewhere.example"},
        {"Origin": "http://["},
        {"Referer": "http://elsewhere.example/page"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_sites_cannot_change_or_ask_anything(client, sent):
    enrol(client, "ann", wav(300))
    assert verify(client, wav(300), wav(300), headers=sent).status_code == 403
    assert client.delete("/api/people/ann", headers=sent).status_code == 403
    read = client.get("/api/people", headers=sent)
    assert read.json() == {"ann": ["0.wav"]} and "access-control-allow-origin" not in read.headers  # so the browser hides it


def test_the_page_itself_can(client):
    assert verify(client, wav(300), wav(300), headers={"Origin": HERE}).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("elsewhere.example", 400), ("localhost:8000", 200), ("[::1]:8000", 200)])
def test_a_name_that_was_made_to_point_here_is_refused(client, host, status):
    assert client.get("/api/people", headers={"Host": host}).status_code == status


# --- what is left behind


def test_a_recording_is_never_written_to_disk(client, monkeypatch):
    def rollover(self):
        raise AssertionError("an upload went to a file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    recording = wav(300, 50.0)
    assert len(recording) > 2**20  # what Starlette keeps in memory otherwise
    assert verify(client, recording, recording).json()["score"] == pytest.approx(1)


def test_of_an_enrolled_recording_only_the_embedding_is_kept(client, tmp_path):
    enrol(client, "ann", recording := wav(300))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "gallery").iterdir())
    assert recording[1000:1064] not in kept and ToneEmbedder().embed(tone(300), 16_000).tobytes() in kept


# --- how it is served


def test_the_page_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"] and page.headers["cache-control"] == "no-store"
    assert "http" not in page.text.replace("http-equiv", "")
    for name in ("page.css", "serve.js"):
        assert f"/static/{name}" in page.text and client.get(f"/static/{name}").status_code == 200


def test_the_api_is_described_without_a_page_from_the_network(client):
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert set(client.get("/openapi.json").json()["paths"]) == {
        "/api/model", "/api/verify", "/api/identify", "/api/people", "/api/enrol", "/api/people/{speaker}"
    }  # fmt: skip


def test_recordings_are_embedded_one_at_a_time_and_the_page_answers_meanwhile():
    going = threading.Event()
    finish = threading.Event()
    at_once = []

    class Slow(ToneEmbedder):
        def embed(self, samples, sample_rate_hz):
            at_once.append(1)
            assert len(at_once) == 1
            going.set()
            finish.wait(10)
            at_once.pop()
            return super().embed(samples, sample_rate_hz)

    with client_of(embedder=Slow()) as client, ThreadPoolExecutor() as pool:
        answers = [pool.submit(verify, client, wav(300), wav(300)) for _ in range(3)]
        assert going.wait(10)
        assert client.get("/api/model").status_code == 200
        finish.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3
