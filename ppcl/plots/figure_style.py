"""One look for all figures, the caption below each, and how they are written: PNG and PDF files, or into a notebook."""

import base64
import io
import re
import textwrap
import warnings
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import seaborn
from matplotlib.figure import Figure
from PIL import Image

from ..disk.files import given_path, replacing

WIDTH = 7.2  # inches: no figure is wider than the text of a page
LOOK = seaborn.axes_style("whitegrid") | seaborn.plotting_context("paper") | {"font.family": "DejaVu Sans"}
LOOK |= dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 8) | {"pdf.fonttype": 42}
LOOK |= dict.fromkeys(("axes.titlesize", "axes.labelsize"), 9)
_note = ""


@contextmanager
def styled():
    """Matplotlib's defaults and our look inside the block (or function), whatever the user's settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(LOOK)
        yield


class Page(Figure):
    """A figure outside pyplot's list of open ones. A notebook shows it with its caption, like any other value."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(notebook_picture(self), raw=True)


def note(text: str) -> None:
    """Set what stands below every figure from here on: data, profile and seed."""
    global _note
    _note = text


def caption(figure: Figure, text: str) -> Figure:
    """Set the words below a figure, before the note."""
    figure.set_label(text)
    return figure


def _words(figure: Figure) -> str:
    return "; ".join(filter(None, (figure.get_label(), _note)))


@contextmanager
def captioned(figure: Figure):
    """The figure with its caption while it is written; its layout is computed once, before."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for legend in figure.legends:  # keeps it in place, above the caption
            legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
    words = re.sub(r"(seeds?) (\d)", "\\1\N{NO-BREAK SPACE}\\2", _words(figure))  # never a number alone on a line
    lines = textwrap.wrap(words, int(figure.get_figwidth() * 72 / (0.54 * 7)))
    below = -0.04 / figure.get_figheight()
    text = figure.text(0, below, "\n".join(lines), va="top", fontsize=7, color="0.25", parse_math=False)
    try:
        yield
    finally:
        text.remove()


@styled()
def _drawn(figure: Figure, kind: str, dpi: int, **how) -> bytes:
    file = io.BytesIO()  # matplotlib, when it writes into a file, hides why it cannot
    with captioned(figure), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the font lacks a letter of a file's name
        figure.savefig(file, format=kind, dpi=dpi, bbox_inches="tight", pad_inches=0.05, **how)
    return file.getvalue()


def notebook_picture(figure: Figure | Image.Image) -> dict[str, str]:
    """A figure or drawing as a notebook's output: PNG for charts, JPEG for all that holds pictures."""
    drawing = isinstance(figure, Image.Image)
    words = "a drawing" if drawing else _words(figure)
    picture = figure if drawing else Image.open(io.BytesIO(_drawn(figure, "png", 100))).convert("RGB")
    file, kind = io.BytesIO(), "jpeg" if drawing or any(axes.images for axes in figure.axes) else "png"
    if kind == "png":  # a chart has few colours: 256 change none of them by more than can be seen
        picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(file, kind, optimize=True, quality=50, progressive=True, subsampling=0)
    return {f"image/{kind}": base64.b64encode(file.getvalue()).decode(), "text/plain": words}


def save(figure: Figure, path: Path | str) -> Path:
    """Write a PNG (150 dpi) at `path` and a PDF beside it, each whole or absent. -> the PNG's path.

    Both have the caption below the figure and among their properties.
    """
    path = given_path(path).with_suffix(".png")
    facts = {"png": {"Description": _words(figure)}, "pdf": {"Subject": _words(figure), "CreationDate": None}}
    for kind in ("pdf", "png"):
        with replacing(path.with_suffix(f".{kind}")) as temporary:
            temporary.write_bytes(_drawn(figure, kind, 150, metadata=facts[kind]))
    return path
