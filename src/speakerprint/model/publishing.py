"""Make a trained model ready to ship: float16 weights, thresholds, and what made it."""

import json
import shutil
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from speakerprint.errors import InputError
from speakerprint.model.speaker_model import SpeakerModel


def publish(model: Path, out: Path, thresholds: dict[str, float], thresholds_from: str) -> None:
    """Write the model of a folder into another, whose config.json has the thresholds (by false-accept rate) and their corpus.

    The folder's README.md, the model's card, is written by hand. Raises InputError for weights that float16 cannot hold.
    """
    SpeakerModel.load(model)  # whole and of this version
    weights = load_file(model / "model.safetensors")
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if lost := [name for name, tensor in halved.items() if not tensor.isfinite().all()]:
        raise InputError(f"{model}: {lost[0]} has values beyond float16, whose largest is {torch.finfo(torch.float16).max:.0f}")
    made = {"commit": _commit(), "thresholds": thresholds, "thresholds_from": thresholds_from}
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | made
    out.mkdir(parents=True, exist_ok=True)
    save_file(halved, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copy(model / "params.yaml", out)


def _commit() -> str | None:
    """The commit of the working directory's repository; None outside of one."""
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
