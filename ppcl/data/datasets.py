"""Data sets below a folder -> pictures with identity and camera; what is there, and what is missing.

Everything is read from base names, sorted, never from full paths: digits in a folder's name are no identity, and
the file system's order decides nothing.
"""

import hashlib
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..drawn.records import finished, truth, unfinished
from ..recipes import DATASETS, KINDS, PartialLFW, belongs
from . import partial_protocol
from .layouts import (
    BY_IDENTITY,
    NAMED_LIKE,
    PARTS,
    PUBLISHED,
    TRAINING,
    how_to_get,
    lies,
    made_from_lfw,
    parse,
    part_folder,
)
from .reading import SUFFIXES, Cut, DataError, PictureSet, people, pictures

__all__ = ["DATASETS", "SUFFIXES", "TRAINING", "Cut", "DataError", "PictureSet", "pictures", "truth"]


def read(dataset: str, part: str, data: Path | str) -> PictureSet:
    """One part (`train`, `query`, `gallery`, `occluded`; of LFW `all`) of a set below `data`.

    Market-1501's junk (`-1`) is left out; its distractors (`0000`) stay in the gallery alone, as identity 0. Raises
    DataError if the folder is missing or empty, or that lists the names which do not belong to the layout.
    """
    folder = part_folder(dataset, part, Path(data))
    if how := unfinished(Path(data), dataset):
        raise DataError(
            f"{dataset}: its drawing in {data} has not come to its end; the same command finishes it: "
            f"python -m ppcl data synthesise --task {DATASETS[dataset]} --out {data} {how}"
        )
    if dataset in BY_IDENTITY:
        return partial_protocol.read_identities(f"{dataset}/{part}", folder)
    files = pictures(folder)
    if not files:
        raise DataError(f"{dataset}: {folder} holds no pictures; {how_to_get(dataset)}")
    if dataset == "partial-lfw":
        return partial_protocol.read_partial(f"{dataset}/{part}", folder)
    parsed = [(path, parse(dataset, part, path)) for path in files]
    if wrong := [path for path, found in parsed if found is None]:
        others = ", ".join(path.name for path in wrong[1:20]) + ", …" * (len(wrong) > 20)
        which = f"{wrong[0]} is" if len(wrong) == 1 else f"{wrong[0]} and {len(wrong) - 1} more ({others}) are"
        raise DataError(f"{dataset}: {which} not named like {NAMED_LIKE[dataset]}; is this another set's folder?")
    named = [(path, *found) for path, found in parsed]
    ignored = (-1,) if dataset != "market1501" or part == "gallery" else (-1, 0)
    named = [entry for entry in named if entry[1] not in ignored]
    if not named:
        raise DataError(f"{dataset}: {folder} holds nothing but junk (-1) pictures; {how_to_get(dataset)}")
    paths, identities, cameras = zip(*named, strict=True)
    return PictureSet(f"{dataset}/{part}", folder, paths, np.array(identities, np.int64), np.array(cameras, np.int64))


def own_part(part: str, data: Path | str, task: str) -> PictureSet:
    """The `train` or `test` people of a folder of identities, `<identity>/<file>`.

    About one person in five is for tests, by a hash of the folder's name: whoever is added later, nobody who was
    trained on turns into a test. Raises DataError where the part has fewer than two people.
    """
    found = read("own", "all", data)
    names = [unicodedata.normalize("NFC", path.parent.name) for path in found.paths]  # some disks write others
    test = np.array([hashlib.sha256(os.fsencode(name)).digest()[0] % 5 == 0 for name in names])
    some = found.keep(test == (part == "test"))
    if len(set(some.identities)) < 2:
        raise DataError(
            f"{found.folder}: of its {len(set(names))} people {len(set(some.identities))} are for {part} (one in five "
            "is for tests, by name), and two are needed: add people"
        )
    return replace(some, name=f"own/{part}", centre=task == "face")


def evaluation_sets(
    dataset: str, data: Path | str, protocol: PartialLFW | None = None, task: str = "person"
) -> tuple[PictureSet, PictureSet]:
    """(query, gallery) of a set's standard protocol; Partial-LFW is made from LFW where no folder of it is there.

    `own`, which can be of either task, is made from a folder of identities in the same way; people are cut at their
    sides, too. Raises DataError where a half is missing or they share nobody.
    """
    if dataset == "own":
        kinds = ("random",) if task == "face" else KINDS
        return partial_protocol.make_partial(own_part("test", data, task), protocol or PartialLFW(), kinds)
    if made_from_lfw(dataset, data):
        return partial_protocol.make_partial(read("lfw", "all", data), protocol or PartialLFW())
    query, gallery = read(dataset, "query", data), read(dataset, "gallery", data)
    if not set(query.identities) & set(gallery.identities):
        raise DataError(
            f"{dataset}: no query identity of {query.folder} is in {gallery.folder}; are these halves of two sets?"
        )
    return query, gallery


def verification_set(data: Path | str) -> tuple[PictureSet, partial_protocol.Pairs]:
    """LFW and its pairs; `pairs.txt` lies in the set's folder or beside it. Raises DataError where one is missing."""
    lfw = read("lfw", "all", data)
    places = [folder / partial_protocol.PAIRS for folder in (lfw.folder, lfw.folder.parent, Path(data))]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise DataError(f"lfw: no {partial_protocol.PAIRS} in {lfw.folder} or beside it; {how_to_get('lfw')}")
    return lfw, partial_protocol.read_pairs(found, lfw)


def training_set(task: str, data: Path | str) -> PictureSet:
    """The holistic pictures that every stage learns from: the task's set, or, where that is not there, `own`.

    Raises DataError if there are fewer than two identities.
    """
    dataset = TRAINING[task]
    if trains_on_own(task, data):
        return own_part("train", data, task)
    found = read(dataset, "train", data)
    if len(set(found.identities)) < 2:
        raise DataError(f"{dataset}: {found.folder} shows fewer than two identities; {how_to_get(dataset)}")
    return found


def trains_on_own(task: str, data: Path | str) -> bool:
    """Whether a folder of identities stands in for the task's training set: it is there, and the set is not."""
    return not lies("train", TRAINING[task], data) and lies("all", "own", data)


def available(data: Path | str, task: str | None = None) -> list[str]:
    """The sets (of a task) that can be evaluated on: whose query and gallery, or pairs, can be read below `data`."""
    found = []
    for dataset in DATASETS:
        try:
            if belongs(dataset, task) and dataset != "casia-webface":
                verification_set(data) if dataset == "lfw" else evaluation_sets(dataset, data)
                found.append(dataset)
        except DataError:
            pass
    return found


def partial_sets(data: Path | str, task: str) -> list[str]:
    """The available sets of a task whose queries are partial. Raises DataError where there is none."""
    found = [name for name in available(data, task) if name.startswith("partial") or name == "own"]
    if not found:
        wanted = {"person": "partial-reid", "face": "lfw"}[task]
        raise DataError(f"{data} holds no partial set to evaluate on; {how_to_get(wanted)}")
    return found


def is_drawn(data: Path | str, dataset: str | None = None) -> bool:
    """Whether a set (or any) below `data` was drawn by this project: drawn sets stand in a table of their truth."""
    known = finished(Path(data))
    if made_from_lfw(dataset, data):
        dataset = "lfw"
    return bool(known) if dataset is None else dataset in known


def check(data: Path | str, task: str | None = None) -> list[dict]:
    """What is below `data`: a row for each part of each set (of a task), counted against the published counts.

    Keys: dataset, part, folder, pictures, identities, published, published_identities, status (`complete`, `drawn`,
    `own`, `made` from another set, `differs`, `missing`, `unreadable`), note. Raises DataError if `data` is no folder.
    """
    if not Path(data).is_dir():
        raise DataError(f"{data} is not a folder; give --data the folder that holds (or will hold) the sets")
    rows = []
    for dataset in (name for name in PUBLISHED if belongs(name, task)):
        for part, published in PUBLISHED[dataset].items():
            row = {"dataset": dataset, "part": part, "folder": None, "pictures": 0, "identities": 0}
            row |= {"published": published[0], "published_identities": published[1], "note": ""}
            try:
                if made_from_lfw(dataset, data):
                    row |= {"status": "made", "note": "made from lfw"}
                    found = evaluation_sets(dataset, data)[part == "gallery"]
                else:
                    folder = part_folder(dataset, part, Path(data))
                    row["folder"] = folder.relative_to(Path(data)).as_posix()
                    row["pictures"] = len(_files(dataset, folder))
                    found = read(dataset, part, data)
                    if dataset == "lfw":
                        verification_set(data)
                ignored = {0} if dataset == "market1501" else set()
                row["identities"] = len(set(found.identities) - ignored)
                row["pictures"] = row["pictures"] or len(found)
                if "status" not in row:
                    same = (row["pictures"], row["identities"]) == published
                    row["status"] = "drawn" if is_drawn(data, dataset) else "complete" if same else "differs"
                if row["status"] == "differs":
                    row["note"] = f"published: {published[0]} of {published[1]} people"
            except DataError as error:
                there = row["pictures"] or isinstance(error.__cause__, OSError)  # what lies there may not be read
                row["status"] = "unreadable" if there else "missing"
                how = how_to_get(dataset)
                row["note"] = str(error) if there else f"{error} {how}" if row["folder"] else how
            rows.append(row)
    return rows + _check_own(data, task)


def _check_own(data: Path | str, task: str | None) -> list[dict]:
    """`check`'s rows for a folder of identities, where one is there; nobody misses one."""
    if not lies("all", "own", data):
        return []
    rows, folder = [], part_folder("own", "all", Path(data)).relative_to(Path(data)).as_posix()
    for part in ("train", "test"):
        row = {"dataset": "own", "part": part, "folder": folder, "pictures": 0, "identities": 0}
        row |= {"published": None, "published_identities": None, "status": "own", "note": ""}
        try:
            found = own_part(part, data, task or "person")
            row |= {"pictures": len(found), "identities": len(set(found.identities))}
        except DataError as error:
            row |= {"status": "unreadable", "note": str(error)}
        rows.append(row)
    return rows


def contents(data: Path | str) -> dict:
    """Counts and a SHA-256 of all pictures of all sets below `data`, names and bytes, for a run's manifest.

    Of a picture that cannot be read the name alone counts: it may stand in a set that this run does not use.
    """
    digest, counts = hashlib.sha256(), {}
    for dataset in DATASETS:
        for part in PARTS[dataset]:
            try:
                folder = part_folder(dataset, part, Path(data))
                found = _files(dataset, folder)
            except DataError:
                continue
            counts[f"{dataset}/{part}"] = len(found)
            for path in found:
                digest.update(os.fsencode(path.relative_to(folder).as_posix()))
                if path.is_file() and os.access(path, os.R_OK):
                    digest.update(path.read_bytes())
    return {"pictures": counts, "sha256": digest.hexdigest(), "drawn": is_drawn(data)}


def _files(dataset: str, folder: Path) -> list[Path]:
    """All pictures of a part: those of its folder, or of the identities' folders in it."""
    if dataset not in BY_IDENTITY:
        return pictures(folder)
    return [path for person in people(folder) for path in pictures(person)]
