"""`import ppcl` as a notebook of one's own meets it."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ppcl
from ppcl.data import datasets


def test_every_public_name_is_there():
    for name in ppcl.__all__:
        assert getattr(ppcl, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        ppcl.nonsense  # noqa: B018


def test_import_is_light():
    """The heavy parts come when they are first used."""
    code = "import sys, ppcl; print(*[m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_describe_and_match_pictures_of_any_kind(untrained, tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number, (size, mode) in enumerate([((40, 90), "RGB"), ((90, 40), "L"), ((33, 71), "RGBA")]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).convert(mode).save(path)
        paths.append(path)
    query = ppcl.describe(untrained, paths[:2])
    assert len(ppcl.describe(untrained, Image.open(paths[0]))) == 1
    gallery = ppcl.describe(untrained, [Image.open(path) for path in paths], several=False)
    distances = ppcl.match(untrained, query, gallery, shortlist=0, weight=0.5)
    assert distances.shape == (2, 3) and torch.isfinite(distances).all()
    assert query.embedding.shape[1] == 14 and gallery.embedding.shape[1] == 1
    again = ppcl.match(untrained, ppcl.describe(untrained, paths[:2]), gallery, shortlist=0, weight=0.5)
    assert torch.equal(distances, again)
    other = copy.deepcopy(untrained)
    other.backbone.classifier.weight.data.mul_(2)
    for model, mine, theirs, wrong in (
        (other, query, gallery, "queries"),
        (untrained, query, ppcl.describe(other, paths, several=False), "gallery"),
    ):
        with pytest.raises(ValueError, match=f"another model described the {wrong}"):
            ppcl.match(model, mine, theirs, weight=0.5)


@pytest.mark.parametrize("odd", [np.zeros((90, 40, 3), np.uint8), b"\xff\xd8", 3])
def test_describe_names_what_is_no_picture(untrained, odd):
    with pytest.raises(TypeError, match=f"paths, PIL images or an ImageBank, not {type(odd).__name__}"):
        ppcl.describe(untrained, [odd])


def test_a_leading_tilde_is_the_home_folder(untrained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (30, 60)).save(tmp_path / "half.png")
    assert len(ppcl.describe(untrained, "~/half.png", several=False)) == 1
    with pytest.raises(RuntimeError, match=f"{tmp_path}/runs/mine/person/joint/ppcl/.* does not exist"):
        ppcl.load("~/runs/mine")
    chosen, run = ppcl.recipe("person", "tiny"), Path("~/runs/mine")
    ppcl.ready(chosen, "~/runs/mine/data", run, quiet=True)
    pictures = ppcl.training.training_data(chosen, "~/runs/mine/data", quiet=True)
    path = ppcl.training.train_glrec(chosen, pictures, run, quiet=True)
    assert path == tmp_path / "runs/mine/person/glrec/checkpoint.safetensors" and path.is_file()
    assert datasets.check("~/runs/mine/data")[0]["status"] == "drawn" and not Path("~").exists()


def test_load_takes_no_task_for_a_run():
    with pytest.raises(ValueError, match=r"'face' is a task.*load\(task='face'\)"):
        ppcl.load("face")
    assert ppcl.load(None, "face").recipe.task == "face"


def test_load_names_a_task_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="'persn'.*person, face"):
        ppcl.load(tmp_path, "persn")


def test_imports_point_one_way():
    """Along the README's line a file imports nothing that stands to its right."""
    import ast
    from pathlib import Path

    root = Path(ppcl.__file__).parent
    readme = (root.parent / "README.md").read_text()
    line = re.findall("`([a-z_]+)`", readme.split("in which things flow:")[1].split("A file imports")[0])
    rooms = {path.parent.name for path in root.glob("*/__init__.py")}
    assert sorted(line) == sorted({path.stem for path in root.glob("*.py")} - {"__init__"} | rooms)
    for path in root.rglob("*.py"):
        if path.parent == root and path.stem == "__init__":
            continue
        own = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            inside = node.level - 1 < len(path.relative_to(root).parts) - 1  # stays within its own package
            if inside:
                continue
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            for name in names:
                if name in line and name != own:
                    assert line.index(name) < line.index(own), f"{path.name} imports {name}"
