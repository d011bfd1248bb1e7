"""The mean of models is theirs, whatever each calls its first number."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from speakerprint.errors import InputError
from speakerprint.model.averaging import average, average_folders
from speakerprint.model.speaker_model import SpeakerModel
from tests.helpers import tiny_model
from tests.training.runs import write_store

CLIPS = [np.random.default_rng(seed).normal(size=(60 + seed, 80)).astype(np.float32) for seed in range(40)]


def model(**settings) -> SpeakerModel:
    torch.manual_seed(0)
    kind = {"layer_combination": "concatenate", "projection": "discriminant"}
    made = SpeakerModel(tiny_model(**kind | settings)).eval()
    if made.settings.projection == "discriminant":
        projection: Any = made.projection
        projection.mean.uniform_(-0.5, 0.5), projection.std.uniform_(0.5, 2.0)
    return made


def turned(original: SpeakerModel) -> tuple[SpeakerModel, np.ndarray]:
    """A model that hears the same in other numbers, and with other means and deviations; and how its numbers are mixed."""
    other, turn = model(), torch.from_numpy(ortho_group.rvs(12, random_state=1)).float()
    with torch.no_grad():
        other.load_state_dict(original.state_dict())
        projection: Any = other.projection
        linear, generator = projection.linear, torch.Generator().manual_seed(1)
        mean, std = (torch.rand(linear.in_features, generator=generator) + 0.5 for _ in range(2))
        linear.bias.copy_(turn @ (linear.bias + linear.weight @ ((mean - projection.mean) / projection.std)))
        linear.weight.copy_(turn @ linear.weight * std / projection.std)
        projection.mean.copy_(mean), projection.std.copy_(std)
    return other, turn.numpy()


@pytest.mark.slow
def test_models_that_hear_the_same_in_other_numbers_have_themselves_as_their_mean():
    first = model()
    other, turn = turned(first)
    embeddings = [one.embed_frames(CLIPS) for one in (first, other)]
    np.testing.assert_allclose(embeddings[1], embeddings[0] @ turn.T, atol=1e-4)
    np.testing.assert_allclose(average([first, other], embeddings).embed_frames(CLIPS), embeddings[0], atol=1e-4)


@pytest.mark.parametrize(("shares", "share"), [(None, 0.5), ([0.75, 0.25], 0.75)])
def test_every_weight_is_the_mean_of_theirs(shares, share):
    first, other = model(), model()
    with torch.no_grad():
        for weight in other.encoder.parameters():
            weight.add_(0.01)
    same = np.eye(12, dtype=np.float32)
    result = average([first, other], [same, same], shares).state_dict()
    for name, weight in first.state_dict().items():
        expected = share * weight + (1 - share) * other.state_dict()[name]
        np.testing.assert_allclose(result[name], expected, atol=1e-6, err_msg=name)
    moved = "encoder.layers.0.fc1.weight"
    assert not torch.allclose(result[moved], first.state_dict()[moved])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 10}, "different kinds"),
        ({"projection": "mlp"}, r"only models with model\.projection: discriminant"),
    ],
)
def test_models_that_have_no_mean_are_refused(settings, message):
    models = [model(**settings), model() if "embedding_dim" in settings else model(**settings)]
    with pytest.raises(InputError, match=message):
        average(models, [np.eye(12, dtype=np.float32)] * 2)


@pytest.mark.slow
def test_the_mean_of_folders_is_a_model_that_loads(tmp_path):
    write_store(tmp_path / "features")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        model().save(folder, run=folder.name)
        (folder / "params.yaml").write_text(f"# {folder.name}\n")
    near = average_folders(folders, [tmp_path / "features"], tmp_path / "average")
    assert near == pytest.approx([1, 1])
    assert (tmp_path / "average/params.yaml").read_text() == "# a\n"
    loaded = SpeakerModel.load(tmp_path / "average")
    np.testing.assert_allclose(loaded.embed_frames(CLIPS), model().embed_frames(CLIPS), atol=1e-4)
    with pytest.raises(InputError, match=r"shares 0\.7, 0\.2; expected 2 whose sum is 1"):
        average_folders(folders, [tmp_path / "features"], tmp_path / "average", [0.7, 0.2])
    with pytest.raises(InputError, match=r"no model in .*nowhere"):
        average_folders([folders[0], tmp_path / "nowhere"], [tmp_path / "features"], tmp_path / "average")
