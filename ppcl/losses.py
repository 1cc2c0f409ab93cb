"""The losses: placement and gate, PP-Cycle, geometry, PP-Triplet, identity.

The supplement names none of their inner forms; they are reconstructed in METHOD.md §1 and §4. Each is a mean over
samples, so a batch's size does not change its scale.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import geometry
from .data import partial_views
from .data.stage_batches import JointBatch
from .disk.processes import gather, share, size
from .models.crloc import describe_stripes, stripe_weights, stripes
from .models.ppcl import PPCL
from .recipes import BackboneStage, GLRecStage


def placement(box: Tensor, gate: Tensor, target: Tensor, partial: Tensor, recipe: GLRecStage) -> tuple[Tensor, Tensor]:
    """GLRec's two terms, weighted: boxes `(B, 4)`, gate logits `(B,)`, true boxes `(B, 4)`, partial bool `(B,)`."""
    weight = torch.full_like(gate, recipe.whole_weight).masked_fill(partial, 1.0)
    box_loss = (geometry.corner_distance(box, target) * weight).mean()
    gate_loss = F.binary_cross_entropy_with_logits(gate, partial.float())
    return recipe.box_weight * box_loss, recipe.gate_weight * gate_loss


def identity(classifier: nn.Module, embedding: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy with label smoothing, or the margin softmax: `(B, C)`, `(B,)` -> scalar, logits `(B, classes)`."""
    logits = classifier(embedding)
    if isinstance(classifier, nn.Linear):
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing), logits
    less = torch.full_like(logits[:, :1], -classifier.margin * classifier.scale)
    return F.cross_entropy(logits.scatter_add(1, labels[:, None], less), labels), logits


def batch_hard(embedding: Tensor, labels: Tensor, recipe: BackboneStage) -> Tensor:
    """Batch-hard triplet loss on L2-normalised pooled features, of all processes: `(B, C)`, `(B,)` -> scalar.

    The mean is over the anchors whose loss is above 0. Its weight is the caller's; with weight 0 it is 0.
    """
    if not recipe.triplet_weight:
        return embedding.new_zeros(())
    embedding, labels = gather(embedding), gather(labels)
    distance = torch.cdist(F.normalize(embedding, dim=1), F.normalize(embedding, dim=1))
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    farthest = distance.masked_fill(~same | itself, -math.inf).max(1).values
    nearest = distance.masked_fill(same, math.inf).min(1).values
    hinge = (farthest - nearest + recipe.margin).clamp(min=0)  # 0 where an anchor has no positive or no negative
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)


def cycle(back: Tensor, start: Tensor) -> Tensor:
    """PP-Cycle: there and back is where you started. Boxes p'' and p `(B, 4)` -> scalar."""
    return geometry.corner_distance(back, start).mean()


def located(box: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """L_geo: q against q* `(B, 4)`, mean over the samples whose answer is known `(B,)`; 0 if none is."""
    distance = geometry.corner_distance(box, truth)
    return (distance * known).sum() / known.sum().clamp(min=1)


def true_region(region: Tensor, placed: Tensor, crop: Tensor, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
    """Where region p of a rectified partial view lies in another view of the same picture.

    `q* = v(b)⁻¹ ∘ v(a) ∘ crop ∘ placed⁻¹ (p)`; all boxes `(B, 4)`, `placed` detached by the caller. -> q* clipped to
    the canvas, and whether half of it or more remained `(B,)`.
    """
    in_view = geometry.compose(crop, geometry.compose(geometry.invert(placed), region))
    truth = geometry.compose(geometry.invert(view_b), geometry.compose(view_a, in_view))
    seen = geometry.clip(truth)
    return seen, geometry.area(seen) >= 0.5 * geometry.area(truth)


def region_triplet(distance: Tensor, negatives: Tensor, valid: Tensor, margin: float) -> Tensor:
    """PP-Triplet: only the corresponding region fits. d(p, q) `(B,)`, d(p, n) `(B, 3)`, valid bool `(B, 3)` -> scalar.

    The three negatives are another place in the same picture, the region located in the most similar other identity,
    and the one located in a random other identity; two thirds of their summed hinge (METHOD.md §4).
    """
    hinge = (margin + distance[:, None] - negatives).clamp(min=0) * valid
    return 2 / 3 * hinge.sum(1).mean()


def region_contrast(distance: Tensor, right: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Only this person fits: cross-entropy of each region's own picture against the regions located in other people.

    d(region i, what is located in picture j) `(N, M)`; right `(N,)`: the picture of the same person that i is held
    against; others bool `(N, M)`: j shows another person -> scalar. Ours: PP-Triplet's (ii) and (iii) see one person
    each, this sees the whole batch.
    """
    counted = others.scatter(1, right[:, None], True)
    return F.cross_entropy((-distance / temperature).masked_fill(~counted, -1e4), right)


def elsewhere(region: Tensor, draw: torch.Generator, tries: int = 8, overlap: float = 0.4) -> tuple[Tensor, Tensor]:
    """A box of the region's size elsewhere, IoU with it below `overlap`: `(B, 4)` -> `(B, 4)`, found `(B,)`.

    The first of `tries` random places that qualifies; large regions may have none.
    """
    count = len(region)
    size = region[:, None, 2:].clamp(max=1)
    corner = torch.rand(count, tries, 2, generator=draw, device=region.device) * (1 - size)
    boxes = torch.cat([corner + size / 2, size.expand(count, tries, 2)], -1)
    fits = geometry.iou(boxes, region[:, None]) < overlap
    first = fits.int().argmax(1)
    return boxes[torch.arange(count, device=region.device), first], fits.any(1)


def region_losses(
    model: PPCL, batch: JointBatch, box: Tensor, features: Tensor, visible: Tensor, pooled: Tensor, draw
) -> dict[str, Tensor]:
    """PP-Cycle, the known geometry and PP-Triplet on directed pairs r1→h2 and r2→h1 (METHOD.md §4).

    box `(4P, 4)`: where each picture lies on the canvas, detached; maps `(4P, C, h, w)`, visibility, pooled `(4P, C)`.
    Of several processes each has its own P: every region is looked for in every picture of all of them, by the process
    that has the picture, so that regions and distances travel and maps do not.
    """
    how, crloc = model.recipe.joint, model.crloc
    own = len(box) // 4
    people = own * size()
    device = box.device
    keys = crloc.keys(features)
    ids = torch.arange(4 * own, device=device)
    h1, h2, r1, r2 = ids.split(own)
    a, b = torch.cat([r1, r2]), torch.cat([h2, h1])

    inside = partial_views.uniform(0.4, 1, 2 * people, 2, rng=draw)
    corner = torch.rand(2 * people, 2, generator=draw, device=device) * (1 - inside)
    part = torch.cat([corner + inside / 2, inside], 1)
    all_of_it = torch.rand(2 * people, 1, generator=draw, device=device) < how.whole_box_share
    part = torch.where(all_of_it, geometry.whole(1, like=part), part)
    region = geometry.compose(box[a], share(part, 2))

    points, _ = crloc.queries(keys[a], region)
    asked = gather(points, 2), gather(region, 2)
    everywhere, _ = crloc.everywhere(*asked, keys[b], visible[b])  # each region in each own picture `(2P, 2 all, 4)`
    pair = torch.arange(2 * people, device=device)
    there = everywhere[torch.arange(2 * own, device=device), share(pair, 2)]
    back, _ = crloc(keys[b], keys[a], there, visible[a])
    terms = {"cycle": cycle(back, region)}

    truth, known = true_region(region[:own], box[r1], batch.crop[r1], batch.view[r1], batch.view[h1])
    same, _ = crloc(keys[r1], keys[h1], region[:own], visible[h1])
    same, truth, known = gather(same), gather(truth), gather(known)
    terms["geometry"] = located(same, truth, known)
    terms["iou"] = (geometry.iou(same, truth) * known).sum().detach() / known.sum().clamp(min=1)
    if not (model.method.triplet or model.method.contrast):
        return terms

    white, count = model.described(features), model.method.stripes
    mine = describe_stripes(stripes(white[a], region, crloc.grid, count))
    weights = stripe_weights(everywhere, crloc.grid, tuple(keys.shape[-2:]), count)
    found = weights.flatten(1, 2) @ white[b].flatten(2).transpose(1, 2)
    found = describe_stripes(found.unflatten(1, (2 * people, count)))
    distance = gather((1 - torch.einsum("ad,bad->ab", gather(mine, 2), found)).T, 2).T
    person = pair % people
    others = person[:, None] != person[None]
    similar = F.normalize(pooled.detach(), dim=1)
    nearest = (gather(similar[a], 2) @ gather(similar[b], 2).T).masked_fill(~others, -2).argmax(1)
    anyone = (pair + torch.randint(1, people, (2 * people,), generator=draw, device=device)) % people
    away, fits = elsewhere(gather(there.detach(), 2), draw)
    beside = 1 - (mine * describe_stripes(stripes(white[b], share(away, 2), crloc.grid, count))).sum(-1)
    wrong = torch.stack([gather(beside, 2), distance[pair, nearest], distance[pair, anyone]], 1)
    valid = torch.stack([fits, torch.ones_like(fits), torch.ones_like(fits)], 1)
    if model.method.triplet:
        terms["region"] = region_triplet(distance[pair, pair], wrong, valid, how.region_margin)
    if model.method.contrast:
        again = pair[people:] if how.contrast_pairs == 3 else pair[:0]  # r2 is held against h2, too
        asked, right = torch.cat([pair, again]), torch.cat([pair, again - people])
        contrast = region_contrast(distance[asked], right, others[asked], how.contrast_temperature)
        terms["region"] = terms.get("region", 0) + how.contrast_weight * contrast
    return terms
