"""The user's own photographs: rank the pictures of a folder for each query, and show why.

A folder's features are kept in the run folder, below `<task>/galleries`, and used again as long as its pictures and the
checkpoint stay the same. They may be deleted at any time.
"""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image

from . import __version__, evaluation, geometry, jobs, matching, plots
from .data import datasets, fingerprint, image_bank, image_files
from .data.reading import Cut
from .disk import checkpoints, progress
from .disk.files import given_path, printable, write_text
from .evaluation import known_truth
from .matching import kept_features
from .models.ppcl import PPCL
from .recipes import Recipe
from .recipes.methods import trained_by

SHOWN = 20  # queries in the figure
PART = 1024  # gallery pictures decoded and described at once
CORNERS = ("x1", "y1", "x2", "y2")


def describe(model: PPCL, pictures, several: bool = True) -> matching.Features:
    """Features of pictures: an ImageBank, or paths and PIL images of any size and mode.

    `several`: describe several views of each, as queries are matched (mirror images, and placements if the model's row
    has them); one view is enough for a gallery and takes a fraction of the time. Raises DataError naming every
    unreadable picture.
    """
    if not isinstance(pictures, image_bank.ImageBank):
        pictures = [pictures] if isinstance(pictures, (str, Path, Image.Image)) else list(pictures)
        pictures = [given_path(one) if isinstance(one, (str, Path)) else one for one in pictures]
        if odd := [type(one).__name__ for one in pictures if not isinstance(one, (str, Path, Image.Image))]:
            raise TypeError(f"pictures are paths, PIL images or an ImageBank, not {odd[0]}")
        pictures = _bank(pictures, model.recipe, "decoding")
    return matching.describe(model, pictures, several)


@jobs.one_thread()
def rank(
    run: Path | str | None,
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

    Without a run the model that comes with the library ranks; the gallery's features are then kept in `out`.
    The table has a line for each query and rank: query, rank, gallery, distance, its global and region parts, whether
    the query was taken for partial, and the located region (x1, y1, x2, y2 in pixels of the gallery picture; like the
    region part empty for rows without regions). Pictures of the folder that are left out are counted in a line; an
    unreadable query raises DataError.
    """
    run, gallery, out = map(given_path, (run or evaluation.BUNDLED, gallery, out))
    query = [given_path(one) for one in ([query] if isinstance(query, (str, Path)) else query)]
    device = jobs.device(device)
    model = evaluation.load(run, task, method, seed, device)
    if model.method.needs_truth:
        raise ValueError(f"{method} needs true boxes, which photographs do not have: choose another --method")
    if top < 1:
        raise ValueError(f"top is {top}: ask for one picture at least")
    if out.resolve() == gallery.resolve():
        raise ValueError(f"{out} is the gallery: give another folder, or the result would be one of its pictures")
    out.mkdir(parents=True, exist_ok=True)
    files = gallery_files(gallery)
    query_bank = _bank(query, model.recipe, "queries")
    queries = describe(model, query_bank)
    galleries = (out if run == evaluation.BUNDLED else run) / task / "galleries"
    found, files = _gallery(model, evaluation.checkpoint(run, task, method, seed), galleries, files, query)
    distances, overall, index = (part.cpu() for part in matching.search(model, queries, found, top))
    shown, place = np.unique(index, return_inverse=True)  # only these are read again
    order, near = place.reshape(index.shape), found[torch.from_numpy(shown)].to(device)
    shown = [files[j] for j in shown]
    shown_bank = _bank(shown, model.recipe, "found", quiet=True)
    table = pandas.DataFrame({"query": np.repeat([printable(str(path)) for path in query], order.shape[1])})
    table["rank"] = np.tile(np.arange(1, order.shape[1] + 1), len(query))
    table["gallery"] = [printable(shown[j].name) for j in order.flat]
    table["distance"], table["global"] = distances.flatten(), overall.flatten()
    table["region"], table["partial"] = None, np.repeat((queries.gate > 0).cpu().numpy(), order.shape[1])
    table[[*CORNERS]], regions = None, None
    if model.method.locates:
        parts = matching.region_distances(model, queries, near, torch.from_numpy(order).to(device))
        pairs = np.repeat(np.arange(len(order)), order.shape[1]), order.flatten()
        regions = known_truth.locate_pairs(model, queries, near, *pairs).view(*order.shape, 4)
        table["region"] = parts.flatten().cpu()
        sizes = [image_files.open_picture(path).size for path in shown]
        located = zip(regions.flatten(0, 1), order.flat, strict=True)
        table[[*CORNERS]] = np.array([_pixels(box, sizes[j], model.recipe) for box, j in located])
    write_text(out / "ranking.csv", table.to_csv(index=False, float_format="%.6f"))
    names = [printable(path.stem) for path in query]
    boxes, partial = queries.box[:, 0].cpu(), queries.gate.cpu() > 0
    figure = plots.ranking(query_bank, boxes, partial, shown_bank, order, regions, limit=SHOWN, names=names)
    counts = f"{len(query)} own pictures" if len(query) > 1 else "one own picture"
    if len(query) > SHOWN:
        counts = f"the first {SHOWN} of {counts}"
        print(f"{out / 'ranking.png'} shows {counts}; ranking.csv has them all")
    source = f"{len(files)} gallery pictures; {method} of a {model.recipe.profile} run, seed {seed}"
    plots.caption(figure, f"{counts} as queries, {source}")
    plots.save(figure, out / "ranking.png")
    return table


def _bank(pictures, recipe: Recipe, label: str, quiet: bool | None = None) -> image_bank.ImageBank:
    """Pictures decoded as in training: uncut faces are cut to their central half."""
    return image_bank.bank([Cut(one, recipe.data.uncut) for one in pictures], recipe.input.size, label, quiet)


def gallery_files(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name; lines count the pictures in it that are left out, and say why.

    Raises DataError if the folder is missing or holds no pictures.
    """
    if not folder.is_dir():
        raise datasets.DataError(f"{folder} is not a folder: give the folder that holds the gallery's photographs")
    files = datasets.pictures(folder)
    notes = datasets.left_out(str(folder), folder, [folder])
    if not files:
        kinds = ", ".join(sorted(datasets.SUFFIXES))
        raise datasets.DataError("; ".join([f"{folder} holds no photographs ({kinds})", *notes]))
    datasets.print_notes(notes)
    return files


def _gallery(
    model: PPCL, checkpoint: Path, galleries: Path, files: list[Path], query: list[Path]
) -> tuple[matching.Features, list[Path]]:
    """Features of a gallery, kept by an earlier call or made now and kept, and its readable pictures.

    Printed: unreadable pictures, uncut faces, copies of one picture, and queries that are in the gallery.
    """
    row = trained_by(model.row)  # rows that share a checkpoint share a gallery's features
    parent, digests = files[0].parent.resolve(), galleries / "digests.npy"
    with open(checkpoint, "rb") as file:
        facts = {"checkpoint": hashlib.file_digest(file, "sha256").hexdigest(), "row": row, "ppcl": __version__}
    facts |= {"pictures": fingerprint.fingerprint(files[0].parent, files, digests), "number": len(files)}
    key = hashlib.sha256(os.fsencode(f"{parent} {row} {checkpoint.parent.name}")).hexdigest()[:12]
    folder = galleries / f"{printable(parent.name)[:40]}-{key}"
    folder = next((other for other in galleries.glob("*/") if kept_features.made_from(other, facts)), folder)
    try:
        found, kept = kept_features.load(folder, facts)
        problems, uncut = kept["problems"], kept["uncut"]
        if len(problems) != len(files) or problems.count("") != len(found):
            raise checkpoints.CheckpointError(f"{folder} is damaged; delete it")
        problems = [problem and _look(file)[0] for file, problem in zip(files, problems, strict=True)]
        if problems.count("") != len(found):
            raise checkpoints.CheckpointError(f"{folder} is stale (a picture can be read now)")
    except checkpoints.CheckpointError as error:
        if folder.exists():
            print(printable(f"{str(error).partition(';')[0]}: the gallery is described again"))
        found = None
        looked = [*jobs.in_threads(_look, files, "opening the gallery")]
        problems = [problem for problem, _ in looked]
        uncut = sum(bool(image_files.central_box(size, model.recipe.data.uncut)) for _, size in looked)
    bad = [problem for problem in problems if problem]
    if len(bad) == len(files):
        raise datasets.DataError("no gallery picture can be read: " + "; ".join(bad))
    if bad:
        print(f"left out {len(bad)} gallery picture(s): " + "; ".join(bad))
    if uncut:
        print(f"{uncut} gallery picture(s) of {model.recipe.data.uncut} x {model.recipe.data.uncut} pixels are cut to "
            "their central half, as uncut faces are; --set data.uncut=0 in training keeps them whole")  # fmt: skip
    _print_copies(files, query, digests)
    good = [file for file, problem in zip(files, problems, strict=True) if not problem]
    if found is None:
        found = _describe_and_keep(model, good, folder, facts, problems=problems, uncut=uncut)
    return found, good


def _look(file: Path) -> tuple[str, tuple[int, int]]:
    """Why a picture cannot be read, "" if it can; its (width, height)."""
    try:
        return "", image_files.open_picture(file).size
    except datasets.DataError as error:
        return str(error), (0, 0)


def _describe_and_keep(model: PPCL, files: list[Path], folder: Path, facts: dict, **more) -> matching.Features:
    def batches():
        starts = range(0, len(files), PART)
        for start in progress.bar(starts, "describing the gallery", unit=f"x {PART} pictures"):
            yield describe(model, _bank(files[start : start + PART], model.recipe, "", quiet=True), several=False)

    try:
        kept_features.save(folder, batches(), len(files), facts, **more)
    except OSError as error:
        if error.errno == errno.ENOSPC and len(files) > PART:  # so many would fill the memory, too
            raise datasets.DataError(f"{folder}: {error.strerror}; free some room, or give a --run elsewhere") from None
        print(printable(f"{folder}: the gallery's features cannot be kept there ({error.strerror or error})"))
        return matching.Features.joined(batches(), len(files))
    return kept_features.load(folder, facts)[0]


def _print_copies(files: list[Path], query: list[Path], kept: Path) -> None:
    """Print which gallery pictures are copies of each other, and which queries are in the gallery."""
    names: dict[bytes, list[str]] = {}
    contents = [digest.tobytes() if digest.any() else b"" for digest in fingerprint.digests([*files, *query], kept)]
    for file, content in zip(files, contents, strict=False):
        names.setdefault(content, []).append(file.name)
    names.pop(b"", None)
    if copies := [same for same in names.values() if len(same) > 1]:
        some = "; ".join(" = ".join(same[:3]) for same in copies[:3])
        print(printable(f"{sum(map(len, copies))} gallery pictures are copies of {len(copies)}: {some}"))
    asked = zip(query, contents[len(files) :], strict=True)
    if own := [f"{path.name} = {names[content][0]}" for path, content in asked if content in names]:
        text = "; ".join(own[:3])
        print(printable(f"{len(own)} of {len(query)} queries are themselves in the gallery: {text}"))


def _pixels(box: torch.Tensor, size: tuple[int, int], recipe: Recipe) -> list[int]:
    """A located box as CORNERS in whole pixels of its picture of that (width, height), clipped to the picture."""
    left, top, right, bottom = image_files.central_box(size, recipe.data.uncut) or (0, 0, *size)
    corner = geometry.corners(geometry.clip(box)).numpy() * np.array([right - left, bottom - top] * 2) + [left, top] * 2
    return corner.round().astype(int).tolist()
