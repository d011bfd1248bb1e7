"""EER on French report speakers against the CPU time that training took, as a picture of the table in docs/results.md.

    python -m experiments.error_against_time docs/pictures/error_against_time.png

The errors are what `experiments.peers` measured (experiments/peers.json), of models named as in docs/results.md, which has the
commands that made them and says how long each took.
"""

import json
import sys
from pathlib import Path
from typing import Any

from speakerprint.evaluation.plots import FLOOR_COLOUR, MODEL_COLOUR, OTHER_COLOURS, legend_below, new_picture, save_picture

MINUTES = {  # recipe -> system -> CPU minutes
    "reference recipe": {"reference-100-steps": 15, "reference-converged": 53},
    "default recipe": {"default-start": 11, "default": 107},
}
LEVELS = {"log-mel floor": "log-mel floor", "resemblyzer": "Resemblyzer", "cam++": "CAM++"}  # nothing was trained here for these


def main(path: str, measured: Path = Path("experiments/peers.json")) -> None:
    rows: list[dict[str, Any]] = json.loads(measured.read_text(encoding="utf-8"))
    french = {
        row["system"]: tuple(100 * row[key] for key in ("eer", "eer_low", "eer_high"))
        for row in rows
        if (row["corpus"], row["condition"], row["trials"]) == ("french_report", "full", "all")
    }
    if missing := sorted({*LEVELS, *(system for systems in MINUTES.values() for system in systems)} - french.keys()):
        raise SystemExit(f"{measured} has no row of {', '.join(missing)} on french_report; docs/results.md has the command")
    figure, axes = new_picture(4.4, "French report speakers, whole recordings")
    for (name, systems), colour in zip(MINUTES.items(), (OTHER_COLOURS[2], MODEL_COLOUR), strict=True):
        points = [(minutes, *french[system]) for system, minutes in systems.items()]
        minutes, eer, low, high = (list(column) for column in zip(*points, strict=True))
        below, above = ([abs(a - b) for a, b in zip(eer, bound, strict=True)] for bound in (low, high))
        axes.errorbar(minutes, eer, yerr=[below, above], marker="o", capsize=4, color=colour, label=name)
    for (system, name), colour in zip(LEVELS.items(), (FLOOR_COLOUR, OTHER_COLOURS[1], OTHER_COLOURS[0]), strict=True):
        axes.axhline(french[system][0], color=colour, linestyle=":", label=name)
    axes.set(xscale="log", xlim=(8, 155), ylim=(0, 30), xlabel="CPU time of training (minutes)", ylabel="EER (%), 95 % interval")
    axes.set_xticks([10, 20, 40, 80, 120], ["10", "20", "40", "80", "120"])
    axes.minorticks_off()
    legend_below(figure, columns=2)
    save_picture(figure, path)


if __name__ == "__main__":
    main(sys.argv[1])
