"""Models that an earlier version saved: their settings and weights as this version reads them."""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from speakerprint.errors import InputError
from speakerprint.inference.model_folder import FORMAT, WEIGHTS, read_config

FIRST_FORMAT = "speakerprint-1"
DROPPED_SINCE_FIRST = {"convolution_channels": 0, "centred": False}  # settings of FIRST_FORMAT, at the value that remains
LEFT_SINCE_FIRST = {  # settings of FIRST_FORMAT with fewer values today
    "layer_combination": ("concatenate", "last"),
    "pooling": ("mean", "attentive_statistics"),
    "projection": ("discriminant", "mlp"),
}


def migrate(config: dict[str, Any], weights: dict[str, Tensor], folder: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model's config and weights in today's format, from any format there has been; embeddings stay the same.

    config: what config.json holds. weights: its tensors by name. folder: where they were, for messages.
    Raises InputError for a format that never was, and for a model that uses what there is no longer.
    """
    found = config.get("format")
    if found == FORMAT:
        return config, weights
    if found != FIRST_FORMAT:
        raise InputError(f"{folder}/config.json has format {found!r}, expected {FORMAT!r} or {FIRST_FORMAT!r}")
    model = dict(config["model"])
    used = [f"model.{key} {value!r}" for key, remains in DROPPED_SINCE_FIRST.items() if (value := model.pop(key)) != remains]
    used += [f"model.{key} {model[key]!r}" for key, remain in LEFT_SINCE_FIRST.items() if model[key] not in remain]
    if used:
        raise InputError(
            f"{folder} was trained with {', '.join(used)}, which this version no longer has; "
            "train it again, or embed with speakerprint 0.1"
        )
    return config | {"format": FORMAT, "model": model}, {name: row for name, row in weights.items() if name != "centre"}


def renew(folder: Path) -> None:
    """Make a model folder of an earlier version one of this version, in place. Raises InputError as `migrate` does."""
    from speakerprint.model.speaker_model import SpeakerModel

    config = read_config(folder)
    with safe_open(folder / WEIGHTS, "pt") as weights:
        half = all(weights.get_slice(name).get_dtype() == "F16" for name in weights.keys())  # noqa: SIM118 (no mapping)
    kept = {key: value for key, value in config.items() if key not in ("format", "model", "run")}
    SpeakerModel.load(folder).save(folder, config["run"], half=half, **kept)
