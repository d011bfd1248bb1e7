"""Embeddings as unit vectors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speakerprint.errors import InputError

BLOCK_ROWS = 128


def unit_vectors(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Scale each row of (n, dim) to length 1. Raises InputError for a row that is not finite, or zero: it has no direction."""
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"embedding {row} of {len(rows)} has length {lengths[row, 0]:g}, expected a finite vector other than zero; "
            f"{int(bad.sum())} such rows: train again with a smaller learning rate, or look at those recordings"
        )
    return rows / lengths
