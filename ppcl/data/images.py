"""ImageBank: a whole set decoded once into one uint8 tensor, with each picture's original size."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..geometry import constant
from ..progress import bar
from .folders import Cut, DataError

MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded, so Pillow need not warn of it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights want them


UNCUT, CENTRE = (250, 250), 125  # pixels, see `open_picture`
MARGIN = (UNCUT[0] - CENTRE) // 2


def open_picture(path: Path | str | Cut) -> Image.Image:
    """Any ordinary photograph as 8-bit RGB, upright (EXIF honoured), alpha over white, first frame.

    Of a Cut the part that it names. Face pictures of 250 x 250, as LFW is given out, show a detected face enlarged 2.2
    times (LFW's README), so the detector's box is their central 114 pixels; the central 125 are kept (a choice).
    Raises DataError that names the file if it cannot be read or is larger than MAX_PIXELS.
    """
    if isinstance(path, Cut):
        return _cut(open_picture(path.path), path)
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{path}: {picture.width} x {picture.height} pixels are too many; scale it down")
            picture = ImageOps.exif_transpose(picture)
            return _rgb(picture)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: too many pixels; scale it down") from None
    except Exception as error:  # Pillow raises almost anything on a damaged file
        raise DataError(f"{path}: not a readable picture ({type(error).__name__}); replace or remove it") from None


def _cut(picture: Image.Image, how: Cut) -> Image.Image:
    if how.centre and picture.size == UNCUT:
        picture = picture.crop((MARGIN, MARGIN, MARGIN + CENTRE, MARGIN + CENTRE))
    if how.box is None:
        return picture
    cx, cy, w, h = how.box
    wide, high = (max(1, round(side * of)) for side, of in zip((w, h), picture.size, strict=True))
    left = min(max(0, round((cx - w / 2) * picture.width)), picture.width - wide)
    top = min(max(0, round((cy - h / 2) * picture.height)), picture.height - high)
    return picture.crop((left, top, left + wide, top + high))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 or 32 bits a pixel
        low, high = picture.getextrema()
        scale = 255 / 65535 if high > 255 else 1.0
        picture = picture.convert("F").point(lambda value: value * scale)
        return picture.convert("L").convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def to_tensor(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture resized to `size` (height, width): uint8 `(3, H, W)`, antialiased."""
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
    return pixels.view(*size, 3).permute(2, 0, 1)


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
        return tuple(self.images.shape[-2:])

    def to(self, device: torch.device | str) -> "ImageBank":
        return ImageBank(self.images.to(device), self.ratios.to(device))

    def __getitem__(self, index) -> "ImageBank":
        return ImageBank(self.images[index], self.ratios[index])


def bank(pictures, size: tuple[int, int], label: str = "decoding", quiet: bool | None = None) -> ImageBank:
    """Decode paths or PIL images into an ImageBank of `size` (height, width).

    Raises DataError that lists every unreadable file at once, so that one run finds them all.
    """
    pictures = list(pictures)
    if not pictures:
        raise DataError(f"{label}: no pictures")
    images = torch.empty(len(pictures), 3, *size, dtype=torch.uint8)
    ratios = torch.empty(len(pictures))
    canvas = size[1] / size[0]

    def decode(index: int) -> DataError | None:
        source = pictures[index]
        try:
            opened = isinstance(source, Image.Image)
            picture = _rgb(ImageOps.exif_transpose(source)) if opened else open_picture(source)
        except DataError as error:
            return error
        images[index] = to_tensor(picture, size)
        ratios[index] = torch.tensor(picture.width / picture.height / canvas).log()
        return None

    with ThreadPoolExecutor() as pool:
        work = pool.map(decode, range(len(pictures)))
        problems = [error for error in bar(work, label, len(pictures), quiet) if error]
    if problems:
        raise DataError(f"{len(problems)} unreadable picture(s): " + "; ".join(str(problem) for problem in problems))
    return ImageBank(images, ratios)


def normalise(images: Tensor) -> Tensor:
    """Pictures in 0..255 `(B, 3, H, W)`, uint8 or float -> float, ImageNet's mean 0, deviation 1; 0 is grey."""
    mean, std = (constant(v, torch.float32, images.device).view(3, 1, 1) * 255 for v in (MEAN, STD))
    return torch.addcmul(-mean / std, images.float(), 1 / std)


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`, for the eye: float `(…, 3, H, W)` -> float in 0..1."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(3, 1, 1)
    return (images * std + mean).clamp(0, 1)
