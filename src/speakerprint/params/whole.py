"""All of params.yaml, and what must hold between its sections."""

from pathlib import Path
from typing import Any

from pydantic import model_validator

from speakerprint.errors import InputError
from speakerprint.params.audit import Audit
from speakerprint.params.augmentation import Augmentation
from speakerprint.params.corpus import Corpus
from speakerprint.params.evaluation import Evaluation
from speakerprint.params.language import Language
from speakerprint.params.loss import Loss
from speakerprint.params.model import Model
from speakerprint.params.pretrained import Pretrained
from speakerprint.params.resample import Resample
from speakerprint.params.sampling import Sampling
from speakerprint.params.section import PARAMS_PATH, Name, Section, check, read_tree
from speakerprint.params.train import Discriminant, Train


class Params(Section):
    corpora: dict[Name, Corpus]
    pretrained: Pretrained
    language: Language
    resample: Resample
    train_corpora: list[str]
    unlabelled_corpora: list[str]
    noise_corpora: list[str]
    model: Model
    loss: Loss
    sampling: Sampling
    augmentation: Augmentation
    discriminant: Discriminant
    train: Train
    evaluation: Evaluation
    audit: Audit

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for key, listed, role in (
            ("train_corpora", self.train_corpora, "train"),
            ("unlabelled_corpora", self.unlabelled_corpora, "unlabelled"),
            ("noise_corpora", self.noise_corpora, "noise"),
            ("evaluation.corpora", self.evaluation.corpora, "evaluate"),
        ):
            expected = sorted(name for name, corpus in self.corpora.items() if corpus.role == role)
            if sorted(listed) != expected:
                raise ValueError(
                    f"{key} is {sorted(listed)}, but the corpora with role: {role} are {expected}: list exactly those"
                )
        for report, names in self.audit.corpora.items():
            if unknown := sorted(set(names) - set(self.corpora)):
                raise ValueError(f"audit.corpora.{report} lists {unknown[0]!r}, but the corpora are {list(self.corpora)}")
        if not self.train_corpora:
            raise ValueError("no corpus has role: train, so there is nothing to learn from; give one corpus that role")
        if self.loss.ntxent_weight > 0 and self.augmentation.ntxent.views == 0:
            raise ValueError(
                "loss.ntxent_weight is above 0 but augmentation.ntxent.views is 0: ask for a view or set the weight to 0"
            )
        if self.loss.triplet_weight > 0 and self.sampling.utterances < 2:
            raise ValueError(
                "loss.triplet_weight is above 0 but sampling.utterances is 1: a triplet needs two clips of a speaker"
            )
        return self


def parse_params(tree: Any, path: str | Path = PARAMS_PATH) -> Params:
    """Check a parsed YAML tree and freeze it. Raises InputError naming every offending key."""
    if not isinstance(tree, dict):
        raise InputError(f"{path} is empty or not a mapping of sections; start from the repository's params.yaml")
    return check(Params, tree, path)


def load_params(path: str | Path = PARAMS_PATH) -> Params:
    """Read and check all of ``params.yaml``. Raises InputError naming the file and every offending key."""
    return parse_params(read_tree(path), path)
