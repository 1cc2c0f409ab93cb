"""Where the sets lie below `--data`: folders are found by their names in circulation, in any case."""

from collections.abc import Iterator
from pathlib import Path

from .reading import DataError, people, pictures, subfolder
from .sets import RESERVED, SETS, DataSet


def record(dataset: str, part: str | None = None) -> DataSet:
    """The record of a set. Raises DataError for an unknown set or part."""
    if dataset not in SETS:
        raise DataError(f"unknown data set {dataset!r}: choose from {', '.join(SETS)}")
    if part is not None and part not in SETS[dataset].parts:
        raise DataError(f"{dataset} has no part {part!r}: choose from {', '.join(SETS[dataset].parts)}")
    return SETS[dataset]


def part_folder(dataset: str, part: str, data: Path | str) -> Path:
    """The folder of a part of a set below `data`. Raises DataError that says how to get it where there is none."""
    found, data = record(dataset, part), Path(data)
    if not data.is_dir():
        raise DataError(f"{data} is not a folder; {found.how_to_get}")
    leaves = found.parts[part].folders
    for top in _tops(found, data):
        for leaf in leaves if top != data or _is_top(found, data) else ():
            if folder := subfolder(top, leaf):
                return folder
    wanted = found.folders[:1] if leaves == (".",) else leaves
    raise DataError(f"{dataset}: no {' or '.join(wanted)} below {data}{_misnamed(found, data)}; {found.how_to_get}")


def _tops(found: DataSet, folder: Path) -> Iterator[Path]:
    """Folders in a folder that are named like the set, inner ones first, then the folder itself.

    A zip file unpacked into a folder of its own name doubles the folder.
    """
    for name in found.folders:
        if inside := subfolder(folder, name):
            yield from _tops(found, inside)
    yield folder


def _is_top(found: DataSet, data: Path) -> bool:
    """True for a folder that has a set's name, and for a folder of identities, which may have any other name."""
    named = data.resolve().name.lower() in map(str.lower, found.folders)
    if not found.split:
        return named
    inside = people(data)
    return not _reserved(data, inside) and any(map(pictures, inside))


def lies(part: str, dataset: str, data: Path | str) -> bool:
    """True if a part of a set lies below `data`."""
    try:
        return bool(part_folder(dataset, part, data))
    except DataError:
        return False


def is_made(dataset: str, data: Path | str) -> bool:
    """True if a set's test is made from another set's pictures: neither half of it lies below `data`."""
    found = record(dataset)
    return bool(found.made_from) and (found.split or not any(lies(part, dataset, data) for part in found.parts))


def _misnamed(found: DataSet, data: Path) -> str:
    """The reserved name that keeps a folder from being one of identities, as a remark."""
    if "train" not in found.parts:
        return ""
    inside = people(data)
    somebody = any(pictures(path) for path in inside if path.name.lower() not in RESERVED)
    taken = _reserved(data, inside) if somebody else []
    return f" (no folder of identities, nor one in it, may be called {taken[0]!r}: rename it)" if taken else ""


def _reserved(data: Path, inside: list[Path]) -> list[str]:
    """Of a folder and those in it, the names that sets or their parts have; `identities` itself is one's own."""
    own = data.resolve().name.lower() in SETS["own"].folders
    return [path.name for path in (data.resolve(), *inside)[own:] if path.name.lower() in RESERVED]
