"""Train on every corpus with `role: train`; a killed run resumes from its last checkpoint.

python -m stages.train
accelerate launch --num_processes 2 -m stages.train
"""

from pathlib import Path

from speakerprint.errors import InputError
from speakerprint.params import load_params
from speakerprint.training import Recipe, train
from stages import run


def main() -> None:
    params = load_params()
    features = Path("data/features/train")
    strangers = sorted({folder.name for folder in features.iterdir()} - set(params.train_corpora))
    if strangers:
        raise InputError(
            f"{features}/{strangers[0]} belongs to no corpus of params.yaml, and everything in {features} is trained on; "
            f"remove it (`rm -r {features}/{strangers[0]}`; DVC's cache keeps a copy) and run `dvc repro` again"
        )
    train(
        {name: features / name for name in params.train_corpora},
        Recipe(params.model, params.loss, params.sampling, params.augmentation, params.discriminant, params.train),
        out="models/speakerprint",
        log="metrics/training",
        checkpoints="models/checkpoint",
    )


if __name__ == "__main__":
    run(main)
