"""Each loss against a value computed from explicit lists of pairs and triplets."""

import math
from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F

from speakerprint.training.losses import (
    AngularMargin,
    TeacherMatch,
    batch_hard_triplet,
    ntxent,
    supervised_contrastive,
    teacher_similarity,
)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def triplets_by_hand(embeddings, labels, margin):
    terms = []
    for a in range(len(labels)):
        positives = [distance(embeddings[a], embeddings[p]) for p in range(len(labels)) if p != a and labels[p] == labels[a]]
        negatives = [distance(embeddings[a], embeddings[n]) for n in range(len(labels)) if labels[n] != labels[a]]
        if positives and negatives:
            terms.append(max(0.0, margin + max(positives) - min(negatives)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 2], [5, 5, 5, 7, 7, 9]])
@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_triplet_equals_explicit_triplets(labels, margin):
    embeddings = unit(6, 4, seed=len(set(labels)))
    loss = batch_hard_triplet(embeddings, torch.tensor(labels), margin)
    assert loss.item() == pytest.approx(triplets_by_hand(embeddings, labels, margin), abs=1e-6)


def test_triplet_is_zero_once_speakers_are_a_margin_apart():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1]), margin=1.9).item() == 0
    assert batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1]), margin=2.5).item() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0]])
def test_triplet_of_a_batch_without_triplets_is_zero_with_a_gradient(labels):
    embeddings = unit(len(labels), 4).requires_grad_()
    loss = batch_hard_triplet(embeddings, torch.tensor(labels), 1.0)
    loss.backward()
    assert loss.item() == 0 and torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_triplet_gradient_is_finite_where_clips_coincide():
    embeddings = unit(1, 4).repeat(4, 1).requires_grad_()
    batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1]), 1.0).backward()
    assert torch.isfinite(embeddings.grad).all()


def ntxent_by_hand(views, temperature):
    def similarity(a, b):
        return math.exp(sum(x * y for x, y in zip(views[a].tolist(), views[b].tolist(), strict=True)) / temperature)

    n_views, clips = views.shape[:2]
    terms = []
    for clip in range(clips):
        for a, p in permutations(range(n_views), 2):
            positive = similarity((a, clip), (p, clip))
            negatives = sum(similarity((a, clip), (v, c)) for v, c in product(range(n_views), range(clips)) if c != clip)
            terms.append(-math.log(positive / (positive + negatives)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("n_views", [2, 4])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_ntxent_equals_explicit_pairs(n_views, temperature):
    views = unit(n_views, 5, 4, seed=n_views)
    assert ntxent(views, temperature).item() == pytest.approx(ntxent_by_hand(views, temperature), abs=1e-9)


def test_ntxent_of_two_views_is_cross_entropy_over_all_other_embeddings():
    views = unit(2, 6, 4)
    flat = views.flatten(0, 1)
    logits = (flat @ flat.T / 0.5).fill_diagonal_(-torch.inf)
    partner = torch.arange(12).roll(6)
    assert ntxent(views, 0.5).item() == pytest.approx(F.cross_entropy(logits, partner).item(), abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 1, 3)])
def test_ntxent_with_nothing_to_compare_is_zero_with_a_gradient(shape):
    views = unit(*shape).requires_grad_()
    loss = ntxent(views, 0.5)
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(views.grad).all()


def test_angular_margin_equals_hand_computed_softmax():
    head = AngularMargin(speakers=3, dim=4, scale=10.0).double()
    embeddings, labels, margin = unit(5, 4), [0, 1, 2, 0, 1], 0.2
    centres = F.normalize(head.centres.detach())
    terms = []
    for embedding, label in zip(embeddings, labels, strict=True):
        angles = [math.acos(float(embedding @ centre)) for centre in centres]
        logits = [10.0 * math.cos(angle + (margin if k == label else 0.0)) for k, angle in enumerate(angles)]
        terms.append(-math.log(math.exp(logits[label]) / sum(map(math.exp, logits))))
    assert head(embeddings, torch.tensor(labels), margin).item() == pytest.approx(sum(terms) / 5, abs=1e-6)


def test_angular_margin_keeps_pulling_beyond_half_a_turn():
    head = AngularMargin(speakers=2, dim=3, scale=1.0)
    with torch.no_grad():
        head.centres.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))

    def loss(angle):  # between the clip and its own centre; the other centre is a right angle away throughout
        return head(torch.tensor([[math.cos(angle), math.sin(angle), 0.0]]), torch.tensor([0]), 0.5).item()

    assert loss(3.1) > loss(2.6) > loss(2.0)


def test_the_gradient_of_angular_margin_is_finite_at_a_centre_and_opposite_to_one():
    loss = AngularMargin(3, 4, scale=30.0)
    with torch.no_grad():
        loss.centres.copy_(torch.eye(3, 4))
    embeddings = torch.stack([torch.eye(4)[0], -torch.eye(4)[1]]).requires_grad_()
    loss(embeddings, torch.tensor([0, 1]), margin=0.2).backward()
    assert embeddings.grad.isfinite().all() and loss.centres.grad.isfinite().all()


def test_angular_margin_without_margin_is_plain_softmax():
    head = AngularMargin(speakers=3, dim=4, scale=7.0).double()
    embeddings, labels = unit(5, 4), torch.tensor([0, 1, 2, 0, 1])
    expected = F.cross_entropy(7.0 * embeddings @ F.normalize(head.centres).T, labels)
    assert head(embeddings, labels, 0.0).item() == pytest.approx(expected.item(), abs=1e-6)


def supervised_contrastive_by_hand(embeddings, labels, temperature):
    terms = []
    for a in range(len(labels)):
        others = [b for b in range(len(labels)) if b != a]
        total = sum(math.exp(float(embeddings[a] @ embeddings[b]) / temperature) for b in others)
        own = [math.exp(float(embeddings[a] @ embeddings[b]) / temperature) / total for b in others if labels[b] == labels[a]]
        if own:
            terms.append(-sum(map(math.log, own)) / len(own))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 2], [5, 5, 5, 5, 5, 5]])
def test_supervised_contrastive_equals_explicit_pairs(labels):
    embeddings = unit(6, 4, seed=len(set(labels)))
    loss = supervised_contrastive(embeddings, torch.tensor(labels), 0.2)
    assert loss.item() == pytest.approx(supervised_contrastive_by_hand(embeddings, labels, 0.2), abs=1e-6)


def test_supervised_contrastive_of_single_clips_is_zero_with_a_gradient():
    embeddings = unit(4, 3).requires_grad_()
    loss = supervised_contrastive(embeddings, torch.arange(4), 0.1)
    loss.backward()
    assert loss.item() == 0 and not embeddings.grad.any()


def test_supervised_contrastive_of_one_clip_is_zero_with_a_gradient():
    embeddings = unit(1, 4).requires_grad_()
    loss = supervised_contrastive(embeddings, torch.tensor([0]), 0.1)
    loss.backward()
    assert loss.item() == 0 and torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_the_gradient_of_supervised_contrastive_is_finite():
    embeddings = unit(6, 3).requires_grad_()
    supervised_contrastive(embeddings, torch.tensor([0, 0, 1, 1, 2, 3]), 0.05).backward()
    assert embeddings.grad.isfinite().all() and embeddings.grad.any()


def test_similarity_to_a_teacher_equals_explicit_pairs_of_what_it_has_heard():
    views, taught = unit(2, 4, 3, seed=1), unit(4, 5, seed=2)
    taught[1] = 0  # not heard
    terms = []
    for a, b in permutations(product(range(2), range(4)), 2):
        if 1 not in (a[1], b[1]):
            own, theirs = views[a] @ views[b], taught[a[1]] @ taught[b[1]]
            terms.append((own - theirs).item() ** 2)
    assert teacher_similarity(views, taught).item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_the_mean_over_teachers_has_the_gradient_of_the_mean_of_their_similarities():
    views = unit(1, 4, 3, seed=1).requires_grad_()
    teachers = unit(4, 5, seed=2), unit(4, 2, seed=3)
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    target = torch.stack([taught @ taught.T for taught in teachers]).mean(dim=0)
    expected = (views[0] @ views[0].T - target)[off_diagonal].square().mean()
    found = torch.stack([teacher_similarity(views, taught) for taught in teachers]).mean()
    gradients = [torch.autograd.grad(loss, views)[0] for loss in (expected, found)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_match_with_a_teacher_is_the_mean_distance_of_mapped_embeddings_from_what_it_has_heard():
    torch.manual_seed(0)
    match, views, taught = TeacherMatch(3, 5).double(), unit(2, 4, 3, seed=1), unit(4, 5, seed=2)
    taught[2] = 0  # not heard
    cosines = [F.cosine_similarity(match.linear(views[v, c]), taught[c], dim=0).item() for v in range(2) for c in (0, 1, 3)]
    assert match(views, taught).item() == pytest.approx(1 - sum(cosines) / 6, abs=1e-12)


def test_one_view_of_one_clip_matches_a_teacher_whose_embedding_has_a_zero():
    view, taught = unit(1, 1, 3), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    match = TeacherMatch(3, 2).double()
    cosine = F.cosine_similarity(match.linear(view[0, 0]), taught[0], dim=0).item()
    assert match(view, taught).item() == pytest.approx(1 - cosine, abs=1e-12)


def test_a_teacher_that_the_embeddings_agree_with_costs_nothing():
    taught = unit(4, 3)
    match = TeacherMatch(3, 3).double()
    with torch.no_grad():
        match.linear.weight.copy_(2 * torch.eye(3))
        match.linear.bias.zero_()
    assert teacher_similarity(taught.repeat(2, 1, 1), taught).item() == pytest.approx(0, abs=1e-12)
    assert match(taught.repeat(2, 1, 1), taught).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [teacher_similarity, TeacherMatch(3, 5).double()])
def test_a_teacher_that_has_heard_nothing_costs_nothing(loss):
    views = unit(2, 4, 3).requires_grad_()
    value = loss(views, torch.zeros(4, 5, dtype=torch.float64))
    value.backward()
    assert value.item() == 0 and torch.equal(views.grad, torch.zeros_like(views))


GENDERS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


def test_triplets_within_groups_are_the_groups_losses_weighted_by_their_anchors():
    embeddings, labels = unit(10, 3, seed=5), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    of_group = [batch_hard_triplet(embeddings[g == GENDERS], labels[g == GENDERS], 1.0).item() for g in range(3)]
    assert of_group[2] == 0  # one speaker has no negative there, and its clips are no anchors
    assert batch_hard_triplet(embeddings, labels, 1.0, GENDERS).item() == pytest.approx(sum(of_group) / 2, abs=1e-6)
    assert batch_hard_triplet(embeddings, labels, 1.0, GENDERS * 0).item() == batch_hard_triplet(embeddings, labels, 1.0).item()
    assert batch_hard_triplet(embeddings, labels, 1.0, GENDERS).item() < batch_hard_triplet(embeddings, labels, 1.0).item()


def test_ntxent_within_groups_is_the_groups_losses_weighted_by_their_clips():
    views = unit(2, 10, 3, seed=6)
    of_group = [ntxent(views[:, GENDERS.eq(g)], 0.5).item() * GENDERS.eq(g).sum().item() for g in range(3)]
    assert ntxent(views, 0.5, GENDERS).item() == pytest.approx(sum(of_group) / 10, abs=1e-6)
    assert ntxent(views, 0.5, GENDERS * 0).item() == ntxent(views, 0.5).item()


def test_a_clip_alone_in_its_group_has_no_loss_and_a_finite_gradient():
    views, labels, groups = unit(2, 3, 4).requires_grad_(), torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0])
    (ntxent(views, 0.5, groups) + batch_hard_triplet(views[0], labels, 1.0, groups)).backward()
    assert views.grad.isfinite().all() and not views.grad[:, 0].any() and views.grad[:, 1:].any()
