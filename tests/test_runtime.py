"""What runs here tells nobody."""

import subprocess
import sys
from pathlib import Path

import pytest

import speakerprint
from tests.network import network_watch

PACKAGE = Path(speakerprint.__file__).parent
SAMPLES = PACKAGE / "samples"
VERIFY = """
import sys
from speakerprint.cli import main
sys.argv = ["speakerprint", "verify", *sys.argv[1:]]
main()
"""
SERVE = """
import sys
from fastapi.testclient import TestClient
from speakerprint import SpeakerEmbedder
from speakerprint.pages.serve import create_app
with TestClient(create_app(SpeakerEmbedder.load()), base_url="http://127.0.0.1") as client:
    files = {side: open(path, "rb") for side, path in zip(("first", "second"), sys.argv[1:])}
    client.get("/").raise_for_status()
    client.post("/api/verify", files=files).raise_for_status()
"""
ASKS = """
import socket
try:
    socket.getaddrinfo("nowhere.invalid", 80)
except OSError:
    pass
with socket.socket() as one:
    one.setblocking(False)
    one.connect_ex(("192.0.2.1", 9))  # nobody's: RFC 5737
"""
PIPELINE = "import accelerate, datasets, dvc.api, dvclive, huggingface_hub, matplotlib.pyplot, sklearn, torch, transformers, zarr"
PLAIN_ONNX_RUNTIME = """
import sys
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def run(home: Path, code: str, *arguments: Path, **environment: str) -> set[str]:
    """Names of the files that a Python process makes in its user's home, such as the id that telemetry keeps there."""
    home.mkdir()
    own = {"HOME": str(home), "PYTHONPATH": str(PACKAGE.parent), "PATH": ""}  # a variable CI would turn telemetry off
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=own | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {path.name for path in home.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where telemetry leaves its id elsewhere")
def test_onnx_runtime_s_telemetry_keeps_no_id(tmp_path):
    assert "deviceid" in run(tmp_path / "plain", PLAIN_ONNX_RUNTIME, PACKAGE / "models/speakerprint-base/model.onnx")
    assert not run(tmp_path / "ours", VERIFY, SAMPLES / "ann-1.ogg", SAMPLES / "ann-2.ogg")


@pytest.mark.slow
@pytest.mark.parametrize("code", [VERIFY, SERVE, PIPELINE], ids=["verify", "serve", "what the pipeline imports"])
def test_no_name_is_looked_up_and_no_address_opened(code, tmp_path):
    watch = network_watch(tmp_path)
    if watch is None:
        pytest.skip("nothing here can compile what watches name look-ups")
    run(tmp_path / "ours", code, SAMPLES / "ann-1.ogg", SAMPLES / "ann-2.ogg", **watch.environment)
    assert watch.seen() == []
    run(tmp_path / "theirs", ASKS, **watch.environment)
    assert watch.seen() == ["look-up nowhere.invalid", "connection 192.0.2.1"]


def test_one_module_imports_onnx_runtime():
    found = [path.name for path in PACKAGE.rglob("*.py") if "import onnxruntime" in path.read_text(encoding="utf-8")]
    assert found == ["runtime.py"]
