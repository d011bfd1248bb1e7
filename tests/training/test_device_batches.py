"""Batches cut on the training device: the same as the host's, without asking the device for anything."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import speakerprint.training.device_batches as device_batches
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.training.batches import CropBatches, Reader
from speakerprint.training.data import Examples, Noise, TrainingSet
from speakerprint.training.device_batches import DeviceReader, beside_the_model
from speakerprint.training.streams import Streams
from speakerprint.training.teacher import write_teacher
from tests.training.runs import Run, curve, same, teach, with_teacher, write_store

CPU = torch.device("cpu")


@pytest.fixture
def roomy(monkeypatch):
    """Every device has free memory of its own, the processor too."""
    monkeypatch.setattr(device_batches, "free_bytes", lambda device: 1 << 40)


def all_kinds(run: Run, speeds: list[float]) -> tuple[Reader, Examples]:
    """A reader of two labelled stores with noise and two teachers, and the examples of an unlabelled one."""
    for seed, name in enumerate(("b", "c", "wind"), start=1):
        write_store(run.folder / name, speakers=3, seed=seed)
    stores = {name: FeatureStore(run.folder / name) for name in ("a", "b", "c")}
    data = TrainingSet({name: stores[name] for name in "ab"}, {"c": stores["c"]})
    rng = np.random.default_rng(3)
    for teacher, dim in (("aunt", 6), ("uncle", 4)):
        for name, store in stores.items():
            ids, rows = store.recordings["recording_id"].tolist(), rng.normal(size=(len(store) * len(speeds), dim))
            at = np.repeat(speeds, len(store)).tolist()
            write_teacher(run.folder / f"teacher/{teacher}/{name}.parquet", ids * len(speeds), rows.astype(np.float32), at)
    data.take_teachers(run.folder / "teacher", speeds)
    noise = Noise({"wind": FeatureStore(run.folder / "wind")})
    known = Examples.at_speeds(data, data.labelled, speeds)
    return Reader(known, noise, Streams(1)), Examples.unlabelled(data, speeds)


def both(run: Run, speeds: list[float], **train) -> tuple[CropBatches, CropBatches]:
    """The same batches by either reader: the host's, then the device's."""
    host, unlabelled = all_kinds(run, speeds)
    recipe = replace(run.recipe, train=run.recipe.train.model_copy(update=train))
    device = beside_the_model(host, CPU)
    assert isinstance(device, DeviceReader)
    one, other = (CropBatches(reader, recipe, unlabelled) for reader in (host, device))
    return one, other


@pytest.mark.parametrize("crop_s", [0.5, 1.0], ids=["all as long", "some shorter, and noise repeated"])
def test_batches_at_the_recorded_speed_are_exactly_the_hosts(run, roomy, crop_s):
    host, device = both(run, [1.0], crop_s=crop_s, last_crop_s=crop_s)
    for number in range(4):
        one, other = host[number], device[number]
        assert one.padded == (crop_s == 1.0) and one.noise.shape == one.features.shape and len(one.taught) == 2
        for field in fields(one):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            for a, b in zip(ours, theirs, strict=True) if field.name == "taught" else [(ours, theirs)]:
                equal = torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b
                assert equal, field.name


@pytest.mark.parametrize("crop_s", [0.37, 1.0])
def test_batches_at_other_speeds_are_the_hosts_but_for_rounding(run, roomy, crop_s):
    host, device = both(run, [0.9, 1.0, 1.1, 2.0], crop_s=crop_s, last_crop_s=crop_s)
    seen: set[float] = set()
    for number in range(6):
        one, other = host[number], device[number]
        chosen = host.choose(number)
        speeds = host.reader.examples.speeds[chosen]
        seen |= set(speeds.tolist())
        assert torch.equal(one.n_frames, other.n_frames) and one.padded == other.padded
        assert torch.equal(one.features[speeds == 1], other.features[speeds == 1])
        torch.testing.assert_close(one.features, other.features, atol=2e-6, rtol=0)
        assert torch.equal(one.noise, other.noise) and all(map(torch.equal, one.taught, other.taught))
    assert len(seen) == 4


def test_without_noise_or_teachers_there_is_none_in_the_batch(run, roomy):
    data = TrainingSet({"a": FeatureStore(run.folder / "a")})
    reader = beside_the_model(Reader(Examples.at_speeds(data, data.labelled, [1.0]), None, Streams(1)), CPU)
    batch = CropBatches(reader, run.recipe)[0]
    assert batch.noise.shape == (0,) and batch.taught == () and batch.features.shape == (6, 80, 50)


def test_a_batch_asks_its_device_for_nothing(run, roomy):
    """On the device "meta", where tensors have no values, whatever needs one to go on is an error."""
    host, unlabelled = all_kinds(run, [0.9, 1.0])
    recipe = replace(run.recipe, train=run.recipe.train.model_copy(update={"crop_s": 1.0, "last_crop_s": 1.0}))
    on_meta = CropBatches(beside_the_model(host, torch.device("meta")), recipe, unlabelled)[2]
    on_host = CropBatches(host, recipe, unlabelled)[2]
    for field in ("features", "n_frames", "labels", "genders", "noise"):
        tensor = getattr(on_meta, field)
        assert tensor.is_meta and tensor.shape == getattr(on_host, field).shape
    assert on_meta.padded and on_meta.n_labelled == on_host.n_labelled == 6
    assert on_meta.pin_memory().features is on_meta.features  # a copy of it in the host's memory would be waited for


def test_features_that_take_more_than_half_of_the_free_memory_stay_on_the_host(run, monkeypatch):
    host, _ = all_kinds(run, [1.0])
    stores = [*host.examples.data.stores, *host.noise.data.stores]
    n_bytes = 160 * int(np.concatenate([store.n_frames for store in stores]).sum())
    for free, on_device in ((2 * n_bytes, True), (2 * n_bytes - 2, False), (0, False)):
        monkeypatch.setattr(device_batches, "free_bytes", lambda device, free=free: free)
        assert isinstance(beside_the_model(host, CPU), DeviceReader) == on_device


def test_free_memory_is_asked_of_a_gpu_and_a_processor_has_none_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {torch.device("cuda:1"): (5, 9)}[device])
    assert device_batches.free_bytes(torch.device("cuda:1")) == 5
    assert device_batches.free_bytes(CPU) == 0


def test_stores_that_are_not_in_memory_are_copied_part_by_part(run, roomy, monkeypatch):
    monkeypatch.setattr("speakerprint.training.data.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("speakerprint.corpora.feature_store.SHARD_FRAMES", 500)
    host, device = both(run, [1.0])
    assert not host.reader.in_memory and device.reader.in_memory
    assert torch.equal(host[1].features, device[1].features)


@pytest.mark.slow
@pytest.mark.parametrize("speeds", [[1.0], [0.9, 1.0]], ids=["as recorded", "two speeds"])
def test_a_run_is_the_same_run_whoever_cuts_its_batches(run, monkeypatch, speeds):
    """Through the discriminant start, labelled and unlabelled speech, noise and a teacher."""
    others = {name: {name: write_store(run.folder / name, speakers=3, seed=seed)} for seed, name in enumerate(("b", "wind"), 4)}
    recipe = with_teacher(run.recipe)
    drawn = recipe.augmentation.ntxent.model_copy(update={"kinds": ["recorded_noise", "channel"], "kinds_per_view": 2})
    recipe = replace(
        recipe,
        augmentation=recipe.augmentation.model_copy(update={"ntxent": drawn}),
        sampling=recipe.sampling.model_copy(update={"speeds": speeds}),
    )
    folder = teach(run)
    write_teacher(folder / "aunt/b.parquet", ["clip000"], np.ones((1, 6), np.float32))
    taught = Run(run.folder, recipe, folder)

    def learned(name: str) -> dict[str, torch.Tensor]:
        return taught(name, unlabelled=others["b"], noise=others["wind"], last_crop_s=0.8)

    by_host = learned("host")
    read, real = [], DeviceReader.read
    monkeypatch.setattr(DeviceReader, "read", lambda self, *given: read.append(given[3]) or real(self, *given))
    monkeypatch.setattr(device_batches, "free_bytes", lambda device: 1 << 40)
    by_device = learned("device")
    assert read[-6:] == list(range(6)) and len(read) > 6  # the start's, then those of training
    if speeds == [1.0]:
        assert same(by_host, by_device)
    assert curve(run, "device").tolist() == pytest.approx(curve(run, "host").tolist(), abs=1e-4)
