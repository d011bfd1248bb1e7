"""Whisper's log-mel features on a recording's own length, of one recording and of a corpus."""

import functools
import shutil
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import WhisperFeatureExtractor

from speakerprint.audio import SAMPLE_RATE_HZ, UndecodableAudio, decode, read_encoded, read_parts, report_of
from speakerprint.errors import InputError
from speakerprint.recordings import write_recordings
from speakerprint.shards import file_state, make_shards, move_whole
from speakerprint.store import DTYPE, N_MELS, create_store, shard_bounds, shard_path, write_shard

N_FFT = 400
HOP_LENGTH = 160


@functools.cache
def _constants() -> tuple[torch.Tensor, torch.Tensor]:
    """The window, (N_FFT,), and the mel filters, (N_FFT / 2 + 1, mels)."""
    filters = WhisperFeatureExtractor(feature_size=N_MELS).mel_filters  # its other defaults are Whisper base's
    return torch.hann_window(N_FFT), torch.from_numpy(filters.astype(np.float32))


@torch.autocast("cpu", enabled=False)
def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel features of (n_samples,) float32 at 16 kHz: (frames, mels) float32, frames = ceil(n_samples / 160), mels = 80.

    Within 1e-6 of the frames of WhisperFeatureExtractor's output that its attention mask keeps when it pads the clip to 30 s,
    but of a clip of any length, at half the time. The silence after the clip stands in for that padding: without it the last
    frame would see the clip reflected, as Whisper's own does of a clip that leaves no padding, being 30 s long.
    """
    n_frames = -(-len(samples) // HOP_LENGTH)
    if not n_frames:
        return np.zeros((0, N_MELS), np.float32)
    window, mel_filters = _constants()
    margin = N_FFT // 2  # so that frames are centred; before the clip it is reflected
    padded = np.zeros(margin + len(samples) + N_FFT, np.float32)
    padded[margin : margin + len(samples)] = samples
    padded[:margin] = padded[2 * margin : margin : -1]
    n_sounding = (len(samples) + margin - 1) // HOP_LENGTH + 1  # that hear any of it: the loudest may come after the last kept
    frames = torch.from_numpy(padded).unfold(0, N_FFT, HOP_LENGTH)[:n_sounding]
    spectrum = torch.fft.rfft(frames * window).numpy()
    power = spectrum.real**2 + spectrum.imag**2  # half of torch's time
    mel = (torch.from_numpy(power) @ mel_filters).numpy()  # numpy's own threads would keep torch's from the encoder
    log = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(log[:n_frames], log.max() - 8.0) + 4.0) / 4.0


def extract_corpus(audio_folder: str | Path, out_folder: str | Path, unfinished: str | Path | None = None) -> dict[str, Any]:
    """Write the log-mel features of a folder made by audio.resample_corpus as a store that FeatureStore opens; return a report.

    The store is ``out_folder/features.zarr`` (see store.create_store) and ``out_folder/recordings.parquet``, in one order. How
    long each recording is is known, so each process writes shards of the store on its own. All is made in the folder
    ``unfinished`` (``out_folder`` with that suffix, unless given) and moved when it is whole; a run that was killed goes on from
    there. Raises InputError if the folder is absent or damaged.
    """
    unfinished = Path(unfinished or f"{out_folder}.unfinished").resolve()
    store = unfinished / "store"
    audio_folder = Path(audio_folder).resolve()
    paths, lengths, speakers = [], [], set()
    for path, table in read_parts(audio_folder):
        paths.append(str(path))
        lengths.append(table["n_samples"].to_numpy())
        speakers.update(table["speaker_id"].unique().to_pylist())
    n_samples = np.concatenate(lengths)
    starts = list(accumulate(map(len, lengths), initial=0))
    offsets = np.concatenate([[0], np.cumsum(-(-n_samples // HOP_LENGTH))])
    create_store(store, offsets, {"sample_rate_hz": SAMPLE_RATE_HZ, "hop_length": HOP_LENGTH, "n_fft": N_FFT})
    bounds = shard_bounds(int(offsets[-1]))
    for stale in set(shard_path(store, 0).parent.glob("*")) - {shard_path(store, number) for number in range(len(bounds))}:
        shutil.rmtree(stale)
    shards = (_FeatureShard.of(paths, starts, offsets, store, number, *of_shard) for number, of_shard in enumerate(bounds))
    with tqdm(total=int(offsets[-1]), desc="features", unit="frame", unit_scale=True, disable=None) as bar:
        for report in make_shards(shards, unfinished / "whole"):
            bar.update(report["frames"])
    write_recordings((table.to_pandas() for _, table in read_parts(audio_folder)), store / "recordings.parquet")
    move_whole(store, out_folder)
    shutil.rmtree(unfinished)
    return report_of(len(n_samples), len(speakers), n_samples.sum() / SAMPLE_RATE_HZ) | {"frames": int(offsets[-1])}


@dataclass(frozen=True)
class _FeatureShard:
    store: Path
    number: int
    start: int  # frames of the store that are in it
    stop: int
    audio: list[tuple[str, int, int]]  # shards of audio.resample_corpus, and which of their rows: from, to
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
            half = torch.from_numpy(features[low - self.start : high - self.start])
            half.copy_(torch.from_numpy(frames[low - begin : high - begin]))  # rounds as numpy does, in a tenth of its time
        write_shard(self.store, self.start, features)
        return {"frames": len(features)}


def _damaged(why: object) -> InputError:
    return InputError(f"{why}: the resampled audio is damaged; delete data/audio and run `dvc repro` to make it again")
