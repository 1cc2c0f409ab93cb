"""Arrays -> matplotlib Figures. Nothing in here knows a data set or a network.

Figures stand apart from pyplot: a notebook shows the one that ends its cell, a script saves it, none stays open. Axes
with pictures run from 0 to 1 in x and y, so boxes are drawn as they are. Colour never speaks alone: lines differ in
stroke and marker, right and wrong in stroke and sign.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from .. import geometry
from .cells import BOXES, TITLE, board, judge, legend, outline, pixels, placed, show
from .charts import PALETTE, by_subset, cmc, comparison, curves, gallery_cost, gate_histogram, roc, speed  # noqa: F401
from .figure_style import caption, enlarged, save, small_png, style  # noqa: F401


def grid(pictures, ratios=None, titles=None, columns: int = 12, labels=()) -> Figure:
    """Pictures `(N, 3, H, W)` in rows of `columns`; with log ratios, a title each, a label for each row if given."""
    rows = -(-len(pictures) // columns)
    figure, axes = board(rows, columns, (0.5, 1.0), 0 if titles is None else TITLE, labels)
    for i, (one, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        show(one, picture, 0 if ratios is None else ratios[i], "" if titles is None else titles[i]).set_axis_on()
    return figure


def partial_views(whole, boxes: Tensor, views, ratios: Tensor) -> Figure:
    """Whole pictures `(N, 3, H, W)` with the box of a crop above; below, what is left: the view in its own shape."""
    figure, axes = board(2, len(whole), title=TITLE, labels=("whole picture,\nknown box", "partial view,\nits share"))
    for i, (top, low) in enumerate(axes.T):
        outline(show(top, whole[i]), boxes[i], "truth")
        show(low, views[i], ratios[i], f"{100 * geometry.area(boxes[i]):.0f} %")
    return figure


def sketch(whole: Tensor, box: Tensor) -> Figure:
    """What GLRec has to undo, on one picture `(3, H, W)` of 0..255: crop, the networks' input, its place again."""
    size = tuple(whole.shape[-2:])
    view = geometry.crop(whole[None].cpu().float(), box[None].cpu(), size)[0] / 255
    ratio = float((box[2] / box[3]).log())
    figure, axes = board(1, 5, (1.0, 1.5), 2 * TITLE)
    outline(show(axes[0, 0], whole, title="a whole picture\nand a box $b$"), box, "truth")
    show(axes[0, 1], view, ratio, f"the file: what $b$\nholds, $r$ = {ratio:+.2f}")
    show(axes[0, 2], view, title="the input $x$,\nstretched")
    show(axes[0, 3], placed(view * 255, box), title="place($x, b$),\nlaid out again")
    show(axes[0, 4], geometry.coverage(box[None].cpu(), size)[0].expand(3, -1, -1), title="place(1, $b$),\nvisible")
    for one in axes[0, 1:]:
        one.annotate("→", (-0.1, 0.5), xycoords="axes fraction", ha="right", va="center", fontsize=12)
    return figure


def figure_one(groups: dict[str, dict]) -> Figure:
    """Figure 1 of the supplement, groups side by side: partial pictures, holistic ones, crops at various input ratios.

    Each group: `partial` and `whole`, pictures as they are; `boxes` `(K, 4)`, crops of the first whole picture, shown
    with their areas above.
    """
    wide = [max(len(group[row]) for row in ("partial", "whole", "boxes")) for group in groups.values()]
    labels = ("partial\nimages", "holistic\nimages", "various\ninput ratios")
    figure, axes = board(3, sum(wide) + len(wide) - 1, (0.62, 1.2), TITLE, labels)
    size, start = 8 * enlarged(figure), 0
    for text in figure.texts:
        text.set_fontsize(size)
    for (name, group), width in zip(groups.items(), wide, strict=True):
        mine = axes[:, start : start + width]
        first = torch.tensor(pixels(group["whole"][0])).float().permute(2, 0, 1)
        sizes = [
            (box[2:].flip(0) * torch.tensor(first.shape[1:])).round().int().clamp(8).tolist() for box in group["boxes"]
        ]
        crops = [geometry.crop(first[None], b[None], s)[0] for b, s in zip(group["boxes"], sizes, strict=True)]
        for row, pictures in zip(mine, (group["partial"], group["whole"], crops), strict=True):
            for one, picture in zip(row, pictures, strict=False):
                show(one, picture)
        for one, box in zip(mine[2], group["boxes"], strict=False):
            one.set_title(f"{geometry.area(box):.1f}", fontsize=size, pad=2)
        middle = (mine[0, 0].get_position().x0 + mine[0, -1].get_position().x1) / 2
        figure.text(middle, 1, name, ha="center", va="bottom", fontsize=1.2 * size, fontweight="bold")
        start += width + 1
    return figure


# --- layouts, regions, rankings ---


def _height(bank) -> float:
    """Of a picture of the bank, in widths: cells for upright people, or for square faces."""
    return min(2.0, max(1.2, bank.size[0] / bank.size[1]))


def overview(queries, boxes: Tensor, partial, gallery, order, regions, correct) -> Figure:
    """The method in one picture: a query, where GLRec places it, where CRLoc finds it in the nearest, and two more.

    Arguments as in `ranking`, of queries that were answered rightly; the first that was taken for partial is shown.
    """
    i = int(torch.as_tensor(partial).int().argmax())
    titles = "a partial\npicture", "→ placed\nby GLRec", "→ located\nby CRLoc: 1st", "2nd", "3rd"
    figure, axes = board(1, len(titles), (0.75, 1.5), 2 * TITLE, foot=0.25)
    for one, text in zip(axes[0], titles, strict=True):
        place = one.get_position(original=True)
        figure.text((place.x0 + place.x1) / 2, place.y1 + 0.02, text, ha="center", va="bottom", fontsize=8)
    show(axes[0, 0], queries.images[i], queries.ratios[i])
    outline(show(axes[0, 1], placed(queries.images[i], boxes[i])), boxes[i], "p")
    for one, j, right in zip(axes[0, 2:], order[i], correct[i], strict=False):
        show(one, gallery.images[j], gallery.ratios[j]).set_axis_on()
        judge(one, bool(right))
    outline(axes[0, 2], regions[i][0], "q")
    legend(figure, ["p", "q"])
    return figure


def placements(queries, boxes: Tensor, truth: Tensor, chosen) -> Figure:
    """Chosen queries of a bank: the file's picture, where GLRec puts it, where it belongs, and the IoU of the two."""
    chosen, overlap = list(map(int, chosen)), geometry.iou(boxes, truth)
    cell, labels = (0.6, 0.6 * _height(queries)), ("query", "placed by\nGLRec", "its true\nplace")
    figure, axes = board(3, len(chosen), cell, TITLE, labels)
    for i, (file, guess, right) in zip(chosen, axes.T, strict=True):
        show(file, queries.images[i], queries.ratios[i])
        outline(show(guess, placed(queries.images[i], boxes[i]), title=f"IoU {overlap[i]:.2f}"), truth[i], "truth")
        outline(show(right, placed(queries.images[i], truth[i])), truth[i], "truth")
    return figure


def located(queries, boxes: Tensor, partial, gallery, regions: dict, chosen, back=None, titles=None) -> Figure:
    """Pairs (query i, gallery i), i in `chosen`: p on the rectified query; `regions` (`q`, `truth`, …) on the other.

    `back` `(N, 4)` is p″, drawn on the query: there and back again. `titles`: one for each chosen pair.
    """
    cell = (0.6, 0.6 * _height(gallery))
    figure, axes = board(2, len(chosen), cell, TITLE, ("rectified\nquery", "gallery\npicture"), foot=0.25)
    for column, (i, (top, low)) in enumerate(zip(map(int, chosen), axes.T, strict=True)):
        show(top, placed(queries.images[i], boxes[i], bool(partial[i])), title="" if titles is None else titles[column])
        show(low, gallery.images[i])
        for meaning, box in {"p": boxes, "p″": back}.items():
            if box is not None:
                outline(top, box[i], meaning)
        for meaning, box in regions.items():
            outline(low, box[i], meaning)
    legend(figure, [m for m in BOXES if m in {"p", *regions} or (m == "p″" and back is not None)])
    return figure


def attention(query: Tensor, where: Tensor, gallery: Tensor, maps: Tensor) -> Figure:
    """Points `(K, 2)` of a query's canvas, and where in a gallery picture each of them looks: maps `(K, h, w)`."""
    figure, axes = board(1, 1 + len(where), (0.9, 1.8), TITLE)
    show(axes[0, 0], query, title="query")
    for k, (one, (x, y), seen) in enumerate(zip(axes[0, 1:], where.cpu(), maps.cpu(), strict=True)):
        heat = torch.nn.functional.interpolate(seen[None, None] / seen.max(), gallery.shape[-2:], mode="bilinear")
        share = 0.9 * heat[0, 0, :, :, None].numpy() ** 0.7
        show(one, (1 - share) * 0.6 * pixels(gallery) + share * np.array(PALETTE[8]), title=f"point {k + 1}")
        for on, sign in ((axes[0, 0], str(k + 1)), (one, "+")):
            text = on.text(x, y, sign, color="white", fontsize=8, ha="center", va="center", fontweight="bold")
            text.set_path_effects([withStroke(linewidth=2, foreground="black")])
    return figure


def ranking(
    queries, boxes: Tensor, partial, gallery, order, regions=None, correct=None, limit: int = 8, names=()
) -> Figure:
    """Ranked lists, a row a query: the query, the query on the canvas, and the nearest gallery pictures.

    queries, gallery: ImageBanks; boxes `(Q, 4)` and partial `(Q,)`, the layout; order `(Q, top)`, indices into the
    gallery; regions: for each query the located boxes `(top, 4)`; correct bool `(Q, top)`, framed green with a tick or
    red with a cross; names: of the queries, at their left. At most `limit` queries.
    """
    order, partial = np.asarray(order)[:limit], torch.as_tensor(partial)
    ahead = 1 + bool(partial.any())
    labels = [name if len(name) < 12 else f"{name[:10]}…" for name in names[:limit]]
    foot = 0.25 * (regions is not None)
    figure, axes = board(len(order), ahead + order.shape[1], (0.6, 0.55 * _height(gallery)), 0.03, labels, foot)
    for one, text in zip(axes[0], [*("query", "rectified")[:ahead], *range(1, order.shape[1] + 1)], strict=True):
        place = one.get_position(original=True)
        figure.text((place.x0 + place.x1) / 2, place.y1 + 0.01, text, ha="center", va="bottom", fontsize=8)
    for i, row in enumerate(axes):
        show(row[0], queries.images[i], queries.ratios[i])
        if ahead == 2:
            show(row[1], placed(queries.images[i], boxes[i], bool(partial[i])))
        if ahead == 2 and regions is not None:
            outline(row[1], boxes[i], "p")
        for rank, (one, j) in enumerate(zip(row[ahead:], order[i].tolist(), strict=True)):
            show(one, gallery.images[j], gallery.ratios[j])
            if regions is not None:
                outline(one, regions[i][rank], "q")
            if correct is not None:
                one.set_axis_on()
                judge(one, bool(correct[i][rank]))
    if regions is not None:
        legend(figure, ["p", "q"])
    return figure
