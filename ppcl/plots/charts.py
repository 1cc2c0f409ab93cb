"""Numbers -> matplotlib Figures: curves, histograms, bars with their intervals (`plots` shows these, too).

Colour never speaks alone: lines differ in stroke and marker.
"""

import numpy as np
import pandas
import seaborn
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from ..recipes.methods import ABLATIONS, METHODS

PALETTE = seaborn.color_palette("colorblind")
INK = [*PALETTE[:6], (0.2, 0.2, 0.2), PALETTE[7], (0.5, 0.45, 0.0), PALETTE[9]]  # its pink and yellow, dark for lines
LOOKS = (0, 6, 2, 8, 4, 3, 1, 5, 9, 7)  # of INK, for METHODS from the last to the first: pale ones for derived rows
STROKES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX<>*"


def _look(name: str, joined: bool = True) -> dict:
    """The same colour, stroke and marker for a method in every figure."""
    order = [*reversed([method for method in METHODS if method not in ABLATIONS]), *ABLATIONS]
    i = order.index(name) if name in METHODS else sum(map(ord, name))
    stroke = STROKES[i % 4] if joined else "none"
    return {"label": name, "color": INK[LOOKS[i % 10]], "ls": stroke, "marker": MARKERS[i % 10], "markersize": 4}


def _charts(count: int, width: float, height: float, **how) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * count + 0.4, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, **how)[0]


def _shared_legend(figure: Figure, axes) -> None:
    known = {text: line for one in axes for line, text in zip(*one.get_legend_handles_labels(), strict=True)}
    columns = min(len(known), max(1, int(figure.get_figwidth() / 1.5)))
    figure.legend(known.values(), known, loc="outside lower center", ncols=columns, frameon=False)


def curves(logs: dict[str, pandas.DataFrame], columns: dict[str, str]) -> Figure:
    """Training curves against steps: a panel for each column (name -> label), a line for each log that has it."""
    figure, axes = _charts(len(columns), min(2.2, 6.8 / len(columns)), 2.0 + 0.3 * (len(logs) > 1))
    for one, (column, label) in zip(axes, columns.items(), strict=True):
        for name, log in logs.items():
            if column in log:
                kept = log[["step", column]].dropna()
                alone = {"marker": "", "label": None, "color": PALETTE[0], "ls": "-"}
                look = _look(name) | ({} if len(logs) > 1 else alone)
                one.plot(kept.step, kept[column], color=look["color"], alpha=0.25, lw=0.8)
                one.plot(kept.step, kept[column].rolling(5, 1, center=True).mean(), markevery=0.2, **look)
        one.set(title=label, xlabel="step")
    if len(logs) > 1:
        _shared_legend(figure, axes)
    return figure


def gate_histogram(logits: dict[str, Tensor]) -> Figure:
    """How sure the gate is, a panel for each kind of picture; right of 0 it takes a picture for partial."""
    figure, axes = _charts(len(logits), min(2.0, 6.8 / len(logits)), 2.0, sharex=True, sharey=True)
    for colour, one, (name, values) in zip(PALETTE, axes, logits.items(), strict=False):
        values = values.cpu().numpy().clip(-12, 12)
        weights = np.full(len(values), 100 / len(values))
        one.hist(values, np.linspace(-12, 12, 33), weights=weights, color=colour, edgecolor="white", lw=0.3)
        one.axvline(0, color="black", lw=1, ls="--")
        right = f"taken for partial: {100 * np.mean(values > 0):.0f} %"
        one.set_title(f"{name}\n{right}", fontsize=8)
        one.set_xlabel(f"gate's logit, n = {len(values)}")
    axes[0].set_ylabel("pictures, %")
    return figure


def cmc(bands: dict[str, dict[str, np.ndarray]]) -> Figure:
    """CMC curves: a panel for each set, a line for each method from `(K, 3)`: rank-k and its 95 % interval, 0..1."""
    figure, axes = _charts(len(bands), 3.3, 3.0, sharey=True)
    for one, (name, methods) in zip(axes, bands.items(), strict=True):
        for method, band in methods.items():
            k = np.arange(1, len(band) + 1)
            one.plot(k, 100 * band[:, 0], markevery=max(1, len(k) // 5), **_look(method))
            one.fill_between(k, 100 * band[:, 1], 100 * band[:, 2], color=_look(method)["color"], alpha=0.12, lw=0)
            one.set(title=name, xlabel="rank k", xlim=(0.5, len(k) + 0.5), xticks=[1, *range(5, len(k) + 1, 5)])
    axes[0].set_ylabel("queries found up to rank k, %")
    axes[-1].legend(loc="lower right")
    return figure


def _interval(table: pandas.DataFrame, key: str, order: list[str]) -> tuple[pandas.DataFrame, np.ndarray]:
    """Per cent by `key` in this order, mean over seeds, and what an error bar reaches below and above it."""
    rows = 100 * table.groupby(key)[["value", "low", "high"]].mean().reindex(order)
    return rows, np.clip([rows.value - rows.low, rows.high - rows.value], 0, None)


def _seeds(rows: pandas.DataFrame) -> str:
    return f", mean of {rows.seed.nunique()} seeds" if rows.seed.nunique() > 1 else ""


def roc(panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """ROC curves, false accept rate on a log scale: a panel for each set, a line for each method: far, tar `(T,)`."""
    figure, axes = _charts(len(panels), 3.3, 3.0)
    for one, (name, methods) in zip(axes, panels.items(), strict=True):
        for method, (far, tar) in methods.items():
            seen = far > 0
            one.step(far[seen], 100 * tar[seen], where="post", markevery=0.2, **_look(method))
        one.set(title=name, xlabel="false accept rate", xscale="log", ylabel="true accept rate, %")
        one.legend(loc="lower right")
    return figure


def by_subset(
    table: pandas.DataFrame, subsets: list[str], label: str, methods: list[str], joined: bool, value: str = "rank-1, %"
) -> Figure:
    """A metric of methods on subsets of the queries, 95 % intervals, a panel for each set; rows as in results.csv.

    n: the queries (of regions: pairs of one person) behind each point.
    """
    table = table[table.subset.isin(subsets)]
    figure, axes = _charts(table.dataset.nunique(), 3.3, 2.8, sharey=True)
    for one, (name, rows) in zip(axes, table.groupby("dataset", sort=False), strict=True):
        there = [subset for subset in subsets if subset in set(rows.subset)]
        rows = rows[rows.method.isin(methods)]
        counts = rows.groupby("subset").n_query.max().reindex(there, fill_value=0)
        names, alike = [f"{subset}\nn = {counts[subset]}" for subset in there], counts.nunique() == 1
        for i, method in enumerate(methods):
            values, spread = _interval(rows[rows.method == method], "subset", there)
            x = np.arange(len(there)) + 0.14 * (i - (len(methods) - 1) / 2)
            one.errorbar(x, values.value, spread, capsize=2, elinewidth=1, **_look(method, joined))
        one.set(title=f"{name}, n = {counts.iloc[0]}{_seeds(rows)}" if alike else f"{name}{_seeds(rows)}", xlabel=label)
        one.set(xlim=(-0.6, len(there) - 0.4), xticks=range(len(there)), xticklabels=there if alike else names)
    axes[0].set_ylabel(value)
    _shared_legend(figure, axes)
    return figure


def comparison(table: pandas.DataFrame, label: str) -> Figure:
    """Methods beside one another: bars with 95 % intervals, a panel for each set, n queries; rows as in results.csv."""
    sets, methods = list(dict.fromkeys(table.dataset)), list(dict.fromkeys(table.method))
    figure, axes = _charts(len(sets), 3.5, 0.26 * len(methods) + 0.8, sharey=True)
    for one, name in zip(axes, sets, strict=True):
        rows, spread = _interval(table[table.dataset == name], "method", methods)
        colours = [PALETTE[0] if method == "ppcl" else PALETTE[7] for method in methods]
        one.barh(methods, rows.value, xerr=spread, color=colours, alpha=0.85, error_kw={"elinewidth": 1, "capsize": 2})
        for y, (value, high) in enumerate(zip(rows.value, rows.high, strict=True)):
            at = (max(value, high), y)
            one.annotate(f"{value:.1f}", at, (4, 0), textcoords="offset points", va="center", fontsize=8)
        counted = table[table.dataset == name]
        one.set(title=f"{name}, n = {counted.n_query.max()}{_seeds(counted)}", xlabel=label)
        one.grid(axis="y", visible=False)
        one.margins(x=0.2)
    axes[0].invert_yaxis()
    return figure


def speed(entries: dict[str, dict]) -> Figure:
    """Recorded benchmarks: how many times the reference, and the share of the bound; a bar for each machine's run."""
    tables = {name: pandas.DataFrame(entry["items"]).set_index("name") for name, entry in entries.items()}
    columns = {"ratio": (1, "speed, times the reference"), "share_of_bound": (100, "speed, % of the machine's bound")}
    whole = pandas.concat({name: table[list(columns)] for name, table in tables.items()}, axis=1).astype(float)
    whole = whole.dropna(how="all")
    figure, axes = _charts(2, 3.5, 0.8 + 0.26 * len(whole), sharey=True)
    for one, (column, (scale, label)) in zip(axes, columns.items(), strict=True):
        rows = scale * whole.xs(column, axis=1, level=1)
        for i, name in enumerate(rows):
            y = np.arange(len(rows)) + 0.8 * (i + 0.5) / len(rows.columns) - 0.4
            one.barh(y, rows[name], 0.75 / len(rows.columns), color=PALETTE[i % 10], label=name, hatch="/" * (i % 3))
            for at, value in zip(y, rows[name], strict=True):
                if np.isfinite(value):
                    text = f"{value:.3g}"
                    shown = one.annotate(text, (value, at), (3, 0), textcoords="offset points", va="center", fontsize=8)
                    shown.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        one.set(yticks=range(len(rows)), yticklabels=rows.index, xlabel=label)
        one.grid(axis="y", visible=False)
        one.margins(x=0.2)
    axes[0].invert_yaxis()
    axes[0].axvline(1, color="black", lw=1, ls="--")
    axes[0].set_xscale("log")
    _shared_legend(figure, axes)
    return figure


def gallery_cost(entries: dict[str, dict]) -> Figure:
    """What a larger gallery costs: seconds a query of the global and of the part step, and what has to be kept."""
    figure, axes = _charts(2, 3.3, 2.6)
    for i, (machine, entry) in enumerate(entries.items()):  # in `speed`'s colours
        found = {row["name"]: row["value"] for row in entry["items"]}
        look = {"label": machine, "color": PALETTE[i % 10], "ls": STROKES[i % 4], "marker": MARKERS[i % 10]}
        for one, stem in zip(axes, ("global step", "features"), strict=True):
            points = [(int(k.rpartition(", ")[2]), v) for k, v in found.items() if k.startswith(f"{stem}, ")]
            if points:
                one.plot(*zip(*points, strict=True), **look)
        if "part step" in found:
            axes[0].axhline(found["part step"], color=look["color"], lw=1, ls=":")
    axes[0].set(title="a query: global step, and (dotted) part step", ylabel="time, s", xlabel="gallery pictures")
    axes[1].set(title="features that are kept", ylabel="size, GiB", xlabel="gallery pictures")
    for one in axes:
        one.set(xscale="log", yscale="log")
    _shared_legend(figure, axes)
    return figure
