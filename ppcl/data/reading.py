"""A set of pictures, and the reading of folders: by base names, sorted, in any case."""

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..disk.files import DataError
from .fingerprint import digests, fingerprint

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"}


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
    uncut: int = 0  # pixels, as in Cut
    boxes: np.ndarray | None = field(default=None, repr=False)  # (N, 4): the part of each picture; None: all
    kept: Path | None = field(default=None, repr=False)  # the file of the pictures' digests
    notes: tuple[str, ...] = ()  # pictures that were left out: how many, which, why

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def pictures(self) -> list[Path | Cut]:
        """The sources that `image_bank.bank` reads."""
        if not self.uncut and self.boxes is None:
            return list(self.paths)
        boxes = [None] * len(self) if self.boxes is None else map(tuple, self.boxes.tolist())
        return [Cut(path, self.uncut, box) for path, box in zip(self.paths, boxes, strict=True)]

    @property
    def fingerprint(self) -> str:
        """Names, contents, identities and parts of the pictures, as 16 hexadecimal digits."""
        boxes = () if self.boxes is None else self.boxes
        return fingerprint(self.folder, self.paths, self.kept, self.identities, boxes, self.uncut)

    def copied_in(self, other: "PictureSet") -> int:
        """The number of pictures whose contents another set has, too."""
        mine, theirs = (digests(some.paths, some.kept) for some in (self, other))
        known = {one.tobytes() for one in theirs if one.any()}  # zeros: not readable
        return sum(one.tobytes() in known for one in mine)

    def keep(self, index: np.ndarray) -> "PictureSet":
        """The pictures of a mask `(N,)` or of indices, in their order."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        boxes = None if self.boxes is None else self.boxes[index]
        paths = tuple(self.paths[i] for i in index)
        return replace(self, paths=paths, identities=self.identities[index], cameras=self.cameras[index], boxes=boxes)


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder by name."""
    return [folder / name for name in picture_names(folder)]


def picture_names(folder: Path) -> list[str]:
    """Names of the picture files of a folder, sorted; hidden files and other kinds (Thumbs.db) are none.

    A link that leads nowhere and a pipe are among them: opening them says what they are, and no count is wrong unseen.
    """
    return sorted(one.name for one in _entries(folder) if _ending(one.name) in SUFFIXES and not _is_folder(one))


def people(folder: Path) -> list[Path]:
    """The folders of identities in a folder by name; hidden ones are none."""
    return [folder / name for name in sorted(one.name for one in _entries(folder) if _is_folder(one))]


def counted(pictures: Sequence) -> str:
    """`1 picture is`, or `2 pictures are`."""
    return "1 picture is" if len(pictures) == 1 else f"{len(pictures)} pictures are"


def left_out(name: str, top: Path, folders: list[Path]) -> tuple[str, ...]:
    """A line for each kind of picture that is not read where the pictures of `folders` are: how many, which, why."""
    beside, deeper, other = [] if top in folders else pictures(top), [], []
    for folder in folders:
        linked = folder != top and folder.is_symlink()  # that may lead anywhere
        for one in _entries(folder):
            if _is_folder(one) and not linked:
                path = Path(one.path)  # a link may lead anywhere: what lies deeper there is not looked through
                inside = path.rglob("*") if one.is_dir(follow_symlinks=False) else path.glob("*")
                inside = (path for path in inside if _ending(path.name) in SUFFIXES)
                deeper += [path for path in inside if not re.search(r"/[.@]|/__MACOSX", str(path))]
            elif _ending(one.name) not in SUFFIXES and os.path.isfile(one.path) and _is_picture(one.path):
                other.append(Path(one.path))
    kinds = {
        "they lie beside the people's folders": beside,
        "they lie in folders within; move them up": sorted(deeper),
        f"the ending is none of {' '.join(sorted(SUFFIXES))}; rename or convert them": sorted(other),
    }
    return tuple(
        f"{name}: {counted(files)} left out, such as {files[0].relative_to(top)}: {why}"
        for why, files in kinds.items()
        if files
    )


def _is_picture(path: str) -> bool:
    """True for a file that begins as photographs do, whatever its name is."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    kinds = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
    others = start[8:12] in (b"WEBP", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")
    return others or start.startswith(kinds) or bool(re.match(rb"P[1-6]\s", start))  # PBM, PGM, PPM


def _ending(name: str) -> str:
    return name[name.rfind(".") :].lower() if "." in name else ""


def _is_folder(one: os.DirEntry) -> bool:
    """True for a folder and a link to one; asks the disk for links alone."""
    return one.is_dir(follow_symlinks=False) or (one.is_symlink() and os.path.isdir(one.path))


def _entries(folder: Path) -> list[os.DirEntry]:
    """Entries of a folder, hidden files and folders aside."""
    try:
        with os.scandir(folder) as entries:
            return [one for one in entries if not one.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror.lower()}; make the folder readable, or give another") from error


def listing(folder: Path, most: int = 6) -> str:
    """Names in a folder, hidden ones aside, for a message."""
    names = sorted(one.name for one in _entries(folder))
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most) if names else "nothing"


def subfolder(folder: Path, names: str) -> Path | None:
    """The folder `names` ("query", "detected/query") in a folder, in any case: copies differ in it. None: not there."""
    for name in names.split("/"):
        if name == ".":
            continue
        same = [one for one in _entries(folder) if one.name.lower() == name.lower() and _is_folder(one)]
        if not same:
            return None
        folder /= min(same, key=lambda one: (one.name != name, one.name)).name
    return folder
