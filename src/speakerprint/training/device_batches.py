"""Batches cut out of features that lie in an accelerator's own memory: the host draws what is in them, and says where it lies.

What is drawn is what `Reader` draws, and so is what is read, but for the rounding of other speeds. Nothing waits for the device.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speakerprint.audio.dimensions import N_MELS
from speakerprint.training.batches import Batch, Reader
from speakerprint.training.data import BYTES_PER_FRAME, UNLABELLED, TrainingSet
from speakerprint.training.views import bands_heard, frames_heard, neighbours

SHARE = 0.5  # of a device's free memory that features may take; the rest is for what a step computes


def free_bytes(device: torch.device) -> int:
    """How much free memory of its own a device has; 0 for a processor, whose memory is the host's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def beside_the_model(reader: Reader, device: torch.device) -> Reader:
    """A reader that cuts batches on the device, where the features of speech and noise fit there; else the reader itself."""
    sets = [reader.examples.data, *([reader.noise.data] if reader.noise else [])]
    wanted = BYTES_PER_FRAME * sum(int(store.n_frames.sum()) for data in sets for store in data.stores)
    if wanted > SHARE * free_bytes(device):
        return reader
    return DeviceReader(reader.examples, reader.noise, reader.streams, *(DeviceFrames.of(data, device) for data in sets))


@dataclass(frozen=True)
class DeviceFrames:
    """All features of a training set on a device.

    frames: (total_frames, 80) float16. starts (n,): where in them each recording begins. n_frames (n,): how long it is.
    """

    frames: Tensor
    starts: NDArray[np.int64]
    n_frames: NDArray[np.int64]

    @classmethod
    def of(cls, data: TrainingSet, device: torch.device) -> "DeviceFrames":
        """Copy the features, part by part. Raises InputError for a damaged store."""
        n_frames = np.concatenate([store.n_frames for store in data.stores])
        frames, end = torch.empty(int(n_frames.sum()), N_MELS, dtype=torch.float16, device=device), 0
        for part in (part for store in data.stores for part in store.parts()):
            begin, end = end, end + len(part)
            frames[begin:end] = torch.from_numpy(part)
        return cls(frames, np.cumsum(n_frames) - n_frames, n_frames)

    def cut(self, recordings: NDArray, n_frames: NDArray, positions: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where crops begin among the frames, and how long they are, (n,) each: placed as TrainingSet.crop places them."""
        lengths = np.minimum(n_frames, self.n_frames[recordings])
        return self.starts[recordings] + _rounded(positions * (self.n_frames[recordings] - lengths)), lengths

    def rows(self, places: NDArray[np.int64]) -> Tensor:
        """The frames at these places, (clips, frames): (clips, frames, 80) float32."""
        return self.frames[self.send(places)].float()

    def send(self, values: NDArray) -> Tensor:
        """An array on the device, by a copy that nothing waits for."""
        tensor = torch.from_numpy(values)
        return (tensor.pin_memory() if self.frames.is_cuda else tensor).to(self.frames.device, non_blocking=True)


@dataclass(frozen=True)
class DeviceReader(Reader):
    """Makes the batches that Reader makes, of features on a device: those of speech, and those of noise where there is any."""

    speech: DeviceFrames
    noises: DeviceFrames | None = None

    @property
    def in_memory(self) -> bool:
        return True

    @cached_property
    def taught(self) -> tuple[Tensor, ...]:
        """Each teacher's embeddings of the examples, on the device."""
        return tuple(map(self.speech.send, self.examples.taught))

    def read(self, chosen: np.ndarray, n_frames: int, positions: np.ndarray, number: int, per_speaker: int = 1) -> Batch:
        """As Reader.read."""
        examples, speeds, send = self.examples, self.examples.speeds[chosen], self.speech.send
        starts, heard = self.speech.cut(examples.recordings[chosen], _rounded(n_frames * speeds), positions)
        lengths = np.where(speeds == 1, heard, np.maximum(1, _rounded(heard / speeds)))
        frame = np.arange(lengths.max())
        valid = frame < lengths[:, None]
        at_speed = frames_heard(frame, heard[:, None], lengths[:, None])  # at a speed of 1, the frame itself
        before, after, share = neighbours(at_speed, heard[:, None])
        clips = self.speech.rows(starts[:, None] + before)
        if (speeds != 1).any():
            clips = torch.lerp(clips, self.speech.rows(starts[:, None] + after), send(share[:, :, None]))
            clips = self._bands_at(clips, speeds)
        if not valid.all():
            clips = clips * send(valid[:, :, None])
        labels, which = examples.labels[chosen], send(chosen)
        return Batch(
            clips.transpose(1, 2).contiguous(),
            send(lengths),
            send(labels),
            send(examples.genders[chosen]),
            self._noise(len(chosen), len(frame), number),
            tuple(taught[which] for taught in self.taught),
            self.streams.views(number),
            per_speaker,
            int((labels != UNLABELLED).sum()),
            not valid.all(),
        )

    def _bands_at(self, clips: Tensor, speeds: NDArray) -> Tensor:
        """The second half of change_speed: each clip's mel bands, (clips, frames, 80), where its speed puts them."""
        places = np.stack([bands_heard(N_MELS, float(speed)) for speed in speeds])
        before, after, share = (self.speech.send(part)[:, None].expand(clips.shape) for part in neighbours(places, N_MELS))
        return torch.lerp(clips.gather(2, before), clips.gather(2, after), share)

    def _noise(self, n: int, n_frames: int, number: int) -> Tensor:
        """What Noise.crops cuts: (n, 80, n_frames), or empty without noise."""
        if self.noise is None or self.noises is None:
            return self.speech.frames.new_empty(0, dtype=torch.float32)
        recordings, positions = self.noise.draw(n, self.streams.noise(number))
        starts, lengths = self.noises.cut(recordings, np.full(n, n_frames), positions)
        places = starts[:, None] + np.arange(n_frames) % lengths[:, None]
        return self.noises.rows(places).transpose(1, 2).contiguous()


def _rounded(values: NDArray) -> NDArray[np.int64]:
    return np.rint(values).astype(np.int64)  # half to even, as round()
