"""What a run has come to: its progress, the file that a killed run resumes from, and the weights that it keeps."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speakerprint.code_digest import code_digest
from speakerprint.files import whole_file
from speakerprint.training.recipe import Recipe

CODE = ("audio", "corpora", "evaluation", "inference", "model", "params", "training")  # packages that a run's numbers come from


def fingerprint(recipe: Recipe, features: dict[str, Path], taught: dict[str, np.ndarray]) -> str:
    """Digest of what decides a run: params, code, data. A run resumes only from a checkpoint with the same."""
    decided = {name: section.model_dump() for name, section in recipe.sections().items()}
    digest = hashlib.sha256(json.dumps([decided, code_digest(*CODE)]).encode())
    for name, embeddings in taught.items():
        digest.update(name.encode() + embeddings.tobytes())
    for name, folder in features.items():
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{name} {path.relative_to(folder)} {path.stat().st_size}".encode())
        digest.update((folder / "recordings.parquet").read_bytes())
    return digest.hexdigest()


class Checkpoint:
    """What a killed run resumes from: one file, replaced as a whole; ignored if it belongs to another run."""

    def __init__(self, folder: Path, run: str):
        self.path, self.run = folder / "checkpoint.pt", run

    def load(self) -> dict[str, Any] | None:
        """What `save` was given, on the CPU, or None where there is nothing of this run."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # a file cut short by a full disk or a crash: torch raises many kinds
            print(f"{self.path} cannot be read ({error}): training starts from the beginning")
            return None
        return state if state["run"] == self.run else None

    def save(self, **state: Any) -> None:
        """Keep this state in place of what was there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as part:
            torch.save({"run": self.run, **state}, part)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass
class Progress:
    """How far a run has come: everything beside weights and optimiser that a resumed run needs."""

    step: int = 0  # optimiser steps done
    history: list[dict[str, float]] = field(default_factory=list)  # rows of the curves
    recent: list[dict[str, Tensor]] = field(default_factory=list)  # losses since the last row
    best_eer: float = math.inf
    kept_eer: float = math.inf
    kept_step: int = 0
    kept_model: dict[str, Tensor] | None = None
    validations_without_gain: int = 0

    def judge(self, eer: float, model: nn.Module, resolution: float) -> None:
        """Keep a copy of the model unless an earlier step's validation EER is lower by at least the resolution.

        So of steps that validation cannot tell apart the last is kept. resolution: the least difference of EERs that counts.
        """
        self.validations_without_gain = 0 if eer < self.best_eer else self.validations_without_gain + 1
        if eer < self.best_eer + resolution:
            self.kept_eer, self.kept_step, self.kept_model = eer, self.step, copy_of_weights(model)
        self.best_eer = min(self.best_eer, eer)

    def verdict(self) -> str:
        """Which step's weights validation chose, in words."""
        kept = f"kept: step {self.kept_step}, whose validation EER is {self.kept_eer:.4f}"
        if self.kept_step == 0 < self.step:
            return f"{kept}: the start, for every later step came out worse, so training changed nothing"
        return kept


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers by name, on the CPU, as they are now."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


@contextmanager
def averaged_with_start(model: nn.Module, start: dict[str, Tensor], start_weight: float) -> Iterator[None]:
    """Inside the block, each weight of the model is the mean of its value at the start and its value now.

    Wortsman et al.: "Robust Fine-Tuning of Zero-Shot Models", 2022, section 3: what the start knew and little data would undo is
    kept, and what training found is too. start_weight: the start's share of the mean.
    """
    if start_weight == 0:
        yield
        return
    found = copy_of_weights(model)
    model.load_state_dict({name: tensor.lerp(start[name], start_weight) for name, tensor in found.items()})
    try:
        yield
    finally:
        model.load_state_dict(found)
