"""Arrays -> matplotlib Figures. Nothing in here knows a data set or a network.

Figures stand apart from pyplot: a notebook shows the one that ends its cell, a script saves it, none is left open. Axes
that show pictures run from 0 to 1 in x and y, so boxes are drawn as they are. Colour never speaks alone: lines differ in
stroke and marker, right and wrong in frame and sign.
"""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas
import seaborn
import torch
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

from . import geometry
from .checkpoints import replacing

PALETTE = seaborn.color_palette("colorblind")
RIGHT, WRONG = PALETTE[2], PALETTE[3]
STROKES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX<>*"
BOXES = {  # what a box means: its colour and its stroke
    "truth": (PALETTE[8], "-"),
    "p": (PALETTE[9], "--"),
    "q": (PALETTE[6], "-"),
    "p″": (PALETTE[1], ":"),
}
INCHES = 0.55  # width of a small picture's column


def style(dpi: int = 80) -> None:
    """One look for all figures. In a notebook, a figure that ends a cell is shown from here on, as a small PNG."""
    seaborn.set_theme("paper", "whitegrid", "colorblind")
    matplotlib.rcParams.update({"figure.dpi": dpi, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8})
    matplotlib.rcParams.update({"xtick.labelsize": 8, "ytick.labelsize": 8, "pdf.fonttype": 42, "lines.linewidth": 1.6})
    if shell := get_ipython():
        matplotlib.pyplot.switch_backend(matplotlib.get_backend())  # or it would come later, with formats of its own
        shell.display_formatter.formatters["image/png"].for_type(Figure, small_png)


def small_png(figure: Figure, colours: int = 160) -> bytes:
    """A figure as a PNG of few colours: a third of the size, so that executed notebooks stay small."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", dpi=figure.dpi, bbox_inches="tight", pad_inches=0.05)
    Image.open(whole).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def save(figure: Figure, path: Path | str) -> Path:
    """A PNG (150 dpi) at `path` and a PDF beside it, each whole or absent; closes the figure. -> the PNG's path."""
    path = Path(path).with_suffix(".png")
    for kind in ("pdf", "png"):
        with replacing(path.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=150, bbox_inches="tight")
    matplotlib.pyplot.close(figure)
    return path


# --- pictures and boxes ---


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
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))
    axes.set_title(title, fontsize=8, pad=3)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def outline(axes: Axes, box: Tensor, meaning: str = "q", width: float = 1.8) -> None:
    """A box `(4,)` on a picture, in the colour and stroke of what it means (`BOXES`), on a dark seam."""
    x, y, right, low = geometry.corners(torch.as_tensor(box).detach().cpu().float()).tolist()
    colour, stroke = BOXES[meaning]
    drawn = Rectangle(
        (x, y), right - x, low - y, fill=False, ec=colour, ls=stroke, lw=width, label=meaning, clip_on=False
    )
    drawn.set_path_effects([withStroke(linewidth=width + 1.2, foreground="black", alpha=0.6)])
    axes.add_patch(drawn)


def judge(axes: Axes, correct: bool) -> None:
    """A frame and a sign around a picture: solid, green, tick; or dashed, red, cross."""
    axes.spines[:].set(
        visible=True, color=RIGHT if correct else WRONG, linewidth=2.5, linestyle="-" if correct else (0, (3, 1))
    )
    sign = axes.text(
        0.06, 0.02, "✓" if correct else "✗", color=RIGHT if correct else WRONG, fontsize=11, fontweight="bold", va="top"
    )
    sign.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def placed(view: Tensor, box: Tensor, partial: bool = True) -> Tensor:
    """What the networks see: a view `(3, H, W)` of 0..255 put where its box lies, pale grey elsewhere."""
    if not partial:
        return view
    canvas, visible = geometry.place(view[None].cpu().float(), torch.as_tensor(box).detach()[None].cpu().float())
    return ((canvas + 232 * (1 - visible)) / 255)[0]


def _figure(rows: int, columns: int, width: float, height: float, **how) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout=how.pop("layout", "compressed"))
    return figure, figure.subplots(rows, columns, squeeze=False, **how)


def _row_label(axes: Axes, text: str) -> None:
    axes.text(-0.12, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=8)


def _boxes_legend(figure: Figure, meanings: dict[str, str]) -> None:
    lines = [
        matplotlib.lines.Line2D([], [], color=BOXES[m][0], ls=BOXES[m][1], lw=2.2, label=text)
        for m, text in meanings.items()
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)


def grid(pictures, ratios=None, titles=None, columns: int = 12, labels=None, width: float = 0.62) -> Figure:
    """Pictures `(N, 3, H, W)` in rows of `columns`; log ratios, a title each and a label for each row if given."""
    rows = -(-len(pictures) // columns)
    tall = width * pixels(pictures[0]).shape[0] / pixels(pictures[0]).shape[1] + (0.18 if titles is not None else 0.04)
    figure, axes = _figure(rows, columns, columns * width + (1.0 if labels else 0), rows * tall)
    for i, one in enumerate(axes.flat):
        if i < len(pictures):
            show(one, pictures[i], 0 if ratios is None else ratios[i], "" if titles is None else str(titles[i]))
        else:
            one.set_axis_off()
    for one, label in zip(axes[:, 0], labels or [], strict=False):
        _row_label(one, label)
    return figure


def partial_views(whole, boxes: Tensor, views, ratios: Tensor) -> Figure:
    """Whole pictures `(N, 3, H, W)` with the box of a crop above; below, what is left: the view in its own shape."""
    figure, axes = _figure(2, len(whole), len(whole) * 0.8, 3.2)
    for i, (top, low) in enumerate(axes.T):
        outline(show(top, whole[i]), boxes[i], "truth")
        show(low, views[i], ratios[i], f"{100 * geometry.area(boxes[i]):.0f} %")
    _row_label(axes[0, 0], "whole picture,\nknown box")
    _row_label(axes[1, 0], "partial view,\nshare of the area")
    return figure


def sketch(whole: Tensor, box: Tensor) -> Figure:
    """What GLRec has to undo, on one picture `(3, H, W)` of 0..255: crop, the networks' input, and its place again."""
    view = geometry.crop(whole[None].cpu().float(), box[None].cpu(), tuple(whole.shape[-2:]))[0]
    ratio = float((box[2] / box[3]).log())
    figure, axes = _figure(1, 5, 7.2, 2.3)
    outline(show(axes[0, 0], whole, title="a whole picture\nand a box $b$"), box, "truth")
    show(axes[0, 1], view / 255, ratio, "the file: $b$'s content,\n" + f"$r$ = {ratio:+.2f}")
    show(axes[0, 2], view / 255, title="the input $x$:\nstretched")
    show(axes[0, 3], placed(view, box), title="place$(x, b)$:\nlaid out again")
    show(
        axes[0, 4],
        geometry.coverage(box[None].cpu(), tuple(whole.shape[-2:]))[0].expand(3, -1, -1),
        title="place$(1, b)$:\nvisible (white)",
    )
    for one in axes[0, 1:]:
        one.text(-0.16, 0.5, "→", transform=one.transAxes, ha="center", va="center", fontsize=12)
    return figure


def figure_one(groups: dict[str, dict]) -> Figure:
    """Figure 1 of the supplement, groups side by side: partial pictures, holistic ones, crops at various input ratios.

    Each group: `partial` and `whole`, as many pictures; `boxes` `(K, 4)`, crops of the first whole picture with their areas
    written below.
    """
    figure = Figure(figsize=(sum(len(g["partial"]) for g in groups.values()) * 0.85, 4.6), layout="constrained")
    parts = figure.subfigures(1, len(groups), squeeze=False, width_ratios=[len(g["partial"]) for g in groups.values()])[
        0
    ]
    for part, (name, group) in zip(parts, groups.items(), strict=True):
        part.suptitle(name, fontsize=10, fontweight="bold")
        thirds = part.subfigures(3, 1, height_ratios=[1, 1, 1])
        for third, row in zip(thirds, ("partial", "whole"), strict=False):
            for one, picture in zip(third.subplots(1, len(group[row])), group[row], strict=True):
                show(one, picture)
        first = torch.from_numpy(np.array(pixels(group["whole"][0]))).float().permute(2, 0, 1)
        for one, box in zip(thirds[2].subplots(1, len(group["boxes"])), group["boxes"], strict=True):
            size = [
                max(8, round(float(side) * cells))
                for side, cells in zip((box[3], box[2]), first.shape[1:], strict=True)
            ]
            show(one, geometry.crop(first[None], box[None], tuple(size))[0])
            one.set_xlabel(f"{geometry.area(box):.1f}", fontsize=8)
    return figure


# --- layouts, regions, rankings ---


def placements(queries, boxes: Tensor, truth: Tensor, chosen, titles=None) -> Figure:
    """For chosen queries of a bank: the file's picture, where GLRec puts it, where it belongs, and the IoU of the two."""
    chosen = list(map(int, chosen))
    figure, axes = _figure(3, len(chosen), len(chosen) * 0.78 + 0.8, 4.3)
    overlap = geometry.iou(boxes.cpu(), truth.cpu())
    for column, i in enumerate(chosen):
        show(axes[0, column], queries.images[i], queries.ratios[i])
        outline(
            show(axes[1, column], placed(queries.images[i], boxes[i]), title=f"IoU {overlap[i]:.2f}"), truth[i], "truth"
        )
        outline(show(axes[2, column], placed(queries.images[i], truth[i])), truth[i], "truth")
    for one, label in zip(axes[:, 0], ("query", "placed by\nGLRec", "its true\nplace"), strict=True):
        _row_label(one, label)
    return figure


def located(
    queries,
    boxes: Tensor,
    partial,
    gallery,
    regions: dict[str, Tensor],
    chosen,
    back: Tensor | None = None,
    titles=None,
) -> Figure:
    """Pairs (query i, gallery i) for i in `chosen`: p on the rectified query, `regions` (`q`, `truth`, …) on the gallery picture.

    `back` `(N, 4)` is p″, drawn on the query: there and back again.
    """
    chosen = list(map(int, chosen))
    figure, axes = _figure(2, len(chosen), len(chosen) * 0.82 + 0.8, 3.6)
    for column, i in enumerate(chosen):
        title = "" if titles is None else titles[column]
        outline(
            show(axes[0, column], placed(queries.images[i], boxes[i], bool(partial[i])), title=title), boxes[i], "p"
        )
        if back is not None:
            outline(axes[0, column], back[i], "p″")
        show(axes[1, column], gallery.images[i])
        for meaning, box in regions.items():
            outline(axes[1, column], box[i], meaning)
    _row_label(axes[0, 0], "rectified\nquery")
    _row_label(axes[1, 0], "gallery\npicture")
    words = {"p": "p, the query's visible box", "p″": "p″, back again", "q": "q, located", "truth": "truth"}
    there = ["p"] + ["p″"] * (back is not None) + [meaning for meaning in regions if meaning != "p"]
    _boxes_legend(figure, {meaning: words[meaning] for meaning in there})
    return figure


def ranking(queries, boxes: Tensor, partial, gallery, order, regions=None, correct=None, limit: int = 8) -> Figure:
    """Ranked lists, a row a query: the query, the query on the canvas, and the nearest gallery pictures.

    queries, gallery: ImageBanks; boxes `(Q, 4)` and partial `(Q,)`, the layout; order `(Q, top)` indices into the gallery;
    regions: for each query the located boxes `(top, 4)`; correct bool `(Q, top)`, framed green with a tick or red with a
    cross. At most `limit` queries.
    """
    order, count = np.asarray(order), min(limit, len(order))
    partial = torch.as_tensor(partial).cpu()
    ahead = 1 + bool(partial.any())
    figure, axes = _figure(count, ahead + order.shape[1], (ahead + order.shape[1]) * 0.72 + 0.2, count * 1.35 + 0.3)
    for i, row in enumerate(axes):
        show(row[0], queries.images[i], queries.ratios[i], "query" if i == 0 else "")
        if ahead == 2:
            show(row[1], placed(queries.images[i], boxes[i], bool(partial[i])), title="rectified" if i == 0 else "")
            if regions is not None:
                outline(row[1], boxes[i], "p", 1.4)
        for rank, j in enumerate(order[i]):
            one = show(
                row[ahead + rank], gallery.images[int(j)], gallery.ratios[int(j)], str(rank + 1) if i == 0 else ""
            )
            if regions is not None:
                outline(one, regions[i][rank], "q", 1.4)
            if correct is not None:
                judge(one, bool(correct[i][rank]))
    if regions is not None:
        _boxes_legend(figure, {"p": "p, the query's visible box", "q": "q, located by CRLoc"})
    return figure


# --- curves and numbers ---


def _look(i: int) -> dict:
    return {"color": PALETTE[i % 10], "linestyle": STROKES[i % 4], "marker": MARKERS[i % 10], "markersize": 4}


def curves(logs: dict[str, pandas.DataFrame], columns: dict[str, str], per_row: int = 4) -> Figure:
    """Training curves: a panel for each column of the logs (name -> label), a line for each log that has it, against steps."""
    per_row = min(per_row, len(columns))
    rows = -(-len(columns) // per_row)
    figure, axes = _figure(rows, per_row, 2.3 * per_row + 0.4, 2.0 * rows + 0.3 * (len(logs) > 1), layout="constrained")
    for one, (column, label) in zip(axes.flat, columns.items(), strict=False):
        for i, (name, log) in enumerate(logs.items()):
            if column in log:
                kept = log[["step", column]].dropna()
                smooth = kept[column].rolling(5, 1, center=True).mean()
                one.plot(kept.step, kept[column], color=PALETTE[i % 10], alpha=0.25, lw=0.8)
                one.plot(
                    kept.step, smooth, label=name, markevery=0.2, **_look(i) if len(logs) > 1 else {"color": PALETTE[0]}
                )
        one.set(title=label, xlabel="step")
    for one in axes.flat[len(columns) :]:
        one.set_axis_off()
    if len(logs) > 1:
        known = {text: line for one in axes.flat for line, text in zip(*one.get_legend_handles_labels(), strict=True)}
        figure.legend(known.values(), known, loc="outside lower center", ncols=min(6, len(known)), frameon=False)
    return figure


def gate_histogram(logits: dict[str, Tensor]) -> Figure:
    """How sure the gate is, a panel for each kind of picture; right of 0 it takes a picture for partial."""
    figure, axes = _figure(1, len(logits), 2.1 * len(logits), 2.0, layout="constrained", sharex=True, sharey=True)
    edges = np.linspace(-12, 12, 33)
    for i, (one, (name, values)) in enumerate(zip(axes[0], logits.items(), strict=True)):
        values = torch.as_tensor(values).cpu().numpy().clip(-12, 12)
        one.hist(
            values,
            edges,
            weights=np.full(len(values), 100 / max(1, len(values))),
            color=PALETTE[i],
            edgecolor="white",
            lw=0.3,
        )
        one.axvline(0, color="black", lw=1, ls="--")
        one.set(title=f"{name}\ntaken for partial: {100 * np.mean(values > 0):.0f} %", xlabel="gate's logit")
    axes[0, 0].set_ylabel("pictures, %")
    return figure


def cmc(bands: dict[str, dict[str, np.ndarray]]) -> Figure:
    """CMC curves: a panel for each set, a line for each method from `(K, 3)`: rank-k and its 95 % interval, 0..1."""
    figure, axes = _figure(1, len(bands), 3.4 * len(bands), 3.0, layout="constrained", sharey=True)
    for one, (name, methods) in zip(axes[0], bands.items(), strict=True):
        for i, (method, band) in enumerate(methods.items()):
            k = np.arange(1, len(band) + 1)
            one.plot(k, 100 * band[:, 0], label=method, markevery=max(1, len(k) // 6), **_look(i))
            one.fill_between(k, 100 * band[:, 1], 100 * band[:, 2], color=PALETTE[i % 10], alpha=0.12, lw=0)
        one.set(title=name, xlabel="rank k", xlim=(1, len(k)))
    axes[0, 0].set_ylabel("queries found up to rank k, %")
    axes[0, -1].legend(loc="lower right")
    return figure


def by_subset(table: pandas.DataFrame, subsets: list[str], label: str, methods: list[str]) -> Figure:
    """rank-1 of each method on each subset of the queries with its 95 % interval; rows as in results.csv, a panel a data set."""
    sets = list(dict.fromkeys(table.dataset))
    figure, axes = _figure(1, len(sets), 3.6 * len(sets), 2.9, layout="constrained", sharey=True)
    for one, name in zip(axes[0], sets, strict=True):
        there = [s for s in subsets if s in set(table[table.dataset == name].subset)]
        for i, method in enumerate(methods):
            rows = (
                table[(table.dataset == name) & (table.method == method)]
                .groupby("subset")[["value", "low", "high"]]
                .mean()
            )
            rows = 100 * rows.reindex(there)
            x = np.arange(len(there)) + 0.13 * (i - (len(methods) - 1) / 2)
            spread = np.clip([rows.value - rows.low, rows.high - rows.value], 0, None)
            one.errorbar(x, rows.value, spread, label=method, capsize=2, elinewidth=1, **_look(i))
        one.set(title=name, xlabel=label, xticks=range(len(there)), xticklabels=there)
    axes[0, 0].set_ylabel("rank-1, %")
    axes[0, -1].legend(loc="best")
    return figure


def comparison(table: pandas.DataFrame, label: str) -> Figure:
    """Methods beside one another: bars with 95 % intervals, a panel for each data set; rows as in results.csv."""
    sets, methods = list(dict.fromkeys(table.dataset)), list(dict.fromkeys(table.method))
    figure, axes = _figure(
        1, len(sets), 3.4 * len(sets) + 0.6, 0.26 * len(methods) + 0.8, layout="constrained", sharey=True
    )
    for one, name in zip(axes[0], sets, strict=True):
        rows = 100 * table[table.dataset == name].groupby("method")[["value", "low", "high"]].mean().reindex(methods)
        spread = np.clip([rows.value - rows.low, rows.high - rows.value], 0, None)
        colours = [PALETTE[1] if method == "ppcl" else PALETTE[0] for method in methods]
        one.barh(methods, rows.value, xerr=spread, color=colours, alpha=0.85, error_kw={"elinewidth": 1, "capsize": 2})
        for y, (value, high) in enumerate(zip(rows.value, rows.high, strict=True)):
            one.annotate(
                f"{value:.1f}", (max(value, high), y), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        one.set(title=name, xlabel=label)
        one.grid(axis="y", visible=False)
        one.margins(x=0.14)
    axes[0, 0].invert_yaxis()
    return figure
