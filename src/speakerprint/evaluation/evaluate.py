"""One model on one corpus: embed every recording whole, run the trials, and keep what the metrics file and the pictures need."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.evaluation.trial_sets import AllPairs, TrialSet
from speakerprint.evaluation.trials import Confusion, Curve, Trials, confused_speakers, percentiles, retrieve
from speakerprint.params.evaluation import Evaluation as EvaluationParams

# the figures that people compare between models and runs: all of the metrics file
COMPARED = (
    *("eer", "eer_low", "eer_high", "start_eer", "log_mel_floor_eer", "min_dcf", "top_1", "top_5"),
    *("intra_speaker_distance", "inter_speaker_distance", "threshold_at_1pct_false_accepts", "recordings", "speakers"),
)
BATCH_S = 120.0  # of audio embedded at once, padding included
SCORE_BINS = 120
CONFUSIONS = 15
PROJECTED_SPEAKERS = 24
PROJECTED_RECORDINGS = 10  # of a speaker, at most: the exact t-SNE, which repeats itself bit for bit, takes quadratic time
PERPLEXITY = 15.0
SEED = 1  # of the bootstrap and the projection


class Embedder(Protocol):
    """What `evaluate` asks of a model."""

    def embed_frames(self, clips: list[np.ndarray]) -> np.ndarray:
        """Embed clips, each (frames, 80), as one batch: (clips, dim)."""


@dataclass(frozen=True)
class ScoreHistogram:
    """Densities (bins,) of the scores of both kinds of trials between edges (bins + 1,), and the threshold at the EER."""

    edges: NDArray[np.float64]
    target: NDArray[np.float64]
    nontarget: NDArray[np.float64]
    threshold: float


@dataclass(frozen=True)
class Projection:
    """Recordings (n,) of some speakers in the plane: points (n, 2) and speaker ids (n,)."""

    points: NDArray[np.float64]
    speaker_ids: NDArray[np.object_]


@dataclass(frozen=True)
class Evaluation:
    """The dozen figures that people compare, what else was measured, and what the pictures show."""

    metrics: dict[str, float | int]
    details: dict[str, Any]
    curve: Curve
    floor_curve: Curve
    scores: ScoreHistogram
    projection: Projection
    confusions: list[Confusion]


def evaluate(
    store: FeatureStore,
    model: Embedder,
    settings: EvaluationParams,
    trials: TrialSet | None = None,
    start: Embedder | None = None,
    projected_speakers: int = PROJECTED_SPEAKERS,
) -> Evaluation:
    """Measure a model, and the log-mel statistics as a floor, on trials of a corpus: all pairs of its recordings, or those given.

    ``start`` is the model that training started from, whose EER is then a figure too. Rates are fractions; a condition without
    target or without non-target trials has a null EER. Thresholds are rounded up, so that they keep what they promise. Retrieval
    is over all recordings, whatever the trials. Raises InputError if no speaker has two recordings or there is one speaker.
    """
    trials = trials or AllPairs(store.speaker_ids)
    statistics = log_mel_statistics(store)
    scored = trials.score(statistics)
    floor, floor_curve = _Error.of(statistics, scored, trials, settings), scored.curve()
    of_floor = {**floor.figures(), "min_dcf": scored.min_dcf(), **retrieve(statistics, store.speaker_ids)._asdict()}
    others = {"log_mel_floor_eer": floor.eer, "log_mel_floor": of_floor}
    del scored, statistics
    of_start = None if start is None else _error_alone(embed_store(store, start), trials, settings)

    embeddings = embed_store(store, model)
    scored = trials.score(embeddings)
    error = _Error.of(embeddings, scored, trials, settings)
    if of_start is not None:
        others |= {"start_eer": of_start.eer, "start": {**of_start.figures(), **_gain(of_start, error)}}
    intra, inter = scored.mean_distances()
    _, threshold = scored.equal_error_rate()
    figures = {
        "recordings": len(store),
        "speakers": len(set(store.speaker_ids)),
        "target_trials": len(scored.target),
        "nontarget_trials": len(scored.nontarget),
        "skipped_trials": trials.skipped,
        **error.figures(),
        "min_dcf": scored.min_dcf(),
        **retrieve(embeddings, store.speaker_ids)._asdict(),
        "auc": scored.auc(),
        "intra_speaker_distance": intra,
        "inter_speaker_distance": inter,
        "threshold_at_eer": _round_up(threshold),
        "threshold_at_1pct_false_accepts": _round_up(scored.threshold_at(0.01)),
        "threshold_at_0_1pct_false_accepts": _round_up(scored.threshold_at(0.001)),
        **others,
        "conditions": _conditions(embeddings, store, scored, trials, sorted(settings.duration_edges_s)),
    }
    confusions = confused_speakers(embeddings, store.speaker_ids, CONFUSIONS)
    figures["confusions"] = [confusion._asdict() for confusion in confusions]  # whom pictures and tables have no room to name
    return Evaluation(
        metrics=_rounded({name: figures.pop(name) for name in COMPARED if name in figures}),
        details=_rounded(figures),
        curve=scored.curve(),
        floor_curve=floor_curve,
        scores=ScoreHistogram(*scored.densities(SCORE_BINS), threshold),
        projection=project(embeddings, store.speaker_ids, projected_speakers, SEED),
        confusions=confusions,
    )


def embed_store(store: FeatureStore, model: Embedder, batch_s: float = BATCH_S) -> NDArray[np.float32]:
    """Embed each recording whole: (recordings, dim), in the store's order.

    A batch holds recordings of similar length, at most batch_s seconds of them, padding included, or a single one.
    """
    batches = list(_batches(store.n_frames, batch_s * FRAMES_PER_SECOND))
    rows = []
    with tqdm(total=len(store), desc="embed", unit="recording", disable=None) as progress:
        for batch in batches:
            rows.append(model.embed_frames([store.frames(i).astype(np.float32) for i in batch]))
            progress.update(len(batch))
    return np.concatenate(rows)[np.argsort(np.concatenate(batches))]


def _batches(n_frames: NDArray[np.int64], max_frames: float) -> Iterator[NDArray[np.intp]]:
    """Recordings, longest first, in batches whose number times the longest one is at most max_frames, or of one."""
    order = np.argsort(-n_frames, kind="stable")  # what does not fit into memory shows at once
    while len(order):
        size = max(1, int(max_frames // n_frames[order[0]]))
        yield order[:size]
        order = order[size:]


def log_mel_statistics(store: FeatureStore) -> NDArray[np.float32]:
    """Mean and standard deviation over time of each mel band: (recordings, 160). What a model must beat: nothing is learned."""
    rows = np.empty((len(store), 160), dtype=np.float32)
    for i in tqdm(range(len(store)), desc="log-mel floor", unit="recording", disable=None):
        frames = store.frames(i).astype(np.float32)
        rows[i] = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    return rows


def project(embeddings: NDArray[np.float32], speaker_ids: NDArray[np.object_], n_speakers: int, seed: int) -> Projection:
    """Lay recordings (n, dim) of some speakers out in the plane with t-SNE; drawn among speakers with two recordings or more."""
    ids, counts = np.unique(speaker_ids, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(ids[counts > 1])[:n_speakers]
    chosen = np.concatenate([np.flatnonzero(speaker_ids == speaker)[:PROJECTED_RECORDINGS] for speaker in sorted(drawn)])
    perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="random", method="exact", random_state=seed)
    return Projection(tsne.fit_transform(embeddings[chosen]).astype(np.float64), speaker_ids[chosen])


class _Error(NamedTuple):
    """The EER of a model, and those of bootstrap samples of the speakers, (samples,)."""

    eer: float
    resampled: NDArray[np.float64]

    @classmethod
    def of(cls, embeddings: NDArray, scored: Trials, trials: TrialSet, settings: EvaluationParams) -> "_Error":
        eer, _ = scored.equal_error_rate()  # first: it says what is missing where there is nothing to measure
        return cls(eer, trials.resampled_eers(embeddings, scored, settings.bootstrap_samples, SEED))

    def figures(self) -> dict[str, float]:
        low, high = percentiles(self.resampled)
        return {"eer": self.eer, "eer_low": low, "eer_high": high}


def _error_alone(embeddings: NDArray, trials: TrialSet, settings: EvaluationParams) -> _Error:
    return _Error.of(embeddings, trials.score(embeddings), trials, settings)


def _gain(start: _Error, trained: _Error) -> dict[str, float]:
    """By how much the trained model's EER is lower than its start's; of both, the same speakers are drawn."""
    low, high = percentiles(start.resampled - trained.resampled)
    return {"gain": start.eer - trained.eer, "gain_low": low, "gain_high": high}


def _conditions(
    embeddings: NDArray[np.float32], store: FeatureStore, scored: Trials, trials: TrialSet, edges_s: Sequence[float]
) -> dict[str, Any]:
    """EER and trials of recordings of one locale, of one gender, and by the shorter recording's duration."""
    conditions = {}
    for column in ("locale", "gender"):
        codes, _ = pd.factorize(store.recordings[column])
        same = trials.within(embeddings, codes) if codes.any() else scored  # all of one: these are all trials
        conditions[f"same_{column}"] = _condition(same)
    by_length = trials.by_shorter(embeddings, store.n_frames / FRAMES_PER_SECOND, edges_s)
    return conditions | dict(zip(_length_names(edges_s), map(_condition, by_length), strict=True))


def _condition(scored: Trials) -> dict[str, Any]:
    n_target, n_nontarget = len(scored.target), len(scored.nontarget)
    eer = scored.equal_error_rate()[0] if n_target and n_nontarget else None
    return {"eer": eer, "target_trials": n_target, "nontarget_trials": n_nontarget}


def _length_names(edges_s: Sequence[float]) -> list[str]:
    bounds = [0.0, *edges_s]
    return [f"shorter_{low:g}_to_{high:g}s" for low, high in pairwise(bounds)] + [f"shorter_{bounds[-1]:g}s_and_longer"]


def _round_up(value: float) -> float:
    return math.ceil(value * 1e6) / 1e6


def _rounded(tree: Any) -> Any:
    """The tree with floats to six decimals, so that a change in git's eyes is a change in the figures."""
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_rounded(value) for value in tree]
    return round(tree, 6) if isinstance(tree, float) else tree
