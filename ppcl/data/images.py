"""ImageBank: a whole set decoded once into one uint8 tensor, with each picture's original size."""

import io
import math
import os
import stat
import struct
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
from torchvision.io import ImageReadMode, decode_jpeg

from ..geometry import constant
from ..progress import bar
from . import bank_files
from .folders import Cut, DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # by content; Pillow's others may start a Ghostscript
MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded, so Pillow need not warn of it
MAX_SCANS = 100  # of a progressive JPEG, whose encoders write a dozen: each takes the time of a picture, however short
KEPT = 1 << 28  # bytes; a larger bank is kept on the disk, where the caller names a file for it
BLOCK = 1 << 26  # bytes that are decoded at a time into such a file
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")  # of junk beside the pixels: they are read, or the file is named
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights want them


UNCUT, CENTRE = (250, 250), 125  # pixels, see `open_picture`
MARGIN = (UNCUT[0] - CENTRE) // 2


def open_picture(path: Path | str | Cut | io.BytesIO) -> Image.Image:
    """Any ordinary photograph as 8-bit RGB, upright (EXIF honoured), alpha over white, first frame.

    Of a Cut the part that it names. Face pictures of 250 x 250, as LFW is given out, show a detected face enlarged 2.2
    times (LFW's README), so the detector's box is their central 114 pixels; the central 125 are kept (a choice).
    Raises DataError that names the file if it cannot be read, is of no known kind or is larger than MAX_PIXELS.
    """
    if isinstance(path, Cut):
        return _cut(open_picture(path.path), path)
    try:
        held = isinstance(path, io.BytesIO)
        if not held and not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe waits for whoever writes into it
            raise DataError(f"{path}: not a file; remove it, or give a picture")
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{path}: {picture.width} x {picture.height} pixels are too many; scale it down")
            if "progressive" in picture.info:
                content = path.getvalue() if held else Path(path).read_bytes()
                if content.count(b"\xff\xda") > MAX_SCANS:
                    raise DataError(f"{path}: more than {MAX_SCANS} scans; save it anew")
            ImageOps.exif_transpose(picture, in_place=True)
            return _rgb(picture)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, or a link that leads nowhere; give another, or remove it") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: too many pixels; scale it down") from None
    except Exception as error:  # Pillow raises almost anything on a damaged file
        why = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(f"{path}: not a readable picture ({why}); replace or remove it") from None


def centred(picture: Image.Image) -> Image.Image:
    """The centre of a face picture of 250 x 250, any other as it is."""
    return picture.crop((MARGIN, MARGIN, MARGIN + CENTRE, MARGIN + CENTRE)) if picture.size == UNCUT else picture


def _cut(picture: Image.Image, how: Cut) -> Image.Image:
    if how.centre:
        picture = centred(picture)
    if how.box is None:
        return picture
    cx, cy, w, h = how.box
    wide, high = (max(1, round(side * of)) for side, of in zip((w, h), picture.size, strict=True))
    left = min(max(0, round((cx - w / 2) * picture.width)), picture.width - wide)
    top = min(max(0, round((cy - h / 2) * picture.height)), picture.height - high)
    return picture.crop((left, top, left + wide, top + high))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 or 32 bits a pixel
        values = np.nan_to_num(np.asarray(picture, np.float32))
        clear, high = values == picture.info.get("transparency"), values.max()
        tops = [1.0] * (picture.mode == "F") + [255, 65535, high]
        grey = values * np.float32(255 / next(top for top in tops if high <= top))
        return Image.fromarray(np.where(clear, 255, grey.clip(0, 255)).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def to_tensor(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture resized to `size` (height, width): uint8 `(3, H, W)`, antialiased.

    Pillow's arithmetic to the bit. A picture that is doubled, as Market-1501's 64 x 128 are at 256 x 128, takes
    PyTorch's, which is three times as fast; at other sizes that one may differ by 1.
    """
    doubled = picture.height * 2 == size[0] and picture.width * 2 == size[1]
    if not doubled:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy())
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0] if doubled else pixels


def _jpeg(source, size: tuple[int, int]) -> Tensor | None:
    """A plain JPEG of `size` or half of it as uint8 `(3, h, w)`; None for all else, and for what cannot be decoded.

    torchvision's decoder gives the bits that Pillow's does, in half the time.
    """
    cut = isinstance(source, Cut)
    if not isinstance(source, (Cut, Path, str)) or cut and source.box is not None:
        return None
    try:
        path = source.path if cut else source
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > 1 << 20:  # a pipe would wait; no such picture is so large
            return None
        raw = bytearray(facts.st_size)
        with open(path, "rb", buffering=0) as file:
            del raw[file.readinto(raw) :]
        seen = _jpeg_size(raw)
        if seen not in (size, (size[0] / 2, size[1] / 2)) or cut and source.centre and seen[::-1] == UNCUT:
            return None
        return decode_jpeg(torch.frombuffer(raw, dtype=torch.uint8), ImageReadMode.RGB)
    except (OSError, RuntimeError, ValueError):
        return None


def _jpeg_size(raw: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that is not progressive, of three 8-bit channels, without EXIF; None for all else."""
    at = 2
    while raw[:2] == b"\xff\xd8" and at + 10 <= len(raw) and raw[at] == 0xFF:
        kind, length = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4])
        if kind in (0xC0, 0xC1):  # baseline, extended
            bits, height, width, channels = struct.unpack(">BHHB", raw[at + 4 : at + 10])
            return (height, width) if (bits, channels) == (8, 3) else None
        if kind in (0xC2, 0xE1):  # progressive, EXIF
            return None
        at += 2 + length
    return None


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
            picture = _rgb(ImageOps.exif_transpose(source)) if opened else open_picture(source)
        except DataError as error:
            return error
        images[index % room].numpy()[:] = to_tensor(picture, size).numpy()
        ratios[index] = torch.tensor(picture.width / picture.height / canvas).log()
        return None

    def several(some: range) -> list[DataError]:
        quick = {index: _jpeg(pictures[index], size) for index in some}
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
        raise DataError(f"{len(problems)} unreadable picture(s): " + "; ".join(str(problem) for problem in problems))


def on(device: torch.device, index: Tensor) -> Tensor:
    """Indices on a device; a GPU takes them from pinned memory, without the host waiting."""
    if device.type == "cuda" and index.device.type == "cpu":
        return index.pin_memory().to(device, non_blocking=True)
    return index.to(device)


def free(device: torch.device) -> int:
    """Bytes that are free on a GPU, with what PyTorch keeps there for later."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def take(images: Tensor, index: Tensor, device: torch.device | str) -> Tensor:
    """Pictures `index` of a bank `(N, 3, H, W)` on a device; the bank may lie on another one, or in a mapped file."""
    return images.index_select(0, on(images.device, index)).to(device)


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
