"""Features -> query x gallery distances: a global shortlist, then part to part (METHOD.md §5)."""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry
from .data.images import ImageBank, normalise
from .models.crloc import stripe_weights
from .models.glrec import placements
from .models.ppcl import PPCL

STRIPES = 6  # rows of a region that are read; pairs of them give the three stripes


@dataclass
class Features:
    """What matching needs of N pictures, each in M views: one, or, of a query, its placements and its mirror image's.

    embedding `(N, M, C)`, unit length; box `(N, M, 4)`; gate `(N,)` logits; points `(N, M, K, D)` and stripes
    `(N, M, 6, C)` of the visible box, for the query's side; keys `(N, D, h, w)`, whitened map `(N, C, h, w)` and
    visible `(N, 1, h, w)` of the first view, for the gallery's side. A mirror image's views follow the picture's own.
    """

    embedding: Tensor
    box: Tensor
    gate: Tensor
    points: Tensor
    stripes: Tensor
    keys: Tensor
    whitened: Tensor
    visible: Tensor

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, index) -> "Features":
        return Features(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def asking(self, index: Tensor) -> "Features":
        """These pictures as queries: only what the query's side needs is gathered."""
        mine = {name: getattr(self, name)[index] for name in ("embedding", "box", "gate", "points", "stripes")}
        return replace(self, **mine)

    def seen(self, index: Tensor) -> "Features":
        """These pictures as a gallery: only what the gallery's side needs is gathered, the rest stays whole."""
        return replace(self, keys=self.keys[index], whitened=self.whitened[index], visible=self.visible[index])


@torch.inference_mode()
def describe(
    model: PPCL, pictures: ImageBank, several: bool = False, boxes: Tensor | None = None, batch: int = 256
) -> Features:
    """Features of a bank of pictures. `several`: in several views, as queries are: their mirror images, too, and each
    in the placements of the model's row. `boxes` `(N, 4)` are used in place of GLRec's predictions where given. The
    model must be in eval mode.
    """
    if model.training:
        raise ValueError("describe needs a model in eval mode")
    device = next(model.parameters()).device
    how = model.recipe.matching
    mirrors = 2 if several and how.mirror else 1
    count = how.placements if several and model.method.placements else 1
    each = max(1, batch // (mirrors * count))
    parts = []
    for start in range(0, len(pictures), each):
        some = pictures[start : start + each].to(device)
        given = None if boxes is None else boxes[start : start + each].to(device)
        parts.append(_describe(model, normalise(some.images), some.ratios, given, mirrors, count))
    return Features(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Features)})


def _describe(model: PPCL, images: Tensor, ratios: Tensor, given: Tensor | None, mirrors: int, count: int) -> Features:
    number, views = len(images), mirrors * count
    if mirrors == 2:
        images = torch.stack([images, images.flip(-1)], 1).flatten(0, 1)
        ratios = ratios.repeat_interleave(2)
    box, gate = model.predict(images, ratios)
    if given is not None:
        turned = given * given.new_tensor([-1, 1, 1, 1]) + given.new_tensor([1, 0, 0, 0])
        box, gate = torch.stack([given, turned][:mirrors], 1).flatten(0, 1).to(box), torch.ones_like(gate)
    if count > 1:
        how = model.recipe.matching
        box = placements(box, how.placement_shift, how.placement_growth).flatten(0, 1)
        images, ratios, gate = (value.repeat_interleave(count, 0) for value in (images, ratios, gate))
    layout = model.layout(images, ratios, (box, gate))
    features, visible, pooled = model.features(layout)
    embedding = F.normalize(model.backbone.neck(pooled), dim=1)
    keys, whitened = model.crloc.keys(features), model.described(features)
    points, _ = model.crloc.queries(keys, layout.box)
    weights = stripe_weights(layout.box, model.crloc.grid, tuple(features.shape[-2:]), STRIPES)
    stripes = weights @ whitened.flatten(2).transpose(1, 2)
    each = [value.unflatten(0, (number, views)) for value in (embedding, layout.box, gate, points, stripes)]
    first = [value.unflatten(0, (number, views))[:, 0] for value in (keys, whitened, visible)]
    return Features(each[0], each[1], each[2][:, 0], each[3], each[4], *first)


def global_distances(query: Features, gallery: Features) -> Tensor:
    """Cosine distance of embeddings, mean over the query's views: `(Q, G)` in 0..2."""
    return 1 - query.embedding.mean(1) @ gallery.embedding[:, 0].T


@torch.inference_mode()
def region_distances(model: PPCL, query: Features, gallery: Features, index: Tensor | None = None) -> Tensor:
    """Distance of descriptors p and q: `(Q, G)`, or `(Q, S)` for a shortlist `index`.

    Of a query in several placements the best one counts, for the picture and for its mirror image; their mean.
    """
    rows = []
    for i in range(len(query)):
        some = gallery if index is None else gallery.seen(index[i])
        rows.append(_one_query(model, query.points[i], query.box[i], query.stripes[i], some))
    width = len(gallery) if index is None else index.shape[1]
    return torch.stack(rows) if rows else gallery.embedding.new_zeros(0, width)


def _one_query(model: PPCL, points: Tensor, box: Tensor, stripes: Tensor, gallery: Features) -> Tensor:
    """M views of one query `(M, K, D)`, `(M, 4)`, `(M, 6, C)` against G pictures -> `(G,)`."""
    if model.method.region == "same":
        region = box.expand(len(gallery.keys), *box.shape)
    else:
        region, _ = locate(model, points, box, gallery)
    weights = stripe_weights(region, model.crloc.grid, tuple(gallery.whitened.shape[-2:]), STRIPES)
    found = weights.flatten(1, 2) @ gallery.whitened.flatten(2).transpose(1, 2)
    found = found.unflatten(1, (len(box), STRIPES))
    count = model.method.stripes
    mirrors = 2 - len(box) % 2  # of one placement, or of seven
    counts = (count,) if len(box) == mirrors or count == 1 else (count, STRIPES)
    cosine = sum(_stripe_cosine(stripes, found, n) for n in counts) / len(counts)
    return 1 - cosine.unflatten(1, (mirrors, -1)).amax(2).mean(1)


def _stripe_cosine(mine: Tensor, theirs: Tensor, count: int) -> Tensor:
    """Mean over `count` stripes of the cosine: `(M, 6, C)`, `(G, M, 6, C)` -> `(G, M)`."""
    mine = F.normalize(mine.unflatten(-2, (count, -1)).mean(-2), dim=-1)
    theirs = theirs.unflatten(-2, (count, -1)).mean(-2)
    dot = torch.einsum("msc,gmsc->gms", mine, theirs)
    return (dot / theirs.norm(dim=-1).clamp(min=1e-12)).mean(-1)


@torch.inference_mode()
def locate(model: PPCL, points: Tensor, box: Tensor, gallery: Features) -> tuple[Tensor, Tensor]:
    """CRLoc for one query's regions in G pictures: `(M, K, D)`, `(M, 4)` -> `(G, M, 4)`, confidence `(G, M)`."""
    return model.crloc.everywhere(points, box, gallery.keys, gallery.visible)


def in_picture(region: Tensor, gallery: Features) -> Tensor:
    """Regions `(G, 4)` of G pictures as CRLoc located them, on the canvas, in the pictures' own frames.

    They differ only where GLRec took a gallery picture for partial and placed it.
    """
    return geometry.compose(geometry.invert(gallery.box[:, 0]), region)


def shortlisted(distances: Tensor, length: int) -> Tensor | None:
    """The `length` nearest gallery pictures of each query by global distance `(Q, S)`; None where all are taken."""
    if not length or length >= distances.shape[1]:
        return None
    return distances.topk(length, largest=False).indices


def fuse(overall: Tensor, region: Tensor, weight: float, index: Tensor | None = None) -> Tensor:
    """`(1 − w) · global + w · region` `(Q, G)`; pictures outside the shortlist keep their global order behind it."""
    if index is None:
        return (1 - weight) * overall + weight * region
    behind = overall + 10  # distances within the shortlist are at most 2
    return behind.scatter(1, index, (1 - weight) * overall.gather(1, index) + weight * region)


def match(
    model: PPCL, query: Features, gallery: Features, shortlist: int | None = None, weight: float | None = None
) -> Tensor:
    """Distances `(Q, G)`. `shortlist`: gallery pictures a query that are matched by parts (None: the recipe's, 0: all).

    `weight` is the part's share, else the one that training chose on held-out identities; 0 for rows without regions.
    """
    overall = global_distances(query, gallery)
    weight = fusion_weight(model) if weight is None else weight
    if model.method.region == "none" or weight == 0:
        return overall
    index = shortlisted(overall, model.recipe.matching.shortlist if shortlist is None else shortlist)
    return fuse(overall, region_distances(model, query, gallery, index), weight, index)


def match_pairs(model: PPCL, pictures: Features, first: Tensor, second: Tensor) -> Tensor:
    """Distances of pairs of pictures `(P,)`, indices `(P,)` each: the mean of both directions, neither is the query."""
    found = []
    for asked, there in ((first, second), (second, first)):
        overall = 1 - (pictures.embedding[asked].mean(1) * pictures.embedding[there, 0]).sum(1, keepdim=True)
        weight = fusion_weight(model)
        if weight:
            region = region_distances(model, pictures.asking(asked), pictures, there[:, None])
            overall = fuse(overall, region, weight)
        found.append(overall[:, 0])
    return (found[0] + found[1]) / 2


def fusion_weight(model: PPCL) -> float:
    """The weight chosen for this model's row; 0 for rows without regions."""
    if model.method.region == "none":
        return 0.0
    row = model.row
    if row not in model.fusion_weights:
        raise ValueError(f"no fusion weight is stored for row {row!r}: finish its joint training first")
    return model.fusion_weights[row]
