"""A training step, clips per second: recipes/default against the reference recipe on the same crops of 5 s.

    python -m benchmarks.bench_training_step
    python -m benchmarks.bench_training_step --clips 8 --threads 1 --rounds 3
    python -m benchmarks.bench_training_step --device cuda --clips 32
    python -m benchmarks.bench_training_step --compile  # and ours with its encoder compiled: takes a C++ compiler and a minute

Ours: two encoder layers on the crops' own 500 frames, four losses, in bfloat16 where the device computes in it. Reference: the
six layers of Hugging Face's WhisperEncoder on crops padded to 3000 frames, float32, mean over the frames, Linear 512-512, ReLU,
Linear 512-256, unit length, triplet loss and NT-Xent. Both: each clip and one augmented view, forward, backward, AdamW, all
weights trained and random at first. The reference's own batch of 128 clips takes more memory than most machines have; the batch
here is small, for both.
"""

import argparse
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML
from torch import Tensor, nn

from benchmarks.bench_training_loop import PROJECT, default_recipe
from benchmarks.side_by_side import row, take_turns
from speakerprint.model.speaker_model import SpeakerModel, native_bf16
from speakerprint.model.whisper import DIMS, MAX_FRAMES
from speakerprint.params.presets import read_recipe
from speakerprint.params.whole import parse_params
from speakerprint.training.batches import Batch
from speakerprint.training.objective import Objective
from speakerprint.training.optimiser import make_optimiser
from speakerprint.training.recipe import Recipe

CROP_FRAMES = 500


class ReferenceModel(nn.Module):
    def __init__(self) -> None:
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        super().__init__()
        sizes: dict[str, Any] = dict(d_model=DIMS.width, encoder_layers=DIMS.n_layers, encoder_attention_heads=DIMS.n_heads)
        self.encoder = WhisperEncoder(WhisperConfig(**sizes, encoder_ffn_dim=4 * DIMS.width, num_mel_bins=DIMS.n_mels))
        self.head = nn.Sequential(nn.Linear(DIMS.width, DIMS.width), nn.ReLU(), nn.Linear(DIMS.width, 256))

    def forward(self, features: Tensor, _n_frames: Tensor | None) -> Tensor:
        padded = F.pad(features, (0, MAX_FRAMES - features.shape[2]))
        return F.normalize(self.head(self.encoder(padded).last_hidden_state.mean(dim=1)))


def reference_recipe() -> Recipe:
    params = parse_params(YAML(typ="safe").load(PROJECT / "params.yaml") | read_recipe("reference"))
    return Recipe(**{name: getattr(params, name) for name in Recipe.__annotations__})


def make_step(model: nn.Module, recipe: Recipe, clips: Tensor, bf16: bool) -> Callable[[], None]:
    """A call is a step on these clips, two of each speaker, on their device."""
    device = clips.device
    labels = torch.arange(len(clips), device=device) // 2
    n_frames = torch.full((len(clips),), clips.shape[2], device=device)
    nothing = torch.empty(0, device=device)  # neither noise nor a teacher
    batch = Batch(
        clips, n_frames, labels, torch.zeros_like(labels), nothing, (), 1, per_speaker=2, n_labelled=len(labels), padded=False
    )
    objective = Objective(model, len(clips), recipe).to(device)  # type: ignore[arg-type]
    optimiser = make_optimiser(objective, recipe.train)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = objective(batch, 0)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def run(n_clips: int = 4, rounds: int = 5, threads: int = 2, compiled: bool = False, device: str = "cpu") -> list[dict[str, Any]]:
    """Rows of a table: what, ours, reference, unit, ratio, aim, met."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clips = 0.5 * torch.randn(n_clips, DIMS.n_mels, CROP_FRAMES, device=device)
    with_bf16 = native_bf16(device)
    default = default_recipe()
    steps = {
        "bfloat16": make_step(SpeakerModel(default.model), default, clips, True),
        "float32": make_step(SpeakerModel(default.model), default, clips, False),
        "reference": make_step(ReferenceModel(), reference_recipe(), clips, False),
    }
    if compiled:
        model = SpeakerModel(default.model)
        model.encoder.compile(dynamic=True)  # crops grow during training
        steps = {"encoder by torch.compile": make_step(model, default, clips, with_bf16)} | steps
    if not with_bf16:
        del steps["bfloat16"]
    speed = {name: n_clips / seconds for name, seconds in take_turns(steps, rounds).items()}
    reference = speed.pop("reference")
    as_it_trains = "bfloat16" if with_bf16 else "float32"
    return [
        row(f"training step, {name}", mine, reference, "clips/s", mine / reference, 10 if name == as_it_trains else None)
        for name, mine in speed.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4, help="of a batch, each with a view; even")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    chosen = parser.parse_args()
    rows = run(chosen.clips, chosen.rounds, chosen.threads, chosen.compile, chosen.device)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
