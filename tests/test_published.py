"""What is committed: tables with their intervals, drawn pictures apart from published numbers."""

import re
from pathlib import Path

import nbformat
import pandas
import pytest
import safetensors
import torch

import ppcl
from ppcl import evaluation, recipes
from ppcl.__main__ import main
from ppcl.data import fingerprint
from ppcl.evaluation import results
from ppcl.recipes import METHODS
from ppcl.runs import reproduce

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = re.findall(r"(?:^\|.*\n)+", README, re.M)
PUBLISHED = pandas.read_csv(results.PUBLISHED).method
OTHERS = [name.split(" (")[0].split(",")[0] for name in PUBLISHED if not name.startswith("PPCL")]
CONTROLS, ORACLE = "controls.csv", "ppcl@true-region"
NOTEBOOKS = sorted(reproduce.NOTEBOOKS.glob("[0-9]*.ipynb"))


def shared(text: str) -> bool:
    """Whether one table speaks of our rows and of a published method."""
    ours = [name for name in METHODS if name.startswith(("backbone", "+", "ppcl"))]
    theirs = any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in OTHERS)
    return theirs and any(re.search(rf"(?<![\w+@-]){re.escape(name)}(?![\w+@-])", text) for name in ours)


def test_the_check_finds_a_shared_table():
    assert shared("| HOReID | 85.3 |\n| `ppcl` | 64.0 |") and not shared("| `ppcl` | 64.0 |")
    assert not shared("| HOReID | 85.3 |\n| DSR | 50.7 |")


def test_no_table_of_the_readme_shares_drawn_and_published_numbers():
    assert len(TABLES) == 3 and not any(map(shared, TABLES))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_of_a_notebook_shares_drawn_and_published_numbers(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + "".join(output.get("data", {}).get("text/plain", ""))
            assert not shared(text), text[:200]


@pytest.mark.parametrize("name", ["results.csv", results.ABLATIONS, results.DRAWINGS, CONTROLS])
def test_every_committed_number_has_its_interval(name):
    table = results.read(ROOT / "figures", name)
    assert len(table) > 100 and table[["value", "low", "high"]].notna().all(axis=None)
    assert ((table.low <= table.value + 1e-6) & (table.value <= table.high + 1e-6)).all()
    assert table.synthetic.all() and (table.n_query > 0).all()


def test_the_photographs_table_holds_what_readme_and_notebook_say():
    """Photographs have a table of their own, and never share one with drawings."""
    table = results.read(ROOT / "figures", "photographs.csv")
    assert not table.synthetic.any() and table[["value", "low", "high"]].notna().all(axis=None)
    assert ((table.low <= table.value + 1e-6) & (table.value <= table.high + 1e-6)).all()
    chosen = table[(table.dataset == "partial-cuhk03") & (table.metric == "rank-1") & (table.subset == "all")]
    chosen = 100 * chosen[chosen.protocol == "single-shot"].set_index("method")[["value", "low", "high"]]
    text = " ".join(README.split())
    found = re.search(r"rank-1 is ([\d.]+) % for `ppcl`, ([\d.]+) % for the padded baseline and ([\d.]+) % for a", text)
    rows = ["ppcl, 192 x 96, mixed", "backbone+crops+pad, 192 x 96, mixed", "stock network, stretched"]
    assert found and [*found.groups()] == [f"{value:.1f}" for value in chosen.value[rows]]
    cells = nbformat.read(reproduce.NOTEBOOKS / "06_ablations.ipynb", as_version=4).cells
    told_there = next(cell.source for cell in cells if cell.source.startswith("## Photographs: CUHK03"))
    assert all(told(chosen.loc[row]) in told_there for row in (*rows, "stage-2", "trained-same-location", "ppcl"))
    faces = table[(table.dataset == "partial-lfw") & (table.metric == "rank-1") & (table.subset == "all")]
    faces = 100 * faces[faces.protocol == "single-shot"].set_index("method")[["value", "low", "high"]]
    told_there = next(cell.source for cell in cells if cell.source.startswith("## Photographs: LFW"))
    assert all(told(row) in told_there for _, row in faces.iterrows()) and len(faces) >= 4
    pairs = table[(table.dataset == "lfw") & (table.metric == "accuracy")].set_index("method")
    assert f"{100 * pairs.value['ppcl']:.1f} % of their pairs" in text


def told(value) -> str:
    return f"{value.value:.1f} [{value.low:.1f}, {value.high:.1f}]"


def committed(name: str):
    return results.read(ROOT / "figures", name)


def test_the_readmes_decomposition_is_what_the_committed_draws_say():
    table = next(table for table in TABLES if "step" in table)
    steps = re.findall(r"^\| `(.+)` → `(.+)` \|[^|]+\| (.+) \| (.+) \|$", table, re.M)
    assert len(steps) == 5 and [step[0] for step in steps[1:4]] == [step[1] for step in steps[:3]]
    for below, above, *shown in steps:
        gains = results.over_draws(committed(results.DRAWINGS), row=above)
        found = [gains.loc[name, below] for name in ("partial-reid", "partial-ilids")]
        assert shown == [*map(told, found)] and {one.seeds for one in found} == {6}, (below, above)


def test_every_number_with_an_interval_in_the_readmes_text_is_a_committed_one():
    drawn, trained, demo = committed(results.DRAWINGS), committed(results.ABLATIONS), committed("results.csv")
    sets = ("partial-reid", "partial-ilids")
    triplet = results.over_draws(drawn, row="no-contrast")
    truer = results.over_draws(drawn, "truth", "crloc-IoU")
    faces = results.over_draws(trained[trained.task == "face"]).loc["partial-lfw"]
    whole = demo[(demo.protocol == "input-ratio") & (demo.subset == "1.0") & (demo.metric == "rank-1")]
    whole = 100 * whole.set_index("method")[["value", "low", "high"]]
    controls = committed(CONTROLS)
    above = {protocol: results.over_draws(controls, protocol) for protocol in ("single-shot", "standard")}
    same = pandas.concat(one.xs("trained-same-location", level="method") for one in above.values())
    padded = pandas.concat(one.xs("backbone+crops+pad", level="method") for one in above.values())
    assert {*same.seeds, *padded.seeds} == {6} and README.count("(six draws): the gain") == 1
    true = results.over_draws(controls, row=ORACLE).xs("ppcl", level="method")
    assert {true.seeds[name] for name in sets} == {4} and README.count("(four draws)") == 1
    of_faces = (demo.dataset == "partial-lfw") & (demo.protocol == "single-shot") & (demo.subset == "all")
    located = demo[of_faces & (demo.metric == "rank-1 over no-crloc")].iloc[0]
    photographs = committed("photographs.csv")
    photographs = photographs[(photographs.protocol == "single-shot") & (photographs.subset == "all")]
    photographs = photographs.set_index(["dataset", "method", "metric"])[["value", "low", "high"]].sort_index()
    expected = [
        told(results.over_draws(drawn, metric="mAP").loc["partial-ilids", "no-crloc"]),
        *(told(same.loc[name]) for name in (*sets, "market1501", "occluded-reid")),
        *(told(true.loc[name]) for name in sets),
        *(told(triplet.loc[name, "+crloc"]) for name in sets),
        *(told(truer.loc[name, "no-cycle"]) for name in sets),
        *(told(padded.loc[name]) for name in ("market1501", "occluded-reid")),
        *(told(whole.loc[name]) for name in ("backbone", "backbone+crops+pad", "ppcl")),
        *(told(faces.loc[name]) for name in ("backbone+crops+pad", "same-location", "no-stripes")),
        told(100 * located[["value", "low", "high"]]),
        told(100 * photographs.loc["partial-cuhk03", "ppcl, 192 x 96, mixed", "rank-1 over trained-same-location"]),
        told(100 * photographs.loc["partial-lfw", "ppcl", "rank-1 over backbone+crops+pad"]),
    ]
    text = " ".join(re.sub(r"^\|.*\n", "", README, flags=re.M).split())
    assert re.findall(r"\d+\.\d \[-?\d+\.\d, \d+\.\d\]", text) == expected
    moved = results.over_draws(drawn, "truth", "crloc-IoU-where-it-moved")
    assert all(moved.loc[name, "no-cycle"].low < 0 < moved.loc[name, "no-cycle"].high for name in sets)
    beside = results.over_draws(drawn)
    assert all(beside.loc[name, "no-triplet"].low < 0 < beside.loc[name, "no-triplet"].high for name in sets)


def test_the_verdict_says_which_values_lie_in_the_committed_intervals():
    committed = results.read(results.FIGURES)
    compared = results.verdict(committed, "person")
    assert {*compared.columns} >= {"partial-reid rank-1", "partial-ilids mAP", "occluded-reid rank-1"}
    oracle = compared.loc[["oracle-placement"], ["occluded-reid rank-1", "occluded-reid mAP"]]
    assert (oracle == "").all(axis=None)  # nothing to place truly
    assert (compared != "inside").sum().sum() == oracle.size  # all others are
    moved = committed.assign(value=committed.value + 0.3 * (committed.method == "ppcl") * (committed.metric == "mAP"))
    compared = results.verdict(moved, "person")
    assert (compared != "inside").sum().sum() == oracle.size + 3
    assert ", not in [" in compared.loc["ppcl", "partial-reid mAP"]
    assert (compared["partial-reid rank-1"] == "inside").all()
    assert len(results.verdict(committed.assign(profile="tiny"), "person")) == 0
    assert len(results.verdict(committed.assign(synthetic=False), "person")) == 0


@pytest.mark.parametrize("task", recipes.TASKS)
def test_the_librarys_weights_rank_without_a_run(task, drawn, faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fingerprint, "SETTLED", -(10**12))  # the digests of pictures just drawn are kept, too
    path = evaluation.checkpoint(evaluation.BUNDLED, task, "ppcl")
    before = path.read_bytes()
    assert len(before) < 5e6
    with safetensors.safe_open(path, "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}
    assert kinds == {torch.float16, torch.int64}
    model = ppcl.load(task=task)
    assert model.recipe.profile == "demo" and {value.dtype for value in model.parameters()} == {torch.float32}
    query = sorted((drawn if task == "person" else faces).rglob("*.jpg"))[0]
    call = ["rank", "--task", task, "--query", query, "--gallery", query.parent, "--out", tmp_path, "--top", "1"]
    assert main([str(word) for word in call]) == 0
    assert pandas.read_csv(tmp_path / "ranking.csv").gallery.tolist() == [query.name]
    assert len(list((tmp_path / task / "galleries").iterdir())) == 2  # digests and features, kept outside the library
    assert {one.name for one in evaluation.BUNDLED.rglob("*") if one.is_file()} == {
        path.name
    } and path.read_bytes() == before
