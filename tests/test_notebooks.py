"""The notebooks: their form, and all of them at work, one by one and by `reproduce`, with the tiny recipe."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pandas
import pytest
from PIL import Image

from ppcl.__main__ import main
from ppcl.recipes import TASKS, recipe
from ppcl.runs import reproduce

NOTEBOOKS = sorted(reproduce.NOTEBOOKS.glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.name[:2].isdigit()]
TINY = {"glrec.epochs": 2, "glrec.constant_epochs": 1, "backbone.epochs": 1}
PARAMETERS = {"task", "profile", "run", "data", "seed", "device", "overrides"}


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A run of every notebook in order, people and faces, by the command line."""
    run = tmp_path_factory.mktemp("reproduce") / "run"
    arguments = ["reproduce", "--profile", "tiny", "--task", "all", "--run", str(run)]
    for key, value in TINY.items():
        arguments += ["--set", f"{key}={value}"]
    assert main(arguments) == 0
    return run, arguments


def test_reproduce_runs_every_notebook_and_leaves_what_the_interface_names(executed):
    run, _ = executed
    names = {path.name for path in (run / "notebooks").glob("*.ipynb")}
    assert names == {f"{task}_{path.name}" for path in NUMBERED for task in TASKS}
    for part in ("manifest.json", "results.csv", "data/truth.csv", "person/glrec/log.jsonl", "face/partial-lfw.csv"):
        assert (run / part).is_file()
    assert (run / "figures/overview.png").is_file() and (run / "figures/figure1.png").is_file()
    assert all((run / task / "joint/ppcl/seed0/checkpoint.safetensors").is_file() for task in TASKS)
    table = pandas.read_csv(run / "results.csv")
    assert {"partial-reid", "partial-ilids", "lfw", "partial-lfw"} <= set(table.dataset)
    assert {"single-shot", "verification", "input-ratio", "truth"} <= set(table.protocol) and table.synthetic.all()
    manifest = json.loads((run / "manifest.json").read_text())
    assert {"seed", "commit", "dirty", "versions", "device", "recipes", "seconds"} <= manifest.keys()
    assert manifest["data"]["pictures"]["market1501/train"] == 60 and len(manifest["data"]["sha256"]) == 64
    assert manifest["data"]["pictures"]["casia-webface/train"] == 60
    assert set(manifest["seconds"]) == {f"{task}_{path.stem}" for path in NUMBERED for task in TASKS}


def test_reproduce_again_runs_nothing(executed, capsys):
    run, arguments = executed
    before = {path: path.stat().st_mtime_ns for path in (run / "notebooks").iterdir()}
    assert main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (run / "notebooks").iterdir()}
    said = capsys.readouterr()
    assert said.out.count("done before") == len(TASKS) * len(NUMBERED) and said.err == ""
    count = len(TASKS) * len(NUMBERED)
    assert said.out.splitlines()[-1].startswith(f"{count} notebooks: 0 ran now, {count} had run before; ")


def test_a_notebook_is_done_only_while_what_it_made_is_there(executed):
    run, _ = executed
    wanted = recipe("person", "tiny", **TINY)
    lost = {"02_glrec_pretraining": "person/glrec/checkpoint.safetensors", "05_evaluation": "results.csv"}
    lost |= {"03_backbone_training": "person/backbone/checkpoint.safetensors", "07_figures": "figures/figure1.png"}
    lost["04_joint_training"] = "person/joint/ppcl/seed0/checkpoint.safetensors"
    assert {path.stem for path in NUMBERED} > set(lost)
    known = reproduce.pictures(run / "data", wanted), {}
    for path in NUMBERED:
        arguments = path.stem, run, wanted, 0, reproduce.read_by(path.stem, "person", *known)
        assert reproduce._left(*arguments)
        if made := lost.get(path.stem):
            away = (run / made).rename(run / "away")
            assert not reproduce._left(*arguments)
            away.rename(run / made)
    assert not reproduce._left("05_evaluation", run, wanted, 1, reproduce.read_by("05_evaluation", "person", *known))


def test_an_executed_copy_names_the_weights_that_it_used(executed):
    run, _ = executed
    for path in NUMBERED:
        used = reproduce._stamp(run / "notebooks" / f"person_{path.name}")["weights"]
        assert used == reproduce._weights(run, used)
        assert ("person/glrec/checkpoint.safetensors" in used) == (path.stem[:2] not in ("01", "08"))
        assert path.stem[:2] not in ("05", "06", "07", "09") or "person/joint/ppcl/seed0/checkpoint.safetensors" in used


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_copy_counts_as_none(tmp_path, content):
    (tmp_path / "copy.ipynb").write_text(content)
    assert reproduce._stamp(tmp_path / "copy.ipynb") == {} == reproduce._stamp(tmp_path / "none.ipynb")


def test_another_seed_is_refused_before_anything_is_done(executed, capsys):
    run, arguments = executed
    before = {
        path: path.read_bytes() for path in (run / "manifest.json", run / "notebooks/person_01_data_preparation.ipynb")
    }
    assert main([*arguments, "--seed", "3", "--only", "01"]) == 1
    assert "seed is 0 there, 3 here" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_reproduce_ends_with_its_numbers_and_where_everything_lies(executed, capsys):
    run, arguments = executed
    assert main([*arguments, "--only", "01"]) == 0
    said = capsys.readouterr().out
    for (name, metric), task in ((("partial-reid", "mAP"), "person"), (("lfw", "accuracy"), "face")):
        rows = pandas.read_csv(run / "results.csv")
        rows = rows[(rows.dataset == name) & (rows.metric == metric) & (rows.subset == "all") & (rows.method == "ppcl")]
        value, low, high = (
            100 * rows[rows.protocol.isin(["single-shot", "verification"])].iloc[0][["value", "low", "high"]]
        )
        table = said.partition(f"{task}, drawn pictures")[2]
        line = next(line for line in table.splitlines() if line.startswith("ppcl "))
        assert f"{name} {metric}" in table.splitlines()[1] and f"{value:.1f} [{low:.1f}, {high:.1f}]" in line
    assert re.search(r"all stages and notebooks: .+, up to \d\.\d GiB a process", said)
    paths = re.findall(r"^(?:numbers|figures|notebooks|report): +(.+)$", said, re.M)
    assert len(paths) == 4 and all(Path(path).exists() for path in paths)


def test_the_report_has_every_notebook_and_every_figure_says_what_it_is_made_of(executed):
    run, _ = executed
    pages = {path.stem for path in (run / "report").iterdir()}
    assert pages == {"index"} | {f"{task}_{path.stem}" for path in NUMBERED for task in TASKS}
    index = (run / "report/index.html").read_text()
    figures = sorted((run / "figures").glob("*.png"))
    assert len(figures) > 10 and all(f'src="../figures/{path.name}"' in index for path in figures)
    for path in figures:
        assert path.with_suffix(".pdf").is_file()
        with Image.open(path) as picture:
            words = picture.info["Description"]
        if path.stem.startswith("performance"):
            assert re.search(r"cores?: \d{4}-\d\d-\d\d, commit \w+", words)
        else:
            shown, _, note = words.partition("; ")
            assert note == "drawn pictures, tiny profile, seed 0" and shown


def test_nothing_that_differs_between_runs_is_kept_in_a_notebook(executed):
    run, _ = executed
    for path in (run / "notebooks").glob("*.ipynb"):
        for cell in code_cells(path):
            for output in cell.outputs:
                assert output.get("name") != "stderr", (path.name, output.text)
                assert not re.search(r"\bleft$|\d+ s\b", output.get("text", ""), re.M), (path.name, output.text)
    assert not (run / ".progress").exists()


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_a_notebook_runs_alone_or_says_which_one_makes_what_it_needs(path, drawn, tmp_path, capsys):
    number = path.name[:2]
    status = main(
        ["reproduce", "--profile", "tiny", "--task", "person", "--run", str(tmp_path / "run"), "--data", str(drawn)]
        + [
            "--only",
            number,
            "--set",
            "glrec.epochs=2",
            "--set",
            "glrec.constant_epochs=1",
            "--set",
            "backbone.epochs=1",
        ]
    )
    said = capsys.readouterr().err
    if number in ("01", "02", "03", "08"):
        assert status == 0
    else:
        assert status == 1 and len(said.strip().splitlines()) == 1
        assert path.name in said and re.search(r"train that stage first|notebook 0\d_|train joint", said)


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_the_form_of_a_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    code = code_cells(path)
    assert all(line.startswith(("import ", "from ")) for line in code[0].source.splitlines() if line.strip()) or (
        "import ppcl" in code[0].source
    )
    assert code[1].metadata.get("tags") == ["parameters"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    values = {}
    for node in ast.parse(code[1].source).body:
        assert isinstance(node, ast.Assign)
        values[node.targets[0].id] = ast.literal_eval(node.value)
    assert set(values) == PARAMETERS and values["profile"] == "demo"
    assert sum(len([x for x in cell.source.splitlines() if x.strip()]) for cell in code) <= 80
    for cell in code:
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M))):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 3
    assert "assert " in "".join(cell.source for cell in code)
    question, answer = (cell.source.split("\n\n") for cell in (first, notebook.cells[-1]))
    assert "?" in question[1] and answer[-2].startswith("**Answer.**") and "Next" in answer[-1]


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_every_table_and_figure_is_explained_in_two_sentences(path):
    words, shown = "", 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            words = cell.source
        elif any({"text/html", "image/png", "image/jpeg"} & output.get("data", {}).keys() for output in cell.outputs):
            prose = re.sub(r"^[#|][^\n]*|\$\$.*?\$\$", "", words, flags=re.M | re.S)
            assert len(re.findall(r"[.?](?=[*)]*(?:\s|$))", prose)) >= 2, f"{cell.source[:60]}: {words[:200]}"
            shown += 1
    assert shown >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_was_executed_once_in_order_without_errors(path):
    assert path.stat().st_size <= 500_000
    text = path.read_text()
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users|mnt)/", text)
    for count, cell in enumerate(code_cells(path), 1):
        assert cell.execution_count == count
        assert all(output.output_type != "error" for output in cell.outputs)


def test_only_names_what_there_is(capsys):
    assert main(["reproduce", "--only", "42"]) == 1
    assert "42" in capsys.readouterr().err
