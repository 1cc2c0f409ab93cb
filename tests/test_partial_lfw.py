"""Partial-LFW: made from LFW by a protocol of ours, cropped to an input ratio, written down, or ready-made."""

import csv
import io

import numpy as np
import pytest
from conftest import folders_of_people
from PIL import Image

from ppcl.data import datasets, image_files, partial_protocol
from ppcl.data.datasets import DataError
from ppcl.recipes import recipe


def many(count=40):
    """Every third person has one picture."""
    return {f"P{i:03d}": 1 + i % 3 for i in range(count)}


def protocol(**numbers):
    """A recipe with these numbers of the protocol."""
    return recipe("face", "paper", **{f"partial_lfw.{name}": value for name, value in numbers.items()})


def made(top, chosen=None):
    query, gallery = datasets.evaluation_sets("partial-lfw", top, chosen)
    return [p.stem for p in query.paths], query.boxes.tolist(), [p.stem for p in gallery.paths]


def test_partial_lfw_is_the_same_for_every_copy(tmp_path):
    folders_of_people(tmp_path / "a/lfw", many())
    first = made(tmp_path / "a")
    assert first == made(tmp_path / "a")
    folders_of_people(tmp_path / "b/lfw-deepfunneled/lfw-deepfunneled", many(), order=-1)
    assert first == made(tmp_path / "b")
    others = [made(tmp_path / "a", protocol(seed=seed)) for seed in (1, 2)]
    assert all(a[1] != b[1] and (a[0], a[2]) != (b[0], b[2]) for a, b in ((first, others[0]), others))


@pytest.mark.parametrize("area", [(0.1, 0.6), (0.2, 0.3)])
def test_partial_lfw_by_its_rules(tmp_path, area):
    folders_of_people(tmp_path / "lfw", many(300))
    query, gallery = datasets.evaluation_sets("partial-lfw", tmp_path, protocol(queries=2, area=area))
    several = [i for i in range(300) if i % 3]
    assert gallery.identities.tolist() == several and gallery.boxes is None
    assert query.identities.tolist() == [i for i in several for _ in range(i % 3)]
    assert not set(query.paths) & set(gallery.paths) and len(set(query.paths)) == len(query)
    share = query.boxes[:, 2] * query.boxes[:, 3]
    assert area[0] - 1e-3 < share.min() < area[0] + 0.02 and area[1] - 0.02 < share.max() < area[1] + 1e-3
    low, high = query.boxes[:, :2] - query.boxes[:, 2:] / 2, query.boxes[:, :2] + query.boxes[:, 2:] / 2
    assert low.min() >= -1e-4 and high.max() <= 1 + 1e-4
    assert np.std(query.boxes[:, 2] / query.boxes[:, 3]) > 0.1  # of many shapes


def test_partial_lfw_takes_so_many_people_and_queries(tmp_path):
    folders_of_people(tmp_path / "lfw", {f"P{i}": 4 for i in range(9)})
    query, gallery = datasets.evaluation_sets("partial-lfw", tmp_path, protocol(people=5, queries=2))
    assert len(set(gallery.identities)) == len(gallery) == 5 and len(query) == 10
    assert np.unique(query.identities, return_counts=True)[1].tolist() == [2] * 5
    assert len(datasets.evaluation_sets("partial-lfw", tmp_path, protocol(people=50, queries=9))[0]) == 27


def test_partial_lfw_needs_somebody_twice(tmp_path):
    folders_of_people(tmp_path / "lfw", {"A": 1, "B": 1})
    with pytest.raises(DataError, match="lfw has one picture of each person"):
        datasets.evaluation_sets("partial-lfw", tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 1.0])
def test_input_ratio_is_exact(faces, share):
    query, _ = datasets.evaluation_sets("partial-lfw", faces)
    found = partial_protocol.at_ratio(query, share)
    assert found.paths == query.paths and found.identities is query.identities
    assert found.boxes[:, 2] * found.boxes[:, 3] == pytest.approx(np.full(len(query), share))
    low, high = found.boxes[:, :2] - found.boxes[:, 2:] / 2, found.boxes[:, :2] + found.boxes[:, 2:] / 2
    assert low.min() >= -1e-9 and high.max() <= 1 + 1e-9
    inside = ((low > 1e-9) & (high < 1 - 1e-9)).all(1)
    np.testing.assert_array_equal(found.boxes[inside, :2], query.boxes[inside, :2])
    if share == 1:
        assert {image_files.open_picture(cut).size for cut in found.pictures} == {(112, 112)}


def test_boxes_are_written_as_they_were_drawn(faces):
    query, _ = datasets.evaluation_sets("partial-lfw", faces)
    rows = list(csv.DictReader(io.StringIO(partial_protocol.boxes_csv(query))))
    assert [row["file"] for row in rows] == [f"{p.parent.name}/{p.name}" for p in query.paths]
    assert [[float(row[k]) for k in ("cx", "cy", "w", "h")] for row in rows] == query.boxes.tolist()


def test_query_shows_what_its_box_says(faces):
    query, _ = datasets.evaluation_sets("partial-lfw", faces)
    for cut, (cx, cy, w, h) in zip(query.pictures, query.boxes, strict=True):
        found, whole = np.asarray(image_files.open_picture(cut)), np.asarray(image_files.open_picture(cut.path))
        assert abs(found.shape[1] - 112 * w) <= 0.5 and abs(found.shape[0] - 112 * h) <= 0.5
        left, top = round((cx - w / 2) * 112), round((cy - h / 2) * 112)
        near = [(left + i, top + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if min(left + i, top + j) >= 0]
        parts = [whole[y : y + found.shape[0], x : x + found.shape[1]] for x, y in near]
        assert any(np.array_equal(part, found) for part in parts)


@pytest.mark.parametrize("folder", ["partial", "Partial-LFW", "Partial_LFW"])
def test_ready_made_partial_faces_are_read_as_they_are(tmp_path, folder):
    """Halves that do not show the same people must still number them alike."""
    folders_of_people(tmp_path / "lfw", {"Ann": 2, "Bo": 2})
    halves = {"gallery": ["ann.jpg", "bo.jpg", "zoe_2.png"], "probe": ["bo_1.jpg", "bo_2.jpg", "zoe_1.jpg", "carl.jpg"]}
    for half, names in halves.items():
        (tmp_path / folder / half).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (9, 7)).save(tmp_path / folder / half / name)
    query, gallery = datasets.evaluation_sets("partial-lfw", tmp_path)
    people = ["ann", "bo", "carl", "zoe"]
    assert [people[i] for i in gallery.identities] == ["ann", "bo", "zoe"]
    assert [people[i] for i in query.identities] == ["bo", "bo", "carl", "zoe"]
    assert query.boxes is None and query.folder.name == "probe"
    statuses = {row["part"]: row["status"] for row in datasets.check(tmp_path) if row["dataset"] == "partial-lfw"}
    assert statuses == {"query": "differs", "gallery": "differs"}
    (tmp_path / folder / "gallery").rename(tmp_path / "elsewhere")  # it is not made from lfw instead, without a word
    with pytest.raises(datasets.DataError, match="no gallery.*complete it, or remove it"):
        datasets.evaluation_sets("partial-lfw", tmp_path)
