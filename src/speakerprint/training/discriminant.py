"""Linear discriminant analysis: the projection that tells speakers apart best, in closed form."""

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from speakerprint.errors import InputError


def discriminant(
    rows: NDArray[np.float32], speakers: NDArray[np.int64], dim: int, shrinkage: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The `dim` directions in which all rows vary most, compared with rows of one speaker.

    They solve the generalised eigenvalue problem of the total and the within-speaker covariance (Fukunaga: "Introduction to
    Statistical Pattern Recognition", 1990, section 10.2), scaled so that rows of one speaker vary by 1 in each: cosines of
    projected rows are cosines of whitened ones. The within-speaker covariance is shrunk towards a multiple of the identity by the
    fraction `shrinkage`; speakers with one row do not count in it. (scikit-learn's estimator makes a covariance of each speaker,
    which thousands of speakers of few rows do not have.)

    rows: (n, width). speakers: (n,) codes from 0. Returns the mean (width,) and the standard deviation (width,) that standardise
    rows, and the projection of standardised rows (dim, width). Raises InputError if no speaker has two rows, or dim > width.
    """
    width = rows.shape[1]
    if dim > width:
        raise InputError(f"model.embedding_dim is {dim}, but only {width} statistics are pooled; lower it")
    mean, std = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    standard = ((rows - mean) / std).astype(np.float64)
    count = np.bincount(speakers)
    centres = np.zeros((len(count), width))
    np.add.at(centres, speakers, standard)
    centres /= np.maximum(count, 1)[:, None]
    several = count[speakers] > 1
    degrees = several.sum() - (count > 1).sum()
    if degrees == 0:
        raise InputError("no speaker has two recordings to compare; loosen the filter, or set model.projection to mlp")
    deviations = (standard - centres[speakers])[several]
    within = deviations.T @ deviations / degrees
    level = np.trace(within) / width
    within *= 1 - shrinkage
    within[np.diag_indices(width)] += shrinkage * level
    total = standard.T @ standard / len(standard)
    _, directions = scipy.linalg.eigh(total, within, subset_by_index=(width - dim, width - 1))
    return mean, std, directions[:, ::-1].T.astype(np.float32)
