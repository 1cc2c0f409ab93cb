"""Faces on disk: LFW and its pairs in every spelling, folders of identities, drawn faces, the centre crop."""

import shutil
import unicodedata

import numpy as np
import pytest
from conftest import folders_of_people
from PIL import Image

from ppcl.data import datasets, image_bank
from ppcl.data.datasets import DataError
from ppcl.data.sets import SETS
from ppcl.drawn import people, records
from ppcl.recipes import Data, RecipeError, recipe

PEOPLE = {"Ann_Lee": 3, "Bo": 2, "J.R._Smith": 1, "Zoe": 4}
SAME, OTHER = "Ann_Lee\t1\t3", "Bo\t2\tJ.R._Smith\t1"
GOOD = ["2\t1", SAME, OTHER, "Zoe\t4\t2", "Zoe\t1\tBo\t1"]


def lfw(top, people=PEOPLE, pairs=None):
    """Pictures of these people and a table of pairs among them."""
    folders_of_people(top, people)
    if pairs is not None:
        (top / "pairs.txt").write_bytes("\n".join(pairs).encode())
    return top


def shown(pictures, index):
    return [pictures.paths[i].stem for i in index]


def pair_names(data):
    found, pairs = datasets.verification_set("lfw", data)
    return list(zip(shown(found, pairs.first), shown(found, pairs.second), pairs.same.tolist(), strict=True))


EXPECTED = [
    ("Ann_Lee_0001", "Ann_Lee_0003", True),
    ("Bo_0002", "J.R._Smith_0001", False),
    ("Zoe_0004", "Zoe_0002", True),
    ("Zoe_0001", "Bo_0001", False),
]

# --- folds ---

FOLDS = {"Ann": 2, "Bo": 1, "Cy": 3, "Di": 1, "Eve": 2, "Flo": 1, "Gus": 4, "Hal": 1}  # Gus and Hal: in no pair
FOLD_PAIRS = ["3\t1", "Ann\t1\t2", "Ann\t1\tBo\t1", "Cy\t1\t3", "Cy\t2\tDi\t1", "Eve\t1\t2", "Eve\t1\tFlo\t1"]


def names_of(pictures):
    return {path.parent.name for path in pictures.paths}


def test_tested_folds_share_nobody_with_the_people_trained_on(tmp_path):
    lfw(tmp_path / "lfw", FOLDS, FOLD_PAIRS)
    chosen = recipe("face", **{"data.folds": "3,1"})
    found, pairs = datasets.verification_set("lfw", tmp_path, chosen.data)
    assert shown(found, pairs.first) == ["Ann_0001", "Ann_0001", "Eve_0001", "Eve_0001"]
    assert shown(found, pairs.second) == ["Ann_0002", "Bo_0001", "Eve_0002", "Flo_0001"]
    assert pairs.same.tolist() == [True, False] * 2 and pairs.folds == 2
    assert datasets.trained_on("face", tmp_path, chosen.data).name == "lfw"
    assert names_of(datasets.training_set("face", tmp_path, chosen.data)) == {"Cy", "Di", "Gus", "Hal"}
    query, gallery = datasets.evaluation_sets("partial-lfw", tmp_path, chosen)
    assert names_of(query) == names_of(gallery) == {"Ann", "Eve"}
    assert names_of(datasets.evaluation_sets("partial-lfw", tmp_path, recipe("face"))[0]) == {"Ann", "Cy", "Eve", "Gus"}


def test_tested_folds_without_training_on_the_others(tmp_path):
    lfw(tmp_path / "lfw", FOLDS, FOLD_PAIRS)
    lfw(tmp_path / "CASIA-WebFace", {"1": 2, "2": 2})
    chosen = recipe("face", **{"data.folds": "1,2", "data.training": "casia-webface"})
    assert datasets.training_set("face", tmp_path, chosen.data).name == "casia-webface/train"
    assert names_of(datasets.evaluation_sets("partial-lfw", tmp_path, chosen)[0]) == {"Ann", "Cy"}


def test_folds_that_are_not_there_and_a_partial_set_of_unknown_people_are_refused(tmp_path):
    lfw(tmp_path / "lfw", FOLDS, FOLD_PAIRS)
    with pytest.raises(DataError, match="data.folds=1,4: the pairs have folds 1 to 3, and no 4"):
        datasets.verification_set("lfw", tmp_path, Data(folds="1,4"))
    for half in ("probe", "gallery"):
        folder = tmp_path / "partial" / half
        folder.mkdir(parents=True)
        for name in ("Ann", "Cy"):
            Image.new("RGB", (8, 8)).save(folder / f"{name}.jpg")
    with pytest.raises(DataError, match="its people may be among those of lfw .* move .*partial away"):
        datasets.evaluation_sets("partial-lfw", tmp_path, recipe("face", **{"data.folds": "1,2"}))
    with pytest.raises(RecipeError, match="data.folds must be two or more of LFW's folds"):
        recipe("face", **{"data.folds": "8"})


# --- pairs.txt ---


def test_folds_alternate_same_and_different(tmp_path):
    """Two folds of two: two of the same person, two of different people, and again."""
    lines = ["2\t2", SAME, "Ann_Lee\t2\t1", OTHER, "Bo\t1\tZoe\t1", "Zoe\t1\t2", "Zoe\t3\t4", OTHER, "Bo\t1\tZoe\t2"]
    lfw(tmp_path / "lfw", pairs=lines)
    assert [same for *_, same in pair_names(tmp_path)] == [True, True, False, False] * 2


def test_names_with_spaces_stand_between_tabs(tmp_path):
    lfw(tmp_path / "lfw", {"Ann Lee": 2, "Bo": 1}, ["2\t1", *2 * ["Ann Lee\t1\t2", "Ann Lee\t2\tBo\t1"]])
    assert pair_names(tmp_path) == 2 * [("Ann Lee_0001", "Ann Lee_0002", True), ("Ann Lee_0002", "Bo_0001", False)]


def test_accents_match_in_either_unicode_form(tmp_path):
    composed = "Zoë_Ångström"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    lines = ["2\t1", *2 * [f"{composed}\t1\t2", f"Bo\t1\t{composed}\t2"]]
    lfw(tmp_path / "lfw", {decomposed: 2, "Bo": 1}, lines)
    found = [[unicodedata.normalize("NFC", name) for name in pair[:2]] for pair in pair_names(tmp_path)]
    assert found == 2 * [[f"{composed}_0001", f"{composed}_0002"], ["Bo_0001", f"{composed}_0002"]]


def test_pairs_that_are_missing_or_no_text_are_said(tmp_path):
    lfw(tmp_path / "lfw")
    with pytest.raises(DataError, match="no pairs.txt in .*lfw.*figshare"):
        datasets.verification_set("lfw", tmp_path)
    assert datasets.available(tmp_path) == ["partial-lfw"]
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="pairs.txt: not readable as text"):
        datasets.verification_set("lfw", tmp_path)


# --- folders ---


@pytest.mark.parametrize(
    "folder", ["lfw", "lfw_funneled", "lfw-deepfunneled", "lfw/lfw", "lfw-deepfunneled/lfw-deepfunneled", "LFW"]
)
def test_lfw_in_every_folder_with_pairs_inside_or_beside(tmp_path, folder):
    top = lfw(tmp_path / folder, pairs=GOOD)
    found = datasets.read("lfw", "all", tmp_path)
    assert found.folder == top and len(found) == 10 and found.identities.tolist() == [0] * 3 + [1] * 2 + [2] + [3] * 4
    for place in (top.parent / "pairs.txt", tmp_path / "pairs.txt"):
        assert pair_names(tmp_path) == EXPECTED
        next(tmp_path.rglob("pairs.txt")).rename(place)
    assert pair_names(tmp_path) == EXPECTED


def test_data_may_be_lfw_itself_but_no_other_folder(tmp_path):
    lfw(tmp_path / "lfw", pairs=GOOD)
    assert pair_names(tmp_path / "lfw") == EXPECTED
    shutil.copytree(tmp_path / "lfw", tmp_path / "photos")
    with pytest.raises(DataError, match="figshare"):
        datasets.read("lfw", "all", tmp_path / "photos")


@pytest.mark.parametrize("dataset, part", [("lfw", "all"), ("casia-webface", "train")])
def test_folder_without_identities_is_refused(tmp_path, dataset, part):
    folder = tmp_path / SETS[dataset].folders[-1]
    folder.mkdir()
    with pytest.raises(DataError, match=f"{dataset}.*holds no <identity>/<picture>"):
        datasets.read(dataset, part, tmp_path)
    Image.new("RGB", (8, 8)).save(folder / "0001.jpg")
    with pytest.raises(DataError, match=f"{dataset}.*holds no <identity>/<picture>"):
        datasets.read(dataset, part, tmp_path)


def test_casia_numbers_people_by_their_folders_order(tmp_path):
    for name in ("0000102", "0000045", "x7"):
        lfw(tmp_path / "CASIA-WebFace", {name: 2})
    found = datasets.training_set("face", tmp_path)
    assert [p.parent.name for p in found.paths] == ["0000045"] * 2 + ["0000102"] * 2 + ["x7"] * 2
    assert found.identities.tolist() == [0, 0, 1, 1, 2, 2] and found.name == "casia-webface/train"


def test_check_of_drawn_faces(faces):
    rows = {(row["dataset"], row["part"]): row for row in datasets.check(faces, "face")}
    counts = {key: (row["status"], row["pictures"], row["identities"]) for key, row in rows.items()}
    assert counts == {
        ("casia-webface", "train"): ("drawn", 60, 10),
        ("lfw", "all"): ("drawn", 40, 20),
        ("partial-lfw", "query"): ("made", 20, 20),
        ("partial-lfw", "gallery"): ("made", 20, 20),
    }
    assert datasets.available(faces) == ["lfw", "partial-lfw"] and datasets.available(faces, "person") == []
    assert datasets.contents(faces)["pictures"] == {"casia-webface/train": 60, "lfw/all": 40}


# --- the centre of uncut pictures ---


def pattern(path, side):
    """Every pixel names its own place: red is x, green is y."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(path)
    return path


def test_faces_are_cut_in_a_bank_and_people_are_not(tmp_path):
    for path in (tmp_path / "lfw/Ann", tmp_path / "PartialREID/whole_body_images"):
        path.mkdir(parents=True)
        pattern(path / "001_001.png", 250)
    face, person = (
        datasets.read("lfw", "all", tmp_path, Data(uncut=250)),
        datasets.read("partial-reid", "gallery", tmp_path),
    )
    assert person.pictures == list(person.paths)
    cut = image_bank.bank(face.pictures, (125, 125), quiet=True).images[0, 0, 0]
    whole = image_bank.bank(person.pictures, (250, 250), quiet=True).images[0, 0, 0]
    assert cut.tolist() == list(range(62, 187)) and whole.tolist() == list(range(250))


# --- drawn ---


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.parent.name != "decoded"
    }


def test_people_and_faces_in_one_folder_in_either_order(drawn, faces, tmp_path):
    shutil.copytree(drawn, tmp_path / "a")
    shutil.copytree(faces, tmp_path / "b")
    datasets.ready(recipe("face", "tiny"), tmp_path / "a", quiet=True)
    people.draw_people(tmp_path / "b", 0, "tiny", quiet=True)
    found = contents(tmp_path / "a")
    assert found == contents(tmp_path / "b")
    assert found["drawn.txt"].decode().splitlines() == [
        f"faces: drawing {records.DRAWING}, seed 0, scale tiny",
        f"people: drawing {records.DRAWING}, seed 0, scale tiny",
    ]
    table, parts = datasets.truth(tmp_path / "a"), [datasets.truth(folder) for folder in (drawn, faces)]
    assert len(table) == sum(map(len, parts)) and set(table.index) == {name for part in parts for name in part.index}
    there = ["market1501", "partial-reid", "partial-ilids", "occluded-reid", "lfw", "partial-lfw"]
    assert datasets.available(tmp_path / "a") == there


def test_nothing_is_drawn_among_ones_own_pictures(tmp_path):
    lfw(tmp_path / "lfw")
    before = contents(tmp_path)
    with pytest.raises(DataError, match="casia-webface"):
        datasets.ready(recipe("face", "tiny"), tmp_path, quiet=True)
    with pytest.raises(DataError, match="lfw that was not drawn here"):
        datasets.synthesise("face", tmp_path, 0, "tiny", quiet=True)
    assert contents(tmp_path) == before


def test_all_pictures_that_pairs_lack_are_named_at_once(tmp_path):
    top = lfw(tmp_path / "lfw", pairs=GOOD)
    for name in ("Ann_Lee/Ann_Lee_0003", "Zoe/Zoe_0004"):
        (top / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match="line 2: 2 pictures are not there: .*Ann_Lee_0003.jpg, .*Zoe_0004.jpg"):
        datasets.verification_set("lfw", tmp_path)


def test_pairs_of_another_form_are_named(tmp_path):
    top = lfw(tmp_path / "lfw")
    (top / "pairs.csv").write_text("name,imagenum1,imagenum2,\n")
    with pytest.raises(DataError, match=r"no pairs.txt in .*\(pairs.csv is another form\)"):
        datasets.verification_set("lfw", tmp_path)
    (top / "pairs.txt").write_text("\n".join(GOOD) + "\n", encoding="utf-16")
    assert pair_names(tmp_path) == EXPECTED
