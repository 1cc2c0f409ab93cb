"""The field's usual augmentation of whole pictures: flip, a shifted crop of the padded picture, random erasing.

Whole pixels only, so that a batch is copied out of the bank and normalised, and nothing is resampled. What is padded
and what is erased is the mean picture's grey, which is 0 after normalisation.
"""

import torch
from torch import Tensor

from .. import geometry
from ..recipes import Augmentation
from .image_bank import constants, normalise, take
from .partial_views import erasing_boxes


def usual_views(
    bank: Tensor, index: Tensor, how: Augmentation, pad: int, draw: torch.Generator, out: Tensor | None = None
) -> Tensor:
    """Pictures `index` `(B,)` of a bank, uint8 `(N, 3, H, W)`, each with its own draws: normalised `(B, 3, H, W)`.

    Each is mirrored with probability `how.flip`, moved by up to `pad` pixels along each axis, and loses a box with
    probability `how.erase`. Written into `out` where its shape fits, so that training touches no fresh memory.
    """
    count, (height, width) = len(index), bank.shape[-2:]
    mirrored = torch.rand(count, generator=draw, device=draw.device) < how.flip
    shift = torch.randint(-pad, pad + 1, (count, 2), generator=draw, device=draw.device)
    erased = torch.rand(count, generator=draw, device=draw.device) < how.erase
    pixels = geometry.constant((width, height) * 2, torch.int64, draw.device)
    corners = geometry.corners(erasing_boxes(count, draw)) * pixels
    holes = corners.round().long().clamp(min=0) * erased[:, None]
    if draw.device.type != "cpu":
        return _all_at_once(take(bank, index, draw.device), mirrored, shift, holes)
    if out is None or out.shape != (count, *bank.shape[1:]):
        out = torch.empty(count, *bank.shape[1:])
    return _one_by_one(bank, index, mirrored, shift, holes, out)


def _one_by_one(bank: Tensor, index: Tensor, mirrored: Tensor, shift: Tensor, holes: Tensor, out: Tensor) -> Tensor:
    """On a CPU: a picture is copied and normalised while it is in the cache."""
    height, width = bank.shape[-2:]
    scale, offset = constants(width)
    draws = (index.tolist(), mirrored.tolist(), shift.tolist(), holes.tolist())
    for seen, i, mirror, (dx, dy), (left, top, right, bottom) in zip(out, *draws, strict=True):
        picture = bank[i].flip(-1) if mirror else bank[i]
        into = seen[:, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        into.copy_(picture[:, max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)])
        torch.addcmul(offset, seen, scale, out=seen)
        if dy:
            (seen[:, :dy] if dy > 0 else seen[:, dy:]).zero_()
        if dx:
            (seen[..., :dx] if dx > 0 else seen[..., dx:]).zero_()
        if bottom:
            seen[:, top:bottom, left:right].zero_()
    return out


def _all_at_once(pictures: Tensor, mirrored: Tensor, shift: Tensor, holes: Tensor) -> Tensor:
    """The same on a device that wants few and large operations: uint8 pictures `(B, 3, H, W)` there."""
    device, (height, width) = pictures.device, pictures.shape[-2:]
    x, y = torch.arange(width, device=device)[None], torch.arange(height, device=device)[None]
    column, row = x - shift[:, :1], y - shift[:, 1:]
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
    across, down = (x >= holes[:, :1]) & (x < holes[:, 2:3]), (y >= holes[:, 1:2]) & (y < holes[:, 3:])
    keep = inside & ~(down[:, :, None] & across[:, None])
    column = torch.where(mirrored[:, None], width - 1 - column, column).clamp(0, width - 1)
    where = row.clamp(0, height - 1)[:, :, None] * width + column[:, None]
    moved = pictures.flatten(2).gather(2, where.flatten(1)[:, None].expand(-1, 3, -1)).view(pictures.shape)
    return normalise(moved) * keep[:, None]
