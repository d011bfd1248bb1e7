"""Time and memory of the data stages against the size of the corpus, on synthetic Common Voice releases.

    LOKY_MAX_CPU_COUNT=1 python -m benchmarks.bench_scale   # table and docs/pictures/scale.png; ten minutes
    python -m benchmarks.bench_scale --sizes 100 1000 --picture scale.png
    LOKY_MAX_CPU_COUNT=1 python -m benchmarks.bench_scale --sizes 1000 10000 30000 --clip-s 5 --picture scale.png
    python -m benchmarks.bench_scale --release              # a million rows, 200,000 clips: as .tar.gz, then as a folder

Metadata stages (download, filter) are run on releases of so many rows without clips, audio stages (resample, features) on
archives with a clip of --clip-s (a quarter of a second) for each row, no more than --most-clips. Each row of the table is a
stage as `dvc repro` runs it. With LOKY_MAX_CPU_COUNT=1 all is done in the stage's own process, whose CPU seconds and memory
these then are.
"""

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from benchmarks.bench_filter import CORPUS, PROJECT, TINY_S, a_clip, measure, release, write_archive, write_folder
from speakerprint.corpora.languages import empty_table, write_languages
from speakerprint.params.presets import use_preset

METADATA, AUDIO = ("download", "filter"), ("resample", "features")


def make(folder: Path, n_rows: int, n_clips: int, packed: bool, clip_s: float = TINY_S) -> Path:
    """A release of so many rows, the first of which have a clip; the others have no votes, so that the filter drops them."""
    tables = release(n_rows, clip_s if n_clips else None)
    if n_clips:
        by_name = tables["train"].sort_values("path")["path"]
        with_clip = by_name.iloc[:n_clips]
        tables["train"].loc[~tables["train"]["path"].isin(with_clip), "up_votes"] = 0
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / "cv-corpus-17.0-2024-03-15"
    if not n_clips:
        return write_folder(tables, root)
    write = write_archive if packed else write_folder
    return write(tables, root, with_clip, a_clip(clip_s))


def measure_stages(
    stages: tuple[str, ...], n_rows: int, n_clips: int, packed: bool = True, clip_s: float = TINY_S
) -> list[dict[str, Any]]:
    """A row for each stage: stage, recordings it was given, seconds, CPU seconds, peak GiB."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ProcessPoolExecutor(1) as pool:  # a stage's process would count among its peak what this one holds
            root = pool.submit(make, folder, n_rows, n_clips, packed, clip_s).result()
        for name in ("params.yaml", "dvc.yaml"):
            (folder / name).write_bytes((PROJECT / name).read_bytes())
        use_preset("corpora/common_voice_17", folder / "params.yaml", root, folder / "dvc.yaml")
        params = (folder / "params.yaml").read_text(encoding="utf-8")
        for few in (
            "min_recordings_per_speaker: 100 ",
            "min_recordings_per_speaker: 3 ",
        ):  # else little is left of a small release
            params = params.replace(few, "min_recordings_per_speaker: 1 ")
        (folder / "params.yaml").write_text(params, encoding="utf-8")
        write_languages(empty_table(), folder / f"data/languages/{CORPUS}.parquet")  # no language is asked for
        rows = []
        for stage in stages:
            selected = folder / f"data/selection/{CORPUS}.parquet"
            recordings = pq.read_metadata(selected).num_rows if selected.exists() else n_rows
            rows.append({"stage": stage, "recordings": recordings, **measure(stage, folder)})
    return rows


def draw(table: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure  # what this process holds would count among a stage's peak

    from speakerprint.evaluation.plots import MODEL_COLOUR, OTHER_COLOURS, WIDTH_INCHES, legend_below, save_picture

    figure = Figure(figsize=(WIDTH_INCHES, 5), layout="constrained")
    figure.suptitle("The data stages, by how many recordings", fontsize=11)
    seconds, memory = figure.subplots(2, 1, sharex=True)
    for (stage, of_stage), colour in zip(table.groupby("stage", sort=False), (MODEL_COLOUR, *OTHER_COLOURS), strict=False):
        seconds.plot(of_stage["recordings"], of_stage["CPU seconds"], marker="o", color=colour, label=stage)
        memory.plot(of_stage["recordings"], of_stage["peak GiB"], marker="o", color=colour)
    seconds.set(xscale="log", yscale="log", ylabel="CPU seconds")
    memory.set(xlabel="recordings", ylabel="peak memory, GiB", ylim=(0, None))
    for axes in (seconds, memory):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    legend_below(figure, columns=4)
    save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000], help="rows of the releases")
    parser.add_argument("--most-clips", type=int, default=100_000)
    parser.add_argument("--clip-s", type=float, default=TINY_S, help="seconds of a clip (%(default)s)")
    parser.add_argument("--picture", type=Path, default=PROJECT / "docs/pictures/scale.png")
    parser.add_argument("--release", action="store_true", help="instead of the sizes, one release in two forms")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of --release")
    parser.add_argument("--clips", type=int, default=200_000, help="of --release")
    arguments = parser.parse_args()
    if arguments.release:
        for packed in (True, False):
            rows = measure_stages(METADATA + AUDIO, arguments.rows, arguments.clips, packed, arguments.clip_s)
            print(f"\n{'.tar.gz' if packed else 'folder'}\n{pd.DataFrame(rows).to_string(index=False)}")
        return
    found = []
    for size in arguments.sizes:
        found += measure_stages(METADATA, size, 0)
        if size <= arguments.most_clips:
            found += measure_stages(METADATA + AUDIO, size, size, clip_s=arguments.clip_s)[len(METADATA) :]
    table = pd.DataFrame(found)
    print(table.sort_values(["stage", "recordings"]).to_string(index=False))
    draw(table, arguments.picture)


if __name__ == "__main__":
    main()
