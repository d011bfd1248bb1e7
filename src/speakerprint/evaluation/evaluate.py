"""One model on one corpus: embed every recording whole, run the trials, and keep what the metrics file and the pictures need."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.evaluation.trial_lists import TrialList
from speakerprint.evaluation.trials import (
    Confusion,
    Curve,
    Trials,
    all_pairs,
    confused_speakers,
    eer_interval,
    pairs_by_shorter,
    pairs_within,
    retrieve,
    score_trials,
)
from speakerprint.params.evaluation import Evaluation as EvaluationParams

SCORE_BINS = 120
CONFUSIONS = 15
PROJECTED_RECORDINGS = 10  # of a speaker, at most: the exact t-SNE, which repeats itself bit for bit, takes quadratic time
PERPLEXITY = 15.0


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
    """The metrics file, and what the pictures show."""

    metrics: dict[str, Any]
    curve: Curve
    floor_curve: Curve
    scores: ScoreHistogram
    projection: Projection
    confusions: list[Confusion]


def evaluate(store: FeatureStore, model: Embedder, settings: EvaluationParams, trial_list: TrialList | None = None) -> Evaluation:
    """Measure a model, and the log-mel statistics as a floor, on all pairs of a corpus's recordings, or on a list of trials.

    Rates in the metrics are fractions; a condition without target or without non-target trials has a null EER. Thresholds are
    rounded up, so that they keep what they promise. Retrieval is over all recordings, list or not; with a list the metrics have
    ``skipped_trials``. Raises InputError if no speaker has two recordings or there is one speaker.
    """
    speaker_ids = store.speaker_ids
    statistics = log_mel_statistics(store)
    floor_trials = trial_list.score(statistics) if trial_list else score_trials(statistics, speaker_ids)
    floor = _figures(statistics, speaker_ids, floor_trials, settings, trial_list)
    floor_curve = floor_trials.curve()
    del floor_trials, floor["precision_at_5"]

    embeddings = embed_store(store, model, settings.batch_s)
    edges_s = sorted(settings.duration_edges_s)
    durations_s = store.n_frames / FRAMES_PER_SECOND
    by_length: Iterable[Trials]
    if trial_list:
        trials = trial_list.score(embeddings)
        by_length = trial_list.by_shorter(embeddings, durations_s, edges_s)
    else:
        trials = score_trials(embeddings, speaker_ids)
        by_length = (score_trials(embeddings, speaker_ids, pairs) for pairs in pairs_by_shorter(durations_s, edges_s))
    figures = _figures(embeddings, speaker_ids, trials, settings, trial_list)
    conditions = {
        "same_locale": _condition(_same(embeddings, store, "locale", trials, trial_list)),
        "same_gender": _condition(_same(embeddings, store, "gender", trials, trial_list)),
        **dict(zip(_length_names(edges_s), map(_condition, by_length), strict=True)),
    }
    intra, inter = trials.mean_distances()
    _, threshold = trials.equal_error_rate()
    metrics = {
        "recordings": len(store),
        "speakers": len(set(speaker_ids)),
        "target_trials": len(trials.target),
        "nontarget_trials": len(trials.nontarget),
        **({"skipped_trials": trial_list.skipped} if trial_list else {}),
        **figures,
        "auc": trials.auc(),
        "intra_speaker_distance": intra,
        "inter_speaker_distance": inter,
        "threshold_at_eer": _round_up(threshold),
        "threshold_at_1pct_false_accepts": _round_up(trials.threshold_at(0.01)),
        "threshold_at_0_1pct_false_accepts": _round_up(trials.threshold_at(0.001)),
        "log_mel_floor": floor,
        "conditions": conditions,
    }
    return Evaluation(
        metrics=_rounded(metrics),
        curve=trials.curve(),
        floor_curve=floor_curve,
        scores=ScoreHistogram(*trials.densities(SCORE_BINS), threshold),
        projection=project(embeddings, speaker_ids, settings.projected_speakers, settings.seed),
        confusions=confused_speakers(embeddings, speaker_ids, CONFUSIONS),
    )


def embed_store(store: FeatureStore, model: Embedder, batch_s: float) -> NDArray[np.float32]:
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


def _figures(
    embeddings: NDArray, speaker_ids: NDArray, trials: Trials, settings: EvaluationParams, trial_list: TrialList | None
) -> dict[str, float]:
    eer, _ = trials.equal_error_rate()
    samples, seed = settings.bootstrap_samples, settings.seed
    if trial_list:
        low, high = trial_list.eer_interval(embeddings, samples, seed)
    else:
        low, high = eer_interval(embeddings, speaker_ids, trials, samples, seed)
    top1, top5, precision_at_5 = retrieve(embeddings, speaker_ids)
    return {
        "eer": eer,
        "eer_low": low,
        "eer_high": high,
        "min_dcf": trials.min_dcf(),
        "top1": top1,
        "top5": top5,
        "precision_at_5": precision_at_5,
    }


def _same(
    embeddings: NDArray[np.float32], store: FeatureStore, column: str, trials: Trials, trial_list: TrialList | None
) -> Trials:
    """The trials of recordings with the same known value in a column; those of all recordings if that is all of them."""
    codes, _ = pd.factorize(store.recordings[column])
    if trial_list:
        return trial_list.within(embeddings, codes)
    pairs = pairs_within(codes)
    if pairs and pairs[0].n_pairs == all_pairs(len(store))[0].n_pairs:
        return trials
    return score_trials(embeddings, store.speaker_ids, pairs)


def _condition(trials: Trials) -> dict[str, Any]:
    n_target, n_nontarget = len(trials.target), len(trials.nontarget)
    eer = trials.equal_error_rate()[0] if n_target and n_nontarget else None
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
    return round(tree, 6) if isinstance(tree, float) else tree
