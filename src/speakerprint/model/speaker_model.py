"""The whole model: Whisper's lower encoder layers -> their outputs combined -> pooling -> projection.

Shapes: log-mel features (batch, 80, frames) at 100 frames a second; the encoder halves them to positions, (batch, positions,
512) at 50 a second; an embedding is (embedding_dim,) of unit length. Padding never changes an embedding: each step works on
the positions that exist.
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speakerprint.audio.dimensions import FRAMES_PER_SECOND, MAX_FRAMES, N_MELS
from speakerprint.audio.log_mel import pad_batch, windows
from speakerprint.errors import InputError
from speakerprint.files import whole_folder
from speakerprint.inference.model_folder import FORMAT, INTEGER_GRAPH, WEIGHTS, read_config, read_model, write_config
from speakerprint.inference.network import Network
from speakerprint.model.migration import migrate
from speakerprint.model.onnx_graph import write_onnx
from speakerprint.model.whisper import DIMS, WhisperEncoder
from speakerprint.params.model import Model

TOLERANCE = 1e-4  # of an embedding's entries under ONNX Runtime, in float32
LEAST_COSINE = 0.98  # of an embedding by 8-bit integers and the model's own
FRAMES_AT_ONCE = 16 * MAX_FRAMES  # what a batch holds at most, however long the recordings are


def native_bf16(device_type: str | None = None) -> bool:
    """Whether a device computes in bfloat16 itself; in software it is 300 times slower.

    device_type: cpu or cuda; by default the accelerator, or without one the processor.
    """
    if device_type == "cuda" or (device_type is None and torch.cuda.is_available()):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def concatenate_layers(hidden: list[Tensor]) -> Tensor:
    """The layers' outputs side by side, each normalised first: (batch, positions, layers * width)."""
    return torch.cat([F.layer_norm(layer, layer.shape[-1:]) for layer in hidden], dim=-1)


class MeanPooling(nn.Module):
    """Mean over the valid positions."""

    def __init__(self, width: int):
        super().__init__()
        self.out_width = width

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (batch, positions, width). Returns (batch, width)."""
        if mask is None:
            return x.mean(dim=1)
        return (x * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation over positions, weighted by an attention that each channel has for itself.

    Okabe, Koshinaka, Shinoda: "Attentive Statistics Pooling for Deep Speaker Embedding", 2018; channel-wise as in
    Desplanques, Thienpondt, Demuynck: "ECAPA-TDNN", 2020, section 3.1.
    """

    BOTTLENECK = 128

    def __init__(self, width: int):
        super().__init__()
        last = nn.Linear(self.BOTTLENECK, width)
        nn.init.zeros_(last.weight)  # all positions count the same until training finds better
        nn.init.zeros_(last.bias)
        self.score = nn.Sequential(nn.Linear(width, self.BOTTLENECK), nn.Tanh(), last)
        self.out_width = 2 * width

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (batch, positions, width). Returns (batch, 2 * width): means, then standard deviations."""
        scores = self.score(x).float()
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], -torch.inf)
        weights, x = scores.softmax(dim=1), x.float()
        mean = (weights * x).sum(dim=1)
        variance = (weights * x.square()).sum(dim=1) - mean.square()
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)


POOLING: dict[str, Callable[[int], MeanPooling | AttentiveStatistics]] = {
    "mean": MeanPooling,
    "attentive_statistics": AttentiveStatistics,
}


class DiscriminantProjection(nn.Module):
    """Linear projection of standardised statistics; `discriminant` finds its start, training goes on from there."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.linear = nn.Linear(width, dim)

    def start(self, mean: np.ndarray, std: np.ndarray, weights: np.ndarray) -> None:
        """Take what `discriminant` returned."""
        with torch.no_grad():
            self.mean.copy_(torch.from_numpy(mean))
            self.std.copy_(torch.from_numpy(std))
            self.linear.weight.copy_(torch.from_numpy(weights))
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width). Returns (batch, dim)."""
        return self.linear((x - self.mean) / self.std)


class SpeakerModel(nn.Module):
    """Log-mel features to speaker embeddings."""

    def __init__(self, settings: Model):
        super().__init__()
        self.settings = settings
        self.encoder = WhisperEncoder(settings.layers)
        width = DIMS.width * (settings.layers if settings.layer_combination == "concatenate" else 1)
        self.pooling = POOLING[settings.pooling](width)
        pooled, dim = self.pooling.out_width, settings.embedding_dim
        self.projection: nn.Module
        if settings.projection == "discriminant":
            self.projection = DiscriminantProjection(pooled, dim)
        else:
            self.projection = nn.Sequential(nn.Linear(pooled, DIMS.width), nn.ReLU(), nn.Linear(DIMS.width, dim))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(self, features: Tensor, n_frames: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """The encoder's part of `forward`: the layers' outputs, each (batch, positions, 512), and the mask of valid positions."""
        return self.encoder(features, n_frames)

    def pool(self, hidden: list[Tensor], mask: Tensor | None) -> Tensor:
        """The statistics that are projected, (batch, width), of what `encode` returned."""
        if self.settings.layer_combination == "concatenate":
            return self.pooling(concatenate_layers(hidden), mask)
        return self.pooling(self.encoder.final_norm(hidden[-1]), mask)

    def project(self, pooled: Tensor) -> Tensor:
        """The embeddings, (batch, embedding_dim) of unit length, of what `pool` returned."""
        return F.normalize(self.projection(pooled).float())

    def forward(self, features: Tensor, n_frames: Tensor | None = None) -> Tensor:
        """Embed a batch.

        features: (batch, 80, frames) float32, at most 3000 frames. n_frames: (batch,) int64 valid frames of each clip, or None
        where all are valid. Returns (batch, embedding_dim) float32 of unit length.
        """
        return self.project(self.pool(*self.encode(features, n_frames)))

    @torch.inference_mode()
    def embed_frames(self, clips: list[np.ndarray]) -> np.ndarray:
        """Embed recordings of any length, padded to the longest; the model should be in `eval` mode.

        A recording longer than `window_s` is heard in windows of that length, spread evenly over it, overlapping if need be; its
        embedding is the direction of their mean. (Whisper adds to each frame where it stands: beyond the length of the crops
        that a model was trained on, it would hear what it has never heard.)

        clips: each (frames, 80) log-mel features. Returns (clips, embedding_dim) float32 of unit length.
        """
        parts, owner = [], []
        for index, clip in enumerate(clips):
            own = windows(clip, round(self.settings.window_s * FRAMES_PER_SECOND))
            parts += own
            owner += [index] * len(own)
        device = self.device
        at_once = FRAMES_AT_ONCE // max(map(len, parts))
        rows = []
        for start in range(0, len(parts), at_once):
            features, mask = pad_batch(parts[start : start + at_once])
            n_frames = None if mask.all() else torch.from_numpy(mask.sum(axis=1)).to(device)
            rows.append(self(torch.from_numpy(features).to(device), n_frames))
        embeddings = torch.cat(rows)
        sums = torch.zeros(len(clips), embeddings.shape[1], device=device).index_add_(
            0, torch.tensor(owner, device=device), embeddings
        )
        return F.normalize(sums).cpu().numpy()

    def save(self, folder: str | Path, run: str, half: bool = False, **about: Any) -> None:
        """Write a model folder: weights, the graphs that inference runs, and `config.json` with the digests of all of them.

        run: the digest of what made it (see training). half: weights in float16. about: whatever else `config.json` is to say.
        A model that 8-bit integers change too much (see LEAST_COSINE) gets none for them, with a warning; it embeds in float32.
        Raises InputError for weights that are not finite, in float16 where that is asked for, and where ONNX Runtime's embeddings
        of noise are not this model's.
        """
        folder = Path(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if half:
            weights = {name: tensor.half() for name, tensor in weights.items()}
        if lost := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
            raise InputError(f"{lost[0]} has values that {'float16 cannot hold' if half else 'are not finite'}; train it again")
        with whole_folder(folder) as part:
            save_file(weights, part / WEIGHTS)
            write_onnx(self.settings, part)
            settings, parameters = self.settings.model_dump(), sum(parameter.numel() for parameter in self.parameters())
            identity = {"model": settings, "model_id": model_id(settings, weights), "parameters": parameters}
            write_config(part, identity | {"run": run} | about)
            difference, cosine = agreement(part)
            if not difference < TOLERANCE:
                raise InputError(
                    f"ONNX Runtime's embeddings of {folder} are {difference:.1e} from the model's, expected {TOLERANCE}"
                )
            if not cosine >= LEAST_COSINE:
                warnings.warn(f"{folder} embeds in float32: 8-bit integers turn it by a cosine of {cosine:.3f}", stacklevel=2)
                (part / INTEGER_GRAPH).unlink()
                write_config(part, read_config(part))

    @classmethod
    def load(cls, folder: str | Path) -> "SpeakerModel":
        """Load what `save` wrote, in `eval` mode. Raises InputError if the folder holds no such model, or it is damaged."""
        folder = Path(folder)
        config = read_config(folder)
        if config.get("format") == FORMAT:
            read_model(folder)  # those of before have no digests
        try:
            config, weights = migrate(config, load_file(folder / WEIGHTS), str(folder))
            model = cls(Model.model_validate(config["model"]))
            model.load_state_dict(weights)
        except FileNotFoundError as error:
            raise InputError(f"no model in {folder}: {error.filename} is missing; train one with `dvc repro`") from None
        except (KeyError, ValidationError, SafetensorError, RuntimeError) as error:
            raise InputError(f"the model in {folder} is damaged or of another version ({error}); make it again") from None
        return model.eval()


def model_id(settings: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """Digest of what decides an embedding: 16 hex digits. Embeddings of two ids are never compared."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()[:16]


def agreement(folder: str | Path) -> tuple[float, float]:
    """Of ONNX Runtime's embeddings with torch's, of a model folder and noise of some lengths.

    Returns the largest difference of an entry in float32, and the least cosine by 8-bit integers.
    """
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(n_frames, N_MELS)).astype(np.float32) for n_frames in (1, 10, 101)]
    expected = SpeakerModel.load(folder).embed_frames(clips)
    exact, rounded = (Network(folder, in_float32=in_float32).embed_frames(clips) for in_float32 in (True, False))
    return float(np.abs(exact - expected).max()), float((rounded * expected).sum(axis=1).min())


class Bfloat16Model(SpeakerModel):
    """A copy of a model, to embed with: its encoder computes in bfloat16, what follows (pooling, projection) in float32."""

    def __init__(self, model: SpeakerModel):
        super().__init__(model.settings)
        self.load_state_dict(model.state_dict())
        self.to(model.device).eval()
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                module.bfloat16()  # once, where autocast would round them at every call

    def encode(self, features: Tensor, n_frames: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """As of SpeakerModel; what the layers add to their input is rounded, the sums are not: outputs are float32."""
        with torch.autocast(features.device.type, torch.bfloat16):
            return super().encode(features, n_frames)
