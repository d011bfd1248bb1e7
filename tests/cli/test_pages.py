import json
import re
import socket
import sys

import pytest
import uvicorn

from speakerprint.cli import main
from speakerprint.inference.embedder import SpeakerEmbedder
from tests.tones import SPEAKERS, ToneEmbedder, write_project, write_tones


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command in an empty folder, with an embedder that costs nothing; returns its exit status and the models loaded."""
    loaded = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SpeakerEmbedder, "load", lambda folder=None, *_, **__: (loaded.append(folder), ToneEmbedder())[1])

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["speakerprint", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code or 0, loaded

    return run


@pytest.fixture
def served(monkeypatch):
    """The apps that a command would serve, and where; they are not."""
    apps = []

    def take(self, sockets):
        apps.append((self.config.app, sockets[0].getsockname()))
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", take)
    return apps


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def data_of(page):
    (data,) = re.findall(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(data)


@pytest.mark.parametrize("command", ["report", "serve"])
def test_every_command_has_help_with_examples(run, capsys, command):
    assert run(command, "--help")[0] == 0
    out = capsys.readouterr().out
    assert f"Usage: speakerprint {command}" in out and "Examples" in out


@pytest.mark.slow
def test_report_writes_a_page_and_says_how_large_it_is(run, capsys, tmp_path):
    write_tones(tmp_path / "voices", SPEAKERS)
    assert run("report", "voices", "--output", "page.html", "--max-recordings", "6") == (0, [None])
    assert re.fullmatch(r"page\.html: 9 recordings, \d\.\d MB\n", capsys.readouterr().out)
    data = data_of(tmp_path / "page.html")
    assert data["title"] == "voices" and len(data["map"]) == 6


@pytest.mark.slow
def test_a_corpus_of_the_project_is_embedded_by_the_projects_model(run, tmp_path):
    write_project(tmp_path, "tones_dev")
    status, loaded = run("report", "--corpus", "tones_dev")
    assert status == 0 and [str(folder) for folder in loaded] == ["models/speakerprint"]
    assert data_of(tmp_path / "report.html")["title"] == "tones_dev"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "give a folder or a CSV of recordings, or --corpus"),
        (["report", "voices", "--corpus", "demo_dev"], "give a folder or a CSV of recordings, or --corpus"),
        (["report", "voices", "--output", "nowhere/page.html"], "there is no folder nowhere"),
        (["report", "voices"], "voices does not exist"),
        (["report", "--corpus", "demo_dev"], "run `dvc repro`"),
        (["serve", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in, without a password"),
    ],
)
def test_what_the_user_can_mend_is_a_message_and_status_2(run, capsys, arguments, message):
    assert run(*arguments)[0] == 2
    assert (said := capsys.readouterr().err).startswith("error: ") and message in said


def test_serve_listens_to_this_machine_only_and_says_where(run, served, free_port, capsys):
    assert run("serve", "--port", free_port)[0] == 0
    assert [place for _, place in served] == [("127.0.0.1", free_port)]
    said = capsys.readouterr()
    assert said.out == f"http://127.0.0.1:{free_port} (Ctrl+C stops it)\n" and said.err == ""


def test_serve_lets_other_machines_in_only_when_told_how_they_call_it_and_warns(run, served, free_port, capsys):
    from fastapi.testclient import TestClient

    assert run("serve", "--host", "0.0.0.0", "--allow-host", "studio.example", "--port", free_port)[0] == 0
    assert capsys.readouterr().err.startswith(f"warning: whoever reaches 0.0.0.0 port {free_port} can use this page")
    client = TestClient(served[0][0])
    assert client.get("/", headers={"Host": "studio.example"}).status_code == 200
    assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400


def test_a_port_that_is_taken_is_a_message_and_status_2(run, served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("serve", "--port", port)[0] == 2
    assert f"error: cannot listen at 127.0.0.1 port {port}" in capsys.readouterr().err and not served


def test_serve_opens_the_gallery_and_shows_the_scores_of_a_corpus(run, served, free_port, tmp_path):
    from fastapi.testclient import TestClient

    write_project(tmp_path, "tones_dev")
    assert run("serve", "--gallery", "people", "--corpus", "tones_dev", "--port", free_port)[0] == 0
    settings = TestClient(served[0][0], base_url="http://localhost").get("/api/model").json()
    assert settings["gallery"] is True and settings["reference"]["corpus"] == "tones_dev"
    assert (tmp_path / "people").is_dir()
