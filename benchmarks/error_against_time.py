"""EER on French report speakers against the CPU time that training took, as a picture of the table in docs/results.md.

    python -m benchmarks.error_against_time docs/pictures/error_against_time.png

docs/results.md has the command that made each row.
"""

import sys

from matplotlib.figure import Figure

RECIPES = {  # name -> CPU minutes, EER in %, its 95 % interval
    "reference recipe": [(20, 21.4, 16.8, 25.7), (67, 11.2, 7.4, 14.7)],
    "default recipe": [(10, 4.5, 2.8, 6.2), (130, 4.0, 2.1, 6.0)],
}
LEVELS = {"log-mel floor": 26.8, "Resemblyzer": 7.4, "CAM++": 3.2}  # nothing was trained here for these


def main(path: str) -> None:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, rows), colour in zip(RECIPES.items(), ("#8a8f98", "#1f4e9c"), strict=True):
        minutes, eer, low, high = (list(column) for column in zip(*rows, strict=True))
        below, above = ([abs(a - b) for a, b in zip(eer, bound, strict=True)] for bound in (low, high))
        axes.errorbar(minutes, eer, yerr=[below, above], marker="o", capsize=4, color=colour, label=name)
    for name, level in LEVELS.items():
        axes.axhline(level, color="#b5482a", linewidth=0.8, linestyle=":")
        axes.text(30, level, name, va="bottom", ha="center", color="#b5482a", fontsize=8)
    axes.set(xscale="log", xlim=(8, 155), ylim=(0, 30), xlabel="CPU time of training (minutes)", ylabel="EER (%), 95 % interval")
    axes.set_xticks([10, 20, 40, 80, 120], ["10", "20", "40", "80", "120"])
    axes.minorticks_off()
    axes.set_title("French report speakers, whole recordings", loc="left", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(sys.argv[1])
