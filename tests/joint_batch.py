"""Losses and gradients of a batch, computed by all processes that are started; test_objective compares them with those of one.

accelerate launch --multi_gpu --num_processes 2 --mixed_precision no -m tests.joint_batch results.pt
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import Tensor

from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.params.whole import load_params
from speakerprint.training.batches import Batch
from speakerprint.training.objective import Objective
from speakerprint.training.recipe import Recipe

LOSSES = ("triplet", "ntxent", "supervised_contrastive", "angular_margin", "teacher_match", "teacher_similarity")
CASES: dict[str, dict[str, Any]] = {
    **{name: {"losses": [name]} for name in LOSSES},
    "all": {},
    "gendered": {"gendered": True},
    "with a frozen encoder": {"frozen": True},
    "accumulated over two batches": {"batches": 2},
    "in bfloat16": {"bf16": True},
}
LABELS = torch.arange(4).repeat_interleave(2)  # 4 speakers, 2 clips of each
GENDERS = torch.tensor([0, 1, 0, 1]).repeat_interleave(2)
TAUGHT = tuple(  # by two teachers
    torch.nn.functional.normalize(torch.randn(8, dim, generator=torch.Generator().manual_seed(7))) for dim in (5, 3)
)


def batch(number: int) -> Batch:
    """Random clips, some of them shorter, without noise."""
    features = torch.randn(8, 80, 40, generator=torch.Generator().manual_seed(number))
    n_frames = torch.tensor([40, 33, 40, 21, 40, 40, 18, 40])
    features = features * (torch.arange(40) < n_frames[:, None])[:, None]
    return Batch(features, n_frames, LABELS, GENDERS, torch.empty(0), TAUGHT, number, per_speaker=2, n_labelled=8, padded=True)


def losses_and_gradients(
    losses: list[str] | None = None, frozen: bool = False, batches: int = 1, bf16: bool = False, gendered: bool = False
) -> dict[str, Any]:
    """Of each loss its value, of each parameter its gradient, and the clips that each process has embedded."""
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    weights = {f"{name}_weight": float(name in (losses or LOSSES)) for name in LOSSES}
    recipe = Recipe(
        model=params.model.model_copy(update={"layers": 1, "embedding_dim": 8}),
        loss=params.loss.model_copy(update=weights | {"gendered": gendered}),
        sampling=params.sampling,
        augmentation=params.augmentation,
        discriminant=params.discriminant,
        train=params.train,
    )
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[unused])
    torch.manual_seed(1)
    objective = Objective(SpeakerModel(recipe.model), 4, recipe, [taught.shape[1] for taught in TAUGHT])
    wrapped = accelerator.prepare(objective)
    objective.model.encoder.requires_grad_(not frozen)
    embedded: list[Tensor] = []
    objective.model.register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0][:, 0, 0].clone()))
    for number in range(batches):
        with accelerator.no_sync(wrapped) if number < batches - 1 else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                terms = wrapped(batch(number), 99)
            if not number:
                clips = torch.cat(embedded)
            accelerator.backward(terms["loss"] / batches)
    return {
        "losses": {name: value.detach() for name, value in terms.items()},
        "gradients": {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None},
        "clips": gather_object([clips]),
    }


if __name__ == "__main__":
    results = {name: losses_and_gradients(**case) for name, case in CASES.items()}
    accelerator = Accelerator()
    if accelerator.is_main_process:
        torch.save(results, sys.argv[1])
    accelerator.wait_for_everyone()  # gloo's threads let go of tensors meanwhile; in an interpreter that ends they abort it
    accelerator.end_training()
