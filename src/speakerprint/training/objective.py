"""The model and the weighted sum of its losses on a batch, shared by the processes that train together."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from accelerate.utils import gather
from torch import Tensor, nn

from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.batches import Batch
from speakerprint.training.losses import (
    AngularMargin,
    TeacherMatch,
    batch_hard_triplet,
    ntxent,
    supervised_contrastive,
    teacher_similarity,
)
from speakerprint.training.recipe import Recipe


def place() -> tuple[int, int]:
    """Which of the processes that train together this one is, from 0, and how many they are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gathered(own: Tensor) -> Tensor:
    """The embeddings of all processes, (views, batch, dim), of this one's, (views, batch / processes, dim).

    Each process has the whole batch's losses, so the gradient of its own embeddings is known to it alone. It is multiplied by the
    number of processes, because DistributedDataParallel gives the parameters the mean over processes where the sum is meant.
    """
    rank, processes = place()
    if processes == 1:
        return own
    parts = list(gather(own.detach()[None].contiguous()))
    parts[rank] = parts[rank] + processes * (own - own.detach())
    return torch.cat(parts, dim=1)


class Objective(nn.Module):
    """The model and the weighted sum of its losses on a batch.

    Under `accelerate launch` each process embeds its share of the batch's speakers, and all have the losses of the whole batch.
    """

    def __init__(self, model: SpeakerModel, speakers: int, recipe: Recipe, teacher_dims: Sequence[int] = ()):
        super().__init__()
        self.model, self.recipe = model, recipe
        dim, loss = recipe.model.embedding_dim, recipe.loss
        self.angular_margin = AngularMargin(speakers, dim, loss.angular_margin_scale)
        matches = (TeacherMatch(dim, teacher_dim) for teacher_dim in teacher_dims if loss.teacher_match_weight)
        self.teacher_matches = nn.ModuleList(matches)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The losses of a batch, each a scalar: `loss` is the weighted sum, the others have a weight above 0."""
        return self.losses(self.embed(batch), batch, step)

    def losses(self, embeddings: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """The same of the batch's embeddings, (1 + views, batch, dim)."""
        loss = self.recipe.loss
        with torch.autocast(embeddings.device.type, enabled=False):  # 8 bits are too few for distances of near neighbours
            terms = (
                self.of_clips(embeddings, batch) | self.of_speakers(embeddings, batch, step) | self.of_teachers(embeddings, batch)
            )
            total = torch.stack([getattr(loss, f"{name}_weight") * value for name, value in terms.items()]).sum()
        return {"loss": total, **terms}

    def embed(self, batch: Batch) -> Tensor:
        """The embeddings of the clips and of their views, (1 + views, batch, dim), of all processes."""
        loss, augmentation = self.recipe.loss, self.recipe.augmentation
        views = batch.views(augmentation, augmentation.ntxent.views if loss.ntxent_weight else 0)
        rank, processes = place()
        share = len(batch) // processes
        own = slice(rank * share, (rank + 1) * share)
        lengths = batch.n_frames[own].repeat(len(views)) if batch.padded else None
        return gathered(self.model(torch.cat([view[own] for view in views]), lengths).unflatten(0, (len(views), -1)))

    def of_clips(self, embeddings: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The published recipe's losses that have a weight: triplet of the clips, NT-Xent of clips and views."""
        loss, terms = self.recipe.loss, {}
        groups = batch.genders if loss.gendered else None
        if loss.triplet_weight:
            known = slice(batch.n_labelled)
            labels, of_known = batch.labels[known], None if groups is None else groups[known]
            terms["triplet"] = batch_hard_triplet(embeddings[0, known], labels, loss.triplet_margin, of_known)
        if loss.ntxent_weight:
            terms["ntxent"] = ntxent(embeddings, loss.ntxent_temperature, groups)
        return terms

    def of_speakers(self, embeddings: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """The other losses of known speakers that have a weight; to them a view is a clip of its speaker."""
        loss, terms, known = self.recipe.loss, {}, slice(batch.n_labelled)
        every, labels = embeddings[:, known].flatten(0, 1), batch.labels[known].repeat(len(embeddings))
        if loss.supervised_contrastive_weight:
            terms["supervised_contrastive"] = supervised_contrastive(every, labels, loss.supervised_contrastive_temperature)
        if loss.angular_margin_weight:
            margin = loss.angular_margin * min(1.0, step / max(1, loss.angular_margin_warmup_steps))
            terms["angular_margin"] = self.angular_margin(every, labels, margin)
        return terms

    def of_teachers(self, embeddings: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The teachers' losses that have a weight, each the mean over teachers.

        The mean of squared differences to several similarities has the gradient of that to their mean.
        """
        loss, taught, terms = self.recipe.loss, batch.taught, {}
        if loss.teacher_match_weight:
            of_each = [match(embeddings, own) for match, own in zip(self.teacher_matches, taught, strict=True)]
            terms["teacher_match"] = torch.stack(of_each).mean()
        if loss.teacher_similarity_weight:
            terms["teacher_similarity"] = torch.stack([teacher_similarity(embeddings, own) for own in taught]).mean()
        return terms
