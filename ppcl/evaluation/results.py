"""The result table: one number a row, with its interval and where it comes from."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas

from ..data.sets import sets_of
from ..disk import locks
from ..disk.files import given_path, write_text
from ..recipes import METHODS, TASKS, trained_by

COLUMNS = (
    "task,dataset,protocol,subset,method,stage,metric,value,low,high,n_query,n_gallery,seed,profile,synthetic,commit"
).split(",")
TYPES = dict.fromkeys(COLUMNS, str) | dict.fromkeys(["value", "low", "high"], float)
TYPES |= dict.fromkeys(["n_query", "n_gallery", "seed"], int) | {"synthetic": bool}
FIGURES = Path(__file__).parents[2] / "figures"  # the committed run's table, `results.csv`, lies there
ABLATIONS = "ablations.csv"  # in figures/: the whole ablation table, over seeds
PUBLISHED = FIGURES / "published.csv"  # others' numbers with their sources, never in one table with ours
DRAWINGS = "drawings.csv"  # in figures/: rows on people of several draws, whose number stands in the column of seeds
README_ROWS = ("backbone", "backbone+crops+pad", "+glrec@7", "same-location", "no-crloc", "ppcl")
SHOWN = ("rank-1", "rank-3", "rank-5", "mAP")  # columns of a wide table, unless others are asked for
KEY = ["task", "dataset", "protocol", "subset", "method", "stage", "metric", "seed", "profile", "synthetic"]


@cache
def commit() -> str:
    """The project's commit, with `-dirty` where the library differs from it; `unknown` where git does not say."""
    here = Path(__file__).parents[1]
    if not (here.parent / ".git").exists():  # installed, perhaps inside somebody's own repository
        return "unknown"
    how = {"capture_output": True, "text": True, "check": True, "cwd": here}
    try:
        number = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **how).stdout.strip()
        return number + "-dirty" * bool(subprocess.run(["git", "status", "--porcelain", "--", "."], **how).stdout)
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[0]
        print(f"git does not read {here.parent} ({why}): the results' commit is unknown", file=sys.stderr)
        return "unknown"


def read(run: Path | str, name: str = "results.csv") -> pandas.DataFrame:
    """A run's table; without rows where nothing was evaluated yet. Raises ValueError if it is damaged."""
    path = given_path(run) / name
    if not path.is_file():
        return pandas.DataFrame(columns=COLUMNS)
    try:
        table = pandas.read_csv(path, dtype=TYPES)
    except ValueError as error:  # empty, no table, no text
        why = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({why}): delete it and evaluate again") from None
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{path} is no table of results (no column {missing[0]}): delete it and evaluate again")
    if len(torn := table[table[KEY].isna().any(axis=1)]):
        raise ValueError(f"{path} is damaged (line {torn.index[0] + 2} is torn): delete it and evaluate again")
    return table


def row(facts: dict, metric: str, interval, n_query: int, n_gallery: int, subset: str = "all") -> dict:
    """A line of the table: the columns in `facts`, a metric's (value, low, high), and the number of pictures."""
    value, low, high = interval
    found = {"subset": subset, "metric": metric, "value": value, "low": low, "high": high}
    return facts | found | {"n_query": n_query, "n_gallery": n_gallery}


def add(
    run: Path | str, rows: list[dict], pictures: str = "", weights: dict[str, str] | None = None
) -> pandas.DataFrame:
    """Write rows of one set into a run's table, in place of those with the same key. -> the whole table.

    `pictures`: the fingerprint of the set's pictures; `weights`: `checkpoints.weights` of each trained row. Rows of the
    same set that were measured on other pictures, or with other weights of one of these, are removed, which one line
    reports.
    """
    fresh = pandas.DataFrame(rows, columns=COLUMNS)
    with locks.merging(run):
        table, path = read(run), given_path(run) / "results.csv"
        if pictures:
            task, dataset, drawn, seed = fresh.loc[0, ["task", "dataset", "synthetic", "seed"]]
            note = _note(run, task, dataset, drawn)
            before, known = _facts(note)
            mine = {f"{row} {seed}": one for row, one in (weights or {}).items()}
            changed = {key.rpartition(" ")[0] for key, one in mine.items() if known.get(key, one) != one}
            old = (table.task == task) & (table.dataset == dataset) & (table.synthetic == drawn)
            if before == pictures:
                names = zip(table.method, table.metric.str.rpartition(" over ")[2], strict=True) if len(table) else ()
                used = [{name.removesuffix("+rerank") for name in both} & {*METHODS} for both in names]
                stale = [any(trained_by(name) in changed for name in some) for some in used]
                old &= (table.seed == seed) & np.array(stale, bool)
            if old.any():
                table, what = table[~old], "with other weights" if before == pictures else "on other pictures"
                print(f"{path}: {old.sum()} rows of {dataset} are removed: they were measured {what}")
            known = (known if before == pictures else {}) | mine
        table = pandas.concat([table, fresh]) if len(table) else fresh
        table = table.drop_duplicates(KEY, keep="last").reset_index(drop=True)
        write_text(path, as_csv(table))
        if pictures:
            write_text(note, "".join(f"{line}\n" for line in (pictures, *map(" ".join, sorted(known.items())))))
    return table


def measured_on(run: Path | str, task: str, dataset: str) -> set[str]:
    """Fingerprints of the pictures, drawn ones and photographs, that the table's rows of a set were measured on."""
    return {_facts(_note(run, task, dataset, drawn))[0] for drawn in (True, False)} - {""}


def _note(run: Path | str, task: str, dataset: str, drawn: bool) -> Path:
    return given_path(run) / task / f"{dataset}.{'drawn' if drawn else 'photographs'}.txt"


def _facts(note: Path) -> tuple[str, dict[str, str]]:
    """The fingerprint of the pictures that a set's rows were measured on, and the weights of "row seed"."""
    first, *lines = note.read_text(encoding="utf-8").splitlines() if note.is_file() else [""]
    return first, dict(line.rsplit(" ", 1) for line in lines)


def as_csv(table: pandas.DataFrame) -> str:
    """A table as its file holds it."""
    return table.to_csv(index=False, float_format="%.6f")


def wide(table: pandas.DataFrame, dataset: str, protocol: str, metrics=SHOWN, subset: str = "all") -> pandas.DataFrame:
    """One line a method, one column a measured metric, each `value [low, high]` in per cent, mean over seeds."""
    chosen = table[(table.dataset == dataset) & (table.protocol == protocol) & (table.subset == subset)]
    chosen = chosen[chosen.metric.isin(metrics)]
    if chosen.synthetic.nunique() > 1:
        raise ValueError(f"{dataset}: drawn pictures and photographs do not go into one table; choose by `synthetic`")
    order = list(dict.fromkeys(chosen.method))
    mean = chosen.groupby(["method", "metric"], sort=False)[["value", "low", "high"]].mean() * 100
    text = mean.apply(lambda row: f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]", axis=1)
    return text.unstack("metric").reindex(index=order, columns=list(metrics)).dropna(axis=1, how="all")


def differences(table: pandas.DataFrame, protocol: str = "single-shot", metric: str = "rank-1") -> pandas.DataFrame:
    """Points by which `ppcl` lies above each other row on the same queries: set, row -> value, low, high, seeds.

    Per cent, with the 95 % interval of a paired bootstrap over people. Of several trainings (seeds) the differences are
    pooled: a resampled person brings the queries of all trainings (subset `pooled`). This is the interval of repeated
    trainings on one set of people; `over_draws` is that of independent sets of people.
    """
    rows = table[
        (table.protocol == protocol) & (table.method == "ppcl") & table.metric.str.startswith(f"{metric} over ")
    ]
    rows = rows.assign(method=rows.metric.str.removeprefix(f"{metric} over "))
    groups = rows[rows.subset == "all"].groupby(["dataset", "method"], sort=False)
    pooled = rows[rows.subset == "pooled"].sort_values("seed").groupby(["dataset", "method"]).last()
    found = 100 * groups[["value", "low", "high"]].first()[groups.seed.nunique() == 1]
    found = pandas.concat([found, 100 * pooled[["value", "low", "high"]]])
    return found[~found.index.duplicated(keep="last")].assign(seeds=groups.seed.nunique()).reindex(groups.groups)


def over_draws(
    table: pandas.DataFrame, protocol: str = "single-shot", metric: str = "rank-1", row: str = "ppcl"
) -> pandas.DataFrame:
    """Points by which `row` lies above each other row, over several draws: set, row -> value, low, high, seeds, holm.

    Mean over the draws (seeds) and its 95 % t-interval, per cent. Draws are independent, so their spread covers all
    that differs between them: people, queries and training. A single draw has NaN as its interval. `holm`: p-value of
    the t-test, adjusted over this table by Holm; NaN for rows with fewer draws than others, which are exploratory.
    """
    from scipy.special import stdtr, stdtrit  # slow to import

    rows = table[(table.protocol == protocol) & (table.subset == "all") & (table.metric == metric)]
    reached = 100 * rows.pivot(index=["dataset", "seed"], columns="method", values="value")
    gains = -reached.drop(columns=row).sub(reached[row], axis=0)
    others = [name for name in [*METHODS, *sorted({*gains} - {*METHODS})] if name in gains]
    others = [name for name in others if name not in METHODS or not METHODS[name].oracle]  # no row competes with these
    groups = gains[others].stack().groupby(["dataset", "method"], sort=False)
    mean, count = groups.mean(), groups.count()
    error = groups.std() / count**0.5
    margin, p = error * stdtrit(count - 1, 0.975), 2 * stdtr(count - 1, -(mean / error).abs())
    found = {"value": mean, "low": mean - margin, "high": mean + margin, "seeds": count}
    return pandas.DataFrame(found | {"holm": holm(p.where(count == count.max()))})


def holm(p: pandas.Series) -> pandas.Series:
    """Holm's adjusted p-values of one family of tests; NaN stays NaN and does not count."""
    known = p.dropna().sort_values()
    return (known * np.arange(len(known), 0, -1)).cummax().clip(upper=1).reindex(p.index)


def summary(table: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    """Results in short, per cent with intervals: a table for each task, drawn pictures and photographs apart.

    The columns are the metrics that the sets' records name, partial sets first.
    """
    found, oracles = {}, {name for name, one in METHODS.items() if one.oracle}
    for task in TASKS:
        for drawn, rows in table[table.task == task].groupby("synthetic"):
            parts = []
            for one in (one for one in sorted(sets_of(task), key=lambda one: not one.partial) if one.summary):
                shown = wide(rows, one.name, one.first_protocol, one.summary)
                parts.append(shown.rename(columns=lambda metric, name=one.name: f"{name} {metric}"))
            shown = pandas.concat(parts, axis=1).dropna(axis=1, how="all").fillna("").rename_axis(columns=None)
            shown = shown.loc[[name for name in shown.index if name.removesuffix("+rerank") not in oracles]]
            if len(shown):
                found[f"{task}, {'drawn pictures' if drawn else 'photographs'}"] = shown
    return found


def verdict(table: pandas.DataFrame, task: str, committed: Path | str = FIGURES) -> pandas.DataFrame:
    """Compare a demo run with the committed one: `inside` where a value lies in the committed run's 95 % interval.

    One line a row, one column a metric (single-shot rank-1 and mAP, LFW's accuracy), on all queries of drawn pictures,
    means over a run's seeds. A coarse check: both runs have the same queries, and only their training differs.
    """
    key, sides = ["method", "dataset", "metric"], []
    for one in (table, read(committed)):
        wanted = (one.task == task) & (one.profile == "demo") & one.synthetic.astype(bool) & (one.subset == "all")
        wanted &= one.protocol.isin(["single-shot", "verification"]) & one.metric.isin(["rank-1", "mAP", "accuracy"])
        sides.append(100 * one[wanted].groupby(key, sort=False)[["value", "low", "high"]].mean())
    both = sides[0][["value"]].join(sides[1][["low", "high"]], how="inner").reset_index()
    outside = both.apply(lambda x: f"{x.value:.1f}, not in [{x.low:.1f}, {x.high:.1f}]", axis=1)
    both["text"] = outside.where(~both.value.between(both.low, both.high), "inside") if len(both) else ""
    both["metric"] = both.dataset + " " + both.metric
    text = both.pivot(index="method", columns="metric", values="text").fillna("")
    return text.reindex(index=both.method.unique(), columns=both.metric.unique()).rename_axis(columns=None)


def markdown(table: pandas.DataFrame) -> str:
    """README's table: six rows on drawn people, per cent with intervals."""
    shown = summary(table).get("person, drawn pictures", pandas.DataFrame())
    shown = shown.loc[[name for name in README_ROWS if name in shown.index]]
    lines = ["| | " + " | ".join(shown.columns) + " |", "|---" * (1 + len(shown.columns)) + "|"]
    return "\n".join(lines + [f"| `{method}` | " + " | ".join(cells) + " |" for method, *cells in shown.itertuples()])
