"""The loop: it learns, it resumes to the same numbers, it refuses what cannot work."""

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

import speakerprint.training.loop as training
from speakerprint.corpora.feature_store import FeatureStore, create_store, write_shard
from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.errors import InputError
from speakerprint.model.whisper import WhisperEncoder
from speakerprint.params.whole import load_params
from speakerprint.training.loop import (
    Recipe,
    TrainingSet,
    held_out_speakers,
    schedule,
    split_recordings,
    spread_over_speakers,
    train,
)
from speakerprint.training.teacher import TEACHER_PATH, write_teacher
from stages.train import main
from tests.joint_batch import CASES, LABELS, batch, losses_and_gradients

ROOT = Path(__file__).resolve().parents[2]


def write_store(folder: Path, speakers: int = 8, recordings: int = 4, seed: int = 0) -> Path:
    """A store of random clips in which a speaker is a spectral envelope."""
    rng = np.random.default_rng(seed)
    envelopes = rng.normal(size=(speakers, 80)) * 0.5
    lengths = rng.integers(60, 120, size=speakers * recordings)
    clips = [envelopes[i // recordings] + 0.2 * rng.normal(size=(n, 80)) + 0.3 * rng.normal() for i, n in enumerate(lengths)]
    rows = pd.DataFrame(
        {
            "recording_id": [f"clip{i:03d}" for i in range(len(clips))],
            "speaker_id": [f"speaker{i // recordings}" for i in range(len(clips))],
            "gender": [("female", "male")[i // recordings % 2] for i in range(len(clips))],
            "location": [f"clips/{i}.mp3" for i in range(len(clips))],
        }
    )
    create_store(folder, np.cumsum([0, *map(len, clips)]), rows["speaker_id"], rows["gender"], {})
    write_shard(folder, 0, np.concatenate(clips).astype(np.float16))
    write_recordings(as_recordings(rows, "test"), folder / "recordings.parquet")
    return folder


@dataclass
class Run:
    """A training in a temporary folder, on a random one-layer encoder."""

    folder: Path
    recipe: Recipe
    teacher: str | Path = TEACHER_PATH

    def __call__(self, name: str = "run", noises: dict[str, Path] | None = None, **train_settings) -> dict[str, torch.Tensor]:
        recipe = Recipe(**{**self.recipe.sections(), "train": self.recipe.train.model_copy(update=train_settings)})
        out = self.folder / name
        train({"a": self.folder / "a"}, noises or {}, recipe, out / "model", out / "log", out / "checkpoint", self.teacher)
        return load_file(out / "model/model.safetensors")


def with_teacher(recipe: Recipe, **loss: float) -> Recipe:
    """The recipe with a weight for each of the teacher's losses, and these settings of the loss."""
    weights = {"teacher_match_weight": 1.0, "teacher_similarity_weight": 1.0}
    return replace(recipe, loss=recipe.loss.model_copy(update=weights | loss))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    write_store(tmp_path / "a")
    torch.manual_seed(0)
    encoder = WhisperEncoder(1)
    monkeypatch.setattr(training, "load_encoder", lambda path, layers: encoder)
    params = load_params(ROOT / "params.yaml")
    return Run(
        tmp_path,
        Recipe(
            model=params.model.model_copy(update={"layers": 1, "embedding_dim": 8}),
            loss=params.loss,
            sampling=params.sampling.model_copy(update={"speakers": 3, "utterances": 2}),
            augmentation=params.augmentation,
            discriminant=params.discriminant,
            train=params.train.model_copy(
                update={
                    "steps": 6,
                    "crop_s": 0.5,
                    "mixed_precision": "no",
                    "validate_every_steps": 2,
                    "checkpoint_every_steps": 1,
                    "validation_speakers": 0.25,
                    "warmup_steps": 1,
                }
            ),
        ),
    )


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(run):
    first = run("first")
    assert same(first, run("second"))
    assert not same(first, run("third", seed=2))


def test_a_killed_run_resumes_to_the_same_weights_and_curves(run, monkeypatch):
    whole = run("whole", start_weight=0.25)
    real = training.Objective.forward

    def dies_at_step_4(self, features, n_frames, labels, noise, taught, step, *rest, **named):
        if step == 4:
            raise KeyboardInterrupt
        return real(self, features, n_frames, labels, noise, taught, step, *rest, **named)

    monkeypatch.setattr(training.Objective, "forward", dies_at_step_4)
    with pytest.raises(KeyboardInterrupt):
        run("killed", start_weight=0.25)
    assert (run.folder / "killed/checkpoint/checkpoint.pt").exists()
    steps = []
    monkeypatch.setattr(training.Objective, "forward", lambda self, *a, **k: steps.append(a[5]) or real(self, *a, **k))
    assert same(run("killed", start_weight=0.25), whole)
    assert steps == [4, 5]
    for curve in ("validation/eer.tsv", "train/loss.tsv"):
        killed, left_alone = (run.folder / name / "log/plots/metrics" / curve for name in ("killed", "whole"))
        assert killed.read_text() == left_alone.read_text()
    assert not (run.folder / "killed/checkpoint/checkpoint.pt").exists()


def test_the_model_that_training_started_from_is_kept_inside_the_trained_one(run, monkeypatch):
    untrained = run("untrained", steps=0)
    run("trained")
    judge = training.Progress.judge

    def killed_at_step_4(progress, *judged):
        judge(progress, *judged)
        if progress.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Progress, "judge", killed_at_step_4)
        run("resumed")
    run("resumed")
    for name in ("trained", "resumed"):
        start = run.folder / name / "model/start"
        assert same(load_file(start / "model.safetensors"), untrained)
        assert training.SpeakerModel.load(start).settings == run.recipe.model


def test_a_checkpoint_of_another_recipe_is_not_resumed(run, monkeypatch):
    monkeypatch.setattr(training.Checkpoint, "remove", lambda self: None)
    run("run")
    monkeypatch.undo()
    monkeypatch.setattr(training, "load_encoder", lambda path, layers: WhisperEncoder(1))
    steps = []
    real = training.Objective.forward
    monkeypatch.setattr(training.Objective, "forward", lambda self, *a, **k: steps.append(a[5]) or real(self, *a, **k))
    run("run", head_learning_rate=0.01)
    assert steps[0] == 0


def test_training_lowers_the_loss(run):
    run.recipe = replace(run.recipe, model=run.recipe.model.model_copy(update={"projection": "mlp"}))
    run(steps=60, head_learning_rate=0.003, validate_every_steps=60)
    rows = pd.read_csv(run.folder / "run/log/plots/metrics/train/loss.tsv", sep="\t")
    assert rows["loss"].iloc[-1] < 0.5 * rows["loss"].iloc[0]


def test_a_frozen_encoder_keeps_its_weights_and_an_unfrozen_one_does_not(run):
    before = training.load_encoder("unused", 1).state_dict()
    frozen = run("frozen", encoder_learning_rate=0.01, freeze_encoder_steps=99, validation_speakers=0.0)
    late = run("late", encoder_learning_rate=0.01, freeze_encoder_steps=3, validation_speakers=0.0)
    name = "layers.0.fc1.weight"
    assert torch.equal(frozen[f"encoder.{name}"], before[name])
    assert not torch.equal(late[f"encoder.{name}"], before[name])


def test_lower_layers_learn_more_slowly_where_that_is_asked(run):
    objective = training.Objective(training.SpeakerModel(run.recipe.model.model_copy(update={"layers": 3})), 2, run.recipe)
    settings = run.recipe.train.model_copy(update={"encoder_learning_rate": 0.8, "encoder_layer_decay": 0.5})
    groups = training.make_optimiser(objective, settings).param_groups
    assert [group["peak"] for group in groups] == [0.1, 0.2, 0.4, 0.8, settings.head_learning_rate]
    of_group = [{id(parameter) for parameter in group["params"]} for group in groups]
    encoder = objective.model.encoder
    for place, part in [(0, encoder.conv1), (1, encoder.layers[0]), (3, encoder.layers[2]), (3, encoder.layer_norm)]:
        assert all(id(parameter) in of_group[place] for parameter in part.parameters())
    assert sum(map(len, of_group)) == len(list(objective.parameters()))


@pytest.mark.parametrize("eers", [[0.5, 0.4, 0.1, 0.3], [0.1, 0.5, 0.4, 0.3]], ids=["on the way", "the start"])
def test_the_best_checkpoint_is_kept(run, monkeypatch, eers):
    eers, best, seen = iter(eers), eers.index(0.1), []

    def scripted(model, *_):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(eers)

    monkeypatch.setattr(training, "validate", scripted)
    kept = run()
    assert same(kept, seen[best])


def judged(*eers: float, resolution: float = 0.01) -> training.Progress:
    """Progress after validations with these EERs, a step apart."""
    progress = training.Progress()
    for progress.step, eer in enumerate(eers):
        progress.judge(eer, torch.nn.Linear(1, 1), resolution)
    return progress


@pytest.mark.parametrize(
    ("eers", "kept"),
    [((0.0, 0.0, 0.0), 2), ((0.0, 0.005, 0.02), 1), ((0.2, 0.195, 0.204), 2), ((0.2, 0.1, 0.109, 0.118), 2), ((0.1, 0.2), 0)],
    ids=["saturated", "less than a trial worse", "better and worse by little", "no creeping away from the best", "worse"],
)
def test_of_steps_that_validation_cannot_tell_apart_the_last_is_kept(eers, kept):
    assert judged(*eers).kept_step == kept


def test_it_is_said_when_the_start_is_kept_after_all():
    assert "the start, for every later step" in judged(0.1, 0.2, 0.3).verdict()
    assert judged(0.1, 0.2, 0.05).verdict() == "kept: step 2, whose validation EER is 0.0500"


def test_an_eer_cannot_tell_less_than_one_target_trial():
    assert training.one_trial(np.array(["a", "a", "a", "b", "b", "c"])) == 1 / 4


def test_speakers_at_other_speeds_are_speakers_of_their_own(run):
    data = TrainingSet({"a": FeatureStore(run.folder / "a")})
    examples = training.Examples.at_speeds(data, np.arange(4, 12), [1.0, 2.0])
    assert examples.n_speakers == 4
    assert examples.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    plain, fast = (examples.crop(data, i, 20, 0.5) for i in (1, 9))
    np.testing.assert_array_equal(plain, data.crop(5, 20, 0.5))
    np.testing.assert_array_equal(fast, training.change_speed(data.crop(5, 40, 0.5), 2.0))
    assert len(fast) == 20


def test_training_at_several_speeds_has_a_centre_for_each_speaker_at_each(run):
    centres = []
    real = training.start_centres
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training, "start_centres", lambda objective, *rest: centres.append(objective.angular_margin) or real(objective, *rest)
        )
        several = run.recipe.sampling.model_copy(update={"speeds": [1.0, 0.9]})
        Run(run.folder, replace(run.recipe, sampling=several))("speeds", steps=2)
    assert len(centres[0].centres) == 2 * 6  # 8 speakers, 2 of them held out
    assert torch.isfinite(centres[0].centres).all()


def with_recorded_noise(run: Run) -> Run:
    drawn = run.recipe.augmentation.ntxent.model_copy(update={"kinds": ["recorded_noise", "channel"], "kinds_per_view": 2})
    return Run(run.folder, replace(run.recipe, augmentation=run.recipe.augmentation.model_copy(update={"ntxent": drawn})))


def test_recordings_of_a_noise_corpus_are_mixed_into_the_views(run, monkeypatch):
    write_store(run.folder / "wind", speakers=1, seed=5)
    store, mixed = FeatureStore(run.folder / "wind"), []
    frames = {store.frames(i)[j].astype(np.float32).tobytes() for i in range(len(store)) for j in range(len(store.frames(i)))}
    real = training.augment
    monkeypatch.setattr(training, "augment", lambda *given: mixed.append(given[6]) or real(*given))
    noisy = with_recorded_noise(run)
    first = noisy("first", {"wind": run.folder / "wind"}, steps=2)
    assert mixed and all(row.numpy().tobytes() in frames for noise in mixed for clip in noise for row in clip.T)
    assert same(first, noisy("again", {"wind": run.folder / "wind"}, steps=2))
    assert not same(first, noisy("without", steps=2))


def test_without_a_noise_corpus_no_recorded_noise_is_drawn_and_that_is_said(run, capsys):
    silent = with_recorded_noise(run)("without", steps=2)
    assert "no corpus has role: noise, so recorded_noise is not drawn" in capsys.readouterr().out
    assert all(tensor.isfinite().all() for tensor in silent.values())


def test_noise_that_is_shorter_than_a_crop_is_repeated(run):
    write_store(run.folder / "wind", speakers=1, recordings=1)
    noise = training.Noise({"wind": FeatureStore(run.folder / "wind")})
    length = int(noise.data.stores[0].n_frames[0])
    crop = noise.crops(1, 2 * length + 3, np.random.default_rng(0))[0]
    assert crop.shape == (80, 2 * length + 3) and crop.dtype == np.float32
    np.testing.assert_array_equal(crop[:, length : 2 * length], crop[:, :length])
    np.testing.assert_array_equal(crop[:, 2 * length :], crop[:, :3])


def test_weights_are_averaged_with_those_at_the_start(run):
    found, start, mean = (run(f"{share}", start_weight=share, validation_speakers=0.0) for share in (0.0, 1.0, 0.25))
    for name in ("encoder.conv1.weight", "projection.linear.weight", "pooling.score.2.bias"):
        torch.testing.assert_close(mean[name], 0.25 * start[name] + 0.75 * found[name])
    assert not torch.equal(start["projection.linear.weight"], found["projection.linear.weight"])


def test_what_is_validated_is_averaged_and_what_is_trained_on_is_not(run, monkeypatch):
    validated = []

    def validate(model, *rest):
        validated.append(model.projection.linear.weight.detach().clone())
        return 1 / (1 + len(validated))  # each better than the last

    monkeypatch.setattr(training, "validate", validate)
    found, mean = run("found", start_weight=0.0), run("mean", start_weight=0.25)
    start, last = validated[4], validated[-1]  # steps 0, 2, 4, 6 of each
    torch.testing.assert_close(last, 0.25 * start + 0.75 * found["projection.linear.weight"])
    assert torch.equal(mean["projection.linear.weight"], last)


def test_a_discriminant_projection_starts_from_what_tells_speakers_apart(run):
    """With learning rates of next to nothing, the start is what comes out."""
    run("start", steps=1, head_learning_rate=1e-9, validation_speakers=0.0)
    random = replace(run.recipe, model=run.recipe.model.model_copy(update={"projection": "mlp"}))
    Run(run.folder, random)("random", steps=1, head_learning_rate=1e-9, validation_speakers=0.0)
    data = TrainingSet({"a": FeatureStore(run.folder / "a")})

    def eer(name: str) -> float:
        return training.validate(training.SpeakerModel.load(run.folder / name / "model"), data, np.arange(32), 100)

    assert eer("start") < 0.5 * eer("random")


def test_a_killed_discriminant_analysis_goes_on_to_the_same_start(run, monkeypatch):
    monkeypatch.setattr(training, "VALIDATION_BATCH", 8)
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)
    whole = run("whole", steps=1, head_learning_rate=1e-9)
    rows, heard = training._start_rows, []

    def killed(*arguments):
        heard.append(arguments[-1])
        if len(heard) == 4:
            raise InterruptedError
        return rows(*arguments)

    monkeypatch.setattr(training, "_start_rows", killed)
    with pytest.raises(InterruptedError):
        run("killed", steps=1, head_learning_rate=1e-9)
    resumed = run("killed", steps=1, head_learning_rate=1e-9)
    assert heard[:4] == [0, 1, 2, 3] and heard[4] == 3 and sorted(heard[4:]) == list(range(3, max(heard) + 1))
    for name, values in whole.items():
        torch.testing.assert_close(resumed[name], values, rtol=1e-5, atol=1e-5)
    assert not list(run.folder.glob("killed/**/discriminant-*"))


def test_training_goes_on_from_a_trained_model(run):
    first = run("first", validation_speakers=0.0)
    start = training.initial_model(run.recipe.model, run.folder / "first/model").state_dict()
    assert same(start, first)
    further = run("further", init_from=str(run.folder / "first/model"), head_learning_rate=1e-6, validation_speakers=0.0)
    near = "projection.linear.weight"
    assert 0 < (further[near] - first[near]).abs().max() < 1e-4


def test_speakers_of_a_model_that_goes_on_start_where_it_hears_them(run):
    def first_loss(name: str) -> float:
        return pd.read_csv(run.folder / name / "log/plots/metrics/train/angular_margin.tsv", sep="\t")["angular_margin"][0]

    run.recipe = replace(run.recipe, model=run.recipe.model.model_copy(update={"projection": "mlp"}))
    run("from Whisper", steps=1)
    run("further", steps=1, init_from=str(run.folder / "from Whisper/model"))
    assert first_loss("further") < 0.5 * first_loss("from Whisper")


def test_a_model_of_another_kind_is_no_start(run):
    run("first")
    with pytest.raises(InputError, match=r"model\.embedding_dim is 9, but there 8"):
        training.initial_model(run.recipe.model.model_copy(update={"embedding_dim": 9}), run.folder / "first/model")


def test_a_new_head_goes_on_a_trained_encoder_and_whispers_further_layers(run, monkeypatch):
    run("first", encoder_learning_rate=0.01)
    trained = training.SpeakerModel.load(run.folder / "first/model").encoder.state_dict()
    deeper = run.recipe.model.model_copy(update={"layers": run.recipe.model.layers + 1, "embedding_dim": 9})
    whisper = training.SpeakerModel(deeper).encoder
    monkeypatch.setattr(training, "load_encoder", lambda path, n_layers: whisper)
    model = training.initial_model(deeper, run.folder / "first/model", new_head=True)
    assert same({**whisper.state_dict(), **trained}, model.encoder.state_dict())
    assert not same(whisper.state_dict(), model.encoder.state_dict())

    run.recipe = replace(run.recipe, model=run.recipe.model.model_copy(update={"embedding_dim": 9}))
    further = run("further", init_from=str(run.folder / "first/model"), new_head=True, steps=0)
    assert all(torch.equal(weight, further[f"encoder.{name}"]) for name, weight in trained.items())


def test_the_last_weights_are_kept_where_that_is_asked_for(run, monkeypatch):
    eers = iter([0.3, 0.1, 0.2, 0.2] * 2)  # at the start and every two of six steps
    monkeypatch.setattr(training, "validate", lambda *_: next(eers))
    best, last = run("best"), run("last", kept_weights="last")
    assert not same(best, last)
    better = iter([0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(training, "validate", lambda *_: next(better))
    assert same(last, run("better to the end"))


def test_early_stopping_stops_after_validations_without_gain(run, monkeypatch):
    calls = []
    monkeypatch.setattr(training, "validate", lambda *_: calls.append(1) or 0.2)
    run(steps=50, early_stopping_validations=2)
    assert len(calls) == 3


def test_gradient_accumulation_takes_as_many_batches_a_step(run, monkeypatch):
    real, steps = training.Objective.forward, []
    monkeypatch.setattr(training.Objective, "forward", lambda self, *a, **k: steps.append(a[5]) or real(self, *a, **k))
    run(steps=2, gradient_accumulation=3)
    assert steps == [0, 0, 0, 1, 1, 1]


def test_the_recipe_is_written_beside_the_model(run):
    run()
    text = (run.folder / "run/model/params.yaml").read_text()
    assert "ntxent_temperature: 0.5" in text and "corpora" not in text


def test_a_loss_that_is_no_number_stops_with_a_remedy(run, monkeypatch):
    monkeypatch.setattr(training, "batch_hard_triplet", lambda embeddings, *_: embeddings.sum() * torch.nan)
    with pytest.raises(InputError, match=r"the loss is nan at step .*lower"):
        run(validate_every_steps=6)


def test_a_crop_longer_than_the_encoder_hears_is_refused(run):
    with pytest.raises(InputError, match=r"train\.crop_s is 31"):
        run(crop_s=31.0)
    with pytest.raises(InputError, match=r"train\.last_crop_s is 32"):
        run(last_crop_s=32.0)


def test_crops_grow_evenly_to_the_last_step(run, monkeypatch):
    real, frames = training.Objective.forward, []
    monkeypatch.setattr(training.Objective, "forward", lambda self, *a, **k: frames.append(a[0].shape[2]) or real(self, *a, **k))
    run(steps=3, gradient_accumulation=2, last_crop_s=0.7)
    assert frames == [50, 50, 60, 60, 70, 70]


def test_crops_of_random_lengths_are_drawn_anew_for_each_step(run, monkeypatch):
    real, frames = training.Objective.forward, []
    monkeypatch.setattr(training.Objective, "forward", lambda self, *a, **k: frames.append(a[0].shape[2]) or real(self, *a, **k))
    run("first", steps=4, gradient_accumulation=2, crop_s=0.3, last_crop_s=0.5, crop_lengths="random")
    assert frames[::2] == frames[1::2] and len(set(frames)) == 4
    assert all(30 <= n <= 50 for n in frames) and frames != sorted(frames)
    first, frames[:] = list(frames), []
    run("again", steps=4, gradient_accumulation=2, crop_s=0.3, last_crop_s=0.5, crop_lengths="random")
    assert frames == first


def test_crops_may_all_begin_where_the_recording_does(run, monkeypatch):
    real, heard = training.Objective.forward, []
    monkeypatch.setattr(training.Objective, "forward", lambda self, *a, **k: heard.append(a[0]) or real(self, *a, **k))
    run(steps=1, gradient_accumulation=1, crop_position="start", validation_speakers=0.0)
    store = FeatureStore(run.folder / "a")
    starts = {store.frames(i, 0, 50).tobytes() for i in range(len(store))}
    assert all(clip.T.numpy().astype(np.float16).tobytes() in starts for clip in heard[0])


def test_ntxents_view_is_made_of_the_clip_that_the_triplet_loss_sees(run, monkeypatch):
    kinds = {"triplet": ["time_mask"], "ntxent": ["frequency_mask"]}
    drawn = {"triplet": {"kinds_per_clip": 1}, "ntxent": {"kinds_per_view": 1}}
    sections = {
        name: getattr(run.recipe.augmentation, name).model_copy(update={"kinds": kinds[name]} | drawn[name]) for name in kinds
    }
    recipe = replace(run.recipe, augmentation=run.recipe.augmentation.model_copy(update=sections))
    objective = training.Objective(training.SpeakerModel(recipe.model), 3, recipe)
    seen = []
    monkeypatch.setattr(objective.model, "forward", lambda clips, n_frames: seen.append(clips) or torch.eye(12, 8))
    features = torch.rand(6, 80, 50) + 1
    n_frames, labels = torch.full((6,), 50), torch.arange(6) // 2
    objective(features, n_frames, labels, torch.empty(0), torch.empty(6, 0), 0, 0, False)
    clip, view = seen[0].split(6)
    masked = clip < 0.5
    assert masked.any(dim=1).any(dim=1).all() and masked.all(dim=1).sum() == masked.any(dim=1).sum()  # whole frames
    assert ((view < 0.5) >= masked).all() and (view < 0.5).sum() > masked.sum()  # the same frames, and some bands


def teach(run: Run, recordings: int = 32) -> Path:
    """A teacher's embeddings of the first recordings of the store: each speaker's own direction, and a little noise."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(8, 6)).repeat(4, axis=0) + 0.05 * rng.normal(size=(32, 6))
    folder = run.folder / "teacher"
    write_teacher(folder / "a.parquet", [f"clip{i:03d}" for i in range(recordings)], rows[:recordings].astype(np.float32))
    return folder


@pytest.mark.parametrize("weight", ["teacher_match_weight", "teacher_similarity_weight"])
def test_a_model_learns_what_its_teacher_hears(run, weight):
    others = dict.fromkeys(("triplet_weight", "ntxent_weight", "supervised_contrastive_weight", "angular_margin_weight"), 0.0)
    alone = with_teacher(run.recipe, **others, teacher_match_weight=0.0, teacher_similarity_weight=0.0)
    taught = Run(run.folder, replace(alone, loss=alone.loss.model_copy(update={weight: 1.0})), teach(run))
    taught("taught", steps=40, head_learning_rate=0.01, validation_speakers=0.0)
    loss = pd.read_csv(run.folder / "taught/log/plots/metrics/train/loss.tsv", sep="\t")["loss"]
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]


def test_a_teacher_that_has_not_heard_all_is_counted_and_used_for_the_others(run, capsys):
    taught = Run(run.folder, with_teacher(run.recipe), teach(run, recordings=20))
    first = taught("taught", steps=2, validation_speakers=0.0)
    assert "the teacher has not heard 12 of 32 recordings at speed 1:" in capsys.readouterr().out
    assert not same(first, run("alone", steps=2, validation_speakers=0.0))


def test_a_teacher_has_its_say_at_the_speeds_that_it_has_heard(run):
    """Recordings as they are, and the first half of them at a speed of 1.1, but not at 0.9."""
    data = TrainingSet({"a": FeatureStore(run.folder / "a")})
    folder, rng = teach(run), np.random.default_rng(4)
    ids = [f"clip{i:03d}" for i in range(32)]
    rows = rng.normal(size=(48, 6)).astype(np.float32)
    write_teacher(folder / "a.parquet", ids + ids[:16], rows, [1.0] * 32 + [1.1] * 16)
    data.take_teacher(folder, [0.9, 1.0, 1.1])
    examples = training.Examples.at_speeds(data, np.arange(32), [0.9, 1.0, 1.1])
    heard = (examples.speeds == 1) | ((examples.speeds == 1.1) & (examples.recordings < 16))
    assert examples.taught.any(axis=1).tolist() == heard.tolist()
    batches = training.CropBatches(data, None, examples, run.recipe, 1)
    for number in range(4):
        chosen, taught = batches.batches.batch(number), batches[number][4]
        assert taught.any(dim=1).tolist() == heard[chosen].tolist()
        for example, own in zip(chosen, taught.numpy(), strict=True):
            if heard[example]:
                of_speed = slice(32) if examples.speeds[example] == 1 else slice(32, 48)
                row = rows[of_speed][examples.recordings[example]] - rows[of_speed].mean(axis=0)
                np.testing.assert_allclose(own, row / np.linalg.norm(row), atol=1e-6)


def test_another_teacher_is_another_run(run):
    """A checkpoint made with one is not gone on from with another."""
    data = TrainingSet({"a": FeatureStore(run.folder / "a")})
    runs = [training.fingerprint(run.recipe, {"a": run.folder / "a"}, data.taught)]
    for recordings in (32, 31):
        data.take_teacher(teach(run, recordings), [1.0])
        runs.append(training.fingerprint(run.recipe, {"a": run.folder / "a"}, data.taught))
    assert len(set(runs)) == 3


def test_a_teacher_without_embeddings_is_an_error_with_a_remedy(run):
    with pytest.raises(InputError, match=r"there is to be a teacher, but .*a\.parquet does not exist; make it with"):
        Run(run.folder, with_teacher(run.recipe), run.folder / "nowhere")("run")


def test_validation_speakers_are_not_trained_on(tmp_path):
    store = FeatureStore(write_store(tmp_path / "a"))
    held_out = held_out_speakers(TrainingSet({"a": store}).speaker_ids, 0.25, seed=1)
    assert len(held_out) == 2 and all(name.startswith("a/speaker") for name in held_out)


def test_a_small_validation_set_still_has_target_trials(tmp_path, run):
    data = TrainingSet({"a": FeatureStore(write_store(tmp_path / "a", speakers=20))})
    settings = run.recipe.train.model_copy(update={"validation_speakers": 0.5, "validation_max_recordings": 8})
    training_part, validation = split_recordings(data, replace(run.recipe, train=settings))
    assert len(validation) == 8 and len(np.unique(data.speaker_ids[validation])) == 2
    assert not set(data.speaker_ids[validation]) & set(data.speaker_ids[training_part])


def test_no_speakers_left_to_train_on_is_an_error_with_a_remedy(run):
    with pytest.raises(InputError, match=r"0 are left for batches of .* lower sampling\.speakers or train\.validation_speakers"):
        run(validation_speakers=1.0)


def test_speakers_of_two_corpora_with_the_same_id_are_two(tmp_path):
    stores = {name: FeatureStore(write_store(tmp_path / name, speakers=3, seed=i)) for i, name in enumerate("ab")}
    data = TrainingSet(stores)
    assert len(np.unique(data.speaker_ids)) == 6
    np.testing.assert_array_equal(data.crop(13, 10_000, 0.0), stores["b"].frames(1))


def test_a_crop_is_inside_its_recording(tmp_path):
    store = FeatureStore(write_store(tmp_path / "a"))
    data = TrainingSet({"a": store})
    whole = store.frames(5)
    np.testing.assert_array_equal(data.crop(5, 40, 0.0), whole[:40])
    np.testing.assert_array_equal(data.crop(5, 40, 1.0), whole[-40:])


def test_recordings_are_taken_from_all_speakers_in_turn():
    speaker_ids = np.array(["a"] * 5 + ["b"] * 2 + ["c"])
    assert spread_over_speakers(speaker_ids, 5).tolist() == [0, 1, 5, 6, 7]


def test_the_learning_rate_warms_up_and_decays_to_zero():
    fractions = [schedule(step, start=0, warmup_steps=4, steps=20) for step in range(21)]
    assert fractions[:4] == [0.25, 0.5, 0.75, 1.0] and fractions[4] == 1.0
    assert fractions[12] == pytest.approx(0.5) and fractions[20] == pytest.approx(0.0)
    assert fractions[4:] == sorted(fractions[4:], reverse=True)


def test_the_learning_rate_may_stay_at_its_peak():
    assert [schedule(step, start=2, warmup_steps=2, steps=None) for step in range(7)] == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_late_start_has_a_schedule_of_its_own():
    late = [schedule(step, start=10, warmup_steps=4, steps=30) for step in range(31)]
    assert late[:10] == [0.0] * 10
    assert late[10:] == [schedule(step, start=0, warmup_steps=4, steps=20) for step in range(21)]


def test_losses_are_computed_in_float32_under_autocast(run):
    torch.manual_seed(0)
    recipe = run.recipe
    objective = training.Objective(training.SpeakerModel(recipe.model), 3, recipe)
    close = torch.nn.functional.normalize(torch.ones(1, 6, 8) + 0.02 * torch.randn(2, 6, 8), dim=-1)
    objective.model.project = lambda pooled: close.flatten(0, 1)
    batch = torch.zeros(6, 80, 20), torch.full((6,), 20), torch.tensor([0, 0, 1, 1, 2, 2])
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(*batch, torch.empty(0), torch.empty(6, 0), 99, 1, False)
    weights = recipe.loss
    assert terms["triplet"].item() == training.batch_hard_triplet(close[0], batch[2], weights.triplet_margin).item()
    assert terms["ntxent"].item() == training.ntxent(close, weights.ntxent_temperature).item()
    both = close.flatten(0, 1), batch[2].repeat(2)
    assert terms["angular_margin"].item() == objective.angular_margin(*both, weights.angular_margin).item()


def started(*words: str, folder: Path) -> subprocess.CompletedProcess:
    """Python with these words, in a folder, with the project's code."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def in_two_processes(*words: str, folder: Path) -> subprocess.CompletedProcess:
    """A module under `accelerate launch`; --multi_gpu is its word for several processes, with or without a GPU."""
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no")
    return started("-m", *launch, "-m", *words, folder=folder)


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two")
    launched = in_two_processes("tests.joint_batch", "results.pt", folder=folder)
    assert launched.returncode == 0, launched.stderr
    return torch.load(folder / "results.pt")


def agree(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> bool:
    """Whether all gradients are equal but for a fraction of the parameter's largest one (or of 1)."""
    assert gradients.keys() == expected.keys()
    return all((gradients[name] - g).abs().max() <= tolerance * max(1.0, g.abs().max()) for name, g in expected.items())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_losses_and_gradients_of_one(of_two_processes, case):
    one, two = losses_and_gradients(**CASES[case]), of_two_processes[case]
    # a processor may round batches of other sizes otherwise in bfloat16
    tolerance, of_loss = (0.05, 1e-3) if "bf16" in CASES[case] else (1e-5, 1e-6)
    torch.testing.assert_close(two["losses"], one["losses"], atol=1e-5, rtol=of_loss)
    assert agree(two["gradients"], one["gradients"], tolerance)
    assert max(gradient.abs().max() for gradient in one["gradients"].values()) > 1e-2


def test_processes_share_a_batch_by_speakers(of_two_processes):
    first, second = of_two_processes["triplet"]["clips"]
    features, *_ = batch(0)
    assert torch.equal(torch.cat([first, second]), features[:, 0, 0])
    assert set(LABELS[: len(first)].tolist()).isdisjoint(LABELS[len(first) :].tolist())


KILLED = """
import speakerprint.training.loop as training
from stages.train import main
real = training.Objective.forward
def dies(self, *batch):
    if batch[5] == 4:
        raise SystemExit(9)
    return real(self, *batch)
training.Objective.forward = dies
main()
"""


def test_a_run_killed_in_one_process_resumes_in_two_to_what_one_makes(run, tmp_path, monkeypatch):
    tree = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree |= {name: section.model_dump() for name, section in run.recipe.sections().items()}
    tree["sampling"]["speakers"] = 4
    tree["train"]["init_from"] = "models/tiny"
    (corpus,) = tree["train_corpora"]
    torch.manual_seed(0)
    tiny = training.SpeakerModel(run.recipe.model)
    for name in ("whole", "killed"):
        write_store(tmp_path / name / "data/features/train" / corpus)
        tiny.save(tmp_path / name / "models/tiny", "start")
        with (tmp_path / name / "params.yaml").open("w") as file:
            YAML(typ="safe", pure=True).dump(tree, file)
    monkeypatch.chdir(tmp_path / "whole")
    main()
    assert started("-c", KILLED, folder=tmp_path / "killed").returncode == 9
    resumed = in_two_processes("stages.train", folder=tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("resuming at step 4 of 6") == 1
    loss, eer = ("metrics/training/plots/metrics/train/loss.tsv", "metrics/training/plots/metrics/validation/eer.tsv")
    for curve in (loss, eer):
        one, two = (pd.read_csv(tmp_path / name / curve, sep="\t") for name in ("whole", "killed"))
        pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    clips = [np.random.default_rng(i).normal(size=(50, 80)).astype(np.float32) for i in range(8)]
    one, two = (
        training.SpeakerModel.load(tmp_path / name / "models/speakerprint").embed_frames(clips) for name in ("whole", "killed")
    )
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_processes_that_cannot_share_a_batch_evenly_are_refused(run, monkeypatch):
    monkeypatch.setattr(training, "place", lambda: (0, 2))
    with pytest.raises(InputError, match=r"sampling\.speakers is 3, which 2 processes cannot share"):
        run()


def test_the_next_batch_is_made_while_this_one_is_learned_from():
    made = []

    def batches():
        for number in range(3):
            made.append(number)
            yield number

    feed = training.ahead(batches())
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

    feed = training.ahead(batches())
    assert next(feed) == 0
    with pytest.raises(InputError, match="a damaged store"):
        next(feed)


def test_crops_are_embedded_with_those_of_about_their_length_and_returned_in_order(run):
    torch.manual_seed(0)
    model, lengths = training.SpeakerModel(run.recipe.model), []
    real = model.embed_frames
    model.embed_frames = lambda clips: lengths.append([len(clip) for clip in clips]) or real(clips)
    rng = np.random.default_rng(0)
    crops = [rng.normal(size=(n, 80)).astype(np.float32) for n in rng.permutation(np.repeat([10, 20], training.VALIDATION_BATCH))]
    rows = training.embed_crops(model, iter(crops))
    assert [set(batch) for batch in lengths] == [{10}, {20}]
    for i in (0, 1, 77):
        np.testing.assert_allclose(rows[i], real([crops[i]])[0], atol=1e-5)


def test_the_objective_asks_its_device_for_nothing(run, monkeypatch):
    """On the device "meta", where tensors have no values, whatever needs one to go on is an error."""

    class OnHost(torch.Generator):
        def __new__(cls, *_):
            return super().__new__(cls)

    monkeypatch.setattr(torch, "Generator", OnHost)  # "meta" has no generator and no autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    features, n_frames, labels, noise, taught = (tensor.to("meta") for tensor in batch(0))
    recipe = with_teacher(run.recipe)
    objective = training.Objective(training.SpeakerModel(recipe.model), 4, recipe, taught.shape[1]).to("meta")
    terms = objective(features, n_frames, labels, noise, taught, 99, 1, True)
    terms["loss"].backward()
    assert objective.model.encoder.conv1.weight.grad.shape == (512, 80, 3)
    with pytest.raises(RuntimeError, match="cannot be called on meta"):
        features.mean().item()
