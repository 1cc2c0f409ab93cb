"""Augmentation by the batch: flip, shifted crop and erasing of whole pictures; blur, colour and noise of views."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..recipes import Augmentation
from .image_bank import affine, constants, normalise, take
from .partial_views import uniform


def shifted_crops(
    bank: Tensor, index: Tensor, how: Augmentation, pad: int, rng: torch.Generator, out: Tensor | None = None
) -> Tensor:
    """Pictures `index` `(B,)` of a uint8 bank `(N, 3, H, W)`, augmented as usual in re-identification.

    Each is mirrored with probability `how.flip`, padded by `pad` pixels and cropped to its size at random, and loses a
    box with probability `how.erase`. -> normalised `(B, 3, H, W)`; padded and erased pixels are 0, the mean colour.
    Nothing is resampled. Written into `out` where its shape fits, so that training allocates nothing.
    """
    count, (height, width) = len(index), bank.shape[-2:]
    mirrored = torch.rand(count, generator=rng, device=rng.device) < how.flip
    shift = torch.randint(-pad, pad + 1, (count, 2), generator=rng, device=rng.device)
    erased = torch.rand(count, generator=rng, device=rng.device) < how.erase
    pixels = geometry.constant((width, height) * 2, torch.int64, rng.device)
    corners = geometry.corners(erasing_boxes(count, rng)) * pixels
    holes = corners.round().long().clamp(min=0) * erased[:, None]
    if rng.device.type != "cpu":
        return _all_at_once(take(bank, index, rng.device), mirrored, shift, holes)
    if out is None or out.shape != (count, *bank.shape[1:]):
        out = torch.empty(count, *bank.shape[1:])
    return _one_by_one(bank, index, mirrored, shift, holes, out)


def _one_by_one(bank: Tensor, index: Tensor, mirrored: Tensor, shift: Tensor, holes: Tensor, out: Tensor) -> Tensor:
    """On a CPU: each picture is copied and normalised while it is in the cache."""
    height, width = bank.shape[-2:]
    scale, offset = constants(width)
    rows = (index.tolist(), mirrored.tolist(), shift.tolist(), holes.tolist())
    for crop, i, mirror, (dx, dy), (left, top, right, bottom) in zip(out, *rows, strict=True):
        picture = bank[i].flip(-1) if mirror else bank[i]
        inside = crop[:, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        inside.copy_(picture[:, max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)])
        torch.addcmul(offset, crop, scale, out=crop)
        if dy:
            (crop[:, :dy] if dy > 0 else crop[:, dy:]).zero_()
        if dx:
            (crop[..., :dx] if dx > 0 else crop[..., dx:]).zero_()
        if bottom:
            crop[:, top:bottom, left:right].zero_()
    return out


def _all_at_once(pictures: Tensor, mirrored: Tensor, shift: Tensor, holes: Tensor) -> Tensor:
    """On a GPU: the same in a few large operations, for uint8 pictures `(B, 3, H, W)` there."""
    device, (height, width) = pictures.device, pictures.shape[-2:]
    x, y = torch.arange(width, device=device)[None], torch.arange(height, device=device)[None]
    column, row = x - shift[:, :1], y - shift[:, 1:]
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
    across, down = (x >= holes[:, :1]) & (x < holes[:, 2:3]), (y >= holes[:, 1:2]) & (y < holes[:, 3:])
    keep = inside & ~(down[:, :, None] & across[:, None])
    column = torch.where(mirrored[:, None], width - 1 - column, column).clamp(0, width - 1)
    pixel = row.clamp(0, height - 1)[:, :, None] * width + column[:, None]
    moved = pictures.flatten(2).gather(2, pixel.flatten(1)[:, None].expand(-1, 3, -1)).view(pictures.shape)
    return normalise(moved) * keep[:, None]


def augment(images: Tensor, how: Augmentation, rng: torch.Generator) -> Tensor:
    """Blur, recolour, add noise and erase a box of float pictures `(B, 3, H, W)` in 0..255, each at random; in place.

    Whole and partial views are blurred and made noisy alike, after the crop: sharpness must not reveal a crop. On a
    CPU only the pictures chosen for blur or erasing are computed; on a GPU all are, the others with strength 0, since
    the host would have to wait for the choice.
    """
    count, _, *size = images.shape
    device = rng.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, device=device)

    def choose(probability: float) -> tuple[Tensor | slice, Tensor]:
        """The chosen pictures, and the strength of each."""
        chosen = torch.rand(count, generator=rng, device=device) < probability
        if device.type == "cuda":
            return slice(None), chosen.float()
        index = chosen.nonzero().squeeze(1)
        return index, torch.ones(len(index), device=device)

    blurred, strength = choose(how.blur)
    softness = strength[:, None, None, None] * torch.rand(len(strength), 1, 1, 1, generator=rng, device=device)
    contrast, gain = (1 + how.colour * normal(2, count, 1, 1, 1)).clamp(min=0.2)  # no negatives
    scale = contrast * gain * (1 + 0.3 * how.colour * normal(count, 3, 1, 1))
    light = 127.5 * how.colour * normal(count, 1, 1, 1)
    field = normal(-(-count // 8), 3, *size)  # eight pictures share a field of noise, each at its own strength
    noise = 255 * how.noise * normal(count, 1, 1, 1)
    erased, strength = choose(how.erase)
    box = erasing_boxes(len(strength), rng)
    box = torch.cat([box[:, :2], box[:, 2:] * strength[:, None]], 1)
    fill = 255 * torch.rand(len(strength), 3, 1, 1, generator=rng, device=device)

    step = len(field)  # on a CPU as many pictures at a time as there are fields, so that they stay in the cache
    if device.type != "cpu":
        step, field = max(1, count), field.repeat(8, 1, 1, 1)[:count]
    for start in range(0, count, step):
        some = slice(start, start + step)
        part = images[some]
        chosen, own = _within(blurred, start, step)
        sharp = part[own]
        soft = F.interpolate(_halved(sharp), size=size, mode="bilinear", align_corners=False)
        part[own] = sharp.lerp_(soft, softness[chosen])
        mean = part.mean((1, 2, 3), keepdim=True) * (scale[some] / contrast[some] - scale[some])
        affine(part, scale[some], mean + light[some], out=part)
        part.addcmul_(field[: len(part)], noise[some])
        chosen, own = _within(erased, start, step)
        part[own] = part[own].lerp_(fill[chosen], geometry.coverage(box[chosen], tuple(size)))
        part.clamp_(0, 255)
    return images


def erasing_boxes(count: int, rng: torch.Generator) -> Tensor:
    """Boxes of random erasing `(count, 4)`; they may reach beyond the picture."""
    centre = torch.rand(count, 2, generator=rng, device=rng.device)
    return torch.cat([centre, uniform(0.15, 0.45, count, 2, rng=rng)], 1)


def _halved(pictures: Tensor) -> Tensor:
    """`F.avg_pool2d(pictures, 2)` bit for bit, four times as fast on a CPU."""
    upper, lower = pictures[..., 0::2, :], pictures[..., 1::2, :]
    total = upper[..., 0::2] + upper[..., 1::2]
    return total.add_(lower[..., 0::2]).add_(lower[..., 1::2]).div_(4)


def _within(index: Tensor | slice, start: int, count: int) -> tuple[Tensor | slice, Tensor | slice]:
    """Entries of a sorted index in start … start + count: a mask of them, and their values less `start`.

    A slice means all pictures at once.
    """
    if isinstance(index, slice):
        return index, index
    mine = (index >= start) & (index < start + count)
    return mine, index[mine] - start
