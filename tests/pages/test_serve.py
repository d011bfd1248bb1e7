"""The API behind the page: what it answers, what it refuses, and what it leaves behind."""

import io
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import soundfile
import uvicorn
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from speakerprint import Diarization, Turn, __version__
from speakerprint.errors import InputError
from speakerprint.inference.gallery import Gallery
from speakerprint.inference.listener import Event
from speakerprint.pages import guard, serve
from speakerprint.pages.guard import Connection
from speakerprint.pages.serve import create_app, reference_scores
from tests.tones import ToneEmbedder, tone, write_project

HERE = "http://127.0.0.1:8000"
STREAM = "ws://127.0.0.1:8000/api/listen"


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


def test_it_cannot_tell_where_a_recording_is_unfit(client):
    louder = io.BytesIO()
    soundfile.write(louder, 3 * tone(300), 16_000, format="WAV")
    found = verify(client, wav(300), louder.getvalue()).json()
    assert (found["same_speaker"], found["doubts"]) == (None, ["b.wav: it is clipped"])
    assert found["score"] == pytest.approx(1)


def test_who_is_named_in_a_recording_that_is_unfit_is_said_to_be_doubtful(client):
    enrol(client, "ann", wav(300))
    louder = io.BytesIO()
    soundfile.write(louder, 3 * tone(300), 16_000, format="WAV")
    found = [client.post("/api/identify", files={"recording": ("a.wav", data)}).json() for data in (wav(300), louder.getvalue())]
    assert [(one["speaker"], one["doubts"]) for one in found] == [("ann", []), ("ann", ["it is clipped"])]


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


@pytest.mark.slow
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
    described = client.get("/openapi.json").json()
    assert described["info"]["version"] == __version__
    assert set(described["paths"]) == {
        "/api/model", "/api/verify", "/api/identify", "/api/diarize", "/api/people", "/api/enrol", "/api/people/{speaker}"
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


# --- who is speaking now


class SpokenOnce:
    """Instead of a `Listener`: somebody speaks from the first sample to the end."""

    def __init__(self, sample_rate_hz, **options):
        self.heard, self.doubts = 0, ("it echoes",)

    def hear(self, samples):
        self.heard += len(samples)
        return [Event("start", 0.5, "ann", 0.75)] if self.heard == len(samples) else []

    def end(self):
        return [Event("end", self.heard / 16_000, "ann", 0.75)]


@pytest.fixture
def stream(client, monkeypatch):
    monkeypatch.setattr(serve, "Listener", SpokenOnce)
    return client


def closed(opened):
    """Why the server closes a stream: the code, and the reason."""
    with pytest.raises(WebSocketDisconnect) as end:
        opened.receive_json()
    return end.value.code, end.value.reason


def test_a_stream_is_answered_while_it_goes_on_and_at_its_end(stream):
    with stream.websocket_connect(STREAM, headers={"origin": HERE}) as opened:
        opened.send_bytes(bytes(3_200))
        assert opened.receive_json() == {"kind": "start", "time_s": 0.5, "speaker": "ann", "score": 0.75, "doubts": ["it echoes"]}
        opened.send_bytes(bytes(3_200))
        opened.send_text("end")
        assert opened.receive_json() == {"kind": "end", "time_s": 0.2, "speaker": "ann", "score": 0.75, "doubts": ["it echoes"]}
        assert closed(opened)[0] == 1000


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"}]
)
def test_another_site_cannot_open_a_stream(stream, headers):
    with pytest.raises(Exception) as refused, stream.websocket_connect(STREAM, headers=headers):
        pass
    assert isinstance(refused.value, WebSocketDisconnect | WebSocketDenialResponse)


def test_what_is_no_sound_closes_the_stream_with_the_reason(stream):
    with stream.websocket_connect(STREAM) as opened:
        opened.send_bytes(b"odd")
        assert closed(opened) == (1008, "a message of 3 bytes, expected samples of two")
    with pytest.raises(WebSocketDisconnect), stream.websocket_connect(f"{STREAM}?sample_rate_hz=7"):
        pass


def test_a_silent_stream_is_closed_and_so_is_one_too_many(stream, monkeypatch):
    monkeypatch.setattr(serve, "LISTENERS", 1)
    with stream.websocket_connect(STREAM) as opened, stream.websocket_connect(STREAM) as second:
        assert closed(second) == (1013, "1 streams are listened to already; try again later")
        opened.send_text("end")
    monkeypatch.setattr(serve, "SILENT_S", 0.05)
    with stream.websocket_connect(STREAM) as opened:
        assert closed(opened) == (1008, "nothing was sent for 0.05 s")


@pytest.mark.slow
def test_a_stream_outlives_the_time_that_a_first_request_has(stream, monkeypatch):
    """On a real socket: an open stream is no connection whose request does not come."""
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_S", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(stream.app, log_level="critical", http=Connection, ws="wsproto"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with socket.create_connection(listener.getsockname(), timeout=10) as client:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        client.sendall(
            f"GET /api/listen HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert b" 101 " in client.recv(4096)
        client.settimeout(1)
        with pytest.raises(TimeoutError):  # nothing comes, and that is not the end
            client.recv(4096)
    server.should_exit = True
    thread.join(10)


# --- who spoke when


def test_turns_come_with_a_waveform_to_draw_them_over(client, monkeypatch):
    def diarize(samples, sample_rate_hz, *, embedder, n_speakers, gallery):
        assert n_speakers is None
        assert len(samples) == 16_000 and sample_rate_hz == 16_000 and gallery is not None
        return Diarization([Turn(0.25, 0.75, "ann", 0.9)], {"ann": np.ones(2, np.float32)}, 1.0, ("it echoes",))

    monkeypatch.setattr(serve, "diarize", diarize)
    found = client.post("/api/diarize", files={"meeting": ("m.wav", wav(300))}).json()
    assert found["turns"] == [{"start_s": 0.25, "end_s": 0.75, "speaker": "ann", "confidence": 0.9}]
    assert found["speakers"] == ["ann"] and found["duration_s"] == 1 and found["doubts"] == ["it echoes"]
    assert len(found["peaks"]) == serve.N_PEAKS and max(found["peaks"]) == pytest.approx(0.3, abs=0.01)


def test_how_many_speak_may_be_said_and_must_be_a_number_from_one(client, monkeypatch):
    told = []

    def diarize(samples, sample_rate_hz, *, embedder, n_speakers, gallery):
        told.append(n_speakers)
        return Diarization([], {}, 1.0, ())

    monkeypatch.setattr(serve, "diarize", diarize)
    statuses = [
        client.post("/api/diarize", files={"meeting": ("m.wav", wav(300))}, data={"speakers": said}).status_code
        for said in ("3", "", "0", "101", "two")
    ]
    assert statuses == [200, 200, 422, 422, 422] and told == [3, None]
