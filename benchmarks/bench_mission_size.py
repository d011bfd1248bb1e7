"""Training and evaluation at the mission's size: time, memory and disk on generated feature stores.

    dvc repro pretrained && python -m benchmarks.bench_mission_size       # hours of two cores
    python -m benchmarks.bench_mission_size --recordings 3000 --speakers 60 --judge 600 --steps 5     # minutes

The stores hold as many recordings and speakers as Common Voice 17 English train and dev, and VoxCeleb2 in English with three a
speaker, have after the published recipe's filter. A recording is --frames long (10 ms each); real ones are about 500. Disk grows
with that, and the time of the start, of validation and of evaluation. Memory does not, nor the time of a step, whose crops are as
long as the recipe says, or as the recording is.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from tqdm import tqdm

from speakerprint.corpora.feature_store import create_store, seal, shard_bounds, write_shard
from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.params.presets import use_preset
from speakerprint.params.section import read_tree

PROJECT = Path(__file__).parents[1]
TRAIN, JUDGED = "mission_train", ("mission_dev", "mission_voxceleb2")
SPREAD = 0.15  # of a speaker's mean spectrum, in features' units; that of frames around it is twice as large


def write_store(folder: Path, n_recordings: int, n_speakers: int, n_frames: int, seed: int) -> None:
    """A feature store of recordings of equal length, of speakers who differ in their mean spectrum."""
    rng = np.random.default_rng(seed)
    speakers = [f"speaker{number % n_speakers:06d}" for number in range(n_recordings)]
    genders = ["female" if number % n_speakers % 2 else "male" for number in range(n_recordings)]
    ids = [f"recording{number:07d}" for number in range(n_recordings)]
    table = pd.DataFrame({"recording_id": ids, "speaker_id": speakers, "gender": genders, "location": ids})
    recordings = as_recordings(table, "a generated corpus")
    offsets = np.arange(n_recordings + 1) * n_frames
    create_store(folder, offsets, recordings["speaker_id"].tolist(), recordings["gender"].tolist(), {})
    means = SPREAD * rng.standard_normal((n_speakers, 80), dtype=np.float32)
    for start, stop in tqdm(shard_bounds(int(offsets[-1])), desc=folder.name, unit="shard", disable=None):
        of_frame = np.arange(start, stop) // n_frames % n_speakers
        noise = rng.standard_normal((stop - start, 80), dtype=np.float32)
        write_shard(folder, start, (means[of_frame] + 2 * SPREAD * noise).astype(np.float16))
    write_recordings(recordings, folder / "recordings.parquet")
    seal(folder)


def write_params(folder: Path, steps: int) -> None:
    """The project's params with recipes/default, the generated corpora, and so many steps with one validation at their end."""
    (folder / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    (folder / "dvc.yaml").write_bytes((PROJECT / "dvc.yaml").read_bytes())
    use_preset("recipes/default", folder / "params.yaml", dvc_yaml_path=folder / "dvc.yaml")
    tree = read_tree(folder / "params.yaml")
    entry = next(iter(tree["corpora"].values())) | {"source": {"kind": "folder", "root": "nowhere"}}
    roles = {TRAIN: "train", **dict.fromkeys(JUDGED, "evaluate")}
    tree |= {"corpora": {name: entry | {"role": role} for name, role in roles.items()}}
    tree |= {"train_corpora": [TRAIN], "unlabelled_corpora": [], "noise_corpora": []}
    tree["evaluation"]["corpora"] = list(JUDGED)
    tree["train"] |= {"steps": steps, "validate_every_steps": max(steps, 1), "checkpoint_every_steps": max(steps, 1)}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(tree, file)


def measure(project: Path, stage: str, *arguments: str) -> dict[str, Any]:
    """Run a stage; the clock's and the CPU's seconds, and the peak memory of its process."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}", *arguments], cwd=project, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"stage {stage} failed")
    seconds, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    return {"seconds": round(seconds), "CPU seconds": round(cpu), "peak GiB": round(usage.ru_maxrss / 2**20, 2)}


def size_gib(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=305_706)
    parser.add_argument("--speakers", type=int, default=1_257)
    parser.add_argument(
        "--judge", type=int, nargs="+", default=[6_270, 12_756], help="recordings to evaluate on, three a speaker"
    )
    parser.add_argument("--frames", type=int, default=60, help="of a recording (%(default)s)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="to work in; by default a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        if not (folder / "data/pretrained").exists():
            (folder / "data/pretrained").symlink_to(PROJECT / "data/pretrained")
        write_store(folder / f"data/features/train/{TRAIN}", arguments.recordings, arguments.speakers, arguments.frames, 1)
        for seed, (name, n) in enumerate(zip(JUDGED, arguments.judge, strict=False), start=2):
            write_store(folder / f"data/features/evaluate/{name}", n, n // 3, arguments.frames, seed)
        print(f"feature stores: {size_gib(folder / 'data/features')} GiB", flush=True)
        write_params(folder, arguments.steps)
        what = f"train: start, {arguments.steps} steps, validation before and after"
        started = time.time()
        rows = [{"what": what, "recordings": arguments.recordings, **measure(folder, "train")}]
        found = (folder / "models/speakerprint/start/config.json").stat().st_mtime
        print(rows[-1], f"of which the start: {found - started:.0f} s", sep="\n", flush=True)
        for name, n in zip(JUDGED, arguments.judge, strict=False):
            (folder / "metrics/data").mkdir(parents=True, exist_ok=True)
            (folder / f"metrics/data/{name}.resample.json").write_text('{"bad": []}', encoding="utf-8")
            rows.append({"what": "evaluate", "recordings": n, **measure(folder, "evaluate", name)})
            print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
