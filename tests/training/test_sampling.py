"""Batches of speakers x utterances."""

import numpy as np

from speakerprint.params.sampling import Sampling
from speakerprint.training.sampling import SpeakerBatches
from speakerprint.training.streams import Streams


def labels_with(*recordings_per_speaker):
    return np.repeat(np.arange(len(recordings_per_speaker)), recordings_per_speaker)


def sampler(labels, speakers=3, utterances=2, seed=1, locales=None):
    locales = np.full(len(labels), None, dtype=object) if locales is None else locales
    return SpeakerBatches(
        labels, locales, Sampling(speakers=speakers, utterances=utterances, unlabelled=1, speeds=[1.0]), Streams(seed)
    )


def test_a_batch_has_the_asked_speakers_and_utterances():
    labels = labels_with(4, 5, 6, 7, 8)
    for number in range(20):
        chosen = sampler(labels).batch(number)
        speakers, counts = np.unique(labels[chosen], return_counts=True)
        assert len(speakers) == 3 and set(counts) == {2}
        assert len(set(chosen)) == 6


def test_an_epoch_visits_every_speaker_once():
    labels = labels_with(*[3] * 12)
    batches = sampler(labels)
    assert batches.per_epoch == 4
    for epoch in range(3):
        visited = np.concatenate([np.unique(labels[batches.batch(epoch * 4 + i)]) for i in range(4)])
        assert sorted(visited) == list(range(12))


def test_a_batch_depends_on_its_number_and_seed_only():
    labels = labels_with(*[5] * 7)
    in_order = [sampler(labels).batch(i).tolist() for i in range(8)]
    one = sampler(labels)
    assert [one.batch(i).tolist() for i in reversed(range(8))] == in_order[::-1]
    assert sampler(labels, seed=2).batch(0).tolist() != in_order[0]


def test_a_speaker_with_few_recordings_gives_each_as_often_as_needed():
    labels = labels_with(1, 2, 5)
    chosen = sampler(labels, utterances=5).batch(0)
    counts = [np.unique(chosen[labels[chosen] == speaker], return_counts=True)[1].tolist() for speaker in range(3)]
    assert counts[0] == [5] and sorted(counts[1]) == [2, 3] and counts[2] == [1, 1, 1, 1, 1]


def test_batches_hold_few_locales_and_visit_all_speakers():
    labels = labels_with(*[2] * 26)
    locales = np.repeat(np.array(["fr", "de", None], dtype=object), [20, 20, 12])
    batches = sampler(labels, speakers=4, locales=locales)
    in_batch, visited = [], set()
    for number in range(20 * batches.per_epoch):
        chosen = batches.batch(number)
        in_batch.append(len(set(map(str, locales[chosen]))))
        visited |= set(labels[chosen])
    assert batches.per_epoch == 6 and len(visited) == 26
    assert max(in_batch) == 2 and np.mean(in_batch) < 1.7  # 3 seams between 3 locales, in 6 batches of 4 speakers


def test_speakers_of_a_small_locale_sit_out_no_more_epochs_than_others():
    labels = labels_with(*[2] * 26)
    locales = np.repeat(np.array(["fr", "de"], dtype=object), [48, 4])
    batches = sampler(labels, speakers=4, locales=locales)
    epochs = [[batches.batch(epoch * batches.per_epoch + i) for i in range(batches.per_epoch)] for epoch in range(60)]
    heard = [set(labels[np.concatenate(epoch)]) & {24, 25} for epoch in epochs]  # two of the 26 sit out each epoch
    assert sum(map(len, heard)) > 0.8 * 2 * 60
