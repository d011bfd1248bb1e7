"""A model as a folder: weights, graph, and `config.json`, which says what it is and holds a digest of all of it.

A folder is read only if it is as it was written: a model with a flipped bit would embed, and its verdicts would be wrong.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakerprint.errors import InputError
from speakerprint.files import write_text

FORMAT = "speakerprint-2"
SHIPPED = Path(__file__).parents[1] / "models/speakerprint-base"  # in the package
CONFIG, WEIGHTS, GRAPH, INTEGER_GRAPH = "config.json", "model.safetensors", "model.onnx", "model_int8.onnx"
MODEL_FILES = ["README.md", CONFIG, GRAPH, INTEGER_GRAPH, WEIGHTS, "params.yaml"]
MAX_DIM = 2**16
MIN_WINDOW_S, MAX_WINDOW_S = 0.1, 30.0  # Whisper hears no more
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # owner/name, or owner/name@revision
AGAIN = "make it again with `speakerprint export --format huggingface --model FOLDER --output NEW`"


@dataclass(frozen=True)
class ModelFolder:
    """What a verified folder says of its model."""

    path: Path
    model_id: str  # 16 hex digits: embeddings of two ids are never compared
    embedding_dim: int
    window_s: float
    thresholds: dict[float, float]  # the score to reach for each false-accept rate
    config: dict[str, Any]


def find_model(name_or_folder: str | Path | None = None) -> Path:
    """The folder of a model: by default the shipped one, of `owner/name` its copy from the Hugging Face hub, else as given.

    `owner/name@revision` is that commit, tag or branch of it. What stands in a folder that exists, such as `models/mine`, is
    never looked for on the hub. Raises InputError where the hub does not give the model.
    """
    if name_or_folder is None:
        return SHIPPED
    folder = Path(name_or_folder)
    named = HUB_ID.fullmatch(folder.as_posix())
    if folder.parent.is_dir() or not named:
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise InputError(
            f"there is no folder {folder}; to load it from the Hugging Face hub: pip install 'speakerprint[hub]'"
        ) from None
    name, revision = named.groups()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=MODEL_FILES))
    except Exception as error:  # of the hub client's HTTP library, whichever that is
        raise InputError(
            f"there is no folder {folder}, and no such model can be had from the Hugging Face hub: "
            f"{type(error).__name__}: {error}"
        ) from error


def read_config(folder: str | Path) -> dict[str, Any]:
    """What `config.json` says, unverified. Raises InputError where there is none, or it is no JSON object."""
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no model in {folder}: {path} is missing; train one with `dvc repro`") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the model in {folder} is damaged: {CONFIG} is no JSON ({error}); get or make it again") from None
    if not isinstance(config, dict):
        raise InputError(f"the model in {folder} is damaged: {CONFIG} holds {config!r:.50}; get or make it again")
    return config


def read_model(folder: str | Path) -> ModelFolder:
    """Verify a folder that `write_config` completed. Raises InputError if anything in it is missing or not as it was written."""
    folder, config = Path(folder), read_config(folder)
    if (found := config.get("format")) != FORMAT:
        raise InputError(f"{folder}/{CONFIG} has format {found!r}, expected {FORMAT!r}; {AGAIN}")
    try:
        if _digest(config) != config.get("digest"):
            raise InputError(f"{folder}/{CONFIG} was changed or damaged since it was written; get or make the model again")
        files: dict[str, Any] = config["files"]
        if not {GRAPH, WEIGHTS} <= files.keys() <= {GRAPH, WEIGHTS, INTEGER_GRAPH}:  # nor a file elsewhere, nor a device
            raise InputError(f"{folder}/{CONFIG} names {', '.join(files)} as its files; get or make the model again")
        for name, expected in files.items():
            if _sha256(folder / name) != expected:
                raise InputError(f"{folder}/{name} was changed or damaged since it was written; get or make the model again")
        return _checked(folder, config)
    except FileNotFoundError as error:
        raise InputError(f"no model in {folder}: {error.filename} is missing; train one with `dvc repro`") from None
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); get or make the model again") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{folder}/{CONFIG} is damaged or of another version ({error!r}); get or make the model again") from None


def write_config(folder: str | Path, config: dict[str, Any]) -> None:
    """Write `config.json` into a folder that has its weights and its graphs, with the digests of everything in it.

    config: "model" (its settings) and "model_id"; "thresholds" and whatever else is known of it.
    Raises InputError for thresholds that no score can mean.
    """
    folder = Path(folder)
    files = {name: _sha256(folder / name) for name in (GRAPH, WEIGHTS)}
    if (folder / INTEGER_GRAPH).is_file():  # a model may have none: those of before, and those that it changes too much
        files[INTEGER_GRAPH] = _sha256(folder / INTEGER_GRAPH)
    whole = {"format": FORMAT, **{key: value for key, value in config.items() if key not in ("format", "digest")}, "files": files}
    _checked(folder, whole)
    whole["digest"] = _digest(whole)
    write_text(json.dumps(whole, indent=2) + "\n", folder / CONFIG)


def _checked(folder: Path, config: dict[str, Any]) -> ModelFolder:
    thresholds = {float(rate): float(score) for rate, score in config.get("thresholds", {}).items()}
    for rate, score in thresholds.items():
        if not (0 < rate < 1 and -1 <= score <= 1):  # nor NaN
            raise InputError(
                f"{folder}/{CONFIG}: the threshold at a false-accept rate of {rate} is {score}; expected a rate between 0 and 1 "
                "and a score from -1 to 1"
            )
    dim, window_s = int(config["model"]["embedding_dim"]), float(config["model"]["window_s"])
    if not (1 <= dim <= MAX_DIM and MIN_WINDOW_S <= window_s <= MAX_WINDOW_S):
        raise InputError(
            f"{folder}/{CONFIG}: embedding_dim is {dim} and window_s {window_s}, expected 1 to {MAX_DIM:,} and {MIN_WINDOW_S} to "
            f"{MAX_WINDOW_S:g}; get or make the model again"
        )
    return ModelFolder(folder, str(config["model_id"]), dim, window_s, thresholds, config)


def _digest(config: dict[str, Any]) -> str:
    content = {key: value for key, value in config.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stated_licence(folder: Path) -> str | None:
    """The SPDX id in the metadata of the model's card, README.md; None where there is none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    stated = re.search(r"^license:\s*(\S+)", text.split("\n---")[0], re.MULTILINE) if text.startswith("---") else None
    return stated[1] if stated else "apache-2.0" if folder == SHIPPED else None


def card_in_short(folder: Path) -> str | None:
    """The first paragraph of the model's card, README.md; None where there is none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if text.startswith("---"):  # the hub's metadata
        text = text.partition("\n---")[2]
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return next((part for part in paragraphs if part and not part.startswith(("#", "-", "`"))), None)


def describe(name_or_folder: str | Path | None = None) -> dict[str, Any]:
    """What is known of a model, see `find_model`: id, card in short, files, shape, size, thresholds, licence, what it came from.

    Raises InputError as `read_model` does.
    """
    model = read_model(find_model(name_or_folder))
    config = model.config
    return {
        "model_id": model.model_id,
        "about": card_in_short(model.path),
        "folder": str(model.path),
        "files": [name for name in MODEL_FILES if (model.path / name).is_file()],
        "layers": config["model"]["layers"],
        "embedding_dim": model.embedding_dim,
        "window_s": model.window_s,
        "parameters": config.get("parameters"),
        "bytes": sum((model.path / name).stat().st_size for name in config["files"]),
        "thresholds": config.get("thresholds", {}),
        "thresholds_from": config.get("thresholds_from"),
        "commit": config.get("commit"),
        "run": config.get("run"),
        "license": stated_licence(model.path),
    }
