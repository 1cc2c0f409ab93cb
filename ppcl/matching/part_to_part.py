"""Features -> query x gallery distances: a global shortlist, then part to part (METHOD.md §5)."""

import math

import torch
from torch import Tensor

from .. import geometry
from ..models.crloc import stripe_weights
from ..models.ppcl import PPCL
from .features import STRIPES, Features
from .features import describe as describe  # with matching, as users meet it
from .global_search import BLOCK, global_distances, nearest, shortlisted


@torch.inference_mode()
def region_distances(model: PPCL, query: Features, gallery: Features, index: Tensor | None = None) -> Tensor:
    """Distance of descriptors p and q: `(Q, G)`, or `(Q, S)` for a shortlist `index`.

    Of a query in several placements the best one counts, for the picture and for its mirror image; their mean. Worked
    in blocks, so beside the result the memory does not grow with the gallery; of a gallery that is mapped from a file
    only the pictures of a shortlist are read.
    """
    (count, views), device = query.box.shape[:2], query.box.device
    width = len(gallery) if index is None else index.shape[1]
    found = query.box.new_empty(count, width)
    counts = _stripe_counts(model, views)
    mine = _merged(query.stripes, max(counts))
    every = [query.points, query.box, mine, *(_merged(mine, each).norm(dim=-1) for each in counts)]
    tall, wide = _block(model, query, gallery, index)
    for start in range(0, width, wide):
        some = gallery.seen(slice(start, start + wide), device) if index is None else None
        for first in range(0, count, tall):
            asked = [value[first : first + tall] for value in every]
            block = found[first : first + tall, start : start + wide]
            if index is None:  # all of these queries' regions in each picture
                asked = [value.flatten(0, 1)[None] for value in asked]
                block[:] = _best(_part_distances(model, some, *asked).unflatten(1, (-1, views))).T
            else:  # each query's in pictures of its own
                there = index[first : first + tall, start : start + wide]
                if len(there) > 1:
                    asked = [value.repeat_interleave(there.shape[1], 0) for value in asked]
                some = gallery.seen(there.flatten(), device)
                block[:] = _best(_part_distances(model, some, *asked)).view_as(there)
    return found


def _best(distances: Tensor) -> Tensor:
    """Distances of a query's views `(…, M)` -> `(…)`: of one or seven placements the best, mean over mirror images."""
    mirrors = 2 - distances.shape[-1] % 2
    return distances.unflatten(-1, (mirrors, -1)).amin(-1).mean(-1)


def _block(model: PPCL, query: Features, gallery: Features, index: Tensor | None) -> tuple[int, int]:
    """How many queries, and how many pictures of each, are matched at once: no tensor has more than BLOCK numbers."""
    (count, views, points), (channels, *cells) = query.points.shape[:3], gallery.whitened.shape[1:]
    read = math.prod(cells) if gallery.gram.numel() else channels
    size = views * max(points * math.prod(cells), max(_stripe_counts(model, views)) * read)
    if index is not None:  # maps are gathered, and a query's stripes repeated for each
        size = max(size, channels * math.prod(cells), views * STRIPES * channels)
    pairs = max(1, BLOCK[query.box.device.type] // size)
    width, wide = (len(gallery), max(16, pairs // max(1, count))) if index is None else (index.shape[1], pairs)
    wide = _even(width, wide)
    return _even(count, max(1, pairs // wide)), wide


def _even(whole: int, most: int) -> int:
    """The length of the pieces, as few and as even as can be, of which none has more than `most`."""
    return max(1, math.ceil(whole / max(1, math.ceil(whole / most))))


def _stripe_counts(model: PPCL, views: int) -> tuple[int, ...]:
    """The numbers of stripes whose cosines are averaged, for queries in so many views."""
    count = model.method.stripes
    return (count,) if views <= 2 or count == 1 else (count, STRIPES)


def _part_distances(model: PPCL, gallery: Features, points: Tensor, box: Tensor, stripes: Tensor, *lengths) -> Tensor:
    """A regions against each of G pictures -> `(G, A)`, the mean over as many numbers of stripes as there are lengths.

    Points `(1, A, K, D)`, boxes `(1, A, 4)`, stripes `(1, A, S, C)` and, merged to S or fewer, their lengths
    `(1, A, S or fewer)` of the same regions for all pictures, or `(G, A, …)` of others for each.
    """
    if model.method.region == "same":
        region = box
    else:
        region, _ = model.crloc.everywhere(points, box, gallery.keys, gallery.visible)
    weights = stripe_weights(region, model.crloc.grid, tuple(gallery.whitened.shape[-2:]), stripes.shape[-2])
    cosines = _cosines_by_gram if gallery.gram.numel() else _cosines
    return sum(1 - cosine for cosine in cosines(stripes, lengths, weights, gallery)) / len(lengths)


def _cosines(mine: Tensor, lengths: tuple[Tensor, ...], weights: Tensor, gallery: Features) -> list[Tensor]:
    """Mean over stripes of the cosine of a query's `(G or 1, A, S, C)` and of what weights `(G, A, S, h * w)` read.

    -> `(G, A)` for each of the lengths, of a query's stripes merged to S or fewer.
    """
    maps = gallery.whitened.flatten(2).transpose(1, 2)
    found = (weights.flatten(1, 2).to(maps.dtype) @ maps).float().unflatten(1, weights.shape[1:3])
    cosines = []
    for length in lengths:
        theirs = _merged(found, length.shape[-1])
        dot = torch.einsum("gasc,gasc->gas", _merged(mine, length.shape[-1]), theirs)
        cosines.append((dot / (length * theirs.norm(dim=-1)).clamp(min=1e-12)).mean(-1))
    return cosines


def _cosines_by_gram(mine: Tensor, lengths: tuple[Tensor, ...], weights: Tensor, gallery: Features) -> list[Tensor]:
    """`_cosines` by Gram matrices: a query's stripes are compared with the cells, and the weights read the products.

    No region's descriptor is ever made: its length follows from the cells' products with each other. One that is next
    to nothing beside the largest cell, because what the region reads cancels out, counts as a thousandth of that.
    """
    maps = gallery.whitened.flatten(2)
    dots = (mine.flatten(1, 2).to(maps.dtype) @ maps).float().unflatten(1, weights.shape[1:3])
    squares = (weights.flatten(1, 2) @ gallery.gram).unflatten(1, weights.shape[1:3])
    products = [(weights @ some.transpose(2, 3)).flatten(2) for some in (dots, squares)]  # of each stripe with each
    floor = 1e-6 * gallery.gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    cosines = []
    for length in lengths:
        merged = torch.eye(length.shape[-1], device=maps.device)
        merged = merged.repeat_interleave(weights.shape[2] // len(merged), 0)  # (S, S or fewer)
        dot, square = (some @ (merged[:, None] * merged).flatten(0, 1) for some in products)
        cosines.append((dot / (length * torch.maximum(square, floor).sqrt()).clamp(min=1e-12)).mean(-1))
    return cosines


def _merged(stripes: Tensor, count: int) -> Tensor:
    """Stripes `(…, S, C)`, S a multiple of `count`, added up to `count` of them."""
    return stripes if stripes.shape[-2] == count else stripes.unflatten(-2, (count, -1)).sum(-2)


def in_picture(region: Tensor, box: Tensor) -> Tensor:
    """Regions `(G, 4)` as CRLoc located them, on the canvas, in the frames of the pictures that lie there `(G, 4)`.

    They differ only where GLRec took a gallery picture for partial and placed it.
    """
    return geometry.compose(geometry.invert(box), region)


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


def match_within(
    model: PPCL, query: Features, gallery: Features, parts: list[Tensor], shortlist: int | None = None
) -> list[Tensor]:
    """`match` with each of several parts of a gallery alone, indices `(P,)` -> distances `(Q, P)` each.

    Each part has a shortlist of its own; a pair that several parts ask for is matched once.
    """
    overall, weight = global_distances(query, gallery), fusion_weight(model)
    each = [overall[:, part] for part in parts]
    if not weight:
        return each
    length = model.recipe.matching.shortlist if shortlist is None else shortlist
    lists = [shortlisted(one, length) for one in each]
    asked = torch.zeros_like(overall, dtype=torch.bool)
    for part, short in zip(parts, lists, strict=True):
        asked.scatter_(1, part.expand(len(overall), -1) if short is None else part[short], True)
    most = int(asked.sum(1).max()) if asked.numel() else 0
    index = shortlisted(overall - 10 * asked, most)  # all that are asked for, and for some queries a few more
    region = region_distances(model, query, gallery, index)
    if index is not None:
        region = torch.zeros_like(overall).scatter_(1, index, region)
    found = []
    for part, short, one in zip(parts, lists, each, strict=True):
        there = region[:, part]
        found.append(fuse(one, there if short is None else there.gather(1, short), weight, short))
    return found


def best(
    model: PPCL, query: Features, gallery: Features, top: int, shortlist: int | None = None, weight: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The first `top` of each query in `match`'s order, without the `(Q, G)` matrix: for galleries of any size.

    -> distances, their global parts and gallery indices `(Q, top)`. All of these are matched by parts: a shortlist of
    fewer is made longer. Of pictures at the same distance the one that stands earlier in the gallery comes first.
    """
    top, weight = min(top, len(gallery)), fusion_weight(model) if weight is None else weight
    length = max(top, (model.recipe.matching.shortlist if shortlist is None else shortlist) or len(gallery))
    if model.method.region == "none" or weight == 0:
        length = 0
    overall, index = nearest(query, gallery, max(length, top))
    distances = overall
    if length:
        short = index[:, :length]
        place = torch.arange(short.shape[1], device=index.device).expand_as(short)
        distances = fuse(overall, region_distances(model, query, gallery, short), weight, place)
    by_place = index.argsort(1)
    order = by_place.gather(1, distances.gather(1, by_place).argsort(dim=1, stable=True)[:, :top])
    return distances.gather(1, order), overall.gather(1, order), index.gather(1, order)


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
