"""Which recordings make a batch: `speakers` speakers, `utterances` recordings of each."""

import numpy as np

from speakerprint.errors import InputError
from speakerprint.params import Sampling


class SpeakerBatches:
    """Batches of recordings, numbered: batch ``i`` is a function of the seed and ``i`` alone, so a run resumes anywhere.

    An epoch visits every speaker once in a random order (those left over when `speakers` does not divide their number sit it
    out). A speaker with fewer recordings than `utterances` gives each as often as needed.

    speaker_ids: (n,) any hashable labels. genders: (n,) str or None. Raises InputError for settings that no batch can meet.
    """

    def __init__(self, speaker_ids: np.ndarray, genders: np.ndarray, settings: Sampling, seed: int):
        self.settings, self.seed = settings, seed
        speakers, labels = np.unique(speaker_ids, return_inverse=True)
        order = np.argsort(labels, kind="stable")
        self.recordings = np.split(order, np.cumsum(np.bincount(labels))[:-1])  # of each speaker
        if settings.single_gender:
            gender = np.array([str(genders[recordings[0]]) for recordings in self.recordings])
            groups = [np.flatnonzero(gender == name) for name in ("female", "male")]
        else:
            groups = [np.arange(len(speakers))]
        self.groups = [group for group in groups if len(group)]
        if not self.groups or min(map(len, self.groups)) < settings.speakers:
            found = " and ".join(str(len(group)) for group in groups)
            kind = "female and male speakers are known" if settings.single_gender else "speakers are there to train on"
            raise InputError(
                f"sampling.speakers is {settings.speakers}, but only {found} {kind}; lower it, loosen the filter, or add a corpus"
            )
        self.per_epoch = sum(len(group) // settings.speakers for group in self.groups)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def _speakers_of_epoch(self, epoch: int) -> list[np.ndarray]:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            batches = []
            for group in self.groups:
                shuffled = rng.permutation(group)
                whole = len(group) // self.settings.speakers * self.settings.speakers
                batches += np.split(shuffled[:whole], whole // self.settings.speakers)
            self._epoch = (epoch, [batches[i] for i in rng.permutation(len(batches))])
        return self._epoch[1]

    def batch(self, number: int) -> np.ndarray:
        """Indices of the recordings of batch `number`, (speakers * utterances,), a speaker's side by side."""
        epoch, within = divmod(number, self.per_epoch)
        rng = np.random.default_rng([self.seed, epoch, within])
        wanted = self.settings.utterances
        chosen = []
        for speaker in self._speakers_of_epoch(epoch)[within]:
            recordings = self.recordings[speaker]
            rounds = [rng.permutation(recordings) for _ in range(-(-wanted // len(recordings)))]
            chosen.append(np.concatenate(rounds)[:wanted])
        return np.concatenate(chosen)
