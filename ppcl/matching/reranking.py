"""k-reciprocal re-ranking (Zhong, Zheng, Cao, Li; CVPR 2017) with sparse sets: no matrix of all pairs is made."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..recipes import Matching


@torch.inference_mode()
def rerank(distances: np.ndarray, query: Tensor, gallery: Tensor, how: Matching) -> np.ndarray:
    """Re-rank the distances `(Q, G)` of a row: `(1 − weight) · Jaccard + weight · distance`, `(Q, G)`.

    The neighbour sets come from cosine distances of embeddings `(Q, C)` and `(G, C)`. N(i, k): i and its k nearest of
    all Q + G pictures; R(i, k): those j in N(i, k) with i in N(j, k). R(i, k1) is extended by each R(j, k1/2), j in
    R(i, k1), of which at least two thirds lie in R(i, k1). Members weigh exp(−distance), averaged over i and its k2 − 1
    nearest. Jaccard is 1 − Σ min / Σ max of the weights, 0 to 1.
    """
    from scipy import sparse  # slow to import

    x = F.normalize(torch.cat([query, gallery.to(query)]).double(), dim=1)
    count, queries = len(x), len(query)
    order = _nearest(x, min(count, max(how.rerank_k1 + 1, how.rerank_k2)))

    def nearest(k: int):
        columns = order[:, :k]
        begin = np.arange(0, columns.size + 1, columns.shape[1])
        return sparse.csr_array((np.ones(columns.size), columns.ravel(), begin), shape=(count, count))

    def reciprocal(k: int):
        found = nearest(k + 1)
        return found.multiply(found.T).tocsr()

    wide, half = reciprocal(how.rerank_k1), reciprocal(round(how.rerank_k1 / 2))
    shared = (wide @ half.T).multiply(wide).tocoo()
    kept = 3 * shared.data >= 2 * half.sum(1)[shared.col]
    joined = sparse.csr_array((kept.astype(float), (shared.row, shared.col)), shape=(count, count))
    i, j = (wide + joined @ half).nonzero()
    pairs = torch.from_numpy(np.stack([i, j])).to(x.device).split(2**16, dim=1)
    cosines = torch.cat([(x[some[0]] * x[some[1]]).sum(1) for some in pairs]).cpu().numpy()
    weights = sparse.csr_array((np.exp(cosines - 1), (i, j)), shape=(count, count))
    weights = (nearest(how.rerank_k2) @ weights / min(how.rerank_k2, count)).tocsr()

    total, columns = weights.sum(1), weights[queries:].tocsc()
    reranked = np.empty(distances.shape)
    for one in range(queries):
        mine = weights[[one]]
        theirs = columns[:, mine.indices]
        least = np.minimum(theirs.data, np.repeat(mine.data, np.diff(theirs.indptr)))
        least = np.bincount(theirs.indices, least, minlength=count - queries)
        reranked[one] = 1 - least / (total[one] + total[queries:] - least)
    return (1 - how.rerank_weight) * reranked + how.rerank_weight * distances


def _nearest(x: Tensor, length: int) -> np.ndarray:
    """Indices `(n, length)` of the nearest vectors by cosine, for unit vectors `(n, C)`; each vector itself first."""
    found = []
    for start in range(0, len(x), 1024):
        cosines = x[start : start + 1024] @ x.T
        cosines.diagonal(start).fill_(2)
        found.append(cosines.topk(length).indices)
    return torch.cat(found).cpu().numpy()
