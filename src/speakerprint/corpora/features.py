"""The log-mel features of a corpus, shard by shard, into the feature store."""

import shutil
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE_HZ
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.log_mel import log_mel
from speakerprint.corpora.feature_store import DTYPE, create_store, seal, shard_bounds, shard_digest, shard_path, write_shard
from speakerprint.corpora.recordings import write_recordings
from speakerprint.corpora.resampling import read_encoded, read_parts, report_of
from speakerprint.corpora.shards import make_shards, move_whole
from speakerprint.corpora.sharing import file_state
from speakerprint.errors import InputError
from speakerprint.files import explain_full_disk


def extract_corpus(audio_folder: str | Path, out_folder: str | Path, unfinished: str | Path | None = None) -> dict[str, Any]:
    """Write the log-mel features of what resampling.resample_corpus made as a store that FeatureStore opens; return a report.

    The store is ``out_folder/features.zarr`` (see feature_store.create_store) and ``out_folder/recordings.parquet``, in one
    order. How long each recording is is known, so each process writes shards of the store on its own. All is made in the folder
    ``unfinished`` (``out_folder`` with that suffix, unless given) and moved when it is whole; a run that was killed goes on from
    there. Raises InputError if the folder is absent or damaged.
    """
    unfinished = Path(unfinished or f"{out_folder}.unfinished").resolve()
    store = unfinished / "store"
    audio_folder = Path(audio_folder).resolve()
    paths: list[str] = []
    lengths: list[np.ndarray] = []
    labels: dict[str, list[Any]] = {"speaker_id": [], "gender": []}
    once: dict[Any, Any] = {}  # each text once in memory
    for path, table in read_parts(audio_folder):
        paths.append(str(path))
        lengths.append(table["n_samples"].to_numpy())
        for name, values in labels.items():
            values += [once.setdefault(value, value) for value in table[name].to_pylist()]
    n_samples = np.concatenate(lengths)
    starts = list(accumulate(map(len, lengths), initial=0))
    offsets = np.concatenate([[0], np.cumsum(-(-n_samples // HOP_LENGTH))])
    attributes = {"sample_rate_hz": SAMPLE_RATE_HZ, "hop_length": HOP_LENGTH, "n_fft": N_FFT}
    with explain_full_disk(store):
        create_store(store, offsets, labels["speaker_id"], labels["gender"], attributes)
    bounds = shard_bounds(int(offsets[-1]))
    for stale in set(shard_path(store, 0).parent.glob("*")) - {shard_path(store, number) for number in range(len(bounds))}:
        shutil.rmtree(stale)
    shards = (_FeatureShard.of(paths, starts, offsets, store, number, *of_shard) for number, of_shard in enumerate(bounds))
    digests: list[str | None] = []
    with tqdm(total=int(offsets[-1]), desc="features", unit="frame", unit_scale=True, disable=None) as bar:
        for report in make_shards(shards, unfinished / "whole"):
            bar.update(report["frames"])
            digests.append(report["sha256"])
    write_recordings((table.to_pandas() for _, table in read_parts(audio_folder)), store / "recordings.parquet")
    seal(store, digests)
    move_whole(store, out_folder)
    shutil.rmtree(unfinished)
    n_speakers, n_frames = len(set(labels["speaker_id"])), int(offsets[-1])
    return report_of(len(n_samples), n_speakers, n_samples.sum() / SAMPLE_RATE_HZ) | {"frames": n_frames}


@dataclass(frozen=True)
class _FeatureShard:
    store: Path
    number: int
    start: int  # frames of the store that are in it
    stop: int
    audio: list[tuple[str, int, int]]  # shards of resampling.resample_corpus, and which of their rows: from, to
    offsets: list[int]  # where those recordings' frames start in the store, and where the last one's end

    @classmethod
    def of(
        cls, paths: list[str], starts: list[int], offsets: np.ndarray, store: Path, number: int, start: int, stop: int
    ) -> "_FeatureShard":
        """The shard with those frames: of the recordings that have some of them, those at its ends in part.

        paths: the audio's shards, of which each holds the recordings starts[i] to starts[i + 1].
        """
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, stop, side="left"))
        parts = range(bisect_right(starts, first) - 1, bisect_left(starts, last))
        audio = [(paths[i], max(first, starts[i]) - starts[i], min(last, starts[i + 1]) - starts[i]) for i in parts]
        return cls(store, number, start, stop, audio, offsets[first : last + 1].tolist())

    @property
    def path(self) -> Path:
        return shard_path(self.store, self.number)

    def inputs(self) -> Any:
        return [self.start, self.stop, self.audio, [file_state(path) for path, _, _ in self.audio], self.offsets]

    def make(self) -> dict[str, Any]:
        features = np.empty((self.stop - self.start, N_MELS), DTYPE)
        clips = ((path, clip) for path, low, high in self.audio for clip in read_encoded(path, low, high))
        for (begin, end), (path, clip) in zip(pairwise(self.offsets), clips, strict=True):
            try:
                frames = log_mel(decode(clip, path)[0])
            except UndecodableAudio as error:
                raise _damaged(error) from None
            if len(frames) != end - begin:
                raise _damaged(f"{path}: {len(frames)} frames of {end - begin}")
            low, high = max(begin, self.start), min(end, self.stop)
            features[low - self.start : high - self.start] = frames[low - begin : high - begin]
        write_shard(self.store, self.start, features)
        return {"frames": len(features), "sha256": shard_digest(self.store, self.number)}


def _damaged(why: object) -> InputError:
    return InputError(f"{why}: the resampled audio is damaged; delete data/audio and run `dvc repro` to make it again")
