r"""What decides the closed-form start: linear discriminant analysis of a frozen encoder's statistics, in many settings at once.

    python -m experiments.discriminant_starts data/features/evaluate/{french,locales,speechocean}_validation \
        --train data/features/train/*_train

`train` with train.steps=0, discriminant.views=0, sampling.speeds=[1.0] and train.validation_speakers=0 gives the same
model, one setting a run: experiments/starts. Here each recording is encoded once: the statistics (mean and standard deviation
over time) of the lowest layers of a central crop of each training recording, and of each window, and of the central 2 s, of each
recording that is tried. All else is linear algebra. A table: EER in % of whole recordings, and of their central 2 s.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.audio.log_mel import pad_batch
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.evaluation.trials import pairs_within, score_trials
from speakerprint.inference.vectors import unit_vectors
from speakerprint.model.speaker_model import SpeakerModel, native_bf16, windows
from speakerprint.model.whisper import DIMS, ENCODER_PATH
from speakerprint.params.whole import load_params
from speakerprint.training.discriminant import discriminant
from speakerprint.training.start import initial_model

BATCH = 16
SHORT_S = 2.0


def central(clip: NDArray, n_frames: int) -> NDArray:
    """The middle `n_frames` frames of a clip (frames, 80); a shorter one comes whole."""
    start = max(0, len(clip) - n_frames) // 2
    return clip[start : start + n_frames]


@torch.inference_mode()
def statistics(model: SpeakerModel, clips: Iterable[NDArray], total: int) -> NDArray[np.float32]:
    """What the model pools of each of the `total` clips, (clips, width)."""
    rows, waiting = [], iter(tqdm(clips, "statistics", total, unit="clip", disable=None))
    for batch in iter(lambda: list(islice(waiting, BATCH)), []):
        features, mask = pad_batch(batch)
        lengths = None if mask.all() else torch.from_numpy(mask.sum(axis=1))
        with torch.autocast("cpu", torch.bfloat16, enabled=native_bf16("cpu")):
            rows.append(model.pool(*model.encode(torch.from_numpy(features), lengths)).float().numpy())
    return np.concatenate(rows)


def some_layers(digits: str) -> list[int]:
    """Layers given as their digits: 123. Raises argparse.ArgumentTypeError for others than the encoder has."""
    if not digits or not set(digits) <= set(map(str, range(1, DIMS.n_layers + 1))):
        raise argparse.ArgumentTypeError(f"{digits!r}: expected layers from 1 to {DIMS.n_layers} as digits, such as 123")
    return [int(digit) for digit in digits]


def columns(layers: Sequence[int], n_layers: int) -> NDArray[np.int64]:
    """Which columns of `statistics` are of these layers, counted from 1: means of all layers come first, then deviations."""
    width = DIMS.width
    starts = [(half * n_layers + layer - 1) * width for half in (0, 1) for layer in layers]
    return np.concatenate([np.arange(start, start + width) for start in starts])


class Tried:
    """A corpus's recordings as statistics: of their windows, (windows, width), and of their central 2 s, (recordings, width)."""

    def __init__(self, folder: Path, model: SpeakerModel):
        store = FeatureStore(folder)
        self.name = folder.name
        n_frames, short = (round(s * FRAMES_PER_SECOND) for s in (model.settings.window_s, SHORT_S))
        whole = [store.frames(row).astype(np.float32) for row in range(len(store))]
        parts = [windows(clip, n_frames) for clip in whole]
        self.owner = np.repeat(np.arange(len(parts)), [len(own) for own in parts])
        self.windows = statistics(model, [part for own in parts for part in own], len(self.owner))
        self.short = statistics(model, [central(clip, short) for clip in whole], len(whole))
        self.speaker_ids = store.speaker_ids
        self.locales = pd.factorize(store.recordings["locale"])[0]  # -1: not known

    def errors(self, project: "Projection") -> Iterator[float]:
        """EER, in %, of whole recordings, of their trials within a locale where there are several, and of the central 2 s."""
        sums = np.zeros((len(self.speaker_ids), project.dim))
        np.add.at(sums, self.owner, project(self.windows))
        whole, short = (unit_vectors(one).astype(np.float32) for one in (sums, project(self.short)))
        yield 100 * score_trials(whole, self.speaker_ids).equal_error_rate()[0]
        if self.locales.max() > 0:
            yield 100 * score_trials(whole, self.speaker_ids, pairs_within(self.locales)).equal_error_rate()[0]
        yield 100 * score_trials(short, self.speaker_ids).equal_error_rate()[0]

    @property
    def heads(self) -> list[str]:
        """What `errors` yields, each with the corpus's name."""
        within = [f"{self.name}, same locale"] if self.locales.max() > 0 else []
        return [self.name, *within, f"{self.name}, {SHORT_S:g} s"]


class Projection:
    """Statistics to embeddings, as SpeakerModel.project does with a projection that discriminant analysis found."""

    def __init__(self, rows: NDArray[np.float32], speakers: NDArray, chosen: NDArray, dim: int, shrinkage: float):
        self.dim, self._chosen = dim, chosen
        self._mean, self._std, self._weights = discriminant(rows[:, chosen], speakers, dim, shrinkage)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray:
        """(n, width) to unit vectors (n, dim)."""
        return unit_vectors((rows[:, self._chosen] - self._mean) / self._std @ self._weights.T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+", help="feature stores whose recordings are tried")
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="feature stores of the training speakers")
    parser.add_argument("--init-from", default=ENCODER_PATH, help="as train.init_from; of a model: its encoder (%(default)s)")
    layers = [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    parser.add_argument("--layers", nargs="+", type=some_layers, default=layers, help="of each setting: 1 12 123 1234")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 256], help="of the embedding (%(default)s)")
    parser.add_argument("--shrinkages", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="%(default)s")
    arguments = parser.parse_args()
    n_layers = max(map(max, arguments.layers))
    params = load_params()
    settings = params.model.model_copy(
        update=dict(layers=n_layers, layer_combination="concatenate", pooling="attentive_statistics")
    )
    model = initial_model(settings, arguments.init_from, new_head=True).eval()

    stores = [FeatureStore(folder) for folder in arguments.train]
    n_frames = round(params.discriminant.crop_s * FRAMES_PER_SECOND)
    crops = (central(store.frames(row), n_frames) for store in stores for row in range(len(store)))
    rows = statistics(model, crops, sum(map(len, stores)))
    named = [f"{number}/{speaker}" for number, store in enumerate(stores) for speaker in store.speaker_ids]
    speakers = np.unique(named, return_inverse=True)[1]
    tried = [Tried(folder, model) for folder in arguments.stores]

    heads = ["layers", "dim", "shrinkage", *(head for one in tried for head in one.heads)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for layers, dim, shrinkage in product(arguments.layers, arguments.dims, arguments.shrinkages):
        project = Projection(rows, speakers, columns(layers, n_layers), dim, shrinkage)
        errors = [f"{error:.1f}" for one in tried for error in one.errors(project)]
        print(f"| {', '.join(map(str, layers))} | {dim} | {shrinkage:g} | {' | '.join(errors)} |", flush=True)


if __name__ == "__main__":
    main()
