"""How many steps of training have time on this machine? Some are taken, and timed; nothing of them is kept.

    python -m experiments.steps_that_fit 300     # the last line: as many as end within 300 seconds from now, start included

The recipe is that of params.yaml, whose `train.steps` must be 100 or more, and the features are in data/features.
"""

import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from speakerprint.training.loop import LOG_EVERY_STEPS, Trainer, make_accelerator, prepare
from speakerprint.training.teacher import TEACHER_PATH
from stages.train import given

WARM_UP, TIMED = 2, 8  # times as many steps as there are from one logging to the next, which waits for the device
SPARE = 0.05  # of the time, for steps that are slower than those timed, and for checkpoints


def seconds_a_step(trainer: Trainer) -> float:
    """The time of a step of the trainer, once it is warm; its weights are changed."""
    marks = []
    for step in islice(trainer.steps(), (WARM_UP + TIMED) * LOG_EVERY_STEPS):
        trainer.learn(step)
        if (step + 1) % LOG_EVERY_STEPS == 0:
            marks.append(time.monotonic())
    return (marks[-1] - marks[WARM_UP - 1]) / (len(marks) - WARM_UP) / LOG_EVERY_STEPS


def steps_within(seconds: float, start_s: float, step_s: float) -> int:
    """How many steps of `step_s` end within so many seconds after a start of `start_s`; one at least."""
    return max(1, int(((1 - SPARE) * seconds - start_s) / step_s))


def main() -> None:
    begun, seconds = time.monotonic(), float(sys.argv[1])
    stores, recipe = given()
    accelerator = make_accelerator(recipe, bool(stores.unlabelled))
    prepared = prepare(stores, recipe, TEACHER_PATH, accelerator.print)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(accelerator, prepared, Path(folder))
        trainer.start_or_resume()
        start_s = time.monotonic() - begun
        step_s = seconds_a_step(trainer)
    left = seconds - (time.monotonic() - begun)
    print(f"{step_s:.3f} s a step after {start_s:.0f} s; {left:.0f} s are left", file=sys.stderr)
    print(steps_within(left, start_s, step_s))


if __name__ == "__main__":
    main()
