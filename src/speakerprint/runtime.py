"""ONNX Runtime without its telemetry: the one module that imports it."""

import contextlib
import ctypes
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when ONNX Runtime is loaded: later calls only lessen what it sends

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

from speakerprint.errors import InputError

Device = Literal["auto", "cpu", "cuda"]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
ERRORS_ONLY = 3  # of ONNX Runtime's log levels


def open_session(path: Path, device: Device = "cpu", threads: int | None = None) -> "InferenceSession":
    """Load an ONNX file. The data it refers to is looked for beside it.

    device: auto is CUDA where the installed ONNX Runtime offers it. threads: by default OMP_NUM_THREADS, else all cores.
    Raises InputError for a device that is not there, and for a file that ONNX Runtime cannot load.
    """
    import onnxruntime

    providers = usable_providers(device)
    missing = _load_cuda_libraries() if CUDA in providers else ""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads if threads is not None else int(os.environ.get("OMP_NUM_THREADS") or 0)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait would burn the processor
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes are private
        raise InputError(f"{path}: ONNX Runtime cannot load it ({error}); get the file again") from None
    if device == "cuda" and CUDA not in session.get_providers():
        raise InputError(f"CUDA does not start: {missing or 'see that driver and libraries fit onnxruntime-gpu'}; or use the cpu")
    return session


def usable_providers(device: Device) -> list[str]:
    """The execution providers for a device, of the installed ONNX Runtime on this machine; raises as `choose_providers` does."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # where somebody imported it before
    return choose_providers(device, onnxruntime.get_available_providers(), has_nvidia_driver())


def choose_providers(device: str, offered: list[str], driver: bool) -> list[str]:
    """The execution providers for a device, best first.

    offered: those of the installed ONNX Runtime. driver: whether NVIDIA's is there; without one CUDA is not tried, for ONNX
    Runtime would print errors. Raises InputError for a device that is none, and for cuda where offer or driver is missing.
    """
    if device not in get_args(Device):
        raise InputError(f"the device is {device!r}, expected one of {', '.join(get_args(Device))}")
    if device == "cuda" and CUDA not in offered:
        raise InputError(
            "the installed ONNX Runtime has no CUDA; for an NVIDIA GPU: pip uninstall onnxruntime, "
            "then pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if device == "cuda" and not driver:
        raise InputError("there is no NVIDIA driver on this machine; install it, or use the cpu")
    return [CUDA, CPU] if device != "cpu" and CUDA in offered and driver else [CPU]


def has_nvidia_driver() -> bool:
    """Whether the library of NVIDIA's driver is there."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _load_cuda_libraries() -> str:
    """Load NVIDIA's libraries from their Python packages, such as PyTorch's; what is missing, in words, or nothing."""
    import onnxruntime

    said = io.StringIO()
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21; before, the libraries had to be where the system looks for them
        with contextlib.redirect_stdout(said):
            onnxruntime.preload_dlls()
    return f"{said.getvalue().strip()}; pip install 'onnxruntime-gpu[cuda,cudnn]'" if said.getvalue() else ""
