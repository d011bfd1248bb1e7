"""Clips that lie in archives or parquet files, copied into one file, where any process can read any of them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import numpy as np
import pandas as pd
from tqdm import tqdm

from speakerprint.corpora.sharing import SharedFolder, file_state
from speakerprint.corpora.sources.clips import containers, read_clips
from speakerprint.files import explain_full_disk

PLAIN_FILE, ABSENT = -1, -2  # in place of where a clip starts
ENTRY = np.dtype([("key", "S16"), ("start", np.int64), ("size", np.int64)])


class Spool:
    """The file ``clips`` in a folder that corpora share, and beside it the ``index`` of what is where in it.

    An archive is read once, by the first corpus that lacks a clip of it, for all whose turn is still to come. A killed run goes
    on after the clips that the index names.

    folder: where the spool lies. later: of each corpus in ``folder.waiting``, the chunks of its selection.
    """

    def __init__(self, folder: SharedFolder, later: Mapping[str, Iterable[pd.DataFrame]] | None = None):
        self.folder, self.path = folder, folder.path / "clips"
        self._index_path = folder.path / "index"
        self._later = later or {}
        self._state = cache(file_state)

    def unpack(self, chunks: Iterable[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray]:
        """Have the clips of a corpus's recordings in the file.

        chunks: of the recordings. Returns ``keys``, (n,) S16, which tell each clip from any other and from what lay there before
        (empty for a plain file), and ``spans``, (n, 2) int64: start, or PLAIN_FILE or ABSENT, and size.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        parts = [np.array([key for key, _, _ in self._packed(chunk)], ENTRY["key"]) for chunk in chunks]
        keys = np.concatenate([*parts, np.empty(0, ENTRY["key"])])
        spans = np.full((len(keys), 2), PLAIN_FILE, np.int64)
        packed = keys != b""
        if packed.any():
            with self.folder.lock:
                index = self._read_index()
                if not np.isin(keys[packed], index["key"]).all():
                    index = self._fill(chunks, index)
            index = np.sort(index, order="key")
            found = index[np.searchsorted(index["key"], keys[packed])]
            spans[packed] = np.stack([found["start"], found["size"]], axis=1)
        return keys, spans

    def _packed(self, chunk: pd.DataFrame) -> Iterator[tuple[bytes, str, str]]:
        """Yield key, location and container of each recording of a chunk; an empty key for a plain file."""
        locations = chunk["location"].tolist()
        for location, container in zip(locations, containers(locations), strict=True):
            if container is None:
                yield b"", location, ""
            else:
                name = f"{self._state(container)}/{location}"
                yield hashlib.blake2b(name.encode(), digest_size=16).digest(), location, container

    def _read_index(self) -> np.ndarray:
        """What the index names, (n,) ENTRY, whole entries only."""
        known = self._index_path.read_bytes() if self._index_path.exists() else b""
        return np.frombuffer(known[: len(known) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)

    def _fill(self, chunks: Iterable[pd.DataFrame], index: np.ndarray) -> np.ndarray:
        """Copy what is missing of these recordings, and what later ones want of the same archives; returns the index."""
        known = set(index["key"].tolist())
        wanted: dict[bytes, str] = {}
        opened = set()
        for chunk in chunks:
            for key, location, container in self._packed(chunk):
                if key and key.rstrip(b"\0") not in known:
                    wanted[key] = location
                    opened.add(container)
        for later in self._later.values():
            for chunk in later:
                wanted.update(
                    (key, location)
                    for key, location, container in self._packed(chunk)
                    if container in opened and key.rstrip(b"\0") not in known
                )
        keys = list(wanted)
        end = int((index["start"] + index["size"]).max(initial=0))
        with explain_full_disk(self.path), self.path.open("ab") as spool, self._index_path.open("ab") as entries:
            entries.truncate(index.nbytes)
            spool.truncate(end)
            for number, data in tqdm(read_clips(list(wanted.values())), "unpack", len(keys), unit="clip", disable=None):
                entry = (keys[number], ABSENT, 0) if data is None else (keys[number], end, len(data))
                if data is not None:
                    end += spool.write(data)
                    spool.flush()
                entries.write(np.array(entry, ENTRY).tobytes())
                entries.flush()
        return self._read_index()
