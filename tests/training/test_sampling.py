"""Batches of speakers x utterances."""

import numpy as np
import pytest

from speakerprint.errors import InputError
from speakerprint.params.sampling import Sampling
from speakerprint.training.sampling import SpeakerBatches


def labels_with(*recordings_per_speaker):
    return np.repeat(np.arange(len(recordings_per_speaker)), recordings_per_speaker)


def sampler(
    labels, speakers=3, utterances=2, genders=None, single_gender=False, seed=1, corpora=None, weights=None, locales=None
):
    unknown = np.full(len(labels), None, dtype=object)
    genders, by_locale = unknown if genders is None else genders, locales is not None
    locales = locales if by_locale else unknown
    corpora = np.full(len(labels), "a") if corpora is None else corpora
    settings = Sampling(
        speakers=speakers,
        utterances=utterances,
        single_gender=single_gender,
        speeds=[1.0],
        corpus_weights=weights,
        by_locale=by_locale,
    )
    return SpeakerBatches(labels, genders, locales, corpora, settings, seed)


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


def test_single_gender_batches_mix_no_genders_and_use_both():
    labels = labels_with(*[3] * 10)
    genders = np.repeat(np.array(["female"] * 4 + ["male"] * 4 + [None, "other"], dtype=object), 3)
    batches = sampler(labels, genders=genders, single_gender=True, speakers=4)
    seen = [set(genders[batches.batch(i)]) for i in range(6)]
    assert all(len(genders_of_batch) == 1 for genders_of_batch in seen)
    assert set().union(*seen) == {"female", "male"}


def test_too_few_speakers_are_refused_with_what_would_work():
    with pytest.raises(InputError, match=r"sampling\.speakers is 9, but only 5 .*lower it"):
        sampler(labels_with(*[3] * 5), speakers=9)


def test_too_few_speakers_of_one_gender_are_refused_with_both_counts():
    genders = np.repeat(np.array(["female", "female", "male"], dtype=object), 2)
    with pytest.raises(InputError, match="only 2 and 1 female and male"):
        sampler(labels_with(2, 2, 2), genders=genders, single_gender=True)


@pytest.mark.parametrize("single_gender", [False, True])
def test_speakers_are_drawn_in_proportion_to_the_weights_of_their_corpora(single_gender):
    labels = labels_with(*[2] * 60)
    corpora = np.array(["a", "b", "c"])[labels // 20]  # 20 speakers each
    genders = np.array(["female", "male"], dtype=object)[labels % 2]
    weights = {"a": 3.0, "b": 0.5}  # and 1 for c
    batches = sampler(labels, genders=genders, single_gender=single_gender, speakers=5, corpora=corpora, weights=weights)
    drawn = [np.unique(labels[batches.batch(number)]) for number in range(30 * batches.per_epoch)]
    assert {len(speakers) for speakers in drawn} == {5}
    times = np.bincount(np.concatenate(drawn), minlength=60)
    expected = times.sum() * np.repeat([3.0, 0.5, 1.0], 20) / (20 * 4.5)
    per_corpus = times.reshape(3, 20).sum(axis=1) / expected.reshape(3, 20).sum(axis=1)
    assert np.abs(per_corpus - 1).max() < 0.05
    assert np.abs(times - expected).max() < 15  # a speaker's: 60, 10 and 20 times in 30 epochs
    again = sampler(labels, genders=genders, single_gender=single_gender, speakers=5, corpora=corpora, weights=weights)
    assert np.array_equal(again.batch(7), batches.batch(7))


def test_a_weight_that_a_batch_of_different_speakers_cannot_have_is_refused():
    labels = labels_with(*[2] * 10)
    corpora = np.where(labels < 2, "few", "many")
    with pytest.raises(InputError, match=r"each speaker of few 1\.25 times; bring the weights closer"):
        sampler(labels, speakers=5, corpora=corpora, weights={"few": 8.0, "many": 2.0})


def test_batches_by_locale_hold_few_locales_and_visit_all_speakers():
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


def test_speakers_cannot_be_ordered_by_locale_and_weighted_at_once():
    with pytest.raises(ValueError, match="by_locale is true and corpus_weights are given"):
        sampler(labels_with(2, 2, 2), weights={"a": 1.0}, locales=np.full(6, "fr"))
