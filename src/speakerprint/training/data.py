"""What is learned from: the recordings of several feature stores as one set, the noise beside them, and which are held out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from speakerprint.audio.dimensions import N_MELS
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.params.train import Train
from speakerprint.training.split import n_held_out
from speakerprint.training.streams import Streams
from speakerprint.training.teacher import read_teachers
from speakerprint.training.views import change_speed

BYTES_PER_FRAME = N_MELS * 2  # float16
IN_MEMORY_BYTES = 4 << 30  # features of corpora smaller than this are read once, larger ones as batches need them
GENDERS = ("female", "male")  # codes 0 and 1; 2 where it is not known
UNLABELLED = -1  # in place of a speaker's label


@dataclass(frozen=True)
class Stores:
    """Where the feature store of each corpus is, {corpus: folder}, by the corpora's roles."""

    train: dict[str, Path]
    unlabelled: dict[str, Path] = field(default_factory=dict)
    noise: dict[str, Path] = field(default_factory=dict)


class TrainingSet:
    """The recordings of several feature stores as one; speakers of different corpora are different speakers.

    The last ones may be `unlabelled`: their speakers are not known, whatever the stores say.

    speaker_ids (n,): `corpus/speaker`. genders (n,): codes as in GENDERS. locales (n,): str or None. taught: the embeddings of
    each teacher, (speeds, n, dim), by its name; empty without a teacher. labelled, unlabelled: indices of the recordings.
    """

    def __init__(self, labelled: Mapping[str, FeatureStore], unlabelled: Mapping[str, FeatureStore] = MappingProxyType({})):
        stores = {**labelled, **unlabelled}
        self.stores = list(stores.values())
        self.ends = np.cumsum([len(store) for store in self.stores])
        self.speaker_ids = np.concatenate(
            [[f"{name}/{speaker}" for speaker in store.speaker_ids] for name, store in stores.items()]
        )
        self.corpora = np.repeat(list(stores), [len(store) for store in self.stores])
        genders = np.concatenate([store.genders for store in self.stores])
        self.genders = np.select([genders == gender for gender in GENDERS], range(len(GENDERS)), len(GENDERS))
        self.locales = np.concatenate([store.recordings["locale"].to_numpy(dtype=object) for store in self.stores])
        self.in_memory = sum(int(store.n_frames.sum()) for store in self.stores) * BYTES_PER_FRAME <= IN_MEMORY_BYTES
        if self.in_memory:
            for store in self.stores:
                store.load()
        n_labelled = sum(map(len, labelled.values()))
        self.labelled, self.unlabelled = np.arange(n_labelled), np.arange(n_labelled, len(self.speaker_ids))
        self.taught: dict[str, np.ndarray] = {}

    def take_teachers(self, folder: str | Path, speeds: list[float]) -> None:
        """Load the embeddings of the teachers in the folder into `taught`. Raises InputError as read_teachers does."""
        ids = [store.recordings["recording_id"].tolist() for store in self.stores]
        self.taught = read_teachers(folder, dict(zip(dict.fromkeys(self.corpora), ids, strict=True)), speeds)

    def recordings_per_speaker(self) -> dict[str, np.ndarray]:
        """How many recordings each known speaker of each corpus has, (n_speakers,)."""
        names = dict.fromkeys(self.corpora[self.labelled])
        return {name: np.unique(self.speaker_ids[self.corpora == name], return_counts=True)[1] for name in names}

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

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Which recordings, (n,), and where in them, (n,) of [0, 1)."""
        return rng.integers(len(self.data.speaker_ids), size=n), rng.random(n)

    def crops(self, n: int, n_frames: int, rng: np.random.Generator) -> np.ndarray:
        """Crops of recordings drawn at random, (n, 80, n_frames) float32; one that is too short is repeated."""
        crops = [self.data.crop(int(index), n_frames, position) for index, position in zip(*self.draw(n, rng), strict=True)]
        return np.stack([np.resize(crop, (n_frames, crop.shape[1])).T for crop in crops]).astype(np.float32)


@dataclass(frozen=True)
class Examples:
    """Recordings at one or several speeds, where a speaker at another speed is another speaker.

    recordings (n,): indices of the training set. speeds (n,): how many times as fast each is played. labels (n,): its speaker,
    UNLABELLED where that is not known.
    taught: each teacher's embeddings of them at that speed, (n, dim), 0 for one that it has not heard.
    """

    data: TrainingSet
    recordings: np.ndarray
    speeds: np.ndarray
    labels: np.ndarray
    taught: tuple[np.ndarray, ...]

    @classmethod
    def at_speeds(cls, data: TrainingSet, recordings: np.ndarray, speeds: list[float]) -> "Examples":
        """Each of the recordings at each of the speeds; labels count from 0, those of the first speed first."""
        speakers, labels = np.unique(data.speaker_ids[recordings], return_inverse=True)
        return cls(
            data,
            np.tile(recordings, len(speeds)),
            np.repeat(np.array(speeds), len(recordings)),
            np.concatenate([labels + len(speakers) * place for place in range(len(speeds))]),
            tuple(taught[:, recordings].reshape(-1, taught.shape[-1]) for taught in data.taught.values()),
        )

    @classmethod
    def unlabelled(cls, data: TrainingSet, speeds: list[float]) -> "Examples":
        """Each of the recordings whose speakers are not known, at each of the speeds."""
        examples = cls.at_speeds(data, data.unlabelled, speeds)
        return replace(examples, labels=np.full_like(examples.labels, UNLABELLED))

    def followed_by(self, others: "Examples") -> "Examples":
        """These, and then others of the same training set."""
        return Examples(
            self.data,
            np.concatenate([self.recordings, others.recordings]),
            np.concatenate([self.speeds, others.speeds]),
            np.concatenate([self.labels, others.labels]),
            tuple(np.concatenate(both) for both in zip(self.taught, others.taught, strict=True)),
        )

    def __len__(self) -> int:
        return len(self.recordings)

    @property
    def n_speakers(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def genders(self) -> np.ndarray:
        """Codes as in GENDERS, (n,)."""
        return self.data.genders[self.recordings]

    @property
    def locales(self) -> np.ndarray:
        """(n,) str or None."""
        return self.data.locales[self.recordings]

    def crop(self, example: int, n_frames: int, position: float) -> np.ndarray:
        """`n_frames` frames of an example at its speed, (frames, 80), placed as TrainingSet.crop does."""
        speed = float(self.speeds[example])
        crop = self.data.crop(self.recordings[example], round(n_frames * speed), position)
        return crop if speed == 1 else change_speed(crop, speed)


def spread_over_speakers(speaker_ids: np.ndarray, limit: int) -> np.ndarray:
    """Indices of at most `limit` recordings: the first of each speaker, then the second of each, and so on."""
    _, labels = np.unique(speaker_ids, return_inverse=True)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(np.lexsort((labels, turn))[:limit])


def refuse_too_few_unlabelled(found: int, wanted: int) -> None:
    """Raise InputError if there are unlabelled recordings, but not the `sampling.unlabelled` of them that a batch takes."""
    if 0 < found < wanted:
        raise InputError(
            f"sampling.unlabelled is {wanted}, but the corpora with role: unlabelled have {found} recordings; lower it, or give "
            "them another role"
        )


def split_recordings(data: TrainingSet, settings: Train, streams: Streams) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the recordings to train on, and of those to validate on (none of their speakers is trained on).

    At most `validation_max_recordings` are validated on, from no more than a quarter as many speakers.
    Raises InputError if no two of the recordings to validate on are of one speaker.
    """
    known = data.speaker_ids[data.labelled]
    speakers = np.unique(known)
    held_out = streams.held_out().permutation(speakers)[: n_held_out(len(speakers), settings.validation_speakers)]
    training = np.flatnonzero(~np.isin(known, held_out))
    limit = settings.validation_max_recordings
    validation = np.flatnonzero(np.isin(known, held_out[: max(2, limit // 4)]))
    validation = validation[spread_over_speakers(known[validation], limit)]
    if len(held_out) and len(np.unique(known[validation])) == len(validation):
        raise InputError(
            f"the {len(validation)} recordings to validate on are of as many speakers, so no two are of one speaker; raise "
            "filter.min_recordings_per_speaker or train.validation_max_recordings, or set train.validation_speakers to 0"
        )
    return training, validation
