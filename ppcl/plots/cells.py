"""The parts that figures of pictures are made of: cells for pictures, boxes on them, frames, legends.

Axes with pictures run from 0 to 1 in x and y, so boxes are drawn as they are. Colour never speaks alone: boxes differ
in stroke, right and wrong in stroke and sign.
"""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from .. import geometry
from .charts import PALETTE
from .figure_style import WIDTH, Page, styled

BOXES = {  # meaning of a box: colour, stroke, legend
    "p": (PALETTE[9], "--", "p, the query's visible box"),
    "p″": (PALETTE[1], ":", "p″, back again"),
    "q": (PALETTE[6], "-", "q, located by CRLoc"),
    "truth": (PALETTE[8], "-", "truth"),
}
GAP, TITLE, LINE, LABEL, LARGEST = 0.1, 0.2, 0.14, 0.8, 0.9  # inches: between pictures, title, line, row label, cell


def pixels(picture) -> np.ndarray:
    """A picture to draw: uint8 or 0..1 `(3, H, W)`, a PIL image or `(H, W, 3)` -> `(H, W, 3)` in 0..1."""
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().movedim(0, -1).numpy()
    picture = np.asarray(picture)
    return picture / 255.0 if picture.dtype == np.uint8 else picture.clip(0, 1)


def show(axes: Axes, picture, ratio: float = 0.0, title: str = "") -> Axes:
    """Draw a picture undistorted on axes from 0 to 1; `ratio` is its log(width / height) relative to its pixels'."""
    drawn = pixels(picture)
    axes.imshow(drawn, extent=(0, 1, 1, 0), aspect=drawn.shape[0] / drawn.shape[1] * float(np.exp(-float(ratio))))
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0), frame_on=False)
    axes.set_title(title, fontsize=8, pad=4)  # room for boxes that reach over the edge
    axes.grid(False)
    return axes


def outline(axes: Axes, box: Tensor, meaning: str) -> None:
    """Draw the part of a box `(4,)` on a picture in the colour and stroke of its meaning (`BOXES`), on a dark seam."""
    x, y, right, low = geometry.corners(geometry.clip(torch.as_tensor(box).detach().cpu().float())).tolist()
    colour, stroke, _ = BOXES[meaning]
    drawn = Rectangle((x, y), right - x, low - y, fill=False, ec=colour, ls=stroke, lw=1.6, clip_on=False)
    drawn.set_path_effects([withStroke(linewidth=2.8, foreground="black", alpha=0.6)])
    axes.add_patch(drawn)


def judge(axes: Axes, correct: bool) -> None:
    """Frame a picture and sign it: solid, green, tick; or dashed, red, cross."""
    colour = PALETTE[2] if correct else PALETTE[3]
    axes.set_axis_on()
    axes.set_frame_on(True)
    axes.spines[:].set_visible(False)
    # The frame lies behind the picture: its outer half remains.
    axes.patch.set(ec=colour, lw=5.6, ls="-" if correct else (0, (1, 0.5)))
    sign = axes.text(0.06, 0.02, "✓" if correct else "✗", color=colour, fontsize=11, fontweight="bold", va="top")
    sign.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def placed(view: Tensor, box: Tensor, partial: bool = True) -> Tensor:
    """The network input: a view `(3, H, W)` of 0..255 at its box, grey elsewhere; whole pictures as they are."""
    if not partial:
        return view
    canvas, visible = geometry.place(view[None].cpu().float(), torch.as_tensor(box).detach()[None].cpu().float())
    return ((canvas + 232 * (1 - visible)) / 255)[0]


@styled()
def board(
    rows: int,
    columns: int,
    aspect: float = 2.0,
    title: float = 0,
    labels=(),
    heads=(),
    explained: bool = False,
    gap=GAP,
):
    """A figure of cells for pictures, as wide as a page allows. -> figure, axes `(rows, columns)`.

    aspect: height / width of a cell; title: inches above each; labels: one a row, at its left; heads: one a column, at
    the top; explained: there is room for a legend below; gap: inches between columns.
    """
    left, foot = LABEL if len(labels) else 0, 0.25 * explained
    top = LINE * max((1.5 + text.count("\n") for text in heads), default=0)
    wide = min(LARGEST, (WIDTH - left) / columns - gap)
    width, height = left + columns * (wide + gap), top + foot + rows * (wide * aspect + title + GAP)
    figure = Page(figsize=(width, height))
    room = {"left": left / width, "right": 1 - gap / width, "bottom": (foot + GAP) / height}
    room |= {"top": 1 - (title + top) / height, "wspace": gap / wide, "hspace": (title + GAP) / (wide * aspect)}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=room)
    for y, text in enumerate(labels):
        cell = axes[y, 0].get_position()
        at = (left - 0.1) / width, (cell.y0 + cell.y1) / 2
        figure.text(*at, text, ha="right", va="center", fontsize=8, parse_math=False)  # it may be a file's name
    for text, one in zip(heads, axes[0], strict=False):
        cell = one.get_position()
        at = (cell.x0 + cell.x1) / 2, cell.y1 + 0.06 / height
        figure.text(*at, text, ha="center", va="bottom", fontsize=8)
    for one in axes.flat:
        one.set_axis_off()
    return figure, axes


def legend(figure: Figure, meanings) -> None:
    """Explain the boxes of a board below it; `meanings` are keys of `BOXES`."""
    seam = [withStroke(linewidth=3, foreground="black", alpha=0.6)]
    lines = [Line2D([], [], color=c, ls=s, lw=1.8, label=t, path_effects=seam) for c, s, t in map(BOXES.get, meanings)]
    place = {"bbox_to_anchor": (0, 0, 1, 1), "bbox_transform": figure.transFigure}  # stays above a caption
    look = {"ncols": len(lines), "frameon": False, "borderaxespad": 0, "fontsize": 8}
    figure.legend(handles=lines, loc="lower center", **place, **look)
