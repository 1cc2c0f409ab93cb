"""Augmentation by the batch: flip, shifted crop and erasing of whole pictures; blur, colour and noise of views."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..recipes import Augmentation
from .image_bank import normalise, take
from .partial_views import uniform


def shifted_crops(bank: Tensor, index: Tensor, how: Augmentation, pad: int, rng: torch.Generator) -> Tensor:
    """Pictures `index` `(B,)` of a uint8 bank `(N, 3, H, W)`, augmented as usual in re-identification.

    Each is mirrored with probability `how.flip`, padded by `pad` pixels and cropped to its size at random; with
    probability `how.erase` a box of 2 to 40 % of its area is erased (Random Erasing, 2017). -> normalised
    `(B, 3, H, W)`; padded and erased pixels are 0, the mean colour. Nothing is resampled.
    """
    count, (height, width) = len(index), bank.shape[-2:]
    mirrored = torch.rand(count, generator=rng, device=rng.device) < how.flip
    shift = torch.randint(-pad, pad + 1, (count, 2), generator=rng, device=rng.device)
    erased = torch.rand(count, generator=rng, device=rng.device) < how.erase
    pixels = geometry.constant((width, height) * 2, torch.int64, rng.device)
    corners = geometry.corners(usual_erasing(count, width / height, rng)) * pixels
    holes = corners.round().long().clamp(min=0) * erased[:, None]
    pictures = take(bank, index, rng.device)
    shift_all = _one_by_one if rng.device.type == "cpu" else _all_at_once
    return shift_all(pictures, mirrored, shift, holes)


def _one_by_one(pictures: Tensor, mirrored: Tensor, shift: Tensor, holes: Tensor) -> Tensor:
    """On a CPU, for uint8 pictures `(B, 3, H, W)`."""
    crops = normalise(pictures)
    rows = zip(crops, mirrored.tolist(), shift.tolist(), holes.tolist(), strict=True)
    for crop, mirror, (dx, dy), (left, top, right, bottom) in rows:
        crop.copy_(F.pad(crop.flip(-1) if mirror else crop, (dx, -dx, dy, -dy)))
        crop[:, top:bottom, left:right] = 0
    return crops


def _all_at_once(pictures: Tensor, mirrored: Tensor, shift: Tensor, holes: Tensor) -> Tensor:
    """On a GPU: the same in a few large operations."""
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
    centre = torch.rand(len(strength), 2, generator=rng, device=device)  # a box may reach beyond the picture
    box = torch.cat([centre, uniform(0.15, 0.45, len(strength), 2, rng=rng) * strength[:, None]], 1)
    fill = 255 * torch.rand(len(strength), 3, 1, 1, generator=rng, device=device)

    sharp = images[blurred]
    soft = F.interpolate(geometry.halved(sharp), size=size, mode="bilinear", align_corners=False)
    images[blurred] = sharp.lerp_(soft, softness)
    mean = images.mean((1, 2, 3), keepdim=True) * (scale / contrast - scale)
    torch.addcmul(mean + light, images, scale, out=images)
    images.addcmul_(field.repeat(8, 1, 1, 1)[:count], noise)
    images[erased] = images[erased].lerp_(fill, geometry.coverage(box, tuple(size)))
    return images.clamp_(0, 255)


def usual_erasing(count: int, ratio: float, rng: torch.Generator) -> Tensor:
    """Boxes of random erasing `(count, 4)` within pictures of width / height `ratio`: height / width is 0.3 to 3.3."""
    area = uniform(0.02, 0.4, count, rng=rng)
    shape = uniform(-1.2, 1.2, count, rng=rng).exp()
    width = torch.minimum((area / (shape * ratio)).sqrt(), torch.ones_like(area)).maximum(area)
    size = torch.stack([width, area / width], 1)
    corner = torch.rand(count, 2, generator=rng, device=rng.device) * (1 - size)
    return torch.cat([corner + size / 2, size], 1)
