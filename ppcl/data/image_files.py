"""Image files -> upright 8-bit RGB pictures: ordinary photographs of any format, mode and orientation."""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .reading import Cut, DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # by content; some of Pillow's others start Ghostscript
MAX_PIXELS = 64_000_000  # larger pictures are refused before they are decoded, so Pillow's own warning is not needed
MAX_SCANS = 100  # of a progressive JPEG; encoders write about ten, and each takes as long to decode as a picture
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata: the pixels are read, or the file is refused


def open_picture(source: Path | str | Cut | io.BytesIO | Image.Image) -> Image.Image:
    """Read a picture as 8-bit RGB: upright by EXIF, transparent parts white, the first frame of an animation.

    A Cut gives its part of the picture. Raises DataError naming a file that cannot be read, has an unknown format or
    more than MAX_PIXELS pixels.
    """
    if isinstance(source, Cut):
        return cut(open_picture(source.path), source)
    try:
        if isinstance(source, Image.Image):
            if not source.width * source.height:
                raise DataError("it has no pixels")
            return rgb(ImageOps.exif_transpose(source))
        in_memory = isinstance(source, io.BytesIO)
        if not in_memory and not stat.S_ISREG(os.stat(source).st_mode):  # opening a pipe would wait for its writer
            raise DataError(f"{source}: not a file; remove it, or give a picture")
        with Image.open(source, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{source}: {picture.width} x {picture.height} pixels are too many; scale it down")
            if "progressive" in picture.info:
                content = source.getvalue() if in_memory else Path(source).read_bytes()
                if content.count(b"\xff\xda") > MAX_SCANS:
                    raise DataError(f"{source}: more than {MAX_SCANS} JPEG scans; save it again")
            ImageOps.exif_transpose(picture, in_place=True)
            return rgb(picture)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source}: no such file, or a broken link; remove it, or give another") from None
    except Image.DecompressionBombError:
        raise DataError(f"{source}: too many pixels; scale it down") from None
    except Exception as error:  # Pillow raises almost anything on a damaged file
        why = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(f"{source}: not a readable picture ({why}); replace or remove it") from None


def central_box(size: tuple[int, int], uncut: int) -> tuple[int, int, int, int] | None:
    """The central half of an uncut face picture in pixels (left, top, right, bottom); None for any other size.

    LFW and CASIA-WebFace are distributed at 250 x 250 pixels, as detected faces enlarged 2.2 times (LFW's README): the
    detector's box is the central 114 pixels, and we keep 125 (`data.uncut`, not published).
    """
    if not uncut or size != (uncut, uncut):
        return None
    kept = uncut // 2
    low = (uncut - kept) // 2
    return low, low, low + kept, low + kept


def cut(picture: Image.Image, part: Cut) -> Image.Image:
    """The part of a picture that a Cut names."""
    if centre := central_box(picture.size, part.uncut):
        picture = picture.crop(centre)
    if part.box is None:
        return picture
    cx, cy, w, h = part.box
    width, height = (max(1, round(side * of)) for side, of in zip((w, h), picture.size, strict=True))
    left = min(max(0, round((cx - w / 2) * picture.width)), picture.width - width)
    top = min(max(0, round((cy - h / 2) * picture.height)), picture.height - height)
    return picture.crop((left, top, left + width, top + height))


def rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any Pillow mode to 8-bit RGB: transparent parts white, deeper pixels scaled to 8 bits."""
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 or 32 bits a pixel
        values = np.nan_to_num(np.asarray(picture, np.float32))
        transparent, largest = values == picture.info.get("transparency"), values.max()
        depths = [255, 1023, 4095, 16383, 65535]  # cameras store 10, 12 or 14 bits in 16
        scales = [1.0] * (picture.mode == "F") + depths + [largest]
        grey = values * np.float32(255 / next(scale for scale in scales if largest <= scale))
        return Image.fromarray(np.where(transparent, 255, grey.clip(0, 255)).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")
