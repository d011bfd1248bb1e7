"""Lists of trials: an example worked out by hand, a second implementation in loops, and what a list must not hold."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speakerprint.errors import InputError
from speakerprint.evaluation.trial_lists import TrialList, read_trial_list
from speakerprint.evaluation.trials import LEVELS_PER_UNIT, Scores, Trials, percentiles, score_trials

IDS = ["id10/v/1", "id10/v/2", "id20/v/1", "id20/v/2", "id30/a.b/1"]
RECORDINGS = pd.DataFrame({"recording_id": IDS, "speaker_id": ["id10", "id10", "id20", "id20", "id30"]})
LIST = """1 id10/v/1.wav id10/v/2.wav
0 id10/v/1.wav id20/v/1.wav
1 id20/v/1.wav id20/v/2.wav

0 id20/v/2.wav id30/a.b/1.wav
0 id10/v/1.wav id20/v/1.wav
"""
# unit vectors at these angles, so that a trial's score is the cosine of the angle between
DEGREES = np.array([0, 60, 90, 120, 180])
EMBEDDINGS = np.column_stack([np.cos(np.radians(DEGREES)), np.sin(np.radians(DEGREES))])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


def read(tmp_path: Path, text: str, undecodable: tuple[str, ...] = ()) -> TrialList:
    return read_trial_list(written(tmp_path, text), RECORDINGS, undecodable)


def test_the_listed_trials_are_scored_and_no_others(tmp_path):
    trials = read(tmp_path, LIST)
    scored = trials.score(EMBEDDINGS)
    # angles: 60 and 30 degrees between recordings of one speaker; 90, 60 and once more 90 between two speakers
    np.testing.assert_allclose(np.asarray(scored.target) / LEVELS_PER_UNIT, [0.5, math.sqrt(0.75)], atol=1e-7)
    np.testing.assert_allclose(np.asarray(scored.nontarget) / LEVELS_PER_UNIT, [0, 0, 0.5], atol=1e-7)
    # at 0.5: no miss, one false accept of three; above 0.5: one miss of two, no false accept. The line between crosses at 1/5.
    assert scored.equal_error_rate()[0] == pytest.approx(0.2)
    assert scored.auc() == pytest.approx((2 + 0.5 + 3) / 6)  # of six pairs of trials, five are in order and one ties
    assert trials.skipped == 0


def test_recordings_are_named_with_or_without_an_extension(tmp_path):
    bare = read(tmp_path, LIST.replace(".wav", ""))
    other = read(tmp_path, LIST.replace(".wav", ".m4a"))
    saved_by_windows = read(tmp_path, "\ufeff" + LIST.replace("\n", "\r\n"))
    for trials in (bare, other, saved_by_windows):
        np.testing.assert_array_equal(trials.first, read(tmp_path, LIST).first)
        np.testing.assert_array_equal(trials.second, [1, 2, 3, 4, 2])


def test_a_list_of_all_pairs_gives_the_figures_of_all_pairs():
    rng = np.random.default_rng(1)
    speakers = rng.integers(12, size=60)
    embeddings = rng.normal(size=(12, 8))[speakers] + rng.normal(size=(60, 8))
    listed = TrialList(*np.triu_indices(60, k=1), speakers, skipped=0).score(embeddings)
    every = score_trials(embeddings, speakers)
    np.testing.assert_array_equal(listed.target, every.target)
    np.testing.assert_array_equal(listed.nontarget, every.nontarget)


def listed(seed: int, n_trials: int, n_speakers: int = 20) -> tuple[TrialList, np.ndarray]:
    """Random trials, some of them twice, of 100 recordings."""
    rng = np.random.default_rng(seed)
    speakers = np.arange(100) % n_speakers
    first = rng.integers(100, size=n_trials)
    second = np.where(rng.random(n_trials) < 0.4, (first + n_speakers) % 100, rng.integers(100, size=n_trials))
    return TrialList(first, second, speakers, 0), rng.normal(size=(n_speakers, 6))[speakers] + rng.normal(size=(100, 6))


def brute(trials: TrialList, embeddings: np.ndarray, keep) -> tuple[list[int], list[int]]:
    target: list[int] = []
    nontarget: list[int] = []
    for i, j in zip(trials.first, trials.second, strict=True):
        if keep(i, j):
            product = math.fsum(embeddings[i] * embeddings[j])
            cosine = product / math.sqrt(math.fsum(embeddings[i] ** 2) * math.fsum(embeddings[j] ** 2))
            (target if trials.speakers[i] == trials.speakers[j] else nontarget).append(round(cosine * LEVELS_PER_UNIT))
    return sorted(target), sorted(nontarget)


@pytest.mark.slow
@pytest.mark.parametrize("n_trials", [300, 40_000])
def test_scores_and_conditions_equal_loops_over_the_trials(n_trials):
    trials, embeddings = listed(2, n_trials)
    rng = np.random.default_rng(3)
    durations_s, groups = rng.choice([1.0, 2.0, 3.0, 4.0, 9.0], size=100), rng.integers(-1, 3, size=100)
    found = [
        trials.score(embeddings),
        trials.within(embeddings, groups),
        *trials.by_shorter(embeddings, durations_s, [2.0, 4.0]),
    ]
    kept = [
        lambda i, j: True,
        lambda i, j: groups[i] == groups[j] >= 0,
        *(
            lambda i, j, low=low, high=high: low <= min(durations_s[i], durations_s[j]) < high
            for low, high in itertools.pairwise([0, 2, 4, math.inf])
        ),
    ]
    for scored, keep in zip(found, kept, strict=True):
        for levels, expected in zip((scored.target, scored.nontarget), brute(trials, embeddings, keep), strict=True):
            np.testing.assert_allclose(levels, expected, atol=1)  # a level is 6e-8


def test_the_interval_is_that_of_lists_in_which_drawn_speakers_are_copied():
    trials, embeddings = listed(4, 2000)
    levels = trials._levels(embeddings)
    eers = []
    for drawn in np.random.default_rng(1).multinomial(20, np.full(20, 1 / 20), size=100):
        target: list[int] = []
        nontarget: list[int] = []
        for i, j, level in zip(trials.first, trials.second, levels, strict=True):
            s, t = trials.speakers[i], trials.speakers[j]
            if s == t:
                target += [level] * drawn[s]
            else:
                nontarget += [level] * (drawn[s] * drawn[t])
        eers.append(Trials(Scores.of(target), Scores.of(nontarget)).equal_error_rate()[0])
    found = trials.resampled_eers(embeddings, trials.score(embeddings), 100, seed=1)
    assert found[np.isfinite(found)] == pytest.approx(np.array(eers), abs=1e-12)
    low, high = percentiles(trials.resampled_eers(embeddings, trials.score(embeddings), 1000, seed=2))
    assert low < trials.score(embeddings).equal_error_rate()[0] < high


def test_speakers_that_the_list_does_not_name_do_not_widen_the_interval():
    trials, embeddings = listed(5, 500)
    strangers = TrialList(trials.first, trials.second, np.append(trials.speakers * 3, [1, 2, 70, 71]), 0)
    more = np.vstack([embeddings, np.ones((4, 6))])
    np.testing.assert_array_equal(
        strangers.resampled_eers(more, strangers.score(more), 100, seed=1),
        trials.resampled_eers(embeddings, trials.score(embeddings), 100, seed=1),
    )


# --- what a list must not hold -----------------------------------------------------------------------------------------


def test_trials_of_undecodable_recordings_are_skipped_and_counted(tmp_path):
    text = LIST + "1 id30/a.b/1.wav id30/a.b/2.wav\n0 id40/v/9.wav id10/v/1.wav\n"
    trials = read(tmp_path, text, undecodable=("id30/a.b/2", "id40/v/9"))
    assert (len(trials.first), trials.skipped) == (5, 2)


def test_a_missing_recording_is_named_with_its_line_and_how_many_are_missing(tmp_path):
    text = LIST + "1 id30/a.b/1.wav id30/a.b/2.wav\n0 id40/v/9.wav id10/v/1.wav\n0 id40/v/9.wav id10/v/2.wav\n"
    with pytest.raises(InputError, match=r"list\.txt, line 7: the corpus has no recording 'id30/a\.b/2\.wav'") as error:
        read(tmp_path, text)
    assert "(its recordings are called as 'id10/v/1')" in str(error.value)
    assert "2 recordings of the list are missing, in 3 of its 8 trials" in str(error.value)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("id10/v/1.wav id10/v/2.wav 1", "expected `1 RECORDING RECORDING`"),
        ("1 id10/v/1.wav", "expected `1 RECORDING RECORDING`"),
        ("2 id10/v/1.wav id10/v/2.wav", "expected `1 RECORDING RECORDING`"),
        ("1 id10/v/1.wav id20/v/2.wav", "the recordings' speakers are id10 and id20"),
        ("0 id10/v/1.wav id10/v/2.wav", "the recordings' speakers are id10 and id10"),
    ],
)
def test_a_wrong_line_is_an_error_that_shows_it(tmp_path, line, fault):
    with pytest.raises(InputError, match=rf"list\.txt, line 7: '{re.escape(line)}'") as error:
        read(tmp_path, f"{LIST}{line}\n")
    assert fault in str(error.value)


@pytest.mark.parametrize("text", ["", "1 id10/v/1.wav id10/v/2.wav\n", "0 id10/v/1.wav id20/v/1.wav\n"])
def test_a_list_without_trials_of_both_kinds_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"\d target and \d non-target trials, 0 skipped; expected some of both"):
        read(tmp_path, text)


def test_a_list_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"1 \xe9 a\n")
    with pytest.raises(InputError, match=r"list\.txt is not UTF-8"):
        read_trial_list(tmp_path / "list.txt", RECORDINGS)
