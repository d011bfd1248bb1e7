"""Requests that the page never sends, made from what /openapi.json says of itself: each is answered as it says.

`make test` sends a few of each kind, `make torture` 600.
"""

import io
import json
import os
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
import soundfile
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speakerprint.inference.gallery import Gallery
from speakerprint.pages.serve import create_app
from tests.tones import ToneEmbedder, tone

CASES = int(os.environ.get("TORTURE_CASES", "12"))


def wav(hz: float, seconds: float = 1.0) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, tone(hz, seconds), 16_000, format="WAV")
    return stream.getvalue()


GOOD = [wav(300), wav(900, 0.5)]
TEXT = st.text(st.characters(codec="utf-8"), max_size=150)
NUMBERS = st.sampled_from(
    ["0.01", "0.001", "0.5", "0", "-1", "nan", "inf", "1e400", "1e-400", "", " 0.01 ", "0.01\n", "½", "None"]
)
CUT = st.builds(lambda data, at: data[: round(at * len(data))], st.sampled_from(GOOD), st.floats(0, 1))
FLIPPED = st.builds(
    lambda data, at, byte: data[: (i := int(at * len(data)))] + bytes([byte]) + data[i + 1 :],
    st.sampled_from(GOOD),
    st.floats(0, 0.01),
    st.integers(0, 255),
)
RECORDINGS = st.one_of(st.sampled_from(GOOD), CUT, FLIPPED, st.binary(max_size=300), st.just(wav(0)), st.just(wav(300, 0.05)))
TYPES = st.sampled_from(["application/json", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain", "*/*", "x"])
APP = create_app(ToneEmbedder())
OPERATIONS = [(path, method) for path, methods in APP.openapi()["paths"].items() for method in methods]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    gallery = Gallery.open(tmp_path_factory.mktemp("gallery"), ToneEmbedder())
    return TestClient(create_app(ToneEmbedder(), gallery), base_url="http://127.0.0.1:8000")


def form_of(operation: dict[str, Any], described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of an operation's form, and what each is said to be."""
    content = operation.get("requestBody", {}).get("content", {})
    for kind in content.values():
        return described["components"]["schemas"][kind["schema"]["$ref"].rpartition("/")[2]]["properties"]
    return {}


def is_file(field: dict[str, Any]) -> bool:
    return "binary" in str(field) or "octet-stream" in str(field)


def one_field(draw: st.DrawFn, name: str, field: dict[str, Any]) -> list[tuple[str, tuple[str | None, bytes | str]]]:
    """A field as it should be, or missing, given twice, or of another kind, as `files` of httpx takes them."""
    times = draw(st.sampled_from([1, 1, 1, 0, 2]))
    if is_file(field) and draw(st.integers(0, 9)):
        return [(name, (draw(TEXT) or "x", draw(RECORDINGS))) for _ in range(times)]
    return [(name, (None, draw(st.one_of(NUMBERS, TEXT)))) for _ in range(times)]


@st.composite
def requests(draw: st.DrawFn, path: str, method: str, described: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `TestClient.request`."""
    operation = described["paths"][path][method]
    for parameter in operation.get("parameters", []):
        path = path.replace(f"{{{parameter['name']}}}", quote(draw(TEXT), safe=draw(st.sampled_from(["", "/", "/."]))))
    asked: dict[str, Any] = {"method": method, "url": path}
    if draw(st.integers(0, 4)) == 0:
        return asked | {"content": draw(st.one_of(st.binary(max_size=500), RECORDINGS)), "headers": {"content-type": draw(TYPES)}}
    fields = form_of(operation, described)
    return asked | {"files": [part for name, field in fields.items() for part in one_field(draw, name, field)] or None}


@pytest.mark.slow
@pytest.mark.torture
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: part.strip("/").replace("/", "-"))
def test_whatever_is_asked_is_answered_as_the_api_says(client, path, method):
    described = client.get("/openapi.json").json()
    answers = described["paths"][path][method]["responses"]

    @settings(max_examples=CASES, deadline=10_000, suppress_health_check=list(HealthCheck), database=None)
    @given(requests(path, method, described))
    def ask(asked):
        answer = client.request(**asked)  # an exception on the server is raised here
        if answer.status_code == 405:  # a name of a person that makes another path
            assert "{" in path
            return
        schema = answers[str(answer.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(strict_json(answer.text), schema | {"components": described["components"]})

    ask()


def strict_json(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)
