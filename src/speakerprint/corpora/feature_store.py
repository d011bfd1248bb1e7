"""The feature store: the log-mel features of a corpus's recordings, ragged, with their speakers, in one zarr group.

Apart from ``features``, so that training depends on what is stored and not on the code that made it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from speakerprint.audio.dimensions import N_MELS
from speakerprint.audio.log_mel import pad_batch
from speakerprint.corpora.recordings import read_recordings
from speakerprint.errors import InputError
from speakerprint.files import write_text

DTYPE = np.dtype("float16")  # features span about -1 to 1.5, where float16 is within 0.0005 of float32
REMEDY = "delete it and run `dvc repro` to make it again"
CHUNK_FRAMES = 500  # 5 s, about a recording: what is decompressed at once
SHARD_FRAMES = 400 * CHUNK_FRAMES  # 32 MB before compression: a file
LABELS_PER_CHUNK = 1 << 16
DIGESTS = "digests.json"  # of every file of a store, by its path
UNKNOWN = "unknown"  # the gender of a speaker whose gender the corpus does not tell


def create_store(
    folder: str | Path, offsets: np.ndarray, speaker_ids: Sequence[str], genders: Sequence[str | None], attributes: dict[str, Any]
) -> None:
    """Make ``folder/features.zarr`` for recordings with frames offsets[i] to offsets[i + 1] each; their features are yet to come.

    It is a zarr v3 group with these attributes, of five arrays: ``features`` (total_frames, mels) float16, ``attention_mask``
    (total_frames,) uint8, ``offsets`` (n + 1,) int64, ``speaker_id`` (n,) and ``gender`` (n,) text. The mask is 1 throughout: cut
    by the offsets and padded with 0 as the features are, it is a batch's mask. Being its fill value, it takes no room.

    Shards that are there already stay. Written in whole shards, in any order, the same features give the same bytes.
    """
    root = Path(folder) / "features.zarr"
    for old in root.glob("*"):  # of another run, but for the features' shards
        if old.name == "features":
            for metadata in old.glob("zarr*"):
                metadata.unlink()
        elif old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()
    group = zarr.open_group(root, mode="a", zarr_format=3, attributes=attributes)
    n_frames = int(offsets[-1])
    zstd = ZstdCodec(level=1)  # on one thread; higher levels gain 0.3 %, Blosc differs in its bytes on several threads
    group.create_array(
        "features",
        shape=(n_frames, N_MELS),
        dtype=DTYPE,
        chunks=(CHUNK_FRAMES, N_MELS),
        shards=(SHARD_FRAMES, N_MELS),
        compressors=zstd,
        dimension_names=("frame", "mel"),
    )
    group.create_array(
        "attention_mask", shape=(n_frames,), dtype="uint8", fill_value=1, chunks=(SHARD_FRAMES,), dimension_names=("frame",)
    )
    group.create_array("offsets", data=offsets.astype(np.int64), chunks=(len(offsets),))
    known_genders = [gender if isinstance(gender, str) else UNKNOWN for gender in genders]
    for name, values in (("speaker_id", speaker_ids), ("gender", known_genders)):
        array = group.create_array(name, shape=(len(values),), dtype="string", chunks=(LABELS_PER_CHUNK,), compressors=zstd)
        array[:] = np.array(values, dtype=object)


def shard_bounds(n_frames: int) -> list[tuple[int, int]]:
    """Which frames the shards of a store hold: from, to."""
    return [(start, min(start + SHARD_FRAMES, n_frames)) for start in range(0, n_frames, SHARD_FRAMES)]


def shard_path(folder: str | Path, number: int) -> Path:
    """The folder that holds a shard's one file."""
    return Path(folder) / f"features.zarr/features/c/{number}"


def write_shard(folder: str | Path, start: int, features: np.ndarray) -> None:
    """Write the features, (frames, mels) float16, of a whole shard, whose first frame is ``start``."""
    with zarr.config.set({"codec_pipeline.batch_size": SHARD_FRAMES // CHUNK_FRAMES}):  # a fifth quicker than chunk by chunk
        zarr.open_array(Path(folder) / "features.zarr/features", mode="r+")[start : start + len(features)] = features


def shard_digest(folder: str | Path, number: int) -> str | None:
    """SHA-256 of a shard's one file; None where there is none, as zarr writes none of zeros alone."""
    path = shard_path(folder, number) / "0"
    return _sha256(path) if path.is_file() else None


def seal(folder: str | Path, shards: Sequence[str | None] | None = None) -> None:
    """Complete a store whose features and ``recordings.parquet`` are written, with the digests that FeatureStore checks.

    shards: of each shard its `shard_digest`, where that is known already.
    """
    folder = Path(folder)
    if shards is None:
        parts = sorted(shard_path(folder, 0).parent.glob("*"), key=lambda part: int(part.name))
        shards = [shard_digest(folder, number) for number in range(int(parts[-1].name) + 1 if parts else 0)]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_shard(folder, path) and path.name != DIGESTS)
    digests = {"files": {path.relative_to(folder).as_posix(): _sha256(path) for path in files}, "shards": list(shards)}
    write_text(json.dumps(digests, indent=1) + "\n", folder / DIGESTS)


def _is_shard(folder: Path, path: Path) -> bool:
    return path.parent.parent == shard_path(folder, 0).parent


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FeatureStore:
    """A corpus's log-mel features and recordings, as features.extract_corpus wrote them, read-only.

    What is read is as it was written: all but the features is compared with its digest when the store is opened, and each shard
    of features when it is first read. (To zarr a shard that is missing holds zeros, and one with a flipped bit other numbers.)

    ``recordings`` is the table of recordings. In its order, ``speaker_ids`` (n,) and ``genders`` (n,) are text, the gender
    "unknown" where the corpus does not tell it, and ``n_frames`` (n,) int64 is how long each recording is. Raises InputError if
    the folder holds no whole store, and where something of it is not as it was written.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.recordings = read_recordings(folder / "recordings.parquet")
        self._folder, self._digests = folder, self._checked_digests(folder)
        self._trusted: set[int] = set()  # shards that were compared with their digests
        try:
            group: Any = zarr.open_group(folder / "features.zarr", mode="r")
            self._features = group["features"]  # numpy's after load()
            self._offsets, self.speaker_ids, self.genders = (group[name][:] for name in ("offsets", "speaker_id", "gender"))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{folder / 'features.zarr'} is not a whole feature store ({error}); {REMEDY}") from None
        self.speaker_ids, self.genders = self.speaker_ids.astype(object), self.genders.astype(object)
        self.n_frames = np.diff(self._offsets)
        found = {len(self.recordings), len(self.n_frames), len(self.speaker_ids), len(self.genders)}
        if len(found) > 1 or self._features.shape[0] != self._offsets[-1]:
            raise InputError(
                f"{folder} does not fit together: {len(self.recordings)} recordings, offsets of {len(self.n_frames)}, "
                f"{len(self.speaker_ids)} speakers, {len(self.genders)} genders, "
                f"{self._features.shape[0]} frames of {self._offsets[-1]}; {REMEDY}"
            )

    def __len__(self) -> int:
        return len(self.recordings)

    def load(self) -> None:
        """Read all features into memory (160 bytes a frame), from where `frames` then takes them."""
        self._check_shards(0, len(self._digests))
        self._features = self._features[:]

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Features of recording ``index`` from frame ``start`` up to ``stop`` or its end: (frames, mels) float16."""
        begin, end = self._offsets[index], self._offsets[index + 1]
        return self._between(begin + start, end if stop is None else min(begin + stop, end))

    def parts(self) -> Iterator[np.ndarray]:
        """All features in their order, (frames, mels) float16 each, of which one part at a time need be in memory."""
        for start, end in shard_bounds(int(self._offsets[-1])):
            yield self._between(start, end)

    def _between(self, first: int, last: int) -> np.ndarray:
        if not isinstance(self._features, np.ndarray) and last > first:
            length = self._features.shards[0]
            self._check_shards(first // length, (last - 1) // length + 1)
        return self._features[first:last]

    @staticmethod
    def _checked_digests(folder: Path) -> list[str | None]:
        """Digests of the shards, once all other files have theirs."""
        try:
            digests = json.loads((folder / DIGESTS).read_bytes())
            for name, expected in digests["files"].items():
                if _sha256(folder / name) != expected:
                    raise InputError(f"{folder / name} was changed or damaged since it was written; {REMEDY}")
            return list(digests["shards"])
        except FileNotFoundError as error:
            raise InputError(f"{folder} is not a whole feature store ({error.filename} is missing); {REMEDY}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{folder / DIGESTS} is damaged ({error!r}); {REMEDY}") from None

    def _check_shards(self, start: int, stop: int) -> None:
        for number in set(range(start, stop)) - self._trusted:
            if number >= len(self._digests) or shard_digest(self._folder, number) != self._digests[number]:
                path = shard_path(self._folder, number) / "0"
                raise InputError(f"{path} is missing, or was changed or damaged since it was written; {REMEDY}")
            self._trusted.add(number)

    def batch(self, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Whole recordings in Whisper's own form: (batch, mels, frames) float32 and its attention mask (batch, frames) int64."""
        return pad_batch([self.frames(index) for index in indices])
