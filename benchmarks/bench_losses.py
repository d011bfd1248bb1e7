"""Our losses beside pytorch-metric-learning's: the largest difference of value and of gradient, and processor time of a step.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_losses       # with pytorch-metric-learning 2.9.0 installed

A batch is 32 speakers with 4 clips of 128 numbers each, drawn anew for each of the rounds; a step is the loss and its gradient.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners, reducers
from torch import Tensor

from benchmarks.side_by_side import take_turns
from speakerprint.training.losses import AngularMargin, batch_hard_triplet, ntxent, supervised_contrastive

SPEAKERS, CLIPS, DIM = 32, 4, 128
MARGIN, TEMPERATURE, ANGLE, SCALE = 1.0, 0.1, 0.2, 30.0

Loss = Callable[[Tensor, Tensor], Tensor]


def pairs() -> dict[str, tuple[Loss, Loss]]:
    """Of each loss ours and theirs, both of (batch, dim) unit vectors and (batch,) labels."""
    mean = reducers.MeanReducer()
    miner, triplet = miners.BatchHardMiner(), losses.TripletMarginLoss(margin=MARGIN, reducer=mean)
    contrastive, supervised = losses.NTXentLoss(TEMPERATURE), losses.SupConLoss(TEMPERATURE)
    ours = AngularMargin(SPEAKERS, DIM, SCALE)
    theirs = losses.ArcFaceLoss(SPEAKERS, DIM, margin=math.degrees(ANGLE), scale=SCALE)
    theirs.W.data = ours.centres.data.T.clone()

    def views(labels: Tensor) -> Tensor:  # two of each clip
        return torch.arange(len(labels) // 2).repeat(2)

    return {
        "batch-hard triplet": (
            lambda rows, labels: batch_hard_triplet(rows, labels, MARGIN),
            lambda rows, labels: triplet(rows, labels, miner(rows, labels)),
        ),
        "NT-Xent, two views": (
            lambda rows, labels: ntxent(rows.view(2, -1, DIM), TEMPERATURE),
            lambda rows, labels: contrastive(rows, views(labels)),
        ),
        "supervised contrastive": (lambda rows, labels: supervised_contrastive(rows, labels, TEMPERATURE), supervised),
        "angular margin": (lambda rows, labels: ours(rows, labels, ANGLE), theirs),
    }


def compare(rounds: int) -> pd.DataFrame:
    """A row a loss: differences over the rounds' batches, CPU ms of a step of each."""
    torch.manual_seed(1)
    labels = torch.arange(SPEAKERS).repeat_interleave(CLIPS)
    batches = [(torch.randn(SPEAKERS, DIM)[labels] + 1.5 * torch.randn(len(labels), DIM)) for _ in range(rounds)]

    def step(loss: Loss, raw: Tensor) -> tuple[Tensor, Tensor]:
        leaf = raw.clone().requires_grad_()
        value = loss(F.normalize(leaf, dim=1), labels)
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    rows = {}
    for name, both in pairs().items():
        found = [[step(loss, raw) for raw in batches] for loss in both]
        differences = [(a - c).abs().max().item() for a, c in ((a[i], c[i]) for a, c in zip(*found, strict=True) for i in (0, 1))]
        steps: dict[str, Callable[[], Any]] = {
            way: partial(step, loss, batches[0]) for way, loss in zip(("ours", "theirs"), both, strict=True)
        }
        seconds = take_turns(steps, 20 * rounds, time.process_time)
        rows[name] = {
            "value": found[0][0][0].item(),
            "difference": max(differences[::2]),
            "of gradient": max(differences[1::2]),
            **{f"{way}, CPU ms": 1000 * spent for way, spent in seconds.items()},
            "ratio": seconds["theirs"] / seconds["ours"],
        }
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="batches compared; timed are 20 times as many steps")
    print(compare(parser.parse_args().rounds).to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
