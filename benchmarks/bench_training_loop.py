"""Does training wait for its data? Steps on batches that are there already, read from memory, and read from disk.

    python -m benchmarks.bench_training_loop
    python -m benchmarks.bench_training_loop --speakers 8 --steps 9 --profile
    python -m benchmarks.bench_training_loop --speakers 96 --steps 20 --reading --speeds 0.9 1.0 1.1

The store is random features in the form of a real one, the recipe is recipes/default with random weights. The kinds of batches
take turns, step by step, so that what else the machine does slows each alike. With --reading nothing is learned: it says what it
takes to read a clip, and so how fast a device may learn before it waits for one reader. `device` is read as where features are in
a GPU's memory, but here by the processor, which does the GPU's part too; `host` is the same without that part (on the device
"meta", where PyTorch computes nothing).
With --profile the last table is torch.profiler's, over the steps that read from memory.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ruamel.yaml import YAML

from speakerprint.corpora.feature_store import FeatureStore, create_store, seal, shard_bounds, write_shard
from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.model.speaker_model import SpeakerModel, native_bf16
from speakerprint.params.presets import read_recipe
from speakerprint.params.whole import parse_params
from speakerprint.training import batches as making
from speakerprint.training import data as holding
from speakerprint.training.batches import Batch, CropBatches, Reader, read_ahead
from speakerprint.training.data import Examples, TrainingSet
from speakerprint.training.device_batches import DeviceFrames, DeviceReader
from speakerprint.training.objective import Objective
from speakerprint.training.optimiser import make_optimiser
from speakerprint.training.recipe import Recipe, without_recorded_noise
from speakerprint.training.streams import Streams

PROJECT = Path(__file__).parents[1]
RECORDINGS = 6  # of each speaker


def default_recipe(**train: Any) -> Recipe:
    """recipes/default without recorded noise, with some keys of its section `train` changed."""
    params = parse_params(YAML(typ="safe").load(PROJECT / "params.yaml") | read_recipe("default"))
    sections = {name: getattr(params, name) for name in Recipe.__annotations__}
    sections["augmentation"] = without_recorded_noise(params.augmentation)
    return Recipe(**{**sections, "train": params.train.model_copy(update=train)})


def write_store(folder: Path, speakers: int) -> Path:
    """Recordings of 3 to 8 s, in the order of their speakers."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(300, 800, size=speakers * RECORDINGS)
    offsets = np.concatenate([[0], lengths.cumsum()])
    speaker_ids = [f"{i // RECORDINGS:06}" for i in range(len(lengths))]
    create_store(folder, offsets, speaker_ids, ["female"] * len(lengths), {})
    for start, end in shard_bounds(int(offsets[-1])):
        write_shard(folder, start, rng.normal(scale=0.5, size=(end - start, 80)).astype(np.float16))
    rows = pd.DataFrame({"recording_id": [f"{i:06}" for i in range(len(lengths))], "location": "none", "gender": "female"})
    rows["speaker_id"] = speaker_ids
    write_recordings(as_recordings(rows, "benchmark"), folder / "recordings.parquet")
    seal(folder)
    return folder


def crops(folder: Path, recipe: Recipe, kind: str) -> CropBatches:
    """Batches read from `memory`, from `disk`, or as from the memory of a `device`; of these the `host`'s part alone."""
    holding.IN_MEMORY_BYTES = 0 if kind == "disk" else 4 << 30
    data = TrainingSet({"benchmark": FeatureStore(folder)})
    examples = Examples.at_speeds(data, np.arange(len(data.speaker_ids)), recipe.sampling.speeds)
    reader = Reader(examples, None, Streams(recipe.train.seed))
    if kind in ("device", "host"):
        frames = DeviceFrames.of(data, torch.device("cpu" if kind == "device" else "meta"))
        reader = DeviceReader(examples, None, reader.streams, frames)
    return CropBatches(reader, recipe)


class Loop:
    """The training loop's step, its parts timed."""

    def __init__(self, recipe: Recipe, speakers: int):
        torch.manual_seed(0)
        self.objective = Objective(SpeakerModel(recipe.model), speakers, recipe)
        self.optimiser = make_optimiser(self.objective, recipe.train)
        self.bf16 = native_bf16()
        self.seconds = dict.fromkeys(("data", "augmentation", "forward", "backward", "optimiser"), 0.0)
        augment = making.augment

        def timed(*arguments: Any) -> torch.Tensor:
            started = time.perf_counter()
            augmented = augment(*arguments)
            self.seconds["augmentation"] += time.perf_counter() - started
            return augmented

        making.augment = timed  # type: ignore[assignment]

    def step(self, feed: Iterator[Batch]) -> float:
        """Take a batch and learn from it: the seconds of both."""
        marks = [time.perf_counter()]
        augmented = self.seconds["augmentation"]
        batch = next(feed)
        marks.append(time.perf_counter())
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.objective(batch, 0)["loss"]
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 5.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        marks.append(time.perf_counter())
        for name, seconds in zip(("data", "forward", "backward", "optimiser"), np.diff(marks), strict=True):
            self.seconds[name] += seconds
        self.seconds["forward"] -= self.seconds["augmentation"] - augmented
        return marks[-1] - marks[0]


def reading(folder: Path, recipe: Recipe, rounds: int) -> pd.DataFrame:
    """What reading takes of the processor, in milliseconds: the median of some batches, each read in every way in turn."""
    kinds = ("memory", "disk", "device", "host")
    batches = {kind: crops(folder, recipe, kind) for kind in kinds}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind, one in batches.items():
            started = time.process_time()
            n_clips = len(one[number])
            taken[kind].append(1000 * (time.process_time() - started))
    table = pd.DataFrame({"CPU ms to read a batch": {kind: np.median(values[1:]) for kind, values in taken.items()}})
    table["a clip"] = table.iloc[:, 0] / n_clips
    table["memory / this"] = table.iloc[0, 0] / table.iloc[:, 0]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speakers", type=int, default=32, help="speakers of a batch")
    parser.add_argument("--steps", type=int, default=10, help="of each kind")
    parser.add_argument("--speeds", nargs="+", type=float, default=[1.0], help="times as fast as recorded")
    parser.add_argument("--profile", action="store_true", help="where the time goes, too")
    parser.add_argument("--reading", action="store_true", help="read, and learn nothing")
    arguments = parser.parse_args()
    recipe = default_recipe(steps=10 * arguments.steps)
    drawn = {"speakers": arguments.speakers, "speeds": arguments.speeds}
    recipe = replace(recipe, sampling=recipe.sampling.model_copy(update=drawn))
    numbers, device = range(1, 2 + arguments.steps), torch.device("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_store(Path(temporary), 4 * arguments.speakers)
        print(reading(folder, recipe, arguments.steps).round(3).to_string())
        if arguments.reading:
            return
        batches = {name: crops(folder, recipe, name) for name in ("memory", "disk")}
        feeds: dict[str, Iterator[Batch]] = {"there already": cycle([batches["memory"][number] for number in numbers])}
        feeds |= {name: read_ahead(one, numbers, name == "memory", device) for name, one in batches.items()}
        loop = Loop(recipe, batches["disk"].reader.examples.n_speakers)
        for feed in feeds.values():
            loop.step(feed)  # the first of each starts its readers
        loop.seconds = dict.fromkeys(loop.seconds, 0.0)
        seconds: dict[str, list[float]] = {name: [] for name in feeds}
        waited: dict[str, float] = dict.fromkeys(feeds, 0.0)
        for _ in numbers[1:]:
            for name, feed in feeds.items():
                before = loop.seconds["data"]
                seconds[name].append(loop.step(feed))
                waited[name] += loop.seconds["data"] - before
        table = pd.DataFrame({"seconds a step": {name: np.median(values) for name, values in seconds.items()}})
        table["of them waited"] = pd.Series(waited) / arguments.steps
        table["step / step on batches there"] = table["seconds a step"] / table["seconds a step"].iloc[0]
        table["1 + waited / rest"] = 1 + table["of them waited"] / (table["seconds a step"] - table["of them waited"])
        print(f"\n{table.round(3).to_string()}")
        shares = pd.Series(loop.seconds) / sum(loop.seconds.values())
        print(f"\nshares of all steps: {', '.join(f'{name} {share:.1%}' for name, share in shares.items())}")
        if arguments.profile:
            feed = read_ahead(batches["memory"], numbers, True, device)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                for _ in range(min(3, arguments.steps)):
                    loop.step(feed)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=10, max_name_column_width=50))


if __name__ == "__main__":
    main()
