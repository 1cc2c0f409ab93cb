"""P x K identity batches, partial views with known boxes, and augmentation by the batch.

All randomness comes from a generator made of (seed, stage, epoch, step), so that a resumed run draws the same.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..recipes import KINDS, Augmentation, GLRecStage
from .image_bank import affine, take


def generator(seed: int, *key, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on (seed, key…) alone, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, (seed, *key))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def uniform(low: float, high: float, *shape: int, draw: torch.Generator) -> Tensor:
    """Uniform numbers on the generator's device."""
    return torch.rand(*shape, generator=draw, device=draw.device) * (high - low) + low


def identity_batches(identities: np.ndarray, people: int, each: int, draw: torch.Generator) -> Iterator[Tensor]:
    """One epoch of batches of `people` identities x `each` pictures: indices `(people * each,)`, by identity.

    Identities come from shuffled rounds through all of them, so none is missed; the pictures of one are drawn anew for
    each batch, in it without repetition until they run out. As many batches as fill the set once, one at least.
    """
    order = np.argsort(identities, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)
    if len(groups) < people:
        raise ValueError(
            f"{len(groups)} identities cannot fill a batch of {people}: lower the stage's identities and batch"
        )
    waiting: list[int] = []
    for _ in range(max(1, len(identities) // (people * each))):
        if len(waiting) < people:
            fresh = torch.randperm(len(groups), generator=draw).tolist()
            waiting += [g for g in fresh if g not in waiting] + [g for g in fresh if g in waiting]
        chosen, waiting = waiting[:people], waiting[people:]
        batch = []
        for group in chosen:
            members = groups[group]
            rounds = -(-each // len(members))
            picks = [torch.randperm(len(members), generator=draw) for _ in range(rounds)]
            batch.append(members[torch.cat(picks)[:each].numpy()])
        yield torch.from_numpy(np.concatenate(batch))


def shuffled_batches(count: int, size: int, draw: torch.Generator) -> Iterator[Tensor]:
    """One epoch of batches in random order: indices `(size,)`; a set smaller than a batch gives one smaller batch."""
    order = torch.randperm(count, generator=draw)
    yield from order.split(min(size, count))[: max(1, count // size)]


def part_boxes(
    count: int, draw: torch.Generator, kinds: tuple[str, ...] = KINDS, area: tuple[float, float] = (0.1, 0.9)
) -> tuple[Tensor, Tensor]:
    """Known crops: boxes `(count, 4)` of the canvas and the index of each one's kind in KINDS `(count,)`.

    Sides keep 0.35-0.7 of the canvas along one axis and 0.8-1 along the other; random boxes keep `area` of it.
    """
    device = draw.device
    allowed = geometry.constant(tuple(KINDS.index(kind) for kind in kinds), torch.int64, device)
    kind = allowed[torch.randint(len(kinds), (count,), generator=draw, device=device)]
    kept, across = uniform(0.35, 0.7, count, draw=draw), uniform(0.8, 1, count, draw=draw)
    slide, edge = torch.rand(2, count, generator=draw, device=device)
    edge = edge * 0.04  # a side crop starts at the side, or nearly
    kept_area, shape = uniform(*area, count, draw=draw), uniform(-0.7, 0.7, count, draw=draw)
    shape = torch.maximum(torch.minimum(shape, -kept_area.log()), kept_area.log())  # no side longer than the canvas
    width = kept_area.sqrt() * (shape / 2).exp()
    height = kept_area / width
    place = torch.rand(2, count, generator=draw, device=device)

    vertical = (kind == 2) | (kind == 3)  # upper, lower: cut along y
    side = torch.stack([torch.where(vertical, across, kept), torch.where(vertical, kept, across)], -1)
    size = torch.where((kind == 4)[:, None], torch.stack([width, height], -1), side)
    free = 1 - size
    along = torch.where((kind == 0) | (kind == 2), torch.minimum(edge, 1 - kept), (1 - kept - edge).clamp(min=0))
    other = slide * (1 - across)
    low = torch.stack([torch.where(vertical, other, along), torch.where(vertical, along, other)], -1)
    low = torch.where((kind == 4)[:, None], place.T * free, low)
    return torch.cat([low + size / 2, size], -1), kind


def training_crops(count: int, how: GLRecStage, draw: torch.Generator) -> Tensor:
    """Crops of the kinds that the recipe trains on, `(count, 4)`."""
    return part_boxes(count, draw, tuple(how.crops.split(",")), how.area)[0]


def view_boxes(count: int, scale: tuple[float, float], shift: float, draw: torch.Generator) -> Tensor:
    """Slightly moved and scaled boxes of a picture, `(count, 4)`; they may leave it."""
    size = uniform(*scale, count, 1, draw=draw).expand(count, 2)
    centre = 0.5 + uniform(-shift, shift, count, 2, draw=draw)
    return torch.cat([centre, size], -1)


def ratio_of(box: Tensor, jitter: float, draw: torch.Generator) -> Tensor:
    """log(width / height) that a file cropped at `box` would show: the box's own, blurred as real detections vary."""
    noise = torch.randn(len(box), generator=draw, device=draw.device) * jitter
    return (box[:, 2] / box[:, 3]).log() + noise.clamp(-3 * jitter, 3 * jitter)


def read_views(
    images: Tensor, boxes: Tensor, mirrored: Tensor, index: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Views of uint8 pictures `(B, 3, H, W)` at boxes `(B, 4)`, mirrored where asked `(B,)`: float 0..255, same size.

    A mirrored picture is turned first: the box lies on the mirrored canvas. With `index` `(B,)` the pictures are those
    of a bank `(N, 3, H, W)`. `geometry.crop` to the bit; written into `out` where given. On a CPU a few at a time:
    pictures, grid and views of all of them would not stay in its cache.
    """
    device, (height, width) = boxes.device, images.shape[-2:]
    unit = [geometry.unit_grid(*cells, boxes)[:, axis] for axis, cells in enumerate(((1, width), (height, 1)))]
    x, y = ((boxes[:, axis, None] + unit[axis] * boxes[:, 2 + axis, None] / 2) * 2 - 1 for axis in (0, 1))
    x = torch.where(mirrored[:, None], -x, x)
    step = 4 if device.type == "cpu" else max(1, len(boxes))
    seen = torch.empty(len(boxes), *images.shape[1:], device=device) if out is None else out
    for start in range(0, len(boxes), step):
        some = slice(start, start + step)
        pictures = images[some] if index is None else take(images, index[some], device)
        grid = torch.stack(torch.broadcast_tensors(x[some, None], y[some, :, None]), -1)
        seen[some] = F.grid_sample(pictures.float(), grid, padding_mode="border", align_corners=False)
    return seen


def augment(images: Tensor, how: Augmentation, draw: torch.Generator) -> Tensor:
    """Blur, colour, noise and erasing for float pictures `(B, 3, H, W)` in 0..255, each picture its own; in place.

    Whole and partial views are blurred and made noisy alike, after the crop: sharpness must not betray a crop.
    Blur and erasing befall some: those alone are worked on, but on a GPU all, the others with strength 0, because the
    host would wait for the answer to which they are.
    """
    count, _, *size = images.shape
    device = draw.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    def some(part: float) -> tuple[Tensor | slice, Tensor]:
        hit = torch.rand(count, generator=draw, device=device) < part
        if device.type == "cuda":
            return slice(None), hit.float()
        index = hit.nonzero().squeeze(1)
        return index, torch.ones(len(index), device=device)

    blurred, strength = some(how.blur)
    softness = strength[:, None, None, None] * torch.rand(len(strength), 1, 1, 1, generator=draw, device=device)
    contrast, gain = (1 + how.colour * normal(2, count, 1, 1, 1)).clamp(min=0.2)  # no negatives
    scale = contrast * gain * (1 + 0.3 * how.colour * normal(count, 3, 1, 1))
    light = 127.5 * how.colour * normal(count, 1, 1, 1)
    field = normal(-(-count // 8), 3, *size)  # one field serves eight pictures, each its strength
    noise = 255 * how.noise * normal(count, 1, 1, 1)
    erased, strength = some(how.erase)
    box = erasing_boxes(len(strength), draw)
    box = torch.cat([box[:, :2], box[:, 2:] * strength[:, None]], 1)  # or of no size
    fill = 255 * torch.rand(len(strength), 3, 1, 1, generator=draw, device=device)

    step = len(field)  # on a CPU as many pictures at a time as there are fields, so that they stay in its cache
    if device.type != "cpu":
        step, field = max(1, count), field.repeat(8, 1, 1, 1)[:count]
    for start in range(0, count, step):
        some = slice(start, start + step)
        part = images[some]
        mine, own = _within(blurred, start, step)
        sharp = part[own]
        soft = F.interpolate(_halved(sharp), size=size, mode="bilinear", align_corners=False)
        part[own] = sharp.lerp_(soft, softness[mine])
        mean = part.mean((1, 2, 3), keepdim=True) * (scale[some] / contrast[some] - scale[some])
        affine(part, scale[some], mean + light[some], out=part)
        part.addcmul_(field[: len(part)], noise[some])
        mine, own = _within(erased, start, step)
        part[own] = part[own].lerp_(fill[mine], geometry.coverage(box[mine], tuple(size)))
        part.clamp_(0, 255)
    return images


def _halved(pictures: Tensor) -> Tensor:
    """`F.avg_pool2d(pictures, 2)` to the bit; four times as fast on a CPU."""
    upper, lower = pictures[..., 0::2, :], pictures[..., 1::2, :]
    total = upper[..., 0::2] + upper[..., 1::2]
    return total.add_(lower[..., 0::2]).add_(lower[..., 1::2]).div_(4)


def _within(index: Tensor | slice, start: int, count: int) -> tuple[Tensor | slice, Tensor | slice]:
    """The part of a rising index that lies in start … start + count: a mask of it, and its entries from 0.

    A slice stands for all pictures at once.
    """
    if isinstance(index, slice):
        return index, index
    mine = (index >= start) & (index < start + count)
    return mine, index[mine] - start


def erasing_boxes(count: int, draw: torch.Generator) -> Tensor:
    """Boxes of random erasing `(count, 4)`; they may leave the picture."""
    centre = torch.rand(count, 2, generator=draw, device=draw.device)
    return torch.cat([centre, uniform(0.15, 0.45, count, 2, draw=draw)], 1)
