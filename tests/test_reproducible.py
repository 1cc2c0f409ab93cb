"""The same seed gives the same table, the manifest says what made it, and a killed `reproduce` goes on where it was."""

import json
import os
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

from ppcl import evaluation, jobs, training
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


def test_jobs_side_by_side_give_the_same_bits(run, drawn, tmp_path):
    """Stages, and an evaluation of rows of two checkpoints."""
    chosen, copy = recipe("person", "tiny", **parse_overrides(FAST[3::2])), shutil.copytree(run, tmp_path / "copy")
    jobs.run(training.stage_jobs(chosen, drawn, tmp_path, 0, "cpu", ["glrec", "backbone"]), 2)
    for stage in ("glrec", "backbone"):
        one, two = (top / "person" / stage / "checkpoint.safetensors" for top in (run, tmp_path))
        assert one.read_bytes() == two.read_bytes()
    assert training.stage_jobs(chosen, drawn, tmp_path, 0, "cpu", ["glrec", "backbone"]) == {}
    training.train_joint(chosen, training.training_data(chosen, drawn, quiet=True), copy, "+glrec", quiet=True)
    found = [evaluation.evaluate(copy, "person", "partial-ilids", drawn, quiet=True, count=count) for count in (1, 2)]
    assert found[0].rows == found[1].rows and len({row["method"] for row in found[0].rows}) > 4
    for method, distances in found[0].distances.items():
        assert (distances == found[1].distances[method]).all()


def shown(path):
    """Sources and outputs of an executed notebook, without its folders."""
    cells = json.loads(path.read_text().replace(str(path.parents[1]), "RUN"))["cells"]
    return [(cell["source"], [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]) for cell in cells]


@pytest.mark.slow
def test_reproduce_gives_the_same_for_any_number_of_jobs(tmp_path):
    one, two = (tmp_path / count for count in "12")
    for count in "12":
        assert main(["reproduce", "--profile", "tiny", "--run", str(tmp_path / count), "--jobs", count]) == 0
    assert (one / "results.csv").read_bytes() == (two / "results.csv").read_bytes()
    for path in [*one.rglob("checkpoint.safetensors")]:
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
    for path in (one / "notebooks").glob("*.ipynb"):
        assert shown(path) == shown(two / path.relative_to(one)), path.name


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
    assert found["device"] == jobs.device() and found["device_name"] and found["processes"]
    assert found["data"] == reproduce.datasets.contents(drawn) and found["data"]["drawn"]
    assert found["data"]["pictures"]["market1501/train"] == 60 and len(found["data"]["sha256"]) == 64


@pytest.fixture
def data(drawn, faces, tmp_path):
    """A copy of all drawn sets, to be changed."""
    shutil.copytree(faces, tmp_path / "data")
    shutil.copytree(drawn, tmp_path / "data", dirs_exist_ok=True)
    return tmp_path / "data"


def swap(folder, pattern):
    """Exchange the contents of two files of a folder: names and, made equal here, sizes stay."""
    one, two = sorted(folder.glob(pattern))[0], sorted(folder.glob(pattern))[-1]
    first, second = one.read_bytes(), two.read_bytes()
    size = max(len(first), len(second))
    one.write_bytes(second.ljust(size, b"0"))
    two.write_bytes(first.ljust(size, b"0"))


def bad_pairs(data):
    path = next(data.rglob("pairs.txt"))
    first, *lines = path.read_text().splitlines()
    count = int(first.split()[1])
    path.write_text("\n".join([first, lines[1], lines[0], *lines[2:]]) + "\n" if count > 1 else "")


PROBE, TRAIN = "Partial_iLIDS/Probe", "Market-1501-v15.09.15/bounding_box_train"
CUHK03, UNREAD = "cuhk03-np/detected/bounding_box_train", {"cuhk03/train (detected)"}
CHANGES = {
    "nothing": (lambda data: None, set()),
    "touched": (lambda data: [path.touch() for path in (data / PROBE).iterdir()], set()),
    "removed": (lambda data: shutil.rmtree(data / "Partial_iLIDS"), {"partial-ilids"}),
    "labels corrected": (lambda data: swap(data / PROBE, "*.jpg"), {"partial-ilids"}),
    "copied": (lambda data: [path.write_bytes(path.read_bytes()) for path in (data / PROBE).iterdir()], set()),
    "thinned": (lambda data: min((data / PROBE).iterdir()).unlink(), {"partial-ilids"}),
    "training pictures": (lambda data: min((data / TRAIN).iterdir()).unlink(), {"market1501/train"}),
    "pairs": (bad_pairs, {"lfw"}),
    "a set that nothing but data check reads": (lambda data: shutil.copytree(data / TRAIN, data / CUHK03), UNREAD),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_pictures_is_noticed_and_named(change, data):
    """Of every set and of the pairs; only notebooks that read the set run again."""
    chosen, (alter, names) = recipe("person", "tiny"), CHANGES[change]
    if change == "labels corrected":
        swap(data / PROBE, "*.jpg")  # sizes are equal from now on
    before = reproduce.pictures(data, chosen), reproduce.datasets.parts(data)
    alter(data)
    after = reproduce.pictures(data, chosen), reproduce.datasets.parts(data)
    assert {name for name in before[0] | after[0] if before[0].get(name) != after[0].get(name)} == names - UNREAD
    for path in reproduce.notebooks():
        known = [reproduce.read_by(path.stem, "person", *one) for one in (before, after)]
        reads = {name for name in names if path.stem[:2] not in ("02", "03", "04") or "/" in name}
        reads -= {"lfw"} if path.stem[:2] not in ("01", "07") else set()
        reads -= UNREAD if path.stem[:2] != "01" else set()
        assert (known[0] != known[1]) == (bool(reads) and path.stem != "08_performance"), path.stem


def test_evaluating_other_pictures_is_noticed_by_reproduce(run, data, tmp_path):
    """The rows of the set are replaced, and notebook 05 is no longer done."""
    copy, chosen = shutil.copytree(run, tmp_path / "run"), recipe("person", "tiny", **parse_overrides(FAST[3::2]))
    reads = {name: one for name, one in reproduce.pictures(data, chosen).items() if name.startswith("partial-")}
    reads.pop("partial-lfw")
    assert reproduce._left("05_evaluation", copy, chosen, 0, reads)
    min((data / PROBE).iterdir()).unlink()
    evaluation.evaluate(copy, "person", "partial-ilids", data, ["ppcl"], quiet=True)
    assert not reproduce._left("05_evaluation", copy, chosen, 0, reads)
    now = {name: one for name, one in reproduce.pictures(data, chosen).items() if name in reads}
    assert now["partial-reid"] == reads["partial-reid"] and reproduce._left("05_evaluation", copy, chosen, 0, now)


def test_stages_of_other_training_pictures_are_refused_by_name(run, data, capsys, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    call = ["reproduce", "--task", "person", "--only", "08", "--run", str(copy), "--data", str(data), *FAST]
    min((data / TRAIN).iterdir()).unlink()
    status, lines = failure(capsys, call)
    assert status == 1 and len(lines) == 1 and "the pictures of market1501/train changed since" in lines[0]
    for stage in ("glrec", "backbone", "joint"):
        status, lines = failure(capsys, ["train", stage, "--run", str(copy), "--data", str(data), *FAST])
        assert status == 1 and len(lines) == 1 and "the pictures of market1501/train changed since" in lines[0]


def test_another_set_that_is_chosen_now_is_named_with_the_one_that_was_trained_on(run, data, capsys, tmp_path):
    copy, other = shutil.copytree(run, tmp_path / "run"), tmp_path / "other"
    for name in "abcdefghij":
        shutil.copytree(data / TRAIN, other / "identities" / name)
    for command in (["train", "glrec"], ["train", "backbone"], ["reproduce", "--task", "person", "--only", "02"]):
        status, lines = failure(capsys, [*command, "--run", str(copy), "--data", str(other), *FAST])
        assert status == 1 and len(lines) == 1 and "was trained on market1501/train, and now own/train" in lines[0]
        assert "--set data.training=market1501, or use another --run" in lines[0]


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


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_checkout_that_git_refuses_to_read_is_not_called_clean(checkout, tmp_path, monkeypatch, capsys):
    checkout("init", "-q")
    checkout("add", ".")
    checkout("commit", "-qm", "one")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    results.commit.cache_clear()
    manifest.record(tmp_path / "run", recipe("person", "tiny"), "cpu", 0)
    found = manifest.manifest(tmp_path / "run")
    assert found["commit"] == "unknown" and found["dirty"] is None
    assert "git does not read" in (said := capsys.readouterr().err) and "dubious ownership" in said


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
from ppcl import __main__
from ppcl.runs import reproduce
reproduce.NOTEBOOKS = pathlib.Path(sys.argv[1])
sys.exit(__main__.main(sys.argv[2:]))"""


def put(folder, name, *cells):
    """A notebook of these cells, the first of them the parameters."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder, from which `reproduce` takes its notebooks."""
    here = tmp_path / "notebooks"
    here.mkdir()
    monkeypatch.setattr(reproduce, "NOTEBOOKS", here)
    return here


def test_notebooks_run_in_this_interpreter_and_leave_the_home_folder_alone(project, drawn, tmp_path, monkeypatch):
    home = tmp_path / "home {env}"
    kernel = home / ".local/share/jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    (home / ".ipython/profile_default/startup").mkdir(parents=True)
    (home / ".ipython/profile_default/startup/a.py").write_text("raise SystemExit")
    for name in ("XDG_DATA_HOME", "JUPYTER_DATA_DIR", "JUPYTER_PATH", "IPYTHONDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    before = sorted(home.rglob("*"))
    put(project, "01_first", CELLS["01_first"][0], "import os, sys\nprint(sys.executable, os.getcwd(), run, data)")
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "--task", "person", "--run", "a run {x}", "--data", str(drawn), *FAST]) == 0
    copy = nbformat.read(tmp_path / "a run {x}/notebooks/person_01_first.ipynb", as_version=4)
    assert copy.cells[-1].outputs[0].text.strip() == f"{sys.executable} {tmp_path} a run {{x}} {drawn}"
    assert copy.metadata.kernelspec.name == "python3" and sorted(home.rglob("*")) == before


def test_a_set_that_is_gone_is_named_and_the_manifests_hash_follows_every_picture(project, data, tmp_path, capsys):
    put(project, "01_first", CELLS["01_first"][0])
    call = ["reproduce", "--task", "person", "--run", str(tmp_path / "run"), "--data", str(data), *FAST]
    assert main(call) == 0
    row = dict.fromkeys(results.COLUMNS, 0) | {"task": "person", "dataset": "partial-ilids", "synthetic": True}
    row |= {"method": "ppcl", "metric": "rank-1", "protocol": "single-shot", "subset": "all"}
    results.add(tmp_path / "run", [row])
    capsys.readouterr()
    for there in (True, False):
        assert main(call) == 0
        said = capsys.readouterr().out
        assert ("results.csv and figures/ also show partial-ilids, which " in said) == (not there)
        found = json.loads((tmp_path / "run/manifest.json").read_text())
        assert found["data"] == reproduce.datasets.contents(data)
        shutil.rmtree(data / PROBE) if there else None


def test_a_killed_notebook_is_named_with_the_usual_cause(project, drawn, tmp_path, capsys):
    put(project, "01_first", CELLS["01_first"][0], "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    call = ["reproduce", "--task", "person", "--run", tmp_path / "run", "--data", drawn, *FAST]
    status, lines = failure(capsys, call)
    assert status == 1 and len(lines) == 1 and "01_first.ipynb: its process was killed" in lines[0]
    assert "memory ran out" in lines[0]


def test_notebooks_that_show_committed_tables_run_again_when_one_changes(project, monkeypatch):
    monkeypatch.setattr(reproduce, "ROOT", project)
    (project / "figures").mkdir()
    for name in ("05_a", "02_b"):
        put(project, name, "x = 1")
    found = []
    for content in ("a,b", "a,c"):
        (project / "figures" / "drawings.csv").write_text(content)
        paths = [project / f"{name}.ipynb" for name in ("05_a", "02_b")]
        found.append([reproduce.fingerprint(path, {}, recipe("person", "tiny")) for path in paths])
    assert found[0][0] != found[1][0] and found[0][1] == found[1][1]


def test_a_notebook_whose_process_never_answers_is_named(project, drawn, tmp_path, capsys, monkeypatch):
    put(project, "01_first", *CELLS["01_first"])
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    call = ["reproduce", "--task", "person", "--run", tmp_path / "run", "--data", drawn, "--jobs", "1", *FAST]
    status, lines = failure(capsys, call)
    assert status == 1 and len(lines) == 1 and "01_first.ipynb: its process was killed" in lines[0]


def test_a_folder_whose_name_no_notebook_can_hold_is_refused_first(project, drawn, tmp_path, capsys):
    status, lines = failure(capsys, ["reproduce", "--run", os.fsdecode(b"r\xff"), "--data", drawn, *FAST])
    assert status == 1 and lines == [
        f"python -m ppcl reproduce: {os.getcwd()}/r\\udcff: its name is not UTF-8, and notebooks hold nothing else: "
        "rename the folder"
    ]


def test_relative_parameters_are_the_callers_and_nothing_is_drawn_into_a_folder_that_was_given(tmp_path, monkeypatch):
    from ppcl.disk.files import DataError

    monkeypatch.chdir(tmp_path)
    reproduce.at_root()
    assert os.getcwd() == str(tmp_path)
    with pytest.raises(DataError, match="mydata is not a folder"):
        reproduce.datasets.ready(recipe("person", "tiny"), "mydata", "myrun")
    (tmp_path / "mydata").mkdir()
    with pytest.raises(DataError, match="market1501"):
        reproduce.datasets.ready(recipe("person", "tiny"), "mydata", "myrun")
    assert not [*(tmp_path / "mydata").iterdir()] and not (reproduce.ROOT / "mydata").exists()
    monkeypatch.chdir(reproduce.NOTEBOOKS)
    reproduce.at_root()
    assert os.getcwd() == str(reproduce.ROOT)


def test_a_killed_reproduce_goes_on_at_its_notebook_and_suffers_no_second(project, drawn, tmp_path, capsys):
    """Killed (-9) while its second notebook trains; what the first one left stands, and training goes on."""
    run, here = tmp_path / "run", project
    for name, cells in CELLS.items():
        put(here, name, *cells)
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
    assert status == 1 and len(lines) == 1 and "another `reproduce` works in this run folder" in lines[0]
    assert [path.name for path in (run / "notebooks").glob("[!.]*")] == ["person_01_first.ipynb"]
    begun = checkpoints.header(stage)
    assert begun["epoch"] and not begun["finished"]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["[1/2] person 01_first: done before", "[2/2] person 02_second …"]
    steps = [json.loads(line)["step"] for line in stage.with_name("log.jsonl").read_text().splitlines()]
    assert checkpoints.header(stage)["finished"] and steps == list(range(0, steps[-1] + 1, 10)) and len(steps) > 5
    assert {*run.rglob(".*")} == {run / ".lock", run / ".merging", stage.with_name(".lock")}
    manifest = json.loads((run / "manifest.json").read_text())
    assert len(manifest["data"]["sha256"]) == 64 and set(manifest["seconds"]) == {"person_01_first", "person_02_second"}
