"""The guard on real sockets: what is sent too long, too slowly or by too many."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, Request

from speakerprint.pages import guard
from speakerprint.pages.guard import Connection, Guard


@pytest.fixture
def served():
    """The address of an app behind the guard, and the sizes of the bodies that reached it."""
    app, reached = FastAPI(), []
    app.add_middleware(Guard, max_bytes=10_000)

    @app.post("/")
    async def post(request: Request) -> int:
        reached.append(len(await request.body()))
        return reached[-1]

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", http=Connection, limit_concurrency=8))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname(), reached
    server.should_exit = True
    thread.join(10)


def ask(address, *pieces: bytes) -> bytes:
    """What the server answers before it closes, or within some seconds."""
    with socket.create_connection(address, timeout=5) as client:
        with contextlib.suppress(OSError):  # it may have closed already
            for piece in pieces:
                client.sendall(piece)
        answer = b""
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                answer += piece
        return answer


def post(headers: str) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n\r\n".encode()


def test_a_body_within_the_limit_arrives(served):
    address, reached = served
    assert b"200 OK" in ask(address, post("Content-Length: 10000"), b"x" * 10_000)
    assert reached == [10_000]


def test_a_chunked_body_does_not_pass_the_limit_behind_a_small_content_length(served):
    address, reached = served
    chunks = b"".join(b"1000\r\n" + b"x" * 0x1000 + b"\r\n" for _ in range(8)) + b"0\r\n\r\n"
    for headers in ("Transfer-Encoding: chunked", "Content-Length: 10\r\nTransfer-Encoding: chunked"):
        answer = ask(address, post(headers), chunks)
        assert any(status in answer for status in (b" 411 ", b" 413 ", b" 400 ")), answer
    assert reached == []


@pytest.mark.parametrize("length", ["-1", "ten", "1e9", "99999999999999999999"])
def test_a_length_that_is_no_length_is_refused(served, length):
    address, reached = served
    answer = ask(address, post(f"Content-Length: {length}"), b"x" * 20_000)
    assert any(status in answer for status in (b" 400 ", b" 413 "))
    assert reached == []


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_a_connection_whose_request_does_not_come_is_closed(served, monkeypatch, sent):
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_S", 0.3)
    started = time.monotonic()
    assert ask(served[0], sent) == b""
    assert time.monotonic() - started < 4


def test_a_body_that_does_not_come_is_answered_in_time(served, monkeypatch):
    monkeypatch.setattr(guard, "BODY_TIMEOUT_S", 0.3)
    assert b" 408 " in ask(served[0], post("Content-Length: 100"), b"x")


@pytest.mark.slow
def test_silent_connections_do_not_lock_others_out_for_long(served, monkeypatch):
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_S", 0.5)
    address, _ = served
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(address, timeout=5))
        time.sleep(1.5)
        assert b"200 OK" in ask(address, post("Content-Length: 1"), b"x")
