"""Embedding in batches, the floor, and a metrics file whose every figure is recomputed here."""

import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speakerprint.errors import InputError
from speakerprint.evaluation.evaluate import embed_store, evaluate, log_mel_statistics, project
from speakerprint.evaluation.trial_lists import TrialList
from speakerprint.evaluation.trials import equal_error_rate, score_trials
from speakerprint.params.evaluation import Evaluation


class Store:
    """A feature store in memory: speaker s's frames are noise around a colour of its own."""

    def __init__(self, n_speakers=9, n_each=4, seed=4, locale=("fr", "de")):
        rng = np.random.default_rng(seed)
        speakers = rng.permutation(np.repeat(np.arange(n_speakers), n_each))
        colours = rng.normal(size=(n_speakers, 80))
        self.n_frames = rng.integers(20, 500, size=len(speakers))
        self._frames = [
            (0.3 * (colours[s] + rng.normal(size=80)) + 0.2 * rng.normal(size=(n, 80))).astype(np.float16)
            for s, n in zip(speakers, self.n_frames, strict=True)
        ]
        self.speaker_ids = np.array([f"s{s}" for s in speakers], dtype=object)
        genders = {s: (None, "male", "female")[s % 3] for s in range(n_speakers)}
        self.recordings = pd.DataFrame(
            {"locale": [locale[s % len(locale)] for s in speakers], "gender": [genders[s] for s in speakers]}
        )

    def __len__(self):
        return len(self.speaker_ids)

    def frames(self, i):
        return self._frames[i]


class Model(Any):
    """Embeds a clip as the mean of some bands, and remembers the batches it was given."""

    def __init__(self):
        self.batches = []

    def embed_frames(self, clips):
        self.batches.append([len(clip) for clip in clips])
        return np.stack([clip[:, :20].mean(axis=0) for clip in clips]).astype(np.float32)


SETTINGS = Evaluation(corpora=["fake"], bootstrap_samples=100, duration_edges_s=[4.0, 2.0])


@pytest.fixture(scope="module")
def store():
    return Store()


@pytest.fixture(scope="module")
def evaluation(store):
    return evaluate(store, Model(), SETTINGS, projected_speakers=5)


def test_batches_stay_within_their_seconds_and_the_order_is_kept(store):
    model = Model()
    embeddings = embed_store(store, model, batch_s=8.0)
    assert all(len(batch) * max(batch) <= 800 for batch in model.batches)
    assert len(model.batches) < len(store) / 1.5
    for i in range(len(store)):
        np.testing.assert_array_equal(embeddings[i], store.frames(i).astype(np.float32)[:, :20].mean(axis=0))


def test_a_recording_longer_than_a_batch_is_embedded_alone(store):
    model = Model()
    embeddings = embed_store(store, model, batch_s=0.1)
    assert [len(batch) for batch in model.batches] == [1] * len(store)
    np.testing.assert_array_equal(embeddings, embed_store(store, Model(), batch_s=1e6))


def test_the_floor_is_each_bands_mean_and_deviation(store):
    rows = log_mel_statistics(store)
    frames = store.frames(3).astype(np.float64)
    np.testing.assert_allclose(rows[3], [*frames.mean(axis=0), *frames.std(axis=0)], atol=1e-5)


def cosines(embeddings, store, keep):
    pairs = [(i, j) for i, j in itertools.combinations(range(len(store)), 2) if keep(i, j)]
    units = embeddings / np.linalg.norm(embeddings.astype(float), axis=1, keepdims=True)
    same = np.array([store.speaker_ids[i] == store.speaker_ids[j] for i, j in pairs], dtype=bool)
    return np.array([units[i] @ units[j] for i, j in pairs]), same


def eer_of(scores, same):
    """The EER from scores without ties, as an area-free crossing: sort once, walk up."""
    order = np.argsort(scores)
    miss = np.concatenate([[0], np.cumsum(same[order]) / same.sum()])
    accept = np.concatenate([[1], 1 - np.cumsum(~same[order]) / (~same).sum()])
    k = int(np.argmax(miss >= accept - 1e-12))
    share = (accept[k - 1] - miss[k - 1]) / (accept[k - 1] - miss[k - 1] + miss[k] - accept[k])
    return miss[k - 1] + share * (miss[k] - miss[k - 1])


def test_the_metrics_are_the_dozen_figures_that_people_compare_and_flat(evaluation):
    metrics = evaluation.metrics
    assert list(metrics) == [
        *("eer", "eer_low", "eer_high", "log_mel_floor_eer", "min_dcf", "top_1", "top_5"),
        *("intra_speaker_distance", "inter_speaker_distance", "threshold_at_1pct_false_accepts", "recordings", "speakers"),
    ]
    assert all(isinstance(value, float | int) for value in metrics.values())
    assert (metrics["recordings"], metrics["speakers"]) == (36, 9)
    assert metrics["eer_low"] <= metrics["eer"] <= metrics["eer_high"]
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_the_details_are_exactly_what_else_was_measured(evaluation):
    details = evaluation.details
    assert set(details) == {
        *("target_trials", "nontarget_trials", "skipped_trials", "auc", "precision_at_5", "threshold_at_eer"),
        *("threshold_at_0_1pct_false_accepts", "log_mel_floor", "conditions", "confusions"),
    }
    assert details["confusions"][0] == evaluation.confusions[0]._asdict() | {
        "mean_score": round(evaluation.confusions[0].mean_score, 6)
    }
    assert set(details["log_mel_floor"]) == {"eer", "eer_low", "eer_high", "min_dcf", "top_1", "top_5", "precision_at_5"}
    assert details["log_mel_floor"]["eer"] == evaluation.metrics["log_mel_floor_eer"]
    assert list(details["conditions"]) == [
        *("same_locale", "same_gender", "shorter_0_to_2s", "shorter_2_to_4s", "shorter_4s_and_longer"),
    ]
    assert (details["target_trials"], details["nontarget_trials"], details["skipped_trials"]) == (54, 576, 0)
    assert json.loads(json.dumps(details, allow_nan=False)) == details


@pytest.mark.slow
def test_the_eer_of_the_start_stands_beside_the_trained_models(evaluation, store):
    class Start(Model):
        """Half of the bands that the trained model has."""

        def embed_frames(self, clips):
            return super().embed_frames(clips)[:, :10]

    found = evaluate(store, Model(), SETTINGS, start=Start())
    alone = evaluate(store, Start(), SETTINGS).metrics
    assert alone["eer"] != evaluation.metrics["eer"]
    assert found.metrics == evaluation.metrics | {"start_eer": alone["eer"]}
    beside = found.details["start"]
    assert beside.items() >= {name: alone[name] for name in ("eer", "eer_low", "eer_high")}.items()
    assert found.details == evaluation.details | {"start": beside}
    assert beside["gain"] == pytest.approx(alone["eer"] - evaluation.metrics["eer"], abs=2e-6)
    widest = alone["eer_high"] - alone["eer_low"] + evaluation.metrics["eer_high"] - evaluation.metrics["eer_low"]
    assert 0 < beside["gain_high"] - beside["gain_low"] < widest
    itself = evaluate(store, Model(), SETTINGS, start=Model()).details["start"]
    assert (itself["gain"], itself["gain_low"], itself["gain_high"]) == (0, 0, 0)


def test_figures_equal_those_of_all_pairs_listed(evaluation, store):
    metrics = evaluation.metrics
    embeddings = embed_store(store, Model(), batch_s=8.0)
    scores, same = cosines(embeddings, store, lambda i, j: True)
    distances = np.sqrt(2 - 2 * scores)
    assert metrics["eer"] == pytest.approx(eer_of(scores, same), abs=2e-6)
    assert metrics["intra_speaker_distance"] == pytest.approx(distances[same].mean(), abs=2e-6)
    assert metrics["inter_speaker_distance"] == pytest.approx(distances[~same].mean(), abs=2e-6)
    floor = log_mel_statistics(store)
    assert metrics["log_mel_floor_eer"] == pytest.approx(equal_error_rate(floor, store.speaker_ids), abs=1e-6)
    assert metrics["log_mel_floor_eer"] != metrics["eer"]


def test_thresholds_are_rounded_up_so_that_they_keep_their_promise(evaluation, store):
    embeddings = embed_store(store, Model(), batch_s=8.0)
    scores, same = cosines(embeddings, store, lambda i, j: True)
    exact = score_trials(embeddings, store.speaker_ids)
    for name, allowed in (("threshold_at_1pct_false_accepts", 0.01), ("threshold_at_0_1pct_false_accepts", 0.001)):
        threshold = (evaluation.metrics | evaluation.details)[name]
        assert (scores[~same] >= threshold).mean() <= allowed
        assert 0 <= threshold - exact.threshold_at(allowed) < 1e-6
    assert 0 <= evaluation.details["threshold_at_eer"] - exact.equal_error_rate()[1] < 1e-6


def test_conditions_equal_those_of_the_pairs_listed(evaluation, store):
    embeddings = embed_store(store, Model(), batch_s=8.0)
    locale, gender, seconds = store.recordings["locale"], store.recordings["gender"], store.n_frames / 100
    conditions = {
        "same_locale": lambda i, j: locale[i] == locale[j],
        "same_gender": lambda i, j: isinstance(gender[i], str) and gender[i] == gender[j],
        "shorter_0_to_2s": lambda i, j: min(seconds[i], seconds[j]) < 2,
        "shorter_2_to_4s": lambda i, j: 2 <= min(seconds[i], seconds[j]) < 4,
        "shorter_4s_and_longer": lambda i, j: min(seconds[i], seconds[j]) >= 4,
    }
    for name, keep in conditions.items():
        found = evaluation.details["conditions"][name]
        scores, same = cosines(embeddings, store, keep)
        assert (found["target_trials"], found["nontarget_trials"]) == (same.sum(), (~same).sum()), name
        expected = eer_of(scores, same) if same.any() and not same.all() else None
        assert found["eer"] == (expected if expected is None else pytest.approx(expected, abs=2e-6)), name
    assert evaluation.details["conditions"]["same_gender"]["nontarget_trials"] > 0


def list_of(store, first, second, skipped=0):
    _, speakers = np.unique(store.speaker_ids, return_inverse=True)
    return TrialList(np.asarray(first), np.asarray(second), speakers, skipped)


def test_a_list_of_all_pairs_gives_the_figures_of_all_pairs(evaluation, store):
    """But for the interval, which is to first order without a list, and exact with one."""
    listed = evaluate(store, Model(), SETTINGS, list_of(store, *np.triu_indices(len(store), k=1), skipped=7))
    found, expected = (json.loads(json.dumps(one.metrics | one.details)) for one in (listed, evaluation))
    assert (found.pop("skipped_trials"), expected.pop("skipped_trials")) == (7, 0)
    for figures, others in ((found, expected), (found["log_mel_floor"], expected["log_mel_floor"])):
        for name in ("eer_low", "eer_high"):
            assert figures.pop(name) == pytest.approx(others.pop(name), abs=0.05)
    assert found == expected


def test_a_list_decides_the_trials_and_not_the_retrieval(evaluation, store):
    first, second = (rows[::3] for rows in np.triu_indices(len(store), k=1))
    on_list = evaluate(store, Model(), SETTINGS, list_of(store, first, second))
    metrics = on_list.metrics | on_list.details
    listed = set(zip(first.tolist(), second.tolist(), strict=True))
    scores, same = cosines(embed_store(store, Model(), batch_s=8.0), store, lambda i, j: (i, j) in listed)
    assert (metrics["target_trials"], metrics["nontarget_trials"]) == (same.sum(), (~same).sum())
    assert metrics["eer"] == pytest.approx(eer_of(scores, same), abs=2e-6) != evaluation.metrics["eer"]
    for name in ("top_1", "top_5", "precision_at_5", "recordings", "speakers"):
        assert metrics[name] == (evaluation.metrics | evaluation.details)[name]


def test_a_condition_that_holds_everywhere_repeats_the_figures_of_all_trials():
    store: Any = Store(locale=("fr",))
    found = evaluate(store, Model(), SETTINGS)
    metrics = found.metrics | found.details
    assert metrics["conditions"]["same_locale"] == {name: metrics[name] for name in ("eer", "target_trials", "nontarget_trials")}


def test_a_condition_that_holds_nowhere_has_no_eer():
    store: Any = Store()
    store.recordings["gender"] = None
    nothing = {"eer": None, "target_trials": 0, "nontarget_trials": 0}
    assert evaluate(store, Model(), SETTINGS).details["conditions"]["same_gender"] == nothing


def test_figures_have_six_decimals(evaluation):
    flat = [*evaluation.metrics.values(), *evaluation.details.values(), *evaluation.details["log_mel_floor"].values()]
    assert all(value == round(value, 6) for value in flat if isinstance(value, float))


def test_a_second_evaluation_is_the_same_to_the_last_bit(evaluation, store):
    again = evaluate(store, Model(), SETTINGS, projected_speakers=5)
    assert (again.metrics, again.details) == (evaluation.metrics, evaluation.details)
    np.testing.assert_array_equal(again.projection.points, evaluation.projection.points)


def test_the_projection_shows_as_many_speakers_as_asked_for(evaluation, store):
    assert len(set(evaluation.projection.speaker_ids)) == 5
    assert evaluation.projection.points.shape == (20, 2)
    assert np.isfinite(evaluation.projection.points).all()


def test_a_projection_of_two_recordings_is_possible():
    ids = np.array(["a", "a", "b"], dtype=object)
    projection = project(np.eye(3, dtype=np.float32), ids, n_speakers=24, seed=1)
    assert projection.speaker_ids.tolist() == ["a", "a"]
    assert np.isfinite(projection.points).all()


def test_curves_histogram_and_confusions_belong_to_the_figures(evaluation):
    eer, curve = evaluation.metrics["eer"], evaluation.curve
    k = int(np.argmax(curve.miss_rate >= curve.false_accept_rate))
    assert curve.miss_rate[k - 1] <= eer <= curve.false_accept_rate[k - 1]
    widths = np.diff(evaluation.scores.edges)
    assert (evaluation.scores.target * widths).sum() == pytest.approx(1)
    assert evaluation.scores.threshold == pytest.approx(evaluation.details["threshold_at_eer"], abs=1e-6)
    assert len(evaluation.confusions) == 15


def test_a_corpus_without_target_trials_is_refused_before_the_model_runs():
    unpaired: Any = Store(n_speakers=6, n_each=1)
    model = Model()
    with pytest.raises(InputError, match="no target trial"):
        evaluate(unpaired, model, SETTINGS)
    assert not model.batches
