"""How many voices there are among windows, and which windows are of one."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from speakerprint.inference import voices
from speakerprint.inference.vectors import unit_vectors
from speakerprint.inference.voices import dealt_out, evidence, merged, totals, voices_in


def windows_of(n_voices: int, each: int, dim: int = 64, seed: int = 0) -> np.ndarray:
    """Windows (voices × each, dim) with a mean cosine of about 0.5 within a voice and 0 between two."""
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(n_voices, dim)), each, axis=0)
    return unit_vectors(centres + random.normal(size=centres.shape)).astype(np.float32)


def test_evidence_is_the_ratio_of_two_normal_densities(monkeypatch):
    monkeypatch.setattr(voices, "VARIANCE", 0.7)
    dim, n = 3, 4
    points = np.random.default_rng(1).normal(size=(n, dim))
    same = 0.7 * np.ones((n, n)) + np.eye(n)
    one = sum(multivariate_normal(cov=same).logpdf(points[:, axis]) for axis in range(dim))
    none = sum(multivariate_normal(cov=np.eye(n)).logpdf(points[:, axis]) for axis in range(dim))
    square = np.square(points.sum(axis=0)).sum() / dim  # deviations of variance 1 over all directions
    assert evidence(np.array([n]), np.array([square]))[0] == pytest.approx(2 * (one - none) / dim)


@pytest.mark.parametrize("n_voices", [1, 2, 5, 8])
@pytest.mark.parametrize("each", [12, 30])
def test_as_many_voices_are_found_as_speak(n_voices, each):
    windows = windows_of(n_voices, each)
    found = voices_in(windows, np.arange(len(windows)), 1, 10)
    assert len(np.unique(found)) == n_voices
    truth = np.repeat(np.arange(n_voices), each)
    assert len({*zip(found.tolist(), truth.tolist(), strict=True)}) == n_voices


def test_their_number_stays_within_the_range():
    windows = windows_of(4, 10)
    for fewest, most in ((1, 3), (6, 6), (4, 9)):
        assert fewest <= len(np.unique(voices_in(windows, np.arange(40), fewest, most))) <= most


def test_windows_of_a_group_have_one_voice():
    windows = windows_of(2, 10)
    found = voices_in(windows, np.arange(20) // 4, 1, 10)
    assert (found == np.repeat(found[::4], 4)).all()


def test_the_two_sets_that_gain_most_merge_first():
    sums = np.array([[1.0, 0], [0, 1], [0.9, 0.1], [-1, 0]])
    assert merged(np.ones(4), sums, 3).tolist() == [0, 1, 0, 2]
    assert merged(np.ones(4), sums, 1).tolist() == [0, 0, 0, 0]


def test_a_group_in_the_wrong_voice_moves():
    windows = windows_of(2, 10)
    truth = np.repeat([0, 1], 10)
    wrong = truth.copy()
    wrong[[3, 14]] = [1, 0]
    moved = dealt_out(np.ones(20), windows.astype(np.float64), wrong)
    assert moved.tolist() == truth.tolist() and wrong[3] == 1


def test_dealing_out_never_lowers_the_evidence():
    windows = windows_of(3, 15, dim=8, seed=4).astype(np.float64)
    before = np.random.default_rng(5).integers(0, 5, 45)
    before[:5] = range(5)

    def total(labels):
        counts, sums = totals(np.ones(45), windows, labels)
        return evidence(counts, np.square(sums).sum(axis=1)).sum()

    assert total(dealt_out(np.ones(45), windows, before)) > total(before)
