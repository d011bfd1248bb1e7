"""Where training starts: Whisper's encoder or a trained model, a projection in closed form, centres at the speakers' means."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.errors import InputError
from speakerprint.files import explain_full_disk, whole_file
from speakerprint.model.speaker_model import DiscriminantProjection, SpeakerModel
from speakerprint.model.whisper import ENCODER_PATH, load_encoder
from speakerprint.params.model import Model
from speakerprint.params.train import Discriminant
from speakerprint.training.batches import Batch, Reader, read_ahead
from speakerprint.training.discriminant import Scatter
from speakerprint.training.losses import TeacherMatch
from speakerprint.training.objective import Objective, place
from speakerprint.training.validation import EMBEDDED_AT_ONCE, embed_crops

GROUP_SPEAKERS = 32  # whose sums are kept at once, and among whom the speech in a view's background is found
SAVE_EVERY_S = 60.0


def initial_model(settings: Model, init_from: str | Path, new_head: bool = False) -> SpeakerModel:
    """A new model on Whisper's encoder (a file), or a trained one (a folder) to go on from, or to take the encoder of.

    new_head: of a trained model take the encoder alone. Raises InputError if there is no such model, if one whose head is kept is
    not of the kind that the settings describe, and if further layers are wanted and Whisper's encoder is not there.
    """
    if not Path(init_from).is_dir():
        model = SpeakerModel(settings)
        model.encoder.load_state_dict(load_encoder(init_from, settings.layers).state_dict())
        return model
    model = SpeakerModel.load(init_from)
    if new_head:
        return with_new_head(settings, model)
    ours, theirs = settings.model_dump(), model.settings.model_dump()
    differ = [
        f"model.{key} is {ours[key]}, but there {theirs[key]}" for key in ours if key != "window_s" and ours[key] != theirs[key]
    ]
    if differ:
        raise InputError(
            f"train.init_from is {init_from}, a model of another kind: {'; '.join(differ)}; make them equal, or set "
            "train.new_head to true, to take only its encoder"
        )
    model.settings = settings
    return model


def with_new_head(settings: Model, trained: SpeakerModel) -> SpeakerModel:
    """A new model on the encoder of a trained one, whose layers stand in place of Whisper's lowest; Whisper's others follow.

    Raises InputError if there are others and Whisper's encoder is not there.
    """
    model = SpeakerModel(settings)
    if settings.layers > trained.settings.layers:
        model.encoder.load_state_dict(load_encoder(ENCODER_PATH, settings.layers).state_dict())
    kept = trained.encoder.state_dict()
    model.encoder.load_state_dict({name: kept.get(name, weight) for name, weight in model.encoder.state_dict().items()})
    return model


class StartBatches(Dataset):
    """What the start is found from: a central crop of each recording, then augmented crops of it, placed at random.

    Speakers come in random order, in groups; all crops of a group come before those of the next. Of a speaker at another speed
    one recording is taken: enough to know where the centre is.

    order (speakers,): the labels as they come. rank (speakers,): where in `order` each label is. groups: of each batch. views:
    whether each batch is to be augmented. chosen: the examples of each batch.
    """

    def __init__(self, reader: Reader, settings: Discriminant):
        self.reader, self.n_frames = reader, round(settings.crop_s * FRAMES_PER_SECOND)
        examples = reader.examples
        self.order = reader.streams.order(0).permutation(examples.n_speakers)
        self.rank = self.order.argsort()
        _, first_of_speaker = np.unique(examples.labels, return_index=True)
        taken = np.union1d(np.flatnonzero(examples.speeds == 1), first_of_speaker)
        group_of = self.rank[examples.labels[taken]] // GROUP_SPEAKERS
        taken = taken[np.argsort(group_of, kind="stable")]
        self.groups: list[int] = []
        self.views: list[bool] = []
        self.chosen: list[np.ndarray] = []
        for group, members in enumerate(np.split(taken, np.cumsum(np.bincount(group_of))[:-1])):
            shuffled = reader.streams.order(1 + group).permutation(members)
            parts = np.split(shuffled, range(EMBEDDED_AT_ONCE, len(shuffled), EMBEDDED_AT_ONCE))
            for view in range(1 + settings.views):
                self.groups += [group] * len(parts)
                self.views += [view > 0] * len(parts)
                self.chosen += parts

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> Batch:
        chosen = self.chosen[number]
        placed = self.views[number]
        positions = self.reader.streams.crops(number).random(len(chosen)) if placed else np.full(len(chosen), 0.5)
        return self.reader.read(chosen, self.n_frames, positions, number)


class DiscriminantStart:
    """The projection as linear discriminant analysis of the pooled statistics, and the speakers' centres as their means.

    The statistics are accumulated and never kept: memory does not grow with recordings or speakers; each speaker's mean goes to a
    file in `folder`, 4 bytes for each statistic. The processes that train together share the groups of speakers. Every minute
    what has been accumulated is saved in `folder`, and a killed start goes on from there to the same numbers. `run` tells it
    from that of another run.
    """

    def __init__(self, objective: Objective, batches: StartBatches, folder: str | Path, run: str):
        self.objective, self.model, self.recipe = objective, objective.model, objective.recipe
        self.batches, self.run = batches, run
        self.process, self.processes = place()
        self.numbers = [n for n, group in enumerate(batches.groups) if group % self.processes == self.process]
        device = self.model.device
        self.where = device if device.type != "mps" else torch.device("cpu")  # where there is float64
        self.width = self.model.pooling.out_width
        self.scatter = Scatter(self.width, self.where)
        self.sums = torch.zeros(GROUP_SPEAKERS, self.width, dtype=torch.float64, device=self.where)
        self.counts = torch.zeros(GROUP_SPEAKERS, dtype=torch.float64, device=self.where)
        self.done = 0  # of the numbers
        self.state_path, self.means_path = (Path(folder) / f"start-{self.process}.{kind}" for kind in ("pt", "means"))

    def find(self, accelerator: Accelerator) -> None:
        """Set the objective's projection and centres. Raises InputError if no speaker has two recordings."""
        self.model.eval()
        self.resume()
        with torch.inference_mode():
            with accelerator.autocast():
                self.accumulate(accelerator.device)
            self.save()
            self.share()
            self.set_projection()
            self.set_centres()
        self.model.train()

    def accumulate(self, device: torch.device) -> None:
        """Pool what is not yet done, batch by batch."""
        left = self.numbers[self.done :]
        saved = time.monotonic()
        sizes = [len(self.batches.chosen[number]) for number in self.numbers]
        quiet = None if self.process == 0 else True
        bar = tqdm(total=sum(sizes), initial=sum(sizes[: self.done]), desc="discriminant analysis", unit="clip", disable=quiet)
        feed = read_ahead(self.batches, left, self.batches.reader.in_memory, device)
        for number, batch in zip(left, feed, strict=True):
            self.add(number, batch.to(device))
            self.done += 1
            bar.update(len(batch))
            if time.monotonic() - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        bar.close()

    def add(self, number: int, batch: Batch) -> None:
        """Count a batch in, and its group's speakers if it is the group's last."""
        group = self.batches.groups[number]
        features = batch.views(self.recipe.augmentation, 1)[1] if self.batches.views[number] else batch.features
        pooled = self.model.pool(*self.model.encode(features, batch.n_frames if batch.padded else None))
        rows = pooled.to(self.where, torch.float64)
        place_in_group = torch.from_numpy(self.batches.rank)[batch.labels.cpu()].to(self.where) - group * GROUP_SPEAKERS
        self.scatter.add(rows)
        self.sums.index_add_(0, place_in_group, rows)
        self.counts += place_in_group.bincount(minlength=GROUP_SPEAKERS)
        if self.batches.groups[number + 1 : number + 2] != [group]:
            self.close_group(group)

    def close_group(self, group: int) -> None:
        """Count a group's speakers in, and write their means to the file."""
        n = int((self.counts > 0).sum())
        self.scatter.add_speakers(self.sums[:n], self.counts[:n])
        means = (self.sums[:n] / self.counts[:n, None]).float().cpu().numpy()
        self.means_path.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+b" if self.means_path.exists() else "w+b"
        with explain_full_disk(self.means_path), self.means_path.open(mode) as file:
            file.seek(group * GROUP_SPEAKERS * self.width * means.itemsize)
            file.write(means.tobytes())
        self.sums.zero_()
        self.counts.zero_()

    def share(self) -> None:
        """Add up what the processes have accumulated."""
        if self.processes == 1:
            return
        scatter = self.scatter
        counts = torch.tensor([scatter.rows, scatter.speakers], device=self.where)
        for part in (counts, scatter.sum, scatter.moments, scatter.between):
            dist.all_reduce(part)
        scatter.rows, scatter.speakers = counts.tolist()

    def set_projection(self) -> None:
        """Start the projection from the discriminant analysis, which the first process does for all."""
        projection = self.model.projection
        assert isinstance(projection, DiscriminantProjection)
        if self.process == 0:
            projection.start(*self.scatter.discriminant(self.recipe.model.embedding_dim, self.recipe.discriminant.shrinkage))
        if self.processes > 1:
            for part in (*projection.parameters(), *projection.buffers()):
                dist.broadcast(part, src=0)

    def set_centres(self) -> None:
        """Start each speaker's centre at the embedding of the mean of the speaker's statistics."""
        sums = torch.zeros_like(self.objective.angular_margin.centres)
        order = torch.from_numpy(self.batches.order).to(sums.device)
        for group in sorted({self.batches.groups[number] for number in self.numbers}):
            place_of = slice(group * GROUP_SPEAKERS, min((group + 1) * GROUP_SPEAKERS, len(order)))
            n = place_of.stop - place_of.start
            means = np.fromfile(self.means_path, np.float32, n * self.width, offset=4 * place_of.start * self.width)
            sums[order[place_of]] = self.model.project(torch.from_numpy(means.reshape(n, -1)).to(sums.device))
        set_centres(self.objective, sums)

    def save(self) -> None:
        """Keep what has been accumulated."""
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"sums": self.sums, "counts": self.counts, "done": self.done, "scatter": self.scatter.state()}
        with whole_file(self.state_path) as part:
            torch.save({"run": self.run, "processes": self.processes, **kept}, part)

    def resume(self) -> None:
        """Take what an earlier process of the same run and number of processes has kept, if there is such."""
        try:
            state: dict[str, Any] = torch.load(self.state_path, map_location="cpu", weights_only=True)
        except Exception:  # no file, or one cut short: torch raises many kinds
            return
        means_are_there = self.means_path.exists() or not state["scatter"]["speakers"]
        if (state["run"], state["processes"]) != (self.run, self.processes) or not means_are_there:
            return
        self.sums, self.counts = (state[name].to(self.where) for name in ("sums", "counts"))
        self.done = state["done"]
        self.scatter.restore(state["scatter"])

    def remove(self) -> None:
        """Remove the files."""
        self.state_path.unlink(missing_ok=True)
        self.means_path.unlink(missing_ok=True)


def start_heads_from_model(objective: Objective, reader: Reader, n_frames: int) -> None:
    """Start what the losses learn beside a trained model, from its embeddings of a central crop of each example.

    Each speaker's centre is the mean of the speaker's; each teacher's map predicts what the teacher heard, by least squares.
    """
    examples, (rank, processes) = reader.examples, place()
    sums = torch.zeros_like(objective.angular_margin.centres)
    fits = [LeastSquares(match) for match in objective.teacher_matches if isinstance(match, TeacherMatch)]
    own = np.arange(rank, len(examples), processes)
    for block in np.split(own, range(16 * EMBEDDED_AT_ONCE, len(own), 16 * EMBEDDED_AT_ONCE)):
        crops = (examples.crop(index, n_frames, 0.5) for index in block)
        rows = torch.from_numpy(embed_crops(objective.model, crops)).to(sums.device)
        sums.index_add_(0, torch.from_numpy(examples.labels[block]).to(sums.device), rows)
        for fit, taught in zip(fits, examples.taught if fits else (), strict=True):
            fit.add(rows, torch.from_numpy(taught[block]).to(sums.device))
    set_centres(objective, sums)
    for fit in fits:
        fit.set_map()


class LeastSquares:
    """The affine map of embeddings that predicts a teacher's best, by the sums of their products over all processes."""

    RIDGE = 1.0  # as if each number of an embedding had been seen once more, with nothing to predict

    def __init__(self, match: TeacherMatch):
        self.linear = match.linear
        teacher_dim, dim = self.linear.weight.shape
        self.moments = self.linear.weight.new_zeros(dim + 1, dim + 1)
        self.products = self.linear.weight.new_zeros(dim + 1, teacher_dim)

    def add(self, rows: Tensor, taught: Tensor) -> None:
        """Count embeddings (n, dim) in, and what the teacher heard in their clips, (n, teacher_dim), 0 where it has not."""
        heard = taught.any(dim=1, keepdim=True)
        with_one = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1) * heard
        self.moments += with_one.T @ with_one
        self.products += with_one.T @ taught

    @torch.no_grad()
    def set_map(self) -> None:
        """Give the map its weights."""
        if place()[1] > 1:
            dist.all_reduce(self.moments)
            dist.all_reduce(self.products)
        self.moments.diagonal().add_(self.RIDGE)
        weights = torch.linalg.solve(self.moments, self.products)
        self.linear.weight.copy_(weights[:-1].T)
        self.linear.bias.copy_(weights[-1])


@torch.no_grad()
def set_centres(objective: Objective, sums: Tensor) -> None:
    """Start the angular margin's centres, (speakers, dim), at the direction of these sums over all processes."""
    if place()[1] > 1:
        dist.all_reduce(sums)
    objective.angular_margin.centres.copy_(torch.nn.functional.normalize(sums))
