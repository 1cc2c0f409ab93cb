"""Features -> query x gallery distances: a global shortlist, then part to part (METHOD.md §5)."""

import math

import torch
from torch import Tensor

from .. import geometry
from ..models.crloc import stripe_weights
from ..models.peers import reconstruction, stripe_distances, unexplained
from ..models.ppcl import PPCL
from .features import STRIPES, Features, parts
from .global_search import BLOCK, global_distances, nearest, shortlisted


@torch.inference_mode()
def region_distances(model: PPCL, query: Features, gallery: Features, index: Tensor | None = None) -> Tensor:
    """Distances between descriptors p and q: `(Q, G)`, or `(Q, S)` for shortlists `index` `(Q, S)`.

    The smallest distance over a query's placements counts (METHOD.md §5); those of the query and of its mirror image
    are averaged. Pairs are matched in blocks, so memory does not grow with the gallery. Of a gallery on the disk only
    shortlisted pictures are read.
    """
    (count, views), device = query.box.shape[:2], query.box.device
    width = len(gallery) if index is None else index.shape[1]
    distances = query.box.new_empty(count, width)
    if model.method.region in ("stripes", "cells", "embedding"):
        return _canvas_distances(model, query, gallery, index, distances)
    numbers = _stripe_numbers(model, views)
    stripes = _merged(query.stripes, max(numbers))
    regions = [query.points, query.box, stripes, *(_merged(stripes, number).norm(dim=-1) for number in numbers)]
    tall, wide = _block_size(model, query, gallery, index)
    for left in range(0, width, wide):
        columns = slice(left, left + wide)
        pictures = gallery.as_gallery(columns, device) if index is None else None
        for top in range(0, count, tall):
            rows = slice(top, top + tall)
            some = [value[rows] for value in regions]
            if index is None:  # all regions of these queries against each picture
                some = [value.flatten(0, 1)[None] for value in some]
                found = _part_distances(model, pictures, *some).unflatten(1, (-1, views))
                distances[rows, columns] = _over_views(model, found).T
            else:  # each query's regions against its own shortlist
                chosen = index[rows, columns]
                if len(chosen) > 1:
                    some = [value.repeat_interleave(chosen.shape[1], 0) for value in some]
                pictures = gallery.as_gallery(chosen.flatten(), device)
                found = _part_distances(model, pictures, *some)
                distances[rows, columns] = _over_views(model, found).view_as(chosen)
    return distances


def _canvas_distances(model: PPCL, query: Features, gallery: Features, index: Tensor | None, out: Tensor) -> Tensor:
    """`region_distances` of rows that compare whole canvases or embeddings; each gallery picture is prepared once."""
    size = max(1, BLOCK[out.device.type] // max(gallery.whitened[0].numel(), query.stripes[0].numel()))
    index = torch.arange(len(gallery), device=out.device).expand(len(query), -1) if index is None else index
    for start in range(0, len(gallery), size):
        block = gallery.as_gallery(slice(start, start + size), out.device)
        theirs = parts(model, block.whitened, block.visible)
        form = reconstruction(theirs, model.recipe.matching.ridge) if model.method.region == "cells" else None
        for i, row in enumerate(index):
            columns = ((row >= start) & (row < start + size)).nonzero()[:, 0]
            mine, chosen = query.stripes[i], row[columns] - start
            if model.method.region == "embedding":
                found = 1 - query.embedding[i] @ gallery.embedding[row[columns], 0].to(out.device).T
            elif form is None:
                found = stripe_distances(mine, theirs[chosen])
            else:
                found = unexplained(mine, theirs[chosen], form[chosen])
            out[i, columns] = _over_views(model, found.T)
    return out


def _over_views(model: PPCL, distances: Tensor) -> Tensor:
    """Distances of a query's M views `(…, M)` -> `(…)`: smallest over placements, mean over the two mirror images."""
    if model.method.average:
        return distances.mean(-1)
    mirrors = 2 - distances.shape[-1] % 2  # placements are 1 or 7: an even number of views holds mirror images
    return distances.unflatten(-1, (mirrors, -1)).amin(-1).mean(-1)


def _block_size(model: PPCL, query: Features, gallery: Features, index: Tensor | None) -> tuple[int, int]:
    """Numbers of queries, and of gallery pictures for each, in a block: no tensor holds more than BLOCK numbers."""
    (count, views, points), (channels, *cells) = query.points.shape[:3], gallery.whitened.shape[1:]
    read = math.prod(cells) if gallery.gram.numel() else channels
    size = views * max(points * math.prod(cells), max(_stripe_numbers(model, views)) * read)
    if index is not None:  # maps are gathered, and a query's stripes repeated, for each pair
        size = max(size, channels * math.prod(cells), views * STRIPES * channels)
    pairs = max(1, BLOCK[query.box.device.type] // size)
    width, wide = (len(gallery), max(16, pairs // max(1, count))) if index is None else (index.shape[1], pairs)
    wide = _even(width, wide)
    return _even(count, max(1, pairs // wide)), wide


def _even(whole: int, most: int) -> int:
    """Length of the fewest, most even pieces of `whole` that are not longer than `most`."""
    return max(1, math.ceil(whole / max(1, math.ceil(whole / most))))


def _stripe_numbers(model: PPCL, views: int) -> tuple[int, ...]:
    """Numbers of stripes whose cosines are averaged, for queries with this many views (METHOD.md §5)."""
    count = model.method.stripes
    return (count,) if views <= 2 or count == 1 else (count, STRIPES)


def _part_distances(model: PPCL, gallery: Features, points: Tensor, box: Tensor, stripes: Tensor, *lengths) -> Tensor:
    """Distances of A regions to each of G pictures `(G, A)`, averaged over the numbers of stripes.

    Points `(1, A, K, D)`, boxes `(1, A, 4)`, stripes `(1, A, S, C)`, and for each number N of stripes the lengths `(1,
    A, N)` of the stripes merged to N; or `(G, A, …)`, if the regions differ between pictures.
    """
    if model.method.region == "same":
        region = box
    elif model.method.region == "true":
        region = geometry.clip(geometry.of_figure(points[..., 0, :], gallery.keys[:, None, :, 0, 0]))
    else:
        region, _ = model.crloc.locate_all(points, box, gallery.keys, gallery.visible)
    weights = stripe_weights(region, model.crloc.grid, tuple(gallery.whitened.shape[-2:]), stripes.shape[-2])
    cosines = _cosines_by_gram if gallery.gram.numel() else _cosines
    return sum(1 - cosine for cosine in cosines(stripes, lengths, weights, gallery)) / len(lengths)


def _cosines(mine: Tensor, lengths: tuple[Tensor, ...], weights: Tensor, gallery: Features) -> list[Tensor]:
    """Cosines `(G, A)`, averaged over stripes: stripes of queries against those read from the gallery's maps.

    A query's stripes `(G or 1, A, S, C)`; reading weights `(G, A, S, h * w)`. One result for each of `lengths`.
    """
    maps = gallery.whitened.flatten(2).transpose(1, 2)
    read = (weights.flatten(1, 2) @ maps).unflatten(1, weights.shape[1:3])
    cosines = []
    for length in lengths:
        theirs = _merged(read, length.shape[-1])
        dot = torch.einsum("gasc,gasc->gas", _merged(mine, length.shape[-1]), theirs)
        cosines.append((dot / (length * theirs.norm(dim=-1)).clamp(min=1e-12)).mean(-1))
    return cosines


def _cosines_by_gram(mine: Tensor, lengths: tuple[Tensor, ...], weights: Tensor, gallery: Features) -> list[Tensor]:
    """Cosines as in `_cosines`, from the cells' inner products, without computing gallery descriptors.

    A query's stripes are multiplied with all cells, and the weights read these products. A descriptor's length follows
    from the Gram matrix; where a region's cells cancel out, its square is at least a millionth of the largest cell's.
    """
    maps = gallery.whitened.flatten(2)
    dots = (mine.flatten(1, 2) @ maps).unflatten(1, weights.shape[1:3])
    squares = (weights.flatten(1, 2) @ gallery.gram).unflatten(1, weights.shape[1:3])
    products = [(weights @ some.transpose(2, 3)).flatten(2) for some in (dots, squares)]  # (G, A, S * S)
    floor = 1e-6 * gallery.gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    cosines = []
    for length in lengths:
        merged = torch.eye(length.shape[-1], device=maps.device)
        merged = merged.repeat_interleave(weights.shape[2] // len(merged), 0)  # (S, N): stripe s belongs to n
        dot, square = (some @ (merged[:, None] * merged).flatten(0, 1) for some in products)
        cosines.append((dot / (length * torch.maximum(square, floor).sqrt()).clamp(min=1e-12)).mean(-1))
    return cosines


def _merged(stripes: Tensor, count: int) -> Tensor:
    """Sum neighbouring stripes `(…, S, C)` -> `(…, count, C)`; S is a multiple of `count`."""
    return stripes if stripes.shape[-2] == count else stripes.unflatten(-2, (count, -1)).sum(-2)


def in_picture(region: Tensor, box: Tensor) -> Tensor:
    """Located regions `(G, 4)` on the canvas -> in fractions of the gallery pictures placed in boxes `(G, 4)`.

    Both are equal, unless GLRec took the gallery picture for partial.
    """
    return geometry.compose(geometry.invert(box), region)


def fuse(overall: Tensor, region: Tensor, weight: float, index: Tensor | None = None) -> Tensor:
    """`(1 − w) · global + w · region` `(Q, G)`; pictures outside the shortlist follow it in their global order."""
    if index is None:
        return (1 - weight) * overall + weight * region
    behind = overall + 10  # distances within the shortlist are at most 2
    return behind.scatter(1, index, (1 - weight) * overall.gather(1, index) + weight * region)


def match(
    model: PPCL, query: Features, gallery: Features, shortlist: int | None = None, weight: float | None = None
) -> Tensor:
    """Distances `(Q, G)`, small is similar: 0 to 2, or 10 more for pictures outside the query's shortlist.

    `shortlist`: gallery pictures matched by parts for each query (None: the recipe's number, 0: all). `weight`: share
    of the region distance (None: the one chosen on held-out training identities; 0 for rows without regions). Raises
    ValueError if none was chosen for the model's row, or if another model described the pictures.
    """
    _check(model, query, gallery)
    overall = global_distances(query, gallery)
    weight = fusion_weight(model) if weight is None else weight
    if model.method.region == "none" or weight == 0:
        return overall
    index = shortlisted(overall, _length(model, shortlist))
    return fuse(overall, region_distances(model, query, gallery, index), weight, index)


def _check(model: PPCL, *described: Features) -> None:
    mark = model.mark().cpu()
    for name, features in zip(("queries", "gallery"), described, strict=True):
        if not isinstance(features, Features):
            raise TypeError(f"the {name} are {type(features).__name__}, not features: give what ppcl.describe returns")
        if len(features) and features.mark[0].cpu() != mark:
            raise ValueError(f"another model described the {name}: describe them with the model that matches them")


def match_within(
    model: PPCL, query: Features, gallery: Features, parts: list[Tensor], shortlist: int | None = None
) -> list[Tensor]:
    """Match within each of several parts of a gallery, indices `(P,)` -> distances `(Q, P)` for each part, as `match`.

    Each part has its own shortlist; a pair that is in several shortlists is matched once.
    """
    overall, weight = global_distances(query, gallery), fusion_weight(model)
    by_part = [overall[:, part] for part in parts]
    if not weight:
        return by_part
    shortlists = [shortlisted(one, _length(model, shortlist)) for one in by_part]
    wanted = torch.zeros_like(overall, dtype=torch.bool)
    for part, short in zip(parts, shortlists, strict=True):
        wanted.scatter_(1, part.expand(len(overall), -1) if short is None else part[short], True)
    most = int(wanted.sum(1).max()) if wanted.numel() else 0
    index = shortlisted(overall - 10 * wanted, most)  # all wanted pairs, and for some queries a few more
    region = region_distances(model, query, gallery, index)
    if index is not None:
        region = torch.zeros_like(overall).scatter_(1, index, region)
    distances = []
    for part, short, one in zip(parts, shortlists, by_part, strict=True):
        regions = region[:, part]
        distances.append(fuse(one, regions if short is None else regions.gather(1, short), weight, short))
    return distances


def search(
    model: PPCL, query: Features, gallery: Features, top: int, shortlist: int | None = None, weight: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The `top` nearest pictures of each query, in the order of `match`, without the `(Q, G)` matrix.

    -> distances, their global parts, and gallery indices `(Q, top)`. All returned pictures are matched by parts: a
    shorter shortlist is extended to `top`. Pictures at equal distances keep the gallery's order.
    """
    _check(model, query, gallery)
    top, weight = min(top, len(gallery)), fusion_weight(model) if weight is None else weight
    by_parts = model.method.region != "none" and weight != 0
    length = max(top, _length(model, shortlist) or len(gallery)) if by_parts else top
    overall, index = nearest(query, gallery, length)
    distances = overall
    if by_parts:
        distances = fuse(overall, region_distances(model, query, gallery, index), weight)
    by_place = index.argsort(1)
    order = by_place.gather(1, distances.gather(1, by_place).argsort(dim=1, stable=True)[:, :top])
    return distances.gather(1, order), overall.gather(1, order), index.gather(1, order)


def match_pairs(model: PPCL, pictures: Features, first: Tensor, second: Tensor) -> Tensor:
    """Distances of P pairs of pictures, given by indices `(P,)` -> `(P,)`; averaged over the two directions."""
    weight, found = fusion_weight(model), []
    for query, gallery in ((first, second), (second, first)):
        overall = 1 - (pictures.embedding[query].mean(1) * pictures.embedding[gallery, 0]).sum(1, keepdim=True)
        if weight:
            region = region_distances(model, pictures.as_queries(query), pictures, gallery[:, None])
            overall = fuse(overall, region, weight)
        found.append(overall[:, 0])
    return (found[0] + found[1]) / 2


def _length(model: PPCL, shortlist: int | None) -> int:
    return model.recipe.matching.shortlist if shortlist is None else shortlist


def fusion_weight(model: PPCL) -> float:
    """Share of the region distance chosen for this model's row; 0 for rows without regions."""
    if model.method.region == "none":
        return 0.0
    if model.row not in model.fusion_weights:
        raise ValueError(
            f"no fusion weight is stored for row {model.row!r}: choose it by python -m ppcl train joint --method "
            f"{model.row} (and the run's options)"
        )
    return model.fusion_weights[model.row]
