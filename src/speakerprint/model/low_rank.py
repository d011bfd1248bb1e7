"""Low-rank adaptation: linear layers learn a change of low rank in place of their own weights, which stay as they are.

Hu et al.: "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1 (with alpha equal to the rank).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankChange(nn.Module):
    """A matrix (out, in) plus the product of two that are learned, (out, rank) and (rank, in); it begins as no change."""

    def __init__(self, out_width: int, in_width: int, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, in_width) / math.sqrt(in_width))
        self.up = nn.Parameter(torch.zeros(out_width, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def adapt(module: nn.Module, rank: int) -> None:
    """Give the weight of each linear layer a change of that rank to learn."""
    for layer in [layer for layer in module.modules() if isinstance(layer, nn.Linear)]:
        parametrize.register_parametrization(layer, "weight", LowRankChange(layer.out_features, layer.in_features, rank))


def learned(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name that training may change: of an adapted module the changes, else all."""
    changes = [name for name, part in module.named_modules() if isinstance(part, LowRankChange)]
    named = dict(module.named_parameters())
    return {name: named[name] for name in named if name.rpartition(".")[0] in changes} if changes else named


def constant_factors(module: nn.Module) -> set[str]:
    """Names of the factors to leave alone when weights are averaged: a change is linear in the other one, which starts at 0."""
    return {f"{name}.down" for name, part in module.named_modules() if isinstance(part, LowRankChange)}


def merge(module: nn.Module) -> None:
    """Make the changes part of the weights."""
    for layer in [layer for layer in module.modules() if parametrize.is_parametrized(layer)]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
