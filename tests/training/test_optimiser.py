"""What learns, and how fast."""

import pytest

from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.objective import Objective
from speakerprint.training.optimiser import make_optimiser, schedule, set_rates
from tests.training.runs import tiny_recipe


def test_lower_layers_learn_more_slowly_where_that_is_asked():
    recipe = tiny_recipe()
    objective = Objective(SpeakerModel(recipe.model.model_copy(update={"layers": 3})), 2, recipe)
    settings = recipe.train.model_copy(update={"encoder_learning_rate": 0.8, "encoder_layer_decay": 0.5})
    groups = make_optimiser(objective, settings).param_groups
    assert [group["peak"] for group in groups] == [0.1, 0.2, 0.4, 0.8, settings.head_learning_rate]
    of_group = [{id(parameter) for parameter in group["params"]} for group in groups]
    encoder = objective.model.encoder
    for place, part in [(0, encoder.conv1), (1, encoder.layers[0]), (3, encoder.layers[2]), (3, encoder.layer_norm)]:
        assert all(id(parameter) in of_group[place] for parameter in part.parameters())
    assert sum(map(len, of_group)) == len(list(objective.parameters()))


def test_the_encoder_learns_from_its_own_step_on():
    recipe = tiny_recipe()
    settings = recipe.train.model_copy(
        update={"encoder_learning_rate": 0.5, "freeze_encoder_steps": 3, "head_learning_rate": 0.1}
    )
    objective = Objective(SpeakerModel(recipe.model), 2, recipe)
    optimiser, encoder = make_optimiser(objective, settings), objective.model.encoder
    for step, learns, rates in [(2, False, [0.0, 0.0]), (3, True, [0.5, 0.5])]:
        set_rates(optimiser, encoder, settings, step)
        assert all(parameter.requires_grad == learns for parameter in encoder.parameters())
        assert [group["lr"] for group in optimiser.param_groups[:2]] == rates and optimiser.param_groups[-1]["lr"] > 0


def test_the_learning_rate_warms_up_and_decays_to_zero():
    fractions = [schedule(step, start=0, warmup_steps=4, steps=20) for step in range(21)]
    assert fractions[:4] == [0.25, 0.5, 0.75, 1.0] and fractions[4] == 1.0
    assert fractions[12] == pytest.approx(0.5) and fractions[20] == pytest.approx(0.0)
    assert fractions[4:] == sorted(fractions[4:], reverse=True)


def test_a_late_start_has_a_schedule_of_its_own():
    late = [schedule(step, start=10, warmup_steps=4, steps=30) for step in range(31)]
    assert late[:10] == [0.0] * 10
    assert late[10:] == [schedule(step, start=0, warmup_steps=4, steps=20) for step in range(21)]


def test_the_learning_rate_may_stay_at_its_peak():
    assert [schedule(step, start=2, warmup_steps=2, steps=None) for step in range(7)] == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    recipe = tiny_recipe()
    settings = recipe.train.model_copy(update={"decay": "none", "warmup_steps": 0})
    objective = Objective(SpeakerModel(recipe.model), 2, recipe)
    optimiser = make_optimiser(objective, settings)
    for step in (0, settings.steps - 1):
        set_rates(optimiser, objective.model.encoder, settings, step)
        assert optimiser.param_groups[-1]["lr"] == settings.head_learning_rate
