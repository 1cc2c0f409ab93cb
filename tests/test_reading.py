"""What a reader of the library can count on: every file and name says what it is, and nothing lies there unused."""

import ast
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from conftest import blocks

import ppcl
from ppcl import plots
from ppcl.data.image_bank import ImageBank
from ppcl.runs import reproduce

ROOT = Path(ppcl.__file__).parent
FILES = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def public(node, above=""):
    """The public functions, classes and methods in a module or class, with their dotted names."""
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            yield above + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{above}{child.name}.")


def test_every_module_and_every_public_name_says_what_it_is():
    silent = [path.name for path, tree in FILES.items() if not ast.get_docstring(tree)]
    silent += [
        f"{path.name}: {name}"
        for path, tree in FILES.items()
        for name, node in public(tree)
        if not ast.get_docstring(node)
    ]
    assert not silent


def test_a_docstring_begins_with_one_sentence_on_one_line():
    """So that it can be read in a list."""
    for path, tree in FILES.items():
        for name, node in [("", tree), *public(tree)]:
            first, _, rest = ast.get_docstring(node).partition("\n")
            assert first[-1] in ".:?" + "`" + ")" and (not rest or rest.startswith("\n")), (path.name, name, first)


def test_every_public_name_is_used():
    """In the library, a notebook or the README; what only a test calls is nobody's."""
    cells = [json.loads(path.read_text())["cells"] for path in reproduce.NOTEBOOKS.glob("*.ipynb")]
    text = "\n".join("".join(cell["source"]) for some in cells for cell in some)
    text += "\n".join(path.read_text() for path in FILES) + (ROOT.parent / "README.md").read_text()
    words = Counter(re.findall(r"\w+", text))
    unused = [
        f"{path.name}: {name}"
        for path, tree in FILES.items()
        for name, _ in public(tree)
        if "." not in name and words[name] < 2
    ]
    assert not unused


def test_the_overview_shows_the_first_query_that_was_taken_for_partial(draw):
    """Its panels are that query, the query placed, and its nearest pictures, judged and in order."""
    queries = ImageBank(blocks(3, draw), torch.zeros(3))
    gallery = ImageBank(blocks(5, draw), torch.zeros(5))
    boxes = torch.tensor([[0.5, 0.5, 1, 1], [0.5, 0.25, 1, 0.5], [0.5, 0.75, 1, 0.5]])
    order = np.array([[0, 1, 2, 3], [4, 2, 0, 1], [3, 1, 0, 2]])
    correct = order == order[:, :1]
    regions = torch.full((3, 4, 4), 0.5)
    figure = plots.overview(queries, boxes, torch.tensor([False, True, True]), gallery, order, regions, correct)
    shown = [one.images[0].get_array() for one in figure.axes]
    assert len(shown) == 5
    np.testing.assert_allclose(shown[0], plots.pixels(queries.images[1]))
    np.testing.assert_allclose(shown[1], plots.pixels(plots.placed(queries.images[1], boxes[1])))
    for picture, index in zip(shown[2:], order[1], strict=False):
        np.testing.assert_allclose(picture, plots.pixels(gallery.images[index]))
    signs = [[text.get_text() for text in one.texts] for one in figure.axes]
    assert signs == [[], [], ["✓"], ["✗"], ["✗"]]
    assert [len(one.patches) for one in figure.axes] == [0, 1, 1, 0, 0]
    figure = plots.overview(queries, boxes, torch.zeros(3), gallery, order, regions, correct)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), plots.pixels(queries.images[0]))
