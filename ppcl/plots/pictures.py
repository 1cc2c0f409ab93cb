"""Figures of pictures: contact sheets, partial views, layouts, located regions, ranked lists.

They take arrays and banks of pictures, and know no data set and no network.
"""

import textwrap

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from .. import geometry
from .cells import BOXES, LINE, TITLE, board, judge, legend, outline, pixels, placed, show
from .figure_style import styled


def _aspect(picture) -> float:
    """Height / width of the cells for pictures `(…, H, W)`: upright people, or square faces."""
    return min(2.0, max(1.1, picture.shape[-2] / picture.shape[-1]))


@styled()
def grid(pictures, ratios=None, titles=None, columns: int = 12, labels=()) -> Figure:
    """Pictures `(N, 3, H, W)` in rows of `columns`; optional log ratios, a title each, a label for each row."""
    title = 0 if titles is None else TITLE
    figure, axes = board(-(-len(pictures) // columns), columns, _aspect(pictures), title, labels)
    for i, (one, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        show(one, picture, 0 if ratios is None else ratios[i], "" if titles is None else titles[i])
    return figure


@styled()
def _stacked(rows: dict[str, tuple], heads=()) -> Figure:
    """A row for each label -> (pictures, their log ratios, boxes on them by meaning); pictures of one column belong."""
    first, drawn = next(iter(rows.values()))[0], {meaning for _, _, boxes in rows.values() for meaning in boxes}
    known = [meaning for meaning in BOXES if meaning in drawn]
    figure, axes = board(len(rows), len(first), _aspect(first[0]), 0, tuple(rows), heads, len(known) > 1)
    for row, (pictures, ratios, boxes) in zip(axes, rows.values(), strict=True):
        for i, (one, picture) in enumerate(zip(row, pictures, strict=True)):
            show(one, picture, ratios[i])
            for meaning, box in boxes.items():
                outline(one, box[i], meaning)
    if len(known) > 1:
        legend(figure, known)
    return figure


def partial_views(whole: Tensor, boxes: Tensor, views: Tensor, ratios: Tensor) -> Figure:
    """Whole pictures `(N, 3, H, W)` with a crop's box and share of the area; below, the view in its own shape."""
    above, below = (whole, torch.zeros(len(whole)), {"truth": boxes}), (views, ratios, {})
    shares = [f"{100 * share:.0f} %" for share in geometry.area(boxes)]
    return _stacked({"whole picture,\nknown box": above, "partial view": below}, shares)


def sketch(whole: Tensor, box: Tensor) -> Figure:
    """GLRec's task on one picture `(3, H, W)` of 0..255: crop, network input, placed again, visible part."""
    view = geometry.crop(whole[None].cpu().float(), box[None].cpu(), tuple(whole.shape[-2:]))[0]
    ratio, visible = (box[2] / box[3]).log(), geometry.coverage(box[None].cpu(), tuple(whole.shape[-2:]))[0]
    heads = "a whole picture\nand a box $b$", f"the file: crop at $b$,\n$r$ = {ratio:+.2f}", "the input $x$,\nstretched"
    heads += "place($x, b$),\nlaid out again", "place(1, $b$),\nvisible"
    figure, axes = board(1, 5, _aspect(whole), heads=heads)
    pictures = whole, view / 255, view / 255, placed(view, box), visible.expand(3, -1, -1)
    for one, picture, shape in zip(axes[0], pictures, (0, ratio, 0, 0, 0), strict=True):
        show(one, picture, shape)
    outline(axes[0, 0], box, "truth")
    return figure


def placements(queries, boxes: Tensor, truth: Tensor, chosen: Tensor) -> Figure:
    """Chosen queries of a bank: the file's picture, its placement by GLRec, its true place, and the IoU of the two."""
    queries, boxes, truth = queries[chosen], boxes[chosen], truth[chosen]
    flat = torch.zeros(len(boxes))
    rows = {"query": (queries.images, queries.ratios, {})}
    for label, at in {"placed by\nGLRec": boxes, "its true\nplace": truth}.items():
        rows[label] = list(map(placed, queries.images, at)), flat, {"truth": truth}
    return _stacked(rows, [f"IoU {overlap:.2f}" for overlap in geometry.iou(boxes, truth)])


def located(queries, boxes: Tensor, partial, gallery, regions: dict, chosen, back=None, titles=()) -> Figure:
    """Pairs (query i, gallery i), i in `chosen`: p on the rectified query, `regions` (`q`, `truth`, …) on the other.

    `back` `(N, 4)` is p″, drawn on the query: there and back again. `titles`: one for each chosen pair.
    """
    on_query = {"p": boxes[chosen]} | ({} if back is None else {"p″": back[chosen]})
    canvas = list(map(placed, queries.images[chosen], boxes[chosen], partial[chosen]))
    flat, found = torch.zeros(len(canvas)), {meaning: box[chosen] for meaning, box in regions.items()}
    pictures = gallery.images[chosen]
    return _stacked({"rectified\nquery": (canvas, flat, on_query), "gallery\npicture": (pictures, flat, found)}, titles)


@styled()
def expected_points(canvases, points: Tensor, columns: dict[str, tuple], grid: tuple[int, int]) -> Figure:
    """Where CRLoc expects each point of a query's region in gallery pictures, a row a query.

    canvases: queries on the canvas; points `(Q, K, 2)`, the grid in their regions; columns: for each head the pictures
    `(Q, 3, H, W)`, the expected positions `(Q, K, 2)` and boxes `(Q, 4)` by meaning. Points of one row of the grid have
    one colour, from yellow at the top to violet.
    """
    colours = colormaps["plasma_r"](np.linspace(0.1, 0.9, grid[0])).repeat(grid[1], 0)
    cells = {"query": (canvases, points, {})} | columns
    figure, axes = board(len(points), len(cells), _aspect(canvases[0]), 0, heads=tuple(cells), explained=True)
    for column, (pictures, places, boxes) in zip(axes.T, cells.values(), strict=True):
        for i, one in enumerate(column):
            show(one, pictures[i])
            one.scatter(*places[i].cpu().T, s=14, c=colours, ec="black", lw=0.5, zorder=3, clip_on=False)
            for meaning, box in boxes.items():
                outline(one, box[i], meaning)
    legend(figure, [meaning for meaning in BOXES if any(meaning in boxes for _, _, boxes in columns.values())])
    return figure


@styled()
def figure_one(groups: dict[str, dict]) -> Figure:
    """Figure 1 of the supplement, groups side by side: partial pictures, holistic ones, crops at various input ratios.

    Each group: `partial` and `whole`, pictures as they are; `boxes` `(K, 4)`, crops of the first whole picture, shown
    with their areas above.
    """
    wide = [max(map(len, group.values())) for group in groups.values()]
    labels, start = ("partial\nimages", "holistic\nimages", "various\ninput ratios"), 0
    figure, axes = board(3, sum(wide) + len(wide) - 1, title=0.14, labels=labels, gap=0.04)
    for (name, group), width in zip(groups.items(), wide, strict=True):
        mine, first = axes[:, start : start + width], pixels(group["whole"][0])
        edges = geometry.corners(group["boxes"]) * torch.tensor(first.shape[1::-1] * 2)
        crops = [first[y:low, x:right] for x, y, right, low in edges.round().int().tolist()]
        for row, pictures in zip(mine, (group["partial"], group["whole"], crops), strict=True):
            for one, picture in zip(row, pictures, strict=False):
                show(one, picture)
        for one, box in zip(mine[2], group["boxes"], strict=False):
            one.set_title(f"{geometry.area(box):.1f}", fontsize=8, pad=2)
        middle = (mine[0, 0].get_position().x0 + mine[0, -1].get_position().x1) / 2
        figure.text(middle, 1, name, ha="center", va="bottom", fontsize=9, fontweight="bold")
        start += width + 1
    return figure


@styled()
def ranking(
    queries, boxes, partial, gallery, order, regions=None, correct=None, limit: int = 8, names=(), heads=()
) -> Figure:
    """Ranked lists, a row a query: the query, the query on the canvas, and the nearest gallery pictures.

    queries, gallery: ImageBanks; boxes `(Q, 4)` and partial `(Q,)`, the layout; order `(Q, top)`, indices into the
    gallery; regions: for each query the boxes located in the first pictures `(<= top, 4)`; correct bool `(Q, top)`,
    framed green with a tick or red with a cross; names: of the queries, at their left (of long ones the end). At most
    `limit` queries.
    """
    order, rectified = np.asarray(order)[:limit], bool(torch.as_tensor(partial).any())
    labels = [textwrap.fill(name if len(name) < 34 else f"…{name[-32:]}", 11) for name in names[:limit]]
    heads = heads or ["query", *["rectified"] * rectified, *map(str, range(1, order.shape[1] + 1))]
    located = regions is not None
    figure, axes = board(len(order), len(heads), _aspect(gallery.images), 0.2 * LINE, labels, heads, located)
    for i, (first, *row) in enumerate(axes):
        show(first, queries.images[i], queries.ratios[i])
        if rectified:
            canvas = show(row.pop(0), placed(queries.images[i], boxes[i], bool(partial[i])))
            if located:
                outline(canvas, boxes[i], "p")
        for rank, (one, j) in enumerate(zip(row, order[i].tolist(), strict=True)):
            show(one, gallery.images[j], gallery.ratios[j])
            if correct is not None:
                judge(one, bool(correct[i][rank]))
        for one, box in zip(row, regions[i] if located else (), strict=False):
            outline(one, box, "q")
    if located:
        legend(figure, ["p", "q"])
    return figure


def overview(queries, boxes, partial, gallery, order, regions, correct) -> Figure:
    """The method in one picture: a query, its placement by GLRec, the region located in the nearest, and two more.

    Arguments as in `ranking`, of correct queries; shown is the first that was taken for partial, or else the first.
    """
    i = int(torch.as_tensor(partial).int().argmax())
    one, heads = slice(i, i + 1), ("a partial\npicture", "→ placed\nby GLRec", "→ located\nby CRLoc: 1st", "2nd", "3rd")
    lists = order[one, :3], regions[one, :1], correct[one, :3]
    return ranking(queries[one], boxes[one], torch.ones(1), gallery, *lists, heads=heads)
