"""A trained model for elsewhere: one ONNX graph, and the folder that the Hugging Face hub shows and serves."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from speakerprint.audio.dimensions import FRAMES_PER_SECOND, N_MELS, SAMPLE_RATE_HZ
from speakerprint.errors import InputError
from speakerprint.inference.embedder import MIN_DURATION_S, MODEL_FILES, SHIPPED, SpeakerEmbedder, find_model
from speakerprint.model.speaker_model import SpeakerModel

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

SHORTEST = round(MIN_DURATION_S * SAMPLE_RATE_HZ)  # samples
METADATA = {
    "library_name": "speakerprint",
    "pipeline_tag": "feature-extraction",
    "tags": ["speaker-embedding", "speaker-verification", "speaker-recognition", "audio", "whisper"],
    "base_model": "openai/whisper-base",
}
OWN_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)[^)]*\)")  # [text](a file)
CARD = """# {name}

A speaker-embedding model made with speakerprint, on the lower layers of Whisper base's encoder: unit vectors whose cosine says
how alike two voices are. `params.yaml`, where it is here, is what it was trained with; `config.json` says the rest.

```python
import speakerprint

embedder = speakerprint.load("OWNER/{name}")  # or this folder
similarity = embedder.embed_files(["monday.wav"]) @ embedder.embed_files(["tuesday.mp3"]).T
```

To be written by who trained it: on which recordings, how well it tells speakers apart, and where it fails.
"""


class WaveformModel(nn.Module):
    """`SpeakerEmbedder.embed` as one graph, log-mel features and windows included, for recordings of one length."""

    kernels: Tensor
    mel: Tensor

    def __init__(self, model: SpeakerModel):
        super().__init__()
        self.model = model.eval()
        self.window = round(model.settings.window_s * FRAMES_PER_SECOND)
        extractor = WhisperFeatureExtractor(feature_size=N_MELS)
        self.n_fft, self.hop = extractor.n_fft, extractor.hop_length
        # a Fourier transform of each frame, as a convolution: every runtime has that, and few a fast one of 400 samples
        sample, frequency = np.arange(self.n_fft), np.arange(self.n_fft // 2 + 1)[:, None]
        phase = 2 * np.pi * (sample * frequency % self.n_fft) / self.n_fft
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * sample / self.n_fft)
        kernels = np.concatenate([hann * np.cos(phase), hann * np.sin(phase)])[:, None]
        self.register_buffer("kernels", torch.from_numpy(kernels.astype(np.float32)))
        self.register_buffer("mel", torch.from_numpy(extractor.mel_filters.T.astype(np.float32)))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """`features.log_mel` of (batch, samples): (batch, 80, frames), frames = ceil(samples / 160)."""
        n_frames = (waveform.shape[1] + self.hop - 1) // self.hop
        before = waveform[:, 1 : self.n_fft // 2 + 1].flip(1)  # its reflection; what follows it is silence
        framed = F.pad(torch.cat([before, waveform], dim=1), (0, self.n_fft + self.n_fft // 2))
        real, imaginary = F.conv1d(framed[:, None], self.kernels, stride=self.hop)[:, :, :-1].chunk(2, dim=1)
        log = (self.mel @ (real.square() + imaginary.square())).clamp(min=1e-10).log10()
        loudest = log.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log, loudest - 8.0)[:, :, :n_frames] + 4.0) / 4.0

    def forward(self, waveform: Tensor) -> Tensor:
        """Embed (batch, samples) at 16 kHz, at least 0.1 s: (batch, embedding_dim) of unit length."""
        features = self.log_mel(waveform)
        n_frames = features.shape[2]
        count = (n_frames + self.window - 1) // self.window
        length = torch.sym_min(n_frames, self.window)
        step = (n_frames - length) / torch.sym_max(count - 1, 1)
        starts = (torch.arange(count, dtype=torch.float64) * step).round().long()
        parts = features[:, :, starts[:, None] + torch.arange(length)]  # (batch, mels, count, length)
        embeddings = self.model(parts.transpose(1, 2).flatten(0, 1))
        return F.normalize(embeddings.unflatten(0, (waveform.shape[0], count)).sum(dim=1))


def _largest_difference(path: Path, model: SpeakerModel) -> float:
    """Between ONNX Runtime's embeddings and the model's, of noise around the lengths where the number of windows changes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    embedder = SpeakerEmbedder(model, precision="float32")
    window = round(model.settings.window_s * SAMPLE_RATE_HZ)
    rng = np.random.default_rng(0)
    clips = [rng.normal(scale=0.1, size=n).astype(np.float32) for n in (SHORTEST, window, window + 1, 3 * window + 1000)]
    found = [session.run(None, {"waveform": clip[None]})[0][0] for clip in clips]
    return max(float(np.abs(a - embedder.embed(clip, SAMPLE_RATE_HZ)).max()) for a, clip in zip(found, clips, strict=True))


def export_onnx(embedder: SpeakerEmbedder, path: str | Path) -> float:
    """Write an ONNX graph from `waveform`, (batch, samples) float32 at 16 kHz, to `embedding`, (batch, embedding_dim).

    It computes in float32, whatever the embedder does.
    Both sizes are free; the recordings of a batch have one length, at least 0.1 s. Features and windows are in the graph; to
    resample, to mix to mono and to refuse silence is left to the caller. Returns the largest difference between an entry of its
    embeddings under ONNX Runtime and the model's, of noise of some lengths.
    """
    graph = WaveformModel(embedder.model).eval()
    example = torch.zeros(2, 2 * round(embedder.model.settings.window_s * SAMPLE_RATE_HZ) + 1)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=SHORTEST)}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch's of itself
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=["waveform"],
            output_names=["embedding"],
            dynamic_shapes={"waveform": sizes},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["model_id"] = embedder.model_id
    program.model.metadata_props["thresholds"] = json.dumps(embedder.thresholds)
    program.save(path)
    return _largest_difference(Path(path), embedder.model)


# --- the Hugging Face hub -------------------------------------------------------------------------------------------


def describe(name_or_folder: str | Path | None = None) -> dict[str, Any]:
    """What is known of a model, see `SpeakerEmbedder.load`: id, shape, size, thresholds, licence, and what it came from."""
    folder = find_model(name_or_folder)
    embedder = SpeakerEmbedder.load(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = embedder.model.settings
    return {
        "model_id": embedder.model_id,
        "folder": str(folder),
        "layers": settings.layers,
        "embedding_dim": settings.embedding_dim,
        "window_s": settings.window_s,
        "parameters": sum(parameter.numel() for parameter in embedder.model.parameters()),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "thresholds": config.get("thresholds", {}),
        "thresholds_from": config.get("thresholds_from"),
        "commit": config.get("commit"),
        "run": config["run"],
        "license": _card(folder, None).data.get("license"),
    }


def export_huggingface(name_or_folder: str | Path | None, out: str | Path, license: str | None = None) -> None:
    """Write a model as the folder that the hub shows and `SpeakerEmbedder.load` reads: config, weights, and a model card.

    The card is the model's own README.md, or a short one; it gets the metadata that the hub searches by where it has none, and
    loses its links to files of this repository. license: an SPDX id in lower case, by default what the card says.
    Raises InputError if there is no such model, or `out` is a folder that holds something.
    """
    folder, out = find_model(name_or_folder), Path(out)
    SpeakerModel.load(folder)  # whole and of this version
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; remove it, or name another")
    out.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        if (folder / name).is_file():
            shutil.copy(folder / name, out)
    (out / "README.md").write_text(str(_card(folder, license)), encoding="utf-8")


def push(folder: str | Path, name: str) -> str:
    """Upload what `export_huggingface` wrote as the hub's model `owner/name`, made if need be; returns its address.

    Raises InputError, saying why, if the hub does not take it.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = hub.create_repo(name, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Model by speakerprint")
    except Exception as error:  # of the hub client's HTTP library, whichever that is
        raise InputError(
            f"the Hugging Face hub does not take {name}: {type(error).__name__}: {error}\n"
            "`hf auth login` with a token that may write; the model is ready in its folder"
        ) from error
    return str(address)


def _card(folder: Path, license: str | None) -> "ModelCard":
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else CARD.format(name=folder.resolve().name)
    card = ModelCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}")
    card.text = OWN_LINK.sub(r"\1", card.text)
    stated = card.data.get("license") or ("apache-2.0" if folder == SHIPPED else None)
    for key, value in {**METADATA, **card.data.to_dict(), "license": license or stated}.items():
        setattr(card.data, key, value)
    return card
