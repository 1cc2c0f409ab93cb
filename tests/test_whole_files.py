"""Every file that a run writes is there whole or not at all, whatever ends the writing; the command says so in a line.

Each writer in turn meets a disk that is full when its file is half written, or when the file is to get its name.
"""

import ast
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
import torch
from conftest import FAST, another_process, by_commands, failure
from PIL import Image

import ppcl
from ppcl import bench
from ppcl.__main__ import main
from ppcl.data import datasets
from ppcl.disk import files, locks
from ppcl.evaluation import results
from ppcl.runs import reproduce
from ppcl.training import stage_on_disk

ROOT, SOURCES = Path(ppcl.__file__).parent.parent, (".py", ".ipynb")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FORMER = {"manifest.json": "{}", "record.json": "{}", "results.csv": ",".join(results.COLUMNS) + "\n\n"}
FORMER |= {"person_01_one.ipynb": '{"metadata": {}}', "drawn.txt": "people: drawing 2, seed 0, scale tiny\n\n"}
PICTURE = "Partial_iLIDS/Probe/001.jpg"


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """A run whose three stages were trained. Copy it."""
    return by_commands(tmp_path_factory.mktemp("trained") / "run", drawn)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a notebook, which runs at once and leaves a figure and a table, for `reproduce --publish`."""
    root = tmp_path / "project"
    run = root / "runs/demo"
    for folder in ("notebooks", "figures"):
        (root / folder).mkdir(parents=True)
    kernel = {
        "kernelspec": {"name": "python3", "display_name": "", "language": ""},
        "language_info": {"name": "python"},
    }
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")], metadata=kernel)
    for name in ("notebooks/01_one.ipynb", "notebooks/explore.ipynb"):
        nbformat.write(notebook, root / name)
    (root / "README.md").write_text("before {} between {} after".format(*reproduce.MARKS))

    def execute(source, target, *_, **__):
        shutil.copy(source, target)
        (run / "figures").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(run / "figures/a.png")
        (run / "results.csv").write_text(",".join(results.COLUMNS) + "\n")

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    for name, value in {
        "ROOT": root,
        "NOTEBOOKS": root / "notebooks",
        "EXPLORE": root / "notebooks/explore.ipynb",
    }.items():
        monkeypatch.setattr(reproduce, name, value)
    return root


@contextmanager
def full_disk(patch, when, name):
    """A disk that is full when the file of this name is half written, or when it is renamed to it."""
    flush, replace = files.flush, os.replace

    def half(path):
        if path == files.temporary_name(path.with_name(name)):
            os.truncate(path, path.stat().st_size // 2)
            raise FULL
        flush(path)

    def renamed(source, target):
        if Path(target).name == name:
            raise FULL
        replace(source, target)

    with patch.context() as here:
        here.setattr(*((files, "flush", half) if when == "written" else (os, "replace", renamed)))
        yield


@contextmanager
def small_files(limit):
    """No file may become larger than so many bytes: what is written beyond fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def left_over(folder):
    return [*folder.rglob(".*.tmp")]


def commands(top, drawn):
    """The command that writes each file below `top`."""
    run, out = top / "run", top / "out"
    train = ["train", "glrec", "--run", top / "fresh", "--data", drawn, *FAST]
    evaluate = ["evaluate", "--run", run, "--data", drawn, "--dataset", "partial-ilids", "--json", out / "rows.json"]
    whole = drawn / "Partial-REID_Dataset/whole_body_images"
    rank = ["rank", "--run", run, "--query", min(whole.glob("*.jpg"), default=""), "--gallery", whole, "--out", out]
    people = ["data", "synthesise", "--scale", "tiny", "--out", top / "people"]
    publish = ["reproduce", "--task", "person", "--data", drawn, "--publish"]
    return {
        "fresh/person/glrec/checkpoint.safetensors": train,
        "fresh/person/glrec/log.jsonl": train,
        "fresh/manifest.json": train,
        "run/results.csv": evaluate,
        "out/rows.json": evaluate,
        "out/ranking.csv": rank,
        "out/ranking.pdf": rank,
        "out/ranking.png": rank,
        "people/drawn.txt": people,
        f"people/{PICTURE}": people,
        "people/truth.csv": people,
        "faces/pairs.txt": ["data", "synthesise", "--task", "face", "--scale", "tiny", "--out", top / "faces"],
        "record.json": ["bench", "--json", top / "record.json"],
        "project/runs/demo/manifest.json": publish,
        "project/runs/demo/notebooks/person_01_one.ipynb": publish,
        "project/notebooks/01_one.ipynb": publish,
        "project/notebooks/explore.ipynb": publish,
        "project/figures/a.png": publish,
        "project/figures/results.csv": publish,
        "project/README.md": publish,
        "project/figures/ablations.csv": [*publish, "--set", "joint.epochs=1"],
    }


@pytest.mark.parametrize("target", commands(Path(), Path()))
def test_a_full_disk_leaves_the_former_file_and_one_line(
    target, trained, drawn, faces, project, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bench, "ITEMS", ())  # measure nothing
    monkeypatch.setattr(bench, "costs", lambda *_: [])
    monkeypatch.setattr(reproduce, "ROOM", {"demo": 0})
    command, path = commands(tmp_path, drawn)[target], tmp_path / target
    if "project" in target:
        command += ["--run", project / "runs/demo"]
    if target.startswith("people"):
        shutil.copytree(drawn, tmp_path / "people")
    elif target.startswith("faces"):
        shutil.copytree(faces, tmp_path / "faces")
    elif target.startswith(("run", "out")):
        shutil.copytree(trained, tmp_path / "run")
    path.parent.mkdir(parents=True, exist_ok=True)
    old = None
    if path.name == "truth.csv" or path.suffix in (".jpg", ".safetensors"):
        path.unlink(missing_ok=True)  # it is not made again
    elif target != "fresh/person/glrec/log.jsonl":
        if "project" not in target or path.name not in ("01_one.ipynb", "explore.ipynb", "README.md"):
            path.write_text(FORMER.get(path.name, "former\n"))
        old = path.read_bytes()
    for when in ("written", "renamed") if target != f"people/{PICTURE}" else ("renamed",):
        with full_disk(monkeypatch, when, path.name):
            status, lines = failure(capsys, command)
        assert status == 1 and len(lines) == 1
        assert "no room left on the disk" in lines[0] or "could not be written" in lines[0]
        assert (path.read_bytes() if path.exists() else None) == old
        assert left_over(tmp_path) == []
    assert failure(capsys, command)[0] == 0
    assert path.stat().st_size and path.read_bytes() != old and left_over(tmp_path) == []


@pytest.mark.parametrize(
    "command, limit, left",
    [
        (["train", "glrec", "--run", "new"], 40, {"new/person/glrec/.lock", "new/person/glrec/log.jsonl"}),
        (["train", "glrec", "--run", "new"], 3000, {"new/person/glrec/.lock", "new/person/glrec/log.jsonl"}),
        (["data", "synthesise", "--scale", "tiny", "--out", "new"], 300, {"new/drawn.txt", "new/.merging"}),
        (["evaluate", "--run", "run", "--dataset", "partial-ilids"], 3000, {"run/person/partial-ilids-*-seed0.json"}),
        (
            ["rank", "--run", "run", "--query", "q.jpg", "--gallery", "some", "--out", "new"],
            3000,
            {"new/ranking.csv"},
        ),
    ],
    ids=["log", "checkpoint", "pictures", "results", "figure"],
)
def test_files_that_may_not_grow(command, limit, left, trained, drawn, tmp_path, capsys, monkeypatch):
    """The system itself ends the writing, somewhere in the middle; then there is room, and the command goes on."""
    monkeypatch.chdir(tmp_path)
    whole = sorted((drawn / "Partial-REID_Dataset/whole_body_images").glob("*.jpg"))
    Path("some").mkdir()
    for picture, copy in zip(whole, ("q.jpg", "some/a.jpg", "some/b.jpg"), strict=False):
        shutil.copy(picture, copy)
    shutil.copytree(trained, "run", ignore=shutil.ignore_patterns("galleries"))  # which other tests' searches leave
    command = command + {"train": ["--data", drawn, *FAST], "evaluate": ["--data", drawn]}.get(command[0], [])
    before = {path for path in Path().rglob("*") if path.is_file()}
    with small_files(limit):
        status, lines = failure(capsys, command)
    assert status == 1 and len(lines) == 1
    assert "no room left on the disk" in lines[0] or "could not be written" in lines[0]
    fresh = {path for path in Path().rglob("*") if path.is_file() and path not in before}
    fresh.discard(Path("run/person/galleries/digests.npy"))  # kept only of pictures that are some seconds old
    assert fresh == {path for name in left for path in Path().glob(name)} and len(fresh) == len(left)
    assert failure(capsys, command) == (0, []) and left_over(tmp_path) == []
    if command[0] == "train":
        logs = [Path(run, "person/glrec/log.jsonl").read_text() for run in ("new", "run")]
        assert logs[0] == logs[1]


def contents(folder):
    """Names and bytes of all that was drawn; `decoded` holds what reading keeps."""
    found = [path for path in folder.rglob("*") if path.is_file() and "decoded" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_a_run_without_the_results_of_a_task_publishes_nothing(project, drawn, capsys):
    row = dict.fromkeys(results.COLUMNS, "a") | dict.fromkeys(["value", "low", "high"], 0.5)
    row |= {"n_query": 1, "n_gallery": 1, "seed": 0, "synthetic": True, "task": "face"}
    results.add(project / "figures", [row])
    names = ("notebooks/01_one.ipynb", "README.md", "figures/results.csv")
    before = [(project / name).read_bytes() for name in names]
    call = ["reproduce", "--task", "person", "--data", drawn, "--publish", "--run", project / "runs/demo"]
    status, lines = failure(capsys, call)
    assert status == 1 and "no results of task face, which are published" in lines[0]
    assert before == [(project / name).read_bytes() for name in names] and not [*(project / "figures").glob("*.png")]


def test_a_set_whose_drawing_was_killed_is_nobodys_photographs(drawn, tmp_path, capsys):
    """Killed in the middle of a picture; until its drawing is finished, nothing is trained or evaluated on it."""
    data, count = tmp_path / "data", 30
    code = """
        from ppcl.drawn import people

        replace, done = os.replace, []

        def die(*names):
            done.append(names)
            replace(*names) if len(done) < int(sys.argv[2]) else os.kill(os.getpid(), signal.SIGKILL)

        os.replace = die
        people.draw_people(Path(sys.argv[1]), 0, "tiny", True)
    """
    assert another_process(code, data, count).wait() == -signal.SIGKILL
    assert len(left_over(data)) == 1 and len([*data.rglob("[!.]*.jpg")]) == count - 2  # and the note
    status, lines = failure(capsys, ["train", "glrec", "--run", tmp_path / "run", "--data", data, *FAST])
    assert status == 1 and len(lines) == 1 and not (tmp_path / "run").exists()
    told = lines[0].partition("finishes it: python -m ")[2].split()
    assert {row["status"] for row in datasets.check(data, "person") if row["pictures"]} == {"unreadable"}
    for picture, size in zip(sorted(data.rglob("[!.]*.jpg")), (0, 100), strict=False):
        os.truncate(picture, size)  # a power failure
    assert main(told[1:]) == 0 and contents(data) == contents(drawn)


def test_what_a_killed_process_had_begun_is_cleared_by_the_next_that_writes_the_file(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = files.HOST
    names = [f".a.csv.{host}-{dead.pid}.tmp", f".b.csv.{host}-{dead.pid}.tmp", f".a.csv.{host}-{os.getppid()}.tmp"]
    names += [".a.csv.mine.tmp", f".a.csv.another-{dead.pid}.tmp", f".a.csv.another_{host}-{dead.pid}.tmp"]
    for name in names:
        (tmp_path / name).write_text("half")
    files.write_text(tmp_path / "a.csv", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", *names[1:]}


def test_content_is_on_the_disk_before_its_name_and_the_log_before_the_checkpoint(
    tiny, untrained, tmp_path, monkeypatch
):
    seen, flush, replace = [], files.flush, os.replace
    for module in (files, stage_on_disk):
        monkeypatch.setattr(module, "flush", lambda path: (seen.append(path.name), flush(path)))
    monkeypatch.setattr(os, "replace", lambda *names: (seen.append("named"), replace(*names)))
    pictures = SimpleNamespace(train=range(60), labels=torch.zeros(60), pictures="", classes=5, name="market1501/train")
    stage = stage_on_disk.Stage(tmp_path, tiny, pictures, "joint", 0, "ppcl")
    stage.resume(untrained, torch.optim.SGD(untrained.parameters(), 0.1))
    seen.clear()
    stage.values = {}
    stage._log(0)
    stage._save(1)
    temporary = f".checkpoint.safetensors.{files.HOST}-{os.getpid()}.tmp"
    assert seen == ["log.jsonl", temporary, "named", stage.path.parent.name]


def test_two_that_add_results_at_once_lose_none(tmp_path, monkeypatch):
    """The second comes between the first one's reading and its writing, and waits for a while."""
    row = dict.fromkeys(results.COLUMNS, "a") | dict.fromkeys(["value", "low", "high"], 0.5)
    row |= {"n_query": 1, "n_gallery": 1, "seed": 0, "synthetic": True}
    results.add(tmp_path, [row])
    code = """
        import json

        from ppcl.evaluation import results

        read = results.read

        def slow(run):
            found = read(run)
            print("read", flush=True)
            signal.pause()
            return found

        results.read = slow
        signal.signal(signal.SIGUSR1, lambda *_: None)
        results.add(sys.argv[1], [json.loads(sys.argv[2])])
    """
    other = another_process(code, tmp_path, json.dumps(row | {"dataset": "b"}))
    assert other.stdout.readline() == "read\n"
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with pytest.raises(locks.BusyError, match="another process has been writing"):
        results.add(tmp_path, [row | {"dataset": "c"}])
    other.send_signal(signal.SIGUSR1)
    assert other.wait() == 0
    assert list(results.add(tmp_path, [row | {"dataset": "c"}]).dataset) == ["a", "b", "c"]


# --- no writer that goes another way ---

WRITERS = "write_text write_bytes savefig save save_file save_image tofile dump to_csv to_json to_html to_parquet "
WRITERS += "to_pickle touch symlink_to hardlink_to rename copytree copyfile copy2 copyfileobj move serialize_file "
WRITERS = (WRITERS + "execute_notebook NamedTemporaryFile").split()
OURS = "write_text files.write_text kept_features.save plots.save stage.save self.save checkpoints.save".split()
EXEMPT = {
    "files.prepare_streams: open": "in place of a closed stream",
    "files.replacing: os.replace": "what all others go through",
    "records.keep: part.write_bytes": "as files.replacing, but thousands: truth.csv is written once all are there",
    "records.keep: os.replace": "the same",
    "kept_features._write: open": "in a folder that gets its name once it is whole",
    "kept_features.save: temporary.rename": "that name",
    "stage_on_disk._log: open": "only ever grows; a last line that was cut off is dropped when the stage goes on",
    "progress.display: Path.write_text": "progress of a notebook's process while it runs; not a result",
    "reproduce._execute: papermill.execute_notebook": "a hidden draft, for whoever looks for what failed",
}
MEMORY = ("whole", "small", "buffer", "file", "drawing")  # io.BytesIO


def written(source, where):
    """`where.function: call` of everything in a source that writes outside `with replacing(…)`."""
    found = []

    def visit(node, function, whole):
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.With):
            whole = whole or any("replacing(" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call) and not whole and writes(node):
            found.append(f"{where}.{function}: {called(node.func)}")
        for child in ast.iter_child_nodes(node):
            visit(child, function, whole)

    def writes(node):
        name, (first, *rest) = called(node.func), [*map(ast.unparse, node.args), ""]
        last, named = name.rpartition(".")[2], {each.arg: ast.unparse(each.value) for each in node.keywords}
        if name in ("self.open", "Image.open", "os.open"):
            return "os.O_RDONLY" not in rest if name == "os.open" else False
        if last == "open":
            mode = named.get("mode", rest[0] if name == "open" and rest else first if name != "open" else "")
            return bool(mode) and (mode[0] not in "\"'" or bool(set(mode) & set("wax+")))
        if last in ("to_csv", "to_json", "to_html") and not first and "path_or_buf" not in named:
            return False  # it gives the text
        if last == "rename" and not first:
            return False  # a table's columns
        if last in ("save", "savefig") and first in MEMORY and "io.BytesIO()" in source:
            return False
        return name in ("os.replace", "os.rename", "os.link", "shutil.copy") or (
            last in WRITERS and name.removeprefix("ppcl.") not in OURS
        )

    visit(ast.parse(source), "", False)
    return found


def called(function):
    """The dotted name of what is called; of a call's result, the name of that call in front."""
    if isinstance(function, ast.Attribute):
        return f"{called(function.value)}.{function.attr}"
    return called(function.func) if isinstance(function, ast.Call) else ast.unparse(function)


def test_every_file_of_a_run_is_written_through_replacing():
    """A new writer goes through `files.replacing` or `write_text`, or stands in EXEMPT with the reason."""
    found = [
        line
        for path in sorted(Path(ppcl.__file__).parent.rglob("*.py"))
        for line in written(path.read_text(), path.stem)
    ]
    assert sorted(set(found)) == sorted(EXEMPT)
    for path in (Path(ppcl.__file__).parent.parent / "notebooks").glob("*.ipynb"):
        cells = (cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        assert [line for cell in cells for line in written(cell.source, path.stem)] == []


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w').read()",
        "open(path, mode=how)",
        "path.open('ab')",
        "os.open(path, os.O_WRONLY)",
        "path.write_text(text)",
        "table.to_csv(path)",
        "figure.savefig(path)",
        "Image.open(path).resize(size).save(other)",
        "torch.save(model, path)",
        "numpy.save(path, values)",
        "os.replace(a, b)",
        "shutil.copy(a, b)",
    ],
)
def test_a_writer_that_goes_another_way_is_found(line):
    source = f"def f():\n    {line}\n    with replacing(path) as temporary:\n        {line}\n"
    source += "    open(path), path.open(), open(path, 'rb'), table.to_csv(index=False), one.replace(a, b)\n"
    assert len(written(source, "a")) == 1


# --- text is UTF-8 whatever the locale ---


def unencoded(source):
    """Calls that read or write text in the locale's encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, given = called(node.func), [ast.unparse(each) for each in node.args]
            named = {each.arg: ast.unparse(each.value) for each in node.keywords}
            last, mode = name.rpartition(".")[2], named.get("mode", "".join(given[name == "open" :][:1]))
            text = last in ("TextIOWrapper", "NamedTemporaryFile") or named.get("text") == "True"
            text |= last == "read_text" and not given or "." in name and last == "write_text" and len(given) == 1
            text |= name == "open" and "b" not in mode or last == "open" and mode[:1] == "'" and "b" not in mode
            if text and "encoding" not in named:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "path",
    [path for top in ("ppcl", "notebooks") for path in sorted((ROOT / top).rglob("*.*")) if path.suffix in SOURCES],
    ids=lambda path: path.name,
)
def test_text_is_utf_8_whatever_the_locale(path):
    if path.suffix == ".py":
        assert unencoded(path.read_text(encoding="utf-8")) == []
    else:
        cells = nbformat.read(path, as_version=4).cells
        assert [line for cell in cells if cell.cell_type == "code" for line in unencoded(cell.source)] == []


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'w')",
        "path.open('a')",
        "path.read_text()",
        "path.write_text(text)",
        "subprocess.run(one, text=True)",
    ],
)
def test_text_in_the_locales_encoding_is_found(line):
    assert unencoded(line) and not unencoded(
        line[:-1].rstrip("(") + ("(" if line[-2] == "(" else ", ") + "encoding='utf-8')"
    )
    assert not unencoded("open(path, 'rb'), files.write_text(path, text), path.read_bytes(), Image.open(path)")
