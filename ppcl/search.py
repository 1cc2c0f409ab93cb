"""Your own photographs: rank a folder of pictures for each query, and show why."""

from pathlib import Path

import numpy as np
import pandas
import torch

from . import checkpoints, evaluation, geometry, matching, plots
from .data import datasets, images
from .models.ppcl import PPCL


def describe(model: PPCL, pictures, several: bool | None = None) -> matching.Features:
    """Features of pictures: an ImageBank, or paths and PIL images of any size and mode.

    `several` placements of those taken for partial: as the model's row is matched, unless given. Raises DataError that
    names every picture that cannot be read.
    """
    bank = pictures if isinstance(pictures, images.ImageBank) else images.bank(pictures, model.recipe.input.size)
    return matching.describe(model, bank, model.method.placements if several is None else several)


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
    query was taken for partial, and the located region (x1, y1, x2, y2 in pixels of the gallery picture). A gallery
    picture that cannot be read is left out with a warning line; a query that cannot be read raises DataError.
    """
    model = evaluation.load(run, task, method, seed, device)
    files = gallery_files(gallery)
    asked = images.bank(query, model.recipe.input.size, "queries")
    files, have = _readable(files, model.recipe.input.size)
    queries, found = describe(model, asked), describe(model, have, several=False)
    overall = matching.global_distances(queries, found)
    distances = matching.match(model, queries, found)
    region = matching.region_distances(model, queries, found) if model.method.region != "none" else overall
    best = distances.argsort(dim=1, stable=True)[:, :top]

    lines, regions = [], []
    for i, order in enumerate(best):
        where, _ = matching.locate(model, queries.points[i, :1], queries.box[i, :1], found[order])
        regions.append(matching.in_picture(where[:, 0], found[order]).cpu())
        for place, (j, box) in enumerate(zip(order.tolist(), regions[-1], strict=True)):
            line = {"query": str(query[i]), "rank": place + 1, "gallery": files[j].name}
            line |= {"distance": float(distances[i, j]), "global": float(overall[i, j]), "region": float(region[i, j])}
            line |= {"partial": bool(queries.gate[i] > 0)} | _pixels(box, files[j])
            lines.append(line)
    table = pandas.DataFrame(lines)
    out = Path(out)
    checkpoints.write_text(out / "ranking.csv", table.to_csv(index=False, float_format="%.6f"))
    figure = plots.ranking(asked, queries.box[:, 0].cpu(), queries.gate.cpu() > 0, have, best.cpu().numpy(), regions)
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


def _readable(files: list[Path], size: tuple[int, int]) -> tuple[list[Path], images.ImageBank]:
    """The gallery pictures that can be read; the others are named in one warning."""
    good, bad = [], []
    for file in files:
        try:
            images.open_picture(file)
            good.append(file)
        except datasets.DataError as error:
            bad.append(str(error))
    if not good:
        raise datasets.DataError("no gallery picture can be read: " + "; ".join(bad))
    if bad:
        print(f"left out {len(bad)} gallery picture(s): " + "; ".join(bad))
    return good, images.bank(good, size, "gallery")


def _pixels(box: torch.Tensor, file: Path) -> dict[str, int]:
    """A located box in whole pixels of its picture, cut at the picture's edge."""
    width, height = images.open_picture(file).size
    corner = geometry.corners(geometry.clip(box)).numpy() * np.array([width, height, width, height])
    return dict(zip(("x1", "y1", "x2", "y2"), corner.round().astype(int).tolist(), strict=True))
