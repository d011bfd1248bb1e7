"""What runs on ONNX Runtime tells nobody."""

import subprocess
import sys
from pathlib import Path

import pytest

import speakerprint

PACKAGE = Path(speakerprint.__file__).parent
VERIFY = """
import sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
from speakerprint.cli import main
sys.argv = ["speakerprint", "verify", *sys.argv[1:]]
main()
"""
PLAIN_ONNX_RUNTIME = """
import sys
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def left_behind(home: Path, code: str, *arguments: Path) -> set[str]:
    """Names of the files that a Python process makes in its user's home, such as the id that telemetry keeps there."""
    home.mkdir()
    environment = {"HOME": str(home), "PYTHONPATH": str(PACKAGE.parent), "PATH": ""}  # a variable CI would turn telemetry off
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.name for path in home.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where telemetry leaves its id elsewhere")
def test_verify_opens_no_socket_looks_up_no_name_and_keeps_no_id(tmp_path):
    model = PACKAGE / "models/speakerprint-base/model.onnx"
    assert "deviceid" in left_behind(tmp_path / "plain", PLAIN_ONNX_RUNTIME, model)  # what is to be avoided
    samples = PACKAGE / "samples"
    assert not left_behind(tmp_path / "ours", VERIFY, samples / "ann-1.ogg", samples / "ann-2.ogg")


def test_one_module_imports_onnx_runtime():
    found = [path.name for path in PACKAGE.rglob("*.py") if "import onnxruntime" in path.read_text(encoding="utf-8")]
    assert found == ["runtime.py"]
