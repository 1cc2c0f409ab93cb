"""The pages of a run: everything linked, complete without a network, the numbers those of results.csv."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pandas
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from ppcl import plots
from ppcl.evaluation import results
from ppcl.runs import report, reproduce

CHROMIUM = shutil.which("chromium")
NOTEBOOKS = ("01_data_preparation", "05_evaluation", "08_performance")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with the committed notebooks and numbers, a figure, and things that want escaping. -> its report."""
    run = tmp_path_factory.mktemp("report") / "a <run> & more"
    (run / "notebooks").mkdir(parents=True)
    for name in NOTEBOOKS:
        text = (reproduce.NOTEBOOKS / f"{name}.ipynb").read_text()
        text = text.replace('runs/demo/results.csv\\n"', f'{run}/results.csv\\n"')  # as of a run outside the project
        (run / f"notebooks/person_{name}.ipynb").write_text(text)
    (run / "notebooks/.person_02_draft.ipynb").write_text("of a notebook that failed")
    shutil.copy(reproduce.ROOT / "figures/results.csv", run)
    plots.save(plots.caption(Figure(), 'queries < gallery & "more"'), run / "figures/figure1.png")
    facts = {"commit": "0123456789ab", "seed": 3, "device": "cpu", "versions": {"torch": "2.14.1"}, "threads": 2}
    facts |= {"seconds": {"person_05_evaluation": 65.0}, "peak_memory_mib": 2355}
    (run / "manifest.json").write_text(json.dumps(facts))
    return report.write(run).parent


def page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


def test_every_page_is_whole_and_links_what_is_there(run):
    pages = sorted(run.iterdir())
    assert [path.name for path in pages] == ["index.html", *(f"person_{name}.html" for name in NOTEBOOKS)]
    linked = set()
    for path in pages:
        soup = page(path)
        assert soup.html["lang"] == "en" and soup.title.text and len(soup.find_all("h1")) == 1, path.name
        outputs = json.loads((run.parent / f"notebooks/{path.stem}.ipynb").read_text()) if path.stem != "index" else {}
        outputs = [output for cell in outputs.get("cells", []) for output in cell.get("outputs", [])]
        shown = sum(bool({"image/png", "image/jpeg"} & output.get("data", {}).keys()) for output in outputs)
        assert path.stem == "index" or len(soup.find_all("img")) == shown, path.name
        for tag, where in (("a", "href"), ("img", "src")):
            for one in soup.find_all(tag):
                target = one.get(where)
                if target.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,")):
                    continue
                assert not re.match(r"[a-z]+:|/", target), f"{path.name}: {target}"
                assert (run / unquote(target)).exists(), f"{path.name}: {target}"
                linked.add((run / unquote(target)).resolve())
        assert all(image.get("alt") and "No description" not in image["alt"] for image in soup.find_all("img"))
    assert {path.resolve() for path in pages} <= linked
    assert {run.parent / name for name in ("results.csv", "manifest.json", "figures/figure1.pdf")} <= linked


def test_nothing_is_fetched_formulas_are_typeset_and_no_private_path_is_shown(run):
    for path in run.iterdir():
        text = path.read_text()
        assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|mnt)/", text) and str(run.parent) not in text
        soup = page(path)
        fetched = re.findall(r"@import|url\((?!data:)[^)]*\)", text)
        assert not soup.find_all(["script", "link"]) and not fetched, path.name
        prose = " ".join(cell.text for cell in soup.select(".jp-MarkdownOutput"))
        assert "$" not in prose and "\\" not in prose
    assert page(run / "person_05_evaluation.html").find_all("math")
    assert "a &lt;run&gt; &amp; more/results.csv" in (run / "person_05_evaluation.html").read_text()


def test_the_tables_are_those_of_the_results(run):
    table, soup = results.read(run.parent), page(run / "index.html")
    tables = {one.caption.text: one for one in soup.find_all("table")}
    first = tables["person, drawn pictures: per cent, 95 % intervals in brackets"]
    heads = [cell.text for cell in first.thead.find_all("th")[1:]]
    partial = [f"{name} {metric}" for name in ("partial-reid", "partial-ilids") for metric in ("rank-1", "mAP")]
    assert heads == [*partial, "market1501 rank-1", "occluded-reid rank-1"]
    checked = 0
    for (task, dataset, protocol), some in table.groupby(["task", "dataset", "protocol"]):
        some = some[(some.subset == "all") & ~some.metric.str.contains("without| over ")]
        for one in (one for words, one in tables.items() if words.startswith(f"{task}: {dataset}, {protocol}: drawn")):
            if "above each row" in one.caption.text:
                continue
            heads = [cell.text for cell in one.thead.find_all("th")[1:]]
            for line in one.tbody.find_all("tr"):
                for metric, cell in zip(heads, line.find_all("td"), strict=True):
                    found = some[(some.method == line.th.text) & (some.metric == metric)]
                    assert bool(len(found)) == bool(cell.text)
                    for _, row in found.iterrows():
                        values = [float(value) for value in re.findall(r"-?\d+\.\d", cell.text)]
                        assert values == pytest.approx([100 * row[k] for k in ("value", "low", "high")], abs=0.0501)
                        checked += 1
    assert checked > 150
    assert all("published" not in words and "photographs" not in words for words in tables)
    names = [name.split(" (")[0] for name in pandas.read_csv(results.PUBLISHED).method if not name.startswith("PPCL")]
    assert not any(name in soup.text for name in names)


def test_facts_titles_and_captions_stand_there_escaped(run):
    soup = page(run / "index.html")
    words = ("0123456789ab", "versions.torch", "2.14.1", "2355", "05 · Evaluation, 65 s", 'queries < gallery & "more"')
    for word in words:
        assert word in soup.text
    assert soup.h1.text == "ppcl: a <run> & more" and not soup.find("run")
    links = [one["href"] for one in page(run / "person_01_data_preparation.html").find_all("a")]
    assert "index.html" in links and "person_02_glrec_pretraining.html" not in links  # it is not there


def test_a_page_is_made_again_only_for_a_new_notebook(run):
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    notebook = run.parent / "notebooks/person_08_performance.ipynb"
    notebook.write_text(notebook.read_text().replace("08 · Performance", "08 · Speed"))
    report.write(run.parent)
    changed = {path.name for path in run.iterdir() if path.stat().st_mtime_ns != before[path.name]}
    assert changed == {"index.html", "person_08_performance.html"}
    assert "08 · Speed" in page(run / "index.html").text


def test_an_empty_run_has_a_report_without_tables(tmp_path):
    soup = page(report.write(tmp_path))
    assert soup.h1 and not soup.find_all(["table", "a", "img"])


def test_photographs_and_drawn_pictures_of_one_set_stand_apart(tmp_path):
    table = results.read(reproduce.ROOT / "figures")
    table = table[(table.dataset == "partial-reid") & (table.protocol == "single-shot") & (table.method == "ppcl")]
    other = table.assign(synthetic=False, value=0.125, low=0.125, high=0.125)
    pandas.concat([table, other]).to_csv(tmp_path / "results.csv", index=False)
    tables = page(report.write(tmp_path)).find_all("table")
    for one in tables:
        assert ("photographs" in one.caption.text) == ("12.5 [12.5, 12.5]" in one.text), one.caption.text
    assert sum("photographs" in one.caption.text for one in tables) == 3  # in short, all, and the differences


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_in_a_browser_it_opens_from_the_disk_without_a_network(run):
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements.txt")
    with api.sync_playwright() as play:
        flags = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking".split()
        browser = play.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        try:
            tab, asked = browser.new_context(offline=True).new_page(), []
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto((run / "index.html").as_uri())
            assert all(url.startswith(("file:", "data:")) for url in asked)
            shown = tab.evaluate("[...document.images].map(one => one.complete && one.naturalWidth > 0)")
            assert shown == [True]
            tab.get_by_role("link", name="05 · Evaluation").click()
            tab.wait_for_url("**/person_05_evaluation.html")
            assert tab.locator("img").count() > 5 and tab.locator("table").count() > 5
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # no sideways scrolling
        finally:
            browser.close()
