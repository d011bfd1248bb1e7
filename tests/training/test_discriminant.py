"""The discriminant projection against what it is defined by."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from speakerprint.errors import InputError
from speakerprint.training.discriminant import discriminant


def speakers_in_noise(speakers=12, each=20, width=6, seed=0):
    """Speakers apart along the first two axes only, in noise that is loudest along the third."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(speakers), each)
    rows = rng.normal(size=(speakers * each, width)) * [1, 1, 9, 1, 1, 1]
    rows[:, :2] += 5 * rng.normal(size=(speakers, 2))[codes]
    return rows.astype(np.float32), codes


def project(rows, found):
    mean, std, weights = found
    return (rows - mean) / std @ weights.T


def test_rows_of_one_speaker_vary_by_one_in_every_direction():
    rows, codes = speakers_in_noise()
    projected = project(rows, discriminant(rows, codes, 3, 0.0))
    centres = np.stack([projected[codes == code].mean(axis=0) for code in range(12)])
    within = (projected - centres[codes]).T @ (projected - centres[codes]) / (len(rows) - 12)
    np.testing.assert_allclose(within, np.eye(3), atol=1e-3)


def test_the_directions_are_those_of_scikit_learn():
    rows, codes = speakers_in_noise()
    mean, std, weights = discriminant(rows, codes, 2, 0.0)
    theirs = LinearDiscriminantAnalysis(solver="eigen", n_components=2).fit((rows - mean) / std, codes).scalings_[:, :2].T
    ours = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    cosines = np.abs(ours @ (theirs / np.linalg.norm(theirs, axis=1, keepdims=True)).T)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-3)


def test_speakers_with_one_row_count_in_the_total_only():
    rows, codes = speakers_in_noise()
    lone = np.concatenate([rows, rows[:5] + 50]), np.concatenate([codes, np.arange(100, 105)])
    apart = [project(rows, discriminant(*given, 1, 0.0)).ravel() for given in ((rows, codes), lone)]
    spread = [np.mean([part[codes == code].var() for code in range(12)]) for part in apart]
    np.testing.assert_allclose(spread, 19 / 20, atol=1e-3)  # both have unit variance within speakers
    assert abs(np.corrcoef(apart)[0, 1]) < 0.99
    with pytest.raises(InputError, match="no speaker has two recordings"):
        discriminant(rows, np.arange(len(rows)), 2, 0.1)


def test_full_shrinkage_compares_with_the_same_variance_everywhere():
    rows, codes = speakers_in_noise()
    _, std, weights = discriminant(rows, codes, 1, 1.0)
    total = np.cov((rows / std).T)
    first = np.linalg.eigh(total)[1][:, -1]
    assert abs(weights[0] @ first) / np.linalg.norm(weights[0]) == pytest.approx(1, abs=1e-3)


def test_more_directions_than_statistics_are_refused():
    with pytest.raises(InputError, match="embedding_dim is 7, but only 6"):
        discriminant(*speakers_in_noise(), 7, 0.1)
