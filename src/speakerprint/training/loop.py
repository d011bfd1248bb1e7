"""The training loop: prepare, start or resume, for each step: learn, judge, log, save; publish.

Every random choice follows from the seed and the number of the step, so a resumed run makes the same choices as one left alone.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list
from dvclive import Live
from ruamel.yaml import YAML
from torch import Tensor
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND, MAX_FRAMES
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.files import whole_file, whole_folder
from speakerprint.model.speaker_model import native_bf16
from speakerprint.params.train import Train
from speakerprint.training.batches import CropBatches, Reader, read_ahead
from speakerprint.training.checkpoint import Checkpoint, Progress, averaged_with_start, copy_of_weights, fingerprint
from speakerprint.training.data import Examples, Noise, Stores, TrainingSet, refuse_too_few_unlabelled, split_recordings
from speakerprint.training.device_batches import beside_the_model
from speakerprint.training.objective import Objective, place
from speakerprint.training.optimiser import make_optimiser, set_rates
from speakerprint.training.recipe import Recipe, without_recorded_noise
from speakerprint.training.split import refuse_too_few_speakers
from speakerprint.training.start import DiscriminantStart, StartBatches, initial_model, start_heads_from_model
from speakerprint.training.streams import Streams
from speakerprint.training.teacher import TEACHER_PATH
from speakerprint.training.validation import one_trial, validate

LOG_EVERY_STEPS = 10


def train(
    stores: Stores, recipe: Recipe, out: str | Path, log: str | Path, checkpoints: str | Path, teacher: str | Path = TEACHER_PATH
) -> None:
    """Train a model on the feature stores of corpora, unlabelled ones among them, with the noise of others mixed in.

    `teacher` is the folder of the teachers' embeddings (see teacher.py), read where one of their losses has a weight.

    Writes the model and the recipe (`params.yaml`) to `out`, the model that training started from to `out`/start, and the curves
    (DVCLive's) to `log` when it is done; until then a checkpoint and the curves so far are in `checkpoints`. Runs under
    `accelerate launch` too: the processes share each batch, and the result is that of one process, but for rounding.

    Raises InputError where the data cannot meet the settings, or the loss is no longer a number.
    """
    refuse_long_crops(recipe.train)
    accelerator = make_accelerator(recipe, bool(stores.unlabelled))
    prepared = prepare(stores, recipe, teacher, accelerator.print)
    trainer = Trainer(accelerator, prepared, Path(checkpoints))
    trainer.start_or_resume()
    with trainer.curves():
        trainer.judge_start()
        for step in trainer.steps():
            row = trainer.learn(step)
            trainer.judge(row)
            trainer.log(row)
            if trainer.is_out_of_patience():
                break
            trainer.save()
    trainer.publish(Path(out), Path(log))


def refuse_long_crops(settings: Train) -> None:
    """Raises InputError for crops that the encoder has no positions for."""
    for key in ("crop_s", "last_crop_s"):
        if (getattr(settings, key) or 0) * FRAMES_PER_SECOND > MAX_FRAMES:
            longest_s = MAX_FRAMES / FRAMES_PER_SECOND
            raise InputError(f"train.{key} is {getattr(settings, key)}, but the encoder takes {longest_s:.0f} s; lower it")


def make_accelerator(recipe: Recipe, unlabelled: bool) -> Accelerator:
    """The device, or the processes, to train on. Raises InputError if these cannot share a batch evenly."""
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a frozen encoder's, or those of a loss without weight
    precision = recipe.train.mixed_precision
    if precision == "auto":
        precision = "bf16" if native_bf16() else "no"
    on_cpu = not torch.accelerator.is_available()  # told, or several processes on CPUs would each train alone
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=[unused])
    _, processes = place()
    for key in ("speakers", "unlabelled") if unlabelled else ("speakers",):
        if (number := getattr(recipe.sampling, key)) % processes:
            raise InputError(
                f"sampling.{key} is {number}, which {processes} processes cannot share evenly; make it a multiple of them, or "
                "start another number of processes"
            )
    return accelerator


@dataclass(frozen=True)
class Prepared:
    """What is learned from and how. reader: of those with a known speaker. unlabelled: the others. validation: indices of the
    recordings to validate on. run: see fingerprint.
    """

    recipe: Recipe
    reader: Reader
    unlabelled: Examples
    validation: np.ndarray
    run: str

    @property
    def data(self) -> TrainingSet:
        return self.reader.examples.data


def prepare(stores: Stores, recipe: Recipe, teacher: str | Path, say: Callable[[str], None]) -> Prepared:
    """Read the feature stores, split their speakers, and refuse what cannot work, with an InputError."""
    settings, speeds, streams = recipe.train, recipe.sampling.speeds, Streams(recipe.train.seed)
    data = TrainingSet(open_stores(stores.train), open_stores(stores.unlabelled))
    refuse_too_few_speakers(data.recordings_per_speaker(), recipe.sampling.speakers, speeds, settings.validation_speakers)
    refuse_too_few_unlabelled(len(data.unlabelled) * len(speeds), recipe.sampling.unlabelled)
    if recipe.loss.teacher_match_weight or recipe.loss.teacher_similarity_weight:
        data.take_teachers(teacher, speeds)
        for name, taught in data.taught.items():
            for speed, embeddings in zip(speeds, taught, strict=True):
                if missing := int((~embeddings.any(axis=1)).sum()):
                    say(f"{name} has no embedding of {missing} of {len(embeddings)} recordings at speed {speed:g}")
    run = fingerprint(recipe, {**stores.train, **stores.unlabelled, **stores.noise}, data.taught)
    noise = Noise(open_stores(stores.noise)) if stores.noise else None
    if noise is None and "recorded_noise" in [*recipe.augmentation.ntxent.kinds, *recipe.augmentation.triplet.kinds]:
        say("no corpus has role: noise, so recorded_noise is not drawn")
        recipe = replace(recipe, augmentation=without_recorded_noise(recipe.augmentation))
    recordings, validation = split_recordings(data, settings, streams)
    say(
        f"training on {len(recordings)} recordings of {len(np.unique(data.speaker_ids[recordings]))} speakers "
        f"at {len(speeds)} speeds, "
        f"validating on {len(validation)} recordings of {len(np.unique(data.speaker_ids[validation]))} others"
        + (f", learning without labels from {len(data.unlabelled)} more" if len(data.unlabelled) else "")
    )
    if settings.steps <= settings.freeze_encoder_steps and settings.encoder_learning_rate > 0:
        say("the encoder stays frozen: train.freeze_encoder_steps is no less than train.steps")
    examples = Examples.at_speeds(data, recordings, speeds)
    return Prepared(recipe, Reader(examples, noise, streams), Examples.unlabelled(data, speeds), validation, run)


def open_stores(folders: Mapping[str, Path]) -> dict[str, FeatureStore]:
    return {name: FeatureStore(folder) for name, folder in folders.items()}


class Trainer:
    """A run of training, step by step; `train` says in which order."""

    def __init__(self, accelerator: Accelerator, prepared: Prepared, checkpoints: Path):
        self.accelerator, self.prepared, self.recipe = accelerator, prepared, prepared.recipe
        self.settings = settings = prepared.recipe.train
        self.window = round(self.recipe.model.window_s * FRAMES_PER_SECOND)  # as recordings are embedded
        torch.manual_seed(prepared.reader.streams.weights())
        self.model = initial_model(self.recipe.model, settings.init_from, settings.new_head)
        teacher_dims = [taught.shape[-1] for taught in prepared.data.taught.values()]
        self.objective = Objective(self.model, prepared.reader.examples.n_speakers, self.recipe, teacher_dims)
        self.objective.to(accelerator.device)  # before the optimiser takes its parameters
        self.reader = beside_the_model(prepared.reader, accelerator.device)
        self.optimiser: Any = make_optimiser(self.objective, settings)
        self.folder, self.checkpoint = checkpoints, Checkpoint(checkpoints, prepared.run)
        self.progress = Progress()
        self.start: dict[str, Tensor] = {}  # the weights that those of training are averaged with
        self.live: Live | None = None
        self.norm = torch.zeros(())

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.accelerator.is_main_process

    def start_or_resume(self) -> None:
        """Bring weights, optimiser and progress to where the run begins, or to where a killed one was."""
        state = broadcast_object_list([self.checkpoint.load() if self.is_main else None])[0]
        if state:
            self.objective.load_state_dict(state["objective"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.progress, self.start = Progress(**state["progress"]), state["start"]
            self.accelerator.print(f"resuming at step {self.progress.step} of {self.settings.steps} from {self.checkpoint.path}")
        else:
            self.find_start()
        self.wrapped, self.optimiser = self.accelerator.prepare(self.objective, self.optimiser)
        self.wrapped.train()

    def find_start(self) -> None:
        """Find the weights that training starts from, and keep them: as a model to publish, and in a checkpoint."""
        settings, reader = self.settings, self.reader
        found = None
        if Path(settings.init_from).is_dir() and not settings.new_head:
            start_heads_from_model(self.objective, reader, self.window)
        elif self.recipe.model.projection == "discriminant":
            batches = StartBatches(replace(reader, streams=reader.streams.of("start")), self.recipe.discriminant)
            found = DiscriminantStart(self.objective, batches, self.folder, self.prepared.run)
            found.find(self.accelerator)
        if settings.start_weight:
            self.start = copy_of_weights(self.model)
        if self.is_main:
            self.model.save(self.folder / "start", self.prepared.run)
            self.save_checkpoint()
        self.accelerator.wait_for_everyone()
        if found:
            found.remove()

    @contextmanager
    def curves(self) -> Iterator[None]:
        """The curves, open to be added to; those of before a resume are in them."""
        if self.is_main:
            self.live = Live(str(self.folder / "curves"), save_dvc_exp=False, dvcyaml=None, report=None)
        with self.live or nullcontext():
            for row in self.progress.history:
                self.add_to_curves(row)
            yield

    def judge_start(self) -> None:
        """Validate the start: it may be the best."""
        if len(self.prepared.validation) and not self.progress.history:
            row = {"step": 0.0}
            self.judge(row, always=True)
            self.log(row)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left, under a progress bar, with the batches of each at hand for `learn`."""
        accumulation, settings = self.settings.gradient_accumulation, self.settings
        numbers = range(self.progress.step * accumulation, settings.steps * accumulation)
        crops = CropBatches(self.reader, self.recipe, self.prepared.unlabelled)
        self.feed = read_ahead(crops, numbers, self.reader.in_memory, self.accelerator.device)
        left, quiet = range(self.progress.step, settings.steps), None if self.is_main else True
        self.bar = tqdm(left, initial=self.progress.step, total=settings.steps, desc="train", disable=quiet)
        return iter(self.bar)

    def learn(self, step: int) -> dict[str, float]:
        """Take an optimiser step; returns a row for the curves, with the losses where it is time to log them."""
        accumulation = self.settings.gradient_accumulation
        set_rates(self.optimiser, self.model.encoder, self.settings, step)
        for left in reversed(range(accumulation)):
            batch = next(self.feed).to(self.accelerator.device)
            with self.accelerator.no_sync(self.wrapped) if left else nullcontext():
                terms = self.wrapped(batch, step)
                self.accelerator.backward(terms["loss"] / accumulation)
            self.progress.recent.append({name: value.detach() for name, value in terms.items()})
        self.norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.gradient_clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.progress.step = step + 1
        due = (step + 1) % LOG_EVERY_STEPS == 0 or step + 1 == self.settings.steps
        return {"step": float(step + 1)} | (self.losses() if due else {})

    def judge(self, row: dict[str, float], always: bool = False) -> None:
        """Validate where it is time to, into the row; keep the weights if they are not worse."""
        validation, step = self.prepared.validation, self.progress.step
        due = step % self.settings.validate_every_steps == 0 or step == self.settings.steps
        if not len(validation) or not (due or always):
            return
        data = self.prepared.data
        with averaged_with_start(self.model, self.start, self.settings.start_weight):
            eer = [validate(self.model, data, validation, self.window)]  # rounding, and normalisation, differ between processes
            row["validation/eer"] = broadcast_object_list(eer)[0]
            self.progress.judge(row["validation/eer"], self.model, one_trial(data.speaker_ids[validation]))

    def log(self, row: dict[str, float]) -> None:
        """Add a row to the curves, if it has more than its step."""
        if len(row) > 1:
            self.progress.history.append(row)
            self.add_to_curves(row)

    def losses(self) -> dict[str, float]:
        """The mean losses since the last time, and how training goes. Raises InputError for a loss that is no number."""
        recent, step = self.progress.recent, self.progress.step
        row = {f"train/{name}": mean_of(recent, name) for name in recent[0]}
        if not math.isfinite(row["train/loss"]):
            raise InputError(
                f"the loss is {row['train/loss']} at step {step}; lower train.head_learning_rate or "
                "train.encoder_learning_rate, or set train.mixed_precision to no"
            )
        row["train/gradient_norm"] = float(self.norm)
        row["learning_rate/encoder"], row["learning_rate/head"] = (group["lr"] for group in self.optimiser.param_groups[-2:])
        self.bar.set_postfix(loss=f"{row['train/loss']:.3f}", best_eer=f"{self.progress.best_eer:.3f}")
        self.progress.recent = []
        return row

    def add_to_curves(self, row: dict[str, float]) -> None:
        """Add a row of numbers to the curves; `step` says where. Only the main process has curves."""
        if self.live is None:
            return
        self.live.step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                self.live.log_metric(name, value)
        self.live.make_summary()

    def is_out_of_patience(self) -> bool:
        """Whether as many validations as are allowed have found nothing better."""
        futile = self.progress.validations_without_gain
        if futile < (self.settings.early_stopping_validations or math.inf):
            return False
        self.accelerator.print(f"stopped at step {self.progress.step}: {futile} validations without a better EER")
        return True

    def save(self) -> None:
        """Save a checkpoint where it is time to."""
        step, settings = self.progress.step, self.settings
        if self.is_main and step % settings.checkpoint_every_steps == 0 and step < settings.steps:
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Save all that a resumed run needs."""
        weights, optimiser = self.objective.state_dict(), self.optimiser.state_dict()
        self.checkpoint.save(objective=weights, optimiser=optimiser, progress=vars(self.progress), start=self.start)

    def save_model(self, folder: Path) -> None:
        """Save the model, and the recipe that made it."""
        self.model.save(folder, self.prepared.run)
        sections = {name: section.model_dump() for name, section in self.recipe.sections().items()}
        with whole_file(folder / "params.yaml") as part, part.open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(sections, file)

    def publish(self, out: Path, log: Path) -> None:
        """Write the weights that are kept, the start and the curves to where they belong, then remove what a killed run needs."""
        if self.is_main:
            kept = self.progress.kept_model
            if kept is None or self.settings.kept_weights == "last":
                with averaged_with_start(self.model, self.start, self.settings.start_weight):
                    kept = copy_of_weights(self.model)
            else:
                self.accelerator.print(self.progress.verdict())
            self.model.load_state_dict(kept)
            shutil.rmtree(out, ignore_errors=True)  # whose files may be links into DVC's cache
            self.save_model(out)
            copy_folder(self.folder / "start", out / "start")
            copy_folder(self.folder / "curves", log)
            self.checkpoint.remove()  # first: a run that resumes needs the other two
            shutil.rmtree(self.folder / "start")
            shutil.rmtree(self.folder / "curves")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def copy_folder(made: Path, folder: Path) -> None:
    """Copy a folder to the place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    with whole_folder(folder) as part:
        shutil.copytree(made, part, dirs_exist_ok=True)


def mean_of(rows: list[dict[str, Tensor]], name: str) -> float:
    """Mean of one loss over the rows."""
    return torch.stack([row[name].cpu() for row in rows]).mean().item()  # those of before a resume are on the CPU
