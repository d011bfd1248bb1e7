"""Against a stand-in on this machine that speaks the service's protocol, through the service's own client."""

import errno
import hashlib
import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from speakerprint.corpora.sources import data_collective, read_source
from speakerprint.errors import InputError
from speakerprint.params.sources import DataCollectiveSource
from tests.corpora.sources.test_clips import write_archive

datacollective = pytest.importorskip("datacollective")

KEY = "key-of-a-test"
SIGNATURE = "signature-of-an-address"
BLOCK = 2**16  # what the client writes at once
TSV = "client_id\tpath\tup_votes\tdown_votes\tlocale\nanna\ta.mp3\t2\t0\ten\nben\tb.mp3\t2\t1\ten\n"


class Service(BaseHTTPRequestHandler):
    archive: bytes
    details: dict[str, Any]
    accepted = True
    starts: list[int]  # the byte that each download began with
    cut: list[int]  # after how many bytes the next downloads break off
    stall_s = 0.0  # what a broken-off download waits before it closes the connection

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, tree: dict[str, Any]) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/api/datasets/cv17":
            return self.answer(200, self.details)
        if self.path != f"/archive?sign={SIGNATURE}":
            return self.answer(404, {"message": "no such dataset"})
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.starts.append(start)
        part = self.archive[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.cut:
            self.wfile.write(part[: self.cut.pop(0)])
            self.wfile.flush()
            threading.Event().wait(self.stall_s)
        else:
            self.wfile.write(part)
        return None

    def do_POST(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return self.answer(401, {"message": "bad token"})
        if not self.accepted:
            return self.answer(403, {"message": "terms not agreed to"})
        host = self.headers["Host"]
        plan = {"downloadUrl": f"http://{host}/archive?sign={SIGNATURE}", **self.details}
        return self.answer(200, plan)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Service]]:
    files = {"train.tsv": TSV.encode(), "clips/a.mp3": random.Random(1).randbytes(5 * BLOCK)}
    release = {f"cv-corpus-17.0-2024-03-15/en/{name}": data for name, data in files.items()}
    path = write_archive(tmp_path / "made.tar.gz", release)
    archive = path.read_bytes()
    details = {
        "id": "cv17",
        "filename": "cv-corpus-17.0-en.tar.gz",
        "sizeBytes": len(archive),
        "checksum": hashlib.sha256(archive).hexdigest(),
        "datasetUrl": "http://page-of-the-dataset",
    }
    handler = type("Handler", (Service,), {"archive": archive, "details": details, "starts": [], "cut": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MDC_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setenv("MDC_API_KEY", KEY)
    monkeypatch.setenv("MDC_DOWNLOAD_PATH", str(tmp_path / "kept"))
    monkeypatch.setattr(data_collective, "WAIT_S", 0.0)
    yield handler
    server.shutdown()
    server.server_close()


def read(dataset: str = "cv17", splits: tuple[str, ...] = ("train",)) -> pd.DataFrame:
    source = DataCollectiveSource(kind="data_collective", dataset=dataset, locales=["en"], splits=list(splits))
    return read_source(source, "unused")


def refusal() -> str:
    with pytest.raises(InputError) as caught:
        read()
    assert KEY not in str(caught.value)
    assert SIGNATURE not in str(caught.value)
    return str(caught.value)


def test_the_archive_is_fetched_once_kept_and_read_as_a_release(service: type[Service], tmp_path: Path) -> None:
    rows = read()
    assert rows["speaker_id"].tolist() == ["anna", "ben"]
    assert rows["location"][0] == f"{tmp_path}/kept/cv-corpus-17.0-en.tar.gz/cv-corpus-17.0-2024-03-15/en/clips/a.mp3"
    assert read().equals(rows)
    assert service.starts == [0]


def test_neither_the_key_nor_a_signed_address_reaches_the_table_or_the_terminal(
    service: type[Service], capfd: pytest.CaptureFixture[str]
) -> None:
    text = read().to_csv() + "".join(capfd.readouterr())
    assert KEY not in text
    assert SIGNATURE not in text


def test_a_broken_off_download_goes_on_where_it_broke_off(service: type[Service]) -> None:
    service.cut += [2 * BLOCK + 10, BLOCK]
    assert len(read()) == 2
    assert service.starts == [0, 2 * BLOCK, 3 * BLOCK]


def test_a_half_open_connection_is_given_up_and_the_download_goes_on(
    service: type[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datacollective.download.HTTP_TIMEOUT", (5, 0.2))
    service.cut, service.stall_s = [BLOCK], 2.0
    assert len(read()) == 2
    assert service.starts == [0, BLOCK]


def test_a_download_that_brings_nothing_ends_and_the_next_run_goes_on(service: type[Service]) -> None:
    service.cut += [BLOCK] + [0] * data_collective.TRIES
    assert "cv-corpus-17.0-en.tar.gz broke off (ChunkedEncodingError) after 64.0 KB of 3" in refusal()
    assert len(read()) == 2
    assert service.starts == [0] + [BLOCK] * (data_collective.TRIES + 1)


def test_a_wrong_checksum_is_refused_by_name(service: type[Service]) -> None:
    service.details["checksum"] = "0" * 64
    assert "kept/cv-corpus-17.0-en.tar.gz has the SHA-256" in refusal()


def test_a_kept_archive_is_verified_too(service: type[Service], tmp_path: Path) -> None:
    read()
    with (tmp_path / "kept/cv-corpus-17.0-en.tar.gz").open("ab") as file:
        file.write(b"!")
    assert "delete it and run `dvc repro`" in refusal()


def test_without_a_checksum_the_archive_is_read_and_it_is_said(
    service: type[Service], capsys: pytest.CaptureFixture[str]
) -> None:
    service.details["checksum"] = None
    assert len(read()) == 2
    assert "gives no SHA-256" in capsys.readouterr().err


def test_a_missing_key_says_where_to_put_it(service: type[Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MDC_API_KEY")
    assert "MDC_API_KEY" in refusal()


def test_a_key_that_is_not_taken_is_told_from_a_missing_one(service: type[Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_KEY", "old")
    assert "does not take the key in MDC_API_KEY" in refusal()


def test_terms_that_were_not_accepted_name_the_page(service: type[Service]) -> None:
    service.accepted = False
    assert refusal().endswith("terms not agreed to); sign in there and accept its terms on http://page-of-the-dataset")


def test_an_unknown_dataset_is_named(service: type[Service]) -> None:
    with pytest.raises(InputError, match=r"has no dataset 'cv71'; set source.dataset"):
        read("cv71")


def test_a_service_that_cannot_be_reached_is_named(service: type[Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_URL", "http://127.0.0.1:1/api")
    assert "the Mozilla Data Collective does not answer as it should (ConnectionError)" in refusal()


def test_a_file_name_that_leads_elsewhere_is_refused(service: type[Service], tmp_path: Path) -> None:
    service.details["filename"] = "../evil.tar.gz"
    assert "does not answer as it should" in refusal()
    assert not (tmp_path / "evil.tar.gz").exists()


def test_a_disk_with_too_little_room_is_refused_before_anything_is_fetched(service: type[Service]) -> None:
    service.details["sizeBytes"] = 10**18
    assert "GiB more; free some, or set MDC_DOWNLOAD_PATH" in refusal()
    assert service.starts == []


def test_a_disk_that_fills_up_meanwhile_keeps_its_errno_for_the_stage_to_explain(
    service: type[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        error = datacollective.errors.DownloadError(0, 0, 1, None)
        raise error from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datacollective, "download_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        read()


def test_a_split_that_the_archive_lacks_is_named_as_in_any_release(service: type[Service]) -> None:
    with pytest.raises(InputError, match=r"has no dev.tsv; it has train"):
        read(splits=("dev",))


@pytest.mark.hub
def test_the_real_service_names_a_dataset_that_it_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_KEY", "none: details are public")
    monkeypatch.setenv("MDC_DOWNLOAD_PATH", str(tmp_path))
    with pytest.raises(InputError) as caught:
        read("there-is-no-such-dataset")
    if "does not answer" in str(caught.value):
        pytest.skip(str(caught.value))
    assert "has no dataset" in str(caught.value)
