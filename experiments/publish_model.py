"""Make a trained model ready to ship: float16 weights, thresholds, and what made it.

    python experiments/publish_model.py models/speakerprint src/speakerprint/models/speakerprint-base \\
        --thresholds metrics/french_validation.json

The thresholds come from a metrics file of `evaluate`: choose a corpus whose speakers are neither trained nor reported on. The
folder's README.md, the model's card, is written by hand.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from speakerprint.errors import InputError
from speakerprint.evaluation.metrics_files import read_evaluation
from speakerprint.model.speaker_model import SpeakerModel

FALSE_ACCEPT_RATES = {"0.01": "threshold_at_1pct_false_accepts", "0.001": "threshold_at_0_1pct_false_accepts"}


def publish(model: Path, out: Path, metrics: Path) -> None:
    """Write `out` from the model folder and the metrics file. Raises InputError for weights that float16 cannot hold."""
    SpeakerModel.load(model)  # whole and of this version
    weights = load_file(model / "model.safetensors")
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if lost := [name for name, tensor in halved.items() if not tensor.isfinite().all()]:
        raise InputError(f"{model}: {lost[0]} has values beyond float16, whose largest is {torch.finfo(torch.float16).max:.0f}")
    judged = read_evaluation(metrics)
    if missing := [key for key in FALSE_ACCEPT_RATES.values() if key not in judged]:
        raise InputError(f"{metrics} has no {missing[0]}; name what `evaluate` writes: metrics/CORPUS.json")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | {
        "commit": commit,
        "thresholds": {rate: judged[key] for rate, key in FALSE_ACCEPT_RATES.items()},
        "thresholds_from": metrics.stem,
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(halved, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copy(model / "params.yaml", out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--thresholds", type=Path, required=True, help="metrics file of the corpus that they are chosen on")
    given = parser.parse_args()
    publish(given.model, given.out, given.thresholds)
