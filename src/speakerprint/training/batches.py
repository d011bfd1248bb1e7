"""Batches of crops: read in the background, while those before them are learned from."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.audio.log_mel import pad_batch
from speakerprint.params.augmentation import Augmentation, AugmentationKind
from speakerprint.params.train import Train
from speakerprint.training.data import UNLABELLED, Examples, Noise
from speakerprint.training.recipe import Recipe
from speakerprint.training.sampling import SpeakerBatches
from speakerprint.training.streams import Streams
from speakerprint.training.views import augment, draw_kinds

READERS = max(2, min(8, (os.cpu_count() or 1) // 2))  # processes that read what is not in memory


@dataclass(frozen=True)
class Batch:
    """Clips that are learned from together, a speaker's side by side; those of unknown speakers come last.

    features: (batch, 80, frames) float32. n_frames: (batch,) valid frames. labels: (batch,) their speakers. genders: (batch,)
    codes as in data.GENDERS. noise: what `recorded_noise` mixes in, of the features' shape; empty without a noise corpus.
    taught: each teacher's embeddings of the recordings, (batch, its dim), see Examples. view_seed: of the augmentations.
    per_speaker: how many clips of a speaker are side by side. n_labelled: how many have a known speaker. padded: whether some
    clip is shorter than the others; told, because an accelerator would have to be waited for to ask.
    """

    features: Tensor
    n_frames: Tensor
    labels: Tensor
    genders: Tensor
    noise: Tensor
    taught: tuple[Tensor, ...]
    view_seed: int
    per_speaker: int
    n_labelled: int
    padded: bool

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that an accelerator copies from by itself, but for what is in its own memory."""
        return self._each(lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, taught=tuple(map(change, self.taught)), **changed)

    def views(self, settings: Augmentation, count: int) -> list[Tensor]:
        """The clips as the triplet loss sees them, then `count` views of these for NT-Xent: each (batch, 80, frames)."""
        device = self.features.device
        generator = torch.Generator(device).manual_seed(self.view_seed)
        on_cpu = generator if device.type == "cpu" else torch.Generator().manual_seed(self.view_seed)  # no wait for the device

        def changed(clips: Tensor, kinds: Sequence[AugmentationKind], n: int, strengths: Augmentation) -> Tensor:
            turns = draw_kinds(len(clips), len(kinds), n, settings.draw_per, on_cpu, self.per_speaker)
            return augment(clips, self.n_frames, kinds, turns, strengths, generator, self.noise)

        of_clip, of_view = settings.triplet, settings.ntxent
        clips = changed(self.features, of_clip.kinds, of_clip.kinds_per_clip, settings.for_triplet())
        return [clips, *(changed(clips, of_view.kinds, of_view.kinds_per_view, settings) for _ in range(count))]


@dataclass(frozen=True)
class Reader:
    """Makes batches of examples; the noise in batch `number`, and its view seed, follow from the number."""

    examples: Examples
    noise: Noise | None
    streams: Streams

    @property
    def in_memory(self) -> bool:
        """Whether reading takes no disk."""
        return self.examples.data.in_memory

    def read(self, chosen: np.ndarray, n_frames: int, positions: np.ndarray, number: int, per_speaker: int = 1) -> Batch:
        """The chosen examples, at most `n_frames` frames of each, placed by `positions` in [0, 1] as Examples.crop does."""
        pairs = zip(chosen, positions, strict=True)
        features, mask = pad_batch([self.examples.crop(example, n_frames, position) for example, position in pairs])
        noise = np.empty(0, np.float32)
        if self.noise is not None:
            noise = self.noise.crops(len(chosen), features.shape[2], self.streams.noise(number))
        return Batch(
            torch.from_numpy(features),
            torch.from_numpy(mask.sum(axis=1)),
            torch.from_numpy(self.examples.labels[chosen]),
            torch.from_numpy(self.examples.genders[chosen]),
            torch.from_numpy(noise),
            tuple(torch.from_numpy(taught[chosen]) for taught in self.examples.taught),
            self.streams.views(number),
            per_speaker,
            int((self.examples.labels[chosen] != UNLABELLED).sum()),
            not mask.all(),
        )


def crop_frames(settings: Train, step: int, streams: Streams) -> int:
    """How long the crops of an optimiser step are, in frames.

    They grow evenly from `crop_s` to `last_crop_s`, or, with `crop_lengths` random, each step draws a length between the two.
    """
    last_s = settings.last_crop_s or settings.crop_s
    rising = min(1.0, step / max(1, settings.steps - 1))
    share = streams.lengths(step).random() if settings.crop_lengths == "random" else rising
    return round((settings.crop_s + (last_s - settings.crop_s) * share) * FRAMES_PER_SECOND)


class CropBatches(Dataset):
    """Batch `i` of training: random crops of the recordings that SpeakerBatches chooses, and of unlabelled ones.

    There must be at least `sampling.unlabelled` of these, or none.
    """

    def __init__(self, reader: Reader, recipe: Recipe, unlabelled: Examples | None = None):
        examples, self.settings, self.sampling = reader.examples, recipe.train, recipe.sampling
        self.reader = replace(reader, examples=examples.followed_by(unlabelled)) if unlabelled else reader
        self.chosen = SpeakerBatches(examples.labels, examples.locales, recipe.sampling, reader.streams)
        self.n_labelled, self.n_unlabelled = len(examples), len(unlabelled or ())

    def choose(self, number: int) -> np.ndarray:
        """Which examples are in batch `number`: of known speakers, then the unlabelled ones."""
        chosen = self.chosen.batch(number)
        if not self.n_unlabelled:
            return chosen
        drawn = self.reader.streams.unlabelled(number).choice(self.n_unlabelled, self.sampling.unlabelled, replace=False)
        return np.concatenate([chosen, self.n_labelled + drawn])

    def __getitem__(self, number: int) -> Batch:
        chosen = self.choose(number)
        streams = self.reader.streams
        n_frames = crop_frames(self.settings, number // self.settings.gradient_accumulation, streams)
        anywhere = self.settings.crop_position == "random"
        positions = streams.crops(number).random(len(chosen)) if anywhere else np.zeros(len(chosen))
        return self.reader.read(chosen, n_frames, positions, number, self.sampling.utterances)


def read_ahead(batches: Dataset, numbers: Sequence[int], in_memory: bool, device: torch.device) -> Iterator[Batch]:
    """The numbered batches, each read while those before it are learned from: by a thread from memory, by processes from disk."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=0 if in_memory else READERS,
        multiprocessing_context=None if in_memory else "spawn",
        pin_memory=device.type == "cuda",
    )
    return ahead(loader)


def ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches, each made by a thread while the one before it is learned from."""
    waiting = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, waiting, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, waiting, None)
            yield batch
