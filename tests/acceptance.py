"""The mission's sentence on the demo, in a checkout where `make repro` has just run: `python -m tests.acceptance`.

Training must beat the start that it came from and the log-mel floor, an experiment on a loss must rerun nothing but training and
what follows it, and its figures must differ.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

EXPERIMENT = ("dvc", "exp", "run", "-S", "loss.ntxent_weight=0.5")
ENOUGH = 0.85  # of the start's EER; the trials are the same, so the two rise and fall together
MAY_RUN = {"check", "train", "evaluate@demo_dev"}  # `check` reads params.yaml whole, and nothing reruns because it did


def refuse_unless(holds: bool, failure: str) -> None:
    if not holds:
        sys.exit(f"FAILED: {failure}")


def said(*command: str) -> str:
    """What a command prints, which is shown too."""
    print("$", *command, flush=True)
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(ran.stdout, flush=True)
    refuse_unless(ran.returncode == 0, f"{command[0]} ended with status {ran.returncode}")
    return ran.stdout


def main() -> None:
    metrics = json.loads(Path("metrics/demo_dev.json").read_text(encoding="utf-8"))
    trained, high, start, floor = (metrics[name] for name in ("eer", "eer_high", "start_eer", "log_mel_floor_eer"))
    print(f"EER on demo_dev: trained {trained:.2%} (up to {high:.2%}), its start {start:.2%}, log-mel floor {floor:.2%}")
    refuse_unless(trained < ENOUGH * start, f"the trained model's EER must be below {ENOUGH:.0%} of its start's")
    refuse_unless(trained < floor, "the trained model must be better than the floor")

    ran = set(re.findall(r"Running stage '([^']+)'", said(*EXPERIMENT)))
    as_meant = {"train", "evaluate@demo_dev"} <= ran <= MAY_RUN
    refuse_unless(as_meant, f"the experiment ran {sorted(ran)}, expected {sorted(MAY_RUN)}")
    changed = said("dvc", "metrics", "diff")
    refuse_unless(re.search(r"\beer\b", changed) is not None, "dvc metrics diff shows no other EER")


if __name__ == "__main__":
    main()
