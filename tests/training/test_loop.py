"""The loop: it learns, it resumes to the same numbers, it refuses what cannot work."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from ruamel.yaml import YAML
from safetensors.torch import load_file

import speakerprint.training.batches as batches
import speakerprint.training.loop as loop
import speakerprint.training.objective as objective
import speakerprint.training.start as start
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.checkpoint import Checkpoint, fingerprint
from speakerprint.training.objective import Objective
from speakerprint.training.recipe import Recipe
from stages.train import main
from tests.training.runs import ROOT, Run, curve, same, teach, tiny_recipe, training_set, with_teacher, write_store


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The step of every batch whose losses have been asked for."""
    seen, real = [], Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda self, batch, step: seen.append(step) or real(self, batch, step))
    return seen


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(run):
    first = run("first")
    assert same(first, run("second"))
    assert not same(first, run("third", seed=2))


def dying_at(step: int):
    """Objective.forward, but killed at a step."""
    real = Objective.forward

    def forward(self, batch, now):
        if now == step:
            raise KeyboardInterrupt
        return real(self, batch, now)

    return forward


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 4])
def test_a_killed_run_resumes_to_the_same_weights_and_curves(run, monkeypatch, steps, at):
    settings = dict(start_weight=0.25, encoder_learning_rate=0.001, freeze_encoder_steps=2, checkpoint_every_steps=1)
    whole = run("whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "forward", dying_at(at))
        run("killed", **settings)
    assert (run.folder / "killed/checkpoint/checkpoint.pt").exists()
    steps.clear()
    with monkeypatch.context() as patch:
        patch.setattr(start.DiscriminantStart, "find", None)  # the start is not looked for again
        assert same(run("killed", **settings), whole)
    assert steps == list(range(at, 6))
    for name in ("validation/eer", "train/loss"):
        assert curve(run, "killed", name).tolist() == curve(run, "whole", name).tolist()
    assert list((run.folder / "killed/checkpoint").iterdir()) == []


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_is_not_resumed(run, monkeypatch, steps):
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "remove", lambda self: None)
        run("run", checkpoint_every_steps=1)
    steps.clear()
    run("run", checkpoint_every_steps=1, head_learning_rate=0.01)
    assert steps[0] == 0


@pytest.mark.slow
def test_training_lowers_the_loss(run):
    run.recipe = replace(run.recipe, model=run.recipe.model.model_copy(update={"projection": "mlp"}))
    run(steps=60, head_learning_rate=0.003, validate_every_steps=60)
    loss = curve(run, "run")
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]


@pytest.mark.slow
def test_a_frozen_encoder_keeps_its_weights_and_an_unfrozen_one_does_not(run):
    before = start.load_encoder("unused", 1).state_dict()
    frozen = run("frozen", encoder_learning_rate=0.01, freeze_encoder_steps=99, validation_speakers=0.0)
    late = run("late", encoder_learning_rate=0.01, freeze_encoder_steps=3, validation_speakers=0.0)
    name = "layers.0.fc1.weight"
    assert torch.equal(frozen[f"encoder.{name}"], before[name])
    assert not torch.equal(late[f"encoder.{name}"], before[name])


@pytest.mark.slow
@pytest.mark.parametrize("eers", [[0.5, 0.4, 0.1, 0.3], [0.1, 0.5, 0.4, 0.3]], ids=["on the way", "the start"])
def test_the_best_checkpoint_is_kept(run, monkeypatch, eers):
    eers, best, seen = iter(eers), eers.index(0.1), []

    def scripted(model, *_):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(eers)

    monkeypatch.setattr(loop, "validate", scripted)
    assert same(run(), seen[best])


@pytest.mark.slow
def test_the_start_is_published_beside_the_model(run):
    trained = run("run", start_weight=0.0, head_learning_rate=0.01, validation_speakers=0.0)
    began = SpeakerModel.load(run.folder / "run/model/start").state_dict()
    assert same(began, run("start", steps=0, validation_speakers=0.0)) and not same(began, trained)


def with_recorded_noise(run: Run) -> Run:
    drawn = run.recipe.augmentation.ntxent.model_copy(update={"kinds": ["recorded_noise", "channel"], "kinds_per_view": 2})
    return Run(run.folder, replace(run.recipe, augmentation=run.recipe.augmentation.model_copy(update={"ntxent": drawn})))


@pytest.mark.slow
def test_recordings_of_a_noise_corpus_are_mixed_into_the_views(run, monkeypatch):
    write_store(run.folder / "wind", speakers=1, seed=5)
    store, mixed = FeatureStore(run.folder / "wind"), []
    frames = {store.frames(i)[j].astype(np.float32).tobytes() for i in range(len(store)) for j in range(len(store.frames(i)))}
    real = batches.augment
    monkeypatch.setattr(batches, "augment", lambda *given: mixed.append(given[6]) or real(*given))
    noisy = with_recorded_noise(run)
    first = noisy("first", noise={"wind": run.folder / "wind"}, steps=2)
    assert mixed and all(row.numpy().tobytes() in frames for noise in mixed for clip in noise for row in clip.T)
    assert same(first, noisy("again", noise={"wind": run.folder / "wind"}, steps=2))
    assert not same(first, noisy("without", steps=2))


@pytest.mark.slow
def test_without_a_noise_corpus_no_recorded_noise_is_drawn_and_that_is_said(run, capsys):
    silent = with_recorded_noise(run)("without", steps=2)
    assert "no corpus has role: noise, so recorded_noise is not drawn" in capsys.readouterr().out
    assert all(tensor.isfinite().all() for tensor in silent.values())


@pytest.mark.slow
def test_weights_are_averaged_with_those_at_the_start(run):
    found, began, mean = (run(f"{share}", start_weight=share, validation_speakers=0.0) for share in (0.0, 1.0, 0.25))
    for name in ("encoder.conv1.weight", "projection.linear.weight", "pooling.score.2.bias"):
        torch.testing.assert_close(mean[name], 0.25 * began[name] + 0.75 * found[name])
    assert not torch.equal(began["projection.linear.weight"], found["projection.linear.weight"])


@pytest.mark.slow
def test_what_is_validated_is_averaged_and_what_is_trained_on_is_not(run, monkeypatch):
    validated = []

    def validate(model, *rest):
        validated.append(model.projection.linear.weight.detach().clone())
        return 1 / (1 + len(validated))  # each better than the last

    monkeypatch.setattr(loop, "validate", validate)
    found, mean = run("found", start_weight=0.0), run("mean", start_weight=0.25)
    began, last = validated[4], validated[-1]  # steps 0, 2, 4, 6 of each
    torch.testing.assert_close(last, 0.25 * began + 0.75 * found["projection.linear.weight"])
    assert torch.equal(mean["projection.linear.weight"], last)


@pytest.mark.slow
def test_the_last_weights_are_kept_where_that_is_asked_for(run, monkeypatch):
    eers = iter([0.3, 0.1, 0.2, 0.2] * 2)  # at the start and every two of six steps
    monkeypatch.setattr(loop, "validate", lambda *_: next(eers))
    best, last = run("best"), run("last", kept_weights="last")
    assert not same(best, last)
    better = iter([0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(loop, "validate", lambda *_: next(better))
    assert same(last, run("better to the end"))


@pytest.mark.slow
def test_early_stopping_stops_after_validations_without_gain(run, monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "validate", lambda *_: calls.append(1) or 0.2)
    run(steps=50, early_stopping_validations=2)
    assert len(calls) == 3


@pytest.mark.slow
def test_gradient_accumulation_takes_as_many_batches_a_step(run, steps):
    run(steps=2, gradient_accumulation=3)
    assert steps == [0, 0, 0, 1, 1, 1]


@pytest.mark.slow
def test_the_recipe_is_written_beside_the_model(run):
    run()
    text = (run.folder / "run/model/params.yaml").read_text()
    assert "ntxent_temperature: 0.5" in text and "corpora" not in text


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_a_remedy(run, monkeypatch):
    monkeypatch.setattr(objective, "batch_hard_triplet", lambda embeddings, *_: embeddings.sum() * torch.nan)
    with pytest.raises(InputError, match=r"the loss is nan at step .*lower"):
        run(validate_every_steps=6)


def test_a_crop_longer_than_the_encoder_hears_is_refused(run):
    with pytest.raises(InputError, match=r"train\.crop_s is 31"):
        run(crop_s=31.0)
    with pytest.raises(InputError, match=r"train\.last_crop_s is 32"):
        run(last_crop_s=32.0)


@pytest.mark.slow
def test_too_few_unlabelled_recordings_are_refused_with_a_remedy(run):
    write_store(run.folder / "some", speakers=1, recordings=2)
    with pytest.raises(InputError, match=r"sampling\.unlabelled is 3, but the corpora .* have 2 recordings; lower it"):
        run(unlabelled={"some": run.folder / "some"})


def test_too_few_speakers_are_refused_with_a_remedy(run):
    with pytest.raises(InputError, match=r"0 are left for batches of .* lower sampling\.speakers or train\.valid"):
        run(validation_speakers=1.0)


def test_processes_that_cannot_share_a_batch_evenly_are_refused(run, monkeypatch):
    monkeypatch.setattr(loop, "place", lambda: (0, 2))
    with pytest.raises(InputError, match=r"sampling\.speakers is 3, which 2 processes cannot share"):
        run()


@pytest.mark.slow
def test_unlabelled_recordings_change_what_is_learned_and_nothing_where_nothing_is_asked_of_them(run, capsys):
    """The losses on labels, the start and the speakers to validate on are as they are without them."""
    some = {"some": write_store(run.folder / "some", speakers=3, seed=4)}
    assert not same(run("alone", steps=2), run("beside", unlabelled=some, steps=2))
    assert "learning without labels from 12 more" in capsys.readouterr().out
    assert same(*(load_file(run.folder / name / "model/start/model.safetensors") for name in ("alone", "beside")))
    by_label = Run(run.folder, replace(run.recipe, loss=run.recipe.loss.model_copy(update={"ntxent_weight": 0.0})))
    by_label("alone", steps=1), by_label("beside", unlabelled=some, steps=1)
    for loss in ("triplet", "angular_margin"):
        assert curve(run, "beside", f"train/{loss}").tolist() == pytest.approx(
            curve(run, "alone", f"train/{loss}").tolist(), abs=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("weight", ["teacher_match_weight", "teacher_similarity_weight"])
def test_a_model_learns_what_its_teacher_hears(run, weight):
    others = dict.fromkeys(("triplet_weight", "ntxent_weight", "supervised_contrastive_weight", "angular_margin_weight"), 0.0)
    alone = with_teacher(run.recipe, **others, teacher_match_weight=0.0, teacher_similarity_weight=0.0)
    taught = Run(run.folder, replace(alone, loss=alone.loss.model_copy(update={weight: 1.0})), teach(run))
    taught("taught", steps=80, head_learning_rate=0.01, validation_speakers=0.0)
    loss = curve(run, "taught")
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]


@pytest.mark.slow
def test_a_teacher_that_has_not_heard_all_is_counted_and_used_for_the_others(run, capsys):
    taught = Run(run.folder, with_teacher(run.recipe), teach(run, recordings=20))
    first = taught("taught", steps=2, validation_speakers=0.0)
    assert "aunt has no embedding of 12 of 32 recordings at speed 1" in capsys.readouterr().out
    assert not same(first, run("alone", steps=2, validation_speakers=0.0))


@pytest.mark.slow
def test_two_teachers_of_different_size_teach_together(run, capsys):
    recipe = with_teacher(run.recipe)
    one = Run(run.folder, recipe, teach(run))("one", steps=2, validation_speakers=0.0)
    both = Run(run.folder, recipe, teach(run, 20, "uncle", dim=4))("both", steps=2, validation_speakers=0.0)
    assert "uncle has no embedding of 12 of 32 recordings at speed 1" in capsys.readouterr().out
    assert not same(one, both)


def test_another_teacher_is_another_run(run):
    """A checkpoint made with one is not gone on from with another."""
    data = training_set(run)
    runs = [fingerprint(run.recipe, {"a": run.folder / "a"}, data.taught)]
    for recordings, teacher in ((32, "aunt"), (31, "aunt"), (32, "uncle")):
        data.take_teachers(teach(run, recordings, teacher), [1.0])
        runs.append(fingerprint(run.recipe, {"a": run.folder / "a"}, data.taught))
    assert len(set(runs)) == 4


def test_a_teacher_without_embeddings_is_an_error_with_a_remedy(run):
    with pytest.raises(InputError, match=r"there is to be a teacher, but .*nowhere holds no folder of one; make it with"):
        Run(run.folder, with_teacher(run.recipe), run.folder / "nowhere")("run")


def killed_at_step_4(patch):
    patch.setattr(Objective, "forward", dying_at(4))


def killed_in_the_start(patch):
    real = start.DiscriminantStart.add

    def add(self, number, batch):
        if self.done == 1:
            raise KeyboardInterrupt
        real(self, number, batch)

    patch.setattr(start, "SAVE_EVERY_S", 0.0)
    patch.setattr(start.DiscriminantStart, "add", add)


def project(folder, recipe: Recipe, **changes) -> None:
    """A project at its train stage, in a folder, with this recipe and these settings of `train`."""
    tree = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree |= {name: section.model_dump() for name, section in recipe.sections().items()}
    tree["sampling"]["speakers"] = 4
    tree["train"] |= changes
    (corpus,) = tree["train_corpora"]
    write_store(folder / "data/features/train" / corpus)
    torch.manual_seed(0)
    SpeakerModel(recipe.model).save(folder / "models/tiny", "start")
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(tree, file)


def as_a_new_process(run) -> None:
    """Run in a fork as if it had been launched: what Accelerate knows of this process is of the one that it comes from."""
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["LOCAL_RANK"] = str(torch.distributed.get_rank())
    torch.set_num_threads(1)
    run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "changes", "resuming"),
    [
        (killed_at_step_4, {"init_from": "models/tiny"}, ["resuming at step 4 of 6"]),
        (killed_in_the_start, {"init_from": "models/tiny", "new_head": True}, []),
    ],
    ids=["at step 4", "in the start"],
)
def test_a_run_killed_in_one_process_resumes_in_two_to_what_one_makes(tmp_path, monkeypatch, capfd, killed, changes, resuming):
    for name in ("whole", "killed"):
        project(tmp_path / name, tiny_recipe(), checkpoint_every_steps=1, **changes)
    monkeypatch.chdir(tmp_path / "whole")
    main()
    monkeypatch.chdir(tmp_path / "killed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed(patch)
        main()
    capfd.readouterr()
    debug_launcher(as_a_new_process, (main,), num_processes=2)
    said = capfd.readouterr().out
    assert [said.count(text) for text in resuming] == [1] * len(resuming), said
    for of in ("train/loss", "validation/eer"):
        one, two = (
            pd.read_csv(tmp_path / name / f"metrics/training/plots/metrics/{of}.tsv", sep="\t") for name in ("whole", "killed")
        )
        pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    clips = [np.random.default_rng(i).normal(size=(50, 80)).astype(np.float32) for i in range(8)]
    one, two = (SpeakerModel.load(tmp_path / name / "models/speakerprint").embed_frames(clips) for name in ("whole", "killed"))
    np.testing.assert_allclose(one, two, atol=1e-3)
