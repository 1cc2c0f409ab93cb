"""Your own photographs: rank a folder of pictures for each query, and show why.

A folder's features are kept in the run folder, `<task>/galleries`; as long as neither its pictures nor the checkpoint
change, the next query is spared describing it. The files may be deleted at any time.
"""

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image

from . import __version__, evaluation, geometry, matching, plots
from .data import datasets, image_bank, image_files
from .data.reading import Cut
from .disk import checkpoints, progress
from .disk.files import printable, warn_once, write_text
from .evaluation import known_truth
from .matching import kept_features
from .models.ppcl import PPCL
from .recipes import Recipe
from .recipes.methods import trained_by

SHOWN = 20  # queries in a picture
PART = 1024  # gallery pictures that are decoded and described at once
CORNERS = ("x1", "y1", "x2", "y2")


def describe(model: PPCL, pictures, several: bool = True) -> matching.Features:
    """Features of pictures: an ImageBank, or paths and PIL images of any size and mode.

    `several` views of each, as queries are matched (their mirror images, and the placements of the model's row); one is
    enough for a gallery, at a fraction of the time. Raises DataError that names every picture that cannot be read.
    """
    if isinstance(pictures, (str, Path, Image.Image)):
        pictures = [pictures]
    bank = pictures
    if not isinstance(bank, image_bank.ImageBank):
        pictures = list(pictures)
        if odd := [type(one).__name__ for one in pictures if not isinstance(one, (str, Path, Image.Image))]:
            raise TypeError(f"pictures are paths, PIL images or an ImageBank, not {odd[0]}")
        bank = image_bank.bank(_cut(pictures, model.recipe), model.recipe.input.size)
    return matching.describe(model, bank, several)


def rank(
    run: Path | str,
    task: str,
    query: list[Path | str],
    gallery: Path | str,
    out: Path | str,
    top: int = 10,
    method: str = "ppcl",
    seed: int = 0,
    device: str = "cpu",
) -> pandas.DataFrame:
    """Rank a folder of photographs for each query picture: `out/ranking.csv` and `out/ranking.png`. -> the table.

    The table has a line a query and rank: query, rank, gallery, distance, its global and region parts, whether the
    query was taken for partial, and the located region (x1, y1, x2, y2 in pixels of the gallery picture); rows that
    compare no regions leave those empty. A gallery picture that cannot be read is left out with a warning line; a query
    that cannot be read raises DataError.
    """
    model = evaluation.load(run, task, method, seed, device)
    if model.method.oracle:
        raise ValueError(f"{method} needs the truth, which nobody knows of photographs: choose another --method")
    if top < 1:
        raise ValueError(f"top is {top}: ask for one picture at least")
    out = Path(out)
    if out.resolve() == Path(gallery).resolve():
        raise ValueError(f"{out} is the gallery: give another folder, or the result would be one of its pictures")
    query = [query] if isinstance(query, (str, Path)) else list(query)
    out.mkdir(parents=True, exist_ok=True)
    files = gallery_files(gallery)
    asked = image_bank.bank(_cut(query, model.recipe), model.recipe.input.size, "queries")
    queries = describe(model, asked)
    found, kept = _gallery(model, files, *_kept_as(run, task, files, method, seed))
    files = [file for file, size in zip(files, kept["sizes"], strict=True) if size]
    sizes = [tuple(size) for size in kept["sizes"] if size]
    distances, overall, best = (part.cpu() for part in matching.search(model, queries, found, top))
    shown, place = np.unique(best, return_inverse=True)  # only these are read again
    order, near = place.reshape(best.shape), found[torch.from_numpy(shown)].to(device)
    have = image_bank.bank(_cut([files[j] for j in shown], model.recipe), model.recipe.input.size, "found")
    regions = None  # rows without regions locate none
    if model.method.region != "none":
        parts = matching.region_distances(model, queries, near, torch.from_numpy(order).to(device))
        asked_of = np.repeat(np.arange(len(order)), order.shape[1])
        regions = known_truth.locate_pairs(model, queries, near, asked_of, order.flatten()).view(*order.shape, 4)
    lines = []
    for i, row in enumerate(best.tolist()):
        for rank_, j in enumerate(row):
            line = {"query": printable(str(query[i])), "rank": rank_ + 1, "gallery": printable(files[j].name)}
            line |= {"distance": float(distances[i, rank_]), "global": float(overall[i, rank_])}
            line |= {"region": float(parts[i, rank_])} if regions is not None else {"region": None}
            line |= {"partial": bool(queries.gate[i] > 0)}
            line |= (
                _pixels(regions[i, rank_], sizes[j], model.recipe) if regions is not None else dict.fromkeys(CORNERS)
            )
            lines.append(line)
    table = pandas.DataFrame(lines)
    write_text(out / "ranking.csv", table.to_csv(index=False, float_format="%.6f"))
    names = [printable(Path(path).stem) for path in query]
    boxes, partial = queries.box[:, 0].cpu(), queries.gate.cpu() > 0
    figure = plots.ranking(asked, boxes, partial, have, order, regions, limit=SHOWN, names=names)
    told = f"own pictures: {min(len(query), SHOWN)} of {len(query)} queries, {len(files)} gallery pictures"
    plots.caption(figure, f"{told}; {method} of a {model.recipe.profile} run, seed {seed}")
    if len(query) > SHOWN:
        print(f"{out / 'ranking.png'} shows the first {SHOWN} of {len(query)} queries; ranking.csv has them all")
    plots.save(figure, out / "ranking.png")
    return table


def gallery_files(folder: Path | str) -> list[Path]:
    """The pictures of a folder, sorted by name. Raises DataError if it is missing or holds none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise datasets.DataError(f"{folder} is not a folder: give the folder that holds the gallery's photographs")
    files = datasets.pictures(folder)
    if not files:
        kinds = ", ".join(sorted(datasets.SUFFIXES))
        raise datasets.DataError(f"{folder} holds no photographs ({kinds}); folders in it are not searched")
    for note in datasets.left_out(str(folder), folder, [folder]):
        warn_once(note)
    return files


def _cut(pictures, recipe: Recipe) -> list[Cut]:
    """Pictures as training reads them: uncut faces are cut to their central half."""
    return [Cut(one, recipe.data.uncut) for one in pictures]


def _kept_as(run, task: str, files: list[Path], method: str, seed: int) -> tuple[Path, dict]:
    """The file that keeps a gallery's features, and what they depend on."""
    row = trained_by(method)  # rows of one checkpoint see a gallery alike
    with open(evaluation.checkpoint(run, task, method, seed), "rb") as file:
        facts = {"checkpoint": hashlib.file_digest(file, "sha256").hexdigest(), "row": row, "ppcl": __version__}
    status = {file.name: file.stat() for file in files if file.is_file()}  # not a link that leads nowhere
    listed = json.dumps({name: (one.st_size, one.st_mtime_ns) for name, one in status.items()})
    facts["files"] = hashlib.sha256(listed.encode()).hexdigest()  # short for a million names, too
    facts["number"] = len(files)
    folder = files[0].parent.resolve()
    key = hashlib.sha256(os.fsencode(f"{folder} {row} {seed}")).hexdigest()[:12]
    return Path(run) / task / "galleries" / f"{printable(folder.name)[:40]}-{key}", facts


def _gallery(model: PPCL, files: list[Path], path: Path, facts: dict) -> tuple[matching.Features, dict]:
    """Features of a gallery, from an earlier call where nothing has changed since, else made and kept.

    With the (width, height) of its pictures in their order, `sizes`; those that cannot be read have none and are named.
    """
    try:
        found, kept = kept_features.load(path, facts)
        if not _agrees(kept, found, files):
            raise checkpoints.CheckpointError
        left_out = [file for file, size in zip(files, kept["sizes"], strict=True) if not size]
        if any(_size(file)[0] for file in left_out):  # what kept it from being read has passed
            raise checkpoints.CheckpointError
    except checkpoints.CheckpointError:
        if path.exists():
            why = "the gallery, the checkpoint or ppcl is another one now, or the file is damaged"
            print(f"{path}: {why}; the pictures are described again")
    else:
        _warn(kept["left_out"])
        return found, kept
    sizes, bad = _readable(files)
    _warn(bad)
    kept = {"sizes": sizes, "left_out": bad}
    good = [file for file, size in zip(files, sizes, strict=True) if size]

    def parts():
        for start in range(0, len(good), PART):
            some = _cut(good[start : start + PART], model.recipe)
            yield describe(model, image_bank.bank(some, model.recipe.input.size, "gallery"), several=False)

    try:
        kept_features.save(path, parts(), len(good), facts, **kept)
    except OSError as error:
        if error.errno == errno.ENOSPC and len(good) > PART:  # the memory is no better place for so many
            raise datasets.DataError(f"{path}: {error.strerror}; free some room, or give a --run elsewhere") from None
        print(f"{path}: the gallery's features cannot be kept there ({error.strerror or error})")
        return matching.Features.joined(parts(), len(good)), kept
    return kept_features.load(path, facts)[0], kept


def _agrees(kept: dict, found: matching.Features, files: list[Path]) -> bool:
    """Whether what a file of features tells of the pictures speaks of these, and of all that it has features of."""
    sizes, left_out = kept.get("sizes"), kept.get("left_out")
    if not isinstance(sizes, list) or not isinstance(left_out, list) or len(sizes) != len(files):
        return False
    good = [size for size in sizes if size]  # two whole numbers; None: it could not be read
    right = all(isinstance(size, list) and [type(side) for side in size] == [int, int] for size in good)
    return right and len(good) == len(found) and all(isinstance(line, str) for line in left_out)


def _warn(bad: list[str]) -> None:
    if bad:
        print(f"left out {len(bad)} gallery picture(s): " + "; ".join(bad))


def _size(file: Path) -> tuple[tuple[int, int] | None, str]:
    """(width, height) of a gallery picture, None where it cannot be read; and what is wrong with it."""
    try:
        return image_files.open_picture(file).size, ""
    except datasets.DataError as error:
        return None, str(error)


def _readable(files: list[Path]) -> tuple[list[tuple[int, int] | None], list[str]]:
    """Each gallery picture's `_size`, and what is wrong with those that have none."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(progress.bar(pool.map(_size, files), "looking through the gallery", len(files)))
    sizes, bad = [size for size, _ in found], [problem for _, problem in found if problem]
    if len(bad) == len(files):
        raise datasets.DataError("no gallery picture can be read: " + "; ".join(bad))
    return sizes, bad


def _pixels(box: torch.Tensor, size: tuple[int, int], recipe: Recipe) -> dict[str, int]:
    """A located box in whole pixels of its picture of that (width, height), cut at the picture's edge."""
    left, top, right, bottom = image_files.central_box(size, recipe.data.uncut) or (0, 0, *size)
    corner = geometry.corners(geometry.clip(box)).numpy() * np.array([right - left, bottom - top] * 2) + [left, top] * 2
    return dict(zip(CORNERS, corner.round().astype(int).tolist(), strict=True))
