"""The benchmarks' form, with tiny sizes. No timing is ever a failing test."""

import json
import re

import numpy as np
import pytest

from ppcl import bench, metrics, plots
from ppcl.__main__ import main
from ppcl.recipes import METHODS, trained_by

TINY = bench.Sizes(
    rounds=1, batch=4, size=(64, 32), step_batch=8, architecture="small", queries=20, gallery=60, textbook=10,
    searched=5, matched=3, parts=16, channels=32, galleries=(50, 100), width=16, profile="tiny", steps=1, people=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "benchmarks.json"
    return path, bench.bench(path, TINY)


def test_every_item_is_a_plain_record(recorded):
    path, entry = recorded
    assert json.loads(path.read_text()) == {bench.machine(): entry}
    names = [row["name"] for row in entry["items"]]
    expected = ["training batches", "training step", "CMC and mAP", "part to part, 14 views", "part step"]
    expected += ["global step, 50", "global step, 100"]
    assert names == expected
    for row in entry["items"]:
        assert list(row) == ["name", "value", "unit", "spread", "ratio", "reference", "note"]
        assert row["value"] >= 0 and isinstance(row["unit"], str)
        assert row["spread"][0] <= row["value"] * 1.001 <= row["spread"][1] * 1.002
        assert (row["ratio"] is None) == (row["reference"] is None) and (row["ratio"] or 1) > 0
    assert {"commit", "date", "versions", "device", "threads", "seconds"} <= set(entry)
    assert {"torch", "torchvision", "python"} <= set(entry["versions"])


def test_every_row_has_its_cost(recorded):
    found = {row["row"]: row for row in recorded[1]["rows"]}
    assert {"backbone+crops+pad", "dsr", "trained-same-location", "ppcl"} < {*found} <= {*METHODS}
    assert all(row["query"] > 0 for row in found.values())
    for name, row in found.items():
        assert row["views"] == 2 * (7 if METHODS[name].placements else 1)  # with the mirror image
        assert row["step"] == found.get(trained_by(name), row)["step"]


def test_another_run_replaces_this_machines_entry_and_keeps_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "ITEMS", (lambda sizes, device: [bench.item("one", "s", int)],))
    monkeypatch.setattr(bench, "COSTS", ())
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps({"elsewhere": {"items": []}, bench.machine(): {"items": ["old"]}}))
    bench.bench(path, TINY)
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

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    reference = "the other", lambda: call("b"), 2
    costs = {"a": iter([100, 1, 2, 9]), "b": iter([100, 6, 4, 8])}
    row = bench.item("x", "img/s", lambda: call("a"), 10, reference, rounds=3)
    assert order == ["a", "b"] * 4
    assert row["value"] == pytest.approx(10 / 2)  # of 1, 2 and 9 seconds the median
    assert row["spread"] == pytest.approx([10 / 9, 10])
    assert row["ratio"] == pytest.approx((6 / 2) / (2 / 10)) and row["reference"] == "the other"
    costs = {"a": iter([100, 1, 2, 9]), "b": iter([100, 6, 4, 8])}
    row = bench.item("x", "s", lambda: call("a"), 10, reference, rounds=3)
    assert row["value"] == pytest.approx(0.2) and row["spread"] == pytest.approx([0.1, 0.9])
    assert row["ratio"] == pytest.approx(15)


def test_the_textbook_evaluator_agrees(draw):
    rng = np.random.default_rng(0)
    ids, cameras = [rng.integers(9, size=n) for n in (30, 80)], [rng.integers(3, size=n) for n in (30, 80)]
    distances = rng.random((30, 80))
    ours = metrics.cmc_map(distances, *ids, *cameras).mAP
    assert bench.textbook(distances, *ids, *cameras) == pytest.approx(ours, abs=1e-9)


def test_the_figure_shows_every_machine(recorded):
    _, entry = recorded
    bars, lines = plots.speed({"one": entry, "another": entry}).axes
    ticks = [text.get_text() for text in bars.get_yticklabels()]
    assert ticks == ["training batches", "training step", "CMC and mAP", "part to part, 14 views", "part step"]
    ratios = [row["ratio"] for row in entry["items"] if row["ratio"]]
    assert [[bar.get_width() for bar in some] for some in bars.containers] == [ratios, ratios]
    steps = [row["value"] for row in entry["items"] if row["name"].startswith("global step, ")]
    assert [line.get_ydata().tolist() for line in lines.lines if line.get_marker() != "None"] == [steps, steps]


def test_the_command_writes_where_it_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "ITEMS", (lambda sizes, device: [bench.item("one", "s", int, note="a note")],))
    monkeypatch.setattr(bench, "COSTS", ())
    assert main(["bench", "--json", str(tmp_path / "b.json")]) == 0
    assert (
        re.search(r"one: \S+ s \[.*\] \(a note\)", capsys.readouterr().out)
        and len(bench.read(tmp_path / "b.json")) == 1
    )
