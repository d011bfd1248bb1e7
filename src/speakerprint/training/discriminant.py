"""Linear discriminant analysis in a stream: the projection that tells speakers apart best, in closed form."""

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from speakerprint.errors import InputError

ROWS_AT_ONCE = 512  # are gathered before their second moments are taken: one large product instead of many small ones


class SpeakerScatter:
    """Counts, sums and second moments of rows of known speakers, from which the analysis follows; no row is kept.

    Memory: ``8 · width · (speakers + 2 · width)`` bytes on the device, however many rows there are.
    """

    def __init__(self, rows_of_speaker: ArrayLike, width: int, device: torch.device | str = "cpu"):
        """rows_of_speaker: (speakers,) how many rows of each are to come. width: numbers in a row."""
        device = torch.device("cpu") if torch.device(device).type == "mps" else torch.device(device)  # which has no float64
        self.several = torch.as_tensor(np.asarray(rows_of_speaker) > 1, device=device)
        self.count = torch.zeros(len(self.several), dtype=torch.int64, device=device)
        self.sums = torch.zeros(len(self.several), width, dtype=torch.float64, device=device)
        # of speakers with one row, which do not count within speakers, and of the others
        self.moments = torch.zeros(2, width, width, dtype=torch.float64, device=device)
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, rows: Tensor, speakers: Tensor) -> None:
        """Take in rows (n, width) of speakers (n,), codes from 0."""
        rows, speakers = rows.to(self.sums.device, torch.float64), speakers.to(self.sums.device)
        self.count += torch.bincount(speakers, minlength=len(self.count))
        self.sums.index_add_(0, speakers, rows)
        self._waiting.append((rows, self.several[speakers]))
        if sum(len(waiting) for waiting, _ in self._waiting) >= ROWS_AT_ONCE:
            self._take_moments()

    def _take_moments(self) -> None:
        if self._waiting:
            rows, several = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
            for moments, of_kind in zip(self.moments, (rows[~several], rows[several]), strict=True):
                moments.addmm_(of_kind.T, of_kind)
            self._waiting = []

    def state(self) -> dict[str, Tensor]:
        """What has been taken in so far, to save, to add up over processes, and for `load`."""
        self._take_moments()
        return {"count": self.count, "sums": self.sums, "moments": self.moments}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._waiting = []
        for name, values in self.state().items():
            values.copy_(state[name])

    def means(self) -> Tensor:
        """The mean row of each speaker, (speakers, width) float32; 0 of one without rows."""
        return (self.sums / self.count.clamp(min=1)[:, None]).float()

    def solve(self, dim: int, shrinkage: float) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """The `dim` directions in which all rows vary most, compared with rows of one speaker.

        They solve the generalised eigenvalue problem of the total and the within-speaker covariance (Fukunaga: "Introduction to
        Statistical Pattern Recognition", 1990, section 10.2), scaled so that rows of one speaker vary by 1 in each: cosines of
        projected rows are cosines of whitened ones. The within-speaker covariance is shrunk towards a multiple of the identity by
        the fraction `shrinkage`; speakers with one row do not count in it. (scikit-learn's estimator makes a covariance of each
        speaker, which thousands of speakers of few rows do not have.)

        Returns the mean (width,) and the standard deviation (width,) that standardise rows, and the projection of standardised
        rows (dim, width). Raises InputError if no speaker has two rows, or dim > width.
        """
        state = {name: values.cpu().numpy() for name, values in self.state().items()}
        count, sums, (of_lone, of_several) = state["count"], state["sums"], state["moments"]
        width, several = sums.shape[1], count > 1
        if dim > width:
            raise InputError(f"model.embedding_dim is {dim}, but only {width} statistics are pooled; lower it")
        degrees = int(count[several].sum() - several.sum())
        if degrees == 0:
            raise InputError("no speaker has two recordings to compare; loosen the filter, or set model.projection to mlp")
        mean = sums.sum(axis=0) / count.sum()
        total = (of_lone + of_several) / count.sum() - np.outer(mean, mean)
        std = np.maximum(np.sqrt(np.diag(total).clip(min=0)), 1e-6)
        scaled = sums[several] / np.sqrt(count[several])[:, None]
        within = (of_several - scaled.T @ scaled) / degrees / np.outer(std, std)
        level = np.trace(within) / width
        within *= 1 - shrinkage
        within[np.diag_indices(width)] += shrinkage * level
        _, directions = scipy.linalg.eigh(total / np.outer(std, std), within, subset_by_index=(width - dim, width - 1))
        return mean.astype(np.float32), std.astype(np.float32), directions[:, ::-1].T.astype(np.float32)


def discriminant(
    rows: NDArray[np.float32], speakers: NDArray[np.int64], dim: int, shrinkage: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """`SpeakerScatter.solve` of rows (n, width) that are all there, of speakers (n,), codes from 0."""
    scatter = SpeakerScatter(np.bincount(speakers), rows.shape[1])
    scatter.add(torch.from_numpy(np.asarray(rows)), torch.from_numpy(np.asarray(speakers)))
    return scatter.solve(dim, shrinkage)
