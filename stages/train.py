"""Train on every corpus with `role: train` or `role: unlabelled`; a killed run resumes from its last checkpoint.

python -m stages.train
accelerate launch --num_processes 2 -m stages.train
"""

from pathlib import Path

from speakerprint.errors import InputError
from speakerprint.params.augmentation import Augmentation
from speakerprint.params.loss import Loss
from speakerprint.params.model import Model
from speakerprint.params.sampling import Sampling
from speakerprint.params.section import read_section
from speakerprint.params.train import Discriminant, Train
from speakerprint.training.data import Stores
from speakerprint.training.loop import train
from speakerprint.training.recipe import Recipe
from stages import run


def main() -> None:
    train(*given(), out="models/speakerprint", log="metrics/training", checkpoints="models/checkpoint")


def given() -> tuple[Stores, Recipe]:
    """What is learned from, and how, as params.yaml says."""
    return (
        Stores(
            stores("train", read_section(list[str], "train_corpora")),
            stores("unlabelled", read_section(list[str], "unlabelled_corpora")),
            stores("noise", read_section(list[str], "noise_corpora")),
        ),
        Recipe(
            read_section(Model, "model"),
            read_section(Loss, "loss"),
            read_section(Sampling, "sampling"),
            read_section(Augmentation, "augmentation"),
            read_section(Discriminant, "discriminant"),
            read_section(Train, "train"),
        ),
    )


def stores(role: str, corpora: list[str]) -> dict[str, Path]:
    """Where the features of each corpus of a role are. Raises InputError if another corpus has some there."""
    folder = Path("data/features", role)
    strangers = sorted({path.name for path in folder.glob("*/")} - set(corpora))
    if strangers:
        raise InputError(
            f"{folder}/{strangers[0]} belongs to no corpus of params.yaml, and everything in {folder} is trained with; "
            f"remove it (`rm -r {folder}/{strangers[0]}`; DVC's cache keeps a copy) and run `dvc repro` again"
        )
    return {name: folder / name for name in corpora}


if __name__ == "__main__":
    run(main)
