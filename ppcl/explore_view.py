"""The drawing of what rows make of a crop, and the widgets around it.

Drawn with Pillow, because a change should be seen within 300 ms and a matplotlib figure alone takes as long. Where
nobody can drag, the widgets leave a picture.
"""

import html
import io

import numpy as np
import pandas
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from . import geometry
from .data import datasets
from .explore import TOP, Choice, Crop, Described, Found, Gallery, cut, own, rows, search, table
from .plots import cells
from .plots.charts import PALETTE
from .plots.figure_style import notebook_picture

HIGH, GAP, LINE = 150, 8, 16  # pixels: a picture, between pictures, a line of text
STYLE = "<style>.ppcl td, .ppcl th {padding: 0 8px; text-align: right; font-size: 12px}</style>"


def look(
    described: Described, chosen: Choice, crop: Crop | None = None, names=()
) -> tuple[Image.Image, pandas.DataFrame]:
    """A crop of a query, in each named row or else the run's last one: the drawing and the table of the rankings."""
    where, picture = described.gallery, chosen.open()
    edges = cut(picture, chosen.crop if crop is None else crop)
    view = picture.crop(edges)
    names = names or rows(described.run, described.task, described.seed)[-1:]
    found = [search(*described[name], view, chosen.itself) for name in names]
    return draw(found, where, chosen, picture, edges), table(found, where)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _colour(colour) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in colour)


FONT, SMALL, SIGN = _font(11), _font(10), _font(15)
GLOBAL, REGION = _colour(PALETTE[0]), _colour(PALETTE[1])
BOX = {meaning: _colour(cells.BOXES[meaning][0]) for meaning in ("p", "q")}
INK, PALE = (40, 40, 40), (232, 232, 232)


def draw(found: list[Found], where: Gallery, chosen: Choice, picture: Image.Image, edges) -> Image.Image:
    """The query with its crop, then a line a row: the placed layout with its gate, and the ranked pictures.

    Below each: its distance as a bar, the global part (blue) and the region part (orange).
    """
    high, wide = where.bank.size
    cell = (round(HIGH * min(1, wide / high * 1.15)), HIGH)
    step, tall = cell[0] + GAP, HIGH + 5 * LINE
    sheet = Image.new("RGB", ((TOP + 2) * step + 3 * GAP, len(found) * tall + LINE), "white")
    pen = ImageDraw.Draw(sheet)
    for y, one in zip(range(LINE, sheet.height, tall), found, strict=False):
        regions = (
            f": {1 - one.weight:.2f} global + {one.weight:.2f} region distance" if one.weight else ": global distance"
        )
        pen.text((2 * GAP + step, y - LINE), one.row + regions, INK, FONT)
        if one is found[0]:
            _picture(sheet, pen, (GAP, y + LINE), cell, picture, "your crop", edges, BOX["p"])
        corner = (2 * GAP + step, y + LINE)
        _layout(sheet, pen, corner, (round(HIGH * wide / high), HIGH), picture.crop(edges), one)
        longest = max(max(map(sum, one.shares)), 1e-6)
        for k, j in enumerate(one.index):
            corner = (3 * GAP + (k + 2) * step, y + LINE)
            shown, text = where.seen[j], f"{k + 1} · {where.names[j].rsplit('.', 1)[0][-10:]}"
            region = None if one.regions is None else geometry.corners(geometry.clip(one.regions[k])).numpy()
            region = None if region is None else region * np.array([*shown.size, *shown.size])
            placed = _picture(sheet, pen, corner, cell, shown, text, region, BOX["q"])
            if chosen.person is not None:
                _judge(pen, placed, where.people[j] == chosen.person)
            _bar(pen, (corner[0], corner[1] + HIGH + 4), cell[0], one.distance[k], one.shares[k], longest)
    for x, colour, text in ((GAP, BOX["p"], "p: the crop"), (110, BOX["q"], "q: located by CRLoc"),
                            (250, GLOBAL, "global part"), (345, REGION, "region part of the distance")):  # fmt: skip
        pen.rectangle((x, sheet.height - LINE, x + 9, sheet.height - LINE + 9), fill=colour)
        pen.text((x + 14, sheet.height - LINE - 2), text, INK, SMALL)
    return sheet


def _picture(sheet, pen, corner, cell, picture, title, box=None, colour=None) -> tuple[float, ...]:
    """A picture undistorted in its cell, its title above, a box of its pixels on it. -> where it lies."""
    x, y = corner
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    sheet.paste(picture.resize(size, Image.Resampling.BILINEAR), corner)
    pen.text((x, y - LINE), title, INK, SMALL)
    if box is not None:
        left, top, right, low = (float(edge) * scale for edge in box)
        _outline(pen, (x + left, y + top, x + right, y + low), colour)
    return x, y, x + size[0], y + size[1]


def _outline(pen, edges, colour) -> None:
    """A box on a dark seam."""
    left, top, right, low = edges
    right, low = max(right - 1, left + 1), max(low - 1, top + 1)
    pen.rectangle((left - 1, top - 1, right + 1, low + 1), outline=INK, width=4)
    pen.rectangle((left, top, right, low), outline=colour, width=2)


def _layout(sheet, pen, corner, size, view, one: Found) -> None:
    """The canvas with the view where the row places it, and what the gate says."""
    (x, y), partial = corner, one.gate > 0
    box = geometry.corners(one.box) if partial else torch.tensor([0.0, 0.0, 1.0, 1.0])
    left, top, right, low = (box.numpy() * np.array([*size, *size])).round().astype(int).tolist()
    canvas = Image.new("RGB", size, PALE)
    canvas.paste(view.resize((max(1, right - left), max(1, low - top)), Image.Resampling.BILINEAR), (left, top))
    sheet.paste(canvas, corner)
    pen.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=(190, 190, 190))
    _outline(pen, (x + left, y + top, x + right, y + low), BOX["p"])
    sure = 1 / (1 + np.exp(-abs(one.gate)))
    text = f"{'partial' if partial else 'whole'} {100 * sure:.0f} %"
    text = {"pad": "ratio kept", "stretch": "stretched"}.get(one.layout, text)
    pen.text((x, y - LINE), "placed", INK, SMALL)
    pen.text((x, y + size[1] + 4), text, INK, SMALL)
    if one.layout == "glrec":
        pen.text((x, y + size[1] + 4 + LINE), "says the gate", INK, SMALL)


def _judge(pen, edges, right: bool) -> None:
    """The person asked for: green, a tick; another one: red, a cross."""
    colour, sign = (_colour(PALETTE[2]), "✓") if right else (_colour(PALETTE[3]), "✗")
    left, _, _, low = edges
    pen.rectangle((left, low, edges[2] - 1, low + 2), fill=colour)
    pen.text((left + 3, low - 19), sign, colour, SIGN, stroke_width=2, stroke_fill="white")


def _bar(pen, corner, width, distance: float, shares, longest: float) -> None:
    """A distance in figures and as a bar, as long as its share of the longest one of the line."""
    x, y = corner
    first = round(width * shares[0] / longest)
    second = first + round(width * shares[1] / longest)
    pen.text((x, y), f"{distance:.3f}", INK, SMALL)
    pen.rectangle((x, y + LINE, x + width - 1, y + LINE + 7), fill=PALE)
    if first:
        pen.rectangle((x, y + LINE, x + min(width, first) - 1, y + LINE + 7), fill=GLOBAL)
    if second > first:
        pen.rectangle((x + first, y + LINE, x + min(width, second) - 1, y + LINE + 7), fill=REGION)


def png(drawing: Image.Image) -> bytes:
    """A drawing as PNG, quickly."""
    file = io.BytesIO()
    drawing.save(file, "png", compress_level=1)
    return file.getvalue()


def show(drawing: Image.Image, label: str = "") -> None:
    """A drawing in a notebook, as a small picture."""
    from IPython.display import display

    display(notebook_picture(drawing) | {"text/plain": label}, raw=True)


# --- the widgets ---


def panel(described: Described, names=()) -> None:
    """Show the widgets: a query (or a photograph of one's own), the crop's four edges, the rows; below what is found.

    Where nothing draws widgets (a notebook on the web, a report, a headless run) the same output is a picture.
    """
    import ipywidgets
    from IPython.display import display

    trained, choices = rows(described.run, described.task, described.seed), described.gallery.choices
    state = {"chosen": next(iter(choices.values())), "busy": False}
    query = ipywidgets.Dropdown(options=list(choices), description="query")
    path = ipywidgets.Text(description="or a file", placeholder="path, then Enter", continuous_update=False)
    upload = ipywidgets.FileUpload(accept="image/*", description="upload")
    chosen_rows = ipywidgets.SelectMultiple(
        options=trained, value=tuple(names) or trained[-1:], rows=6, description="rows"
    )
    edges = [
        ipywidgets.FloatSlider(min=0, max=1, step=0.01, description=name, readout_format=".2f")
        for name in ("left", "right", "top", "bottom")
    ]
    drawing, ranking, says = ipywidgets.Image(format="png"), ipywidgets.HTML(), ipywidgets.HTML()

    def redraw(_change=None) -> None:
        if not state["busy"]:
            crop = tuple(edge.value for edge in edges)
            picture, lines = look(
                described, state["chosen"], crop, [name for name in trained if name in chosen_rows.value]
            )
            drawing.value, ranking.value, says.value = png(picture), _html(lines), ""

    def choose(chosen: Choice) -> None:
        state.update(chosen=chosen, busy=True)  # the four edges move at once
        for edge, value in zip(edges, chosen.crop, strict=True):
            edge.value = value
        state["busy"] = False
        redraw()

    def choose_own(source) -> None:
        try:
            choose(own(source, described[trained[-1]][0].recipe.data.uncut))
        except datasets.DataError as error:
            says.value = f"<b>{html.escape(str(error))}</b>"

    query.observe(lambda change: choose(choices[change.new]), "value")
    path.observe(lambda change: change.new and choose_own(change.new), "value")
    upload.observe(lambda change: change.new and choose_own(bytes(change.new[0]["content"])), "value")
    for widget in (*edges, chosen_rows):
        widget.observe(redraw, "value")
    choose(state["chosen"])
    left = ipywidgets.VBox([query, path, upload, says])
    whole = ipywidgets.VBox([ipywidgets.HBox([left, ipywidgets.VBox(edges), chosen_rows]), drawing, ranking])
    still = notebook_picture(Image.open(io.BytesIO(drawing.value)))
    view = {
        "application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": whole.model_id}
    }
    display(view | still | {"text/plain": "the panel: open this notebook in JupyterLab"}, raw=True)


def _html(lines: pandas.DataFrame) -> str:
    text = lines.to_html(index=False, float_format="{:.3f}".format, na_rep="", border=0, classes="ppcl")
    return STYLE + text
