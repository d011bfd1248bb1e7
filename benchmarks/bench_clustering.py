"""How well clustering finds speakers, by how its threshold is chosen, and how long it takes.

    python -m benchmarks.bench_clustering data/features/evaluate/*_report
    OMP_NUM_THREADS=1 python -m benchmarks.bench_clustering --sizes 1000 5000 10000

With feature stores, each is clustered whole, with three recordings a speaker, and with one of half the speakers (drawn once), and
so are all together; `range` is what `speakerprint cluster` does without options, `1 %` and `0.1 %` are with the shipped model's
thresholds at those rates of false accepts. F is that of the pairs of recordings put together, V the V-measure.

With sizes, synthetic embeddings (256 dimensions, ten recordings a speaker) are clustered in such a range, each size in a process
of its own, whose peak memory is the row's, imports included.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import v_measure_score
from sklearn.metrics.cluster import pair_confusion_matrix

from speakerprint import SpeakerEmbedder, cluster
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.evaluation.evaluate import embed_store
from speakerprint.inference.clustering import threshold_range

SEED = 1
BATCH_S = 60.0


def thinned(speakers: NDArray, which: set[str], keep: int) -> NDArray[np.intp]:
    """Rows of the recordings with at most `keep`, drawn, of each of these speakers, and all of the others."""
    rng = np.random.default_rng(SEED)
    rows = (np.flatnonzero(speakers == speaker) for speaker in np.unique(speakers))
    return np.sort(np.concatenate([rng.permutation(own)[:keep] if speakers[own[0]] in which else own for own in rows]))


def variants(name: str, speakers: NDArray) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """The corpus whole and thinned out: what it is called, and the rows that are left."""
    ids = np.random.default_rng(SEED).permutation(np.unique(speakers))
    yield name, np.arange(len(speakers))
    yield f"{name}, 3 a speaker", thinned(speakers, set(ids), 3)
    yield f"{name}, 1 of half the speakers", thinned(speakers, set(ids[: len(ids) // 2]), 1)


def quality(folders: list[Path]) -> None:
    embedder = SpeakerEmbedder.load()
    one, tenth = embedder.thresholds[0.01], embedder.thresholds[0.001]
    choices: dict[str, Any] = {"1 %": one, "0.1 %": tenth, "range": threshold_range(embedder.thresholds)}
    stores = [FeatureStore(folder) for folder in folders]
    parts = [(embed_store(store, embedder, BATCH_S), store.speaker_ids.astype(str)) for store in stores]
    corpora: list[tuple[Any, ...]] = [(folder.name, *part) for folder, part in zip(folders, parts, strict=True)]
    if len(corpora) > 1:
        corpora.append(("all together", *(np.concatenate(part) for part in zip(*parts, strict=True))))
    heads = [f"{choice}: F, V, clusters" for choice in choices]
    print(f"| recordings | speakers | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    for corpus, embeddings, speakers in corpora:
        for name, rows in variants(corpus, speakers):
            cells = []
            for threshold in choices.values():
                labels = cluster(embeddings[rows], threshold)
                (_, false_pairs), (missed_pairs, true_pairs) = pair_confusion_matrix(speakers[rows], labels)
                f = 2 * true_pairs / (2 * true_pairs + false_pairs + missed_pairs)
                cells.append(f"{f:.3f}, {v_measure_score(speakers[rows], labels):.3f}, {labels.max() + 1}")
            print(f"| {name} ({len(rows)}) | {len(np.unique(speakers[rows]))} | {' | '.join(cells)} |")


def duration(n: int) -> None:
    rng = np.random.default_rng(SEED)
    embeddings = rng.normal(size=(n // 10, 256)).repeat(10, axis=0) + 1.1 * rng.normal(size=(n, 256))
    started = time.perf_counter()
    labels = cluster(embeddings, (0.31, 0.45))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {n:,} | {labels.max() + 1:,} | {seconds:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="*", help="folders that `dvc repro features` wrote")
    parser.add_argument("--sizes", type=int, nargs="+", default=[], help="multiples of ten")
    arguments = parser.parse_args()
    if arguments.stores:
        quality(arguments.stores)
    if len(arguments.sizes) == 1:
        duration(arguments.sizes[0])
    elif arguments.sizes:
        print("| recordings | clusters | seconds | peak GiB |\n|---|---|---|---|", flush=True)
        for size in arguments.sizes:
            subprocess.run([sys.executable, "-m", "benchmarks.bench_clustering", "--sizes", str(size)], check=True)
