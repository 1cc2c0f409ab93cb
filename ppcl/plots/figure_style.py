"""What all figures share: one look, a caption below each, and how they are written, PNG and PDF."""

import io
import re
import textwrap
import warnings
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot
import seaborn
from matplotlib.figure import Figure
from PIL import Image

from ..disk.files import replacing

WIDTH = 7.2  # inches of a page: letters of wider figures are larger, so that they stay readable when it is made to fit


class _Style:
    """What stands below every figure: data, profile, seed."""

    note = ""


def style(note: str = "") -> None:
    """One look for all figures; `note`, which says data and seed, stands below each from here on.

    In a notebook, a figure that ends a cell is shown from here on, as a small PNG.
    """
    from IPython import get_ipython

    _Style.note = note
    seaborn.set_theme("paper", "whitegrid", "colorblind")
    sizes = dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 8)
    sizes |= dict.fromkeys(("axes.titlesize", "axes.labelsize"), 9)
    matplotlib.rcParams.update({"figure.dpi": 80, "pdf.fonttype": 42, **sizes})
    if shell := get_ipython():
        matplotlib.pyplot.switch_backend(matplotlib.get_backend())  # or it would come later, with formats of its own
        shell.display_formatter.formatters["image/png"].for_type(Figure, small_png)


def caption(figure: Figure, text: str) -> Figure:
    """Words below a figure, before the style's note: what is shown, and of how many."""
    figure.set_label(text)
    return figure


def _words(figure: Figure) -> str:
    return "; ".join(filter(None, (figure.get_label(), _Style.note)))


def enlarged(figure: Figure) -> float:
    """How many times as large a figure's letters are as those of one that fits a page."""
    return max(1.0, figure.get_figwidth() / WIDTH)


@contextmanager
def captioned(figure: Figure):
    """The figure with its caption, for as long as it is being written. It is laid out before, once."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for legend in figure.legends:  # stays where it is, above the caption
            legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
    size = 7 * enlarged(figure)
    words = re.sub(r"(seeds?) (\d)", "\\1\N{NO-BREAK SPACE}\\2", _words(figure))  # no number begins a line alone
    lines = textwrap.wrap(words, int(figure.get_figwidth() * 72 / (0.54 * size)))
    below = -0.04 / figure.get_figheight()
    text = figure.text(0, below, "\n".join(lines), va="top", fontsize=size, color="0.25")
    try:
        yield
    finally:
        text.remove()


def small_png(figure: Figure) -> bytes:
    """A figure as a PNG of few colours, for notebooks."""
    whole = io.BytesIO()
    with captioned(figure):
        figure.savefig(whole, format="png", dpi=figure.dpi, bbox_inches="tight", pad_inches=0.05)
    return few_colours(Image.open(whole).convert("RGB"))


def few_colours(picture: Image.Image) -> bytes:
    """A picture as a PNG of 96 colours: a quarter of the size, so that executed notebooks stay small.

    Colours far apart first, then moved until fewer than 10,000 pixels change theirs: thin lines keep their own.
    """
    small = io.BytesIO()
    few = picture.quantize(96, Image.Quantize.MAXCOVERAGE, kmeans=10_000, dither=Image.Dither.NONE)
    few.save(small, "png", optimize=True)
    return small.getvalue()


def save(figure: Figure, path: Path | str) -> Path:
    """A PNG (150 dpi) at `path` and a PDF beside it, each whole or absent. -> the PNG's path.

    Both have the caption below the figure, and the PNG as its description, too.
    """
    path = Path(path).with_suffix(".png")
    facts = {"png": {"Description": _words(figure)}, "pdf": {"Subject": _words(figure), "CreationDate": None}}
    for kind in ("pdf", "png"):
        drawing = io.BytesIO()  # matplotlib, writing into a file, hides why it cannot
        with captioned(figure), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the font lacks a letter of a file's name
            figure.savefig(drawing, format=kind, dpi=150, bbox_inches="tight", metadata=facts[kind])
        with replacing(path.with_suffix(f".{kind}")) as temporary:
            temporary.write_bytes(drawing.getbuffer())
    return path
