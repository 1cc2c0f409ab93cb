"""Descriptors and distances of other methods on the same maps: stripes by visibility (PCB, VPM), DSR."""

import torch
import torch.nn.functional as F
from torch import Tensor


def canvas_stripes(maps: Tensor, visible: Tensor, count: int) -> Tensor:
    """Horizontal stripes of the canvas: maps `(B, C, h, w)`, visibility `(B, 1, h, w)` -> `(B, count, C)`.

    Each is the mean of its visible cells, L2-normalised, times its visible share (PCB, ECCV 2018; VPM, CVPR 2019).
    """
    read, seen = (F.adaptive_avg_pool2d(some, (count, 1))[..., 0] for some in (maps * visible, visible))
    return (F.normalize(read, dim=1) * seen).transpose(1, 2)


def stripe_distances(a: Tensor, b: Tensor) -> Tensor:
    """VPM's distances of `canvas_stripes` `(A, S, C)`, `(B, S, C)` -> `(A, B)` in 0..2.

    One minus the mean cosine, weighted by the product of visible shares; 1 where no stripe is visible in both.
    """
    shared = a.norm(dim=-1).detach() @ b.norm(dim=-1).detach().T
    return 1 - a.flatten(1) @ b.flatten(1).T / shared.clamp(min=1e-6)


def unit_cells(maps: Tensor, visible: Tensor, least: float) -> Tensor:
    """L2-normalised cells of maps `(B, C, h, w)` -> `(B, h * w, C)`; cells less visible than `least` are 0."""
    return (F.normalize(maps, dim=1) * (visible >= least)).flatten(2).transpose(1, 2)


def reconstruction(cells: Tensor, ridge: float) -> Tensor:
    """Matrices K `(B, N, N)`: cells X `(B, N, C)` explain the share `yᵀXᵀKXy` of a unit cell y (see `unexplained`)."""
    gram = cells @ cells.transpose(1, 2)
    inverse = torch.linalg.inv(gram + ridge * torch.eye(gram.shape[-1], device=gram.device))
    return inverse + ridge * inverse @ inverse


def unexplained(mine: Tensor, theirs: Tensor, form: Tensor) -> Tensor:
    """DSR's distances (CVPR 2018) in closed ridge form: query cells `(A, N, C)`, gallery cells `(B, N, C)` -> `(A, B)`.

    Mean over the query's visible cells y of `‖y − Xᵀw‖²`, w minimising `‖y − Xᵀw‖² + ridge · ‖w‖²`; in 0..1. `form`:
    the gallery's `reconstruction`.
    """
    along = theirs @ mine.flatten(0, 1).T  # (B, N, A * N)
    explained = (along * (form @ along)).sum(1).unflatten(1, mine.shape[:2]).sum(-1)
    return 1 - explained.T / mine.square().sum((1, 2)).clamp(min=1)[:, None]
