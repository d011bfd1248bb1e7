"""experiments/steps_that_fit.py: steps are timed once they are warm, and counted so that they end in time."""

import sys
from pathlib import Path

import pytest

from experiments import steps_that_fit
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.data import Stores
from tests.helpers import narrow_encoders
from tests.training.runs import tiny_recipe, write_store


def test_the_first_steps_are_not_counted(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(steps_that_fit.time, "monotonic", lambda: now[0])

    class Trainer:
        taken: list[int] = []  # noqa: RUF012

        def steps(self):
            return iter(range(1000))

        def learn(self, step):
            self.taken.append(step)
            now[0] += 5.0 if step < 20 else 0.5

    assert steps_that_fit.seconds_a_step(Trainer()) == 0.5  # type: ignore[arg-type]
    assert Trainer.taken == list(range(100))


def test_steps_end_in_time_and_there_is_always_one():
    assert steps_that_fit.steps_within(100.0, 20.0, 0.5) == 150  # of 95 seconds, 75 after the start
    assert steps_that_fit.steps_within(-3.0, 20.0, 0.5) == 1


@pytest.mark.slow
def test_the_last_line_is_a_number_of_steps_and_nothing_is_kept(tmp_path, monkeypatch, capsys):
    narrow_encoders(monkeypatch)
    recipe = tiny_recipe()
    SpeakerModel(recipe.model).save(tmp_path / "tiny", "start")
    settings = recipe.train.model_copy(update={"init_from": str(tmp_path / "tiny"), "steps": 100})
    given = Stores({"a": write_store(tmp_path / "a")}), type(recipe)(**vars(recipe) | {"train": settings})
    monkeypatch.setattr(steps_that_fit, "given", lambda: given)
    monkeypatch.setattr(steps_that_fit, "TIMED", 1)
    monkeypatch.setattr(sys, "argv", ["steps_that_fit", "300"])
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in Path().iterdir()}
    steps_that_fit.main()
    assert 20 < int(capsys.readouterr().out.splitlines()[-1]) < 30_000
    assert {path.name for path in Path().iterdir()} == before
