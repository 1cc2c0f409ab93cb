"""The explorer: cut a picture with four sliders, and see where it is placed, located and ranked, by which distances."""

import functools
import html
import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from . import evaluation, geometry, matching, plots
from .data import datasets, image_bank, image_files
from .data.reading import Cut
from .disk import checkpoints
from .disk.files import printable
from .evaluation import known_truth
from .models.ppcl import PPCL
from .recipes import METHODS

Crop = tuple[float, float, float, float]  # left, right, top, bottom, in fractions of the picture
WHOLE, UPPER, LEAST = (0.0, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.5), 0.1
TOP, CHOICES = 7, 200  # ranked pictures in a row of the figure; people to choose from
LARGEST, SHOWN = 800, 250  # pixels of a side: of the photograph that is cut, of the one that is drawn
DPI = 150
COLUMNS = ["row", "rank", "gallery", "person", "distance", "global", "region", "located"]
STYLE = "<style>.ppcl td, .ppcl th {padding: 0 8px; text-align: right; font-size: 12px}</style>"


@dataclass(frozen=True)
class Choice:
    """A query: a picture, the crop to begin with, its person if known, and its index if it is in the gallery."""

    picture: Image.Image | Path | Cut
    crop: Crop = WHOLE
    person: int | None = None
    index: int | None = None

    def open(self) -> Image.Image:
        """Upright RGB, no side longer than LARGEST. Raises DataError."""
        picture = image_files.open_picture(self.picture)
        picture.thumbnail((LARGEST, LARGEST))
        return picture


@dataclass
class Gallery:
    """A set's gallery in memory, and the queries to choose from, by name."""

    dataset: str
    names: list[str]
    people: np.ndarray
    bank: image_bank.ImageBank
    choices: dict[str, Choice] = field(repr=False)


def gallery(data: Path | str, recipe) -> Gallery:
    """The gallery of the first partial set below `data`. Raises DataError if there is none.

    Queries are those of the set and, of people with several gallery pictures, one of these; it is left out of its own
    ranking.
    """
    dataset = datasets.partial_sets(data, recipe.task, recipe.data)[0]
    query, have = datasets.evaluation_sets(dataset, data, recipe)
    bank = image_bank.bank(have.pictures, recipe.input.size, "gallery")
    names = [printable(path.name) for path in have.paths]
    _, first, count = np.unique(have.identities, return_index=True, return_counts=True)
    choices = {}
    for i in first[count > 1][:CHOICES]:
        choices[f"whole {names[i]}"] = Choice(have.pictures[i], UPPER, have.identities[i], i)
    for i in np.unique(query.identities, return_index=True)[1][:CHOICES]:
        choice = Choice(query.pictures[i], WHOLE, query.identities[i])
        if query.boxes is not None:  # the query was cut from a whole picture: the sliders move in that
            x, y, right, low = geometry.corners(torch.from_numpy(query.boxes[i])).tolist()
            choice = replace(choice, picture=replace(query.pictures[i], box=None), crop=(x, right, y, low))
        choices[f"partial {printable(query.paths[i].name)}"] = choice
    return Gallery(dataset, names, have.identities, bank, choices)


def own(source: Path | str | bytes, uncut: int = 0) -> Choice:
    """The user's photograph as a query: a path, or the bytes of an upload. Raises DataError if it is not readable."""
    upload = not isinstance(source, (str, Path))
    try:
        return Choice(Choice(Cut(io.BytesIO(source) if upload else Path(source).expanduser(), uncut)).open())
    except datasets.DataError:
        if upload:
            raise datasets.DataError("the upload is not a readable picture: give a JPEG or PNG") from None
        raise


def rows(run: Path | str, task: str, seed: int = 0) -> list[str]:
    """The rows trained in a run that need no truth, `ppcl` last. Raises CheckpointError with the remedy if none is."""
    found = [name for name in evaluation.trained(run, task, seed) if not METHODS[name].needs_truth]
    if not found:
        raise checkpoints.CheckpointError(f"{run} holds no finished joint stage of task {task}: run notebook "
            "04_joint_training first, or python -m ppcl reproduce")  # fmt: skip
    return sorted(found, key=lambda name: name == "ppcl")


class Described(dict):
    """Row -> (model, the gallery's features); each row is loaded, and describes the gallery, when it is first used."""

    def __init__(self, run: Path | str, task: str, gallery: Gallery, seed: int = 0, device: str = "cpu"):
        super().__init__()
        self.run, self.task, self.gallery, self.seed, self.device = run, task, gallery, seed, device

    def __missing__(self, row: str) -> tuple[PPCL, matching.Features]:
        model = evaluation.load(self.run, self.task, row, self.seed, self.device)
        self[row] = model, matching.describe(model, self.gallery.bank)
        return self[row]


@dataclass
class Found:
    """A row's result for a crop: the network input, its box `(4,)` and gate, and the nearest gallery pictures."""

    model: PPCL
    view: torch.Tensor  # (3, H, W)
    box: torch.Tensor
    gate: float  # logit
    weight: float
    index: list[int]
    distance: np.ndarray  # (top,) each: distance, and the global and region distances that it is fused from
    overall: np.ndarray
    region: np.ndarray  # NaN for rows without regions
    located: torch.Tensor | None  # (top, 4)

    @property
    def shares(self) -> np.ndarray:
        """Shares of the global and the region distance in the distance: `(top, 2)`."""
        return np.stack([(1 - self.weight) * self.overall, self.weight * np.nan_to_num(self.region)], 1)


def cut(size: tuple[int, int], crop: Crop) -> tuple[int, int, int, int]:
    """A crop in pixels (left, top, right, bottom); crossed sliders are swapped, no side is shorter than LEAST."""
    edges = []
    for low, high, side in ((*crop[:2], size[0]), (*crop[2:], size[1])):
        low, high = sorted((min(max(0.0, low), 1.0), min(max(0.0, high), 1.0)))
        high = min(1.0, max(high, low + LEAST))
        low = min(low, high - LEAST)
        edges.append((round(low * side), max(round(low * side) + 1, round(high * side))))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def search(
    model: PPCL, gallery: matching.Features, view: Image.Image, left_out: int | None = None, top: int = TOP
) -> Found:
    """Rank a described gallery for one view by `matching.search`; the picture `left_out` is skipped."""
    bank = image_bank.bank([view], model.recipe.input.size, quiet=True)
    query = matching.describe(model, bank, several=True)
    distance, overall, index = (value[0].cpu() for value in matching.search(model, query, gallery, top + 1))
    kept = [k for k, j in enumerate(index.tolist()) if j != left_out][:top]
    distance, overall, index = distance[kept].numpy(), overall[kept].numpy(), index[kept]
    region, located = np.full(len(kept), np.nan), None
    if model.method.locates:
        shortlist = index[None].to(query.box.device)
        region = matching.region_distances(model, query, gallery, shortlist)[0].cpu().numpy()
        located = known_truth.locate_pairs(model, query, gallery, np.zeros(len(kept), int), index.numpy())
    box, gate, weight = query.box[0, 0].cpu(), float(query.gate[0]), matching.fusion_weight(model)
    return Found(model, bank.images[0], box, gate, weight, index.tolist(), distance, overall, region, located)


def table(found: list[Found], gallery: Gallery) -> pandas.DataFrame:
    """A line for each row and rank: distance, its global and region distances, corners of the located box."""
    lines = []
    for one in found:
        for k, j in enumerate(one.index):
            corners = [] if one.located is None else geometry.corners(one.located[k]).tolist()
            numbers = one.distance[k], one.overall[k], one.region[k]
            located = " ".join(f"{edge:.2f}" for edge in corners)
            lines.append([one.model.row, k + 1, gallery.names[j], int(gallery.people[j]), *numbers, located])
    return pandas.DataFrame(lines, columns=COLUMNS)


def look(described: Described, choice: Choice, crop: Crop | None = None, names=()) -> tuple[Figure, pandas.DataFrame]:
    """A crop of a query in each named row, by default the run's last: figure and table.

    The next call with as many rows draws into the same figure.
    """
    picture = choice.open()
    edges = cut(picture.size, choice.crop if crop is None else crop)
    names = names or rows(described.run, described.task, described.seed)[-1:]
    found = [search(*described[name], picture.crop(edges), choice.index) for name in names]
    box = geometry.from_corners(torch.tensor(edges) / torch.tensor(picture.size * 2))
    picture.thumbnail((SHOWN, SHOWN))
    return draw(found, described.gallery, choice.person, picture, box), table(found, described.gallery)


@functools.lru_cache(4)
def _board(labels: tuple[str, ...], aspect: float) -> tuple[Figure, np.ndarray]:
    """An empty figure with a line of cells for each row; made once, since that takes as long as drawing it."""
    figure, axes = plots.board(len(labels), TOP + 2, aspect, 0.35, labels, explained=True)
    plots.legend(figure, ["p", "q"])
    for cell in axes.flat:
        cell.xaxis.set_visible(False)
        cell.yaxis.set_visible(False)
    return figure, axes


@matplotlib.rc_context({"axes.titley": 1.0})  # matplotlib needs not search a place for each title
def draw(found: list[Found], gallery: Gallery, person: int | None, picture: Image.Image, box: torch.Tensor) -> Figure:
    """The query with its crop; for each row the crop as it is placed, with the gate, and the ranked pictures."""
    height, width = gallery.bank.size
    labels = tuple(f"{one.model.row}\nw = {one.weight:.2f}".replace("+", "\n+").lstrip() for one in found)
    figure, axes = _board(labels, min(2.0, max(1.2, height / width)))
    for cell in axes.flat:
        for artist in (*cell.images, *cell.patches, *cell.texts):
            artist.remove()
        cell.patch.set_linewidth(0)  # the frame of a judged picture
        cell.title.set_parse_math(False)  # names may hold a $
    plots.outline(plots.show(axes[0, 0], picture, title="your crop"), box, "p")
    for one, (_, canvas, *cells) in zip(found, axes, strict=True):
        gate = f"{'partial' if one.gate > 0 else 'whole'} {100 / (1 + np.exp(-abs(one.gate))):.0f} %"
        gate = {"pad": "ratio kept", "stretch": "stretched"}.get(one.model.method.layout, gate)
        placed = plots.placed(one.view, one.box, one.gate > 0)
        plots.outline(plots.show(canvas, placed, title=f"placed:\n{gate}"), one.box, "p")
        shares = one.shares / max(one.shares.sum(1).max(initial=0), 1e-6)
        for k, (cell, j) in enumerate(zip(cells, one.index, strict=False)):
            title = f"{k + 1}: {Path(gallery.names[j]).stem[-9:]}\n{one.distance[k]:.3f}"
            plots.show(cell, gallery.bank.images[j], gallery.bank.ratios[j], title)
            if one.located is not None:
                plots.outline(cell, geometry.clip(one.located[k]), "q")
            if person is not None:
                plots.judge(cell, gallery.people[j] == person)
            for start, share, colour in ((0, shares[k, 0], 0), (*shares[k], 1)):
                bar = (start, 1.05), max(0, share), 0.04
                cell.add_artist(Rectangle(*bar, color=plots.PALETTE[colour], clip_on=False))
    return plots.caption(figure, "bar below a picture: its distance, global part blue, region part orange")


def jpeg(figure: Figure) -> bytes:
    """A figure as the panel shows it."""
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", dpi=DPI, pil_kwargs={"quality": 85})
    return file.getvalue()


# --- the widgets ---


def panel(described: Described, names=()) -> None:
    """Show the widgets: query or the user's photograph, the crop's four edges, the rows; below them what is found.

    Where widgets cannot be drawn (a web page, a report, a run without a browser) the output is a picture.
    """
    import ipywidgets
    from IPython.display import display

    trained, choices = rows(described.run, described.task, described.seed), described.gallery.choices
    state = {"choice": next(iter(choices.values())), "busy": False}
    query = ipywidgets.Dropdown(options=list(choices), description="query")
    path = ipywidgets.Text(description="or a file", placeholder="path, then Enter", continuous_update=False)
    upload = ipywidgets.FileUpload(accept="image/*", description="upload")
    chosen = ipywidgets.SelectMultiple(options=trained, value=tuple(names) or trained[-1:], rows=6, description="rows")
    edges = [
        ipywidgets.FloatSlider(min=0, max=1, step=0.01, description=name, readout_format=".2f")
        for name in ("left", "right", "top", "bottom")
    ]
    drawing, ranking, message = ipywidgets.Image(format="jpeg"), ipywidgets.HTML(), ipywidgets.HTML()

    def redraw(_change=None) -> None:
        if not state["busy"]:
            crop, rows_ = tuple(edge.value for edge in edges), [name for name in trained if name in chosen.value]
            state["figure"], lines = look(described, state["choice"], crop, rows_)
            drawing.value, message.value = jpeg(state["figure"]), ""
            ranking.value = STYLE + lines.to_html(
                index=False, float_format="{:.3f}".format, na_rep="", border=0, classes="ppcl"
            )

    def choose(choice: Choice) -> None:
        state.update(choice=choice, busy=True)  # the four edges move at once
        for edge, value in zip(edges, choice.crop, strict=True):
            edge.value = value
        state["busy"] = False
        redraw()

    def choose_own(source) -> None:
        try:
            choose(own(source, described[trained[-1]][0].recipe.data.uncut))
        except datasets.DataError as error:
            message.value = f"<b>{html.escape(str(error))}</b>"

    query.observe(lambda change: choose(choices[change.new]), "value")
    path.observe(lambda change: change.new and choose_own(change.new), "value")
    upload.observe(lambda change: change.new and choose_own(bytes(change.new[0]["content"])), "value")
    for widget in (*edges, chosen):
        widget.observe(redraw, "value")
    choose(state["choice"])
    left = ipywidgets.VBox([query, path, upload, message])
    whole = ipywidgets.VBox([ipywidgets.HBox([left, ipywidgets.VBox(edges), chosen]), drawing, ranking])
    widgets = {"version_major": 2, "version_minor": 0, "model_id": whole.model_id}
    view = {"application/vnd.jupyter.widget-view+json": widgets, **plots.notebook_picture(state["figure"])}
    display(view | {"text/plain": "the panel: open this notebook in JupyterLab"}, raw=True)
