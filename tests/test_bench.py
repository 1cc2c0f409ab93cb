"""The benchmarks' form, with tiny sizes. No timing is ever a failing test."""

import json
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch

from ppcl import bench, bench_data, bench_models, matching, metrics, plots, timing
from ppcl.__main__ import main
from ppcl.recipes import recipe

TINY = timing.Sizes(
    rounds=1, batch=4, pictures=6, size=(64, 32), bank=40, step_batch=8, architecture="small", queries=20, gallery=60,
    textbook=10, searched=5, asked=3, parts=16, channels=32, galleries=(50, 100), width=16, product=64, buffer=1 << 16,
    stage_steps=2,
)  # fmt: skip
QUICK = [item for item in (*bench_data.ITEMS, *bench_models.ITEMS) if item is not bench_data.imports]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A record of everything but the imports, which start a process each."""
    path = tmp_path_factory.mktemp("bench") / "benchmarks.json"
    return path, bench.bench(path, TINY, items=QUICK)


def test_every_item_is_a_plain_record(recorded):
    path, entry = recorded
    assert json.loads(path.read_text()) == {bench.machine(): entry}
    names = [row["name"] for row in entry["items"]]
    assert len(names) == len(set(names)) and {"training batches", "partial views", "CMC and mAP"} <= set(names)
    assert {"training step", "part to part", "part step", "global step, 100"} <= set(names)
    for row in entry["items"]:
        assert set(row) == set(timing.KEYS)
        assert row["value"] >= 0 and isinstance(row["unit"], str)
        assert row["spread"] is None or row["spread"][0] <= row["value"] * 1.001 <= row["spread"][1] * 1.002
        assert (row["ratio"] is None) == (row["reference"] is None) and (row["ratio"] or 1) > 0
        assert (row["share_of_bound"] is None) == (row["bound"] is None) and (row["share_of_bound"] or 1) > 0
    assert {"commit", "date", "versions", "device", "threads", "seconds"} <= set(entry)
    assert {"torch", "torchvision", "python"} <= set(entry["versions"])


def test_another_run_replaces_this_machines_entry_and_keeps_the_others(tmp_path):
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps({"elsewhere": {"items": []}, bench.machine(): {"items": ["old"]}}))
    bench.bench(path, TINY, items=[lambda sizes, device: [timing.fact("one", 1.0, "s")]])
    found = bench.read(path)
    assert list(found) == ["elsewhere", bench.machine()] and found["elsewhere"] == {"items": []}
    assert [row["name"] for row in found[bench.machine()]["items"]] == ["one"]
    assert bench.read(tmp_path / "nothing.json") == {}
    assert [file.name for file in tmp_path.iterdir()] == ["benchmarks.json"]


def test_calls_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    clock, order, costs = [0.0], [], {}

    def call(name):
        order.append(name)
        clock[0] += next(costs[name])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    reference, wall = ("the other", lambda: call("b"), 2), ("a wall", lambda: call("c"), 4)
    costs = {"a": iter([100, 1, 2, 9]), "b": iter([100, 6, 4, 8]), "c": iter([100, 0.2, 0.1, 0.4])}
    row = timing.item("x", "img/s", lambda: call("a"), 10, reference, wall, rounds=3)
    assert order == ["a", "b", "c"] * 4
    assert row["value"] == pytest.approx(10 / 2)  # of 1, 2 and 9 seconds the median
    assert row["spread"] == pytest.approx([10 / 9, 10])
    assert row["ratio"] == pytest.approx((6 / 2) / (2 / 10)) and row["share_of_bound"] == pytest.approx(5 / 20)
    costs = {"a": iter([100, 1, 2, 9]), "b": iter([100, 6, 4, 8])}
    row = timing.item("x", "s", lambda: call("a"), 10, reference, rounds=3)
    assert row["value"] == pytest.approx(0.2) and row["spread"] == pytest.approx([0.1, 0.9])
    assert row["ratio"] == pytest.approx(15) and row["bound"] is None


def test_the_textbook_evaluator_agrees(draw):
    rng = np.random.default_rng(0)
    ids, cameras = [rng.integers(9, size=n) for n in (30, 80)], [rng.integers(3, size=n) for n in (30, 80)]
    distances = rng.random((30, 80))
    ours = metrics.cmc_map(distances, *ids, *cameras).mAP
    assert bench_models.textbook(distances, *ids, *cameras) == pytest.approx(ours, abs=1e-9)


def test_the_stages_rates_and_the_whole_recipe_extrapolated():
    found = {row["name"]: row for row in bench_models.stages(TINY, "cpu", recipe("person", "tiny"))}
    assert list(found) == ["stage glrec", "stage backbone", "stage joint", "the whole recipe"]
    assert "EXTRAPOLATED" in found["the whole recipe"]["note"] and found["the whole recipe"]["unit"] == "min"
    for row in found.values():
        assert row["value"] > 0 and (row["unit"] == "min" or row["spread"][0] <= row["value"] <= row["spread"][1])


def test_importing_is_measured_in_fresh_processes(monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command[-1])
        return SimpleNamespace(stdout="3.0 0.2\n")

    monkeypatch.setattr(bench_data.subprocess, "run", run)
    monkeypatch.setattr(bench_data.importlib.util, "find_spec", lambda _: True)  # torchreid is there
    own, every = bench_data.imports(TINY, "cpu")
    assert (own["name"], every["name"]) == ("import ppcl", "import ppcl, every part")
    assert own["value"] == pytest.approx(0.2) and own["ratio"] == pytest.approx(1)
    assert "\nimport ppcl\n" in ran[0] and all("import torch, torchvision" in code for code in ran)
    for module in bench_data.PARTS.split(", "):
        assert (bench.reproduce.ROOT / f"ppcl/{module}.py").is_file()


def test_an_import_is_measured_apart_from_torchs():
    base, added = bench_data._import_seconds("import ppcl")
    assert base > 0 and added >= 0


def test_the_figures_show_every_machine(recorded):
    _, entry = recorded
    entries = {"one": entry, "another": entry}
    for figure in (plots.speed(entries), plots.gallery_cost(entries)):
        assert isinstance(figure, matplotlib.figure.Figure) and len(figure.axes) == 2
    bars = plots.speed(entries).axes[0]
    assert "training batches" in [text.get_text() for text in bars.get_yticklabels()]


def test_the_command_writes_where_it_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench_data, "ITEMS", (lambda sizes, device: [timing.fact("one", 1.0, "s")],))
    monkeypatch.setattr(bench_models, "ITEMS", ())
    assert main(["bench", "--json", str(tmp_path / "b.json")]) == 0
    assert "one: 1 s" in capsys.readouterr().out and len(bench.read(tmp_path / "b.json")) == 1


@pytest.mark.parametrize("several", [1, 14])
def test_drawn_people_resemble_themselves(several):
    """By their embeddings and by their parts, as queries in several views, too."""
    asked, there = (bench_models.drawn_features(32, 8, TINY, seed, several=n) for seed, n in ((1, several), (2, 1)))
    same = (torch.arange(32) % 8)[:, None] == (torch.arange(32) % 8)[None]
    parts = matching.region_distances(bench_models._matcher(), asked, there)
    for distances in (matching.global_distances(asked, there), parts):
        assert distances[same].mean() < distances[~same].mean() - 0.05
