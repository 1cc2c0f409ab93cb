"""A picture's file -> its pixels: whatever an ordinary photograph is saved as, upright, 8-bit RGB, at a given size."""

import io
import os
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from .reading import Cut, DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # by content; Pillow's others may start a Ghostscript
MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded, so Pillow need not warn of it
MAX_SCANS = 100  # of a progressive JPEG, whose encoders write a dozen: each takes the time of a picture, however short
UNCUT, CENTRE = (250, 250), 125  # pixels, see `open_picture`
MARGIN = (UNCUT[0] - CENTRE) // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")  # of junk beside the pixels: they are read, or the file is named


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
            return rgb(picture)
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


def rgb(picture: Image.Image) -> Image.Image:
    """A picture of any of Pillow's modes as 8-bit RGB, alpha over white, more bits a pixel scaled to eight."""
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


def plain_jpeg(source, size: tuple[int, int]) -> Tensor | None:
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
