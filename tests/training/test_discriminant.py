"""The discriminant projection against what it is defined by."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from speakerprint.errors import InputError
from speakerprint.training.discriminant import Scatter, discriminant


def speakers_in_noise(speakers=12, each=20, width=6, seed=0) -> tuple[np.ndarray, np.ndarray]:
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


def by_the_formula(rows, codes, dim, shrinkage):
    """All rows at once: standardised, centred by speaker, in two covariances."""
    rows = rows.astype(np.float64)
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    standard = (rows - mean) / std
    several = np.bincount(codes)[codes] > 1
    centres = np.stack([standard[codes == code].mean(axis=0) for code in codes])
    deviations = (standard - centres)[several]
    within = deviations.T @ deviations / (several.sum() - len(np.unique(codes[several])))
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    directions = scipy.linalg.eigh(standard.T @ standard / len(rows), within)[1]
    return mean, std, directions[:, ::-1][:, :dim].T


def added_in_pieces(rows, codes, sizes) -> Scatter:
    """The scatter of the rows, taken in piece by piece, and of their speakers, half of them at a time."""
    scatter, given = Scatter(rows.shape[1]), torch.from_numpy(rows)
    for part in given.split(sizes):
        scatter.add(part)
    for few in torch.from_numpy(np.unique(codes)).chunk(2):
        own = torch.from_numpy(codes)[None, :] == few[:, None]
        scatter.add_speakers(own.double() @ given.double(), own.sum(dim=1))
    return scatter


@pytest.mark.parametrize("size", [1803, 600, 7])
def test_a_stream_of_rows_gives_what_all_rows_at_once_give(size):
    rows, codes = speakers_in_noise(speakers=90)
    rows, codes = np.concatenate([rows + 30, rows[:3]]), np.concatenate([codes, [90, 91, 92]])
    found = added_in_pieces(rows, codes, size).discriminant(3, 0.2)
    for ours, theirs in zip(found, by_the_formula(rows, codes, 3, 0.2), strict=True):
        signs = np.sign((ours * theirs).sum(axis=-1, keepdims=True)) if ours.ndim == 2 else 1
        np.testing.assert_allclose(ours * signs, theirs, rtol=1e-5, atol=1e-5)


def test_what_was_saved_goes_on_as_if_never_stopped():
    rows, codes = speakers_in_noise()
    whole, first = added_in_pieces(rows, codes, 100), Scatter(rows.shape[1])
    first.add(torch.from_numpy(rows[:100]))
    resumed = Scatter(rows.shape[1])
    resumed.restore({name: copy.copy(value) for name, value in first.state().items()})
    for part in torch.from_numpy(rows[100:]).split(100):
        resumed.add(part)
    assert resumed.rows == whole.rows == 240
    assert torch.equal(resumed.moments, whole.moments) and torch.equal(resumed.sum, whole.sum)


def test_memory_grows_with_neither_rows_nor_speakers():
    scatter = Scatter(8)
    for _ in range(100):
        scatter.add(torch.randn(100, 8))
        scatter.add_speakers(torch.randn(50, 8), torch.full((50,), 2))
    kept = [value for value in scatter.state().values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in kept) == 8 + 2 * 8 * 8
