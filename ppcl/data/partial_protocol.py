"""Faces on disk: folders of identities (CASIA-WebFace), LFW and its pairs, and Partial-LFW made from LFW.

Detection and alignment are not done here. Pictures of 250 x 250, as LFW and CASIA-WebFace are given out, are cut to
their centre; aligned copies pass as they are (`image_files.open_picture`).
"""

import csv
import io
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..disk.files import printable
from ..recipes import PartialLFW
from . import partial_views
from .reading import DataError, PictureSet, listing, people, pictures

PAIRS = "pairs.txt"
_NAMED = re.compile(r"(.+?)(?:_([0-9]+))?", re.DOTALL)  # <person>_<n>, or <person>


@dataclass(frozen=True)
class Pairs:
    """LFW's verification pairs, fold by fold: indices into its pictures `(N,)`, and whether both show one person."""

    first: np.ndarray = field(repr=False)
    second: np.ndarray = field(repr=False)
    same: np.ndarray = field(repr=False)
    folds: int


def read_identities(name: str, folder: Path) -> PictureSet:
    """A folder of identities, `<identity>/<file>`; an identity's number is its folder's rank among those with pictures.

    Raises DataError for a folder that holds none; pictures beside the folders belong to nobody and are left out.
    """
    shown = [each for each in map(pictures, people(folder)) if each]  # `decoded`, which is ours, is none
    found = [(path, i) for i, each in enumerate(shown) for path in each]
    if not found:
        raise DataError(
            f"{name}: {folder} holds no <identity>/<picture> but {listing(folder)}; is this another set's folder, or "
            "packed, or are the pictures a folder deeper?"
        )
    paths, identities = zip(*found, strict=True)
    return PictureSet(name, folder, paths, np.array(identities, np.int64), np.zeros(len(paths), np.int64))


def read_partial(name: str, folder: Path) -> PictureSet:
    """Ready-made partial faces: `<person>.jpg` or `<person>_<n>.jpg`, here and in the folders beside this one.

    A person's number is the rank of the name among all of them, so that the halves agree.
    """
    files = pictures(folder)
    halves = [half for half in people(folder.parent) if half.name.lower() in ("probe", "query", "gallery")]
    names = sorted({_person(path) for half in halves for path in pictures(half)})
    number = {person: i for i, person in enumerate(names)}
    if len(names) == 1 < len(files):
        raise DataError(
            f"{name}: {files[0]} and all others are read as pictures of {names[0]!r}, for names are "
            "<person>_<number>.jpg; if the numbers are the people, rename them (001.jpg)"
        )
    identities = np.array([number[_person(path)] for path in files], np.int64)
    return PictureSet(name, folder, tuple(files), identities, np.zeros(len(files), np.int64))


def _person(path: Path) -> str:
    return composed(_NAMED.fullmatch(path.stem)[1])[0]


def read_pairs(path: Path, lfw: PictureSet) -> Pairs:
    """`pairs.txt`: `folds<TAB>n`, then for each fold n lines `name i j` and n lines `name i other j`.

    Names are matched in Unicode's composed form, whatever the file system made of them; they are looked up among the
    pictures, so no name leads out of the set's folder. Raises DataError that names the line for a line of another form,
    a picture that is not there or paired with itself, a person who differs from himself, or counts that do not agree.
    """
    try:
        wide = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")  # as some editors save text
        lines = path.read_text(encoding="utf-16" if wide else "utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as text ({type(error).__name__}); get LFW's {PAIRS} again") from None
    lines = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    first = lines[0][1] if lines else ""
    counts = first.split()
    if len(counts) != 2 or not all(_whole(count) and int(count) for count in counts):
        raise DataError(f"{path}, line 1: wanted the folds and the pairs of a fold (10<TAB>300), not {first[:60]!r}")
    folds, each = map(int, counts)
    if len(lines) - 1 != 2 * folds * each:
        raise DataError(f"{path}: {len(lines) - 1} pairs, but line 1 speaks of {folds} x ({each} + {each})")
    missing: dict[str, int] = {}
    known = {composed(p.parent.name, p.stem): i for i, p in enumerate(lfw.paths)}
    pairs, same = np.empty((len(lines) - 1, 2), np.int64), np.arange(2 * folds * each) // each % 2 == 0
    for row, (at, line) in enumerate(lines[1:]):
        wanted = 3 if same[row] else 4
        fields = line.split()
        if len(fields) != wanted:  # a copy whose names hold spaces has tabs between the fields
            fields = [part.strip() for part in line.split("\t")]
        numbers = (fields[1:2] + fields[-1:]) if len(fields) == wanted else [""]
        if not all(map(_whole, numbers)):
            kind = "name i j (same person)" if same[row] else "name i other j (different people)"
            raise DataError(f"{path}, line {at}: wanted {kind}, not {line[:60]!r}")
        names = (fields[0], fields[0]) if same[row] else (fields[0], fields[2])
        for side, (name, index) in enumerate(zip(names, (fields[1], fields[-1]), strict=True)):
            key = composed(name, f"{name}_{int(index):04d}")
            if key not in known:
                missing.setdefault(f"{lfw.folder.name}/{key[0]}/{key[1]}.jpg"[:300], at)
            pairs[row, side] = known.get(key, -1)
        if pairs[row, 0] == pairs[row, 1] >= 0 or (not same[row] and composed(names[0]) == composed(names[1])):
            said = "a picture with itself" if same[row] else "different people, but names one"
            raise DataError(f"{path}, line {at}: pairs {said} ({line[:60]!r}); get LFW's {PAIRS} again")
    if missing:
        names, at = ", ".join([*missing][:20]), next(iter(missing.values()))
        several = f"{len(missing)} pictures are not there: " if len(missing) > 1 else ""
        end = ", …" * (len(missing) > 20) if several else " is not there"
        raise DataError(f"{path}, line {at}: {several}{names}{end}; {lfw.folder} holds names like {lfw.paths[0].name}")
    return Pairs(pairs[:, 0], pairs[:, 1], same, folds)


def _whole(text: str) -> bool:
    """True for a plain whole number of a sensible length: `isdecimal` accepts the digits of all scripts."""
    return len(text) < 10 and text.isascii() and text.isdecimal()


def composed(*names: str) -> tuple[str, ...]:
    """Names in Unicode's composed form, whatever a file system made of them."""
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def make_partial(
    whole: PictureSet, dataset: str, protocol: PartialLFW, kinds: tuple[str, ...] = ("random",)
) -> tuple[PictureSet, PictureSet]:
    """(query, gallery) of `dataset`, made from whole pictures: our protocol, the same for every copy of them.

    Of the people with two or more pictures, `protocol.people` are drawn by lot; of each one picture is the gallery's
    and up to `protocol.queries` others are queries, each cropped at a part of one of the `kinds`, the random ones at a
    share of the area between `protocol.area`. All draws depend on the seed, the names and the number of pictures.
    Raises DataError if nobody has two.
    """
    chosen: list[tuple[int, list[int]]] = []
    groups = [np.flatnonzero(whole.identities == person) for person in np.unique(whole.identities)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise DataError(f"{whole.folder} has one picture of each person: partial queries cannot be made from it")
    draw = partial_views.make_rng(protocol.seed, "partial-lfw")
    for i in sorted(torch.randperm(len(groups), generator=draw)[: protocol.people].tolist()):
        order = groups[i][torch.randperm(len(groups[i]), generator=draw).numpy()]
        chosen.append((order[0], sorted(order[1 : 1 + protocol.queries])))
    query = np.array([index for _, others in chosen for index in others])
    gallery = np.array([index for index, _ in chosen])
    boxes, _ = partial_views.part_boxes(len(query), draw, kinds, protocol.area)
    query = replace(whole.keep(query), name=f"{dataset}/query", boxes=boxes.double().numpy().round(4))
    return query, replace(whole.keep(gallery), name=f"{dataset}/gallery")


def at_ratio(query: PictureSet, share: float) -> PictureSet:
    """Partial-LFW's queries cropped to a share of the area, each about its own box's centre as far as it fits."""
    side = share**0.5
    centre = query.boxes[:, :2].clip(side / 2, 1 - side / 2)
    return replace(query, boxes=np.concatenate([centre, np.full_like(centre, side)], 1))


def boxes_csv(query: PictureSet) -> str:
    """Partial-LFW's queries and their boxes (cx, cy, w, h; fractions of the picture) as a table to be saved."""
    table = io.StringIO(newline="")
    files = (printable(f"{path.parent.name}/{path.name}") for path in query.paths)
    rows = ([file, *box] for file, box in zip(files, query.boxes.tolist(), strict=True))
    csv.writer(table, lineterminator="\n").writerows([["file", "cx", "cy", "w", "h"], *rows])
    return table.getvalue()
