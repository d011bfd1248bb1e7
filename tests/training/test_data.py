"""What is learned from: recordings of several stores, at several speeds, and those held out."""

import numpy as np
import pytest

from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.training.batches import CropBatches, Reader
from speakerprint.training.data import Examples, Noise, TrainingSet, split_recordings, spread_over_speakers
from speakerprint.training.streams import Streams
from speakerprint.training.teacher import write_teacher
from speakerprint.training.views import change_speed
from tests.training.runs import teach, training_set, write_store

STREAMS = Streams(1)


def test_speakers_at_other_speeds_are_speakers_of_their_own(run):
    data = training_set(run)
    examples = Examples.at_speeds(data, np.arange(4, 12), [1.0, 2.0])
    assert examples.n_speakers == 4 and len(examples) == 16
    assert examples.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    plain, fast = (examples.crop(i, 20, 0.5) for i in (1, 9))
    np.testing.assert_array_equal(plain, data.crop(5, 20, 0.5))
    np.testing.assert_array_equal(fast, change_speed(data.crop(5, 40, 0.5), 2.0))
    assert len(fast) == 20


def test_genders_are_codes_and_the_unknown_are_one_of_them(run):
    store = FeatureStore(run.folder / "a")
    store.genders[:3] = ["female", None, "other"]
    assert TrainingSet({"a": store}).genders[:8].tolist() == [0, 2, 2, 0, 1, 1, 1, 1]


def test_noise_that_is_shorter_than_a_crop_is_repeated(run):
    write_store(run.folder / "wind", speakers=1, recordings=1)
    noise = Noise({"wind": FeatureStore(run.folder / "wind")})
    length = int(noise.data.stores[0].n_frames[0])
    crop = noise.crops(1, 2 * length + 3, np.random.default_rng(0))[0]
    assert crop.shape == (80, 2 * length + 3) and crop.dtype == np.float32
    np.testing.assert_array_equal(crop[:, length : 2 * length], crop[:, :length])
    np.testing.assert_array_equal(crop[:, 2 * length :], crop[:, :3])


def test_validation_speakers_are_not_trained_on(run):
    data = training_set(run)
    training, validation = split_recordings(data, run.recipe.train, STREAMS)
    held_out = set(data.speaker_ids[validation])
    assert len(held_out) == 2 and all(name.startswith("a/speaker") for name in held_out)
    assert held_out.isdisjoint(data.speaker_ids[training]) and len(training) + len(validation) == 32
    others = split_recordings(data, run.recipe.train, Streams(2))[1]
    assert set(data.speaker_ids[others]) != held_out


def test_a_small_validation_set_still_has_target_trials(tmp_path, run):
    data = TrainingSet({"a": FeatureStore(write_store(tmp_path / "many", speakers=20))})
    settings = run.recipe.train.model_copy(update={"validation_speakers": 0.5, "validation_max_recordings": 8})
    training, validation = split_recordings(data, settings, STREAMS)
    assert len(validation) == 8 and len(np.unique(data.speaker_ids[validation])) == 2
    assert not set(data.speaker_ids[validation]) & set(data.speaker_ids[training])


def test_validation_without_two_recordings_of_a_speaker_is_refused_with_a_remedy(tmp_path, run):
    data = TrainingSet({"a": FeatureStore(write_store(tmp_path / "lone", speakers=8, recordings=1))})
    with pytest.raises(InputError, match=r"no two are of one speaker; raise filter\.min_recordings_per_speaker"):
        split_recordings(data, run.recipe.train, STREAMS)


@pytest.mark.slow
def test_speakers_of_two_corpora_with_the_same_id_are_two(tmp_path):
    stores = {name: FeatureStore(write_store(tmp_path / name, speakers=3, seed=i)) for i, name in enumerate("ab")}
    data = TrainingSet(stores)
    assert len(np.unique(data.speaker_ids)) == 6
    np.testing.assert_array_equal(data.crop(13, 10_000, 0.0), stores["b"].frames(1))


def test_a_crop_is_inside_its_recording(run):
    data, whole = training_set(run), FeatureStore(run.folder / "a").frames(5)
    np.testing.assert_array_equal(data.crop(5, 40, 0.0), whole[:40])
    np.testing.assert_array_equal(data.crop(5, 40, 1.0), whole[-40:])


def test_recordings_are_taken_from_all_speakers_in_turn():
    assert spread_over_speakers(np.array(["a"] * 5 + ["b"] * 2 + ["c"]), 5).tolist() == [0, 1, 5, 6, 7]
    assert spread_over_speakers(np.array(["c", "a", "a", "b", "a", "b"]), 4).tolist() == [0, 1, 2, 3]
    assert spread_over_speakers(np.array([], dtype=str), 5).tolist() == []


@pytest.mark.slow
def test_nobody_unlabelled_is_validated_on(run):
    stores = {name: FeatureStore(write_store(run.folder / name, seed=seed)) for seed, name in enumerate("bc")}
    with_them, alone = TrainingSet({"b": stores["b"]}, {"c": stores["c"]}), TrainingSet({"b": stores["b"]})
    splits = [split_recordings(data, run.recipe.train, STREAMS) for data in (with_them, alone)]
    assert all(map(np.array_equal, *splits))


def test_a_teacher_has_its_say_at_the_speeds_that_it_has_heard(run):
    """Recordings as they are, and the first half of them at a speed of 1.1, but not at 0.9."""
    data = training_set(run)
    folder, rng = teach(run), np.random.default_rng(4)
    ids = [f"clip{i:03d}" for i in range(32)]
    rows = rng.normal(size=(48, 6)).astype(np.float32)
    write_teacher(folder / "aunt/a.parquet", ids + ids[:16], rows, [1.0] * 32 + [1.1] * 16)
    data.take_teachers(folder, [0.9, 1.0, 1.1])
    examples = Examples.at_speeds(data, np.arange(32), [0.9, 1.0, 1.1])
    heard = (examples.speeds == 1) | ((examples.speeds == 1.1) & (examples.recordings < 16))
    assert examples.taught[0].any(axis=1).tolist() == heard.tolist()
    batches = CropBatches(Reader(examples, None, STREAMS), run.recipe)
    for number in range(4):
        chosen, (taught,) = batches.chosen.batch(number), batches[number].taught
        assert taught.any(dim=1).tolist() == heard[chosen].tolist()
        for example, own in zip(chosen, taught.numpy(), strict=True):
            if heard[example]:
                of_speed = slice(32) if examples.speeds[example] == 1 else slice(32, 48)
                row = rows[of_speed][examples.recordings[example]] - rows[of_speed].mean(axis=0)
                np.testing.assert_allclose(own, row / np.linalg.norm(row), atol=1e-6)
