"""What the commands of the reference answer, written by running them: docs/api/outputs/COMMAND.txt.

    python docs/outputs.py              # all, some minutes
    python docs/outputs.py verify info  # those; what they build on runs, too

Those about a project's pipeline run in the working directory, after `dvc repro`; a command that ends in an error, or that is not
found, leaves what is recorded as it is. The others run in an empty folder.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
OUTPUTS = PROJECT / "docs/api/outputs"
IN_FOLDER = {  # in this order: later ones use what earlier ones wrote
    "samples": ["speakerprint samples samples"],
    "demo-voices": ["speakerprint demo-voices ."],
    "verify": [
        "speakerprint verify samples/ann-1.ogg samples/ann-2.ogg",
        "speakerprint verify samples/ann-1.ogg samples/bob.ogg",
    ],
    "embed": [
        "speakerprint embed samples/ann-1.ogg | cut -c 1-90",
        "speakerprint embed voices/*/*.mp3 --output embeddings.npz",
    ],
    "calibrate": ["speakerprint calibrate others --output calibration.json"],
    "cluster": ["speakerprint cluster voices/ann/*.mp3 voices/bob/*.mp3 --calibration calibration.json | head -5"],
    "evaluate": ["speakerprint evaluate voices"],
    "enrol": ["speakerprint enrol ann voices/ann/[123].mp3", "speakerprint enrol bob voices/bob/[123].mp3"],
    "identify": ["speakerprint identify voices/ann/4.mp3 voices/eva/4.mp3 --calibration calibration.json"],
    "search": ["speakerprint search voices/ann/4.mp3 --top 4"],
    "people": ["speakerprint people"],
    "remove": ["speakerprint remove bob"],
    "diarize": [
        "python -c \"import numpy as np, soundfile as sf; sf.write('meeting.wav', np.concatenate("
        "[sf.read(f'samples/{name}.ogg')[0] for name in ('ann-1', 'bob', 'ann-2')]), 16_000)\"",
        "speakerprint diarize meeting.wav",
    ],
    "listen": ["cat meeting.wav | speakerprint listen"],
    "report": ["speakerprint report voices"],
    "serve": ["speakerprint serve --gallery gallery --port 8017"],
    "export": ["speakerprint export --format onnx --output speakerprint.onnx"],
    "info": ["speakerprint info"],
}
IN_PROJECT = {
    "use": ["speakerprint use --list"],
    "metrics": ["speakerprint metrics"],
    "data": ["speakerprint data | head -7"],
    "publish": ["speakerprint publish --output models/published --thresholds metrics/demo_dev.json"],
    "average": ["speakerprint average models/speakerprint models/speakerprint --output models/average"],
}
SERVED_S = 20  # then `serve` is stopped


def run(line: str, folder: Path) -> tuple[str, int]:
    """What a line of shell prints in a folder, errors included, and its status."""
    limit = ["timeout", "--signal=INT", str(SERVED_S)] if " serve " in line else []
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(
        [*limit, "bash", "-o", "pipefail", "-c", f"exec {line}" if limit else line],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    shortened = done.stdout.replace(str(folder), "…").replace(str(PROJECT), "…")
    return shortened, 0 if limit else done.returncode


def record(command: str, lines: list[str], folder: Path) -> None:
    """Run the lines of a command and write what they print, unless one ends in an error."""
    parts = []
    for line in lines:
        printed, status = run(line, folder)
        print(f"$ {line}\n{printed}", end="")
        if status > 1:  # 1 is an answer, "no"
            return
        parts.append(f"$ {line}\n{printed}".rstrip())
    (OUTPUTS / f"{command}.txt").write_text("\n".join(parts) + "\n", encoding="utf-8")


def main(chosen: list[str]) -> None:
    OUTPUTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        last = max((list(IN_FOLDER).index(name) for name in chosen if name in IN_FOLDER), default=-1)
        for command, lines in list(IN_FOLDER.items())[: last + 1 if chosen else None]:
            record(command, lines, Path(folder))
    for command, lines in IN_PROJECT.items():
        if not chosen or command in chosen:
            record(command, lines, Path.cwd())


if __name__ == "__main__":
    main(sys.argv[1:])
