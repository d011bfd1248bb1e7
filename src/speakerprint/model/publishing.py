"""Make a trained model ready to ship: float16 weights, thresholds, and what made it."""

import shutil
import subprocess
from pathlib import Path

from speakerprint.files import whole_file
from speakerprint.inference.model_folder import read_config
from speakerprint.model.speaker_model import SpeakerModel


def publish(model: Path, out: Path, thresholds: dict[str, float], thresholds_from: str) -> None:
    """Write the model of a folder into another, whose config.json has the thresholds (by false-accept rate) and their corpus.

    The folder's README.md, the model's card, is written by hand. Raises InputError for weights that float16 cannot hold.
    """
    trained, run = SpeakerModel.load(model), read_config(model)["run"]
    trained.save(out, run, half=True, commit=_commit(), thresholds=thresholds, thresholds_from=thresholds_from)
    with whole_file(out / "params.yaml") as part:
        shutil.copyfile(model / "params.yaml", part)


def _commit() -> str | None:
    """The commit of the working directory's repository; None outside of one."""
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
