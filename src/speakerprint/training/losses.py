"""What training minimises: batch-hard triplet, NT-Xent, supervised contrastive, additive angular margin, distance to a teacher.

All take unit-length embeddings; all are defined (0, with a gradient of 0) on batches that hold nothing to compare. None asks an
accelerator for a value before it goes on.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pairwise_distance(embeddings: Tensor) -> Tensor:
    """Euclidean distances between unit-length rows, (batch, batch), with a finite gradient where two rows coincide."""
    return (2 - 2 * embeddings @ embeddings.T).clamp(min=1e-8).sqrt()


def batch_hard_triplet(embeddings: Tensor, labels: Tensor, margin: float, groups: Tensor | None = None) -> Tensor:
    """Mean over anchors of max(0, margin + distance to the farthest positive - distance to the nearest negative).

    Hermans, Beyer, Leibe: "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5. An anchor without a
    positive or without a negative in the batch does not count.

    With groups, negatives are of the anchor's own group: the mean of the groups' losses, each counted as often as it has anchors.

    embeddings: (batch, dim) of unit length. labels: (batch,) int64. margin: Euclidean distance. groups: (batch,) codes, equal for
    clips of a speaker. Returns a scalar.
    """
    distance = pairwise_distance(embeddings)
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    farthest_positive = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    negative = ~same if groups is None else ~same & (groups[:, None] == groups[None, :])
    nearest_negative = distance.masked_fill(~negative, torch.inf).amin(dim=1)
    valid = positive.any(dim=1) & negative.any(dim=1)  # others are infinitely far below the margin
    return F.relu(margin + farthest_positive - nearest_negative).sum() / valid.sum().clamp(min=1)


def ntxent(views: Tensor, temperature: float, groups: Tensor | None = None) -> Tensor:
    """Normalised temperature-scaled cross entropy between the views of each clip.

    Each ordered pair of views (a, p) of one clip adds -log(exp(a·p / t) / (exp(a·p / t) + sum over n of exp(a·n / t))), where
    n runs over all views of all other clips; the mean over pairs is returned. With two views this is eq. 1 of Chen et al.:
    "A Simple Framework for Contrastive Learning of Visual Representations", 2020.

    With groups, n runs over the clips of the own group: the mean of the groups' losses, each counted as often as it has clips.

    views: (views, batch, dim) of unit length; the first is usually the clip itself. groups: (batch,) codes. Returns a scalar.
    """
    n_views, batch, _ = views.shape
    if n_views < 2 or batch < 2:
        return views.sum() * 0.0
    similarity = torch.einsum("vbd,wcd->vbwc", views, views) / temperature  # of view v of clip b and view w of clip c
    left_out = torch.eye(batch, dtype=torch.bool, device=views.device)
    if groups is not None:
        left_out = left_out | (groups[:, None] != groups[None, :])
    negatives = similarity.masked_fill(left_out[None, :, None, :], -torch.inf).flatten(2).logsumexp(dim=2)  # (views, batch)
    positives = torch.einsum("vbwb->vwb", similarity)  # (views, views, batch)
    loss = torch.logaddexp(positives, negatives[:, None, :]) - positives
    same_view = torch.eye(n_views, dtype=torch.bool, device=views.device)[:, :, None]
    return loss.masked_fill(same_view, 0.0).sum() / (n_views * (n_views - 1) * batch)


def supervised_contrastive(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over anchors of the mean over their positives of -log softmax of the similarity among all other embeddings.

    Khosla et al.: "Supervised Contrastive Learning", 2020, eq. 2 (the sum over positives is outside the logarithm). An anchor
    without a positive does not count.

    embeddings: (batch, dim) of unit length. labels: (batch,) int64. Returns a scalar.
    """
    if len(labels) < 2:
        return embeddings.sum() * 0.0
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    similarity = (embeddings @ embeddings.T / temperature).masked_fill(itself, -torch.inf)
    surprise = (similarity.logsumexp(dim=1, keepdim=True) - similarity).masked_fill(~positive, 0.0).sum(dim=1)
    count = positive.sum(dim=1)
    return (surprise / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def teacher_similarity(views: Tensor, taught: Tensor) -> Tensor:
    """Mean squared difference between the cosines of all pairs of embeddings and those of what a teacher heard in their clips.

    Park, Kim, Lu, Cho: "Relational Knowledge Distillation", 2019, with the cosine as the relation. To the teacher, views of a
    clip are the clip. Pairs with a clip that it has not heard do not count.

    views: (views, batch, dim) of unit length. taught: (batch, any dim) of unit length, or 0 for a clip that the teacher has not
    heard. Returns a scalar.
    """
    embeddings, taught = views.flatten(0, 1), taught.repeat(len(views), 1)
    heard = taught.any(dim=1)
    counted = heard[:, None] & heard[None, :] & ~torch.eye(len(heard), dtype=torch.bool, device=heard.device)
    difference = embeddings @ embeddings.T - taught @ taught.T
    return (difference.square() * counted).sum() / counted.sum().clamp(min=1)


class TeacherMatch(nn.Module):
    """How far an affine map of the embeddings, learned beside them, is from what a teacher heard in their clips."""

    def __init__(self, dim: int, teacher_dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, teacher_dim)

    def forward(self, views: Tensor, taught: Tensor) -> Tensor:
        """Mean of 1 - cosine; arguments and result as of `teacher_similarity`, but taught is (batch, teacher_dim)."""
        heard = taught.any(dim=1)
        cosine = (F.normalize(self.linear(views), dim=-1) * taught).sum(dim=-1)
        return ((1 - cosine) * heard).sum() / (len(views) * heard.sum()).clamp(min=1)


class AngularMargin(nn.Module):
    """Additive angular margin softmax over the training speakers.

    Deng et al.: "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019, eq. 3: cross entropy over
    ``scale * cos(angle + margin)`` for the speaker's own class and ``scale * cos(angle)`` for all others. Where angle + margin
    would pass pi, the straight line ``cos(angle) - margin * sin(margin)`` continues it downwards.
    """

    def __init__(self, speakers: int, dim: int, scale: float):
        super().__init__()
        self.centres = nn.Parameter(torch.empty(speakers, dim))
        nn.init.xavier_normal_(self.centres)
        self.scale = scale

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
        """embeddings: (batch, dim) of unit length. labels: (batch,) int64. margin: radians. Returns a scalar."""
        cosine = embeddings @ F.normalize(self.centres).T
        own = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-7, 1 - 1e-7)
        angle = own.acos()
        with_margin = torch.where(angle + margin < torch.pi, (angle + margin).cos(), own - margin * math.sin(margin))
        return F.cross_entropy(self.scale * cosine.scatter(1, labels[:, None], with_margin), labels)
