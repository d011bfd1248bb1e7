"""One cold `speakerprint verify a b`: processor time and memory of the whole process, against other ways to the same answer.

    python -m benchmarks.bench_verify
    python -m benchmarks.bench_verify --rounds 9

The recordings are the package's own samples. "torch" is the same model and the same features through torch, without looking for
speech. Resemblyzer is left out where it is not installed (experiments/peers.py says how). Medians of the rounds.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import speakerprint
from benchmarks.side_by_side import Spent, row, spent

SAMPLES = Path(speakerprint.__file__).parent / "samples"
OURS = "import sys; from speakerprint.cli import main; sys.argv = ['speakerprint', 'verify', *sys.argv[1:]]; main()"
BY_TORCH = """
import sys
from pathlib import Path
from speakerprint.audio.decode import decode
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.inference.model_folder import SHIPPED
from speakerprint.model.speaker_model import SpeakerModel
heard = [decode(Path(name).read_bytes(), name) for name in sys.argv[1:]]
one, other = SpeakerModel.load(SHIPPED).embed_frames([log_mel(resample(samples, hz, 16_000)) for samples, hz in heard])
print(one @ other)
"""
RESEMBLYZER = """
import sys
from resemblyzer import VoiceEncoder, preprocess_wav
encoder = VoiceEncoder("cpu", verbose=False)
one, other = (encoder.embed_utterance(preprocess_wav(name)) for name in sys.argv[1:])
print(one @ other)
"""
WAYS = {"ours": OURS, "torch": BY_TORCH, "Resemblyzer": RESEMBLYZER}


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of a table: what, ours, reference, unit, ratio, aim, met."""
    files = [str(SAMPLES / name) for name in ("ann-1.ogg", "ann-2.ogg")]
    found: dict[str, list[Spent]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, code in WAYS.items():
            found[name].append(spent("-c", code, *files, quiet=True))
    refused = statistics.median(spent("-c", OURS, "not.wav", "there.wav", quiet=True).cpu_s for _ in range(rounds))
    medians = {}
    for name, rows in found.items():
        if any(status for _, _, status in rows):
            print(f"{name} is left out: it does not run here", file=sys.stderr)
            continue
        medians[name] = [statistics.median(column) for column in list(zip(*rows, strict=True))[:2]]
    ours = medians.pop("ours")
    table = [row("two recordings that are not there are refused", refused, 0.3, "CPU s", 0.3 / refused, 1.0)]
    for what, index, unit, bound in (("CPU time", 0, "s", 1.0), ("memory", 1, "MB", 200.0)):
        table.append(row(f"a cold verify, {what}, against the aim", ours[index], bound, unit, bound / ours[index], 1.0))
        for name, other in medians.items():
            table.append(row(f"a cold verify, {what}, {name}", ours[index], other[index], unit, other[index] / ours[index], 1.0))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    print(pd.DataFrame(run(parser.parse_args().rounds)).to_string(index=False))


if __name__ == "__main__":
    main()
