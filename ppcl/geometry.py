"""Boxes, and the axis-aligned maps between them.

A **box** is `(cx, cy, w, h)` in fractions of its canvas, x to the right and y down; the whole canvas is
`(.5, .5, 1, 1)`. A box is also a map from its own unit square onto a part of its canvas, so boxes compose and invert.
*Crop* reads a view from a canvas at a box; *place* puts a view onto a canvas at its box. The coordinates of
`grid_sample`, `[-1, 1]`, appear only here and in `data.partial_views`.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = (0.5, 0.5, 1.0, 1.0)


def whole(*shape: int, like: Tensor | None = None) -> Tensor:
    """Return the whole canvas as boxes `(*shape, 4)`, on the device and in the dtype of `like`."""
    box = torch.tensor(WHOLE) if like is None else constant(WHOLE, like.dtype, like.device)
    return box.expand(*shape, 4)


@cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return constant numbers `(N,)` on a device, read only; cached, because each copy makes the host wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def corners(box: Tensor) -> Tensor:
    """Edges of boxes: `(…, 4)` cx, cy, w, h -> `(…, 4)` x1, y1, x2, y2."""
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def from_corners(corner: Tensor) -> Tensor:
    """Boxes from their edges: `(…, 4)` x1, y1, x2, y2 -> `(…, 4)` cx, cy, w, h."""
    low, high = corner[..., :2], corner[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The map `outer ∘ inner` `(…, 4)`: `inner`, a box in the unit square of `outer`, on the canvas of `outer`."""
    size = outer[..., 2:]
    return torch.cat([outer[..., :2] + (inner[..., :2] - 0.5) * size, inner[..., 2:] * size], -1)


def invert(box: Tensor) -> Tensor:
    """The inverse map: `compose(box, invert(box))` is the whole canvas. `(…, 4)`; sizes must not be 0."""
    size = 1 / box[..., 2:]
    return torch.cat([0.5 + (0.5 - box[..., :2]) * size, size], -1)


def clip(box: Tensor) -> Tensor:
    """The part of a box inside the canvas, `(…, 4)`; a box entirely outside becomes one of size 0 at the edge."""
    return from_corners(corners(box).clamp(0, 1))


def area(box: Tensor) -> Tensor:
    """Area of boxes, as a fraction of the canvas: `(…, 4)` -> `(…)`."""
    return box[..., 2] * box[..., 3]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes `(…, 4)`, `(…, 4)` -> `(…)`; 0 where both are empty."""
    first, second = corners(a), corners(b)
    overlap = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    both = overlap.clamp(min=0).prod(-1)
    union = area(a) + area(b) - both
    return torch.where(union > 0, both / union.clamp(min=1e-12), torch.zeros_like(union))


def in_figure(box: Tensor, figure: Tensor) -> Tensor:
    """Map a box of a picture into the level frame of its drawn figure: `(…, 4)` -> `(…, 4)`, inverse of `of_figure`.

    figure `(…, 5)`: its box in the picture, and k, by which a camera above enlarges the head relative to the feet.
    """
    k = figure[..., 4].clamp(min=1e-3)
    box = compose(invert(figure[..., :4]), box)
    left, top, right, low = corners(box).unbind(-1)
    top, low = ((1 + k / 2 - ((1 + k / 2).square() - 2 * k * y).clamp(min=0).sqrt()) / k for y in (top, low))
    size = 1 + k * (0.5 - (top + low) / 2)
    level = from_corners(torch.stack([0.5 + (left - 0.5) / size, top, 0.5 + (right - 0.5) / size, low], -1))
    return torch.where(figure[..., 4:] < 1e-3, box, level)


def of_figure(box: Tensor, figure: Tensor) -> Tensor:
    """Map a box of a drawn figure's level frame into its picture, seen from above: `(…, 4)` -> `(…, 4)`.

    Widths at height y are enlarged by 1 + k (0.5 − y) (`drawn.figure._from_above`). A box becomes a trapezium, which is
    replaced by the box of its mean width.
    """
    left, top, right, low = corners(box).unbind(-1)
    above = figure[..., 4]
    size = 1 + above * (0.5 - (top + low) / 2)
    top, low = (y * (1 + above / 2) - above * y.square() / 2 for y in (top, low))
    sides = [0.5 + (left - 0.5) * size, top, 0.5 + (right - 0.5) * size, low]
    return compose(figure[..., :4], from_corners(torch.stack(sides, -1)))


def corner_distance(a: Tensor, b: Tensor) -> Tensor:
    """`‖corners(a) − corners(b)‖` of METHOD.md: mean absolute difference over x1, y1, x2, y2. `(…, 4)` -> `(…)`."""
    return (corners(a) - corners(b)).abs().mean(-1)


def points(box: Tensor, rows: int, columns: int) -> Tensor:
    """The cell centres of a regular grid in a box: `(…, 4)` -> `(…, rows * columns, 2)` x, y, row by row."""
    unit = unit_grid(rows, columns, box.dtype, box.device)
    return box[..., None, :2] + unit * (box[..., None, 2:] / 2)


@cache
def unit_grid(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cell centres in `[-1, 1]`, in half-sizes of a box: `(rows * columns, 2)` x, y, row by row; read only, cached."""
    with torch.inference_mode(False):
        y = (torch.arange(rows, device=device, dtype=dtype) + 0.5) * (2 / rows) - 1
        x = (torch.arange(columns, device=device, dtype=dtype) + 0.5) * (2 / columns) - 1
        return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], -1).reshape(-1, 2)


def crop(canvas: Tensor, box: Tensor, size: tuple[int, int], padding: str = "border") -> Tensor:
    """Read the content of a box, resized: `(B, C, H, W)`, `(B, 4)` -> `(B, C, *size)`, bilinear.

    `padding` (`border` or `zeros`) fills the part of the box outside the canvas.
    """
    position = (points(box, *size) * 2 - 1).reshape(len(box), *size, 2)
    return F.grid_sample(canvas, position, padding_mode=padding, align_corners=False)


def coverage(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of each canvas cell that a box covers: `(B, 4)` -> `(B, 1, *size)` in 0..1, differentiable."""
    low, high = corners(box)[..., :2], corners(box)[..., 2:]

    def along(axis: int, cells: int) -> Tensor:
        edge = torch.arange(cells, device=box.device, dtype=box.dtype) / cells
        inside = torch.minimum(high[..., axis, None], edge + 1 / cells) - torch.maximum(low[..., axis, None], edge)
        return inside.clamp(min=0) * cells

    return (along(1, size[0])[..., :, None] * along(0, size[1])[..., None, :]).unsqueeze(1)


def place(view: Tensor, box: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Put a view onto a canvas at its box: `(B, C, h, w)`, `(B, 4)` -> canvas and visibility `(B, C or 1, *size)`.

    The canvas is zero outside the box; inside it this is the inverse of `crop`. `size` defaults to the view's own.
    """
    size = size or tuple(view.shape[-2:])
    visible = coverage(box, size)
    return crop(view, invert(box), size) * visible, visible


def bilinear(position: Tensor, cells: int) -> Tensor:
    """Bilinear sampling weights along one axis: positions `(…)` in fractions -> `(…, cells)`; rows sum to 1.

    This is the sampling matrix of `grid_sample` with border padding and `align_corners=False`.
    """
    index = (position * cells - 0.5).clamp(0, cells - 1)
    cell = torch.arange(cells, device=position.device, dtype=position.dtype)
    return (1 - (index[..., None] - cell).abs()).clamp(min=0)


def halved(pictures: Tensor) -> Tensor:
    """Average 2 x 2 pixels, for even sides: `(…, H, W)` -> `(…, H / 2, W / 2)`.

    Equal to `F.avg_pool2d(pictures, 2)` bit for bit, and four times as fast on a CPU.
    """
    upper, lower = pictures[..., 0::2, :], pictures[..., 1::2, :]
    total = upper[..., 0::2] + upper[..., 1::2]
    return total.add_(lower[..., 0::2]).add_(lower[..., 1::2]).div_(4)
