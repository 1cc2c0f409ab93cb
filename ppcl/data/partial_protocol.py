"""Folders of identities, LFW's pairs, and partial tests that are made from whole sets by our protocols (METHOD.md §10).

Detection and alignment are not done here. Pictures of 250 x 250, as LFW and CASIA-WebFace are given out, are cut to
their centre; aligned copies pass as they are (`image_files.open_picture`).
"""

import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas
import torch

from ..disk.files import given_path, printable
from ..recipes import KINDS, PartialLFW
from . import partial_views
from .reading import DataError, PictureSet

PAIRS, COUNT = "pairs.txt", "([0-9]{1,9})"
SAME, OTHER = (rf"(.+?)\s+{COUNT}\s+{more}{COUNT}" for more in ("", r"(.+?)\s+"))  # names may hold spaces
SIDE, AREA, RATIO = (0.4, 0.6), (0.25, 0.6), (0.7, 1.4)  # ours: of partial queries (METHOD.md §10)


@dataclass(frozen=True)
class Pairs:
    """LFW's verification pairs, fold by fold: indices into its pictures `(N,)`, and whether both show one person."""

    first: np.ndarray = field(repr=False)
    second: np.ndarray = field(repr=False)
    same: np.ndarray = field(repr=False)
    folds: int

    def of(self, folds: str) -> "Pairs":
        """The pairs of some folds, as `data.folds` names them. Raises DataError for a fold that is not there."""
        known = [str(number) for number in range(1, self.folds + 1)]
        if missing := [name for name in folds.split(",") if name not in known]:
            raise DataError(f"data.folds={folds}: the pairs have folds 1 to {self.folds}, and no {missing[0]}")
        chosen = sorted(known.index(name) for name in {*folds.split(",")})
        parts = [side.reshape(self.folds, -1)[chosen].ravel() for side in (self.first, self.second, self.same)]
        return Pairs(*parts, len(chosen))


def pairs_places(folder: Path, data: Path | str) -> list[Path]:
    """Places of LFW's `pairs.txt`: in the set's folder, beside it, or in the data folder."""
    return [place / PAIRS for place in (folder, folder.parent, given_path(data))]


def read_pairs(lfw: PictureSet, data: Path | str, how_to_get: str) -> Pairs:
    """`pairs.txt`: `folds<TAB>n`, then for each fold n lines `name i j` and n lines `name i other j`.

    Names are matched in Unicode's composed form, whatever the file system made of them; they are looked up among the
    pictures, so no name leads out of the set's folder. Raises DataError where the file is missing, and with the line's
    number for a line of another form, pictures that are not there or paired with themselves, a person who differs from
    himself, or counts that do not agree.
    """
    places = pairs_places(lfw.folder, data)
    path = next(filter(Path.is_file, places), None)
    if path is None:
        there = ", ".join(sorted({path.name for place in places for path in place.parent.glob("*pairs*")}))
        lying = f" ({there} is another form)" if there else ""
        raise DataError(f"lfw: no {PAIRS} in {lfw.folder} or beside it{lying}; {how_to_get}")
    try:
        wide = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")  # as some editors save text
        lines = path.read_text(encoding="utf-16" if wide else "utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as text ({type(error).__name__}); get LFW's {PAIRS} again") from None
    first, *lines = [(at, line.strip()) for at, line in enumerate(lines, 1) if line.strip()] or [(1, "")]
    counts = re.fullmatch(rf"{COUNT}\s+{COUNT}", first[1])
    folds, each = map(int, counts.groups()) if counts else (0, 0)
    if not folds * each:
        raise DataError(f"{path}, line 1: wanted the folds and the pairs of a fold (10<TAB>300), not {first[1][:60]!r}")
    if len(lines) != 2 * folds * each:
        raise DataError(f"{path}: {len(lines)} pairs, but line 1 speaks of {folds} x ({each} + {each})")
    if folds < 2:
        raise DataError(
            f"{path}, line 1: the pairs have one fold, and a fold's threshold comes from the others; make two"
        )
    known = {composed(p.parent.name, p.stem): i for i, p in enumerate(lfw.paths)}
    pairs, same, missing = [], np.arange(len(lines)) // each % 2 == 0, {}
    for (at, line), alike in zip(lines, same.tolist(), strict=True):
        fields = re.fullmatch(SAME if alike else OTHER, line)
        if not fields:
            kind = "name i j (same person)" if alike else "name i other j (different people)"
            raise DataError(f"{path}, line {at}: wanted {kind}, not {line[:60]!r}")
        name, i, *other, j = fields.groups()
        named = (name, i), (other[0] if other else name, j)
        keys = [composed(one, f"{one}_{int(shot):04d}") for one, shot in named]
        missing |= {key: at for key in keys if key not in known and key not in missing}
        if keys[0] == keys[1] in known or (not alike and keys[0][0] == keys[1][0]):
            said = "a picture with itself" if alike else "different people, but names one"
            raise DataError(f"{path}, line {at}: pairs {said} ({line[:60]!r}); get LFW's {PAIRS} again")
        pairs.append([known.get(key, -1) for key in keys])
    if missing:
        names = ", ".join(f"{lfw.folder.name}/{person}/{stem}.jpg"[:300] for person, stem in [*missing][:20])
        count = f"{len(missing)} pictures are not there: {names}" if len(missing) > 1 else f"{names} is not there"
        like = f"{lfw.folder} holds names like {lfw.paths[0].name}"
        raise DataError(f"{path}, line {next(iter(missing.values()))}: {count}; {like}")
    return Pairs(*np.array(pairs, np.int64).T, same, folds)


def composed(*names: str) -> tuple[str, ...]:
    """Names in Unicode's composed form, whatever a file system made of them."""
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def sampled_test(
    whole: PictureSet, protocol: PartialLFW, kinds: tuple[str, ...]
) -> tuple[PictureSet, PictureSet, torch.Tensor]:
    """(query, gallery, the queries' boxes) of a set without a test of its own, the same for every copy of it.

    Of the people with two or more pictures, `protocol.people` are drawn by lot; of each one picture is the gallery's
    and up to `protocol.queries` others are queries, each cropped at a part of one of the `kinds`, the random ones at a
    share of the area between `protocol.area`. All draws depend on the seed, the names and the number of pictures.
    Raises DataError if nobody has two.
    """
    groups = [np.flatnonzero(whole.identities == person) for person in np.unique(whole.identities)]
    people, groups = len(groups), [group for group in groups if len(group) > 1]
    if not groups:
        raise DataError(f"{whole.folder} has one picture of each person: partial queries cannot be made from it")
    if single := people - len(groups):
        note = f"{whole.name}: {single} of {people} people have one picture and are not tested"
        whole = replace(whole, notes=(*whole.notes, note))
    rng = partial_views.make_rng(protocol.seed, "partial-lfw")
    query, gallery = [], []
    for i in sorted(torch.randperm(len(groups), generator=rng)[: protocol.people].tolist()):
        order = groups[i][torch.randperm(len(groups[i]), generator=rng).numpy()]
        gallery.append(order[0])
        query += sorted(order[1 : 1 + protocol.queries])
    boxes, _ = partial_views.part_boxes(len(query), rng, kinds, protocol.area)
    return whole.keep(np.array(query)), whole.keep(np.array(gallery)), boxes


def query_boxes(count: int) -> torch.Tensor:
    """Boxes of partial queries `(count, 4)`, one for each query picture of a whole set; they depend on `count` alone.

    Kinds come in equal shares. Side crops keep SIDE of the picture along one axis and all of it along the other; random
    ones keep AREA of it at RATIO, width / height in fractions of the picture.
    """
    rng = partial_views.make_rng(0, "partial queries")
    kind = torch.randperm(count, generator=rng) % len(KINDS)
    kept, area, ratio = (partial_views.uniform(*limits, count, rng=rng) for limits in (SIDE, AREA, RATIO))
    random = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()])
    across, along = kind < 2, (kind == 2) | (kind == 3)  # left or right, upper or lower
    cut = torch.stack([across, along])
    size = torch.where(kind == 4, random, torch.where(cut, kept, torch.ones(())))
    low = torch.rand(2, count, generator=rng)
    low = torch.where(cut, (kind % 2).float(), low) * (1 - size)
    return torch.cat([low + size / 2, size]).T


def kinds_of(boxes: np.ndarray) -> np.ndarray:
    """The kind in KINDS of each of `query_boxes` `(N,)`."""
    cx, cy, w, h = boxes.T
    return np.select(
        [w == 1, h == 1], [np.where(cy < 0.5, "upper", "lower"), np.where(cx < 0.5, "left", "right")], "random"
    )


def at_ratio(query: PictureSet, share: float) -> PictureSet:
    """Made queries cropped to a share of the area, each about its own box's centre as far as it fits."""
    side = share**0.5
    centre = query.boxes[:, :2].clip(side / 2, 1 - side / 2)
    return replace(query, boxes=np.concatenate([centre, np.full_like(centre, side)], 1))


def boxes_csv(query: PictureSet) -> str:
    """Made queries and their boxes (cx, cy, w, h; fractions of the picture) as a table to be saved."""
    files = [printable(f"{path.parent.name}/{path.name}") for path in query.paths]
    table = pandas.DataFrame(query.boxes, pandas.Index(files, name="file"), ["cx", "cy", "w", "h"])
    return table.to_csv(lineterminator="\n")
