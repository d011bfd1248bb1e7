"""A gallery of many recordings: enrolment, index, search and identification, beside exact search with numpy in the same run.

    python -m benchmarks.bench_gallery --recordings 50000
    nice python -m benchmarks.bench_gallery --recordings 1000000 --folder big --build    # ten minutes or more
    OMP_NUM_THREADS=1 python -m benchmarks.bench_gallery --recordings 1000000 --folder big

Every query is timed by itself, in one thread; half of them are new recordings of enrolled speakers, half strangers. With --build
a gallery is made in --folder; without, one that is there is measured. The embeddings are drawn, eight recordings a speaker: a
speaker and a recording's own part are normal, with variances such that cosines average 0.6 within speakers and have a standard
deviation of 0.12 between speakers, as the default recipe's model had on Common Voice (French). Uniform vectors of 256 numbers
would have 0.06 and no near neighbours at all: harder to search, and like no voices.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from speakerprint.inference.gallery import Gallery

DIM, PER_SPEAKER, CHUNK, K, THRESHOLD = 256, 8, 40_000, 10, 0.357
BETWEEN = np.arange(1, DIM + 1) ** -0.93
BETWEEN *= 0.6 / BETWEEN.sum()
WITHIN = np.full(DIM, 0.4 / DIM)


def draw(rng: np.random.Generator, variances: np.ndarray, n: int) -> np.ndarray:
    return rng.standard_normal((n, DIM), dtype=np.float32) * np.sqrt(variances).astype(np.float32)


def recordings(rng: np.random.Generator, voices: np.ndarray) -> np.ndarray:
    """A recording of each voice: unit vectors."""
    rows = voices + draw(rng, WITHIN, len(voices))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def corpus(n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of n recordings: voices (speakers, dim) and embeddings (speakers · PER_SPEAKER, dim); the same at every call."""
    rng = np.random.default_rng(1)
    for start in range(0, n, CHUNK):
        voices = draw(rng, BETWEEN, min(CHUNK, n - start) // PER_SPEAKER)
        yield voices, recordings(rng, np.repeat(voices, PER_SPEAKER, axis=0))


def build(folder: Path, n: int) -> dict[str, Any]:
    gallery = Gallery(folder, "drawn", DIM)
    started = time.perf_counter()
    for chunk, (voices, embeddings) in enumerate(tqdm(corpus(n), desc="enrol", total=-(-n // CHUNK), disable=None)):
        ids = np.repeat(np.arange(len(voices)) + chunk * CHUNK // PER_SPEAKER, PER_SPEAKER)
        gallery.enrol([f"s{id}" for id in ids], embeddings, [f"{i % PER_SPEAKER}.wav" for i in range(len(ids))])
    enrolled, cpu = time.perf_counter(), time.process_time()
    gallery.update_index()
    return {
        "enrolment, s": round(enrolled - started, 1),
        "index, s": round(time.perf_counter() - enrolled, 1),
        "index, CPU s": round(time.process_time() - cpu, 1),
    }


def timed(call: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[list[Any], dict[str, float]]:
    """The answers, and how long each took: by the clock, and of the processor, which other work on the machine disturbs less."""
    answers, wall, cpu = [], [], []
    for query in queries:
        started = time.perf_counter(), time.thread_time()
        answers.append(call(query))
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.thread_time() - started[1])
    percentiles = {"median": 0.5, "p99": 0.99}
    both = {"ms": wall, "CPU ms": cpu}
    return answers, {
        f"{unit}, {name}": round(1e3 * float(np.quantile(seconds, q)), 2)
        for unit, seconds in both.items()
        for name, q in percentiles.items()
    }


def measure(folder: Path, n: int, n_queries: int) -> tuple[dict[str, Any], pd.DataFrame]:
    chunks = list(corpus(n))
    voices, embeddings = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    del chunks
    means = embeddings.reshape(-1, PER_SPEAKER, DIM).mean(axis=1)
    rng = np.random.default_rng(2)
    enrolled = rng.integers(len(voices), size=n_queries // 2)
    queries = recordings(rng, np.concatenate([voices[enrolled], draw(rng, BETWEEN, n_queries // 2)]))

    started = time.perf_counter()
    gallery = Gallery(folder, "drawn", DIM)
    gallery.search(queries[0], K)
    opened = time.perf_counter() - started

    def exact_search(query: np.ndarray) -> np.ndarray:
        scores = embeddings @ query
        nearest = np.argpartition(-scores, K)[:K]
        return nearest[np.argsort(-scores[nearest])]

    found, search = timed(lambda query: gallery.search(query, K), queries)
    expected, exact = timed(exact_search, queries)
    persons, identify = timed(lambda query: gallery.identify(query, THRESHOLD), queries)
    best, exact_identify = timed(lambda query: int(np.argmax(means @ query)), queries)

    numbers = [[int(match.speaker[1:]) * PER_SPEAKER + int(match.recording[0]) for match in matches] for matches in found]
    shared = [len(set(one) & set(other.tolist())) / K for one, other in zip(numbers, expected, strict=True)]
    same = [person.candidates[0].speaker == f"s{speaker}" for person, speaker in zip(persons, best, strict=True)]
    half = len(enrolled)
    rows: dict[str, dict[str, Any]] = {
        "search": search | {"as exact, enrolled": np.mean(shared[:half]), "as exact, strangers": np.mean(shared[half:])},
        "numpy, all recordings": exact,
        "identify": identify | {"as exact, enrolled": np.mean(same[:half]), "as exact, strangers": np.mean(same[half:])},
        "numpy, all speakers' means": exact_identify,
    }
    sizes = {path.suffix[1:] + ", MB": round(path.stat().st_size / 1e6) for path in folder.iterdir() if path.stat().st_size}
    return {"open and first search, s": round(opened, 2)} | sizes, pd.DataFrame(rows).T.reindex(columns=list(rows["search"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=50_000, help=f"a multiple of {PER_SPEAKER}")
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument(
        "--folder", type=Path, help="where the gallery is, or with --build is made; without it, one is made and removed"
    )
    parser.add_argument("--build", action="store_true", help="only make the gallery")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.build or not arguments.folder:
            print(f"{arguments.recordings:,} recordings: {build(folder, arguments.recordings)}", flush=True)
        if not arguments.build:
            facts, table = measure(folder, arguments.recordings, arguments.queries)
            print(f"{arguments.recordings:,} recordings: {facts}\n{table.round(4).to_string(na_rep='')}")


if __name__ == "__main__":
    main()
