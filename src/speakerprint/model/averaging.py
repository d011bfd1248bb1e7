"""Average models that were trained from one start, in different ways, into one model: as large and as quick as each of them.

Each weight becomes the mean of theirs, equally or by shares (Wortsman et al.: "Model soups: averaging weights of
multiple fine-tuned models improves accuracy without increasing inference time", 2022). What one model calls its first number
another may call its fifth, or a mixture of several: before the mean, each model's projection is turned so that its embeddings of
training recordings come to lie on the first model's (orthogonal Procrustes). Then evaluate: models of different starts, or too
far from theirs, have no useful mean.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.files import whole_file
from speakerprint.model.speaker_model import DiscriminantProjection, SpeakerModel

CROPS = 1_000  # of training recordings, from which the turns are found
SEED = 1


def average_folders(
    folders: Sequence[Path], features: Sequence[Path], out: Path, shares: Sequence[float] | None = None
) -> list[float]:
    """Write the mean of the models in some folders into another; features: the feature stores of corpora they learned from.

    shares: how much each model counts, in sum 1; equally without them. Returns how near each model's embeddings are, once turned,
    to the first one's: the mean cosine, which is 1 for the first. Raises InputError as `average` does, for a folder without a
    model, and for shares of another number or sum.
    """
    if shares and (len(shares) != len(folders) or abs(sum(shares) - 1) > 1e-6):
        raise InputError(f"shares {', '.join(map(str, shares))}; expected {len(folders)} whose sum is 1, one for each model")
    models = [SpeakerModel.load(folder) for folder in folders]
    crops = training_crops(features, round(models[0].settings.window_s * FRAMES_PER_SECOND))
    embeddings = [model.embed_frames(crops) for model in tqdm(models, "embed", unit="model", disable=None)]
    average(models, embeddings, shares).save(out, run="average of " + ", ".join(map(str, folders)))
    with whole_file(out / "params.yaml") as part:
        shutil.copyfile(folders[0] / "params.yaml", part)
    turned = [own @ orthogonal_procrustes(own, embeddings[0])[0] for own in embeddings]
    return [float((own * embeddings[0]).sum(axis=1).mean()) for own in turned]


def training_crops(folders: Sequence[Path], n_frames: int) -> list[NDArray[np.float32]]:
    """The first frames, at most `n_frames`, of CROPS recordings of the stores, drawn at random: each (frames, 80)."""
    rng, stores = np.random.default_rng(SEED), [FeatureStore(folder) for folder in folders]
    every = [(store, index) for store in stores for index in range(len(store))]
    chosen = rng.choice(len(every), min(CROPS, len(every)), replace=False)
    return [store.frames(index, 0, n_frames).astype(np.float32) for store, index in (every[i] for i in chosen)]


def raw_projection(model: SpeakerModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The projection of statistics as they are pooled: weights (dim, width) and bias (dim,), in float64."""
    projection = model.projection
    assert isinstance(projection, DiscriminantProjection)
    weights = projection.linear.weight.double() / projection.std.double()
    return weights, projection.linear.bias.double() - weights @ projection.mean.double()


@torch.no_grad()
def average(
    models: Sequence[SpeakerModel], embeddings: Sequence[NDArray[np.float32]], shares: Sequence[float] | None = None
) -> SpeakerModel:
    """The mean of the models, in the first one's space; embeddings: (recordings, dim) of the same recordings by each of them.

    shares: how much each model counts, in sum 1; equally without them.

    The first model's standardisation of pooled statistics stays; what each model makes of them goes into the mean. Raises
    InputError for models of different kinds, and for those whose projection cannot be turned.
    """
    first, *others = models
    for model in models:
        if model.settings != first.settings:
            raise InputError(f"the models are of different kinds: {first.settings} and {model.settings}")
        if model.settings.projection != "discriminant":
            raise InputError("only models with model.projection: discriminant can be averaged")
    states = [model.state_dict() for model in models]
    share = torch.tensor(shares or [1 / len(models)] * len(models), dtype=torch.float64)

    def of_all(parts: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.tensordot(share, torch.stack([part.double() for part in parts]), dims=1)

    mean = {name: of_all(state[name] for state in states) for name in states[0]}
    turned = [raw_projection(first)]
    for model, own in zip(others, embeddings[1:], strict=True):
        turn = torch.from_numpy(orthogonal_procrustes(own.astype(np.float64), embeddings[0].astype(np.float64))[0])
        weights, bias = raw_projection(model)
        turned.append((turn.T @ weights, turn.T @ bias))
    weights, bias = (of_all(parts) for parts in zip(*turned, strict=True))
    centre, spread = (states[0][f"projection.{name}"].double() for name in ("mean", "std"))
    mean |= {"projection.mean": centre, "projection.std": spread}
    mean |= {"projection.linear.weight": weights * spread, "projection.linear.bias": bias + weights @ centre}
    result = SpeakerModel(first.settings)
    result.load_state_dict({name: tensor.to(states[0][name].dtype) for name, tensor in mean.items()})
    return result.eval()
