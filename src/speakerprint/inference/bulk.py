"""Many recordings into one file of embeddings: in flat memory, and resumed where a run was stopped.

What is embedded goes to ``OUTPUT.part`` at once, a line of JSON for each recording. When all are there, the output is made of it.
"""

import csv
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from speakerprint.errors import InputError
from speakerprint.files import alone_with, explain_full_disk, whole_file

if TYPE_CHECKING:
    from speakerprint.inference.embedder import SpeakerEmbedder


class Bulk(NamedTuple):
    """What a run did: recordings in the output, how many of them an earlier run had embedded, what was left out, and why.

    ``doubtful`` are recordings in the output that are unfit to be judged, and why, those of an earlier run, too.
    """

    embedded: int
    resumed: int
    left_out: dict[str, str]
    doubtful: dict[str, list[str]]


class Journal:
    """The embeddings in a file of JSON lines, that a run adds to: a line that says of which model, then one a recording.

    A recording is known by its path and when its file was changed, so one that was recorded anew is embedded anew. A line has a
    CRC of the rest of it: of a damaged one on, recordings are embedded anew.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        """Open or make the file; an end that a killed run left unfinished is cut off. Raises InputError for another model's."""
        self.path = path
        self._lines: dict[str, int] = {}  # where that of a recording begins
        self.doubtful: dict[str, list[str]] = {}
        self._file = path.open("a+b")
        self._read(about)

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def add(self, name: str, embedding: np.ndarray) -> None:
        """Add a recording, for good as far as a killed process goes, with what `doubtful` has of it."""
        self._lines[name] = self._file.seek(0, os.SEEK_END)
        doubts = {"doubts": self.doubtful[name]} if name in self.doubtful else {}
        self._write(row(name, embedding) | {"changed": _changed(name)} | doubts)

    def embedding(self, name: str) -> np.ndarray:
        """The embedding of a recording that is in it: (dim,) float32."""
        self._file.seek(self._lines[name])
        return np.array(json.loads(self._file.readline())["embedding"], dtype=np.float32)

    def close(self) -> None:
        self._file.close()

    def _write(self, tree: dict[str, Any]) -> None:
        with explain_full_disk(self.path):
            self._file.write(json.dumps(tree | {"crc32": _crc32(tree)}).encode() + b"\n")
            self._file.flush()

    def _read(self, about: dict[str, Any]) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            try:
                found = json.loads(line)
                if not line.endswith(b"\n") or found.pop("crc32") != _crc32(found):
                    break
            except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
                break  # the run that wrote it was killed, or the line is damaged
            if whole and found["changed"] == _changed(found["path"]):
                self._lines[found["path"]] = whole
                if "doubts" in found:
                    self.doubtful[found["path"]] = list(found["doubts"])
            if not whole and found != about:
                raise InputError(
                    f"{self.path} is of an earlier run, with another model or other options ({found}, now {about}); "
                    "delete it, or name another output"
                )
            whole += len(line)
        self._file.truncate(whole)
        if not whole:
            self._write(about)


def _crc32(tree: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(tree).encode())


def row(name: str, embedding: np.ndarray) -> dict[str, Any]:
    """A recording as JSON has it: its embedding in the shortest digits that read back as the same float32."""
    return {"path": name, "embedding": [float(str(x)) for x in embedding]}


def embed_into(output: Path, names: list[str], embedder: "SpeakerEmbedder", skip_errors: bool = False) -> Bulk:
    """Embed files into ``output``, in their order: .npy, .npz, .csv, .json or .jsonl.

    skip_errors: leave out recordings that are refused; without it, InputError is raised, and what is done is kept for a next run.
    Raises InputError where every recording is refused, and where another run writes into the output.
    """
    with alone_with(output):  # two would write into one file of what is done
        return _embed_alone(output, names, embedder, skip_errors)


def _embed_alone(output: Path, names: list[str], embedder: "SpeakerEmbedder", skip_errors: bool) -> Bulk:
    left_out: dict[str, str] = {}
    journal = Journal(part_of(output), {"model_id": embedder.model_id, "trim_silence": embedder.trim_silence})
    try:
        waiting = [name for name in dict.fromkeys(names) if name not in journal]
        progress = tqdm(desc="embed", total=len(waiting), unit="file", disable=None)

        def refused(name: Any, error: InputError) -> None:
            left_out[name] = str(error)
            progress.update()

        def doubted(name: Any, doubts: tuple[str, ...]) -> None:
            journal.doubtful[name] = list(doubts)

        with progress:
            for name, embedding in embedder.embed_each(waiting, refused if skip_errors else None, doubted):
                journal.add(str(name), embedding)
                progress.update()
        found = [name for name in names if name not in left_out]
        refuse_nothing(names, left_out)
        with whole_file(output) as new:
            WRITERS[output.suffix](new, found, embedder.embedding_dim, journal.embedding)
    finally:
        journal.close()
    journal.path.unlink()
    doubtful = {name: journal.doubtful[name] for name in dict.fromkeys(found) if name in journal.doubtful}
    return Bulk(len(found), len(set(names)) - len(waiting), left_out, doubtful)


def refuse_output(output: Path, skip_errors: bool) -> None:
    """Raise InputError for a name whose ending says no format, and for one that cannot say which recordings are left out."""
    if output.suffix not in WRITERS:
        raise InputError(f"--output {output}: expected a name that ends in one of {', '.join(WRITERS)}")
    if skip_errors and output.suffix == ".npy":
        raise InputError(f"--output {output}: .npy has no names, so nobody could tell whose row is left out; name an .npz")


def refuse_nothing(names: list[str], left_out: dict[str, str]) -> None:
    """Raise InputError where every recording was left out."""
    if left_out.keys() == set(names):
        raise InputError(f"none of {len(names):,} recordings can be embedded; the first: {left_out[names[0]]}")


def part_of(output: Path) -> Path:
    """Where what is embedded for an output is kept until it is whole."""
    return output.with_name(f"{output.name}.part")


def _changed(name: str) -> int:
    try:
        return Path(name).stat().st_mtime_ns
    except OSError:
        return 0  # whoever reads it says what is wrong


Look = Callable[[str], np.ndarray]


def _write_npy(path: Path, names: list[str], dim: int, look: Look) -> None:
    with path.open("wb") as file:
        _write_matrix(file, names, dim, look)


def _write_npz(path: Path, names: list[str], dim: int, look: Look) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("paths.npy", "w", force_zip64=True) as file:
            _write_names(file, names)
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            _write_matrix(file, names, dim, look)


def _write_names(file: IO[bytes], names: list[str]) -> None:
    """What `np.save` writes of an array of the names, one by one: the array itself takes four bytes for each of the longest's."""
    longest = max(map(len, names))
    np.lib.format.write_array_header_1_0(file, {"descr": f"<U{longest}", "fortran_order": False, "shape": (len(names),)})
    for name in names:
        file.write(name.encode("utf-32-le", "surrogatepass").ljust(4 * longest, b"\0"))


def _write_matrix(file: IO[bytes], names: list[str], dim: int, look: Look) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), dim)}
    np.lib.format.write_array_header_1_0(file, header)
    for name in names:
        file.write(look(name).astype("<f4").tobytes())


def _write_csv(path: Path, names: list[str], dim: int, look: Look) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *range(dim)])
        writer.writerows([name, *row(name, look(name))["embedding"]] for name in names)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines)


def _json_rows(names: list[str], look: Look) -> Iterator[str]:
    return (json.dumps(row(name, look(name)), ensure_ascii=False) for name in names)


def _write_json(path: Path, names: list[str], dim: int, look: Look) -> None:
    _write_lines(path, (f"{',' if i else '['}\n{text}" for i, text in enumerate(_json_rows(names, look))))
    with path.open("a", encoding="utf-8") as file:
        file.write("\n]\n")


def _write_jsonl(path: Path, names: list[str], dim: int, look: Look) -> None:
    _write_lines(path, (f"{text}\n" for text in _json_rows(names, look)))


WRITERS: dict[str, Callable[[Path, list[str], int, Look], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".json": _write_json,
    ".jsonl": _write_jsonl,
}
