"""The losses of a batch, in one process or several."""

from contextlib import nullcontext

import pytest
import torch

from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.losses import batch_hard_triplet, ntxent
from speakerprint.training.objective import Objective
from tests.joint_batch import CASES, LABELS, batch, losses_and_gradients
from tests.training.processes import in_two_processes
from tests.training.runs import tiny_recipe, with_teacher


def test_losses_are_computed_in_float32_under_autocast():
    torch.manual_seed(0)
    recipe = tiny_recipe()
    objective = Objective(SpeakerModel(recipe.model), 4, recipe)
    close = torch.nn.functional.normalize(torch.ones(1, 8, 8) + 0.02 * torch.randn(2, 8, 8), dim=-1)
    objective.model.project = lambda pooled: close.flatten(0, 1)
    given = batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(given, 99)
    weights = recipe.loss
    assert terms["triplet"].item() == batch_hard_triplet(close[0], given.labels, weights.triplet_margin).item()
    assert terms["ntxent"].item() == ntxent(close, weights.ntxent_temperature).item()
    both = close.flatten(0, 1), given.labels.repeat(2)
    assert terms["angular_margin"].item() == objective.angular_margin(*both, weights.angular_margin).item()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two")
    launched = in_two_processes("tests.joint_batch", "results.pt", folder=folder)
    assert launched.returncode == 0, launched.stderr
    return torch.load(folder / "results.pt")


def agree(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> bool:
    """Whether all gradients are equal but for a fraction of the parameter's largest one (or of 1)."""
    assert gradients.keys() == expected.keys()
    return all((gradients[name] - g).abs().max() <= tolerance * max(1.0, g.abs().max().item()) for name, g in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_losses_and_gradients_of_one(of_two_processes, case):
    one, two = losses_and_gradients(**CASES[case]), of_two_processes[case]
    # a processor may round batches of other sizes otherwise in bfloat16
    tolerance, of_loss = (0.05, 1e-3) if "bf16" in CASES[case] else (1e-5, 1e-6)
    torch.testing.assert_close(two["losses"], one["losses"], atol=1e-5, rtol=of_loss)
    assert agree(two["gradients"], one["gradients"], tolerance)
    assert max(gradient.abs().max() for gradient in one["gradients"].values()) > 1e-2


@pytest.mark.slow
def test_processes_share_a_batch_by_speakers(of_two_processes):
    first, second = of_two_processes["triplet"]["clips"]
    assert torch.equal(torch.cat([first, second]), batch(0).features[:, 0, 0])
    assert set(LABELS[: len(first)].tolist()).isdisjoint(LABELS[len(first) :].tolist())


@pytest.mark.slow
def test_the_objective_asks_its_device_for_nothing(monkeypatch):
    """On the device "meta", where tensors have no values, whatever needs one to go on is an error."""

    class OnHost(torch.Generator):
        def __new__(cls, *_):
            return super().__new__(cls)

    monkeypatch.setattr(torch, "Generator", OnHost)  # "meta" has no generator and no autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    given = batch(0).to("meta")
    recipe = with_teacher(tiny_recipe())
    objective = Objective(SpeakerModel(recipe.model), 4, recipe, [taught.shape[1] for taught in given.taught]).to("meta")
    objective(given, 99)["loss"].backward()
    assert objective.model.encoder.conv1.weight.grad.shape == (512, 80, 3)
    with pytest.raises(RuntimeError, match="cannot be called on meta"):
        given.features.mean().item()
