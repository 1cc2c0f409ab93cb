"""What is committed: tables with their intervals, drawn pictures apart from published numbers."""

import re
from pathlib import Path

import nbformat
import pytest

from ppcl.evaluation import results
from ppcl.recipes.methods import ABLATIONS, METHODS
from ppcl.runs import reproduce

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
TABLES = re.findall(r"(?:^\|.*\n)+", README, re.M)
OTHERS = [name.split(" (")[0].split(",")[0] for name in results.PUBLISHED.method if not name.startswith("PPCL")]
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
    assert len(TABLES) > 3 and not any(map(shared, TABLES))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_of_a_notebook_shares_drawn_and_published_numbers(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + "".join(output.get("data", {}).get("text/plain", ""))
            assert not shared(text), text[:200]


@pytest.mark.parametrize("name", ["results.csv", results.ABLATIONS, results.DRAWINGS])
def test_every_committed_number_has_its_interval(name):
    table = results.read(ROOT / "figures", name)
    assert len(table) > 100 and table[["value", "low", "high"]].notna().all(axis=None)
    assert ((table.low <= table.value + 1e-6) & (table.value <= table.high + 1e-6)).all()
    assert table.synthetic.all() and (table.n_query > 0).all()


def lead(gains, words: str = "") -> str:
    return f"{gains.value:.1f} {words} [{gains.low:.1f}, {gains.high:.1f}]".replace("  ", " ")


def test_the_leads_that_the_readme_tells_are_the_committed_ones():
    told = " ".join(README.split())
    drawn, trained = (results.read(ROOT / "figures", name) for name in (results.DRAWINGS, results.ABLATIONS))
    reid, ilids, padded = "partial-reid", "partial-ilids", "backbone+crops+pad"
    truer = results.over_draws(drawn, "truth", "crloc-IoU")
    faces = results.differences(trained).loc["partial-lfw"]
    for found in (
        lead(results.over_draws(drawn, "all-shot").loc[reid, padded], "above the padded baseline on partial-reid"),
        *(lead(truer.loc[name, "no-cycle"]) for name in (reid, ilids)),
        lead(truer.loc[reid, "no-geometry"], "points of IoU on partial-reid"),
        lead(faces.loc[padded], "points above the padded baseline"),
        lead(faces.loc["untrained-crloc"], "above an untrained CRLoc"),
    ):
        assert found in told, found


def test_what_the_readme_says_that_parts_are_worth_is_what_the_committed_draws_say():
    gains = results.over_draws(results.read(ROOT / "figures", results.DRAWINGS))
    sets = ("partial-reid", "partial-ilids")
    head, _, *lines = next(table for table in TABLES if "draws" in table).splitlines()
    assert head == f"| `ppcl` above | in that row | {' | '.join(sets)} | draws |"
    told = {}
    for line in lines:
        row, _, *values = (cell.strip() for cell in line.strip("|").split("|"))
        told[row.strip("`")] = values
    assert {name for name in ABLATIONS if name.startswith("no-")} <= set(told)
    for row, values in told.items():
        found = [gains.loc[name, row] for name in sets]
        assert values == [*map(lead, found), f"{found[0].seeds:.0f}"], row


def test_every_number_of_the_readmes_result_tables_has_its_interval():
    from ppcl.runs.reproduce import MARKS

    shown = README.split(MARKS[0])[1].split(MARKS[1])[0]
    cells = [cell.strip() for line in shown.splitlines() if line.startswith("| `") for cell in line.split("|")[2:-1]]
    assert len(cells) >= 40 and all(re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", cell) for cell in cells)
