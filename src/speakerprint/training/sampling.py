"""Which recordings make a batch: `speakers` speakers, `utterances` recordings of each."""

import numpy as np

from speakerprint.errors import InputError
from speakerprint.params.sampling import Sampling


class SpeakerBatches:
    """Batches of recordings, numbered: batch ``i`` is a function of the seed and ``i`` alone, so a run resumes anywhere.

    An epoch visits every speaker once in a random order (those left over when `speakers` does not divide their number sit it
    out), or, with `corpus_weights`, as often as the weight of the speaker's corpus says. A speaker with fewer recordings than
    `utterances` gives each as often as needed. With `by_locale`, the speakers of a locale come side by side: a batch holds as
    few locales as can be, so that its negatives differ in the voice and not in the language.

    speaker_ids: (n,) any hashable labels. genders, locales: (n,) str or None. corpora: (n,) names. Raises InputError for settings
    that no batch can meet.
    """

    def __init__(
        self,
        speaker_ids: np.ndarray,
        genders: np.ndarray,
        locales: np.ndarray,
        corpora: np.ndarray,
        settings: Sampling,
        seed: int,
    ):
        self.settings, self.seed = settings, seed
        speakers, labels = np.unique(speaker_ids, return_inverse=True)
        order = np.argsort(labels, kind="stable")
        self.recordings = np.split(order, np.cumsum(np.bincount(labels))[:-1])  # of each speaker
        corpus = [corpora[recordings[0]] for recordings in self.recordings]
        self.locales = np.unique([str(locales[recordings[0]]) for recordings in self.recordings], return_inverse=True)[1]
        self.weights = np.array([(settings.corpus_weights or {}).get(name, 1.0) for name in corpus])
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
        for group in self.groups if settings.corpus_weights else []:
            times = settings.speakers * self.weights[group] / self.weights[group].sum()  # that each speaker is in a batch
            if times.max() > 1 - 1e-9:
                raise InputError(
                    f"sampling.corpus_weights is {settings.corpus_weights}, so that every batch would need each speaker of "
                    f"{corpus[group[times.argmax()]]} {times.max():.2f} times; bring the weights closer together, or lower "
                    "sampling.speakers"
                )
        self.per_epoch = sum(len(group) // settings.speakers for group in self.groups)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def _speakers_of_epoch(self, epoch: int) -> list[np.ndarray]:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            batches = []
            for group in self.groups:
                shuffled = rng.permutation(group)
                if self.settings.by_locale:
                    turn = rng.permutation(self.locales.max() + 1)
                    shuffled = shuffled[np.argsort(turn[self.locales[shuffled]], kind="stable")]
                    shuffled = np.roll(shuffled, rng.integers(len(shuffled)))  # so that all sit out an epoch equally often
                n_batches = len(group) // self.settings.speakers
                whole = n_batches * self.settings.speakers
                if self.settings.corpus_weights:
                    # so many points, evenly over the speakers laid end to end, each as long as its weight; a speaker's points
                    # follow one another, so dealt in turn they come to different batches
                    ends = self.weights[shuffled].cumsum()
                    points = (np.arange(whole) + rng.random()) * ends[-1] / whole
                    shuffled = shuffled[np.searchsorted(ends, points, side="right")].reshape(-1, n_batches).T.ravel()
                batches += np.split(shuffled[:whole], n_batches)
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
