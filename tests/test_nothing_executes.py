"""Nothing that the library reads is executed, and nothing is fetched unasked: its source and the notebooks say so.

What is read all the same, checkpoints, features and banks whose headers lie, is refused in one line.
"""

import ast
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from conftest import blocks
from safetensors.torch import save_file

import ppcl
from ppcl import evaluation, matching
from ppcl.data.image_bank import ImageBank
from ppcl.disk import checkpoints
from ppcl.models.ppcl import PPCL
from ppcl.recipes import recipe
from ppcl.training import stage_on_disk

ROOT = Path(ppcl.__file__).resolve().parent.parent
PICTURES = SimpleNamespace(name="market1501/train", train=range(60), labels=torch.zeros(60), pictures="", classes=5)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

EXECUTING = "pickle cPickle _pickle dill cloudpickle marshal shelve joblib yaml code codeop runpy imp ctypes".split()
FETCHING = (
    "urllib urllib3 requests http httpx aiohttp ftplib socket socketserver ssl wget gdown boto3 paramiko smtplib "
)
FETCHING = (FETCHING + "huggingface_hub timm transformers kagglehub pip ensurepip asyncio telnetlib webbrowser").split()
CALLS = "eval exec compile __import__ execfile breakpoint".split()
DOTTED = "torch.load torch.hub torch.jit.load torch.package torch.serialization torch.utils.cpp_extension "
DOTTED += "torch.utils.model_zoo pandas.read_pickle numpy.load np.load os.system os.popen os.exec os.spawn builtins. "
DOTTED = tuple((DOTTED + "os.posix_spawn subprocess.getoutput subprocess.getstatusoutput pandas.eval").split())
LAST = "import_module load_state_dict_from_url all_gather_object broadcast_object_list scatter_object_list".split()
KEYWORDS = {"shell", "allow_pickle", "weights_only", "trust_remote_code"}
ALLOWED = {
    "__init__.__getattr__: importlib.import_module": "the library's own parts, each by a name that stands in the file",
    "nets._torchvision: torch.hub": "the same",
    "nets._torchvision: torch.hub.get_dir": "the folder of torchvision's kept weights, whose hashes are checked",
    "nets._torchvision: published.get_state_dict(weights_only)": "torchvision's own way, with nothing but tensors",
    "nets._timm: timm": "timm's own way, where it is installed and a recipe names one of its nets",
    "nets._timm: timm.create_model(pretrained)": "the same",
    "overrides._check_architecture: timm": "the same: the nearest name to a wrong one",
    "results.commit: subprocess.run": "git: the commit, and whether the tree differs from it",
}


def suspicious(source, where=""):
    """What in a source executes data, fetches something or starts a process: `where.function: name`."""
    found = []

    def visit(node, function):
        if isinstance(node, ast.Call) and re.match(r"(np|numpy)\.load\(.*allow_pickle=False", ast.unparse(node)):
            return  # numbers alone
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            function = node.name
        found.extend(f"{where}.{function}: {name}" for name in names(node))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    def names(node):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            modules = [start + each.name for each in node.names]
            far = [m for m in modules if m.partition(".")[0] in EXECUTING + FETCHING or m.startswith("subprocess.")]
            return far + [m for m in modules if m.startswith(DOTTED)]
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            return [name] if name.startswith(DOTTED) or node.attr in LAST else []
        if isinstance(node, ast.Name):
            return [node.id] if node.id in (*CALLS, *LAST) else []
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            some = [f"{name}({each.arg})" for each in node.keywords if each.arg in KEYWORDS]
            if re.match(r"subprocess\.(run|call|check_\w+|Popen)$", name):  # of a list, no shell reads it
                some.append(name if node.args and isinstance(node.args[0], ast.List) else f"{name}(text)")
            if re.match(r"torchvision\.models\.|(.*\.)?(get|create)_model$", name):
                some += [f"{name}({each.arg})" for each in node.keywords if each.arg in ("weights", "pretrained")]
            return some
        remote = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return [node.value] if remote and re.match(r"(https?|ftp|s3|git)://", node.value) else []

    visit(ast.parse(source), "")
    return found


def test_the_library_executes_nothing_that_it_reads_and_fetches_nothing_unasked():
    """Something new of the kind stands in ALLOWED with the reason, or is not done."""
    found = [
        line
        for path in sorted((ROOT / "ppcl").rglob("*.py"))
        for line in suspicious(path.read_text(encoding="utf-8"), path.stem)
    ]
    assert sorted(set(found)) == sorted(ALLOWED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_cells_execute_and_fetch_nothing(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*[!%]", cell.source, re.M)  # a shell's lines, %pip
            assert suspicious(cell.source) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import urllib.request as other",
        "from torch import load, zeros",
        "torch.load(path)",
        "torch.hub.load(a, b)",
        "numpy.fromfile(path, allow_pickle=True)",
        "load(path, weights_only=False)",
        "eval(text)",
        "list(map(eval, texts))",
        "exec(compile(text, 'a', 'exec'))",
        "builtins.exec(text)",
        "__import__(name)",
        "os.system('ls')",
        "from subprocess import run",
        "subprocess.run('ls')",
        "subprocess.run(['ls'], shell=True)",
        "dist.all_gather_object(seen, value)",
        "torchvision.models.resnet18(weights='DEFAULT')",
        "pandas.read_csv('https://example.org/a.csv')",
    ],
)
def test_what_executes_or_fetches_is_found(line):
    assert suspicious(line)
    assert not suspicious("re.compile(text), model.eval(), pandas.read_csv(path), torch.zeros(3)")


# --- headers that lie ---


def raw(header, body=b"", length=None):
    """The bytes of a safetensors file with this header, however wrong it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def taken_apart(path):
    """(header, body) of a file."""
    whole = path.read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8:end]), whole[end:]


NONE = {
    "no end": lambda header, body: raw(header, body, 2**64 - 1),
    "larger than the file": lambda header, body: raw(header, body, 2**40),
    "of nothing": lambda header, body: raw(b"", body),
    "no JSON": lambda header, body: raw(b"{" * 100, body),
    "too deep": lambda header, body: raw(b'{"__metadata__": ' + b"[" * 200_000, body),
    "a list": lambda header, body: raw([1, 2], body),
}


def changed(name, **entries):
    return lambda header, body: raw(header | {name: header[name] | entries}, body)


def told(**facts):
    """Other facts under `ppcl`; None: without it."""

    def write(header, body):
        known = {
            key: value for key, value in (json.loads(header["__metadata__"]["ppcl"]) | facts).items() if value != ""
        }
        return raw(header | {"__metadata__": {"ppcl": json.dumps(known)}}, body)

    return write


FEATURES = NONE | {
    "offsets below 0": changed("gate", data_offsets=[-8, 12]),
    "offsets beyond": changed("gate", data_offsets=[0, 2**62]),
    "offsets as text": changed("gate", data_offsets=["0", "20"]),
    "more pictures than there are": changed("gate", shape=[10**12]),
    "pictures of no size": changed("keys", shape=[10**15, 0, 4, 4]),
    "another shape": lambda header, body: raw(header | {"gate": header["gate"] | {"shape": [5, 1]}}, body),
    "another kind": lambda header, body: raw(header | {"gate": header["gate"] | {"dtype": "I32"}}, body),
    "no kind": changed("gate", dtype="PICKLE"),
    "another number of keys": lambda header, body: raw(
        header | {"visible": header["visible"] | {"shape": header["visible"]["shape"][::-1]}}, body
    ),
    "a tensor less": lambda header, body: raw({key: header[key] for key in header if key != "gate"}, body),
    "no facts": told(facts=""),
    "facts of another kind": told(facts=[1]),
    "format of another kind": told(format="one"),
    "facts too deep": lambda header, body: raw(header | {"__metadata__": {"ppcl": "[" * 200_000}}, body),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_a_checkpoint_whose_header_lies_is_refused(kind, untrained, draw, tmp_path):
    path, facts = tmp_path / "f", {"checkpoint": "abc"}
    described = matching.describe(untrained, ImageBank(blocks(5, draw), torch.zeros(5)))
    save_file(vars(described), path, metadata={"ppcl": json.dumps({"format": 1, "facts": facts})})
    path.write_bytes(FEATURES[kind](*taken_apart(path)))
    with pytest.raises(checkpoints.CheckpointError) as caught:
        checkpoints.load(path, untrained)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


STAGES = {
    "recipe of another kind": {"recipe": [1]},
    "recipe without a task": {"recipe": {"profile": "tiny"}},
    "recipe of nobody": {"recipe": {"task": "person", "profile": "tiny", "input": {"height": "tall"}}},
    "epoch of another kind": {"epoch": "two"},
    "step of another kind": {"step": [2]},
    "without finished": {"finished": None},
    "more people than any memory holds": {"classes": 10**12},
    "people of another kind": {"classes": "all"},
    "no people": {"classes": 0},
    "people in halves": {"classes": 5.0},
    "weights of another kind": {"fusion_weights": 3},
}


@pytest.mark.parametrize("kind", STAGES)
def test_a_stage_whose_header_lies_is_refused(kind, tmp_path):
    path = evaluation.checkpoint(tmp_path, "person", "ppcl")
    path.parent.mkdir(parents=True)
    facts = {"format": 1, "stage": "joint", "recipe": recipe("person", "tiny").to_dict(), "epoch": 1, "finished": True}
    facts |= {"classes": 5, "fusion_weights": {}}
    tensors = {f"model.{name}": value for name, value in PPCL(recipe("person", "tiny"), 5).state_dict().items()}
    save_file(tensors, path, metadata={"ppcl": json.dumps(facts)})
    assert evaluation.load(tmp_path, "person").classes == 5
    save_file(tensors, path, metadata={"ppcl": json.dumps(facts | STAGES[kind])})
    words = "not a checkpoint of joint" if STAGES[kind].keys() & {"classes", "fusion_weights"} else None
    with pytest.raises(checkpoints.CheckpointError, match=words) as caught:
        evaluation.load(tmp_path, "person")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    if STAGES[kind].keys() & {"epoch", "step", "finished"} or kind == "recipe of another kind":
        with pytest.raises(checkpoints.CheckpointError, match="no stage's checkpoint"):
            stage_on_disk.Stage(tmp_path, recipe("person", "tiny"), PICTURES, "joint", 0, "ppcl")


def test_people_of_whom_a_file_has_no_numbers_are_none(tmp_path):
    path, facts = evaluation.checkpoint(tmp_path, "person", "ppcl"), {"classes": 10**12, "fusion_weights": {}}
    facts |= {"stage": "joint", "recipe": recipe("person", "tiny").to_dict(), "epoch": 1, "finished": True}
    path.parent.mkdir(parents=True)
    empty = {"model.backbone.classifier.weight": torch.zeros(10**12, 0)}
    save_file(empty, path, metadata={"ppcl": json.dumps(facts | {"format": 1})})
    with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of joint"):
        evaluation.load(tmp_path, "person")


def test_pip_finds_nothing_broken():
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment has no pip")
    found = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
