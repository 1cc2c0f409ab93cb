"""The global step of matching: distances of embeddings, and the nearest by them in galleries of any size."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import Features

BLOCK = {"cpu": 2**22, "cuda": 2**26}  # numbers in the largest tensor of a step: on a CPU what its cache holds
GROUP = 16  # gallery pictures that the search for the nearest dismisses at once


def global_distances(query: Features, gallery: Features) -> Tensor:
    """Cosine distance of embeddings, mean over the query's views: `(Q, G)` in 0..2."""
    return (query.embedding.mean(1) @ gallery.embedding[:, 0].T).neg_().add_(1)  # large: made once, not twice


def shortlisted(distances: Tensor, length: int) -> Tensor | None:
    """The `length` nearest gallery pictures of each query by global distance `(Q, S)`; None where all are taken."""
    if not length or length >= distances.shape[1]:
        return None
    return distances.topk(length, largest=False).indices


@torch.inference_mode()
def nearest(query: Features, gallery: Features, length: int) -> tuple[Tensor, Tensor]:
    """The `length` nearest gallery pictures of each query by global distance: distances and indices `(Q, S)`, sorted.

    The head of a stable sort of `global_distances`, without ever holding that matrix: of each block of the gallery
    those stay that are among the nearest so far.
    """
    asked, there = query.embedding.mean(1), gallery.embedding[:, 0]
    found = asked.new_empty(len(asked), 0)  # cosines
    index = torch.empty(found.shape, dtype=torch.long, device=asked.device)
    size = len(asked) if there.device == asked.device else max(asked.shape)  # rows are copied to another device
    wide = max(1, length, BLOCK[asked.device.type] // max(1, size))
    held = asked.new_empty(min(wide, len(gallery)), len(asked))  # written to again and again: it stays in the cache
    for start in range(0, len(gallery), wide):
        rows = there[start : start + wide].to(asked.device)
        some = torch.mm(rows, asked.T, out=held[: len(rows)])  # the long side first: the faster product
        if not length or len(some) < GROUP * length:
            better, place = _last(some).T, torch.arange(len(some), device=some.device).expand(some.T.shape)
        else:
            better, place = _better(some, found, length)
        found, index = torch.cat([found, better], 1), torch.cat([index, place + start], 1)
        found, order = (value[:, :length] for value in found.sort(dim=1, descending=True, stable=True))
        index = index.gather(1, order)
    return 1 - found, index


def _better(cosines: Tensor, found: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Of a block's cosines `(W, Q)` those that may be among the `length` largest of a query, given those found so far.

    -> cosines, filled up with -inf, and places in the block, which rise, both `(Q, the most of any query)`. Most of a
    block is dismissed by the maxima of groups.
    """
    if missing := -len(cosines) % GROUP:
        cosines = F.pad(cosines, (0, 0, 0, missing), value=-math.inf)
    groups = cosines.unflatten(0, (-1, GROUP))
    largest = groups.amax(1)
    least = found[:, -1] if found.shape[1] == length else _last(largest).topk(length, dim=0).values[-1]
    query, group = (~(largest < least)).T.nonzero().T  # and those with NaN: what stands beside it may be large
    values = groups[group, :, query]
    pair, member = ((values >= least[query, None]) & (values > -math.inf)).nonzero().T
    values, query, place = values[pair, member], query[pair], group[pair] * GROUP + member
    counts = query.bincount(minlength=len(least))
    rank = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
    shape = len(least), max(counts.tolist(), default=length)
    better = values.new_full(shape, -math.inf).index_put_((query, rank), values)
    return better, place.new_zeros(shape).index_put_((query, rank), place)


def _last(cosines: Tensor) -> Tensor:
    """NaN, which would count as the largest, as the smallest."""
    return cosines.nan_to_num(nan=-math.inf)
