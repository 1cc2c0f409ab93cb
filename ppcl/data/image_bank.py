"""ImageBank: a whole set decoded once into one uint8 tensor, with each picture's original shape."""

import math
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from torch import Tensor

from ..disk.files import replacing, warn_once
from ..geometry import constant
from ..jobs import in_threads
from .image_files import central_box, cut, open_picture
from .reading import Cut, DataError

KEPT = 1 << 28  # bytes; a larger bank is kept on the disk if the caller names a file for it
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
    """Decode paths, Cuts or PIL images into an ImageBank of `size` (height, width).

    A bank of more than KEPT bytes is decoded into the file `kept` (`….npy`) if one is given, and mapped from there now
    and later, so it needs no memory of its own. The part of its name after the last `-` says what the bank was made of;
    files with another such part are deleted. Raises DataError that lists every unreadable file at once.
    """
    pictures = list(pictures)
    if not pictures:
        raise DataError(f"{label}: no pictures")
    shape = (len(pictures), 3, *size)
    if kept is not None and math.prod(shape) > KEPT:
        try:
            return _mapped(kept, shape) or _decode_into(kept, pictures, shape, label, quiet)
        except OSError as error:
            why = error.strerror or error
            warn_once(f"{kept}: decoded pictures cannot be kept there ({why}); they are decoded into memory")
    images = np.empty(shape, np.uint8)  # in huge pages, unlike torch.empty: a quarter of the time
    ratios = np.empty(shape[0], np.float32)
    _decode(pictures, images, ratios, label, quiet)
    return ImageBank(torch.from_numpy(images), torch.from_numpy(ratios))


def _decode_into(kept: Path, pictures: list, shape: tuple[int, ...], label: str, quiet: bool | None) -> ImageBank:
    """Decode into a file and map it. Raises OSError where the disk is full or refuses a file or a memory map."""
    with replacing(kept) as temporary:
        content = open_memmap(temporary, "w+", np.uint8, (_length(shape),))
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and no bus error while decoding
            with open(temporary, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        _decode(pictures, *_parts(content, shape), label, quiet)
    for stale in kept.parent.glob(f"{escape(kept.name.rpartition('-')[0])}-*.npy"):
        if stale != kept:
            with suppress(OSError):  # another process may still read it
                stale.unlink()
    return ImageBank(*map(read_only, _parts(open_memmap(kept, "r"), shape)))


def _length(shape: tuple[int, ...]) -> int:
    """Bytes of a kept bank: its log ratios, then its pictures."""
    return 4 * shape[0] + math.prod(shape)


def _parts(content: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and log ratios in the bytes of a kept bank."""
    return content[4 * shape[0] :].reshape(shape), content[: 4 * shape[0]].view(np.float32)


def _mapped(kept: Path, shape: tuple[int, ...]) -> ImageBank | None:
    """A bank that an earlier run decoded into a file; None where it is not there, or damaged, which is printed."""
    try:
        content = open_memmap(kept, "r")  # which never unpickles
        if content.dtype != np.uint8 or content.shape != (_length(shape),):
            raise ValueError
        return ImageBank(*map(read_only, _parts(content, shape)))
    except OSError:  # not there, or no memory map: decoding will say so
        return None
    except Exception:  # NumPy raises almost anything on a damaged header
        warn_once(f"{kept} is damaged or of another version: its pictures are decoded again")
        return None


def read_only(array: np.ndarray) -> Tensor:
    """A mapped array as a tensor, without PyTorch's warning that it must not be written to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _decode(pictures: list, images: np.ndarray, ratios: np.ndarray, label: str, quiet: bool | None) -> None:
    """Decode and resize into `images` `(N, 3, H, W)`; write the log ratios into `ratios` `(N,)`."""
    (height, width), uncut = images.shape[-2:], np.zeros(len(pictures), bool)

    def decode(index: int) -> DataError | None:
        part = pictures[index] if isinstance(pictures[index], Cut) else Cut(pictures[index])
        try:
            whole = open_picture(part.path)
        except DataError as error:
            opened = isinstance(part.path, Image.Image)
            return DataError(f"picture {index} of {len(pictures)}: {error}") if opened else error
        uncut[index] = central_box(whole.size, part.uncut) is not None
        picture = cut(whole, part)
        ratios[index] = torch.tensor(picture.width / picture.height / (width / height)).log()
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        images[index] = np.asarray(resized).transpose(2, 0, 1)
        return None

    if problems := [*filter(None, in_threads(decode, range(len(pictures)), label, quiet))]:
        raise DataError(f"{len(problems)} unreadable picture(s): " + "; ".join(map(str, problems)))
    if uncut.any() and not quiet:
        side = pictures[uncut.argmax()].uncut
        counts = f"{uncut.sum()} of {len(uncut)} pictures have {side} x {side} pixels"
        warn_once(f"{label}: {counts} and are cut to their central half; data.uncut=0 keeps them whole")


def on(device: torch.device, values: Tensor) -> Tensor:
    """Move indices or pictures to a device; to a GPU from pinned memory, so that the host does not wait."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def free(device: torch.device) -> int:
    """Free bytes of a GPU, including those that PyTorch has reserved and does not use."""
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved


def take(images: Tensor, index: Tensor, device: torch.device | str) -> Tensor:
    """Pictures `index` of a bank `(N, 3, H, W)` on a device; the bank may be on another one, or in a mapped file."""
    return on(torch.device(device), images.index_select(0, on(images.device, index)))


def normalise(images: Tensor, out: Tensor | None = None) -> Tensor:
    """Normalise pictures in 0..255 `(B, 3, H, W)`, uint8 or float, by ImageNet's mean and deviation: float; 0 is grey.

    Written into `out` if given, which may be the pictures themselves.
    """
    mean, std = (constant(v, torch.float32, images.device).view(3, 1, 1) * 255 for v in (MEAN, STD))
    return torch.addcmul(-mean / std, images.float(), 1 / std, out=out)


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`, for display: float `(…, 3, H, W)` -> float in 0..1."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, STD))
    return (images * std + mean).clamp(0, 1)
