"""Drag a crop and watch: where it is placed, where it is located, whom it ranks first, and by which distance.

What is chosen from, what is described once, and what a row makes of one crop; `explore_view` draws and shows it.
"""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image

from . import evaluation, geometry, matching
from .data import datasets, image_bank, image_files
from .data.reading import Cut
from .disk import checkpoints
from .disk.files import printable
from .evaluation import known_truth
from .models.ppcl import PPCL
from .recipes import METHODS

Crop = tuple[float, float, float, float]  # left, right, top, bottom, in fractions of the picture
WHOLE, UPPER, LEAST = (0.0, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.5), 0.1
TOP, CHOICES = 7, 200  # pictures in a row of the drawing; people to choose from
LARGEST = 800  # pixels of a side that are kept of a photograph, or cutting it would take longer than matching
SMALL = 300  # of a gallery picture, for the eye
COLUMNS = ["row", "rank", "gallery", "person", "distance", "global", "region", "located"]


@dataclass(frozen=True)
class Choice:
    """A query: a picture, what is kept of it to begin with, whom it shows, and its own place in the gallery if any."""

    picture: Image.Image | Path | Cut
    crop: Crop = WHOLE
    person: int | None = None
    itself: int | None = None

    def open(self) -> Image.Image:
        """Upright RGB, no side longer than LARGEST. Raises DataError."""
        picture = self.picture if isinstance(self.picture, Image.Image) else image_files.open_picture(self.picture)
        picture.thumbnail((LARGEST, LARGEST))
        return picture


@dataclass
class Gallery:
    """A set's gallery in memory: names, people `(G,)`, pictures for the networks and for the eye; queries to choose."""

    dataset: str
    names: list[str]
    people: np.ndarray
    bank: image_bank.ImageBank
    seen: list[Image.Image] = field(repr=False)
    choices: dict[str, Choice] = field(repr=False)


def gallery(data: Path | str, recipe) -> Gallery:
    """The gallery of the first partial set below `data`. Raises DataError where there is none.

    A query is one of the set's or, where a person has several, a picture of the gallery, left out of its own ranking.
    """
    dataset = datasets.partial_sets(data, recipe.task)[0]
    query, have = datasets.evaluation_sets(dataset, data, recipe)
    bank, files = image_bank.bank(have.pictures, recipe.input.size, "gallery"), []
    for picture in map(image_files.open_picture, have.pictures):  # photographs are large: one at a time
        picture.thumbnail((SMALL, SMALL))
        files.append(picture)
    names = [printable(path.name) for path in have.paths]
    people, first, count = np.unique(have.identities, return_index=True, return_counts=True)
    choices = {}
    for i in first[count > 1][:CHOICES]:
        choices[f"whole {names[i]}"] = Choice(have.pictures[i], UPPER, have.identities[i], i)
    for i in np.unique(query.identities, return_index=True)[1][:CHOICES]:
        choice = Choice(query.pictures[i], WHOLE, query.identities[i])
        if query.boxes is not None:  # the crop is ours: the rest of the picture is there, too
            x, y, right, low = geometry.corners(torch.from_numpy(query.boxes[i])).tolist()
            choice = replace(choice, picture=replace(query.pictures[i], box=None), crop=(x, right, y, low))
        choices[f"partial {printable(query.paths[i].name)}"] = choice
    return Gallery(dataset, names, have.identities, bank, files, choices)


def own(source, uncut: int = 0) -> Choice:
    """A photograph of one's own, a path or the bytes of an upload, as a query. Raises DataError if it is none."""
    upload = not isinstance(source, (str, Path))
    try:
        return Choice(Choice(Cut(io.BytesIO(source) if upload else Path(source), uncut)).open())
    except datasets.DataError:
        if upload:
            raise datasets.DataError("the upload is not a readable picture: give a JPEG or PNG") from None
        raise


def rows(run: Path | str, task: str, seed: int = 0) -> list[str]:
    """The rows trained in a run that need no truth, `ppcl` last. Raises CheckpointError that says what makes them."""
    found = [name for name in evaluation.trained(run, task, seed) if not METHODS[name].oracle]
    if not found:
        raise checkpoints.CheckpointError(f"{run} holds no finished joint stage of task {task}: run notebook "
            "04_joint_training first, or python -m ppcl reproduce")  # fmt: skip
    return sorted(found, key=lambda name: name == "ppcl")


class Described(dict):
    """Row -> (model, the gallery's features): each row is loaded, and the gallery described by it, once, when asked."""

    def __init__(self, run: Path | str, task: str, where: Gallery, seed: int = 0, device: str = "cpu"):
        super().__init__()
        self.run, self.task, self.gallery, self.seed, self.device = run, task, where, seed, device

    def __missing__(self, row: str) -> tuple[PPCL, matching.Features]:
        model = evaluation.load(self.run, self.task, row, self.seed, self.device)
        self[row] = model, matching.describe(model, self.gallery.bank)
        return self[row]


@dataclass
class Found:
    """What a row makes of a crop: its box `(4,)` and gate logit, gallery indices and their distances, regions."""

    row: str
    layout: str
    box: torch.Tensor
    gate: float
    weight: float
    index: list[int]
    distance: list[float]
    parts: list[tuple[float, float]]  # the global and the region distance that it is fused from
    regions: torch.Tensor | None  # (top, 4); rows without regions have none

    @property
    def shares(self) -> list[tuple[float, float]]:
        """What the global and what the region distance add to the distance."""
        return [((1 - self.weight) * overall, self.weight * region) for overall, region in self.parts]


def cut(picture: Image.Image, crop: Crop) -> tuple[int, int, int, int]:
    """A crop in pixels, left, top, right, bottom; sliders that crossed are swapped, no side is under LEAST."""
    edges = []
    for low, high, side in ((*crop[:2], picture.width), (*crop[2:], picture.height)):
        low, high = sorted((min(max(0.0, low), 1.0), min(max(0.0, high), 1.0)))
        high = min(1.0, max(high, low + LEAST))
        low = min(low, high - LEAST)
        edges.append((round(low * side), max(round(low * side) + 1, round(high * side))))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def search(
    model: PPCL, there: matching.Features, view: Image.Image, itself: int | None = None, top: int = TOP
) -> Found:
    """Rank a described gallery for one view, as `matching.best` does; the picture `itself` is passed over."""
    query = matching.describe(model, image_bank.bank([view], model.recipe.input.size, quiet=True), several=True)
    distance, overall, index = (part[0] for part in matching.search(model, query, there, top + 1))
    kept = [k for k, j in enumerate(index.tolist()) if j != itself][:top]
    distance, overall, index = distance[kept], overall[kept], index[kept]
    weight, regions, part = matching.fusion_weight(model), None, torch.zeros(len(kept))
    if model.method.region != "none":
        part = matching.region_distances(model, query, there, index[None]).cpu()[0]
        regions = known_truth.locate_pairs(model, query, there, np.zeros(len(kept), int), index.cpu().numpy())
    placed = query.box[0, 0].cpu(), float(query.gate[0])
    parts = list(zip(overall.tolist(), part.tolist(), strict=True))
    return Found(model.row, model.method.layout, *placed, weight, index.tolist(), distance.tolist(), parts, regions)


def table(found: list[Found], where: Gallery) -> pandas.DataFrame:
    """A line a row and rank: the distance, the global and region distances in it, the located box's corners."""
    lines = []
    for one in found:
        for k, j in enumerate(one.index):
            corners = [] if one.regions is None else geometry.corners(one.regions[k]).tolist()
            located = " ".join(f"{edge:.2f}" for edge in corners)
            parts = one.parts[k] if corners else (one.parts[k][0], np.nan)
            line = [one.row, k + 1, where.names[j], int(where.people[j]), one.distance[k], *parts, located]
            lines.append(line)
    return pandas.DataFrame(lines, columns=COLUMNS)
