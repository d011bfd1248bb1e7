"""Average models that were trained from one start, in different ways, into one model: as large and as quick as each of them.

    python experiments/average_models.py models/a models/b --features data/features/train/*_train --out models/average

Each weight becomes the mean of theirs, equally or as `--shares` says (Wortsman et al.: "Model soups: averaging weights of
multiple fine-tuned models improves accuracy without increasing inference time", 2022). What one model calls its first number
another may call its fifth, or a mixture of several: before the mean, each model's projection is turned so that its embeddings of
training recordings come to lie on the first model's (orthogonal Procrustes). Then evaluate: models of different starts, or too
far from theirs, have no useful mean.
"""

import argparse
import shutil
import sys
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
from speakerprint.model.speaker_model import DiscriminantProjection, SpeakerModel
from speakerprint.training.validation import embed_crops

CROPS = 1_000  # of training recordings, from which the turns are found
SEED = 1


def training_crops(folders: Sequence[Path], n_frames: int) -> list[NDArray[np.float16]]:
    """The first frames, at most `n_frames`, of CROPS recordings of the stores, drawn at random: each (frames, 80)."""
    rng, stores = np.random.default_rng(SEED), [FeatureStore(folder) for folder in folders]
    every = [(store, index) for store in stores for index in range(len(store))]
    chosen = rng.choice(len(every), min(CROPS, len(every)), replace=False)
    return [store.frames(index, 0, n_frames) for store, index in (every[i] for i in chosen)]


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
        turned.append(tuple(turn.T @ part for part in raw_projection(model)))
    weights, bias = (of_all(parts) for parts in zip(*turned, strict=True))
    centre, spread = (states[0][f"projection.{name}"].double() for name in ("mean", "std"))
    mean |= {"projection.mean": centre, "projection.std": spread}
    mean |= {"projection.linear.weight": weights * spread, "projection.linear.bias": bias + weights @ centre}
    result = SpeakerModel(first.settings)
    result.load_state_dict({name: tensor.to(states[0][name].dtype) for name, tensor in mean.items()})
    return result.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="folders; embeddings will be like the first one's")
    parser.add_argument("--features", nargs="+", type=Path, required=True, help="feature stores of training corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model that is made")
    parser.add_argument("--shares", nargs="+", type=float, help="how much each model counts, in sum 1; default: equally")
    given = parser.parse_args()
    if given.shares and (len(given.shares) != len(given.models) or abs(sum(given.shares) - 1) > 1e-6):
        parser.error(f"--shares: expected {len(given.models)} numbers whose sum is 1, one for each model")
    try:
        models = [SpeakerModel.load(folder) for folder in given.models]
        crops = training_crops(given.features, round(models[0].settings.window_s * FRAMES_PER_SECOND))
        embeddings = [
            embed_crops(model, tqdm(crops, str(folder), disable=None)) for model, folder in zip(models, given.models, strict=True)
        ]
        for folder, own in zip(given.models[1:], embeddings[1:], strict=True):
            turned = own @ orthogonal_procrustes(own, embeddings[0])[0]
            print(f"{folder}: once turned, its embeddings are at a mean cosine of {(turned * embeddings[0]).sum(1).mean():.3f}")
        average(models, embeddings, given.shares).save(given.out, run="average of " + ", ".join(map(str, given.models)))
        shutil.copy(given.models[0] / "params.yaml", given.out)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
