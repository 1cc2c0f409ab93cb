"""Drawing of whole sets: one loop over pictures, a note of the drawings in a folder, and the table of truth."""

import os
from collections import namedtuple
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..disk.files import DataError, clear, given_path, temporary_name, write_text
from ..disk.locks import merging
from ..disk.progress import bar
from .paint import make_noise

DRAWING = 2  # increase it when a change makes the same seed give other pictures
NOTE = "drawn.txt"  # drawings in a folder, one line each: "people: drawing 1, seed 0, scale demo"
TRUTH = "truth.csv"  # the truth of each drawn picture; a set with rows in it is complete
END = b"\xff\xd9"  # of a JPEG
COLUMNS = "dataset file identity camera kind figure_cx figure_cy figure_w figure_h above".split()
COLUMNS += "view_cx view_cy view_w view_h".split()


# A picture to be drawn; `file` lies below its set's folder, `key` is (number of the set's generators, person, picture).
Picture = namedtuple("Picture", "dataset file identity key camera kind", defaults=(0, "whole"))


def spread(pictures: int, people: int) -> list[int]:
    """Return the number of pictures of each person, as even as possible."""
    return [pictures // people + (person < pictures % people) for person in range(people)]


def keep(path: Path, draw: Callable[[], bytes]) -> None:
    """Draw a JPEG unless it exists; the file appears whole or not at all.

    The disk is not synchronised for each of thousands of files, but once, by `finish`. A picture that a power failure
    truncated before that lacks its end marker and is drawn again.
    """
    if path.exists() and path.read_bytes().endswith(END):
        return
    part = temporary_name(path)
    try:
        part.write_bytes(draw())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def occupied(folder: Path) -> bool:
    """Return True if a folder holds anything but hidden files."""
    return folder.is_dir() and any(not name.startswith(".") for name in os.listdir(folder))


def _drawings(folder: Path) -> dict[str, str]:
    """Kinds of pictures ("people") whose drawing began in a folder -> "drawing 2, seed 0, scale demo"."""
    note = folder / NOTE
    lines = note.read_text("utf-8", "replace").splitlines() if note.exists() else []
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def claim(out: Path, kind: str, seed: int, scale: str, scales: Iterable[str], folders: Iterable[str]) -> None:
    """Record in `out` that pictures of a kind ("people") are drawn there, with seed and scale.

    Raises DataError for a negative seed, an unknown scale, a folder with another drawing, or one that holds any of
    `folders` from elsewhere, so that two sets never mix.
    """
    if seed < 0:
        raise DataError(f"the seed must not be negative, as {seed} is")
    if scale not in scales:
        raise DataError(f"unknown scale {scale!r}; known: {', '.join(scales)}")
    known, line = _drawings(out), f"drawing {DRAWING}, seed {seed}, scale {scale}"
    if kind not in known and (found := [name for name in folders if (out / name).exists()]):
        raise DataError(f"{out} holds a {found[0]} that was not drawn here: draw into another folder")
    if not known and occupied(out):
        raise DataError(f"{out} holds files that were not drawn here: draw into another, empty folder")
    if known.get(kind, line) != line:
        raise DataError(f"{out} holds {kind} of {known[kind]}, not of {line}: delete it or draw elsewhere")
    with merging(out):
        known = _drawings(out)  # another kind's drawing may have begun
        write_text(out / NOTE, "".join(f"{name}: {text}\n" for name, text in sorted((known | {kind: line}).items())))
    for folder in {part.parent for name in folders for part in (out / name).rglob(".*.tmp")}:
        clear(folder)


def draw_pictures(
    out: Path, kind: str, pictures: list[Picture], folders: dict[str, str], seed: int, prepare: Callable, quiet=None
) -> None:
    """Draw pictures below `out`, then write their rows of `truth.csv`, which mark their sets as complete.

    `prepare(picture, rng, seed, noise)` returns the picture's kind, its boxes in the order of COLUMNS, and a function
    that draws it as the bytes of a JPEG. Each picture has a generator of its own, so pictures do not depend on their
    order, and an interrupted run is completed with the same bytes.
    """
    noise, rows = make_noise(np.random.default_rng([seed, 0])), []
    for p in bar(pictures, f"drawing {kind}", quiet=quiet):
        view, boxes, render = prepare(p, np.random.default_rng([seed, *p.key]), seed, noise)
        file = f"{folders[p.dataset]}/{p.file}"
        rows.append([p.dataset, file, p.identity, p.camera, view, *(f"{value:.6f}" for value in boxes)])
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        keep(out / file, render)
    finish(out, rows)


def finish(out: Path, rows: list[list]) -> None:
    """Write rows (in the order of COLUMNS) into the table of truth; those of other sets stay, sets in their order.

    Their pictures are synchronised to the disk first, in one call, because one call for each would take minutes.
    """
    os.sync()
    path, head, fresh = out / TRUTH, ",".join(COLUMNS), {row[0] for row in rows}
    with merging(out):
        known = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
        lines = [",".join(map(str, row)) for row in rows]
        lines += [line for line in known if line not in ("", head) and line.partition(",")[0] not in fresh]
        write_text(path, "\n".join([head, *sorted(lines, key=lambda line: line.partition(",")[0])]) + "\n")


def finished(data: Path) -> set[str]:
    """Names of the completely drawn sets, those in `truth.csv`. Raises DataError if the file cannot be read."""
    path = data / TRUTH
    try:
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    except OSError as error:
        raise DataError(f"{path}: {error.strerror.lower()}; it lists the sets that are completely drawn") from error
    return {line.partition(",")[0] for line in lines[1:]}


def unfinished(data: Path, dataset: str, kind: str) -> str:
    """Options of the command that completes a drawing ("people") interrupted before this set's end; "" for others."""
    begun = _drawings(data).get(kind, "")
    if not begun or dataset in finished(data):
        return ""
    return " ".join(f"--{option}" for option in begun.split(", ")[1:])


def truth(data: Path | str):
    """`truth.csv` of drawn sets as a pandas table indexed by file: kind, figure box and view box of every picture.

    Raises DataError if it is missing or damaged.
    """
    import pandas

    path, numbers = given_path(data) / TRUTH, COLUMNS[COLUMNS.index("figure_cx") :]
    if not path.is_file():
        raise DataError(f"{path} is missing: only drawn sets have it (python -m ppcl data synthesise --out {data})")
    with suppress(OSError, ValueError):  # what pandas raises on a damaged table is a ValueError
        types = dict.fromkeys(numbers, float) | {"identity": str}
        table = pandas.read_csv(path, index_col="file", dtype=types)
        whole = {*table.columns, "file"} >= set(COLUMNS) and table.index.is_unique
        if whole and np.isfinite(table[numbers]).all(axis=None):
            return table
    raise DataError(f"{path} is damaged: delete {data} and draw it again (python -m ppcl data synthesise)")
