"""What the tests of training build on: a store of random clips, and trainings of seconds on a random one-layer encoder."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from speakerprint.corpora.feature_store import FeatureStore, create_store, seal, write_shard
from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.params.whole import load_params
from speakerprint.training.batches import Reader
from speakerprint.training.data import Examples, Stores, TrainingSet
from speakerprint.training.loop import train
from speakerprint.training.recipe import Recipe
from speakerprint.training.streams import Streams
from speakerprint.training.teacher import TEACHER_PATH, write_teacher

ROOT = Path(__file__).resolve().parents[2]


def write_store(folder: Path, speakers: int = 8, recordings: int = 4, seed: int = 0) -> Path:
    """A store of random clips in which a speaker is a spectral envelope."""
    rng = np.random.default_rng(seed)
    envelopes = rng.normal(size=(speakers, 80)) * 0.5
    lengths = rng.integers(60, 120, size=speakers * recordings)
    clips = [envelopes[i // recordings] + 0.2 * rng.normal(size=(n, 80)) + 0.3 * rng.normal() for i, n in enumerate(lengths)]
    rows = pd.DataFrame(
        {
            "recording_id": [f"clip{i:03d}" for i in range(len(clips))],
            "speaker_id": [f"speaker{i // recordings}" for i in range(len(clips))],
            "gender": [("female", "male")[i // recordings % 2] for i in range(len(clips))],
            "location": [f"clips/{i}.mp3" for i in range(len(clips))],
        }
    )
    create_store(folder, np.cumsum([0, *map(len, clips)]), rows["speaker_id"], rows["gender"], {})
    write_shard(folder, 0, np.concatenate(clips).astype(np.float16))
    write_recordings(as_recordings(rows, "test"), folder / "recordings.parquet")
    seal(folder)
    return folder


@dataclass
class Run:
    """A training in a temporary folder, on a random one-layer encoder."""

    folder: Path
    recipe: Recipe
    teacher: str | Path = TEACHER_PATH

    def __call__(
        self,
        name: str = "run",
        *,
        unlabelled: dict[str, Path] | None = None,
        noise: dict[str, Path] | None = None,
        **train_settings,
    ) -> dict[str, torch.Tensor]:
        recipe = replace(self.recipe, train=self.recipe.train.model_copy(update=train_settings))
        out = self.folder / name
        stores = Stores({"a": self.folder / "a"}, unlabelled or {}, noise or {})
        train(stores, recipe, out / "model", out / "log", out / "checkpoint", self.teacher)
        return load_file(out / "model/model.safetensors")


def with_teacher(recipe: Recipe, **loss: float) -> Recipe:
    """The recipe with a weight for each of the teacher's losses, and these settings of the loss."""
    weights = {"teacher_match_weight": 1.0, "teacher_similarity_weight": 1.0}
    return replace(recipe, loss=recipe.loss.model_copy(update=weights | loss))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def teach(run: Run, recordings: int = 32, teacher: str = "aunt", dim: int = 6) -> Path:
    """A teacher's embeddings of the first recordings of the store: each speaker's own direction, and a little noise."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(8, dim)).repeat(4, axis=0) + 0.05 * rng.normal(size=(32, dim))
    folder = run.folder / "teacher"
    write_teacher(
        folder / teacher / "a.parquet", [f"clip{i:03d}" for i in range(recordings)], rows[:recordings].astype(np.float32)
    )
    return folder


def tiny_recipe() -> Recipe:
    """The shipped recipe, cut to one layer and six steps on speakers of write_store."""
    params = load_params(ROOT / "params.yaml")
    of_training = {
        "steps": 6,
        "crop_s": 0.5,
        "mixed_precision": "no",
        "validate_every_steps": 2,
        "checkpoint_every_steps": 100,  # each takes as long as a step
        "validation_speakers": 0.25,
        "warmup_steps": 1,
    }
    return Recipe(
        model=params.model.model_copy(update={"layers": 1, "embedding_dim": 8}),
        loss=params.loss,
        sampling=params.sampling.model_copy(update={"speakers": 3, "utterances": 2, "unlabelled": 3, "speeds": [1.0]}),
        augmentation=params.augmentation,
        discriminant=params.discriminant,
        train=params.train.model_copy(update=of_training),
    )


def training_set(run: Run) -> TrainingSet:
    """The recordings of the run's store."""
    return TrainingSet({"a": FeatureStore(run.folder / "a")})


def reader(run: Run, speeds: tuple[float, ...] = (1.0,), seed: int = 1) -> Reader:
    """A reader of all of the run's recordings."""
    data = training_set(run)
    return Reader(Examples.at_speeds(data, np.arange(len(data.speaker_ids)), list(speeds)), None, Streams(seed))


def curve(run: Run, name: str, of: str = "train/loss") -> pd.Series:
    """The values of a curve of the run's training `name`."""
    return pd.read_csv(run.folder / name / f"log/plots/metrics/{of}.tsv", sep="\t").iloc[:, -1]
