"""ImageBank: a whole set decoded once into one uint8 tensor, with each picture's original size."""

import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..disk.progress import bar
from ..geometry import constant
from . import bank_files
from .image_files import open_picture, plain_jpeg, rgb, to_tensor
from .reading import DataError

KEPT = 1 << 28  # bytes; a larger bank is kept on the disk, where the caller names a file for it
BLOCK = 1 << 26  # bytes that are decoded at a time into such a file
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights want them


@dataclass
class ImageBank:
    """N pictures as one tensor, on any device.

    images: uint8 `(N, 3, H, W)`; ratios: float `(N,)`, log(width / height) of the file relative to the canvas's.
    """

    images: Tensor
    ratios: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every picture, in pixels."""
        return tuple(self.images.shape[-2:])

    def to(self, device: torch.device | str) -> "ImageBank":
        """The same pictures on a device."""
        return ImageBank(self.images.to(device), self.ratios.to(device))

    def __getitem__(self, index) -> "ImageBank":
        return ImageBank(self.images[index], self.ratios[index])


def bank(
    pictures, size: tuple[int, int], label: str = "decoding", quiet: bool | None = None, kept: Path | None = None
) -> ImageBank:
    """Decode paths or PIL images into an ImageBank of `size` (height, width).

    A bank of more than KEPT bytes is decoded into the file `kept`, if one is given, and mapped from there, this time
    and the next: it needs no memory of its own. Raises DataError that lists every unreadable file at once, so that one
    run finds them all.
    """
    pictures = list(pictures)
    if not pictures:
        raise DataError(f"{label}: no pictures")
    shape = (len(pictures), 3, *size)
    key = None if kept is None or math.prod(shape) <= KEPT else bank_files.key(pictures, size)
    if key and (found := bank_files.opened(kept, key, shape)):
        return ImageBank(*found)
    if key is None or not bank_files.has_room(kept, shape):
        images = torch.from_numpy(np.empty(shape, np.uint8))  # NumPy asks for huge pages: a quarter of the time
        ratios = torch.empty(len(pictures))
        for _ in _decode(pictures, label, quiet, images, ratios):
            pass
        return ImageBank(images, ratios)
    block = torch.empty(min(len(pictures), max(1, BLOCK // math.prod(shape[1:]))), *shape[1:], dtype=torch.uint8)
    ratios = torch.empty(len(pictures))
    bank_files.write(kept, key, shape, _decode(pictures, label, quiet, block, ratios), ratios)
    return ImageBank(*bank_files.opened(kept, key, shape))


def _decode(pictures: list, label: str, quiet: bool | None, images: Tensor, ratios: Tensor) -> Iterator[Tensor]:
    """Decode into `images`, which holds all pictures or a block of them, yielded whenever it is full."""
    size, room = tuple(images.shape[-2:]), len(images)
    canvas = size[1] / size[0]

    def decode(index: int) -> DataError | None:
        source = pictures[index]
        try:
            opened = isinstance(source, Image.Image)
            if opened and not source.width * source.height:
                raise ValueError("it has no pixels")
            picture = rgb(ImageOps.exif_transpose(source)) if opened else open_picture(source)
        except DataError as error:
            return error
        except Exception as error:  # of one that is opened already: Pillow raises almost anything
            return DataError(f"picture {index} of {len(pictures)}: {error}")
        images[index % room].numpy()[:] = to_tensor(picture, size).numpy()
        ratios[index] = torch.tensor(picture.width / picture.height / canvas).log()
        return None

    def several(some: range) -> list[DataError]:
        quick = {index: plain_jpeg(pictures[index], size) for index in some}
        halves = [index for index, found in quick.items() if found is not None and found.shape[1] < size[0]]
        if halves:  # doubled together, as `to_tensor` does one by one
            stack = torch.stack([quick[index].permute(1, 2, 0) for index in halves]).permute(0, 3, 1, 2)
            quick |= zip(halves, F.interpolate(stack, size, mode="bilinear", antialias=True), strict=True)
        for index, found in quick.items():
            if found is not None:
                images[index % room].numpy()[:] = found.numpy()
                ratios[index] = 0
        return [error for index in some if quick[index] is None and (error := decode(index))]

    problems = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar(None, label, len(pictures), quiet) as shown:
        for start in range(0, len(pictures), room):
            end = min(start + room, len(pictures))
            parts = [range(first, min(first + 32, end)) for first in range(start, end, 32)]
            for part, errors in zip(parts, pool.map(several, parts), strict=True):
                problems += errors
                shown.update(len(part))
            if not problems:
                yield images[: end - start]
    if problems:
        raise DataError(f"{len(problems)} unreadable picture(s): " + "; ".join(map(str, problems)))


def on(device: torch.device, values: Tensor) -> Tensor:
    """Indices or pictures on a device; a GPU takes them from pinned memory, without the host waiting."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def free(device: torch.device) -> int:
    """Bytes that are free on a GPU, with what PyTorch keeps there for later."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def take(images: Tensor, index: Tensor, device: torch.device | str) -> Tensor:
    """Pictures `index` of a bank `(N, 3, H, W)` on a device; the bank may lie on another one, or in a mapped file."""
    return on(torch.device(device), images.index_select(0, on(images.device, index)))


def affine(images: Tensor, scale: Tensor, offset: Tensor, out: Tensor | None = None) -> Tensor:
    """`images * scale + offset`, rounded once; float pictures `(B, 3, H, W)`, constants that broadcast `(…, 1, 1)`.

    The constants are spread along a row: so the inner loop reads consecutive numbers, four times as fast on a CPU.
    """
    width = images.shape[-1]
    return torch.addcmul(along_row(offset, width), images, along_row(scale, width), out=out)


def along_row(constant: Tensor, width: int) -> Tensor:
    """`(…, 1)` -> `(…, width)`, written out."""
    return constant.expand(*constant.shape[:-1], width).contiguous()


def constants(width: int = 1, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """What `normalise` multiplies by and adds, `(3, 1, width)` each."""
    mean, std = (constant(v, torch.float32, torch.device(device)).view(3, 1, 1) * 255 for v in (MEAN, STD))
    return along_row(1 / std, width), along_row(-mean / std, width)


def normalise(images: Tensor, out: Tensor | None = None) -> Tensor:
    """Pictures in 0..255 `(B, 3, H, W)`, uint8 or float -> float, ImageNet's mean 0, deviation 1; 0 is grey.

    Written into `out` where given, which may be the pictures themselves.
    """
    scale, offset = constants(images.shape[-1], images.device)
    return torch.addcmul(offset, images.float(), scale, out=out)


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`, for the eye: float `(…, 3, H, W)` -> float in 0..1."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(3, 1, 1)
    return (images * std + mean).clamp(0, 1)


def read_only(array: np.ndarray) -> Tensor:
    """A mapped array as a tensor, without PyTorch's warning that it must not be written to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
