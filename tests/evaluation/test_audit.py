"""What an audit finds, on hand-made embeddings and sounds, and on synthetic voices with planted faults."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.evaluation.audit import (
    KINDS,
    alike_ids,
    audit,
    candidates,
    correlation,
    hear,
    odd_recordings,
    odd_threshold,
    own_scores,
    would_be_found,
)
from speakerprint.inference.vectors import unit_vectors
from speakerprint.params.audit import Audit

SETTINGS: dict[str, Any] = {
    "corpora": {},
    "model": "none",
    "odd_false_rejects": 0.001,
    "same_person_false_alarms": 1.0,
}


def voices(n_speakers, n_each, dim=64, spread=0.6, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around one random direction a speaker, and the speakers' codes."""
    random = np.random.default_rng(seed)
    centres = unit_vectors(random.normal(size=(n_speakers, dim)))
    speakers = np.repeat(np.arange(n_speakers), n_each)
    return unit_vectors(centres[speakers] + spread * unit_vectors(random.normal(size=(len(speakers), dim)))), speakers


def noise(seconds=1.0, seed=0, level=0.1):
    return np.random.default_rng(seed).normal(scale=level, size=round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


# --- a recording's sound


def test_a_level_is_the_rms_and_silence_has_none():
    assert hear(np.full(1600, 0.1, np.float32)).level_dbfs == pytest.approx(-20, abs=1e-4)
    silent = hear(np.zeros(1600, np.float32))
    assert silent.level_dbfs == -np.inf and silent.clipped_fraction == 0 and silent.speech_s == 0


def test_clipping_shows_whatever_the_gain_since():
    sine = np.sin(np.arange(SAMPLE_RATE_HZ) / 7).astype(np.float32)
    natural = sine**5  # near its peak for a moment only
    clipped = np.clip(20 * natural, -1, 1)
    assert hear(0.1 * clipped).clipped_fraction == hear(clipped).clipped_fraction > 2 * hear(natural).clipped_fraction


def test_the_same_samples_have_the_same_digest_and_one_other_sample_another():
    one, other = noise(), noise()
    other[0] += 2**-15
    assert hear(one).digest == hear(noise()).digest != hear(other).digest


# --- a recording against its speaker's others


def test_own_scores_are_the_mean_cosines_that_a_loop_finds():
    units, speakers = voices(4, 3)
    speakers[-1] = 9  # alone
    found = own_scores(units, speakers)
    for i in range(len(units)):
        others = [units[i] @ units[j] for j in range(len(units)) if j != i and speakers[j] == speakers[i]]
        assert found[i] == pytest.approx(np.mean(others)) if others else np.isnan(found[i])


def test_so_many_good_recordings_fall_below_the_threshold_as_were_allowed_whatever_the_odd_ones_score():
    random = np.random.default_rng(0)
    good = random.normal(0.6, 0.1, 100_000)
    threshold = odd_threshold(good, 0.01)
    assert (good < threshold).mean() == pytest.approx(0.01, rel=0.1)
    with_odd = np.append(good, np.full(2000, -1.0))
    assert odd_threshold(with_odd, 0.01) == pytest.approx(threshold, abs=0.01)


def test_a_recording_of_another_is_odd_and_the_good_ones_that_it_pulls_down_are_not():
    e1, e2 = np.eye(2)
    units, speakers = np.array([e1, e1, e2, e2, e2]), np.array([0, 0, 0, 1, 1])
    assert own_scores(units, speakers).tolist() == [0.5, 0.5, 0.0, 1.0, 1.0]
    assert odd_recordings(units, speakers, 0.6) == {2: 0.0}


def test_of_two_that_disagree_both_are_odd():
    units = np.eye(2)
    assert odd_recordings(units, np.array([0, 0]), 0.3) == {0: 0.0, 1: 0.0}


def test_what_would_be_found_is_the_share_of_other_speakers_that_score_below():
    units = np.array([[1, 0], [0, 1], [0.6, 0.8]])  # cosines 0, 0.6 and 0.8
    assert would_be_found(units, np.arange(3), 0.7) == pytest.approx(2 / 3)
    assert np.isnan(would_be_found(units[:1], np.zeros(1, int), 0.7))


# --- ids against ids


def test_an_id_split_in_two_is_found_among_many():
    units, speakers = voices(60, 6)
    speakers[3:6] = 60
    found = alike_ids(units, speakers, 0.1)
    assert [pair[:2] for pair in found.pairs] == [(0, 60)]
    assert found.pairs[0][2] == pytest.approx((units[:3] @ units[3:6].T).mean())


def test_more_ids_are_held_to_a_higher_score():
    few, many = (alike_ids(*voices(n, 4), 1.0) for n in (20, 200))
    assert many.n_pairs == 199 * 100 and many.threshold > few.threshold
    assert alike_ids(*voices(200, 4), 0.01).threshold > many.threshold
    assert alike_ids(*voices(1, 4), 1.0).pairs == []
    assert alike_ids(*voices(20, 4), 1.0, least=0.9).threshold == 0.9


def test_the_threshold_is_the_quantile_of_normal_scores_that_the_number_of_pairs_asks_for():
    units, speakers = voices(300, 1, dim=512, spread=0.0)
    found = alike_ids(units, speakers, 44.85)  # of 44,850 pairs: 0.001
    assert found.threshold == pytest.approx(norm.isf(0.001) / np.sqrt(512), rel=0.05)  # cosines of random directions


# --- copies


def test_candidates_are_the_pairs_near_in_length_and_score():
    random = np.random.default_rng(1)
    units, durations_s = unit_vectors(random.normal(size=(300, 3))), random.uniform(1, 3, 300)
    found = {frozenset(pair) for pair in candidates(units, durations_s, 0.9)}
    assert found == {
        frozenset([i, j])
        for i in range(300)
        for j in range(i)
        if abs(durations_s[i] - durations_s[j]) <= 0.2 and units[i] @ units[j] >= 0.9
    }


def test_a_copy_correlates_at_another_gain_filter_and_shift_and_another_recording_does_not():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 400, 80)).cumsum(axis=1)
    changed = one[12:] + random.normal(size=80)
    assert correlation(one, one) == pytest.approx(1)
    assert correlation(one, changed) == pytest.approx(correlation(changed, one))
    assert correlation(one, changed) > 0.95
    assert correlation(one, other) < 0.5
    assert correlation(one * 0, one * 0) == 0


# --- the whole


@pytest.mark.slow
def test_each_recording_is_left_out_for_one_reason_and_only_usable_ones_are_compared():
    """Of three ids, a recording of each kind of fault; speech is declared, as tones hold none."""
    units, speakers = voices(12, 5, spread=0.3)
    sounds = [hear(noise(1 + i / 50, seed=i))._replace(speech_s=1.0, digest=str(i)) for i in range(len(units))]
    rows = pd.DataFrame({"corpus": "c", "recording_id": [f"r{i}" for i in range(60)], "speaker_id": speakers.astype(str)})
    sounds[0] = sounds[0]._replace(level_dbfs=-np.inf)
    sounds[5] = sounds[5]._replace(speech_s=0.1)
    sounds[10] = sounds[10]._replace(clipped_fraction=0.5)
    sounds[16] = sounds[21]._replace()  # the same samples, under another id
    units[[0, 5]] = -units[[0, 5]]  # what they sound like must not count
    units[16] = units[21]
    units[30] = units[45]
    found = audit(rows, sounds, units, lambda row: np.random.default_rng(row).normal(size=(100, 80)), Audit(**SETTINGS))
    said = {kind: [one.recording for one in found.findings if one.kind == kind] for kind in KINDS}
    assert said == {
        "near_silent": [0],
        "little_speech": [5],
        "clipped": [10],
        "exact_duplicate": [16],
        "near_duplicate": [],
        "odd": [30],
        "same_person": [],
    }
    assert found.report["found"] == {kind: len(rows) for kind, rows in said.items()}
    assert found.report["worst"]["exact_duplicate"] == [{"recording": "c/r16", "other": "c/r21", "value": 1.0}]


def test_copies_are_found_across_corpora():
    units, _ = voices(4, 3)
    sounds = [hear(noise(seed=i))._replace(speech_s=1.0) for i in range(11)]
    sounds.append(sounds[0])
    units[11] = units[0]
    corpora, speakers = ["a"] * 6 + ["b"] * 6, np.repeat(np.arange(4), 3).astype(str)
    rows = pd.DataFrame({"corpus": corpora, "recording_id": [f"r{i}" for i in range(12)], "speaker_id": speakers})
    found = audit(rows, sounds, units, lambda row: np.random.default_rng(row).normal(size=(100, 80)), Audit(**SETTINGS))
    copies = [{one.recording, one.other} for one in found.findings if one.kind == "exact_duplicate"]
    assert copies == [{0, 11}]
    assert found.report["corpora"]["b"]["found"]["exact_duplicate"] == 1


def test_a_corpus_without_anything_usable_has_no_thresholds_and_no_findings_but_that():
    sounds = [hear(np.zeros(1600, np.float32))] * 3
    rows = pd.DataFrame({"corpus": ["c"] * 3, "recording_id": list("abc"), "speaker_id": ["x", "x", "y"]})
    found = audit(rows, sounds, np.eye(3), lambda row: np.zeros((10, 80)), Audit(**SETTINGS))
    assert [one.kind for one in found.findings] == ["near_silent"] * 3
    assert found.report["corpora"]["c"]["would_be_found"] is None and found.report["corpora"]["c"]["odd_threshold"] is None
