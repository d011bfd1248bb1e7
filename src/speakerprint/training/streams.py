"""Named random streams: every draw of training comes from one of these, so that no two draws share a stream."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Streams:
    """The random streams of a run, each named by what is drawn and numbered by when.

    A stream is a function of the seed, the part of the run, its name and its number alone. So a resumed run draws what one left
    alone draws, and no stream depends on how much another has given.
    """

    seed: int
    part: str = "training"

    def of(self, part: str) -> "Streams":
        """The streams of another part of the run, which has draws of the same names."""
        return Streams(self.seed, part)

    def order(self, epoch: int) -> np.random.Generator:
        """The order that speakers, or recordings, are visited in."""
        return self._stream("order", epoch)

    def recordings(self, batch: int) -> np.random.Generator:
        """Which recordings of its speakers make a batch."""
        return self._stream("recordings", batch)

    def unlabelled(self, batch: int) -> np.random.Generator:
        """Which recordings of unlabelled corpora are in a batch."""
        return self._stream("unlabelled", batch)

    def lengths(self, step: int) -> np.random.Generator:
        """How long the crops of an optimiser step are."""
        return self._stream("lengths", step)

    def crops(self, batch: int) -> np.random.Generator:
        """Where in their recordings the crops of a batch lie."""
        return self._stream("crops", batch)

    def noise(self, batch: int) -> np.random.Generator:
        """Which noise is mixed into a batch."""
        return self._stream("noise", batch)

    def held_out(self) -> np.random.Generator:
        """Which speakers are validated on."""
        return self._stream("held out", 0)

    def views(self, batch: int) -> int:
        """The seed of torch's generator for the augmentations of a batch."""
        return int(self._stream("views", batch).integers(2**63))

    def weights(self) -> int:
        """The seed of torch's generator for weights that are random at first."""
        return int(self._stream("weights", 0).integers(2**63))

    def _stream(self, name: str, number: int) -> np.random.Generator:
        words = np.frombuffer(hashlib.sha256(f"{self.part} {name}".encode()).digest(), np.uint32)
        # a spawn key, unlike a list as the seed, is not padded with zeros: (1,) and (1, 0) differ
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(*words.tolist(), number)))
