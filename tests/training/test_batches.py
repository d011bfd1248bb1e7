"""Batches: crops of the lengths asked for, views as asked for, read ahead."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.training.batches import CropBatches, Reader, ahead, crop_frames, read_ahead
from speakerprint.training.data import Examples, TrainingSet
from speakerprint.training.streams import Streams
from tests.training.runs import reader, write_store


def lengths(run, batches: int, **settings) -> list[int]:
    """How many frames the first batches have with these settings of `train`."""
    changed = run.recipe.train.model_copy(update=settings)
    streams = Streams(changed.seed)
    return [crop_frames(changed, number // changed.gradient_accumulation, streams) for number in range(batches)]


def test_crops_grow_evenly_to_the_last_step(run):
    assert lengths(run, 6, steps=3, gradient_accumulation=2, last_crop_s=0.7) == [50, 50, 60, 60, 70, 70]


def test_crops_of_random_lengths_are_drawn_anew_for_each_step(run):
    settings = dict(steps=4, gradient_accumulation=2, crop_s=0.3, last_crop_s=0.5, crop_lengths="random")
    frames = lengths(run, 8, **settings)
    assert frames[::2] == frames[1::2] and len(set(frames)) >= 3
    assert all(30 <= n <= 50 for n in frames) and frames != sorted(frames)
    assert lengths(run, 8, **settings) == frames


def test_a_batch_is_of_the_length_and_the_recordings_that_are_asked_for(run):
    batches = CropBatches(reader(run), run.recipe)
    batch, examples = batches[3], batches.reader.examples
    chosen = batches.chosen.batch(3)
    assert batch.features.shape == (6, 80, 50) and not batch.padded and len(batch) == 6
    assert batch.labels.tolist() == examples.labels[chosen].tolist()
    assert batch.genders.tolist() == examples.genders[chosen].tolist()
    assert torch.equal(batches[3].features, batch.features) and not torch.equal(batches[4].features, batch.features)


def test_unlabelled_clips_come_last_without_a_speaker_and_leave_the_others_as_they_are(run):
    stores = [FeatureStore(run.folder / "a"), FeatureStore(write_store(run.folder / "b", speakers=2, recordings=5, seed=1))]
    data = TrainingSet({"a": stores[0]}, {"b": stores[1]})
    assert data.recordings_per_speaker().keys() == {"a"} and len(data.unlabelled) == 10
    known = Reader(Examples.at_speeds(data, data.labelled, [1.0]), None, Streams(1))
    beside = CropBatches(known, run.recipe, Examples.unlabelled(data, [1.0]))
    batch, alone = beside[3], CropBatches(known, run.recipe)[3]
    assert len(batch) == 9 and batch.n_labelled == len(alone) == alone.n_labelled == 6
    assert torch.equal(batch.labels, torch.cat([alone.labels, torch.full((3,), -1)]))
    drawn = {number: beside.choose(number)[6:].tolist() for number in range(40)}
    assert all(len(set(row)) == 3 for row in drawn.values()) and set().union(*drawn.values()) == set(range(32, 42))


def test_views_follow_from_the_batch_and_differ_from_one_another(run):
    batch = CropBatches(reader(run), run.recipe)[0]
    clip, first, second = batch.views(run.recipe.augmentation, 2)
    assert torch.equal(clip, batch.features)  # no kind is drawn for the triplet loss
    assert not torch.equal(first, second) and not torch.equal(first, clip)
    again = batch.views(run.recipe.augmentation, 2)
    assert torch.equal(again[1], first) and torch.equal(again[2], second)


@pytest.mark.slow
def test_batches_come_in_order_from_memory_and_from_processes(run, monkeypatch):
    monkeypatch.setattr("speakerprint.training.batches.READERS", 1)  # each takes seconds to start
    batches = CropBatches(reader(run), run.recipe)
    for in_memory in (True, False):
        feed = list(read_ahead(batches, range(2, 5), in_memory, torch.device("cpu")))
        assert all(torch.equal(one.features, batches[2 + i].features) for i, one in enumerate(feed)) and len(feed) == 3


def test_the_next_batch_is_made_while_this_one_is_learned_from():
    made = []

    def batches():
        for number in range(3):
            made.append(number)
            yield number

    feed = ahead(batches())
    assert next(feed) == 0
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1]
    assert list(feed) == [1, 2]


def test_an_error_in_making_a_batch_is_the_loops_error():
    def batches():
        yield 0
        raise InputError("a damaged store")

    feed = ahead(batches())
    assert next(feed) == 0
    with pytest.raises(InputError, match="a damaged store"):
        next(feed)


def test_positions_place_the_crops(run):
    source = reader(run)
    batch = source.read(np.array([0, 5]), 40, np.array([0.0, 1.0]), 0)
    np.testing.assert_array_equal(batch.features[1].T, source.examples.crop(5, 40, 1.0).astype(np.float32))


def test_crops_may_all_begin_where_the_recording_does(run):
    recipe = replace(run.recipe, train=run.recipe.train.model_copy(update={"crop_position": "start"}))
    source = reader(run)
    starts = {source.examples.crop(i, 50, 0.0).tobytes() for i in range(32)}
    clips = CropBatches(source, recipe)[0].features
    assert all(clip.T.numpy().astype(np.float16).tobytes() in starts for clip in clips)


def test_ntxents_view_is_made_of_the_clip_that_the_triplet_loss_sees(run):
    kinds = {"triplet": ["time_mask"], "ntxent": ["frequency_mask"]}
    drawn = {"triplet": {"kinds_per_clip": 1}, "ntxent": {"kinds_per_view": 1}}
    augmentation = run.recipe.augmentation
    sections = {name: getattr(augmentation, name).model_copy(update={"kinds": kinds[name]} | drawn[name]) for name in kinds}
    batch = CropBatches(reader(run), run.recipe)[0]
    loud = replace(batch, features=torch.rand(6, 80, 50) + 1)
    clip, view = loud.views(augmentation.model_copy(update=sections), 1)
    masked = clip < 0.5
    assert masked.any(dim=1).any(dim=1).all() and masked.all(dim=1).sum() == masked.any(dim=1).sum()  # whole frames
    assert ((view < 0.5) >= masked).all() and (view < 0.5).sum() > masked.sum()  # the same frames, and some bands
