"""Which losses pay? Fits of the projection alone, on statistics that are pooled once: half a minute for each choice of weights.

    python -m experiments.projection_fits pool                  # crops and views of the training recordings, once; 15 minutes
    python -m experiments.projection_fits fit teacher_match=10 triplet=5 --left-out

The model, its losses and the speech are those of params.yaml; train.init_from is a trained model with a projection from
discriminant analysis, whose encoder and pooling stay as they are. `NAME=WEIGHT` sets `loss.NAME_weight`. Printed are EERs of the
validation corpora, with --left-out also of fits that have not heard the corpus they are judged on (french_train for
french_validation): what a gain is worth on speech of another kind.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import gmean
from torch import Tensor
from tqdm import tqdm

from experiments.conditions import all_conditions
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.audio.log_mel import log_mel, pad_batch, windows
from speakerprint.corpora.resampling import read_audio
from speakerprint.errors import InputError
from speakerprint.evaluation.trials import equal_error_rate
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.params.loss import Loss
from speakerprint.training.batches import Batch
from speakerprint.training.data import UNLABELLED, Examples
from speakerprint.training.loop import Prepared, prepare
from speakerprint.training.objective import Objective
from speakerprint.training.recipe import Recipe
from speakerprint.training.start import LeastSquares, TeacherMatch, set_centres
from speakerprint.training.teacher import TEACHER_PATH
from stages.train import given

POOLED = Path("data/projection_fits")
CONDITIONS = ("full", "2s", "1s", "telephone", "opus-6k")
AT_ONCE = 64
STEPS, BATCH, LEARNING_RATE, WARMUP = 200, 512, 3e-4, 30  # a fit: clips a batch, each with its view


@dataclass(frozen=True)
class Pooled:
    """Statistics of training crops: clips and views (n, width) float16, and the example, (n,), that each is of."""

    clips: NDArray[np.float16]
    views: NDArray[np.float16]
    examples: NDArray[np.int64]


def everything(prepared: Prepared) -> Examples:
    """The labelled examples, then the unlabelled."""
    return prepared.reader.examples.followed_by(prepared.unlabelled) if len(prepared.unlabelled) else prepared.reader.examples


def origin(prepared: Prepared) -> str:
    """Digest of what statistics are of: the model, and the recordings in their order."""
    examples, config = everything(prepared), Path(prepared.recipe.train.init_from, "config.json").read_bytes()
    recordings = "\n".join(name for store in examples.data.stores for name in store.recordings["recording_id"])
    return hashlib.sha256(config + recordings.encode() + examples.recordings.tobytes()).hexdigest()


@torch.inference_mode()
def pool_training(model: SpeakerModel, prepared: Prepared) -> Pooled:
    """A crop of each example, of train.crop_s to train.last_crop_s, and a view of it as NT-Xent has them."""
    examples, settings, augmentation = everything(prepared), prepared.recipe.train, prepared.recipe.augmentation
    reader = replace(prepared.reader, examples=examples)
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(examples))
    batches = np.split(order, range(AT_ONCE, len(order), AT_ONCE))
    clips: list[NDArray[np.float16]] = []
    views: list[NDArray[np.float16]] = []
    for number, chosen in enumerate(tqdm(batches, "pool", unit="batch", disable=None)):
        n_frames = round(rng.uniform(settings.crop_s, settings.last_crop_s or settings.crop_s) * FRAMES_PER_SECOND)
        batch = reader.read(chosen, n_frames, rng.random(len(chosen)), number)
        n_valid = batch.n_frames if batch.padded else None
        for rows, features in zip((clips, views), batch.views(augmentation, 1), strict=True):
            rows.append(model.pool(*model.encode(features, n_valid)).half().numpy())
    return Pooled(np.concatenate(clips), np.concatenate(views), order)


@torch.inference_mode()
def pool_validation(model: SpeakerModel, corpus: Path) -> dict[str, NDArray]:
    """Statistics of the windows of a corpus's recordings in each condition, which recording each is of, and their speakers."""
    recordings, clips = read_audio(corpus)
    found: dict[str, NDArray] = {"speakers": recordings["speaker_id"].to_numpy(str)}
    conditions = {condition.name: condition for condition in all_conditions([])}
    decoded = [(name, decode(clip, name)[0]) for name, clip in zip(recordings["recording_id"], clips, strict=True)]
    for condition in tqdm(CONDITIONS, corpus.name, disable=None):
        rows, owner = [], []
        for index, (name, samples) in enumerate(decoded):
            heard = log_mel(conditions[condition].apply(samples, name))
            for window in windows(heard, round(model.settings.window_s * FRAMES_PER_SECOND)):
                features, _ = pad_batch([window])
                rows.append(model.pool(*model.encode(torch.from_numpy(features), None))[0].half().numpy())
                owner.append(index)
        found |= {condition: np.stack(rows), f"{condition} owner": np.array(owner)}
    return found


def fit(model: SpeakerModel, prepared: Prepared, pooled: Pooled, without: str = "") -> None:
    """Fit the model's projection to the losses of the recipe, on all corpora but the one of that name.

    Speakers' centres and the maps to teachers start from the model's embeddings of the clips, as in training.
    """
    examples = everything(prepared)
    kept = np.flatnonzero(examples.data.corpora[examples.recordings[pooled.examples]] != without)
    objective = Objective(model, prepared.reader.examples.n_speakers, prepared.recipe, [one.shape[1] for one in examples.taught])
    start(objective, examples, pooled, kept)
    learned = [*model.projection.parameters(), *objective.angular_margin.parameters(), *objective.teacher_matches.parameters()]
    optimiser = torch.optim.AdamW(learned, LEARNING_RATE, weight_decay=0)
    rng = np.random.default_rng(prepared.recipe.train.seed)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * min(1, (step + 1) / WARMUP) * (1 + np.cos(np.pi * step / STEPS)) / 2
        rows = rng.choice(kept, min(BATCH, len(kept)), replace=False)
        rows = rows[np.argsort(examples.labels[pooled.examples[rows]] == UNLABELLED, kind="stable")]  # which come last in a batch
        embeddings = torch.stack([model.project(floats(part[rows])) for part in (pooled.clips, pooled.views)])
        optimiser.zero_grad()
        objective.losses(embeddings, batch_of(examples, pooled.examples[rows]), step)["loss"].backward()
        optimiser.step()


@torch.inference_mode()
def start(objective: Objective, examples: Examples, pooled: Pooled, kept: NDArray[np.int64]) -> None:
    """Start the speakers' centres and the maps to teachers from the embeddings of the clips."""
    sums = torch.zeros_like(objective.angular_margin.centres)
    maps = [LeastSquares(match) for match in objective.teacher_matches if isinstance(match, TeacherMatch)]
    for rows in np.split(kept, range(BATCH, len(kept), BATCH)):
        embeddings, chosen = objective.model.project(floats(pooled.clips[rows])), pooled.examples[rows]
        known = examples.labels[chosen] != UNLABELLED
        sums.index_add_(0, torch.from_numpy(examples.labels[chosen[known]]), embeddings[torch.from_numpy(known)])
        for one, taught in zip(maps, examples.taught if maps else (), strict=True):
            one.add(embeddings, torch.from_numpy(taught[chosen]))
    set_centres(objective, sums)
    for one in maps:
        one.set_map()


def batch_of(examples: Examples, chosen: NDArray[np.int64]) -> Batch:
    """The examples as a batch whose features nobody needs."""
    labels = torch.from_numpy(examples.labels[chosen])
    genders, nothing = torch.from_numpy(examples.genders[chosen]), torch.empty(0)
    taught = tuple(torch.from_numpy(one[chosen]) for one in examples.taught)
    return Batch(nothing, nothing, labels, genders, nothing, taught, 0, 1, int((labels != UNLABELLED).sum()), False)


def floats(rows: NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(rows.astype(np.float32))


@torch.inference_mode()
def judge(model: SpeakerModel, validation: dict[str, NDArray]) -> list[float]:
    """The EER of a corpus in each condition, in %."""
    eers = []
    for condition in CONDITIONS:
        rows, owner = model.project(floats(validation[condition])), torch.from_numpy(validation[f"{condition} owner"])
        sums = torch.zeros(len(validation["speakers"]), rows.shape[1]).index_add_(0, owner, rows)
        eers.append(100 * equal_error_rate(sums.numpy(), validation["speakers"]))
    return eers


def row(title: str, eers: dict[str, list[float]]) -> str:
    """A row of the table: the geometric mean, then each corpus in each condition."""
    cells = [" / ".join(f"{eer:.1f}" for eer in of_corpus) for of_corpus in eers.values()]
    return f"| {title} | {gmean([eer for of_corpus in eers.values() for eer in of_corpus]):.2f} | {' | '.join(cells)} |"


def pool_all(prepared: Prepared, corpora: Sequence[str]) -> None:
    """Write the statistics of training and of validation."""
    model = SpeakerModel.load(prepared.recipe.train.init_from)
    POOLED.mkdir(parents=True, exist_ok=True)
    np.savez(POOLED / "training.npz", **vars(pool_training(model, prepared)))
    for corpus in corpora:
        np.savez(POOLED / f"{corpus}.npz", allow_pickle=False, **pool_validation(model, Path("data/audio") / corpus))
    (POOLED / "origin").write_text(origin(prepared))  # last: the statistics are whole


def fit_all(prepared: Prepared, corpora: Sequence[str], title: str, left_out: bool) -> None:
    """Print the rows of a choice of weights, and of the model as it is.

    Raises InputError where there are no statistics, or they are of another model or other recordings, and where a corpus that
    is to be left out is none of those that are learned from.
    """
    training_of = {corpus: corpus.replace("_validation", "_train") for corpus in corpora}
    if left_out and (unknown := [name for name in training_of.values() if name not in prepared.data.corpora]):
        raise InputError(f"{unknown[0]} is to be left out, but is no corpus of params.yaml that is learned from")
    try:
        of = (POOLED / "origin").read_text()
    except FileNotFoundError:
        raise InputError(f"{POOLED} has no statistics; make them with `python -m experiments.projection_fits pool`") from None
    if of != origin(prepared):
        raise InputError(f"{POOLED} has statistics of another model or other recordings; make them again with `pool`")
    pooled = Pooled(**np.load(POOLED / "training.npz"))
    validation = {corpus: dict(np.load(POOLED / f"{corpus}.npz")) for corpus in corpora}

    def fitted(without: str = "") -> SpeakerModel:
        model = SpeakerModel.load(prepared.recipe.train.init_from)
        fit(model, prepared, pooled, without)
        return model

    as_it_is, model = SpeakerModel.load(prepared.recipe.train.init_from), fitted()
    heads = [f"{corpus}: {' / '.join(CONDITIONS)}" for corpus in corpora]
    print(f"| | geometric mean | {' | '.join(heads)} |")
    print(row("as it is", {corpus: judge(as_it_is, validation[corpus]) for corpus in corpora}))
    print(row(title, {corpus: judge(model, validation[corpus]) for corpus in corpora}), flush=True)
    if left_out:
        others = {corpus: judge(fitted(training_of[corpus]), validation[corpus]) for corpus in corpora}
        print(row(f"{title}, corpus left out", others))


def with_weights(wanted: Recipe, weights: Sequence[str]) -> Recipe:
    """The recipe with these weights of losses, each NAME=WEIGHT. Raises InputError for another form, name or weight."""
    given_weights = {f"{name}_weight": weight for name, _, weight in (one.partition("=") for one in weights)}
    try:
        return replace(wanted, loss=Loss.model_validate(wanted.loss.model_dump() | given_weights, strict=False))
    except ValidationError as error:
        names = ", ".join(name.removesuffix("_weight") for name in Loss.model_fields if name.endswith("_weight"))
        raise InputError(f"{' '.join(weights)}: {error.errors()[0]['msg']}; expected NAME=WEIGHT, of {names}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["pool", "fit"])
    parser.add_argument("weights", nargs="*", metavar="NAME=WEIGHT", help="of losses, in place of those of params.yaml")
    parser.add_argument("--corpora", nargs="+", default=[f"{name}_validation" for name in ("french", "locales", "speechocean")])
    parser.add_argument("--left-out", action="store_true", help="also judge each corpus by a fit without it")
    chosen = parser.parse_args()
    try:
        stores, wanted = given()
        prepared = prepare(stores, with_weights(wanted, chosen.weights), TEACHER_PATH, print)
        if chosen.action == "pool":
            pool_all(prepared, chosen.corpora)
        else:
            fit_all(prepared, chosen.corpora, " ".join(chosen.weights) or "as params.yaml", chosen.left_out)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
