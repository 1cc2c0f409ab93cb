import math

import pytest
import torch
import torch.nn.functional as F

from ppcl import geometry, losses
from ppcl.models.backbone import Backbone
from ppcl.recipes import BackboneStage, GLRecStage


def some_boxes(count, draw):
    size = 0.2 + 0.6 * torch.rand(count, 2, generator=draw)
    return torch.cat([torch.rand(count, 2, generator=draw) * (1 - size) + size / 2, size], 1)


def corner_gap(a, b):
    """‖corners(a) − corners(b)‖ of two boxes given as lists."""
    ends = [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] for cx, cy, w, h in (a, b)]
    return sum(abs(p - q) for p, q in zip(*ends, strict=True)) / 4


def test_placement_is_the_naive_loop(draw):
    how = GLRecStage()
    box, target = some_boxes(5, draw), some_boxes(5, draw)
    gate, partial = torch.randn(5, generator=draw), torch.tensor([True, False, True, True, False])
    box_loss = gate_loss = 0.0
    for b, t, logit, cut in zip(box.tolist(), target.tolist(), gate.tolist(), partial.tolist(), strict=True):
        box_loss += 4 * corner_gap(b, t) * (1 if cut else 0.2) / 5
        probability = 1 / (1 + math.exp(-logit))
        gate_loss += -0.5 * math.log(probability if cut else 1 - probability) / 5
    terms, measures = losses.placement(box, gate, target, partial, how)
    assert [v.item() for v in terms.values()] == pytest.approx([box_loss, gate_loss], rel=1e-5)
    assert measures["iou"].item() == pytest.approx(geometry.iou(box, target)[partial].mean().item())
    assert measures["gate_accuracy"] == ((gate > 0) == partial).float().mean()


def test_identity_is_the_naive_loop(draw):
    logits = torch.randn(4, 6, generator=draw)
    labels = torch.tensor([0, 5, 2, 2])
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = math.log(sum(math.exp(v) for v in row))
        for index, value in enumerate(row):
            wanted = 0.1 / 6 + (0.9 if index == label else 0)
            expected += wanted * (total - value) / 4
    found = losses.identity(logits, labels, BackboneStage(label_smoothing=0.1))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("margin", [0.05, 0.3, 1.0])
def test_batch_hard_is_the_naive_loop(draw, margin):
    """Hardest positive and negative of each anchor on unit features; the mean is over anchors with a loss above 0."""
    embedding = 3 * torch.randn(12, 8, generator=draw)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    embedding += 12 * torch.eye(8)[labels]  # so that some anchors are satisfied
    unit = (embedding / embedding.norm(dim=1, keepdim=True)).tolist()
    hinges = []
    for i in range(12):
        positive = max(math.dist(unit[i], unit[j]) for j in range(12) if j != i and labels[j] == labels[i])
        negative = min(math.dist(unit[i], unit[j]) for j in range(12) if labels[j] != labels[i])
        hinges.append(max(0.0, positive - negative + margin))
    active = [value for value in hinges if value > 0]
    found = losses.batch_hard(embedding, labels, margin).item()
    assert found == pytest.approx(sum(active) / len(active), rel=1e-4)
    assert margin > 0.3 or len(active) < 12


def test_batch_hard_is_zero_where_identities_lie_far_apart():
    labels = torch.tensor([0, 0, 1, 1])
    assert losses.batch_hard(torch.eye(4)[labels], labels, 0.3).item() == 0


def listed_triplets(embedding, labels, margin):
    """Batch-hard as published code writes it: mine the triplets, index the distances, average the losses above 0."""
    unit = F.normalize(embedding, dim=1)
    distance, triplets = torch.cdist(unit, unit), []
    for anchor, label in enumerate(labels.tolist()):
        positives = [i for i, other in enumerate(labels.tolist()) if other == label and i != anchor]
        negatives = [i for i, other in enumerate(labels.tolist()) if other != label]
        if positives and negatives:
            far = max(positives, key=lambda i: distance[anchor, i].item())
            near = min(negatives, key=lambda i: distance[anchor, i].item())
            triplets.append((anchor, far, near))
    losses = [F.relu(distance[a, p] - distance[a, n] + margin) for a, p, n in triplets]
    above = [loss for loss in losses if loss > 0]
    return torch.stack(above).mean() if above else (embedding * 0).sum()


@pytest.mark.parametrize(
    "labels", [[0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5, 6, 7], [0] * 8, [0, 0, 0, 0, 0, 0, 0, 1]]
)
def test_batch_hard_has_the_gradients_of_mined_triplets(draw, labels):
    embedding, labels = torch.randn(8, 6, generator=draw), torch.tensor(labels)
    forms = (lambda x: losses.batch_hard(x, labels, 0.3)), (lambda x: listed_triplets(x, labels, 0.3))
    torch.testing.assert_close(*(with_gradients(form, embedding) for form in forms), rtol=1e-5, atol=1e-5)


def with_gradients(form, value, *more):
    """(loss, its gradients at the value and at other leaves)"""
    value = value.clone().requires_grad_()
    loss = form(value)
    return loss.detach(), *torch.autograd.grad(loss, [value, *more])


def test_margin_softmax_has_the_gradients_of_the_masked_form(draw):
    """pytorch-metric-learning's form: a mask puts (cos - m) in the place of the true class's cosine, then the scale."""
    stage = BackboneStage(architecture="small", weights="none", softmax="cosface")
    classifier = Backbone(stage, 5).classifier
    embedding, labels = torch.randn(6, 128, generator=draw), torch.tensor([0, 1, 2, 3, 4, 0])

    def masked(x):
        cosine = F.normalize(x, dim=1) @ F.normalize(classifier.W.T, dim=1).T
        return F.cross_entropy(64 * (cosine + F.one_hot(labels, 5) * ((cosine - 0.35) - cosine)), labels)

    forms = masked, lambda x: losses.identity(classifier(x), labels, stage)
    torch.testing.assert_close(*(with_gradients(form, embedding, classifier.W) for form in forms), rtol=1e-5, atol=1e-5)


def test_cycle_is_the_naive_loop(draw):
    back, start = some_boxes(6, draw), some_boxes(6, draw)
    expected = sum(corner_gap(b, s) for b, s in zip(back.tolist(), start.tolist(), strict=True)) / 6
    assert losses.cycle(back, start).item() == pytest.approx(expected, rel=1e-5)
    assert losses.cycle(start, start).item() == 0


def test_located_is_the_mean_over_the_known(draw):
    box, truth = some_boxes(4, draw), some_boxes(4, draw)
    known = torch.tensor([True, False, True, False])
    expected = (corner_gap(box[0].tolist(), truth[0].tolist()) + corner_gap(box[2].tolist(), truth[2].tolist())) / 2
    assert losses.located(box, truth, known).item() == pytest.approx(expected, rel=1e-5)


def test_located_is_zero_with_zero_gradient_where_nothing_is_known(draw):
    box = some_boxes(4, draw).requires_grad_()
    loss = losses.located(box, some_boxes(4, draw), torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert (box.grad == 0).all()


def test_region_triplet_is_the_naive_loop(draw):
    positive, negatives = torch.rand(5, generator=draw), torch.rand(5, 3, generator=draw)
    valid = torch.rand(5, 3, generator=draw) < 0.6
    expected = 0.0
    for d, others, counts in zip(positive.tolist(), negatives.tolist(), valid.tolist(), strict=True):
        hinges = (max(0.0, 0.3 + d - n) for n, ok in zip(others, counts, strict=True) if ok)
        expected += 2 / 3 * sum(hinges) / 5
    assert not valid.all()
    assert losses.region_triplet(positive, negatives, valid, 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_true_region_by_hand():
    """p covers the left half of where the crop was placed; the crop is the picture's right half, seen in the same view:
    so p shows the third quarter of the picture's width."""
    placed = torch.tensor([[0.25, 0.5, 0.5, 1.0]])
    region = torch.tensor([[0.125, 0.5, 0.25, 1.0]])
    crop = torch.tensor([[0.75, 0.5, 0.5, 1.0]])
    whole = geometry.whole(1)
    truth, known = losses.true_region(region, placed, crop, whole, whole)
    torch.testing.assert_close(truth, torch.tensor([[0.625, 0.5, 0.25, 1.0]]))
    assert known.tolist() == [True]


def test_true_region_follows_points_through_the_views(draw):
    """Each corner, carried by hand from a's canvas to its crop, view, picture and into view b."""
    placed, region, crop = some_boxes(20, draw), some_boxes(20, draw), some_boxes(20, draw)
    view_a = torch.tensor([[0.52, 0.47, 0.9, 0.9]]).expand(20, 4)
    view_b = torch.tensor([[0.45, 0.55, 1.2, 1.2]]).expand(20, 4)

    def into(box, point):
        return (point - (box[:, :2] - box[:, 2:] / 2)) / box[:, 2:]

    def out_of(box, point):
        return box[:, :2] - box[:, 2:] / 2 + point * box[:, 2:]

    ends = []
    for sign in (-0.5, 0.5):
        point = region[:, :2] + sign * region[:, 2:]
        ends.append(into(view_b, out_of(view_a, out_of(crop, into(placed, point)))))
    low, high = ends
    expected = torch.cat([low, high], 1).clamp(0, 1)
    truth, known = losses.true_region(region, placed, crop, view_a, view_b)
    torch.testing.assert_close(geometry.corners(truth), expected, atol=1e-5, rtol=1e-5)
    kept = (expected[:, 2:] - expected[:, :2]).prod(1) / (high - low).prod(1)
    assert known.tolist() == (kept >= 0.5).tolist()
    assert 0 < known.sum() < 20


def test_true_region_is_unknown_where_under_half_remains():
    whole = geometry.whole(2)
    view_b = torch.tensor([[1.02, 0.5, 1.0, 1.0], [0.98, 0.5, 1.0, 1.0]])  # shows 48 % and 52 % of the picture
    truth, known = losses.true_region(whole, whole, whole, whole, view_b)
    assert known.tolist() == [False, True]
    torch.testing.assert_close(truth, torch.tensor([[0.24, 0.5, 0.48, 1], [0.26, 0.5, 0.52, 1]]))


def test_elsewhere_is_as_large_inside_and_apart(draw):
    region = some_boxes(500, draw)
    away, found = losses.negative_boxes(region, draw)
    corners = geometry.corners(away)
    assert torch.equal(away[:, 2:], region[:, 2:])
    assert corners.min() >= -1e-6 and corners.max() <= 1 + 1e-6
    assert (geometry.iou(away, region)[found] < 0.4).all()
    assert (geometry.iou(away, region)[~found] >= 0.4).all()
    assert found[geometry.area(region) < 0.1].all()
    assert 0 < found.float().mean() < 1


def test_elsewhere_is_not_found_for_the_whole_canvas(draw):
    large = torch.tensor([[0.5, 0.5, 1, 1], [0.5, 0.5, 1.2, 1.2], [0.5, 0.5, 0.95, 0.95]])
    assert not losses.negative_boxes(large, draw)[1].any()


def test_region_contrast_is_the_naive_loop(draw):
    distance, right = torch.rand(4, 6, generator=draw), [0, 4, 5, 2]
    person, asked = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 2, 2])
    others = asked[:, None] != person[None]
    expected = 0.0
    for i, own in enumerate(right):
        rivals = [math.exp(-float(distance[i, j]) / 0.1) for j in range(6) if person[j] != asked[i]]
        mine = math.exp(-float(distance[i, own]) / 0.1)
        expected -= math.log(mine / (mine + sum(rivals))) / 4
    assert losses.region_contrast(distance, torch.tensor(right), others, 0.1) == pytest.approx(expected, rel=1e-5)


def test_region_contrast_ignores_the_same_person_in_another_picture():
    distance = torch.full((2, 2), 0.5)
    distance[0, 1] = 0.0  # nearer than the own pair, but the same person
    nobody = torch.zeros(2, 2, dtype=torch.bool)
    assert losses.region_contrast(distance, torch.arange(2), nobody, 0.1) == 0
