"""Drawn faces: layouts, counts, pairs, truth, the same bytes again, and no easy way out."""

import csv
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ppcl.data.reading import DataError
from ppcl.drawn.face_looks import face_of
from ppcl.drawn.faces import SCALES, SETS, draw_faces, draw_pairs, plan_pictures
from ppcl.drawn.records import COLUMNS


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("faces")
    draw_faces(out, 0, "tiny", quiet=True)
    return out


def rows_of(folder):
    with (folder / "truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_layout_and_counts(drawn):
    train, test = sorted(drawn.glob("CASIA-WebFace/*")), sorted(drawn.glob("lfw/*"))
    assert [p.name for p in train] == [f"{i:07d}" for i in range(1, 11)] and len(test) == 20
    assert all([p.name for p in sorted(t.iterdir())] == [f"{i:03d}.jpg" for i in range(1, 7)] for t in train)
    assert all([p.name for p in sorted(t.iterdir())] == [f"{t.name}_{i:04d}.jpg" for i in (1, 2)] for t in test)
    assert Image.open(next(test[0].iterdir())).size == (112, 112)


def test_same_seed_same_bytes_and_a_stopped_run_completes_to_them(drawn, tmp_path):
    wanted = contents(drawn)
    draw_faces(tmp_path, 0, "tiny", quiet=True)
    assert contents(tmp_path) == wanted
    kept = tmp_path / "CASIA-WebFace/0000001/001.jpg"
    before = kept.stat().st_mtime_ns
    for name in ("truth.csv", "pairs.txt", "CASIA-WebFace/0000004/002.jpg"):
        (tmp_path / name).unlink()
    draw_faces(tmp_path, 0, "tiny", quiet=True)
    assert contents(tmp_path) == wanted and kept.stat().st_mtime_ns == before


def test_other_seeds_draw_other_faces_and_never_into_the_same_folder(drawn, tmp_path):
    draw_faces(tmp_path, 1, "tiny", quiet=True)
    mine, others = contents(drawn), contents(tmp_path)
    name = "CASIA-WebFace/0000001/001.jpg"
    assert mine[name] != others[name] and mine["pairs.txt"] != others["pairs.txt"]
    for seed, scale in ((1, "tiny"), (-1, "tiny"), (0, "huge")):
        with pytest.raises(DataError):
            draw_faces(drawn, seed, scale, quiet=True)


@pytest.mark.parametrize("scale", ["tiny", "demo", "market"])
def test_pairs(scale):
    plan = SCALES[scale]
    known = Counter(p.identity for p in plan_pictures(plan, 0) if p.dataset == "lfw")
    head, *lines = draw_pairs(plan, 0).splitlines()
    assert head == f"10\t{plan.pairs}" and len(lines) == len(set(lines)) == 20 * plan.pairs
    folds = [set() for _ in range(10)]
    for k, line in enumerate(lines):
        first, i, *rest = line.split("\t")
        same = k // plan.pairs % 2 == 0
        second, j = (first, *rest) if same else rest
        assert len(rest) == (1 if same else 2) and (first == second) == same and (not same or i != j)
        assert 1 <= int(i) <= known[first] and 1 <= int(j) <= known[second]
        folds[k // (2 * plan.pairs)] |= {first, second}
    assert sum(map(len, folds)) == len(set().union(*folds))


def test_published_counts():
    plan = SCALES["market"]
    counts = Counter((p.dataset, p.identity) for p in plan_pictures(plan, 0))
    test = [n for (name, _), n in counts.items() if name == "lfw"]
    assert sum(counts.values()) - sum(test) == 494414 and len(counts) - len(test) == 10575
    assert (len(test), sum(test), sum(n > 1 for n in test)) == (5749, 13233, 1680)


def test_truth(drawn):
    rows = rows_of(drawn)
    assert list(rows[0]) == COLUMNS
    files = {p.relative_to(drawn).as_posix() for p in drawn.rglob("*.jpg")}
    assert {r["file"] for r in rows} == files and len(rows) == len(files)
    assert all(r["file"].split("/")[1] == r["identity"] for r in rows)
    boxes = np.array([[float(r[f"figure_{k}"]) for k in ("cx", "cy", "w", "h")] for r in rows])
    assert np.abs(boxes[:, 0] - 0.5).max() < 0.25 and np.abs(boxes[:, 1] - 0.59).max() < 0.25
    assert boxes[:, 2:].min() > 0.4 and boxes[:, 2:].max() < 1.6  # the largest faces reach out of their picture
    assert 0.85 < np.median(boxes[:, 3]) < 1
    fixed = {(r["view_cx"], r["view_w"], r["kind"], r["camera"]) for r in rows}
    assert fixed == {("0.500000", "1.000000", "whole", "0")}


def test_in_every_five_two_share_the_upper_face_and_two_the_lower():
    for first in (0, 5):
        a, b, c, d, e = (face_of(0, SETS["lfw"], first + i) for i in range(5))
        assert a.upper == b.upper and a.lower != b.lower and a.nose != b.nose
        assert c.lower == d.lower and c.upper != d.upper
        assert e.upper not in (a.upper, c.upper, d.upper)


def test_pixels_do_not_tell_who_it_is(drawn):
    """Nearest neighbours of 20 people by their pixels are mostly wrong, though better than chance (5 %)."""

    def read(number):
        paths = sorted(drawn.glob(f"lfw/*/*_{number:04d}.jpg"))
        pixels = np.stack([np.asarray(Image.open(p).resize((32, 32)), np.float64).ravel() for p in paths])
        pixels -= pixels.mean(1, keepdims=True)
        return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)

    assert (np.argmax(read(1) @ read(2).T, 1) == np.arange(20)).mean() < 0.6
