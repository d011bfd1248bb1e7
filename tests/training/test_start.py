"""Where training starts: from Whisper or a trained model, with a projection in closed form and centres at the speakers' means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import speakerprint.training.start as start
from speakerprint.errors import InputError
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.objective import Objective
from speakerprint.training.start import DiscriminantStart, StartBatches, initial_model, start_heads_from_model
from speakerprint.training.validation import embed_crops, validate
from tests.training.runs import Run, curve, reader, same, training_set


def discriminant_start(run: Run, folder="start", speeds=(1.0,), of_run="a run") -> DiscriminantStart:
    """The start of the run's recipe on all of its recordings, with its files in a folder."""
    torch.manual_seed(0)
    source = reader(run, speeds)
    model = initial_model(run.recipe.model, "unused")
    objective = Objective(model, source.examples.n_speakers, run.recipe)
    return DiscriminantStart(objective, StartBatches(source, run.recipe.discriminant), run.folder / folder, of_run)


def found(one: DiscriminantStart) -> dict[str, torch.Tensor]:
    """All weights once the start has been found."""
    one.find(Accelerator(cpu=True))
    return {name: tensor.clone() for name, tensor in one.objective.state_dict().items()}


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(start, "GROUP_SPEAKERS", 3)
    monkeypatch.setattr(start, "EMBEDDED_AT_ONCE", 5)


@pytest.mark.usefixtures("small_groups")
def test_every_recording_comes_once_as_it_is_and_once_as_a_view_in_groups_of_speakers(run):
    batches = StartBatches(reader(run, speeds=(1.0, 0.9)), run.recipe.discriminant)
    examples = batches.reader.examples
    for wanted in (False, True):
        came = np.concatenate([chosen for chosen, view in zip(batches.chosen, batches.views, strict=True) if view == wanted])
        assert sorted(examples.recordings[came][examples.speeds[came] == 1]) == list(range(32))
        assert sorted(examples.labels[came][examples.speeds[came] != 1]) == list(range(8, 16))  # one recording each
    for group in range(6):
        own = np.concatenate([chosen for chosen, of in zip(batches.chosen, batches.groups, strict=True) if of == group])
        assert set(batches.rank[examples.labels[own]] // 3) == {group}
    assert batches.groups == sorted(batches.groups)


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
def test_the_start_is_the_discriminant_analysis_of_all_pooled_statistics_at_once(run):
    """A second way: pool every crop, keep all, and do what the definition says."""
    one = discriminant_start(run, speeds=(1.0, 0.9))
    weights, model = found(one), one.model.eval()
    rows, labels = [], []
    with torch.inference_mode():
        for number, view in enumerate(one.batches.views):
            batch = one.batches[number]
            features = batch.views(run.recipe.augmentation, 1)[1] if view else batch.features
            rows.append(model.pool(*model.encode(features, batch.n_frames)))
            labels.append(batch.labels)
    pooled, codes = torch.cat(rows).double().numpy(), torch.cat(labels).numpy()
    mean, std = pooled.mean(axis=0), pooled.std(axis=0)
    np.testing.assert_allclose(weights["model.projection.mean"], mean, atol=1e-5)
    np.testing.assert_allclose(weights["model.projection.std"], std, atol=1e-5, rtol=1e-5)
    means = np.stack([pooled[codes == code].mean(axis=0) for code in range(16)])
    standard = (pooled - mean) / std
    deviations = standard - ((means - mean) / std)[codes]
    within = deviations.T @ deviations / (len(pooled) - 16)
    shrinkage, width = run.recipe.discriminant.shrinkage, pooled.shape[1]
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / width * np.eye(width)
    directions = weights["model.projection.linear.weight"].double().numpy()
    np.testing.assert_allclose(directions @ within @ directions.T, np.eye(8), atol=1e-5)
    total = standard.T @ standard / len(pooled)
    spread = directions @ total @ directions.T
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-5 * spread.max())
    largest = np.sort(np.linalg.eigvals(np.linalg.solve(within, total)).real)[::-1][:8]
    np.testing.assert_allclose(np.diag(spread), largest, rtol=1e-5)
    with torch.inference_mode():
        centres = model.project(torch.from_numpy(means).float())
    np.testing.assert_allclose(weights["angular_margin.centres"], centres, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_a_killed_start_goes_on_to_exactly_the_same_numbers(run, monkeypatch, at):
    monkeypatch.setattr(start, "SAVE_EVERY_S", 0.0)
    whole = found(discriminant_start(run, "whole"))
    killed = discriminant_start(run, "killed")
    real, added = DiscriminantStart.add, []

    def dying(self, number, batch):
        if self.done == at:
            raise KeyboardInterrupt
        real(self, number, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DiscriminantStart, "add", dying)
        found(killed)
    monkeypatch.setattr(DiscriminantStart, "add", lambda self, number, batch: added.append(number) or real(self, number, batch))
    resumed = discriminant_start(run, "killed")
    assert same(found(resumed), whole)
    assert added == resumed.numbers[at:]
    resumed.remove()
    assert list((run.folder / "killed").iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
def test_the_start_of_another_run_is_not_gone_on_from(run, monkeypatch):
    found(discriminant_start(run, of_run="one"))
    real, added = DiscriminantStart.add, []
    monkeypatch.setattr(DiscriminantStart, "add", lambda self, number, batch: added.append(number) or real(self, number, batch))
    other = discriminant_start(run, of_run="another")
    found(other)
    assert added == other.numbers


@pytest.mark.slow
def test_training_at_several_speeds_has_a_centre_for_each_speaker_at_each(run):
    centres = found(discriminant_start(run, speeds=(1.0, 0.9)))["angular_margin.centres"]
    assert len(centres) == 2 * 8
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(16))


@pytest.mark.slow
def test_a_discriminant_projection_starts_from_what_tells_speakers_apart(run):
    data, random = training_set(run), initial_model(run.recipe.model, "unused")
    one = discriminant_start(run)
    found(one)
    began, untrained = (validate(model, data, np.arange(32), 100) for model in (one.model, random))
    assert began < 0.5 * untrained


def test_centres_of_a_model_that_goes_on_are_the_mean_embeddings_of_its_speakers(run):
    source = reader(run)
    objective = Objective(initial_model(run.recipe.model, "unused"), 8, run.recipe)
    start_heads_from_model(objective, source, 60)
    rows = embed_crops(objective.model, (source.examples.crop(index, 60, 0.5) for index in range(32)))
    means = rows.reshape(8, 4, -1).mean(axis=1)
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(objective.angular_margin.centres.detach(), expected, atol=1e-5)


def test_maps_to_teachers_of_a_model_that_goes_on_predict_what_they_heard(run):
    source = reader(run)
    model = initial_model(run.recipe.model, "unused")
    rows = embed_crops(model, (source.examples.crop(index, 60, 0.5) for index in range(32)))
    turned = rows @ np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    unheard = np.where(rows[:, :1] < np.median(rows[:, 0]), turned, 0)  # half of the recordings, and not any half
    source = replace(source, examples=replace(source.examples, taught=(turned, unheard)))
    recipe = replace(run.recipe, loss=run.recipe.loss.model_copy(update={"teacher_match_weight": 1.0}))
    objective = Objective(model, 8, recipe, teacher_dims=(8, 8))
    start_heads_from_model(objective, source, 60)
    for match, taught in zip(objective.teacher_matches, (turned, unheard), strict=True):
        assert match(torch.from_numpy(rows)[None], torch.from_numpy(taught)) < 0.035


@pytest.mark.slow
def test_training_goes_on_from_a_trained_model(run):
    first = run("first", validation_speakers=0.0)
    assert same(initial_model(run.recipe.model, run.folder / "first/model").state_dict(), first)
    further = run("further", init_from=str(run.folder / "first/model"), head_learning_rate=1e-6, validation_speakers=0.0)
    near = "projection.linear.weight"
    assert 0 < (further[near] - first[near]).abs().max() < 1e-4


@pytest.mark.slow
def test_speakers_of_a_model_that_goes_on_start_where_it_hears_them(run):
    run.recipe = replace(run.recipe, model=run.recipe.model.model_copy(update={"projection": "mlp"}))
    run("from Whisper", steps=1)
    run("further", steps=1, init_from=str(run.folder / "from Whisper/model"))
    assert curve(run, "further", "train/angular_margin")[0] < 0.5 * curve(run, "from Whisper", "train/angular_margin")[0]


@pytest.mark.slow
def test_a_model_of_another_kind_is_no_start(run):
    run("first", steps=1)
    with pytest.raises(InputError, match=r"model\.embedding_dim is 9, but there 8"):
        initial_model(run.recipe.model.model_copy(update={"embedding_dim": 9}), run.folder / "first/model")


@pytest.mark.slow
def test_a_new_head_goes_on_a_trained_encoder_and_whispers_further_layers(run, monkeypatch):
    run("first", encoder_learning_rate=0.01, freeze_encoder_steps=0)
    trained = SpeakerModel.load(run.folder / "first/model").encoder.state_dict()
    deeper = run.recipe.model.model_copy(update={"layers": run.recipe.model.layers + 1, "embedding_dim": 9})
    whisper = SpeakerModel(deeper).encoder
    monkeypatch.setattr(start, "load_encoder", lambda path, n_layers: whisper)
    model = initial_model(deeper, run.folder / "first/model", new_head=True)
    assert same({**whisper.state_dict(), **trained}, model.encoder.state_dict())
    assert not same(whisper.state_dict(), model.encoder.state_dict())

    run.recipe = replace(run.recipe, model=run.recipe.model.model_copy(update={"embedding_dim": 9}))
    further = run("further", init_from=str(run.folder / "first/model"), new_head=True, steps=0)
    assert all(torch.equal(weight, further[f"encoder.{name}"]) for name, weight in trained.items())
