"""The same seed gives the same table, the manifest says what made it, and a killed `reproduce` goes on where it was."""

import json
import platform
import shutil
import subprocess
import sys
import time

import nbformat
import pandas
import pytest
import torch
from conftest import FAST, by_commands, failure

from ppcl import evaluation
from ppcl.__main__ import main
from ppcl.disk import checkpoints
from ppcl.evaluation import results
from ppcl.recipes import parse_overrides, recipe
from ppcl.runs import manifest, reproduce


def run_all(run, data):
    """Train the three stages and evaluate, by the command line. -> the run folder."""
    by_commands(run, data)
    for dataset in ("partial-reid", "partial-ilids"):
        assert main(["evaluate", "--run", str(run), "--data", str(data), "--dataset", dataset]) == 0
    return run


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("one") / "run", drawn)


def test_the_same_seed_gives_the_same_table(run, drawn, tmp_path):
    torch.rand(7)  # whatever was drawn before
    again = run_all(tmp_path / "again", drawn)
    assert (run / "results.csv").read_bytes() == (again / "results.csv").read_bytes()
    assert len(results.read(run)) > 100


@pytest.mark.slow
def test_reproduce_twice_gives_the_same_table(tmp_path):
    for name in ("one", "two"):
        assert main(["reproduce", "--profile", "tiny", "--run", str(tmp_path / name)]) == 0
    tables = [(tmp_path / name / "results.csv").read_bytes() for name in ("one", "two")]
    assert tables[0] == tables[1]


def test_the_manifest_says_what_made_the_numbers(run, drawn):
    found = json.loads((run / "manifest.json").read_text())
    wanted = recipe("person", "tiny", **parse_overrides(FAST[3::2]))
    assert found["recipes"] == {"person": json.loads(json.dumps(wanted.to_dict()))} and found["seed"] == 0
    assert found["commit"] == results.commit() and found["dirty"] == found["commit"].endswith("-dirty")
    assert (
        torch.__version__.startswith(found["versions"]["torch"])
        and found["versions"]["python"] == platform.python_version()
    )
    assert set(found["versions"]) == {"python", *manifest.PACKAGES}
    assert found["device"] == reproduce.device() and found["device_name"] and found["threads"] and found["processes"]
    assert found["data"] == reproduce.datasets.contents(drawn) and found["data"]["drawn"]
    assert found["data"]["pictures"]["market1501/train"] == 60 and len(found["data"]["sha256"]) == 64


def test_people_added_to_ones_own_folder_make_the_notebooks_run_again(drawn, tmp_path):
    own = tmp_path / "people"
    for name in ("a", "b"):
        shutil.copytree(reproduce.datasets.read("partial-ilids", "gallery", drawn).folder, own / name)
    chosen, path = reproduce.recipes.recipe("person", "tiny"), reproduce.notebooks("01")[0]
    stamps = []
    for change in (lambda: None, lambda: None, lambda: shutil.copytree(own / "a", own / "c")):
        change()
        pictures = reproduce.datasets.read("own", "all", own).fingerprint
        stamps.append(reproduce.fingerprint(path, {}, chosen, pictures))
    assert stamps[0] == stamps[1] != stamps[2]


def test_the_datas_hash_tells_one_changed_byte_and_one_other_name(drawn, tmp_path):
    hashes = [reproduce.datasets.contents(drawn)["sha256"]]
    shutil.copytree(drawn, tmp_path / "data")
    assert reproduce.datasets.contents(tmp_path / "data")["sha256"] == hashes[0]
    picture = min((tmp_path / "data/Partial_iLIDS/Probe").iterdir())
    picture.write_bytes(picture.read_bytes() + b"0")
    hashes.append(reproduce.datasets.contents(tmp_path / "data")["sha256"])
    picture.rename(picture.with_name("0999.jpg"))
    hashes.append(reproduce.datasets.contents(tmp_path / "data")["sha256"])
    assert len(set(hashes)) == 3


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project of one file under git, in whose library `results` seems to lie. -> a call of git in it."""
    library = tmp_path / "project/ppcl"
    library.mkdir(parents=True)
    (library / "results.py").write_text("")
    monkeypatch.setattr(results, "__file__", str(library / "evaluation" / "results.py"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]

    def git(*words):
        command = ["git", "-C", str(library.parent), *who, *words]
        results.commit.cache_clear()
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    yield git
    results.commit.cache_clear()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_table_made_by_a_changed_library_says_so(checkout, run, drawn, tmp_path):
    results.commit.cache_clear()
    assert results.commit() == "unknown"  # no checkout
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    results.commit.cache_clear()
    assert results.commit() == "unknown"  # installed inside somebody's own repository
    checkout("init", "-q")
    checkout("add", ".")
    checkout("commit", "-qm", "one")
    commit = checkout("rev-parse", "--short=12", "HEAD")
    assert results.commit() == commit
    shutil.copytree(run, tmp_path / "run")
    for change in ({"results.py": "1"}, {"results.py": "", "new.py": ""}):
        for name, text in change.items():
            (tmp_path / "project/ppcl" / name).write_text(text)
        checkout("status")
        assert results.commit() == f"{commit}-dirty"
    evaluation.evaluate(tmp_path / "run", "person", "partial-ilids", drawn, ["ppcl"], quiet=True)
    table = pandas.read_csv(tmp_path / "run/results.csv")
    changed = table[table.commit == f"{commit}-dirty"]
    assert set(changed.dataset) == {"partial-ilids"} and set(changed.method) == {"ppcl"}
    assert f"{commit}-dirty" not in set(table[table.dataset == "partial-reid"].commit)


CELLS = {  # short ones, of the notebooks' form
    "01_first": ["task, profile, run, data, seed, device, overrides = [None] * 7", "1 + 1"],
    "02_second": [
        "task, profile, run, data, seed, device, overrides = [None] * 7",
        "import ppcl\nfrom ppcl import training\nrecipe = ppcl.recipe(task, profile, "
        "**ppcl.recipes.parse_overrides(overrides))\n"
        "training.train_glrec(recipe, training.training_data(recipe, data), run, seed)",
    ],
}
START = """import sys, pathlib
from ppcl import __main__, reproduce
reproduce.NOTEBOOKS = pathlib.Path(sys.argv[1])
sys.exit(__main__.main(sys.argv[2:]))"""


def test_a_killed_reproduce_goes_on_at_its_notebook_and_suffers_no_second(drawn, tmp_path, capsys, monkeypatch):
    """Killed (-9) while its second notebook trains; what the first one left stands, and training goes on."""
    run, here = tmp_path / "run", tmp_path / "notebooks"
    here.mkdir()
    monkeypatch.setattr(reproduce, "NOTEBOOKS", here)
    for name, cells in CELLS.items():
        cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), here / f"{name}.ipynb")
    command = ["reproduce", "--task", "person", "--run", str(run), "--data", str(drawn), *FAST]
    command += ["--set", "glrec.epochs=80"]
    stage = run / "person/glrec/checkpoint.safetensors"
    with subprocess.Popen(
        [sys.executable, "-c", START, str(here), *command], stdout=subprocess.PIPE, text=True
    ) as first:
        while not stage.exists() and first.poll() is None:
            time.sleep(0.01)
        status, lines = failure(capsys, command)
        going = first.poll() is None
        first.kill()
        said = first.stdout.read().splitlines()
    assert going and len(said) == 3 and said[2] == "[2/2] person 02_second …"
    assert status == 1 and len(lines) == 1 and "another process works in this run folder" in lines[0]
    assert [path.name for path in (run / "notebooks").glob("[!.]*")] == ["person_01_first.ipynb"]
    begun = checkpoints.header(stage)
    assert begun["epoch"] and not begun["finished"]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["[1/2] person 01_first: done before", "[2/2] person 02_second …"]
    steps = [json.loads(line)["step"] for line in stage.with_name("log.jsonl").read_text().splitlines()]
    assert checkpoints.header(stage)["finished"] and steps == list(range(0, steps[-1] + 1, 10)) and len(steps) > 5
    assert {*run.rglob(".*")} == {run / ".lock"}
    manifest = json.loads((run / "manifest.json").read_text())
    assert len(manifest["data"]["sha256"]) == 64 and set(manifest["seconds"]) == {"person_01_first", "person_02_second"}
