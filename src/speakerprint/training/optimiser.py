"""AdamW with a learning rate for each encoder layer, and how the rates change over the steps."""

import math
import re

import torch
from torch import nn

from speakerprint.params.train import Train
from speakerprint.training.objective import Objective


def make_optimiser(objective: Objective, settings: Train) -> torch.optim.AdamW:
    """AdamW with a group for each encoder layer, from the bottom, and one for all else.

    A group has its peak learning rate and the step it starts at.
    """
    encoder = objective.model.encoder
    of_encoder = {id(parameter) for parameter in encoder.parameters()}
    others = [parameter for parameter in objective.parameters() if id(parameter) not in of_encoder]
    groups = []
    for depth in range(len(encoder.layers) + 1):  # 0: what lies below the layers
        own = [parameter for name, parameter in encoder.named_parameters() if depth_of(name, len(encoder.layers)) == depth]
        peak = settings.encoder_learning_rate * settings.encoder_layer_decay ** (len(encoder.layers) - depth)
        groups.append({"params": own, "peak": peak, "start": settings.freeze_encoder_steps})
    groups.append({"params": others, "peak": settings.head_learning_rate, "start": 0})
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=settings.weight_decay)


def depth_of(name: str, layers: int) -> int:
    """Which encoder layer, from 1, a parameter of that name is of; 0 below them all, and the last one for what lies above it."""
    if match := re.match(r"layers\.(\d+)\.", name):
        return int(match[1]) + 1
    return layers if name.startswith("layer_norm") else 0


def schedule(step: int, start: int, warmup_steps: int, steps: int | None) -> float:
    """Fraction of the peak learning rate: linear warm-up from step `start` on, then a half cosine down to 0 at `steps`.

    Where `steps` is None, it stays at its peak after the warm-up.
    """
    done = step - start
    if done < 0:
        return 0.0
    if done < warmup_steps:
        return (done + 1) / warmup_steps
    if steps is None:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (done - warmup_steps) / max(1, steps - start - warmup_steps)))


def set_rates(optimiser: torch.optim.Optimizer, encoder: nn.Module, settings: Train, step: int) -> None:
    """What learns in this step, and how fast: each group's learning rate, and whether the encoder is frozen."""
    encoder.requires_grad_(settings.encoder_learning_rate > 0 and step >= settings.freeze_encoder_steps)
    decay_until = settings.steps if settings.decay == "cosine" else None
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * schedule(step, group["start"], settings.warmup_steps, decay_until)
