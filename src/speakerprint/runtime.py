"""ONNX Runtime without its telemetry: the one module that imports it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when ONNX Runtime is loaded: later calls only lessen what it sends

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

from speakerprint.errors import InputError

Device = Literal["auto", "cpu", "cuda"]
ERRORS_ONLY = 3  # of ONNX Runtime's log levels


def open_session(path: Path, device: Device = "cpu", threads: int | None = None) -> "InferenceSession":
    """Load an ONNX file. The data it refers to is looked for beside it.

    device: auto is CUDA where the installed ONNX Runtime offers it. threads: by default OMP_NUM_THREADS, else all cores.
    Raises InputError for a device that is not there, and for a file that ONNX Runtime cannot load.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # where somebody imported it before
    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads if threads is not None else int(os.environ.get("OMP_NUM_THREADS") or 0)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait would burn the processor
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes are private
        raise InputError(f"{path}: ONNX Runtime cannot load it ({error}); get the file again") from None
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise InputError("CUDA does not start: see that the driver and the CUDA libraries fit onnxruntime-gpu, or use the cpu")
    return session


def _providers(device: str, offered: list[str]) -> list[str]:
    if device not in get_args(Device):
        raise InputError(f"the device is {device!r}, expected one of {', '.join(get_args(Device))}")
    cuda = "CUDAExecutionProvider"
    if device == "cuda" and cuda not in offered:
        raise InputError(
            "the installed ONNX Runtime has no CUDA; for an NVIDIA GPU: pip uninstall onnxruntime, pip install onnxruntime-gpu"
        )
    return [cuda, "CPUExecutionProvider"] if device != "cpu" and cuda in offered else ["CPUExecutionProvider"]
