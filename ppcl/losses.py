"""The losses: placement and gate, identity, triplet, PP-Cycle, geometry, PP-Triplet.

The supplement does not give their form; they are reconstructed in METHOD.md §1 and §4, the contrast term is ours. Each
loss is a mean, so the size of the batch does not change its scale: over samples, for `batch_hard` over the anchors with
a loss above 0, for `located` over the samples with a known region. A stage minimises the sum of weighted terms, kept by
name. Boxes are (cx, cy, w, h) in fractions of the canvas; a batch of the joint stage has P identities, 4P pictures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry
from .data import partial_views
from .data.stage_batches import JointBatch
from .models.crloc import describe_stripes, stripe_weights, stripes
from .models.peers import canvas_stripes, stripe_distances
from .models.ppcl import PPCL
from .recipes import BackboneStage, GLRecStage

Terms = dict[str, Tensor]


def placement(box: Tensor, gate: Tensor, target: Tensor, partial: Tensor, recipe: GLRecStage) -> tuple[Terms, Terms]:
    """Weighted terms of GLRec; measures: mean IoU of the partial views, and the gate's accuracy, 0 to 1.

    Predicted box and true box `target` `(B, 4)`; gate logits `(B,)`, positive: partial; mask `partial` `(B,)`.
    """
    weight = torch.full_like(gate, recipe.whole_weight).masked_fill(partial, 1.0)
    box_loss = (geometry.corner_distance(box, target) * weight).mean()
    gate_loss = F.binary_cross_entropy_with_logits(gate, partial.float())
    overlap = (geometry.iou(box.detach(), target) * partial).sum() / partial.sum().clamp(min=1)
    measures = {"iou": overlap, "gate_accuracy": ((gate > 0) == partial).float().mean()}
    return {"box": recipe.box_weight * box_loss, "gate": recipe.gate_weight * gate_loss}, measures


def recognition(logits: Tensor, pooled: Tensor, labels: Tensor, recipe: BackboneStage) -> tuple[Terms, Terms]:
    """Weighted terms and accuracy of the backbone: logits `(B, classes)`, pooled `(B, C)`, labels `(B,)`."""
    triplet = batch_hard(pooled, labels, recipe.margin) if recipe.triplet_weight else pooled.new_zeros(())
    terms = {"identity": identity(logits, labels, recipe), "triplet": recipe.triplet_weight * triplet}
    return terms, {"accuracy": (logits.argmax(1) == labels).float().mean()}


def identity(logits: Tensor, labels: Tensor, recipe: BackboneStage) -> Tensor:
    """Cross-entropy with label smoothing, or margin softmax: a margin is subtracted from the true class's cosine."""
    if recipe.softmax == "plain":
        return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    less = torch.full_like(logits[:, :1], -recipe.softmax_margin * recipe.softmax_scale)
    return F.cross_entropy(logits.scatter_add(1, labels[:, None], less), labels)


def batch_hard(embedding: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Batch-hard triplet loss on L2-normalised features `(B, C)`, labels `(B,)`: mean over anchors with a loss > 0."""
    distance = torch.cdist(F.normalize(embedding, dim=1), F.normalize(embedding, dim=1))
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    farthest = distance.masked_fill(~same | itself, -math.inf).max(1).values
    nearest = distance.masked_fill(same, math.inf).min(1).values
    hinge = (farthest - nearest + margin).clamp(min=0)  # 0 where an anchor has no positive or no negative
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)


def cycle(back: Tensor, start: Tensor) -> Tensor:
    """PP-Cycle: locating there and back returns to the start. Boxes p″ and p `(B, 4)` -> scalar, of the canvas."""
    return geometry.corner_distance(back, start).mean()


def located(box: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Geometry loss: `‖q − q*‖` of boxes `(B, 4)`, mean over the samples with known q* (mask `(B,)`); 0 without any."""
    distance = geometry.corner_distance(box, truth)
    return (distance * known).sum() / known.sum().clamp(min=1)


def true_region(region: Tensor, placed: Tensor, crop: Tensor, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
    """True location, in another view of the same picture, of region p of a rectified partial view.

    `q* = v(b)⁻¹ ∘ v(a) ∘ crop ∘ placed⁻¹ (p)`; all boxes `(B, 4)`, `placed` detached by the caller. -> q* clipped to
    the canvas, and a mask `(B,)` of those that keep at least half of their area.
    """
    in_view = geometry.compose(crop, geometry.compose(geometry.invert(placed), region))
    truth = geometry.compose(geometry.invert(view_b), geometry.compose(view_a, in_view))
    inside = geometry.clip(truth)
    return inside, geometry.area(inside) >= 0.5 * geometry.area(truth)


def drawn_regions(batch: JointBatch, placed: Tensor, region: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """True location of regions `(A, 4)` of pictures a in each of the pictures b: `(B, A, 4)`, clipped to the canvas.

    a `(A,)` and b `(B,)` are indices into the batch, of one person or not: a region keeps its place on the drawn body.
    `placed` `(4P, 4)`: box of each picture on its canvas. For the row `oracle-region`, on drawn pictures.
    """
    seen = geometry.compose(batch.crop[a], geometry.compose(geometry.invert(placed[a]), region))
    part = geometry.in_figure(geometry.compose(batch.view[a], seen), batch.figure[a])
    there = geometry.of_figure(part, batch.figure[b, None])
    return geometry.clip(geometry.compose(geometry.invert(batch.view[b, None]), there))


def region_triplet(distance: Tensor, negatives: Tensor, valid: Tensor, margin: float) -> Tensor:
    """PP-Triplet: p must be nearer to q than to n. d(p, q) `(B,)`, d(p, n) `(B, 3)`, valid bool `(B, 3)` -> scalar.

    The three negatives are a box elsewhere in the same picture, the region located in the most similar other identity,
    and that located in h2 of a random other identity. The loss is two thirds of their summed hinges (METHOD.md §4).
    """
    hinge = (margin + distance[:, None] - negatives).clamp(min=0) * valid
    return 2 / 3 * hinge.sum(1).mean()


def region_contrast(distance: Tensor, right: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Contrast: cross-entropy of the region located in the right picture against those located in other identities.

    distance `(N, M)`: of region i and the region located in picture j; right `(N,)`: a picture of the same identity for
    each i; others bool `(N, M)`: j shows another identity -> scalar. This is our addition: PP-Triplet compares with two
    other identities, this term with all of the batch.
    """
    counted = others.scatter(1, right[:, None], True)
    return F.cross_entropy((-distance / temperature).masked_fill(~counted, -1e4), right)


def negative_boxes(region: Tensor, rng: torch.Generator, tries: int = 8, overlap: float = 0.4) -> tuple[Tensor, Tensor]:
    """Boxes of the regions' sizes elsewhere, with IoU below `overlap`: `(B, 4)` -> boxes `(B, 4)`, found `(B,)`.

    The first of `tries` random locations that qualifies; a large region may have none.
    """
    count = len(region)
    size = region[:, None, 2:].clamp(max=1)
    corner = torch.rand(count, tries, 2, generator=rng, device=region.device) * (1 - size)
    boxes = torch.cat([corner + size / 2, size.expand(count, tries, 2)], -1)
    fits = geometry.iou(boxes, region[:, None]) < overlap
    chosen = fits.int().argmax(1)
    return boxes[torch.arange(count, device=region.device), chosen], fits.any(1)


def random_parts(count: int, whole_share: float, rng: torch.Generator) -> Tensor:
    """Random parts of the visible box `(count, 4)`, with sides of 0.4 to 1; for a share of them, the whole box."""
    size = partial_views.uniform(0.4, 1, count, 2, rng=rng)
    corner = torch.rand(count, 2, generator=rng, device=rng.device) * (1 - size)
    part = torch.cat([corner + size / 2, size], 1)
    entire = torch.rand(count, 1, generator=rng, device=rng.device) < whole_share
    return torch.where(entire, geometry.whole(1, like=part), part)


def joint_losses(
    model: PPCL,
    batch: JointBatch,
    box: Tensor,
    features: Tensor,
    visible: Tensor,
    pooled: Tensor,
    logits: Tensor,
    rng: torch.Generator,
) -> tuple[Terms, Terms]:
    """Weighted terms of the joint stage for the model's row, and the accuracy of CRLoc (METHOD.md §4).

    box `(4P, 4)`: location of each picture on the canvas, detached; features `(4P, C, h, w)`, their visibility
    `(4P, 1, h, w)`, pooled `(4P, C)`, logits `(4P, classes)`. Regions (or the row's stripes or embeddings, METHOD.md
    §9) are compared on the pairs r1→h2 and r2→h1, by the contrast term of three pairs also on r2→h2. GLRec's own terms
    come from `placement`, on a separate batch.
    """
    how, method, crloc = model.recipe.joint, model.method, model.crloc
    terms, measures = recognition(logits, pooled, batch.labels, model.recipe.backbone)[0], {}
    if not (method.region == "trained" or method.triplet or method.contrast):
        return terms, measures
    people = len(box) // 4
    h1, h2, r1, r2 = torch.arange(4 * people, device=box.device).split(people)
    a, b, pair = torch.cat([r1, r2]), torch.cat([h2, h1]), torch.arange(2 * people, device=box.device)
    region = geometry.compose(box[a], random_parts(2 * people, how.whole_box_share, rng))
    regions = region.expand(2 * people, -1, -1)  # each region in each picture `(2P, 2P, 4)`; q = p
    if method.region == "trained":
        keys = crloc.keys(features)
        points, _ = crloc.queries(keys[a], region)
        regions, _ = crloc.locate_all(points, region, keys[b], visible[b])
        if method.cycle:
            back, _ = crloc(keys[b], keys[a], regions[pair, pair], visible[a])
            terms["cycle"] = how.cycle_weight * cycle(back, region)
        truth, known = true_region(region[:people], box[r1], batch.crop[r1], batch.view[r1], batch.view[h1])
        same, _ = crloc(keys[r1], keys[h1], region[:people], visible[h1])
        if method.geometry:
            terms["geometry"] = how.geometry_weight * located(same, truth, known)
        measures = {"crloc_iou": (geometry.iou(same, truth) * known).sum() / known.sum().clamp(min=1)}
    elif method.region == "true":
        regions = drawn_regions(batch, box, region, a, b)
    if not (method.triplet or method.contrast):
        return terms, measures

    there, white = regions[pair, pair], model.described(features)
    if method.region == "stripes":
        parts = canvas_stripes(white, visible, method.stripes)
        distance = stripe_distances(parts[a], parts[b])
    elif method.region == "none":
        embedding = F.normalize(model.described(pooled), dim=1)
        distance = 1 - embedding[a] @ embedding[b].T
    else:
        mine = describe_stripes(stripes(white[a], region, crloc.grid, method.stripes))
        weights = stripe_weights(regions, crloc.grid, tuple(features.shape[-2:]), method.stripes)
        found = weights.flatten(1, 2) @ white[b].flatten(2).transpose(1, 2)
        found = describe_stripes(found.unflatten(1, (2 * people, method.stripes)))
        distance = 1 - torch.einsum("ad,bad->ab", mine, found)  # of each region to its counterpart in each picture
    person = pair % people
    others = person[:, None] != person
    similar = F.normalize(pooled.detach(), dim=1)
    nearest = (similar[a] @ similar[b].T).masked_fill(~others, -2).argmax(1)
    random_other = (pair + torch.randint(1, people, (2 * people,), generator=rng, device=box.device)) % people
    negative, fits = negative_boxes(there.detach(), rng)
    if method.triplet:
        same_picture = 1 - (mine * describe_stripes(stripes(white[b], negative, crloc.grid, method.stripes))).sum(-1)
        wrong = torch.stack([same_picture, distance[pair, nearest], distance[pair, random_other]], 1)
        valid = torch.stack([fits, torch.ones_like(fits), torch.ones_like(fits)], 1)
        terms["region"] = how.region_weight * region_triplet(distance[pair, pair], wrong, valid, how.region_margin)
    if method.contrast:
        again = pair[people:] if how.contrast_pairs == 3 else pair[:0]  # r2 is also compared with h2
        rows, right = torch.cat([pair, again]), torch.cat([pair, again - people])
        contrast = region_contrast(distance[rows], right, others[rows], how.contrast_temperature)
        terms["contrast"] = how.region_weight * (how.contrast_weight * contrast)
    return terms, measures
