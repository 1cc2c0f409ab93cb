"""Folders of the sets below `--data`, found by their names in circulation, in any case."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..disk.files import given_path, warn_once
from ..recipes import Data
from .reading import DataError, listing, people, pictures, subfolder
from .sets import RESERVED, SETS, DataSet


def record(dataset: str, part: str | None = None, settings: Data | None = None) -> DataSet:
    """The record of a set, with the parts of the variant that `settings` choose. Raises DataError for unknown names."""
    if dataset not in SETS:
        raise DataError(f"unknown data set {dataset!r}: choose from {', '.join(SETS)}")
    found = SETS[dataset]
    if part is not None and part not in found.parts:
        raise DataError(f"{dataset} has no part {part!r}: choose from {', '.join(found.parts)}")
    variant = getattr(settings or Data(), dataset, "")
    return replace(found, parts=found.variants[variant]) if variant in found.variants else found


def variants(found: DataSet) -> list[Data]:
    """Settings that choose each variant of a set; one for a set without variants."""
    return [Data(**{found.name: variant}) for variant in found.variants] or [Data()]


def part_folder(found: DataSet, part: str, data: Path | str) -> Path:
    """The folder of a part of a set below `data`. Raises DataError that says how to get it where there is none."""
    data, leaves = given_path(data), found.parts[part].folders
    if not data.is_dir():
        raise DataError(f"{data} is not a folder; {found.how_to_get}")
    places = list(tops(found, data))
    if folders := [*filter(None, (subfolder(top, leaf) for top in places for leaf in leaves))]:
        for other in folders[1:]:
            if other != folders[0] and other not in folders[0].parents:
                warn_once(f"{found.name}: {folders[0]} is read, and {other} is not: move one of them away")
        return folders[0]
    wanted = found.folders[:1] if leaves == (".",) else leaves
    top = places[0] if places else data
    remark = _misnamed(found, data)
    if found.variants:
        remark += f" (--set data.{found.name}={' or '.join(found.variants)} chooses)"
    lying = f"no {' or '.join(wanted)} below {top}, which holds {listing(top)}{remark}"
    raise DataError(f"{found.name}: {lying}; {found.how_to_get}")


def tops(found: DataSet, data: Path) -> Iterator[Path]:
    """Folders below `data` that are named like the set, inner ones first, then `data` itself if it is the set.

    A zip file unpacked into a folder of its own name doubles the folder. A folder of identities may have any name.
    """
    if not data.is_dir():
        return
    for inside in filter(None, (subfolder(data, name) for name in found.folders)):
        yield from filter(None, (subfolder(inside, again) for again in found.folders))
        yield inside
    if found.split and not _reserved(data) and any(map(pictures, people(data))):
        yield data
    names = {Path(os.path.abspath(data)).name.lower(), data.resolve().name.lower()}  # of a link, and of what it means
    if not found.split and names & {*map(str.lower, found.folders)}:
        yield data


def lies(found: DataSet, part: str, data: Path | str) -> bool:
    """True if a part of a set lies below `data`."""
    try:
        return bool(part_folder(found, part, data))
    except DataError:
        return False


def is_made(found: DataSet, data: Path | str) -> bool:
    """True if a set's test is made from another set's pictures: neither half of it lies below `data`."""
    return bool(found.made_from) and (found.split or not any(lies(found, part, data) for part in found.parts))


def _misnamed(found: DataSet, data: Path) -> str:
    """What keeps a folder from being one of identities, as a remark: a reserved name, or pictures a folder deeper."""
    if "train" not in found.parts:
        return ""
    inside, named = people(data), {name.lower() for one in SETS.values() for name in one.folders}
    if any(pictures(path) for path in inside if path.name.lower() not in RESERVED):
        taken = _reserved(data)
        return f" (no folder of identities, nor one in it, may be called {taken[0]!r}: rename it)" if taken else ""
    deeper = (path for top in inside if top.name.lower() not in named for path in people(top) if pictures(path))
    deep = next((path.relative_to(data) for path in deeper), None)
    return f" (pictures lie deeper than <identity>/<file>, in {deep}: move them up)" if deep else ""


def _reserved(data: Path) -> list[str]:
    """Of a folder and those in it, the names that sets or their parts have; `identities` itself is one's own."""
    own = data.resolve().name.lower() in SETS["own"].folders
    return [path.name for path in (data.resolve(), *people(data))[own:] if path.name.lower() in RESERVED]
