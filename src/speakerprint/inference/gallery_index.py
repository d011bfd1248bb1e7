"""The index of a large gallery, by faiss: which recordings are likely near a voice, at two bits a number.

All copies are compared (product quantisation with tables that fit in registers: André, Kermarrec and Le Scouarnec, arXiv
1704.07355; after a random rotation, so that all numbers weigh alike). Without faiss there is none.
"""

import functools
import hashlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speakerprint.files import whole_file

if TYPE_CHECKING:
    import faiss


@functools.cache
def faiss_module() -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError:
        return None


def train_index(examples: NDArray[np.float32]) -> "faiss.Index":
    """An empty index of embeddings like these, (n, dim)."""
    faiss, dim = faiss_module(), examples.shape[1]
    pairs = -(-dim // 2)  # of numbers, four bits each
    index = faiss.index_factory(dim, f"IDMap,RR{2 * pairs},PQ{pairs}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(examples)
    return index


def read_index(path: Path, sha256: str) -> "faiss.Index | None":
    """An index that `write_index` wrote; None if it is not there, or not as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        return None
    return faiss_module().deserialize_index(np.frombuffer(content, dtype=np.uint8))


def write_index(index: "faiss.Index", path: Path) -> str:
    """Write an index to disk for good, and return its digest."""
    content = faiss_module().serialize_index(index).tobytes()
    with whole_file(path) as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
