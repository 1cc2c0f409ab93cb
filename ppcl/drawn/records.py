"""Files that all drawn sets share: a note of the drawings in a folder, whole pictures, and the table of truth."""

import csv
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ..disk.files import DataError, clear, temporary_name, write_text

NOTE = "drawn.txt"  # drawings in a folder, one line each: "people: drawing 1, seed 0, scale demo"
TRUTH = "truth.csv"  # the truth of each drawn picture; a set with rows in it is complete
END = b"\xff\xd9"  # of a JPEG
COLUMNS = (
    "dataset,file,identity,camera,kind,figure_cx,figure_cy,figure_w,figure_h,above,view_cx,view_cy,view_w,view_h".split(
        ","
    )
)


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


def claim(
    out: Path, what: str, drawing: int, seed: int, scale: str, scales: Iterable[str], folders: Iterable[str]
) -> None:
    """Record in `out` that `what` ("people") is drawn there, with drawing, seed and scale.

    Raises DataError for a negative seed, an unknown scale, a folder with another drawing, or one that holds any of
    `folders` from elsewhere, so that two sets never mix.
    """
    if seed < 0:
        raise DataError(f"the seed must not be negative, as {seed} is")
    if scale not in scales:
        raise DataError(f"unknown scale {scale!r}; known: {', '.join(scales)}")
    note, line = out / NOTE, f"drawing {drawing}, seed {seed}, scale {scale}"
    lines = note.read_text("utf-8", "replace").splitlines() if note.exists() else []
    known = dict(entry.split(": ", 1) for entry in lines if ": " in entry)
    if what not in known and (found := [name for name in folders if (out / name).exists()]):
        raise DataError(f"{out} holds a {found[0]} that was not drawn here: draw into another folder")
    if not known and occupied(out):
        raise DataError(f"{out} holds files that were not drawn here: draw into another, empty folder")
    if known.get(what, line) != line:
        raise DataError(f"{out} holds {what} of {known[what]}, not of {line}: delete it or draw elsewhere")
    known[what] = line
    write_text(note, "".join(f"{kind}: {text}\n" for kind, text in sorted(known.items())))
    for folder in {part.parent for name in folders for part in (out / name).rglob(".*.tmp")}:
        clear(folder)


def finished(data: Path) -> set[str]:
    """Names of the completely drawn sets, those in `truth.csv`. Raises DataError if the file cannot be read."""
    path = data / TRUTH
    try:
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    except OSError as error:
        raise DataError(f"{path}: {error.strerror.lower()}; it tells which sets were drawn") from error
    return {line.partition(",")[0] for line in lines[1:]}


def unfinished(data: Path, dataset: str, kind: str) -> str:
    """Options of a drawing ("people") that has begun in a folder and not reached this set's end; "" for any other."""
    note = data / NOTE
    lines = note.read_text("utf-8", "replace").splitlines() if note.is_file() else []
    begun = next((line for line in lines if line.partition(": ")[0] == kind), "")
    if not begun or dataset in finished(data):
        return ""
    return " ".join(f"--{option}" for option in begun.split(", ")[1:])


def finish(out: Path, rows: list[list]) -> None:
    """Write rows (in the order of COLUMNS) into the table of truth; those of other sets stay, sets in their order.

    Their pictures are synchronised to the disk first, in one call, because one call for each would take minutes.
    """
    os.sync()
    path, fresh = out / TRUTH, {str(row[0]) for row in rows}
    if path.exists():
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [*rows, *(row for row in csv.reader(file) if row and row[0] not in fresh and row != COLUMNS)]
    table = io.StringIO(newline="")
    order = {name: i for i, name in enumerate(sorted({str(row[0]) for row in rows}))}
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *sorted(rows, key=lambda row: order[str(row[0])])])
    write_text(path, table.getvalue())


def truth(data: Path | str):
    """`truth.csv` of drawn sets as a pandas table indexed by file: kind, figure box and view box of every picture.

    Raises DataError if it is missing or damaged.
    """
    import pandas

    path, numbers = Path(data) / TRUTH, COLUMNS[COLUMNS.index("figure_cx") :]
    if not path.is_file():
        raise DataError(f"{path} is missing: only drawn sets have it (python -m ppcl data synthesise --out {data})")
    try:
        table = pandas.read_csv(path, index_col="file", dtype=dict.fromkeys(numbers, float) | {"identity": str})
        whole = {*table.columns, "file"} >= set(COLUMNS) and table.index.is_unique
        whole = whole and np.isfinite(table[numbers]).all(axis=None)
    except (OSError, ValueError):  # what pandas raises on a damaged table is a ValueError
        whole = False
    if not whole:
        raise DataError(f"{path} is damaged: delete {data} and draw it again (python -m ppcl data synthesise)")
    return table
