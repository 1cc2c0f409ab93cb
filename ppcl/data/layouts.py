"""Where the sets lie on the disk: folders, parts, names of files, published counts, and how to get what is missing."""

import re
from pathlib import Path

from ..recipes import DATASETS
from .reading import DataError, descend, people, pictures

FOLDERS = {
    "market1501": ("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501"),
    "partial-reid": ("Partial-REID_Dataset", "PartialREID", "Partial_REID"),
    "partial-ilids": ("Partial_iLIDS", "PartialiLIDS"),
    "casia-webface": ("CASIA-WebFace", "CASIA_WebFace"),
    "lfw": tuple(f"{nest}{name}" for name in ("lfw", "lfw_funneled", "lfw-deepfunneled") for nest in (f"{name}/", "")),
    "partial-lfw": ("Partial-LFW", "Partial_LFW", "partial"),
    "own": ("identities",),  # or the data folder itself
}
PARTS = {
    "market1501": {"train": ("bounding_box_train",), "query": ("query",), "gallery": ("bounding_box_test",)},
    "partial-reid": {
        "query": ("partial_body_images",),
        "gallery": ("whole_body_images",),
        "occluded": ("occluded_body_images",),
    },
    "partial-ilids": {"query": ("Probe", "query"), "gallery": ("Gallery", "gallery")},
    "casia-webface": {"train": (".",)},
    "lfw": {"all": (".",)},
    "partial-lfw": {"query": ("probe", "query"), "gallery": ("gallery",)},
    "own": {"all": (".",)},
}
# Published counts: (pictures, identities that count); of partial-lfw, which no source counts, the recipe's.
PUBLISHED = {
    "market1501": {"train": (12936, 751), "query": (3368, 750), "gallery": (19732, 750)},
    "partial-reid": {"query": (300, 60), "gallery": (300, 60), "occluded": (300, 60)},
    "partial-ilids": {"query": (119, 119), "gallery": (119, 119)},
    "casia-webface": {"train": (494414, 10575)},
    "lfw": {"all": (13233, 5749)},
    "partial-lfw": {"query": (1000, 1000), "gallery": (1000, 1000)},
}
SOURCES = {
    "market1501": "zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    "partial-reid": "isee-ai.cn/resource.html",
    "partial-ilids": "the repository lingxiao-he/Partial-Person-ReID",
    "casia-webface": "CASIA, on request,",
    "lfw": "figshare 5976018 (pictures and pairs.txt)",
}
NAMED_LIKE = {
    "market1501": "0002_c1s1_000451_03.jpg",
    "partial-reid": "001_001.jpg",
    "partial-ilids": "001.jpg or 001_1.jpg",
}
BY_IDENTITY = ("casia-webface", "lfw", "own")  # a folder for each identity
TRAINING = {"person": "market1501", "face": "casia-webface"}

_TAKEN = {name.split("/")[-1].lower() for names in FOLDERS.values() for name in names}  # names of sets and of parts
_TAKEN |= {name.lower() for parts in PARTS.values() for names in parts.values() for name in names}
# Whole names; digits are ASCII's, and no more of them than an int64 holds.
_MARKET = re.compile(r"(-1|[0-9]{4,18})_c([0-9]{1,18})s[0-9]+_[0-9]+_[0-9]+(?i:\.jpe?g)?")  # one is named .jpg.jpg
_NUMBERED = re.compile(r"([0-9]{1,18})_([0-9]{1,18})")
_PLAIN = re.compile(r"([0-9]{1,18})")


def made_from_lfw(dataset: str | None, data: Path | str) -> bool:
    """Whether a set is Partial-LFW, and neither half of it lies below `data`."""
    return dataset == "partial-lfw" and not (lies("query", dataset, data) or lies("gallery", dataset, data))


def lies(part: str, dataset: str, data: Path | str) -> bool:
    """Whether a part of a set lies below `data`."""
    try:
        return bool(part_folder(dataset, part, Path(data)))
    except DataError:
        return False


def how_to_get(dataset: str) -> str:
    """Where a set comes from, and how to do without."""
    if dataset == "own":
        return "give your own pictures as identities/<identity>/<file> below --data"
    if dataset == "partial-lfw":
        return f"complete it, or remove it: it is made from lfw, for which {how_to_get('lfw')}"
    instead = f", {how_to_get('own')}," if dataset in TRAINING.values() else ","
    return (
        f"get {dataset} from {SOURCES[dataset]} and unpack it as {FOLDERS[dataset][0]}/ below --data{instead} "
        "or draw a stand-in into another, empty folder: "
        f"python -m ppcl data synthesise --task {DATASETS[dataset]} --out DIR"
    )


def part_folder(dataset: str, part: str, data: Path) -> Path:
    """The folder of a part of a set below `data`. Raises DataError that says how to get it where there is none."""
    if dataset not in FOLDERS:
        raise DataError(f"unknown data set {dataset!r}: choose from {', '.join(DATASETS)}")
    if part not in PARTS[dataset]:
        raise DataError(f"{dataset} has no part {part!r}: choose from {', '.join(PARTS[dataset])}")
    if not data.is_dir():
        raise DataError(f"{data} is not a folder; {how_to_get(dataset)}")
    for name in (*FOLDERS[dataset], "."):
        top = descend(data, name)
        for leaf in PARTS[dataset][part]:
            found = top and descend(top, leaf)
            if found and (name != "." or _is_whole_layout(dataset, data)):
                return found
    wanted = FOLDERS[dataset][:1] if dataset in BY_IDENTITY else PARTS[dataset][part]
    raise DataError(
        f"{dataset}: no {' or '.join(wanted)} below {data}{_misnamed(dataset, data)}; {how_to_get(dataset)}"
    )


def _misnamed(dataset: str, data: Path) -> str:
    """What keeps a folder of identities from being one: its name, or that of a folder in it."""
    if dataset not in (*TRAINING.values(), "own"):
        return ""
    inside = people(data)
    somebody = any(pictures(path) for path in inside if path.name.lower() not in _TAKEN)
    taken = _taken(data, inside) if somebody else []
    return f" (no folder of identities, nor one in it, may be called {taken[0]!r}: rename it)" if taken else ""


def _taken(data: Path, inside: list[Path]) -> list[str]:
    """Of a folder and those in it the names that sets or their parts have; `identities` itself is one's own."""
    named = [path.name for path in (data.resolve(), *inside)]
    own = named[0].lower() in map(str.lower, FOLDERS["own"])
    return [name for name in named[own:] if name.lower() in _TAKEN]


def _is_whole_layout(dataset: str, data: Path) -> bool:
    """Whether `data` is the set's own folder, which its name says: the parts of the set lie in it.

    A folder of identities may have any name that no set has; no folder in it is named like a set or a part of one,
    and at least one holds pictures.
    """
    if dataset == "own":
        inside = people(data)
        return not _taken(data, inside) and any(map(pictures, inside))
    names = {name.split("/")[-1].lower() for name in FOLDERS[dataset]}
    return data.resolve().name.lower() in names


def parse(dataset: str, part: str, path: Path) -> tuple[int, int] | None:
    """(identity, camera) of a file name; None where it is not named as the set's are."""
    camera = 0 if part in ("query", "occluded") else 1
    if dataset == "market1501":
        match = _MARKET.fullmatch(path.stem)
        return match and (int(match[1]), int(match[2]))
    match = _NUMBERED.fullmatch(path.stem)
    if dataset == "partial-ilids" and match:
        return int(match[1]), int(match[2])
    match = match or (dataset == "partial-ilids" and _PLAIN.fullmatch(path.stem)) or None
    return match and (int(match[1]), camera)
