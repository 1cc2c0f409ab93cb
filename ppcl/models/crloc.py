"""CRLoc, the corresponding region locator: the region q of picture b that shows the same part as region p of a.

The form is closed, differentiable, and the same in both directions, as PP-Cycle requires. The abstract names the module
and its purpose; this form is a reconstruction (METHOD.md §3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import geometry
from ..recipes import JointStage

MIN_HALF, MAX_HALF = 0.06, 0.6  # half-sizes in fractions of the canvas; the whole canvas has 0.5


class CRLoc(nn.Module):
    """Points of p attend to b by appearance and by a positional prior; a box is fitted to their expected positions.

    `channels`: C of the maps. The recipe gives D, the channels of φ, the grid of K points (rows, columns), and τ and σ
    at the start. Cells less visible than `min_visible` (0 to 1) are left out; without `prior` position does not count.
    """

    def __init__(self, channels: int, recipe: JointStage, min_visible: float = 0.3, prior: bool = True):
        super().__init__()
        self.grid, self.min_visible, self.has_prior = recipe.grid, min_visible, prior
        self.project = nn.Conv2d(channels, recipe.channels, 1, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(recipe.temperature).log())
        self.log_sigma = nn.Parameter(torch.tensor(recipe.sigma).log())

    def keys(self, features: Tensor) -> Tensor:
        """`φ`: map `(B, C, h, w)` -> L2-normalised `(B, D, h, w)`."""
        return F.normalize(self.project(features).float(), dim=1)

    def queries(self, keys: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """φ at the grid points of a region: `(B, D, h, w)`, `(B, 4)` -> `(B, K, D)`, and the points `(B, K, 2)`."""
        points = geometry.points(region, *self.grid)
        sampled = geometry.crop(keys, region, self.grid).flatten(2)
        return F.normalize(sampled, dim=1).transpose(1, 2), points

    def prior(self, points: Tensor, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`−|x − x_k|² / 2σ²` as a dot product of two factors, up to a constant over x, which softmax ignores.

        Points `(…, K, 2)` -> factor of the points `(…, K, 3)`, factor of all positions of a map `(h * w, 3)`.
        """
        positions = geometry.points(geometry.whole(like=points), *cells)
        sharp = (-2 * self.log_sigma).exp() * self.has_prior
        here = torch.cat([points * sharp, torch.ones_like(points[..., :1])], -1)
        return here, torch.cat([positions, -sharp / 2 * positions.square().sum(-1, keepdim=True)], -1)

    def forward(self, keys_a: Tensor, keys_b: Tensor, region: Tensor, visible_b: Tensor) -> tuple[Tensor, Tensor]:
        """Locate regions of a in b -> regions of b `(B, 4)`, confidences `(B,)` in 0..1.

        Keys `(B, D, h, w)`, regions of a `(B, 4)`, visibility of b `(B, 1, h, w)`.
        """
        query, _ = self.queries(keys_a, region)
        located, confidence = self.locate_all(query[:, None], region[:, None], keys_b, visible_b)
        return located[:, 0], confidence[:, 0]

    def locate_all(self, query: Tensor, region: Tensor, keys: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Locate each of A regions in each of B pictures -> regions `(B, A, 4)`, confidences `(B, A)`.

        Queries `(A, K, D)` and regions `(A, 4)`, or `(B, A, …)` if they differ between pictures; keys `(B, D, h, w)`
        and visibility `(B, 1, h, w)` of the pictures. Equal to `forward` for each pair, as one batched product.
        """
        if query.dim() == 3:
            query, region = query[None], region[None]
        shape, points = query.shape[1:3], geometry.points(region, *self.grid)
        positions = geometry.points(geometry.whole(like=points), *keys.shape[-2:]).T
        attention, any_visible = self._attention(query.flatten(1, 2), points.flatten(1, 2), keys, visible)
        moments = torch.cat([torch.ones_like(positions[:1]), positions]) @ attention.transpose(1, 2)
        sharpness = torch.linalg.vector_norm(attention, dim=-1).square()
        moments = (moments * any_visible[:, None, None]).unflatten(2, shape).transpose(1, 2)
        return fit(moments, (sharpness * any_visible[:, None]).unflatten(1, shape), region, self.grid)

    def attention(self, query: Tensor, points: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        """`A_k(x)`: `(B, K, D)`, `(B, K, 2)`, `(B, D, h, w)`, `(B, 1, h, w)` -> `(B, K, h * w)`; rows sum to 1.

        Queries, points, keys and visibility; queries and points `(1, K, …)` serve all pictures. Positions less visible
        than `min_visible` are masked; if none remains, the row is 0.
        """
        attention, any_visible = self._attention(query, points, keys, visible)
        return attention * any_visible[:, None, None]

    def _attention(self, query: Tensor, points: Tensor, keys: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Attention with rows that always sum to 1, and a mask `(B,)` of the pictures that have a visible cell."""
        masked = visible.flatten(1) < self.min_visible
        here, there = self.prior(points, tuple(keys.shape[-2:]))
        there = there.T - F.pad(1e4 * masked[:, None], (0, 0, 2, 0))  # invisible positions count as far away
        query = torch.cat([query / self.log_temperature.exp(), here], -1)
        keys = torch.cat([keys.flatten(2).to(there.dtype), there], 1)
        logits = query.expand(len(keys), -1, -1) @ keys
        out = None if torch.is_grad_enabled() else logits  # the largest tensor of matching: its memory is reused
        return torch.softmax(logits, -1, out=out), ~masked.all(-1)


def fit(moments: Tensor, sharp: Tensor, region: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Weighted least-squares box of the points' expected positions: for each axis `e ≈ centre + half-size · u`.

    moments `(…, 3, K)`: Σ A, Σ A·x, Σ A·y; sharp `(…, K)`: Σ A²; region p `(…, 4)` -> q `(…, 4)`, confidence `(…)` in
    0..1. Where nothing is visible, q is p and the confidence is 0.
    """
    mass = moments[..., :1, :]
    expected = moments[..., 1:, :] / mass.clamp(min=1e-6)
    count = grid[0] * grid[1]
    weight = 0.7 * sharp / sharp.sum(-1, keepdim=True).clamp(min=1e-6) + 0.3 / count
    weight = (weight / weight.sum(-1, keepdim=True))[..., None, :]
    u = geometry.unit_grid(*grid, moments.dtype, moments.device).T
    mean_e, mean_u = (weight * expected).sum(-1, keepdim=True), (weight * u).sum(-1, keepdim=True)
    off = weight * (u - mean_u)
    spread = (off * (u - mean_u)).sum(-1).clamp(min=1e-6)
    half = (off * (expected - mean_e)).sum(-1) / spread
    centre = mean_e.squeeze(-1) - half * mean_u.squeeze(-1)
    located = torch.cat([centre, 2 * half.clamp(MIN_HALF, MAX_HALF)], -1)
    any_visible = (mass > 1e-6).all(-1)
    return torch.where(any_visible, located, region), sharp.mean(-1) * any_visible[..., 0]


def stripes(features: Tensor, region: Tensor, grid: tuple[int, int], count: int = 3) -> Tensor:
    """Region descriptor: map `(B, C, h, w)` sampled at a grid in the region `(B, 4)`, averaged in horizontal stripes.

    -> `(B, count, C)`, not normalised (see `describe_stripes`). `count` divides the rows of the grid.
    """
    weights = stripe_weights(region, grid, tuple(features.shape[-2:]), count)
    return weights @ features.float().flatten(2).transpose(1, 2)


def stripe_weights(region: Tensor, grid: tuple[int, int], cells: tuple[int, int], count: int) -> Tensor:
    """Bilinear weights that read `count` stripes of regions: `(…, 4)` -> `(…, count, h * w)`; each stripe sums to 1."""
    points = geometry.points(region, *grid).unflatten(-2, grid)
    rows = geometry.bilinear(points[..., :, 0, 1], cells[0]).unflatten(-2, (count, -1)).mean(-2)
    columns = geometry.bilinear(points[..., 0, :, 0], cells[1]).mean(-2)
    return (rows[..., :, None] * columns[..., None, None, :]).flatten(-2)


def describe_stripes(whitened: Tensor) -> Tensor:
    """Whitened stripes `(…, S, C)` -> one unit descriptor `(…, S * C)`: each stripe L2-normalised, then 1/√S."""
    return (F.normalize(whitened, dim=-1) / whitened.shape[-2] ** 0.5).flatten(-2)
