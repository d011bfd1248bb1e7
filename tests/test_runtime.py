"""What runs here tells nobody."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import speakerprint
from speakerprint.errors import InputError
from speakerprint.inference.model_folder import SHIPPED
from speakerprint.inference.network import WINDOWS_AT_ONCE, Network
from speakerprint.runtime import CPU, CUDA, choose_providers, open_session
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


@pytest.mark.parametrize(
    ("device", "offered", "driver", "expected"),
    [
        ("auto", [CUDA, CPU], True, [CUDA, CPU]),
        ("auto", [CUDA, CPU], False, [CPU]),
        ("auto", [CPU], True, [CPU]),
        ("cuda", ["TensorrtExecutionProvider", CUDA, CPU], True, [CUDA, CPU]),
        ("cpu", [CUDA, CPU], True, [CPU]),
    ],
)
def test_a_gpu_is_used_where_onnx_runtime_and_the_driver_offer_it(device, offered, driver, expected):
    assert choose_providers(device, offered, driver) == expected


@pytest.mark.parametrize(
    ("offered", "driver", "missing"),
    [([CPU], True, r"pip install 'onnxruntime-gpu\[cuda"), ([CUDA, CPU], False, "no NVIDIA driver")],
)
def test_cuda_is_refused_with_what_is_missing(offered, driver, missing):
    with pytest.raises(InputError, match=missing):
        choose_providers("cuda", offered, driver)


class FakeSession:
    """A session on the providers that were asked for, or, if ``starts`` is not, without CUDA, as ONNX Runtime falls back."""

    starts = True

    def __init__(self, path, options, providers):
        self.providers = [name for name in providers if name == CPU or self.starts]

    def get_providers(self):
        return self.providers

    def get_outputs(self):
        return [SimpleNamespace(name="embedding", shape=["batch", 128])]


@pytest.fixture
def gpu(monkeypatch):
    """ONNX Runtime as it is on a machine with a GPU, to be told what it prints of libraries that it lacks."""
    import onnxruntime

    said: list[str] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(*said, end=""), raising=False)
    monkeypatch.setattr("speakerprint.runtime.has_nvidia_driver", lambda: True)
    return said


def test_on_a_gpu_more_windows_are_run_together_than_on_a_processor_and_in_integers_one(gpu):
    networks = [Network(SHIPPED, "auto"), Network(SHIPPED, "cpu", in_float32=True), Network(SHIPPED, "cpu")]
    assert [network._at_once for network in networks] == [WINDOWS_AT_ONCE["cuda"], WINDOWS_AT_ONCE["cpu"], 1]


def test_cuda_that_does_not_start_is_refused_with_the_library_that_is_missing(gpu, monkeypatch, capsys):
    monkeypatch.setattr(FakeSession, "starts", False)
    gpu.append("Failed to load libcudnn.so.9")
    with pytest.raises(InputError, match=r"does not start: Failed to load libcudnn\.so\.9; pip install 'onnxruntime-gpu\[cuda"):
        open_session(SHIPPED / "model.onnx", "cuda")
    assert open_session(SHIPPED / "model.onnx", "auto").get_providers() == [CPU]
    assert capsys.readouterr().out == ""  # JSON may be printed there
