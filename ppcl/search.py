"""Your own photographs: rank a folder of pictures for each query, and show why."""

from pathlib import Path

import numpy as np
import pandas
import torch

from . import checkpoints, evaluation, geometry, ground_truth, matching, plots
from .data import datasets, images
from .data.folders import Cut
from .models.ppcl import PPCL

SHOWN = 20  # queries in a picture
CORNERS = ("x1", "y1", "x2", "y2")


def describe(model: PPCL, pictures, several: bool = True) -> matching.Features:
    """Features of pictures: an ImageBank, or paths and PIL images of any size and mode.

    `several` views of each, as queries are matched (their mirror images, and the placements of the model's row); one is
    enough for a gallery, at a fraction of the time. Raises DataError that names every picture that cannot be read.
    """
    if isinstance(pictures, (str, Path)):
        pictures = [pictures]
    bank = pictures
    if not isinstance(bank, images.ImageBank):
        bank = images.bank(_cut(pictures, model.recipe.task), model.recipe.input.size)
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
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files = gallery_files(gallery)
    asked = images.bank(_cut(query, task), model.recipe.input.size, "queries")
    sizes = _readable(files)
    files, sizes = list(sizes), list(sizes.values())
    have = images.bank(_cut(files, task), model.recipe.input.size, "gallery")
    queries, found = describe(model, asked), describe(model, have, several=False)
    overall = matching.global_distances(queries, found)
    distances = matching.match(model, queries, found)
    best = distances.argsort(dim=1, stable=True)[:, :top].cpu()
    asked_of, place = np.repeat(np.arange(len(best)), best.shape[1]), best.flatten().numpy()
    regions = None  # rows without regions locate none
    if model.method.region != "none":
        parts = matching.region_distances(model, queries, found, best)  # of what is shown, not of the whole gallery
        regions = ground_truth.locate_pairs(model, queries, found, asked_of, place).view(*best.shape, 4)
    lines = []
    for i, order in enumerate(best.tolist()):
        for rank_, j in enumerate(order):
            line = {"query": str(query[i]), "rank": rank_ + 1, "gallery": files[j].name}
            line |= {"distance": float(distances[i, j]), "global": float(overall[i, j])}
            line |= {"region": float(parts[i, rank_])} if regions is not None else {"region": None}
            line |= {"partial": bool(queries.gate[i] > 0)}
            line |= _pixels(regions[i, rank_], sizes[j], task) if regions is not None else dict.fromkeys(CORNERS)
            lines.append(line)
    table = pandas.DataFrame(lines)
    checkpoints.write_text(out / "ranking.csv", table.to_csv(index=False, float_format="%.6f"))
    names = [Path(path).stem for path in query]
    boxes, partial = queries.box[:, 0].cpu(), queries.gate.cpu() > 0
    figure = plots.ranking(asked, boxes, partial, have, best.numpy(), regions, limit=SHOWN, names=names)
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
        raise datasets.DataError(f"{folder} holds no photographs ({kinds})")
    return files


def _cut(pictures, task: str) -> list:
    """Files of faces are cut to their centre where they are 250 x 250, as in training; all others pass."""
    files = (str, Path)
    return [Cut(Path(one), True) if task == "face" and isinstance(one, files) else one for one in pictures]


def _readable(files: list[Path]) -> dict[Path, tuple[int, int]]:
    """The gallery pictures that can be read, with their (width, height); the others are named in one warning."""
    good, bad = {}, []
    for file in files:
        try:
            good[file] = images.open_picture(file).size
        except datasets.DataError as error:
            bad.append(str(error))
    if not good:
        raise datasets.DataError("no gallery picture can be read: " + "; ".join(bad))
    if bad:
        print(f"left out {len(bad)} gallery picture(s): " + "; ".join(bad))
    return good


def _pixels(box: torch.Tensor, size: tuple[int, int], task: str) -> dict[str, int]:
    """A located box in whole pixels of its picture of that (width, height), cut at the picture's edge."""
    uncut = task == "face" and size == images.UNCUT
    sides, low = ((images.CENTRE,) * 2, images.MARGIN) if uncut else (size, 0)
    corner = geometry.corners(geometry.clip(box)).numpy() * np.array([*sides, *sides]) + low
    return dict(zip(CORNERS, corner.round().astype(int).tolist(), strict=True))
