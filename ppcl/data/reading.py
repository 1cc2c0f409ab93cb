"""What a set of pictures is, and how folders are read: by base names, sorted, in any case."""

import hashlib
import io
import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..disk.files import DataError, printable

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Cut:
    """A part of a picture: first the central half of an uncut face picture, then a box of what is left."""

    path: Path | io.BytesIO | Image.Image
    uncut: int = 0  # pixels: square pictures of this side are cut to their central half (image_files.central_box)
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class PictureSet:
    """Pictures in a fixed order, with what their names say."""

    name: str
    folder: Path
    paths: tuple[Path, ...] = field(repr=False)
    identities: np.ndarray = field(repr=False)  # (N,) int64
    cameras: np.ndarray = field(repr=False)  # (N,) int64
    centre: bool = False  # face pictures of 250 x 250 are cut to their centre
    boxes: np.ndarray | None = field(default=None, repr=False)  # (N, 4): what is kept of each picture; None: all

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def pictures(self) -> list[Path | Cut]:
        """What `images.bank` reads."""
        if not self.centre and self.boxes is None:
            return list(self.paths)
        boxes = [None] * len(self) if self.boxes is None else map(tuple, self.boxes.tolist())
        return [Cut(path, 250 * self.centre, box) for path, box in zip(self.paths, boxes, strict=True)]

    @property
    def fingerprint(self) -> str:
        """Of its files' names and sizes, who they show and what is kept of each: other pictures have another."""
        files = [(path.parent.name, path.name, path.stat().st_size) for path in self.paths]
        boxes = [] if self.boxes is None else self.boxes.tolist()
        return hashlib.sha256(json.dumps([files, self.identities.tolist(), boxes]).encode()).hexdigest()[:16]

    def keep(self, index: np.ndarray) -> "PictureSet":
        """The pictures of a mask `(N,)` or of indices, in their order."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        boxes = None if self.boxes is None else self.boxes[index]
        paths = tuple(self.paths[i] for i in index)
        return replace(self, paths=paths, identities=self.identities[index], cameras=self.cameras[index], boxes=boxes)


_SAID = set()


def say(line: str) -> None:
    """Print a line on stderr, once in a process, and in the first process of several only."""
    if line not in _SAID and os.environ.get("RANK", "") in ("", "0"):
        _SAID.add(line)
        print(printable(line), file=sys.stderr, flush=True)


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder by name; hidden files and other kinds (Thumbs.db) are none.

    A link that leads nowhere and a pipe are among them: opening them says what they are, and no count is wrong unseen.
    """
    found = (p for p in _entries(folder) if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in found if not os.path.isdir(p)), key=lambda p: p.name)


def people(folder: Path) -> list[Path]:
    """The folders of identities in a folder by name; hidden ones are none."""
    found = (p for p in _entries(folder) if not p.name.startswith(".") and os.path.isdir(p))
    return sorted(found, key=lambda p: p.name)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror.lower()}; make the folder readable, or give another") from error


def listing(folder: Path, most: int = 6) -> str:
    """Names in a folder, hidden ones aside, for a message."""
    names = sorted(path.name for path in _entries(folder) if not path.name.startswith("."))
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most) if names else "nothing"


def subfolder(folder: Path, names: str) -> Path | None:
    """The folder `names` ("query", "detected/query") in a folder, in any case: copies differ in it. None: not there."""
    for name in names.split("/"):
        if name == "." or os.path.isdir(folder / name):
            folder = folder / name
            continue
        same = sorted(p for p in _entries(folder) if p.name.lower() == name.lower() and os.path.isdir(p))
        if not same:
            return None
        folder = same[0]
    return folder
