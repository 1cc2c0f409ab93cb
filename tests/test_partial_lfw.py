"""Partial sets made from whole ones by our protocols, cropped to an input ratio, written down, or ready-made."""

import csv
import io

import numpy as np
import pytest
from conftest import folders_of_people
from PIL import Image

from ppcl import matching
from ppcl.data import datasets, image_files, partial_protocol
from ppcl.data.datasets import DataError
from ppcl.evaluation import known_truth, protocols
from ppcl.models.ppcl import PPCL
from ppcl.recipes import KINDS, recipe


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
    ann, bo, zoe = gallery.identities.tolist()
    assert query.identities.tolist()[:2] == [bo, bo] and query.identities[3] == zoe
    assert len({ann, bo, zoe, query.identities[2]}) == 4 and min(ann, bo, zoe) > 0
    assert query.boxes is None and query.folder.name == "probe"
    for name in ("zoe_1.jpg", "carl.jpg"):  # queries of one person are a test, a gallery of one is none
        (tmp_path / folder / "probe" / name).rename(tmp_path / name)
    assert datasets.evaluation_sets("partial-lfw", tmp_path)[0].identities.tolist() == [bo, bo]
    statuses = {row["part"]: row["status"] for row in datasets.check(tmp_path) if row["dataset"] == "partial-lfw"}
    assert statuses == {"query": "differs", "gallery": "differs"}
    (tmp_path / folder / "gallery").rename(tmp_path / "elsewhere")  # it is not made from lfw instead, without a word
    with pytest.raises(datasets.DataError, match="no gallery.*complete it, or remove it"):
        datasets.evaluation_sets("partial-lfw", tmp_path)


# --- made from a whole set's own queries and gallery ---

NAMES = {"market1501": "{:04d}_c{}s1_00000{}_00.jpg", "cuhk03": "{:04d}_c{}_{}.png"}
FOLDERS = {"market1501": "Market-1501-v15.09.15", "cuhk03": "cuhk03-np/detected"}


def whole_set(top, dataset, people=25):
    """Each person seen by two of three cameras: a query and two gallery pictures of each camera; with a distractor."""
    for part, numbers in {"query": [1], "bounding_box_test": [2, 3], "bounding_box_train": [4]}.items():
        folder = top / FOLDERS[dataset] / part
        folder.mkdir(parents=True)
        for person in range(1, people + 1):
            for camera in {1, 2, 3} - {person % 3 + 1}:
                for number in numbers:
                    Image.new("RGB", (9, 18), (9 * person, 40 * camera, 30 * number)).save(
                        folder / NAMES[dataset].format(person, camera, number)
                    )
    if dataset == "market1501":
        Image.new("RGB", (9, 18)).save(top / FOLDERS[dataset] / "bounding_box_test" / "0000_c1s1_000001_00.jpg")
    return top


@pytest.mark.parametrize("dataset", NAMES)
def test_every_query_of_a_whole_set_is_cropped_once_by_the_rules(tmp_path, dataset):
    whole = datasets.evaluation_sets(dataset, whole_set(tmp_path, dataset))
    query, gallery = datasets.evaluation_sets(f"partial-{dataset}", tmp_path)
    assert query.paths == whole[0].paths and gallery.paths == whole[1].paths and gallery.boxes is None
    assert query.cameras.tolist() == whole[0].cameras.tolist() and len(query) == 50
    kinds = partial_protocol.kinds_of(query.boxes)
    assert {kind: (kinds == kind).sum() for kind in KINDS} == dict.fromkeys(KINDS, 10)
    low, high = query.boxes[:, :2] - query.boxes[:, 2:] / 2, query.boxes[:, :2] + query.boxes[:, 2:] / 2
    assert low.min() >= -1e-4 and high.max() <= 1 + 1e-4
    for kind, axis, start in (("left", 0, True), ("right", 0, False), ("upper", 1, True), ("lower", 1, False)):
        box = query.boxes[kinds == kind]
        assert (box[:, 3 - axis] == 1).all() and (0.4 <= box[:, 2 + axis]).all() and (box[:, 2 + axis] <= 0.6).all()
        edge = low[kinds == kind, axis] if start else 1 - high[kinds == kind, axis]
        assert abs(edge).max() < 1e-4
    assert len(np.unique(query.boxes, axis=0)) == 50
    again, _ = datasets.evaluation_sets(f"partial-{dataset}", tmp_path)
    assert np.array_equal(again.boxes, query.boxes)


def test_random_queries_keep_their_area_and_ratio():
    boxes = partial_protocol.query_boxes(5000).numpy().astype(float)
    boxes = boxes[partial_protocol.kinds_of(boxes) == "random"]
    area, ratio = boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3]
    assert len(boxes) == 1000
    assert area.min() == pytest.approx(0.25, abs=0.01) and area.max() == pytest.approx(0.6, abs=0.01)
    assert ratio.min() == pytest.approx(0.7, abs=0.01) and ratio.max() == pytest.approx(1.4, abs=0.01)
    assert area.min() > 0.2499 and area.max() < 0.6001 and ratio.min() > 0.6999 and ratio.max() < 1.4001


@pytest.mark.parametrize("dataset", NAMES)
def test_the_camera_rule_holds_in_both_protocols(tmp_path, tiny, dataset):
    """Single-shot draws one picture of another camera for each person; the slow version goes query by query."""
    found = protocols.prepare(f"partial-{dataset}", whole_set(tmp_path, dataset), tiny, quiet=True)
    model = PPCL(tiny, 5, "backbone").eval()
    query = matching.describe(model, found.query_bank, True).as_queries(slice(None))
    gallery = matching.describe(model, found.gallery_bank)
    matched = protocols._matched(found, model, query, gallery)
    ranked, distances, seen = protocols._rankings(found, matched), matched[0][0][2], set()
    shots = {i: columns for rows, columns in protocols.single_shots(found) for i in rows}
    for i in range(len(found.query)):
        person, camera = found.query.identities[i], found.query.cameras[i]
        for draw, columns in enumerate(shots[i]):
            assert sorted(found.gallery.identities[columns]) == list(range(1, 26))
            assert (found.gallery.cameras[columns] != camera).all()
            seen.add(tuple(columns))
            mine = distances[i, columns[found.gallery.identities[columns] == person]]
            others = distances[i, columns[found.gallery.identities[columns] != person]]
            assert ranked["single-shot"][draw].first[i] == (others <= mine).sum()
        true = found.gallery.identities == person
        valid = true & (found.gallery.cameras != camera)
        assert ranked["all-shot"][0].first[i] == (distances[i, ~true] <= distances[i, valid].min()).sum()
    assert len(ranked["single-shot"]) == 10 and len(seen) == 30
    assert set(known_truth.subsets(found)) >= {"all", *KINDS}


@pytest.mark.parametrize("dataset", NAMES)
def test_a_made_test_is_found_where_its_whole_set_lies(tmp_path, drawn, dataset):
    whole_set(tmp_path, dataset)
    assert datasets.available(tmp_path) == [dataset, f"partial-{dataset}"]
    assert datasets.partial_sets(tmp_path, "person") == [f"partial-{dataset}"]
    rows = [row for row in datasets.check(tmp_path, "person") if row["dataset"] == f"partial-{dataset}"]
    assert [(row["part"], row["status"], row["pictures"]) for row in rows[:2]] == [
        ("query", "made", 50),
        ("gallery", "made", 100 + (dataset == "market1501")),
    ]
    assert f"made from {dataset}" in rows[0]["note"]
    assert "partial-market1501" not in datasets.available(drawn)  # drawn people have partial sets of their own
    assert not [row for row in datasets.check(drawn) if row["dataset"] in ("partial-market1501", "partial-cuhk03")]
    query, gallery = datasets.evaluation_sets("partial-market1501", drawn)  # where it is named
    assert len(query) == 6 and len(gallery) == 21
    with pytest.raises(DataError, match="no .*query below .*; get cuhk03 from"):
        datasets.evaluation_sets("partial-cuhk03", drawn)
