"""experiments/reference_runs queues the ten published runs, with settings that params.yaml can have."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from speakerprint.params.presets import read_recipe, use_preset
from speakerprint.params.whole import Params, parse_params

PROJECT = Path(__file__).parents[2]
FOUR = ["gaussian_noise", "time_mask", "frequency_mask", "low_frequency_noise"]
PUBLISHED = {  # NT-Xent's weight, gendered, NT-Xent's and the triplet loss's augmentations, kinds
    "run-01": (0.0, False, 0, 0, FOUR),
    "run-02": (0.0, True, 0, 0, FOUR),
    "run-03": (0.5, False, 3, 0, FOUR),
    "run-04": (0.5, True, 3, 0, FOUR),
    "run-05": (0.5, False, 1, 0, FOUR),
    "run-06": (0.1, False, 1, 0, FOUR),
    "run-07": (0.025, False, 1, 0, FOUR),
    "run-08": (0.025, False, 3, 0, FOUR),
    "run-09": (0.0, False, 0, 1, FOUR),
    "run-10": (0.025, False, 1, 0, ["gaussian_noise"]),
}


@pytest.fixture(scope="module")
def queued(tmp_path_factory) -> dict[str, Params]:
    """What each queued run's params.yaml would hold, by its name; every run has 7 steps."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_text((PROJECT / name).read_text())
    use_preset("recipes/reference", folder / "params.yaml", dvc_yaml_path=folder / "dvc.yaml")
    (folder / "dvc").write_text('#!/bin/sh\nprintf "%s\\n" "$*" >> "$LOG"\n')
    (folder / "dvc").chmod(0o755)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log")}
    subprocess.run([PROJECT / "experiments/reference_runs", "train.steps=7"], env=env, check=True)
    runs = {}
    for line in (folder / "log").read_text().splitlines():
        words = shlex.split(line)
        assert words[:4] == ["exp", "run", "--queue", "--name"]
        params = YAML(typ="safe").load(folder / "params.yaml")
        for key, value in (word.split("=", 1) for word in words[5:] if word != "-S"):
            *sections, last = key.split(".")
            section = params
            for name in sections:
                section = section[name]
            section[last] = YAML(typ="safe").load(value)
        runs[words[4]] = parse_params(params, "params.yaml")
    return runs


@pytest.mark.slow
def test_all_ten_are_queued_as_published(queued):
    found = {
        name: (
            params.loss.ntxent_weight,
            params.loss.gendered,
            params.augmentation.ntxent.kinds_per_view if params.loss.ntxent_weight else 0,
            params.augmentation.triplet.kinds_per_clip,
            params.augmentation.ntxent.kinds,
        )
        for name, params in queued.items()
    }
    assert found == PUBLISHED


def test_what_is_asked_of_all_runs_is_set_in_each(queued):
    assert {params.train.steps for params in queued.values()} == {7}


def test_the_tenth_is_the_recipe_itself(queued):
    recipe, tenth = read_recipe("reference"), queued["run-10"].model_dump()
    assert {name: tenth[name] for name in recipe} == {**recipe, "train": {**recipe["train"], "steps": 7}}


def test_the_recipe_is_as_published():
    recipe = read_recipe("reference")
    published: dict[str, dict[str, Any]] = {
        "model": {"layers": 6, "layer_combination": "last", "pooling": "mean", "projection": "mlp", "embedding_dim": 256},
        "loss": {"triplet_weight": 1.0, "triplet_margin": 1.0, "ntxent_weight": 0.025, "ntxent_temperature": 0.5},
        "sampling": {"speakers": 32, "utterances": 4, "speeds": [1.0]},
        "augmentation": {
            "gaussian_noise": {"std": 0.03},
            "time_mask": {"max_frames": 199},
            "frequency_mask": {"max_bands": 9},
            "low_frequency_noise": {"bands": 10, "std": 0.06},
            "draw_per": "speaker",
            "ntxent": {"views": 1, "kinds": ["gaussian_noise"], "kinds_per_view": 1},
            "triplet": {"kinds": FOUR, "kinds_per_clip": 0, "gaussian_noise_std": 0.01, "low_frequency_noise_std": 0.03},
        },
        "train": {
            "steps": 5000,
            "crop_s": 10.0,
            "last_crop_s": None,
            "crop_position": "start",
            "encoder_learning_rate": 1e-5,
            "encoder_layer_decay": 1.0,
            "head_learning_rate": 1e-5,
            "freeze_encoder_steps": 0,
            "warmup_steps": 0,
            "decay": "none",
            "weight_decay": 0.01,
            "gradient_accumulation": 4,
            "start_weight": 0.0,
        },
    }
    assert {name: {key: recipe[name][key] for key in values} for name, values in published.items()} == published
    others = {name for name, value in recipe["loss"].items() if name.endswith("_weight") and value}
    assert others == {"triplet_weight", "ntxent_weight"}
