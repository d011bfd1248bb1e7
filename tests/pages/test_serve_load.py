"""`speakerprint serve` as a process with the shipped model: crowds, slow and broken clients, and hours of them in flat memory.

The soak lasts SOAK_S seconds: three in `make test`, two minutes in `make torture`. Its clients pause SOAK_PAUSE_S each time.
"""

import contextlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import soundfile

import speakerprint

SOAK_S = float(os.environ.get("SOAK_S", "3"))
PAUSE_S = float(os.environ.get("SOAK_PAUSE_S", "0"))  # hours of it need not take a core
WARM_UP_S = min(60.0, SOAK_S / 4)  # in which the allocator takes what it keeps
CLIENTS = 6
LOOKS = 10  # at the memory, after the warm-up
GROWTH_MIB = 60  # may be added after the warm-up
PATIENCE_S = 300  # of a client
SOON_S = 20  # for what needs no computing, on a machine that is busy
HEADERS = b"POST /api/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
ROOT = Path(__file__).resolve().parents[2]


def start_of(recording: bytes) -> bytes:
    """1.5 s of it, as WAV."""
    samples, rate = soundfile.read(io.BytesIO(recording))
    stream = io.BytesIO()
    soundfile.write(stream, samples[rate : rate * 5 // 2], rate, format="WAV")
    return stream.getvalue()


SAMPLES = {path.name: path.read_bytes() for path in (Path(speakerprint.__file__).parent / "samples").glob("*.ogg")}
START = {name: start_of(data) for name, data in SAMPLES.items()}

pytestmark = [pytest.mark.slow, pytest.mark.torture]


class Server(NamedTuple):
    process: subprocess.Popen
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory_mib(self, peak: bool = False) -> float:
        """What it holds now, or held at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:" if peak else "VmRSS:"))
        return int(line.split()[1]) / 1024

    def verify(self, first: bytes, second: bytes) -> httpx.Response:
        files = {"first": ("a.ogg", first), "second": ("b.ogg", second)}
        return httpx.post(f"{self.url}/api/verify", files=files, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gallery = tmp_path_factory.mktemp("served") / "gallery"
    command = [sys.executable, "-m", "speakerprint", "serve", "--port", str(port), "--gallery", str(gallery)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    started = Server(process, port)
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{started.url}/api/model")
                break
            time.sleep(0.1)
        yield started
    finally:
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=30)[1]


def test_of_a_hundred_clients_at_once_each_is_answered_or_told_to_come_again(server):
    one, same, other = (START[f"{name}.ogg"] for name in ("ann-1", "ann-2", "bob"))
    right = {recording: server.verify(one, recording).json()["score"] for recording in (same, other)}
    before = server.memory_mib()
    ready = threading.Barrier(100)

    def ask(number: int) -> tuple[int, bool]:
        ready.wait(60)
        answer = server.verify(one, recording := (same, other)[number % 2])
        return answer.status_code, answer.status_code != 200 or answer.json()["score"] == right[recording]

    with ThreadPoolExecutor(100) as pool:
        answers = Counter(pool.map(ask, range(100)))
    assert answers.keys() <= {(200, True), (503, True)} and answers[200, True] >= 36, answers
    assert server.memory_mib(peak=True) - before < 300
    assert server.verify(one, same).json()["score"] == right[same]


def test_slow_and_broken_clients_keep_nobody_else_from_an_answer(server):
    with contextlib.ExitStack() as stack:
        for sent in [b"", b"POST", HEADERS, HEADERS + b"Content-Length: 100000\r\n\r\n--x\r\n"] * 10:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            client.sendall(sent)
        assert httpx.get(f"{server.url}/api/people", timeout=SOON_S).status_code == 200


def verifies(server: Server, draw: random.Random) -> int:
    return server.verify(*draw.choices(list(SAMPLES.values()), k=2)).status_code


def enrols_and_forgets(server: Server, draw: random.Random) -> int:
    name = f"person {draw.randrange(10**9)}"
    files = [("recordings", item) for item in draw.sample(list(SAMPLES.items()), k=2)]
    enrolled = httpx.post(f"{server.url}/api/enrol", data={"speaker": name}, files=files, timeout=PATIENCE_S)
    if enrolled.status_code == 200:
        assert httpx.delete(f"{server.url}/api/people/{name}", timeout=PATIENCE_S).status_code == 200
    return enrolled.status_code


def identifies(server: Server, draw: random.Random) -> int:
    return httpx.post(
        f"{server.url}/api/identify", files={"recording": draw.choice(list(SAMPLES.items()))}, timeout=PATIENCE_S
    ).status_code


def diarizes(server: Server, draw: random.Random) -> int:
    return httpx.post(
        f"{server.url}/api/diarize", files={"meeting": draw.choice(list(SAMPLES.items()))}, timeout=PATIENCE_S
    ).status_code


def sends_what_is_no_audio(server: Server, draw: random.Random) -> int:
    whole = draw.choice(list(SAMPLES.values()))
    damaged = draw.choice([whole[: draw.randrange(len(whole))], draw.randbytes(100_000), b""])
    return server.verify(whole, damaged).status_code


def goes_away(server: Server, draw: random.Random) -> int:
    """In the middle of what it sends."""
    head = HEADERS + b"Content-Length: 900000\r\n\r\n--x\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall((head + draw.randbytes(300_000))[: draw.randrange(300_000)])
    return 0


KINDS: list[Callable[[Server, random.Random], int]] = [
    verifies, enrols_and_forgets, identifies, diarizes, sends_what_is_no_audio, goes_away
]  # fmt: skip


def test_hours_of_requests_leave_memory_and_gallery_as_they_were(server):
    server.verify(SAMPLES["ann-1.ogg"], SAMPLES["bob.ogg"])
    ends = time.monotonic() + SOAK_S
    answers: Counter[tuple[str, int]] = Counter()

    def client(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < ends:
            kind = draw.choice(KINDS)
            answers[kind.__name__, kind(server, draw)] += 1
            time.sleep(PAUSE_S)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        time.sleep(WARM_UP_S)
        held = [server.memory_mib()]
        for _ in range(LOOKS):
            time.sleep((SOAK_S - WARM_UP_S) / LOOKS)
            held.append(server.memory_mib())
        for each in clients:
            each.result()
    grown = server.memory_mib() - held[0]
    said = {f"{kind} {status}": count for (kind, status), count in sorted(answers.items())}
    print(f"\nserve, {SOAK_S:g} s: {[round(mib) for mib in held]} MiB from {WARM_UP_S:g} s on, {grown:+.0f} MiB at the end")
    print(json.dumps(said))
    assert {status for _, status in answers} <= {0, 200, 422, 503} and grown < GROWTH_MIB
    assert httpx.get(f"{server.url}/api/people").json() == {}
    assert server.verify(SAMPLES["ann-1.ogg"], SAMPLES["ann-2.ogg"]).json()["same_speaker"] is True
