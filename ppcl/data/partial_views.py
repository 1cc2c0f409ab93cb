"""Random boxes of pictures, partial views read at known boxes, and the random generators behind them."""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..recipes import KINDS, GLRecStage
from .image_bank import take


def make_rng(seed: int, *key, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator made from (seed, key…) alone, the same in every process and after a resume."""
    digest = hashlib.sha256("/".join(map(str, (seed, *key))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def uniform(low: float, high: float, *shape: int, rng: torch.Generator) -> Tensor:
    """Uniform random numbers on the generator's device."""
    return torch.rand(*shape, generator=rng, device=rng.device) * (high - low) + low


def part_boxes(
    count: int, rng: torch.Generator, kinds: tuple[str, ...] = KINDS, area: tuple[float, float] = (0.1, 0.9)
) -> tuple[Tensor, Tensor]:
    """Boxes of random parts `(count, 4)`, and the index of each one's kind in KINDS `(count,)`.

    Side crops keep 0.35-0.7 of the canvas along one axis and 0.8-1 along the other; random crops keep `area` of it.
    """
    device = rng.device
    allowed = geometry.constant(tuple(KINDS.index(kind) for kind in kinds), torch.int64, device)
    kind = allowed[torch.randint(len(kinds), (count,), generator=rng, device=device)]
    kept, across = uniform(0.35, 0.7, count, rng=rng), uniform(0.8, 1, count, rng=rng)
    slide, edge = torch.rand(2, count, generator=rng, device=device)
    edge = edge * 0.04  # a side crop starts at the side, or nearly
    kept_area, shape = uniform(*area, count, rng=rng), uniform(-0.7, 0.7, count, rng=rng)
    shape = torch.maximum(torch.minimum(shape, -kept_area.log()), kept_area.log())  # no side longer than the canvas
    width = kept_area.sqrt() * (shape / 2).exp()
    height = kept_area / width
    place = torch.rand(2, count, generator=rng, device=device)

    vertical = (kind == 2) | (kind == 3)  # upper, lower: cut along y
    side = torch.stack([torch.where(vertical, across, kept), torch.where(vertical, kept, across)], -1)
    size = torch.where((kind == 4)[:, None], torch.stack([width, height], -1), side)
    free = 1 - size
    along = torch.where((kind == 0) | (kind == 2), torch.minimum(edge, 1 - kept), (1 - kept - edge).clamp(min=0))
    other = slide * (1 - across)
    low = torch.stack([torch.where(vertical, other, along), torch.where(vertical, along, other)], -1)
    low = torch.where((kind == 4)[:, None], place.T * free, low)
    return torch.cat([low + size / 2, size], -1), kind


def training_crops(count: int, how: GLRecStage, rng: torch.Generator) -> Tensor:
    """Boxes of the recipe's training crops, `(count, 4)`."""
    return part_boxes(count, rng, tuple(how.crops.split(",")), how.area)[0]


def view_boxes(count: int, scale: tuple[float, float], shift: float, rng: torch.Generator) -> Tensor:
    """Boxes of shifted and scaled views of a whole picture, `(count, 4)`; they may reach beyond it."""
    size = uniform(*scale, count, 1, rng=rng).expand(count, 2)
    centre = 0.5 + uniform(-shift, shift, count, 2, rng=rng)
    return torch.cat([centre, size], -1)


def ratio_of(box: Tensor, jitter: float, rng: torch.Generator) -> Tensor:
    """log(width / height) of a file cropped at `box`, with the noise of real detections."""
    noise = torch.randn(len(box), generator=rng, device=rng.device) * jitter
    return (box[:, 2] / box[:, 3]).log() + noise.clamp(-3 * jitter, 3 * jitter)


def read_views(images: Tensor, boxes: Tensor, mirrored: Tensor, index: Tensor | None = None) -> Tensor:
    """Read views of uint8 pictures `(B, 3, H, W)` at boxes `(B, 4)`: float 0..255, `(B, 3, H, W)`.

    Pictures of the mask `mirrored` `(B,)` are mirrored first, so their box lies on the mirrored canvas. With `index`
    `(B,)` the pictures are entries of a bank `(N, 3, H, W)`. Equal to `geometry.crop` bit for bit. On a CPU four
    pictures at a time stay in the cache.
    """
    device, (height, width) = boxes.device, images.shape[-2:]
    sides = (1, width), (height, 1)
    unit = [geometry.unit_grid(*cells, boxes.dtype, device)[:, axis] for axis, cells in enumerate(sides)]
    x, y = ((boxes[:, axis, None] + unit[axis] * boxes[:, 2 + axis, None] / 2) * 2 - 1 for axis in (0, 1))
    x = torch.where(mirrored[:, None], -x, x)
    step = 4 if device.type == "cpu" else max(1, len(boxes))
    views = torch.empty(len(boxes), *images.shape[1:], device=device)
    for start in range(0, len(boxes), step):
        some = slice(start, start + step)
        pictures = images[some] if index is None else take(images, index[some], device)
        grid = torch.stack(torch.broadcast_tensors(x[some, None], y[some, :, None]), -1)
        views[some] = F.grid_sample(pictures.float(), grid, padding_mode="border", align_corners=False)
    return views
