"""Which recordings make a batch: `speakers` speakers, `utterances` recordings of each."""

import numpy as np

from speakerprint.params.sampling import Sampling
from speakerprint.training.streams import Streams


class SpeakerBatches:
    """Batches of recordings, numbered: batch ``i`` is a function of the seed and ``i`` alone, so a run resumes anywhere.

    An epoch visits every speaker once in a random order (those left over when `speakers` does not divide their number sit it
    out). A speaker with fewer recordings than `utterances` gives each as often as needed. The speakers of a locale come side by
    side: a batch holds as few locales as can be, so that its negatives differ in the voice and not in the language.

    speaker_ids: (n,) any hashable labels. locales: (n,) str or None. There must be as many speakers as a batch holds.
    """

    def __init__(self, speaker_ids: np.ndarray, locales: np.ndarray, settings: Sampling, streams: Streams):
        self.settings, self.streams = settings, streams
        speakers, labels = np.unique(speaker_ids, return_inverse=True)
        assert len(speakers) >= settings.speakers, "see refuse_too_few_speakers"
        order = np.argsort(labels, kind="stable")
        self.recordings = np.split(order, np.cumsum(np.bincount(labels))[:-1])  # of each speaker
        self.locales = np.unique([str(locales[recordings[0]]) for recordings in self.recordings], return_inverse=True)[1]
        self.per_epoch = len(speakers) // settings.speakers
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0))

    def _speakers_of_epoch(self, epoch: int) -> np.ndarray:
        """The speakers of each batch of an epoch, (batches, speakers)."""
        if self._epoch[0] != epoch:
            rng = self.streams.order(epoch)
            shuffled = rng.permutation(len(self.recordings))
            turn = rng.permutation(self.locales.max() + 1)
            shuffled = shuffled[np.argsort(turn[self.locales[shuffled]], kind="stable")]
            shuffled = np.roll(shuffled, rng.integers(len(shuffled)))  # so that all sit out an epoch equally often
            batches = shuffled[: self.per_epoch * self.settings.speakers].reshape(self.per_epoch, -1)
            self._epoch = (epoch, rng.permutation(batches))
        return self._epoch[1]

    def batch(self, number: int) -> np.ndarray:
        """Indices of the recordings of batch `number`, (speakers * utterances,), a speaker's side by side."""
        epoch, within = divmod(number, self.per_epoch)
        rng = self.streams.recordings(number)
        wanted = self.settings.utterances
        chosen = []
        for speaker in self._speakers_of_epoch(epoch)[within]:
            recordings = self.recordings[speaker]
            rounds = [rng.permutation(recordings) for _ in range(-(-wanted // len(recordings)))]
            chosen.append(np.concatenate(rounds)[:wanted])
        return np.concatenate(chosen)
