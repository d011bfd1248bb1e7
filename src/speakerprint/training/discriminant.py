"""Linear discriminant analysis: the projection that tells speakers apart best, in closed form, from rows that are never kept."""

from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from speakerprint.errors import InputError


class Scatter:
    """What linear discriminant analysis needs of rows, in float64: 16 bytes for each pair of columns, however many rows.

    rows, speakers: how many. sum (width,): of the rows. moments (width, width): the sum of the rows' products with themselves.
    between (width, width): the same of each speaker's mean, as many times as the speaker has rows. So `moments - between` is the
    scatter within speakers; a speaker with one row adds nothing to it.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        self.rows, self.speakers = 0, 0
        self.sum = torch.zeros(width, dtype=torch.float64, device=device)
        self.moments = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.between = torch.zeros_like(self.moments)

    def add(self, rows: Tensor) -> None:
        """Count rows, (n, width), in."""
        rows = rows.double()
        self.rows += len(rows)
        self.sum += rows.sum(dim=0)
        self.moments.addmm_(rows.T, rows)

    def add_speakers(self, sums: Tensor, counts: Tensor) -> None:
        """Count speakers in, once each: the sums of all their rows, (n, width), and how many rows these are, (n,)."""
        scaled = sums.double() / counts.double().sqrt()[:, None]
        self.speakers += len(sums)
        self.between.addmm_(scaled.T, scaled)

    def state(self) -> dict[str, Any]:
        """All of it, to be saved."""
        return vars(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave, onto the device that this is on."""
        for name, value in state.items():
            setattr(self, name, value.to(self.sum.device) if isinstance(value, Tensor) else value)

    def discriminant(self, dim: int, shrinkage: float) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """The `dim` directions in which all rows vary most, compared with rows of one speaker.

        They solve the generalised eigenvalue problem of the total and the within-speaker covariance (Fukunaga: "Introduction to
        Statistical Pattern Recognition", 1990, section 10.2), scaled so that rows of one speaker vary by 1 in each: cosines of
        projected rows are cosines of whitened ones. The within-speaker covariance is shrunk towards a multiple of the identity by
        the fraction `shrinkage`. (scikit-learn's estimator makes a covariance of each speaker, which thousands of speakers of few
        rows do not have.)

        Returns the mean (width,) and the standard deviation (width,) that standardise rows, and the projection of standardised
        rows (dim, width). Raises InputError if no speaker has two rows, or dim > width.
        """
        width, degrees = len(self.sum), self.rows - self.speakers
        if dim > width:
            raise InputError(f"model.embedding_dim is {dim}, but only {width} statistics are pooled; lower it")
        if degrees == 0:
            raise InputError("no speaker has two recordings to compare; loosen the filter, or set model.projection to mlp")
        mean = self.sum / self.rows
        total = self.moments / self.rows - mean.outer(mean)
        std = total.diagonal().clamp(min=0).sqrt().clamp(min=1e-6)
        total /= std.outer(std)
        within = (self.moments - self.between) / degrees / std.outer(std)
        level = within.trace() / width
        within *= 1 - shrinkage
        within.diagonal().add_(shrinkage * level)
        pair = total.cpu().numpy(), within.cpu().numpy()
        del total, within
        _, directions = scipy.linalg.eigh(*pair, subset_by_index=(width - dim, width - 1), overwrite_a=True, overwrite_b=True)
        return (
            mean.float().cpu().numpy(),
            std.float().cpu().numpy(),
            np.ascontiguousarray(directions[:, ::-1].T, dtype=np.float32),
        )


def discriminant(
    rows: NDArray[np.float32], speakers: NDArray[np.int64], dim: int, shrinkage: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scatter.discriminant of rows that are all there: rows (n, width), speakers (n,) codes from 0."""
    scatter = Scatter(rows.shape[1])
    given, codes = torch.from_numpy(rows), torch.from_numpy(np.unique(speakers, return_inverse=True)[1])
    counts = codes.bincount()
    scatter.add(given)
    sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64)
    scatter.add_speakers(sums.index_add_(0, codes, given.double()), counts)
    return scatter.discriminant(dim, shrinkage)
