"""A trained model for elsewhere: one ONNX graph, and the folder that the Hugging Face hub shows and serves."""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from speakerprint.audio.dimensions import HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE_HZ
from speakerprint.errors import InputError
from speakerprint.files import whole_file, whole_folder
from speakerprint.inference.embedder import MIN_DURATION_S, SpeakerEmbedder
from speakerprint.inference.model_folder import (
    FORMAT,
    MODEL_FILES,
    WEIGHTS,
    find_model,
    read_config,
    read_model,
    stated_licence,
    write_config,
)
from speakerprint.inference.network import Network
from speakerprint.model.onnx_graph import build_waveform_graph
from speakerprint.params.model import Model
from speakerprint.runtime import open_session

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

SHORTEST = round(MIN_DURATION_S * SAMPLE_RATE_HZ)  # samples
METADATA = {
    "library_name": "speakerprint",
    "pipeline_tag": "feature-extraction",
    "tags": ["speaker-embedding", "speaker-verification", "speaker-recognition", "audio", "whisper"],
    "base_model": "openai/whisper-base",
}
CODE = Path(__file__).with_name("modeling_speakerprint.py")  # imports torch and transformers, so it is copied and not imported
AUTO_MODEL = {  # in config.json, for transformers
    "model_type": "speakerprint",
    "architectures": ["SpeakerprintModel"],
    "auto_map": {
        "AutoConfig": f"{CODE.stem}.SpeakerprintConfig",
        "AutoModel": f"{CODE.stem}.SpeakerprintModel",
    },
    "dtype": "float32",
}
FEATURE_EXTRACTOR = {  # of Whisper, whose features on the frames that exist are the embedder's
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": N_MELS,
    "hop_length": HOP_LENGTH,
    "n_fft": N_FFT,
    "sampling_rate": SAMPLE_RATE_HZ,
    "chunk_length": 30,
    "padding_value": 0.0,
    "return_attention_mask": True,
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


def export_onnx(embedder: SpeakerEmbedder, path: str | Path) -> float:
    """Write an ONNX graph from `waveform`, (batch, samples) float32 at 16 kHz, to `embedding`, (batch, embedding_dim).

    Both sizes are free; the recordings of a batch have one length, at least 0.1 s. Weights, features and windows are in it;
    to resample, to mix to mono and to refuse silence is left to the caller.
    It computes in float32. Returns the largest difference between an entry of its embeddings and the embedder's in float32, of
    noise of some lengths.
    """
    model, path = embedder.network.model, Path(path)
    exact = SpeakerEmbedder(Network(model.path, in_float32=True))
    graph = build_waveform_graph(Model.model_validate(model.config["model"]), model.path / WEIGHTS)
    onnx.load_external_data_for_model(graph, str(model.path))
    for tensor in graph.graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    onnx.helper.set_model_props(graph, {"model_id": model.model_id, "thresholds": json.dumps(embedder.thresholds)})
    with whole_file(path) as part:
        onnx.save(graph, part)
    session = open_session(path)
    window, rng = round(model.window_s * SAMPLE_RATE_HZ), np.random.default_rng(0)
    clips = [rng.normal(scale=0.1, size=n).astype(np.float32) for n in (SHORTEST, window, window + 1, 3 * window + 1000)]
    found = [session.run(None, {"waveform": clip[None]})[0][0] for clip in clips]
    return max(float(np.abs(a - exact.embed(clip, SAMPLE_RATE_HZ)).max()) for a, clip in zip(found, clips, strict=True))


# --- the Hugging Face hub -------------------------------------------------------------------------------------------


def export_huggingface(name_or_folder: str | Path | None, out: str | Path, license: str | None = None) -> None:
    """Write a model as the folder that the hub shows and `SpeakerEmbedder.load` reads: config, weights, graph, and a model card.

    `transformers.AutoModel` reads it too, where speakerprint and torch are installed: see modeling_speakerprint.

    The card is the model's own README.md, or a short one; it gets the metadata that the hub searches by where it has none, and
    loses its links to files of this repository. license: an SPDX id in lower case, by default what the card says. A folder of an
    earlier version is made one of this version, where torch is installed.
    Raises InputError if there is no such model, it is damaged, or `out` is a folder that holds something.
    """
    folder, out = find_model(name_or_folder), Path(out)
    earlier = read_config(folder).get("format") != FORMAT
    if not earlier:
        read_model(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; remove it, or name another")
    with whole_folder(out) as part:
        for name in MODEL_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, part)
        if earlier:
            from speakerprint.model.migration import renew

            renew(part)
        write_config(part, read_config(part) | AUTO_MODEL)
        shutil.copyfile(CODE, part / CODE.name)
        (part / "preprocessor_config.json").write_text(json.dumps(FEATURE_EXTRACTOR, indent=2) + "\n", encoding="utf-8")
        (part / "README.md").write_text(str(_card(folder, license)), encoding="utf-8")


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
    for key, value in {**METADATA, **card.data.to_dict(), "license": license or stated_licence(folder)}.items():
        setattr(card.data, key, value)
    return card
