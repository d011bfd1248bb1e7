"""Coverage-guided fuzzing of the parsers that we own, and of the decode path: `tests/fuzz.py`, each for FUZZ_S seconds.

`make torture` asks for 30. atheris is no dependency; without it, this is skipped.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ_S = int(os.environ.get("FUZZ_S", "0"))
FUZZED = [
    "params", "a stranger's config", "a stranger's calibration", "metrics", "table of recordings", "trial list",
    "list of exclusions", "speakers' table", "Common Voice's table", "VoxCeleb's table", "zip archive", "gallery",
    "wav", "flac", "ogg", "mp3", "m4a", "webm", "ogg, in blocks",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.torture
@pytest.mark.skipif(not FUZZ_S, reason="FUZZ_S says for how many seconds each; `make torture` for 30")
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install atheris")
@pytest.mark.parametrize("name", FUZZED)
def test_no_input_ends_in_anything_but_a_message_or_an_answer(name, tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", name, f"-max_total_time={FUZZ_S}", f"-artifact_prefix={tmp_path}/"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # libFuzzer leaves what it has there
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=FUZZ_S + 300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    (cases,) = re.findall(r"number_of_executed_units: (\d+)", ran.stderr)
    print(f"{name}: {int(cases):,} cases in {FUZZ_S} s")
