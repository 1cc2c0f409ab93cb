"""On-disk layouts -> pictures with identity and camera; what is missing, and how to get it.

Everything is read from base names, sorted, never from full paths: digits in a folder's name are no identity, and
the file system's order decides nothing.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..recipes import DATASETS

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}

FOLDERS = {
    "market1501": ("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501"),
    "partial-reid": ("Partial-REID_Dataset", "PartialREID", "Partial_REID"),
    "partial-ilids": ("Partial_iLIDS", "PartialiLIDS"),
}
PARTS = {
    "market1501": {"train": ("bounding_box_train",), "query": ("query",), "gallery": ("bounding_box_test",)},
    "partial-reid": {
        "query": ("partial_body_images",),
        "gallery": ("whole_body_images",),
        "occluded": ("occluded_body_images",),
    },
    "partial-ilids": {"query": ("Probe", "query"), "gallery": ("Gallery", "gallery")},
}
# Published counts, DATA.md: (pictures, identities that count).
PUBLISHED = {
    "market1501": {"train": (12936, 751), "query": (3368, 750), "gallery": (19732, 750)},
    "partial-reid": {"query": (300, 60), "gallery": (300, 60), "occluded": (300, 60)},
    "partial-ilids": {"query": (119, 119), "gallery": (119, 119)},
}
SOURCES = {
    "market1501": "zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    "partial-reid": "isee-ai.cn/resource.html",
    "partial-ilids": "the repository lingxiao-he/Partial-Person-ReID",
}

_MARKET = re.compile(r"^(-1|\d{4,})_c(\d+)s\d+_\d+_\d+$")
_NUMBERED = re.compile(r"^(\d+)_(\d+)$")
_PLAIN = re.compile(r"^(\d+)$")


class DataError(RuntimeError):
    """Data that are missing or wrong: the folder or file, and the remedy, in one line."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures in a fixed order, with what their names say."""

    name: str
    folder: Path
    paths: tuple[Path, ...]
    identities: np.ndarray = field(repr=False)  # (N,) int64
    cameras: np.ndarray = field(repr=False)  # (N,) int64

    def __len__(self) -> int:
        return len(self.paths)

    def keep(self, mask: np.ndarray) -> "PictureSet":
        """The pictures where `mask` (N,) is true, in the same order."""
        paths = tuple(path for path, kept in zip(self.paths, mask, strict=True) if kept)
        return PictureSet(self.name, self.folder, paths, self.identities[mask], self.cameras[mask])


def read(dataset: str, part: str, data: Path | str) -> PictureSet:
    """One part (`train`, `query`, `gallery`, `occluded`) of a set below `data`.

    Market-1501's junk (`-1`) is left out; its distractors (`0000`) stay in the gallery alone, as identity 0. Raises
    DataError if the folder is missing or empty, or if a name does not belong to the layout.
    """
    folder = _part_folder(dataset, part, Path(data))
    files = pictures(folder)
    if not files:
        raise DataError(f"{dataset}: {folder} holds no pictures; {how_to_get(dataset)}")
    named = [(path, *_parse(dataset, part, path)) for path in files]
    ignored = (-1,) if dataset != "market1501" or part == "gallery" else (-1, 0)
    named = [entry for entry in named if entry[1] not in ignored]
    if not named:
        raise DataError(f"{dataset}: {folder} holds nothing but junk (-1) pictures; {how_to_get(dataset)}")
    paths, identities, cameras = zip(*named, strict=True)
    return PictureSet(f"{dataset}/{part}", folder, paths, np.array(identities, np.int64), np.array(cameras, np.int64))


def evaluation_sets(dataset: str, data: Path | str) -> tuple[PictureSet, PictureSet]:
    """(query, gallery) of a set's standard protocol. Raises DataError where a half is missing or they share nobody."""
    query, gallery = read(dataset, "query", data), read(dataset, "gallery", data)
    if not set(query.identities) & set(gallery.identities):
        raise DataError(
            f"{dataset}: no query identity of {query.folder} is in {gallery.folder}; are these halves of two sets?"
        )
    return query, gallery


def training_set(task: str, data: Path | str) -> PictureSet:
    """The holistic pictures that every stage learns from. Raises DataError if there are fewer than two identities."""
    pictures = read("market1501", "train", data)
    if len(set(pictures.identities)) < 2:
        raise DataError(f"market1501: {pictures.folder} shows fewer than two identities; {how_to_get('market1501')}")
    return pictures


def available(data: Path | str) -> list[str]:
    """The sets whose query and gallery can be read below `data`."""
    found = []
    for dataset in DATASETS:
        try:
            evaluation_sets(dataset, data)
            found.append(dataset)
        except DataError:
            pass
    return found


def is_drawn(data: Path | str) -> bool:
    """Whether the pictures below `data` were drawn by this project: drawn sets come with their truth."""
    return (Path(data) / "truth.csv").is_file()


def truth(data: Path | str):
    """`truth.csv` of drawn sets as a pandas table indexed by file: kind, figure box and view box of every picture."""
    import pandas

    path = Path(data) / "truth.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: only drawn sets have it (python -m ppcl data synthesise --out {data})")
    return pandas.read_csv(path, index_col="file", dtype={"identity": str})


def check(data: Path | str) -> list[dict]:
    """What is below `data`: a row for each part of each set, counted against the published counts.

    Keys: dataset, part, folder, pictures, identities, published, status (`complete`, `drawn`, `differs`, `missing`,
    `unreadable`), note. Raises DataError if `data` is no folder.
    """
    if not Path(data).is_dir():
        raise DataError(f"{data} is not a folder; give --data the folder that holds (or will hold) the sets")
    rows = []
    for dataset in DATASETS:
        for part, published in PUBLISHED[dataset].items():
            row = {"dataset": dataset, "part": part, "folder": None, "pictures": 0, "identities": 0}
            row |= {"published": published[0], "published_identities": published[1]}
            try:
                folder = _part_folder(dataset, part, Path(data))
                row["folder"] = folder.relative_to(Path(data)).as_posix()
                row["pictures"] = len(pictures(folder))
                row["identities"] = len(set(read(dataset, part, data).identities) - {0})
                same = (row["pictures"], row["identities"]) == published
                row["status"] = "drawn" if is_drawn(data) else "complete" if same else "differs"
                row["note"] = (
                    "" if row["status"] != "differs" else f"published: {published[0]} of {published[1]} people"
                )
            except DataError as error:
                row["status"] = "unreadable" if row["pictures"] else "missing"
                row["note"] = str(error) if row["pictures"] else how_to_get(dataset)
            rows.append(row)
    return rows


def contents(data: Path | str) -> dict:
    """Counts and a SHA-256 of all pictures of all sets below `data`, names and bytes, for a run's manifest."""
    digest, counts = hashlib.sha256(), {}
    for dataset in DATASETS:
        for part in PARTS[dataset]:
            try:
                found = pictures(_part_folder(dataset, part, Path(data)))
            except DataError:
                continue
            counts[f"{dataset}/{part}"] = len(found)
            for path in found:
                digest.update(path.name.encode())
                digest.update(path.read_bytes())
    return {"pictures": counts, "sha256": digest.hexdigest(), "drawn": is_drawn(data)}


def how_to_get(dataset: str) -> str:
    """Where a set comes from, and how to do without."""
    return (
        f"get {dataset} from {SOURCES[dataset]} and unpack it as {FOLDERS[dataset][0]}/ below --data, "
        "or draw a stand-in into another, empty folder: python -m ppcl data synthesise --out DIR"
    )


def _part_folder(dataset: str, part: str, data: Path) -> Path:
    if dataset not in FOLDERS:
        raise DataError(f"unknown data set {dataset!r}: choose from {', '.join(DATASETS)}")
    if part not in PARTS[dataset]:
        raise DataError(f"{dataset} has no part {part!r}: choose from {', '.join(PARTS[dataset])}")
    if not data.is_dir():
        raise DataError(f"{data} is not a folder; {how_to_get(dataset)}")
    for name in (*FOLDERS[dataset], "."):
        top = _descend(data, name)
        for leaf in PARTS[dataset][part]:
            found = top and _descend(top, leaf)
            if found and (name != "." or _is_whole_layout(dataset, data)):
                return found
    raise DataError(f"{dataset}: no {' or '.join(PARTS[dataset][part])} below {data}; {how_to_get(dataset)}")


def _is_whole_layout(dataset: str, data: Path) -> bool:
    """Whether `data` is the set's own folder: query and gallery both lie in it, and its name is the set's."""
    names = {name.split("/")[-1].lower() for name in FOLDERS[dataset]}
    return data.resolve().name.lower() in names


def _descend(folder: Path, names: str) -> Path | None:
    """A subfolder by name, in any case: copies made on other systems differ in nothing but case."""
    for name in names.split("/"):
        if name == ".":
            continue
        exact = folder / name
        if not exact.is_dir():
            same = sorted(p for p in folder.iterdir() if p.name.lower() == name.lower() and p.is_dir())
            if not same:
                return None
            exact = same[0]
        folder = exact
    return folder


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder by name; hidden files and other kinds (Thumbs.db) are none."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in found if p.is_file()), key=lambda p: p.name)


def _parse(dataset: str, part: str, path: Path) -> tuple[int, int]:
    """(identity, camera) of a file name."""
    stem = path.stem
    camera = 0 if part in ("query", "occluded") else 1
    if dataset == "market1501":
        match = _MARKET.match(stem)
        if match:
            return int(match[1]), int(match[2])
        wanted = "0002_c1s1_000451_03.jpg"
    elif dataset == "partial-reid":
        match = _NUMBERED.match(stem)
        if match:
            return int(match[1]), camera
        wanted = "001_001.jpg"
    else:
        match = _NUMBERED.match(stem) or _PLAIN.match(stem)
        if match:
            return int(match[1]), int(match[2]) if match.re is _NUMBERED else camera
        wanted = "001.jpg or 001_1.jpg"
    raise DataError(f"{dataset}: {path} is not named like {wanted}; is this another set's folder?")
