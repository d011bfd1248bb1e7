"""The training loop: batches of crops, the losses, validation on held-out speakers, checkpoints a killed run resumes from.

Every random choice follows from the seed and the number of the step, so a resumed run makes the same choices as one left alone.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, gather
from dvclive import Live
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND, MAX_FRAMES, N_MELS
from speakerprint.audio.log_mel import pad_batch
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.evaluation.trials import equal_error_rate
from speakerprint.model.speaker_model import DiscriminantProjection, SpeakerModel, native_bf16
from speakerprint.model.whisper import ENCODER_PATH, load_encoder
from speakerprint.params.augmentation import Augmentation, AugmentationKind
from speakerprint.params.loss import Loss
from speakerprint.params.model import Model
from speakerprint.params.sampling import Sampling
from speakerprint.params.section import Section
from speakerprint.params.train import Discriminant, Train
from speakerprint.training.discriminant import SpeakerScatter
from speakerprint.training.losses import (
    AngularMargin,
    TeacherMatch,
    batch_hard_triplet,
    ntxent,
    supervised_contrastive,
    teacher_similarity,
)
from speakerprint.training.sampling import SpeakerBatches
from speakerprint.training.split import n_held_out, refuse_too_few_speakers
from speakerprint.training.teacher import TEACHER_PATH, read_teacher
from speakerprint.training.views import augment, change_speed

BYTES_PER_FRAME = N_MELS * 2  # float16
LOG_EVERY_STEPS = 10
SAVE_EVERY_S = 60.0  # of the discriminant analysis before training
VALIDATION_BATCH = 64
READERS = max(2, min(8, (os.cpu_count() or 1) // 2))  # processes that read what is not in memory
IN_MEMORY_BYTES = 4 << 30  # features of corpora smaller than this are read once, larger ones as batches need them


@dataclass(frozen=True)
class Recipe:
    """The sections of params.yaml that decide what is learned."""

    model: Model
    loss: Loss
    sampling: Sampling
    augmentation: Augmentation
    discriminant: Discriminant
    train: Train

    def sections(self) -> dict[str, Section]:
        return vars(self)


class TrainingSet:
    """The recordings of several feature stores as one; speakers of different corpora are different speakers."""

    def __init__(self, stores: dict[str, FeatureStore]):
        self.stores = list(stores.values())
        self.ends = np.cumsum([len(store) for store in self.stores])
        self.speaker_ids = np.concatenate(
            [[f"{name}/{speaker}" for speaker in store.speaker_ids] for name, store in stores.items()]
        )
        self.corpora = np.repeat(list(stores), [len(store) for store in self.stores])
        self.genders = np.concatenate([store.genders for store in self.stores])
        self.locales = np.concatenate([store.recordings["locale"].to_numpy(dtype=object) for store in self.stores])
        self.in_memory = sum(int(store.n_frames.sum()) for store in self.stores) * BYTES_PER_FRAME <= IN_MEMORY_BYTES
        if self.in_memory:
            for store in self.stores:
                store.load()
        self.taught = np.zeros((1, len(self.speaker_ids), 0), np.float32)  # of a teacher, if there is one

    def take_teacher(self, folder: str | Path, speeds: list[float]) -> None:
        """Have in `taught`, (speeds, recordings, dim), what read_teacher finds in the folder. Raises InputError as it does."""
        ids = [store.recordings["recording_id"].tolist() for store in self.stores]
        self.taught = read_teacher(folder, dict(zip(dict.fromkeys(self.corpora), ids, strict=True)), speeds)

    def crop(self, index: int, n_frames: int, position: float) -> np.ndarray:
        """`n_frames` frames of a recording, (frames, 80); `position` in [0, 1] places them; shorter recordings come whole."""
        which = int(np.searchsorted(self.ends, index, side="right"))
        store, index = self.stores[which], int(index - (self.ends[which - 1] if which else 0))
        start = round(position * max(0, int(store.n_frames[index]) - n_frames))
        return store.frames(index, start, start + n_frames)


class Noise:
    """Recordings of noise, to be mixed into speech."""

    def __init__(self, stores: dict[str, FeatureStore]):
        self.data = TrainingSet(stores)

    def crops(self, n: int, n_frames: int, rng: np.random.Generator) -> np.ndarray:
        """Crops of recordings drawn at random, (n, 80, n_frames) float32; one that is too short is repeated."""
        positions = zip(rng.integers(len(self.data.speaker_ids), size=n), rng.random(n), strict=True)
        crops = [self.data.crop(int(index), n_frames, position) for index, position in positions]
        return np.stack([np.resize(crop, (n_frames, crop.shape[1])).T for crop in crops]).astype(np.float32)


@dataclass(frozen=True)
class Examples:
    """What is learned from: recordings at one or several speeds, where a speaker at another speed is another speaker.

    recordings (n,): indices of the training set. speeds (n,): how many times as fast each is played. labels (n,): its speaker.
    taught (n, dim): what a teacher heard in it at that speed, or 0; without a teacher, dim is 0.
    """

    recordings: np.ndarray
    speeds: np.ndarray
    labels: np.ndarray
    taught: np.ndarray

    @classmethod
    def at_speeds(cls, data: TrainingSet, recordings: np.ndarray, speeds: list[float]) -> "Examples":
        """Each of the recordings at each of the speeds; labels count from 0, those of the first speed first."""
        speakers, labels = np.unique(data.speaker_ids[recordings], return_inverse=True)
        taught = np.broadcast_to(data.taught, (len(speeds), *data.taught.shape[1:]))
        return cls(
            np.tile(recordings, len(speeds)),
            np.repeat(np.array(speeds), len(recordings)),
            np.concatenate([labels + len(speakers) * place for place in range(len(speeds))]),
            taught[:, recordings].reshape(len(speeds) * len(recordings), taught.shape[-1]),
        )

    @property
    def n_speakers(self) -> int:
        return int(self.labels.max()) + 1

    def crop(self, data: TrainingSet, example: int, n_frames: int, position: float) -> np.ndarray:
        """`n_frames` frames of an example as it is heard, (frames, 80), placed as TrainingSet.crop does."""
        speed = float(self.speeds[example])
        crop = data.crop(self.recordings[example], round(n_frames * speed), position)
        return crop if speed == 1 else change_speed(crop, speed)


def crop_frames(settings: Train, step: int) -> int:
    """How long the crops of an optimiser step are, in frames.

    They grow evenly from `crop_s` to `last_crop_s`, or, with `crop_lengths` random, each step draws a length between the two.
    """
    last_s = settings.last_crop_s or settings.crop_s
    if settings.crop_lengths == "random":
        share = np.random.default_rng([settings.seed, step, 3]).random()
    else:
        share = min(1.0, step / max(1, settings.steps - 1))
    return round((settings.crop_s + (last_s - settings.crop_s) * share) * FRAMES_PER_SECOND)


class CropBatches(Dataset):
    """Batch `i` of random crops: features (batch, 80, frames) float32, valid frames (batch,), speaker labels (batch,), noise,
    what a teacher heard in the recordings (batch, its dim), and whether some frames are padding.

    `per_step` batches make an optimiser step. The noise has the features' shape; without a noise corpus it is empty.
    """

    def __init__(self, data: TrainingSet, noise: Noise | None, examples: Examples, recipe: Recipe, per_step: int):
        self.data, self.noise, self.examples = data, noise, examples
        self.settings, self.per_step, self.seed = recipe.train, per_step, recipe.train.seed
        self.batches = SpeakerBatches(examples.labels, data.locales[examples.recordings], recipe.sampling, recipe.train.seed)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]:
        chosen = self.batches.batch(number)
        positions = np.zeros(len(chosen))
        if self.settings.crop_position == "random":
            positions = np.random.default_rng([self.seed, number, 1]).random(len(chosen))
        n_frames = crop_frames(self.settings, number // self.per_step)
        pairs = zip(chosen, positions, strict=True)
        features, mask = pad_batch([self.examples.crop(self.data, example, n_frames, position) for example, position in pairs])
        noise = np.empty(0, np.float32)
        if self.noise is not None:
            noise = self.noise.crops(len(chosen), features.shape[2], np.random.default_rng([self.seed, number, 2]))
        lengths, labels = torch.from_numpy(mask.sum(axis=1)), torch.from_numpy(self.examples.labels[chosen])
        taught = torch.from_numpy(self.examples.taught[chosen])
        return torch.from_numpy(features), lengths, labels, torch.from_numpy(noise), taught, not mask.all()


def read_ahead(
    batches: CropBatches, numbers: range, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]]:
    """The numbered batches, each read while those before it are learned from: by a thread from memory, by processes from disk."""
    in_memory = batches.data.in_memory
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=0 if in_memory else READERS,
        multiprocessing_context=None if in_memory else "spawn",
        pin_memory=device.type == "cuda",
    )
    return ahead(loader)


def ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """The same batches, each made by a thread while the one before it is learned from."""
    waiting = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, waiting, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, waiting, None)
            yield batch


def place() -> tuple[int, int]:
    """Which of the processes that train together this one is, from 0, and how many they are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gathered(own: Tensor) -> Tensor:
    """The embeddings of all processes, (views, batch, dim), of this one's, (views, batch / processes, dim).

    Each process has the whole batch's losses, so the gradient of its own embeddings is known to it alone. It is multiplied by the
    number of processes, because DistributedDataParallel gives the parameters the mean over processes where the sum is meant.
    """
    rank, processes = place()
    if processes == 1:
        return own
    parts = list(gather(own.detach()[None].contiguous()))
    parts[rank] = parts[rank] + processes * (own - own.detach())
    return torch.cat(parts, dim=1)


class Objective(nn.Module):
    """The model and the weighted sum of its losses on a batch.

    Under `accelerate launch` each process embeds its share of the batch's speakers, and all have the losses of the whole batch.
    """

    def __init__(self, model: SpeakerModel, speakers: int, recipe: Recipe, teacher_dim: int = 0):
        super().__init__()
        self.model, self.recipe = model, recipe
        loss = recipe.loss
        self.angular_margin = AngularMargin(speakers, recipe.model.embedding_dim, loss.angular_margin_scale)
        self.teacher_match = TeacherMatch(recipe.model.embedding_dim, teacher_dim) if loss.teacher_match_weight else None

    def forward(
        self,
        features: Tensor,
        n_frames: Tensor,
        labels: Tensor,
        noise: Tensor,
        taught: Tensor,
        step: int,
        seed: int,
        padded: bool,
    ) -> dict[str, Tensor]:
        """The losses of a batch, each a scalar: `loss` is the weighted sum, the others have a weight above 0.

        features: (batch, 80, frames). n_frames, labels: (batch,). noise, taught: as CropBatches gives them. seed: of the
        augmentations.
        padded: whether some clip is shorter than the others; told, because an accelerator would have to be waited for to ask.
        """
        loss, augmentation = self.recipe.loss, self.recipe.augmentation
        generator = torch.Generator(features.device).manual_seed(seed)
        chooser = generator if features.device.type == "cpu" else torch.Generator().manual_seed(seed)

        def augmented(clips: Tensor, kinds: list[AugmentationKind], count: int, settings: Augmentation) -> Tensor:
            of_speaker = self.recipe.sampling.utterances
            return augment(clips, n_frames, kinds, count, settings, generator, noise, chooser, of_speaker)

        triplet, drawn = augmentation.triplet, augmentation.ntxent
        views = [augmented(features, triplet.kinds, triplet.kinds_per_clip, augmentation.for_triplet())]
        if loss.ntxent_weight:  # views of the clips as the triplet loss sees them
            views += [augmented(views[0], drawn.kinds, drawn.kinds_per_view, augmentation) for _ in range(drawn.views)]
        rank, processes = place()
        share = len(labels) // processes
        own = slice(rank * share, (rank + 1) * share)
        lengths = n_frames[own].repeat(len(views)) if padded else None
        embeddings = gathered(self.model(torch.cat([view[own] for view in views]), lengths).unflatten(0, (len(views), -1)))

        terms = {}
        with torch.autocast(features.device.type, enabled=False):  # 8 bits are too few for distances of near neighbours
            every, speaker = embeddings.flatten(0, 1), labels.repeat(len(embeddings))  # a view counts as a clip of its speaker
            if loss.triplet_weight:
                terms["triplet"] = batch_hard_triplet(embeddings[0], labels, loss.triplet_margin)
            if loss.ntxent_weight:
                terms["ntxent"] = ntxent(embeddings, loss.ntxent_temperature)
            if loss.supervised_contrastive_weight:
                terms["supervised_contrastive"] = supervised_contrastive(every, speaker, loss.supervised_contrastive_temperature)
            if loss.angular_margin_weight:
                margin = loss.angular_margin * min(1.0, step / max(1, loss.angular_margin_warmup_steps))
                terms["angular_margin"] = self.angular_margin(every, speaker, margin)
            if self.teacher_match is not None:
                terms["teacher_match"] = self.teacher_match(embeddings, taught)
            if loss.teacher_similarity_weight:
                terms["teacher_similarity"] = teacher_similarity(embeddings, taught)
        total = torch.stack([getattr(loss, f"{name}_weight") * value for name, value in terms.items()]).sum()
        return {"loss": total, **terms}


def held_out_speakers(speaker_ids: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """The training speakers kept for validation, in random order: a seeded draw, at least two (none for a fraction of 0)."""
    speakers = np.unique(speaker_ids)
    return np.random.default_rng(seed).permutation(speakers)[: n_held_out(len(speakers), fraction)]


def spread_over_speakers(speaker_ids: np.ndarray, limit: int) -> np.ndarray:
    """Indices of at most `limit` recordings: the first of each speaker, then the second of each, and so on."""
    _, labels = np.unique(speaker_ids, return_inverse=True)
    turn = np.zeros(len(labels), dtype=np.int64)
    for speaker in range(labels.max(initial=-1) + 1):
        own = np.flatnonzero(labels == speaker)
        turn[own] = np.arange(len(own))
    return np.sort(np.lexsort((labels, turn))[:limit])


def schedule(step: int, start: int, warmup_steps: int, steps: int | None) -> float:
    """Fraction of the peak learning rate: linear warm-up from step `start` on, then a half cosine down to 0 at `steps`.

    Where `steps` is None, it stays at its peak after the warm-up.
    """
    done = step - start
    if done < 0:
        return 0.0
    if done < warmup_steps:
        return (done + 1) / warmup_steps
    if steps is None:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (done - warmup_steps) / max(1, steps - start - warmup_steps)))


def embed_crops(model: SpeakerModel, crops: Iterable[np.ndarray]) -> np.ndarray:
    """Embeddings of crops, each (frames, 80), in `eval` mode: (crops, dim); the model is left in `train` mode.

    Crops of about one length are embedded together, so that little is padded.
    """
    model.eval()
    waiting, embeddings = iter(crops), []
    for block in iter(lambda: list(islice(waiting, 16 * VALIDATION_BATCH)), []):
        order = np.argsort([len(crop) for crop in block], kind="stable")
        together = np.split(order, range(VALIDATION_BATCH, len(order), VALIDATION_BATCH))
        rows = np.concatenate([model.embed_frames([block[i] for i in batch]) for batch in together])
        embeddings.append(rows[order.argsort()])
    model.train()
    return np.concatenate(embeddings)


def one_trial(speaker_ids: np.ndarray) -> float:
    """What one target trial is of all: an EER over all pairs of these recordings cannot tell less."""
    _, counts = np.unique(speaker_ids, return_counts=True)
    return 1 / max(1, int((counts * (counts - 1)).sum()) // 2)


def validate(model: SpeakerModel, data: TrainingSet, recordings: np.ndarray, n_frames: int) -> float:
    """EER over all pairs of the validation recordings' central crops."""
    crops = (data.crop(index, n_frames, 0.5) for index in recordings)
    return equal_error_rate(embed_crops(model, crops), data.speaker_ids[recordings])


def fingerprint(recipe: Recipe, features: dict[str, Path], taught: np.ndarray) -> str:
    """Digest of what decides a run: params, the code that is loaded, data. A run resumes only from a checkpoint with the same."""
    decided = {name: section.model_dump() for name, section in recipe.sections().items()}
    digest = hashlib.sha256(json.dumps(decided).encode())
    digest.update(taught.tobytes())
    for module in sorted(name for name in sys.modules if name.startswith("speakerprint.")):
        digest.update(Path(sys.modules[module].__file__ or "").read_bytes())
    for name, folder in features.items():
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{name} {path.relative_to(folder)} {path.stat().st_size}".encode())
        digest.update((folder / "recordings.parquet").read_bytes())
    return digest.hexdigest()


class Checkpoint:
    """What a killed run resumes from: one file, replaced as a whole; ignored if it belongs to another run."""

    def __init__(self, folder: Path, run: str):
        self.path, self.run = folder / "checkpoint.pt", run

    def load(self) -> dict[str, Any] | None:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # a file cut short by a full disk or a crash: torch raises many kinds
            print(f"{self.path} cannot be read ({error}): training starts from the beginning")
            return None
        return state if state["run"] == self.run else None

    def save(self, **state: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save({"run": self.run, **state}, part)
        part.replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass
class Progress:
    """How far a run has come: everything beside weights and optimiser that a resumed run needs."""

    step: int = 0  # optimiser steps done
    history: list[dict[str, float]] = field(default_factory=list)  # rows of the curves
    recent: list[dict[str, Tensor]] = field(default_factory=list)  # losses since the last row
    best_eer: float = math.inf
    kept_eer: float = math.inf
    kept_step: int = 0
    kept_model: dict[str, Tensor] | None = None
    validations_without_gain: int = 0

    def judge(self, eer: float, model: nn.Module, resolution: float) -> None:
        """Keep a copy of the model unless an earlier step's validation EER is lower by at least the resolution.

        So of steps that validation cannot tell apart the last is kept. resolution: the least difference of EERs that counts.
        """
        self.validations_without_gain = 0 if eer < self.best_eer else self.validations_without_gain + 1
        if eer < self.best_eer + resolution:
            self.kept_eer, self.kept_step, self.kept_model = eer, self.step, copy_of_weights(model)
        self.best_eer = min(self.best_eer, eer)

    def verdict(self) -> str:
        """Which step's weights validation chose, in words."""
        kept = f"kept: step {self.kept_step}, whose validation EER is {self.kept_eer:.4f}"
        if self.kept_step == 0 < self.step:
            return f"{kept}: the start, for every later step came out worse, so training changed nothing"
        return kept


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers by name, on the CPU, as they are now."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


@contextmanager
def averaged_with_start(model: SpeakerModel, start: dict[str, Tensor], start_weight: float) -> Iterator[None]:
    """Inside the block, each weight of the model is the mean of what it was at the start and what training has made of it.

    Wortsman et al.: "Robust Fine-Tuning of Zero-Shot Models", 2022, section 3: what the start knew and little data would undo is
    kept, and what training found is too. start_weight: the start's share of the mean; a count of batches is not averaged.
    """
    if start_weight == 0:
        yield
        return
    found = copy_of_weights(model)
    mixed = {
        name: tensor.lerp(start[name], start_weight) if tensor.is_floating_point() else tensor for name, tensor in found.items()
    }
    model.load_state_dict(mixed)
    try:
        yield
    finally:
        model.load_state_dict(found)


def split_recordings(data: TrainingSet, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the recordings to train on, and of those to validate on (none of their speakers is trained on).

    At most `train.validation_max_recordings` are validated on, from no more than a quarter as many speakers.
    Raises InputError if either set is of no use.
    """
    settings = recipe.train
    names = dict.fromkeys(data.corpora)
    found = {name: np.unique(data.speaker_ids[data.corpora == name], return_counts=True)[1] for name in names}
    refuse_too_few_speakers(found, recipe.sampling.speakers, recipe.sampling.speeds, settings.validation_speakers)
    held_out = held_out_speakers(data.speaker_ids, settings.validation_speakers, settings.seed)
    training = np.flatnonzero(~np.isin(data.speaker_ids, held_out))
    limit = settings.validation_max_recordings
    validation = np.flatnonzero(np.isin(data.speaker_ids, held_out[: max(2, limit // 4)]))
    validation = validation[spread_over_speakers(data.speaker_ids[validation], limit)]
    if len(held_out) and len(np.unique(data.speaker_ids[validation])) == len(validation):
        raise InputError(
            f"the {len(validation)} recordings to validate on are of as many speakers, so no two are of one speaker; raise "
            "filter.min_recordings_per_speaker or train.validation_max_recordings, or set train.validation_speakers to 0"
        )
    return training, validation


def make_optimiser(objective: Objective, settings: Train) -> torch.optim.AdamW:
    """AdamW with a group for each encoder layer, from the bottom, and one for all else.

    A group has its peak learning rate and the step it starts at.
    """
    encoder = objective.model.encoder
    of_encoder = {id(parameter) for parameter in encoder.parameters()}
    others = [parameter for parameter in objective.parameters() if id(parameter) not in of_encoder]
    groups = []
    for depth in range(len(encoder.layers) + 1):  # 0: what lies below the layers
        own = [parameter for name, parameter in encoder.named_parameters() if depth_of(name, len(encoder.layers)) == depth]
        peak = settings.encoder_learning_rate * settings.encoder_layer_decay ** (len(encoder.layers) - depth)
        groups.append({"params": own, "peak": peak, "start": settings.freeze_encoder_steps})
    groups.append({"params": others, "peak": settings.head_learning_rate, "start": 0})
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=settings.weight_decay)


def depth_of(name: str, layers: int) -> int:
    """Which encoder layer, from 1, a parameter of that name is of; 0 below them all, and the last one for what lies above it."""
    if match := re.match(r"layers\.(\d+)\.", name):
        return int(match[1]) + 1
    return layers if name.startswith("layer_norm") else 0


def log_row(live: Live | None, row: dict[str, float]) -> None:
    """Add a row of numbers to the curves; `step` says where. Only the main process has curves."""
    if live is None:
        return
    live.step = int(row["step"])
    for name, value in row.items():
        if name != "step":
            live.log_metric(name, value)
    live.make_summary()


def initial_model(settings: Model, init_from: str | Path, new_head: bool = False) -> SpeakerModel:
    """A new model on Whisper's encoder (a file), or a trained one (a folder) to go on from, or to take the encoder of.

    new_head: of a trained model take the encoder alone. Raises InputError if there is no such model, if one whose head is kept is
    not of the kind that the settings describe, and if further layers are wanted and Whisper's encoder is not there.
    """
    if not Path(init_from).is_dir():
        model = SpeakerModel(settings)
        model.encoder.load_state_dict(load_encoder(init_from, settings.layers).state_dict())
        return model
    model = SpeakerModel.load(init_from)
    if new_head:
        return with_new_head(settings, model)
    ours, theirs = settings.model_dump(), model.settings.model_dump()
    weighty = ours.keys() - {"window_s"}
    differ = [
        f"model.{key} is {ours[key]}, but there {theirs[key]}" for key in ours if key in weighty and ours[key] != theirs[key]
    ]
    if differ:
        raise InputError(
            f"train.init_from is {init_from}, a model of another kind: {'; '.join(differ)}; make them equal, or set "
            "train.new_head to true, to take only its encoder"
        )
    model.settings = settings
    return model


def with_new_head(settings: Model, trained: SpeakerModel) -> SpeakerModel:
    """A new model on the encoder of a trained one, whose layers stand in place of Whisper's lowest; Whisper's others follow.

    Raises InputError if there are others and Whisper's encoder is not there.
    """
    model = SpeakerModel(settings)
    if settings.layers > trained.settings.layers:
        model.encoder.load_state_dict(load_encoder(ENCODER_PATH, settings.layers).state_dict())
    kept = trained.encoder.state_dict()
    model.encoder.load_state_dict({name: kept.get(name, weight) for name, weight in model.encoder.state_dict().items()})
    return model


@torch.inference_mode()
def start_from_discriminant(
    objective: Objective, data: TrainingSet, noise: Noise | None, examples: Examples, state: Path
) -> None:
    """Set the projection to the linear discriminant analysis of the pooled statistics, and the speakers' centres to their means.

    The statistics are those of a central crop of each recording and of augmented ones, placed at random. Of a speaker at another
    speed one recording is taken: enough to know where the centre is. A centre is the embedding of the speaker's mean statistics.
    The processes share the batches. What each has taken in is saved every SAVE_EVERY_S to ``state``, whose name gains the
    process's number; a killed run goes on from there. Raises InputError if no speaker has two recordings.
    """
    model, recipe = objective.model.eval(), objective.recipe
    assert isinstance(model.projection, DiscriminantProjection)
    rank, processes = place()
    state = state.with_name(f"{state.name}-{rank}-of-{processes}.pt")
    batches = _start_batches(examples, recipe)
    rows_of_speaker = np.bincount(
        np.concatenate([examples.labels[chosen] for _, chosen in batches]), minlength=examples.n_speakers
    )
    scatter = SpeakerScatter(rows_of_speaker, len(model.projection.mean), next(model.parameters()).device)
    done = _load_start(state, scatter)
    saved = time.monotonic()
    mine = range(rank, len(batches), processes)
    with tqdm(
        total=len(batches), initial=done, desc="discriminant analysis", unit="batch", disable=None if rank == 0 else True
    ) as bar:
        for number in mine[done // processes :]:
            view, chosen = batches[number]
            rows = _start_rows(objective, data, noise, examples, view, chosen, number)
            scatter.add(rows, torch.from_numpy(examples.labels[chosen]))
            bar.update(processes)
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save_start(state, scatter, number + processes - rank)
                saved = time.monotonic()
    for values in scatter.state().values():
        if processes > 1:
            dist.all_reduce(values)
    model.projection.start(*scatter.solve(recipe.model.embedding_dim, recipe.discriminant.shrinkage))
    with torch.autocast(objective.angular_margin.centres.device.type, enabled=False):
        means = scatter.means().to(objective.angular_margin.centres.device)
        start_centres(objective, model.project(means), np.arange(len(means)))
    state.unlink(missing_ok=True)
    model.train()


def _start_batches(examples: Examples, recipe: Recipe) -> list[tuple[int, np.ndarray]]:
    """What the discriminant analysis hears: which view (0: the clip itself) of which examples, batch by batch."""
    _, first_of_speaker = np.unique(examples.labels, return_index=True)
    taken = np.union1d(np.flatnonzero(examples.speeds == 1), first_of_speaker)
    # in random order, so that the speech in the background is not the clip's neighbour
    order = np.random.default_rng([recipe.train.seed, 2]).permutation(taken)
    parts = np.split(order, range(VALIDATION_BATCH, len(order), VALIDATION_BATCH))
    return [(view, chosen) for view in range(1 + recipe.discriminant.views) for chosen in parts]


def _start_rows(
    objective: Objective, data: TrainingSet, noise: Noise | None, examples: Examples, view: int, chosen: np.ndarray, number: int
) -> Tensor:
    """The pooled statistics of a batch of crops, (batch, width) float32; what is drawn for it follows from its number."""
    model, recipe = objective.model, objective.recipe
    settings, drawn = recipe.discriminant, recipe.augmentation.ntxent
    n_frames, device = round(settings.crop_s * FRAMES_PER_SECOND), next(model.parameters()).device
    rng = np.random.default_rng([recipe.train.seed, 2, number])
    positions = rng.random(len(chosen)) if view else np.full(len(chosen), 0.5)
    crops = [examples.crop(data, i, n_frames, position) for i, position in zip(chosen, positions, strict=True)]
    padded, mask = pad_batch(crops)
    features, lengths = torch.from_numpy(padded).to(device), torch.from_numpy(mask.sum(axis=1)).to(device)
    if view:
        heard = None if noise is None else noise.crops(len(chosen), features.shape[2], rng)
        background = None if heard is None else torch.from_numpy(heard).to(device)
        generator = torch.Generator(device).manual_seed(recipe.train.seed * 1_000_003 + number)
        features = augment(features, lengths, drawn.kinds, drawn.kinds_per_view, recipe.augmentation, generator, background)
    return model.pool(*model.encode(features, None if mask.all() else lengths)).float()


def _load_start(path: Path, scatter: SpeakerScatter) -> int:
    """Take in what a killed run left; how many batches of all processes that is."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return 0
    except Exception as error:  # a file cut short: torch raises many kinds
        print(f"{path} cannot be read ({error}): the discriminant analysis starts from the beginning")
        return 0
    scatter.load(saved)
    return saved["done"]


def _save_start(path: Path, scatter: SpeakerScatter, done: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(scatter.state() | {"done": done}, part)
    part.replace(path)


@torch.inference_mode()
def start_centres(objective: Objective, embeddings: Tensor, labels: np.ndarray) -> None:
    """Start the angular margin's centre of each speaker at the mean of the speaker's embeddings, (n, dim); labels: (n,)."""
    codes = torch.from_numpy(labels).to(embeddings.device)
    centres = objective.angular_margin.centres
    sums = torch.zeros_like(centres).index_add_(0, codes, embeddings)
    centres.copy_(torch.nn.functional.normalize(sums))


def without_recorded_noise(augmentation: Augmentation) -> Augmentation:
    """The augmentation with `recorded_noise` taken from what is drawn, and as many kinds drawn as before or as are left."""
    ntxent, triplet = augmentation.ntxent, augmentation.triplet
    of_view, of_clip = ([kind for kind in drawn.kinds if kind != "recorded_noise"] for drawn in (ntxent, triplet))
    return augmentation.model_copy(
        update={
            "ntxent": ntxent.model_copy(update={"kinds": of_view, "kinds_per_view": min(ntxent.kinds_per_view, len(of_view))}),
            "triplet": triplet.model_copy(update={"kinds": of_clip, "kinds_per_clip": min(triplet.kinds_per_clip, len(of_clip))}),
        }
    )


def train(
    features: dict[str, Path],
    noises: dict[str, Path],
    recipe: Recipe,
    out: str | Path,
    log: str | Path,
    checkpoints: str | Path,
    teacher: str | Path = TEACHER_PATH,
) -> None:
    """Train a model on the feature stores of the named corpora, with the noise of others mixed in.

    `teacher` is the folder of a teacher's embeddings (see teacher.py), read where one of its losses has a weight.

    Writes the model and the recipe (`params.yaml`) to `out`, the model that it started from to `out`/start, and the curves
    (DVCLive's) to `log` when it is done; until then a checkpoint, the start and the curves so far are in `checkpoints`. Runs
    under `accelerate launch` too: the processes share each batch, and the result is that of one process, but for rounding.

    Raises InputError where the data cannot meet the settings, or the loss is no longer a number.
    """
    settings = recipe.train
    for key in ("crop_s", "last_crop_s"):
        if (getattr(settings, key) or 0) * FRAMES_PER_SECOND > MAX_FRAMES:
            heard_s = MAX_FRAMES / FRAMES_PER_SECOND
            raise InputError(f"train.{key} is {getattr(settings, key)}, but the encoder hears at most {heard_s:.0f} s; lower it")
    window = round(recipe.model.window_s * FRAMES_PER_SECOND)  # as recordings are embedded
    torch.manual_seed(settings.seed)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a frozen encoder's, or those of a loss without weight
    precision = settings.mixed_precision if settings.mixed_precision != "auto" else "bf16" if native_bf16() else "no"
    on_cpu = not torch.accelerator.is_available()  # told, or several processes on CPUs would each train alone
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=[unused])
    accumulation, (_, processes) = settings.gradient_accumulation, place()
    if recipe.sampling.speakers % processes:
        raise InputError(
            f"sampling.speakers is {recipe.sampling.speakers}, which {processes} processes cannot share evenly; make it a "
            "multiple of them, or start another number of processes"
        )

    data = TrainingSet({name: FeatureStore(folder) for name, folder in features.items()})
    if recipe.loss.teacher_match_weight or recipe.loss.teacher_similarity_weight:
        data.take_teacher(teacher, recipe.sampling.speeds)
        for speed, heard in zip(recipe.sampling.speeds, data.taught, strict=True):
            if unheard := int((~heard.any(axis=1)).sum()):
                accelerator.print(
                    f"the teacher has not heard {unheard} of {len(heard)} recordings at speed {speed:g}: it has no say in these"
                )
    noise = Noise({name: FeatureStore(folder) for name, folder in noises.items()}) if noises else None
    run = fingerprint(recipe, features | noises, data.taught)
    if noise is None and "recorded_noise" in [*recipe.augmentation.ntxent.kinds, *recipe.augmentation.triplet.kinds]:
        accelerator.print("no corpus has role: noise, so recorded_noise is not drawn")
        recipe = replace(recipe, augmentation=without_recorded_noise(recipe.augmentation))
    recordings, validation = split_recordings(data, recipe)
    examples = Examples.at_speeds(data, recordings, recipe.sampling.speeds)
    accelerator.print(
        f"training on {len(recordings)} recordings of {len(np.unique(data.speaker_ids[recordings]))} speakers "
        f"at {len(recipe.sampling.speeds)} speeds, "
        f"validating on {len(validation)} recordings of {len(np.unique(data.speaker_ids[validation]))} others"
    )
    if settings.steps <= settings.freeze_encoder_steps and settings.encoder_learning_rate > 0:
        accelerator.print("the encoder stays frozen: train.freeze_encoder_steps is no less than train.steps")
    model = initial_model(recipe.model, settings.init_from, settings.new_head)
    objective = Objective(model, examples.n_speakers, recipe, data.taught.shape[-1])
    optimiser = make_optimiser(objective, settings)

    progress, start = Progress(), {}
    checkpoint = Checkpoint(Path(checkpoints), run)
    if state := broadcast_object_list([checkpoint.load() if accelerator.is_main_process else None])[0]:
        objective.load_state_dict(state["objective"])
        optimiser.load_state_dict(state["optimiser"])
        progress, start = Progress(**state["progress"]), state["start"]
        accelerator.print(f"resuming at step {progress.step} of {settings.steps} from {checkpoint.path}")
    elif Path(settings.init_from).is_dir() and not settings.new_head:
        objective.to(accelerator.device)
        embeddings = embed_crops(model, (examples.crop(data, i, window, 0.5) for i in range(len(examples.labels))))
        start_centres(objective, torch.from_numpy(embeddings).to(accelerator.device), examples.labels)
    elif recipe.model.projection == "discriminant":
        objective.to(accelerator.device)
        with accelerator.autocast():
            start_from_discriminant(objective, data, noise, examples, Path(checkpoints) / f"discriminant-{run[:16]}")
    if settings.start_weight and not start:
        start = copy_of_weights(model)
    start_folder = Path(checkpoints) / "start"
    if state is None and accelerator.is_main_process:
        model.save(start_folder, run)
    wrapped, optimiser = accelerator.prepare(objective, optimiser)

    numbers = range(progress.step * accumulation, settings.steps * accumulation)
    batches = read_ahead(CropBatches(data, noise, examples, recipe, accumulation), numbers, accelerator.device)
    feed = zip(numbers, batches, strict=True)
    quiet = None if accelerator.is_main_process else True
    steps = tqdm(range(progress.step, settings.steps), initial=progress.step, total=settings.steps, desc="train", disable=quiet)
    curves = Path(checkpoints) / "curves"
    live = Live(str(curves), save_dvc_exp=False, dvcyaml=None, report=None) if accelerator.is_main_process else None
    with live or nullcontext():
        for row in progress.history:
            log_row(live, row)
        wrapped.train()

        def judge(row: dict[str, float]) -> None:
            with averaged_with_start(model, start, settings.start_weight):
                eer = [validate(model, data, validation, window)]  # rounding, and normalisation, differ between processes
                row["validation/eer"] = broadcast_object_list(eer)[0]
                progress.judge(row["validation/eer"], model, one_trial(data.speaker_ids[validation]))

        if len(validation) and not progress.history:  # a start from discriminant analysis, or from a model, may be the best
            progress.history.append({"step": 0.0})
            judge(progress.history[0])
            log_row(live, progress.history[0])
        decay_until = settings.steps if settings.decay == "cosine" else None
        for step in steps:
            train_encoder = settings.encoder_learning_rate > 0 and step >= settings.freeze_encoder_steps
            model.encoder.requires_grad_(train_encoder)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * schedule(step, group["start"], settings.warmup_steps, decay_until)
            for left in reversed(range(accumulation)):
                number, (*tensors, padded) = next(feed)
                crops, n_frames, speaker, background, taught = (
                    tensor.to(accelerator.device, non_blocking=True) for tensor in tensors
                )
                with accelerator.no_sync(wrapped) if left else nullcontext():
                    seed = settings.seed * 1_000_003 + number
                    terms = wrapped(crops, n_frames, speaker, background, taught, step, seed, padded)
                    accelerator.backward(terms["loss"] / accumulation)
                progress.recent.append({name: value.detach() for name, value in terms.items()})
            norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.gradient_clip)
            optimiser.step()
            optimiser.zero_grad()
            progress.step = done = step + 1

            row = {"step": float(done)}
            last = done == settings.steps
            if done % LOG_EVERY_STEPS == 0 or last:
                row |= {f"train/{name}": mean_of(progress.recent, name) for name in terms}
                if not math.isfinite(row["train/loss"]):
                    raise InputError(
                        f"the loss is {row['train/loss']} at step {done}; lower train.head_learning_rate or "
                        "train.encoder_learning_rate, or set train.mixed_precision to no"
                    )
                row["train/gradient_norm"] = float(norm)
                row["learning_rate/encoder"], row["learning_rate/head"] = (group["lr"] for group in optimiser.param_groups[-2:])
                steps.set_postfix(loss=f"{row['train/loss']:.3f}", best_eer=f"{progress.best_eer:.3f}")
                progress.recent = []
            if len(validation) and (done % settings.validate_every_steps == 0 or last):
                judge(row)
            if len(row) > 1:
                progress.history.append(row)
                log_row(live, row)
            if progress.validations_without_gain >= (settings.early_stopping_validations or math.inf):
                accelerator.print(f"stopped at step {done}: {progress.validations_without_gain} validations without a better EER")
                break
            if done % settings.checkpoint_every_steps == 0 and not last and accelerator.is_main_process:
                checkpoint.save(
                    objective=objective.state_dict(), optimiser=optimiser.state_dict(), progress=vars(progress), start=start
                )

    if accelerator.is_main_process:
        if progress.kept_model is None or settings.kept_weights == "last":
            with averaged_with_start(model, start, settings.start_weight):
                progress.kept_model = copy_of_weights(model)
        else:
            accelerator.print(progress.verdict())
        model.load_state_dict(progress.kept_model)
        shutil.rmtree(out, ignore_errors=True)  # whose files may be links into DVC's cache
        model.save(out, run)
        shutil.move(start_folder, Path(out) / "start")
        with (Path(out) / "params.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump({name: section.model_dump() for name, section in recipe.sections().items()}, file)
        shutil.rmtree(log, ignore_errors=True)  # the curves of another run
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(curves, log)
        checkpoint.remove()
    accelerator.wait_for_everyone()
    accelerator.end_training()


def mean_of(rows: list[dict[str, Tensor]], name: str) -> float:
    """Mean of one loss over the rows."""
    return torch.stack([row[name].cpu() for row in rows]).mean().item()  # those of before a resume are on the CPU
