"""The global step of matching: distances between embeddings, and the nearest pictures in galleries of any size."""

import math

import torch
from torch import Tensor

from .features import Features

BLOCK = {"cpu": 2**22, "cuda": 2**26}  # numbers in the largest tensor of a step; a CPU's cache holds this many


def global_distances(query: Features, gallery: Features) -> Tensor:
    """Cosine distances between embeddings, averaged over the query's views: `(Q, G)` in 0..2."""
    return (query.embedding.mean(1) @ gallery.embedding[:, 0].T).neg_().add_(1)  # in place: the matrix is large


def shortlisted(distances: Tensor, length: int) -> Tensor | None:
    """Indices of each query's `length` nearest gallery pictures `(Q, S)`; None if the shortlist holds all of them."""
    if not length or length >= distances.shape[1]:
        return None
    return distances.topk(length, largest=False).indices


@torch.inference_mode()
def nearest(query: Features, gallery: Features, length: int) -> tuple[Tensor, Tensor]:
    """Each query's `length` nearest gallery pictures by global distance: sorted distances and indices `(Q, S)`.

    Equals the head of a stable sort of `global_distances`, but never holds that matrix: the gallery is read in blocks.
    Pictures whose distance is NaN come last.
    """
    queries, embeddings = query.embedding.mean(1), gallery.embedding[:, 0]
    device, count = queries.device, len(queries)
    best = queries.new_empty(count, 0)  # cosines
    index = torch.empty(count, 0, dtype=torch.long, device=device)
    size = count if embeddings.device == device else max(queries.shape)  # blocks are copied to another device
    width = max(1, length, BLOCK[device.type] // max(1, size))
    memory = queries.new_empty(min(width, len(embeddings)), count)  # one for all blocks, so that it stays in the cache
    for start in range(0, len(embeddings), width):
        block = embeddings[start : start + width].to(device)
        cosines = torch.mm(block, queries.T, out=memory[: len(block)])  # faster than queries @ block.T
        cosines.nan_to_num_(nan=-math.inf)
        if best.shape[1] == length:
            least = best[:, -1]
        else:
            least = cosines.topk(min(length, len(block)), dim=0).values[-1]
        place, row = (cosines >= least).nonzero().T  # few: they may be among a query's nearest
        value = torch.cat([best.flatten(), cosines[place, row]])
        row = torch.cat([torch.arange(count, device=device).repeat_interleave(best.shape[1]), row])
        place = torch.cat([index.flatten(), place + start])
        order = value.argsort(descending=True, stable=True)
        order = order[row[order].argsort(stable=True)]  # by query, then by cosine, then by place in the gallery
        found = row.bincount(minlength=count)
        begin = found.cumsum(0) - found
        order = order[begin[:, None] + torch.arange(min(length, start + len(block)), device=device)]
        best, index = value[order], place[order]
    return 1 - best, index
