"""EER by length of the clip and by noise, as pictures of what `experiments.peers` measured.

    python -m experiments.error_pictures experiments/peers.json docs/pictures

For each corpus and kind of trials of the JSON file a picture of each kind, where two or more of its conditions were measured.
Ours is blue and the floor grey.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.conditions import SNRS_DB
from speakerprint.evaluation.plots import FLOOR_COLOUR, MODEL_COLOUR, OTHER_COLOURS, legend_below, new_picture, save_picture

SYSTEMS = {  # in the picture, and their names there
    "speakerprint-base": "speakerprint-base",
    "cam++": "CAM++",
    "resemblyzer": "Resemblyzer",
    "reference-converged": "reference recipe",
    "log-mel floor": "log-mel floor",
}
COLOURS = dict(zip(SYSTEMS, (MODEL_COLOUR, *OTHER_COLOURS[:3], FLOOR_COLOUR), strict=True))
KINDS = {
    "length": (("1s", "2s", "3s", "full"), "length of the clip"),
    "snr": ((*(f"noise-{snr_db}dB" for snr_db in sorted(SNRS_DB)), "full"), "speech to noise"),
}


def main(measured: str, folder: str) -> None:
    rows: list[dict[str, Any]] = json.loads(Path(measured).read_text(encoding="utf-8"))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for corpus, trials in sorted({(row["corpus"], row["trials"]) for row in rows}):
        table = [row for row in rows if (row["corpus"], row["trials"]) == (corpus, trials)]
        name = corpus if trials == "all" else f"{corpus}, {trials}"
        for kind, (conditions, label) in KINDS.items():
            if figure := draw_eer(table, name, conditions, label):
                save_picture(figure, Path(folder) / f"{name.replace(', ', '-').replace(' ', '-')}-{kind}.png")


def draw_eer(table: Sequence[dict[str, Any]], name: str, conditions: Sequence[str], label: str) -> Figure | None:
    """EER with its interval at each of these conditions, a line for each system; None if fewer than two were measured."""
    shown = [condition for condition in conditions if any(row["condition"] == condition for row in table)]
    if len(shown) < 2:
        return None
    about = f"{table[0]['recordings']:,} recordings, {table[0]['speakers']:,} speakers"
    figure, axes = new_picture(4.6, f"{name}: EER", about)
    for number, (system, title) in enumerate(SYSTEMS.items()):
        of_system = {row["condition"]: row for row in table if row["system"] == system}
        points = [(shown.index(condition), of_system[condition]) for condition in shown if condition in of_system]
        if not points:
            continue
        eers = np.array([[row["eer"], row["eer"] - row["eer_low"], row["eer_high"] - row["eer"]] for _, row in points]).T * 100
        places = [place + 0.05 * number for place, _ in points]
        axes.errorbar(places, eers[0], np.maximum(eers[1:], 0), color=COLOURS[system], label=title, marker="o", capsize=2)
    axes.set_xticks(range(len(shown)), [condition.removeprefix("noise-") for condition in shown])
    axes.set(xlabel=label, ylabel="EER (%), 95 % interval")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.92")
    legend_below(figure, columns=2)
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
