"""explore.ipynb: what a dragged crop shows, headless and in a real browser."""

import ast
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from conftest import SMALL, train
from PIL import Image

import ppcl
from ppcl import explore, matching
from ppcl.data import datasets, image_bank, stage_batches
from ppcl.disk import checkpoints
from ppcl.recipes import recipe
from ppcl.runs import reproduce

NOTEBOOK = reproduce.NOTEBOOKS / "explore.ipynb"
CHROMIUM = shutil.which("chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    """A tiny run with the rows backbone+crops+pad and ppcl."""
    chosen = recipe("person", "tiny", **SMALL)
    pictures = stage_batches.training_data(chosen, drawn, quiet=True)
    return train(chosen, pictures, tmp_path_factory.mktemp("explore") / "run", ("backbone+crops+pad", "ppcl"))


@pytest.fixture(scope="module")
def described(run, drawn):
    return explore.Described(run, "person", explore.gallery(drawn, ppcl.load(run).recipe))


def test_a_crop_is_ranked_as_the_library_ranks_it(described):
    where = described.gallery
    name, chosen = list(where.choices.items())[-1]
    assert name.startswith("partial") and chosen.index is None
    model, there = described["ppcl"]
    picture = chosen.open()
    found = explore.search(model, there, picture, top=5)
    query = matching.describe(model, image_bank.bank([picture], model.recipe.input.size), several=True)
    distances = matching.match(model, query, there, shortlist=6)[0]
    assert found.index == distances.argsort(stable=True)[:5].tolist()
    assert np.allclose(found.distance, distances.sort().values[:5], atol=1e-5)
    assert np.allclose(found.shares.sum(1), found.distance, atol=1e-5)
    assert found.located.shape == (5, 4)


def test_a_whole_picture_of_the_gallery_is_passed_over_in_its_own_ranking(described):
    chosen = next(choice for choice in described.gallery.choices.values() if choice.index is not None)
    for row in ("backbone+crops+pad", "ppcl"):
        model, there = described[row]
        assert explore.search(model, there, chosen.open()).index[0] == chosen.index
        kept = explore.search(model, there, chosen.open(), chosen.index)
        assert chosen.index not in kept.index and len(kept.index) == explore.TOP


def test_rows_are_described_once_and_unfinished_runs_say_what_makes_them(described, run, tmp_path):
    assert described["ppcl"] is described["ppcl"]
    assert explore.rows(run, "person") == ["backbone+crops+pad", "ppcl@1", "no-crloc", "ppcl"]
    with pytest.raises(checkpoints.CheckpointError, match="04_joint_training"):
        explore.rows(tmp_path, "person")


@pytest.mark.parametrize(
    "crop, edges",
    [
        ((0, 1, 0, 1), (0, 0, 100, 200)),
        ((0.25, 0.5, 0, 0.5), (25, 0, 50, 100)),
        ((0.5, 0.25, 0.5, 0), (25, 0, 50, 100)),  # sliders that crossed
        ((1, 1, 0, 0), (90, 0, 100, 20)),  # and that met
    ],
)
def test_sliders_become_pixels(crop, edges):
    assert explore.cut((100, 200), crop) == edges


def pixels(figure):
    """What the panel shows; the next drawing may go into the same figure."""
    content = explore.jpeg(figure)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture)


def test_a_figure_has_every_row_and_its_table_agrees(described):
    chosen = next(iter(described.gallery.choices.values()))
    one = pixels(explore.look(described, chosen, names=["ppcl"])[0])
    figure, table = explore.look(described, chosen, names=["backbone+crops+pad", "ppcl"])
    both = pixels(figure)
    assert one.shape[1] == both.shape[1] and one.shape[0] < both.shape[0] < 2.1 * one.shape[0]
    assert list(dict.fromkeys(table.row)) == ["backbone+crops+pad", "ppcl"] and len(table) == 2 * explore.TOP
    plain = table[table.row == "backbone+crops+pad"]
    assert plain.region.isna().all() and (plain.located == "").all() and table[table.row == "ppcl"].region.notna().all()
    other = pixels(explore.look(described, chosen, (0, 0.5, 0, 1), ["ppcl"])[0])
    assert one.shape == other.shape and (one != other).any()
    again = pixels(explore.look(described, chosen, names=["ppcl"])[0])
    assert (one == again).all()  # nothing of the other crop stays in the figure
    unknown = pixels(explore.look(described, replace(chosen, person=None), names=["ppcl"])[0])
    assert (unknown != one).any()
    right = [cell.patch.get_edgecolor() for cell in figure.axes if cell.patch.get_linewidth()]
    assert len(right) == 2 * explore.TOP and len(set(right)) == 2  # judged


@pytest.mark.slow
def test_a_change_is_drawn_within_300_ms_by_one_thread(described):
    chosen, times = next(iter(described.gallery.choices.values())), []
    for step in range(8):
        began = time.process_time()
        explore.jpeg(explore.look(described, chosen, (0, 1, 0, 0.4 + step / 20), ["ppcl"])[0])
        times.append(time.process_time() - began)
    assert min(times) < 0.3


def test_own_photographs_and_what_is_none(described, tmp_path):
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "own.png")
    for source in (tmp_path / "own.png", (tmp_path / "own.png").read_bytes()):
        chosen = explore.own(source)
        assert chosen.open().size == (800, 400) and chosen.person is None
    assert len(explore.look(described, chosen)[1]) == explore.TOP
    Image.new("RGB", (250, 250)).save(tmp_path / "uncut.png")
    for source in (tmp_path / "uncut.png", (tmp_path / "uncut.png").read_bytes()):  # as LFW's are given out
        assert explore.own(source, 250).open().size == (125, 125) and explore.own(source).open().size == (250, 250)
    for bad, words in ((tmp_path / "nothing.png", "nothing.png"), (b"text", "upload")):
        with pytest.raises(datasets.DataError, match=words):
            explore.own(bad)


def test_the_form_of_the_notebook():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ") and "Next" in notebook.cells[-1].source
    assert code[1].metadata.get("tags") == ["parameters"]
    for node in ast.parse(code[1].source).body:
        ast.literal_eval(node.value)
    assert sum(len([x for x in cell.source.splitlines() if x.strip()]) for cell in code) <= 80
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    assert not any(isinstance(node, (ast.ClassDef, ast.FunctionDef)) for node in nodes)
    assert NOTEBOOK.stat().st_size <= 500_000


def test_the_notebook_runs_headless_and_leaves_pictures(run, drawn, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        str(NOTEBOOK), str(out), {"run": str(run), "data": str(drawn)}, kernel_name="python3", progress_bar=False
    )
    outputs = [output for cell in nbformat.read(out, as_version=4).cells for output in cell.get("outputs", [])]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 4  # of the panel, too


def test_without_a_run_the_notebook_says_in_one_line_what_makes_it(drawn, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as failure:
        papermill.execute_notebook(
            str(NOTEBOOK), str(tmp_path / "out.ipynb"), {"run": str(tmp_path), "data": str(drawn)},
            kernel_name="python3", progress_bar=False,
        )  # fmt: skip
    assert "04_joint_training" in failure.value.evalue and "\n" not in failure.value.evalue


# --- a real browser ---


@pytest.fixture
def lab(run, drawn, tmp_path):
    """JupyterLab on a free local port with folders of its own, and a copy of the notebook for the tiny run. -> URL."""
    notebook = json.loads(NOTEBOOK.read_text())
    parameters = next(cell for cell in notebook["cells"] if cell["metadata"].get("tags") == ["parameters"])
    values = {"task": "person", "run": str(run), "data": str(drawn), "seed": 0, "device": "cpu"}
    parameters["source"] = [f"{key} = {value!r}\n" for key, value in values.items()]
    (tmp_path / "work").mkdir()
    (tmp_path / "work/explore.ipynb").write_text(json.dumps(notebook))
    own = {f"JUPYTER_{kind}": str(tmp_path / kind) for kind in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    settings = {  # all cells stay in the page; no question about news
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false"},
    }
    for name, values in settings.items():
        file = tmp_path / f"s/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "w")}
    own |= {"IPYTHONDIR": str(tmp_path / "ipython"), "PYTHONPATH": str(Path(ppcl.__file__).parent.parent)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=explore"]
    command += [f"--ServerApp.root_dir={tmp_path / 'work'}", "--LabApp.news_url=", "--LabApp.check_for_updates_class="
                "jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | own)
    try:
        address = f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=explore"
        _wait(server, address, tmp_path / "lab.log")
        yield address
    finally:
        server.terminate()  # its kernels end with it
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server, address: str, log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_in_a_browser_a_moved_slider_changes_the_ranking(lab, tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements.txt")
    shots = Path(os.environ.get("PPCL_SCREENSHOTS", tmp_path))
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS.split())
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            page.set_default_timeout(90_000)
            page.goto(lab)
            page.wait_for_selector(".jp-Notebook .jp-Cell")
            page.get_by_text("| Idle").wait_for()  # the kernel is there; cells that are run before it are forgotten
            page.get_by_text("Run", exact=True).first.click()
            page.get_by_text("Run All Cells", exact=True).click()
            ranking = page.locator("table.ppcl")
            for _ in range(
                90
            ):  # a picture now and then: without one headless Chromium draws, and Lab runs, nothing more
                page.screenshot(path=shots / "explore_before.png")
                if ranking.count() and page.get_by_text("[8]:").count():  # the last cell ran: nothing moves any more
                    break
                page.wait_for_timeout(1000)
            ranking.scroll_into_view_if_needed()
            page.locator(".widget-slider .noUi-handle").first.wait_for()
            page.screenshot(path=shots / "explore_before.png")
            before = ranking.inner_text()
            handle = page.locator(".widget-slider .noUi-handle").nth(3).bounding_box()  # bottom
            page.mouse.move(handle["x"] + 5, handle["y"] + 5)
            page.mouse.down()
            page.mouse.move(handle["x"] + 90, handle["y"] + 5, steps=8)
            page.mouse.up()
            page.wait_for_function(
                "before => document.querySelector('table.ppcl')?.innerText.trim() != before.trim()", arg=before
            )
            page.wait_for_timeout(1000)
            page.screenshot(path=shots / "explore_after.png")
            assert re.findall(r"\d\.\d{3}", ranking.inner_text()) != re.findall(r"\d\.\d{3}", before)
            assert page.locator(".jp-mod-error, [data-mime-type*=stderr]").count() == 0
        finally:
            browser.close()
