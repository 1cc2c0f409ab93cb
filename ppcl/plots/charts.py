"""Charts of numbers: curves, histograms, points with their intervals. Colour never speaks alone."""

import io
import os
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas
import seaborn
from IPython.display import HTML, display
from matplotlib.figure import Figure
from torch import Tensor

from ..disk import progress
from ..disk.files import given_path
from ..recipes.methods import ABLATIONS, METHODS
from .figure_style import WIDTH, Page, notebook_picture, styled

PALETTE = seaborn.color_palette("colorblind")
INK = [*PALETTE[:6], (0.2, 0.2, 0.2), PALETTE[7], (0.5, 0.45, 0.0), PALETTE[9]]  # its pink and yellow, dark for lines
LOOKS = (0, 6, 2, 8, 4, 3, 1, 5, 9, 7)  # of INK, for METHODS from the last to the first: pale ones for derived rows
STROKES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX<>*"


def _look(name: str, stroke: str | None = None) -> dict:
    """The colour, stroke and marker of a method, the same in every figure."""
    order = [*reversed([method for method in METHODS if method not in ABLATIONS]), *ABLATIONS]
    i = order.index(name) if name in METHODS else sum(map(ord, name))
    look = {"label": name, "color": INK[LOOKS[i % 10]], "marker": MARKERS[i % 10], "markersize": 4}
    return look | {"ls": stroke or STROKES[(i + i // 20) % 4]}


def _panels(count: int, height: float, **how) -> tuple[Figure, np.ndarray]:
    figure = Page(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, **how)[0]


def _legend(figure: Figure, axes) -> None:
    """One legend for all panels, below them."""
    known = {text: line for one in axes for line, text in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="outside lower center", ncols=min(len(known), 4), frameon=False)


@styled()
def curves(logs: dict[str, pandas.DataFrame], columns: dict[str, str]) -> Figure:
    """Training curves against steps: a panel for each column (name -> label), a line for each log that has it."""
    figure, axes = _panels(len(columns), 2.2 + 0.25 * (len(logs) > 1))
    for one, (column, label) in zip(axes, columns.items(), strict=True):
        for name, log in logs.items():
            if column in log:
                kept = log[["step", column]].dropna()
                look = _look(name) if len(logs) > 1 else {"color": PALETTE[0]}
                one.plot(kept.step, kept[column], color=look["color"], alpha=0.25, lw=0.8)
                one.plot(kept.step, kept[column].rolling(5, 1, center=True).mean(), markevery=0.2, **look)
        one.set(title=label, xlabel="step")
    if len(logs) > 1:
        _legend(figure, axes)
    return figure


@contextmanager
def live_curves(logs: dict[str, Path | str], columns: dict[str, str], every: float = 5.0):
    """In an open notebook, redraw `curves` of `log.jsonl` files (name -> path) in place while the block trains.

    Headless runs show nothing, and so does a stage that was finished before. The logs are read from the disk, so that
    training knows nothing of it.
    """
    if progress.HEADLESS in os.environ or not progress.in_notebook():
        yield
        return
    handle, before = display(HTML(""), display_id=True), _written(logs)
    with progress.meanwhile(_redraw, handle, logs, columns, every, before):
        yield


def _redraw(handle, logs: dict, columns: dict, every: float, before: dict, done: threading.Event) -> None:
    ended = False
    while not ended:
        ended = done.wait(every)
        if (now := _written(logs)) != before:
            before = now
            tables = {name: pandas.read_json(io.StringIO(text), lines=True) for name, text in now.items()}
            handle.update(notebook_picture(curves(tables, columns)), raw=True)


def _written(logs: dict[str, Path | str]) -> dict[str, str]:
    """The text of the logs on disk, without a last line that is still being written."""
    paths = {name: given_path(path) for name, path in logs.items()}
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}
    return {name: whole for name, text in texts.items() if (whole := text.rpartition("\n")[0])}


@styled()
def gate_histogram(logits: dict[str, Tensor]) -> Figure:
    """The gate's logits, a panel for each kind of picture; right of 0 it takes a picture for partial."""
    figure, axes = _panels(len(logits), 2.1, sharex=True, sharey=True)
    for colour, one, (name, values) in zip(PALETTE, axes, logits.items(), strict=False):
        values = values.cpu().numpy().clip(-12, 12)
        weights = np.full(len(values), 100 / len(values))
        one.hist(values, np.linspace(-12, 12, 33), weights=weights, color=colour, edgecolor="white", lw=0.3)
        one.axvline(0, color="black", lw=1, ls="--")
        one.set_title(f"{name}\ntaken for partial: {100 * np.mean(values > 0):.0f} %", fontsize=8)
        one.set_xlabel(f"gate's logit, n = {len(values)}")
    axes[0].set_ylabel("pictures, %")
    return figure


@styled()
def method_curves(panels: dict[str, dict[str, tuple]], x: str, y: str, scale: str = "linear") -> Figure:
    """CMC or ROC curves: a panel for each set, a line for each method from x `(T,)` and y in 0..1.

    y is `(T,)`, or `(T, 3)` with the ends of the 95 % interval.
    """
    figure, axes = _panels(len(panels), 2.9, sharey=True)
    for one, (name, methods) in zip(axes, panels.items(), strict=True):
        for method, (at, values) in methods.items():
            band, look = 100 * values.reshape(len(at), -1), _look(method)
            one.plot(at, band[:, 0], markevery=0.2, **look)
            low, high = band[:, 1 if band.shape[1] == 3 else 0], band[:, -1]  # the values where there is no interval
            one.fill_between(at, low, high, color=look["color"], alpha=0.12, lw=0)
        one.set(title=name, xlabel=x, xscale=scale)
        if scale == "linear":
            one.locator_params(axis="x", integer=True)
    axes[0].set_ylabel(y)
    _legend(figure, axes)
    return figure


@styled()
def by_subset(
    table: pandas.DataFrame, subsets: list[str], label: str, methods: list[str], joined: bool, value: str = "rank-1, %"
) -> Figure:
    """A metric of methods on subsets of the queries, 95 % intervals, a panel for each set; rows as in results.csv.

    n: the queries (of regions: pairs of one person) behind each point.
    """
    table = table[table.subset.isin(subsets)]
    figure, axes = _panels(table.dataset.nunique(), 2.9, sharey=True)
    for one, (name, rows) in zip(axes, table.groupby("dataset", sort=False), strict=True):
        there = [subset for subset in subsets if subset in set(rows.subset)]
        rows = rows[rows.method.isin(methods)]
        counts = rows.groupby("subset").n_query.max().reindex(there, fill_value=0)
        for i, method in enumerate(methods):
            points = rows[rows.method == method].groupby("subset")[["value", "low", "high"]].mean().reindex(there) * 100
            spread = np.clip([points.value - points.low, points.high - points.value], 0, None)
            x = np.arange(len(there)) + 0.14 * (i - (len(methods) - 1) / 2)
            look = _look(method, None if joined else "none")
            one.errorbar(x, points.value, spread, capsize=2, elinewidth=1, **look)
        alike = f", n = {counts.iloc[0]}" if counts.nunique() == 1 else ""
        seeds = f", mean of {rows.seed.nunique()} seeds" if rows.seed.nunique() > 1 else ""
        one.set(title=name + alike + seeds, xlabel=label, xlim=(-0.6, len(there) - 0.4))
        one.set_xticks(range(len(there)), there if alike else [f"{one}\nn = {counts[one]}" for one in there])
    axes[0].set_ylabel(value)
    _legend(figure, axes)
    return figure


@styled()
def forest(table: pandas.DataFrame, label: str, zero: bool = True) -> Figure:
    """A point and its 95 % interval for each row, in figures beside it: a panel for each set; hollow where it spans 0.

    table: index (set, row), columns value, low, high; `seeds`, if there, are counted behind the figures. Without
    `zero`, values are no differences.
    """
    panels = {name: rows.droplevel(0) for name, rows in table.groupby(level=0, sort=False)}
    names = list(dict.fromkeys(table.index.get_level_values(1)))
    figure, axes = _panels(len(panels), 0.9 + 0.19 * len(names), sharey=True)
    for one, (title, rows) in zip(axes, panels.items(), strict=True):
        for y, row in ((names.index(name), row) for name, row in rows.iterrows()):
            spans = zero and not (row.low > 0 or row.high < 0)
            one.plot([row.low, row.high], [y, y], color=PALETTE[0], lw=1.4, ls=":" if spans else "-")
            one.plot(row.value, y, "o", ms=5, color=PALETTE[0], mfc="white" if spans else PALETTE[0])
            seeds = f" ({row.seeds:.0f})" if "seeds" in row else ""
            text = f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]{seeds}"
            one.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
        one.set(title=title, xlabel=label, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        one.grid(axis="y", visible=False)
        if zero:
            one.axvline(0, color="black", lw=1)
    return figure


@styled()
def speed(entries: dict[str, dict]) -> Figure:
    """Recorded benchmarks by machine: speed against the reference, and a query's time by the size of the gallery."""
    tables = {name: pandas.DataFrame(entry["items"]).set_index("name") for name, entry in entries.items()}
    ratios = pandas.DataFrame({name: table.ratio.astype(float) for name, table in tables.items()}).dropna(how="all")
    figure, (bars, lines) = _panels(2, 1.6 + 0.16 * len(ratios) * len(entries))
    ratios.plot.barh(ax=bars, width=0.8, legend=False, color=PALETTE, logx=True, xlabel="speed, times the reference")
    for i, table in enumerate(tables.values()):
        bars.bar_label(bars.containers[i], fmt="%.3g", padding=2, fontsize=7)
        for bar in bars.containers[i]:
            bar.set_hatch("/" * (i % 3))
        look = {"color": PALETTE[i % 10], "ls": STROKES[i % 4], "marker": MARKERS[i % 10]}
        steps = table.value[table.index.str.startswith("global step, ")]
        lines.plot([int(step.rpartition(" ")[2]) for step in steps.index], steps, **look)
        for part in table.value[table.index == "part step"]:
            lines.axhline(part, color=look["color"], lw=1, ls=":")
    bars.invert_yaxis()
    bars.axvline(1, color="black", lw=1, ls="--")
    bars.margins(x=0.2)
    bars.set_ylabel("")
    bars.grid(axis="y", visible=False)
    lines.set(xscale="log", yscale="log", xlabel="gallery pictures", ylabel="time of a query, s")
    lines.set_title("global step; dotted: part step")
    _legend(figure, [bars])
    return figure
