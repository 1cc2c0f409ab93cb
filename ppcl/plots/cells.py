"""What figures of pictures are laid out from: cells for pictures, boxes on them, what a box means.

Axes with pictures run from 0 to 1 in x and y, so boxes are drawn as they are.
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

BOXES = {  # what a box means: colour, stroke, legend
    "p": (PALETTE[9], "--", "p, the query's visible box"),
    "p″": (PALETTE[1], ":", "p″, back again"),
    "q": (PALETTE[6], "-", "q, located by CRLoc"),
    "truth": (PALETTE[8], "-", "truth"),
}
GAP, TITLE, LABEL = 0.06, 0.2, 0.75  # inches: between pictures, above one that has a title, left of a labelled row


def pixels(picture) -> np.ndarray:
    """A picture for the eye: uint8 or 0..1 `(3, H, W)`, a PIL image or `(H, W, 3)` -> `(H, W, 3)` in 0..1."""
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().movedim(0, -1).numpy()
    picture = np.asarray(picture)
    return picture / 255.0 if picture.dtype == np.uint8 else picture.clip(0, 1)


def show(axes: Axes, picture, ratio: float = 0.0, title: str = "") -> Axes:
    """A picture on axes from 0 to 1, undistorted: `ratio` is its log(width / height) relative to its pixels'."""
    seen = pixels(picture)
    aspect = seen.shape[0] / seen.shape[1] * float(np.exp(-float(ratio)))
    axes.imshow(seen, extent=(0, 1, 1, 0), aspect=aspect)
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0), frame_on=False)
    axes.set_title(title, fontsize=8, pad=4)  # room for boxes that reach over the edge
    axes.grid(False)
    return axes


def outline(axes: Axes, box: Tensor, meaning: str) -> None:
    """A box `(4,)` on a picture, in the colour and stroke of what it means (`BOXES`), on a dark seam."""
    x, y, right, low = geometry.corners(torch.as_tensor(box).detach().cpu().float()).tolist()
    colour, stroke, _ = BOXES[meaning]
    drawn = Rectangle((x, y), right - x, low - y, fill=False, ec=colour, ls=stroke, lw=1.6, clip_on=False)
    drawn.set_path_effects([withStroke(linewidth=2.8, foreground="black", alpha=0.6)])
    axes.add_patch(drawn)


def judge(axes: Axes, correct: bool) -> None:
    """A frame and a sign on a picture: solid, green, tick; or dashed, red, cross."""
    colour = PALETTE[2] if correct else PALETTE[3]
    axes.set_frame_on(True)
    axes.spines[:].set(visible=True, color=colour, lw=2.2, ls="-" if correct else (0, (2, 1)), capstyle="butt")
    sign = axes.text(0.06, 0.02, "✓" if correct else "✗", color=colour, fontsize=11, fontweight="bold", va="top")
    sign.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def placed(view: Tensor, box: Tensor, partial: bool = True) -> Tensor:
    """What the networks see: a view `(3, H, W)` of 0..255 put where its box lies, pale grey elsewhere."""
    if not partial:
        return view
    canvas, visible = geometry.place(view[None].cpu().float(), torch.as_tensor(box).detach()[None].cpu().float())
    return ((canvas + 232 * (1 - visible)) / 255)[0]


def board(rows: int, columns: int, cell=(0.6, 1.2), title: float = 0, labels=(), foot: float = 0):
    """Cells for pictures, sizes in inches: room over each for a title, left for row labels, below for a legend."""
    left = LABEL if len(labels) else 0
    width = left + columns * (cell[0] + GAP)
    height = foot + rows * (cell[1] + title + GAP)
    figure = Figure(figsize=(width, height))
    room = {"left": left / width, "right": 1 - GAP / width, "bottom": (foot + GAP) / height, "top": 1 - title / height}
    axes = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw=room | {"wspace": GAP / cell[0], "hspace": (title + GAP) / cell[1]}
    )
    for y, text in enumerate(labels):
        place = axes[y, 0].get_position()
        at = (left - 0.1) / width, (place.y0 + place.y1) / 2
        figure.text(*at, text, ha="right", va="center", fontsize=8, parse_math=False)  # it may be a file's name
    for one in axes.flat:
        one.set_axis_off()
    return figure, axes


def legend(figure: Figure, meanings) -> None:
    """Below a board, what its boxes mean: keys of `BOXES`."""
    seam = [withStroke(linewidth=3, foreground="black", alpha=0.6)]
    lines = [Line2D([], [], color=c, ls=s, lw=1.8, label=t, path_effects=seam) for c, s, t in map(BOXES.get, meanings)]
    where = {"bbox_to_anchor": (0, 0, 1, 1), "bbox_transform": figure.transFigure}  # stays above a caption
    how = {"ncols": len(lines), "frameon": False, "borderaxespad": 0, "fontsize": 8}
    figure.legend(handles=lines, loc="lower center", **how, **where)
