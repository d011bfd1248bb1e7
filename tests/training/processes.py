"""Python in processes of their own, alone or several that train together."""

import os
import subprocess
import sys

from tests.training.runs import ROOT


def started(*words: str, folder) -> subprocess.CompletedProcess:
    """Python with these words, in a folder, with the project's code."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def in_two_processes(*words: str, folder) -> subprocess.CompletedProcess:
    """A module under `accelerate launch`; --multi_gpu is its word for several processes, with or without a GPU."""
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0 --mixed_precision no"
    return started("-m", *launch.split(), "-m", *words, folder=folder)
