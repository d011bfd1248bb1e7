"""A training step on a whole batch, and on the same batch in parts (`train.gradient_cache_clips`): peak memory and time.

    python -m benchmarks.bench_gradient_cache
    python -m benchmarks.bench_gradient_cache --speakers 64 --parts 32 16 8

The model is that of recipes/default (with random weights: they change no time), each clip has a view as well, and the first row
is the whole batch. Each row is a process of its own; its memory is what the step needs beyond what the process had before it.
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import psutil
import torch

from benchmarks.bench_training_loop import default_recipe
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.loop import Objective


def measure(speakers: int, crop_s: float, parts: int | None, steps: int) -> dict[str, float]:
    """Peak GiB of a step and its seconds of the CPU, the best of `steps`."""
    recipe = default_recipe(gradient_cache_clips=parts)
    torch.manual_seed(0)
    objective = Objective(SpeakerModel(recipe.model), speakers, recipe)
    labels = torch.arange(speakers).repeat_interleave(2)
    features = torch.randn(len(labels), 80, round(100 * crop_s))
    n_frames = torch.full((len(labels),), features.shape[2])
    nothing = torch.empty(0)  # neither noise nor a teacher
    seconds = []
    before = psutil.Process().memory_info().rss
    for step in range(steps):
        started = time.process_time()
        objective(features, n_frames, labels, nothing, nothing, 0, step, False)["loss"].backward()
        objective.zero_grad()
        seconds.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak GiB": (peak - before) / 2**30, "CPU seconds": min(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speakers", type=int, default=32, help="speakers of the batch, two clips of each")
    parser.add_argument("--crop-s", type=float, default=1.5)
    parser.add_argument("--parts", type=int, nargs="+", default=[32, 16, 8], help="clips at once")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    rows = {}
    for parts in [None, *arguments.parts]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows[parts or "all"] = pool.submit(measure, arguments.speakers, arguments.crop_s, parts, arguments.steps).result()
    table = pd.DataFrame(rows).T.rename_axis("clips at once")
    table["memory / all"] = table["peak GiB"] / table.loc["all", "peak GiB"]
    table["time / all"] = table["CPU seconds"] / table.loc["all", "CPU seconds"]
    print(f"{4 * arguments.speakers} clips and views of {arguments.crop_s} s\n{table.round(2).to_string()}")


if __name__ == "__main__":
    main()
