"""The feature store: the log-mel features of a corpus's recordings, ragged, in one zarr array.

Apart from ``features``, so that training depends on what is stored and not on the code that made it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from speakerprint.audio.dimensions import N_MELS
from speakerprint.audio.log_mel import pad_batch
from speakerprint.corpora.recordings import read_recordings
from speakerprint.errors import InputError

DTYPE = np.dtype("float16")  # features span about -1 to 1.5, where float16 is within 0.0005 of float32
CHUNK_FRAMES = 500  # 5 s, about a recording: what is decompressed at once
SHARD_FRAMES = 400 * CHUNK_FRAMES  # 32 MB before compression: a file


def create_store(folder: str | Path, offsets: np.ndarray, attributes: dict[str, Any]) -> None:
    """Make ``folder/features.zarr`` for recordings with frames offsets[i] to offsets[i + 1] each; their features are yet to come.

    It is a zarr v3 group with these attributes, of ``features`` (total_frames, mels) float16 and ``offsets`` (n + 1,) int64.
    Shards that are there already stay. Written in whole shards, in any order, the same features give the same bytes.
    """
    root = Path(folder) / "features.zarr"
    for old in root.rglob("zarr*"):  # metadata, and what a killed process left of some
        old.unlink()
    group = zarr.open_group(root, mode="a", zarr_format=3, attributes=attributes)
    group.create_array(
        "features",
        shape=(int(offsets[-1]), N_MELS),
        dtype=DTYPE,
        chunks=(CHUNK_FRAMES, N_MELS),
        shards=(SHARD_FRAMES, N_MELS),
        compressors=ZstdCodec(level=1),  # on one thread; higher levels gain 0.3 %, Blosc differs in its bytes on several threads
        dimension_names=("frame", "mel"),
    )
    group.create_array("offsets", data=offsets.astype(np.int64), chunks=(len(offsets),))


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


class FeatureStore:
    """A corpus's log-mel features and recordings, as features.extract_corpus wrote them, read-only.

    ``recordings`` is the table of recordings; ``speaker_ids`` (n,) and ``genders`` (n,) are its columns, and ``n_frames``
    (n,) int64 tells how long each is. Raises InputError if the folder holds no whole store.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        remedy = "delete it and run `dvc repro` to make it again"
        self.recordings = read_recordings(folder / "recordings.parquet")
        try:
            self._features: Any = zarr.open_array(folder / "features.zarr/features", mode="r")  # numpy's after load()
            self._offsets = np.asarray(zarr.open_array(folder / "features.zarr/offsets", mode="r"))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{folder / 'features.zarr'} is not a whole feature store ({error}); {remedy}") from None
        self.n_frames = np.diff(self._offsets)
        expected = (len(self.recordings), self._offsets[-1])
        if (len(self.n_frames), self._features.shape[0]) != expected:
            raise InputError(
                f"{folder} does not fit together: {len(self.recordings)} recordings, offsets of {len(self.n_frames)}, "
                f"{self._features.shape[0]} frames of {self._offsets[-1]}; {remedy}"
            )
        self.speaker_ids = self.recordings["speaker_id"].to_numpy(dtype=object)
        self.genders = self.recordings["gender"].to_numpy(dtype=object)

    def __len__(self) -> int:
        return len(self.recordings)

    def load(self) -> None:
        """Read all features into memory (160 bytes a frame), from where `frames` then takes them."""
        self._features = self._features[:]

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Features of recording ``index`` from frame ``start`` up to ``stop`` or its end: (frames, mels) float16."""
        begin, end = self._offsets[index], self._offsets[index + 1]
        return self._features[begin + start : end if stop is None else min(begin + stop, end)]

    def batch(self, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Whole recordings in Whisper's own form: (batch, mels, frames) float32 and its attention mask (batch, frames) int64."""
        return pad_batch([self.frames(index) for index in indices])
