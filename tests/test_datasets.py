import re
import shutil

import numpy as np
import pytest
from conftest import folders_of_people
from PIL import Image

from ppcl.__main__ import main
from ppcl.data import datasets
from ppcl.data.datasets import DataError
from ppcl.data.sets import SETS
from ppcl.recipes import Data, recipe

MARKET = "Market-1501-v15.09.15"
PEOPLE = ["market1501", "partial-reid", "partial-ilids", "occluded-reid"]  # drawn


def fill(folder, *names):
    """8 x 8 JPEGs of these names, in this order of creation."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8), "gray").save(folder / name, "JPEG")
    return folder


def market(top, train=("0002_c1s1_000451_03.jpg", "0007_c2s1_000001_01.jpg")):
    fill(top / "bounding_box_train", *train)
    fill(top / "query", "0003_c1s1_000001_00.jpg")
    fill(top / "bounding_box_test", "0003_c4s2_000002_01.jpg", "0005_c1s1_000003_02.jpg")
    return top


def reid(top):
    fill(top / "partial_body_images", "001_001.jpg", "002_001.jpg")
    fill(top / "occluded_body_images", "001_001.jpg")
    fill(top / "whole_body_images", "001_001.jpg", "001_002.jpg", "002_001.jpg")
    return top


def ilids(top, query="Probe", gallery="Gallery", names=("001.jpg", "002.jpg")):
    fill(top / query, *names)
    fill(top / gallery, *names)
    return top


def names(pictures):
    return [path.name for path in pictures.paths]


# --- layouts ---


@pytest.mark.parametrize("folder", [MARKET, f"market1501/{MARKET}", "market1501", "Market-1501", f"{MARKET}/{MARKET}"])
def test_market_in_every_folder(tmp_path, folder):
    market(tmp_path / folder)
    train = datasets.read("market1501", "train", tmp_path)
    assert names(train) == ["0002_c1s1_000451_03.jpg", "0007_c2s1_000001_01.jpg"]
    assert train.identities.tolist() == [2, 7] and train.cameras.tolist() == [1, 2]
    query, gallery = datasets.evaluation_sets("market1501", tmp_path)
    assert query.identities.tolist() == [3] and gallery.identities.tolist() == [3, 5]
    assert query.cameras.tolist() == [1] and gallery.cameras.tolist() == [4, 1]


def test_market_has_a_file_with_two_endings(tmp_path):
    fill(market(tmp_path / MARKET) / "query", "1488_c1s6_023021_00.jpg.jpg")
    query, _ = datasets.evaluation_sets("market1501", tmp_path)
    assert query.identities.tolist() == [3, 1488] and query.cameras.tolist() == [1, 1]
    fill(tmp_path / MARKET / "query", "1488_c1s6_023021_00.png.jpg")
    with pytest.raises(DataError, match="not named like"):
        datasets.evaluation_sets("market1501", tmp_path)


def cuhk03(top, ending="png"):
    """Two people in train and two in the test, as CUHK03-NP names them."""
    for part, people in (("bounding_box_train", (1, 2)), ("query", (3, 4)), ("bounding_box_test", (3, 4))):
        fill(top / part, *(f"{one:04d}_c{1 + (part == 'query')}_{n}.{ending}" for one in people for n in (1, 12)))
    return top


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("top", ["cuhk03-np", "CUHK03-NP/cuhk03-np"])
@pytest.mark.parametrize("boxes, folder", [("detected", "detected"), ("labelled", "labeled"), ("labelled", "labelled")])
def test_cuhk03_has_its_boxes_chosen_by_the_recipe(tmp_path, capsys, boxes, folder, top, ending):
    cuhk03(tmp_path / top / folder, ending)
    chosen = recipe("person", "tiny", **{"data.cuhk03": boxes})
    train = datasets.training_set("person", tmp_path, chosen.data)
    assert train.name == "cuhk03/train" and train.identities.tolist() == [1, 1, 2, 2]
    query, gallery = datasets.evaluation_sets("cuhk03", tmp_path, chosen)
    assert query.identities.tolist() == gallery.identities.tolist() == [3, 3, 4, 4]
    assert query.cameras.tolist() == [2] * 4 and gallery.cameras.tolist() == [1] * 4
    assert datasets.available(tmp_path, "person", chosen.data) == ["cuhk03", "partial-cuhk03"]
    rows = [row for row in datasets.check(tmp_path) if row["dataset"] == "cuhk03"]
    assert [(row["status"], row["pictures"], row["identities"]) for row in rows] == [("differs", 4, 2)] * 3
    assert [row["published"] for row in rows] == {"detected": [7365, 1400, 5332], "labelled": [7368, 1400, 5328]}[boxes]
    other = recipe("person", "tiny", **{"data.cuhk03": "labelled" if boxes == "detected" else "detected"})
    with pytest.raises(DataError, match=f"which holds {folder} .*data.cuhk03=detected or labelled"):
        datasets.training_set("person", tmp_path, other.data)
    query, gallery = datasets.evaluation_sets("cuhk03", tmp_path, other)  # a run of other boxes is tested on these
    assert query.folder.parent == gallery.folder.parent == tmp_path / top / folder
    assert f"cuhk03: the {boxes} boxes are searched, no others lie below" in capsys.readouterr().err
    first = datasets.contents(tmp_path)
    assert first["pictures"] == {f"cuhk03/{part} ({boxes})": 4 for part in ("train", "query", "gallery")}
    (query.folder / query.paths[0].name).write_bytes(b"another")
    assert datasets.contents(tmp_path)["sha256"] != first["sha256"]


def test_training_set_is_chosen_where_several_lie(tmp_path, capsys):
    market(tmp_path / MARKET)
    cuhk03(tmp_path / "cuhk03-np/detected")
    folders_of_people(tmp_path / "identities", dict.fromkeys("abcdefgh", 2))
    assert datasets.training_set("person", tmp_path).name == "market1501/train"
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{tmp_path}: market1501 is trained on; to train on cuhk03 or own, --set data.training=cuhk03"]
    for name in ("cuhk03", "own"):
        assert datasets.training_set("person", tmp_path, Data(training=name)).name == f"{name}/train"
    assert datasets.training_set("face", tmp_path, Data(training="cuhk03")).name == "own/train"
    with pytest.raises(DataError, match="data.training=duke: .* choose auto, market1501, cuhk03, own"):
        datasets.training_set("person", tmp_path, Data(training="duke"))
    with pytest.raises(DataError, match="casia-webface: no CASIA-WebFace below .*, which holds Market-1501"):
        datasets.training_set("face", tmp_path, Data(training="casia-webface"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "top, make", [(MARKET, market), ("PartialREID", lambda top: reid(top)), ("Partial_iLIDS", lambda top: ilids(top))]
)
def test_a_doubled_folder_is_found(tmp_path, top, make):
    make(tmp_path / top / top)
    assert datasets.available(tmp_path)[0] in PEOPLE


@pytest.mark.parametrize("folder", ["Partial-REID_Dataset", "PartialREID", "Partial_REID"])
def test_partial_reid_in_every_folder(tmp_path, folder):
    reid(tmp_path / folder)
    query, gallery = datasets.evaluation_sets("partial-reid", tmp_path)
    assert query.identities.tolist() == [1, 2] and gallery.identities.tolist() == [1, 1, 2]
    assert datasets.read("partial-reid", "occluded", tmp_path).identities.tolist() == [1]


@pytest.mark.parametrize(
    "folder, parts", [("Partial_iLIDS", ("Probe", "Gallery")), ("PartialiLIDS", ("query", "gallery"))]
)
def test_partial_ilids_in_every_folder(tmp_path, folder, parts):
    ilids(tmp_path / folder, *parts)
    query, gallery = datasets.evaluation_sets("partial-ilids", tmp_path)
    assert query.identities.tolist() == gallery.identities.tolist() == [1, 2]


@pytest.mark.parametrize("dataset, make", [(MARKET, market), ("PartialREID", reid), ("Partial_iLIDS", ilids)])
def test_data_may_be_the_set_itself(tmp_path, dataset, make):
    make(tmp_path / dataset)
    assert datasets.available(tmp_path / dataset)[0] in PEOPLE


def test_folder_of_another_name_is_not_taken_for_a_set(tmp_path):
    """`query` and `gallery` lie in many folders."""
    ilids(tmp_path / "photos", "query", "gallery")
    assert datasets.available(tmp_path / "photos") == []


def test_case_of_folders_and_suffixes_does_not_matter(tmp_path):
    top = ilids(tmp_path / "partial_ILIDS", "probe", "GALLERY", ["001.JPG", "002.Jpeg", "003.PNG"])
    query, gallery = datasets.evaluation_sets("partial-ilids", tmp_path)
    assert names(query) == names(gallery) == ["001.JPG", "002.Jpeg", "003.PNG"]
    assert query.folder == top / "probe"


@pytest.mark.parametrize("name", ["{}.tif", "{}.jpg", "{0:.3}/{0}.tif"])
@pytest.mark.parametrize("folder", ["Occluded_REID", "OccludedREID", "OccludedREID/Occluded_REID"])
def test_occluded_reid_in_both_forms(tmp_path, folder, name):
    for part, stems in (("occluded", ["001_01", "002_03"]), ("whole", ["001_01", "002_01", "002_02"])):
        for stem in stems:
            file = tmp_path / folder / f"{part}_body_images" / name.format(stem)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), "gray").save(file)
    query, gallery = datasets.evaluation_sets("occluded-reid", tmp_path)
    assert query.identities.tolist() == [1, 2] and gallery.identities.tolist() == [1, 2, 2]
    assert query.cameras.tolist() == [0, 0] and gallery.cameras.tolist() == [1, 1, 1] and not query.notes
    rows = [row for row in datasets.check(tmp_path) if row["dataset"] == "occluded-reid"]
    assert [row["pictures"] for row in rows] == [2, 3] and {row["status"] for row in rows} == {"differs"}
    assert datasets.available(tmp_path) == ["occluded-reid"] and datasets.contents(tmp_path)["pictures"] == {
        "occluded-reid/query": 2,
        "occluded-reid/gallery": 3,
    }


# --- traps seen in public loaders ---


def test_digits_of_folders_are_no_identity(tmp_path):
    data = tmp_path / "0007_c3s1_000001_01" / "run 12_34"
    market(data / MARKET)
    reid(data / "PartialREID")
    ilids(data / "Partial_iLIDS")
    assert datasets.read("market1501", "train", data).identities.tolist() == [2, 7]
    assert datasets.read("market1501", "train", data).cameras.tolist() == [1, 2]
    assert datasets.read("partial-reid", "query", data).identities.tolist() == [1, 2]
    assert datasets.read("partial-ilids", "query", data).identities.tolist() == [1, 2]


def test_partial_ilids_without_cameras_removes_no_true_match(tmp_path):
    ilids(tmp_path / "Partial_iLIDS")
    query, gallery = datasets.evaluation_sets("partial-ilids", tmp_path)
    assert query.cameras.tolist() == [0, 0] and gallery.cameras.tolist() == [1, 1]


def test_partial_ilids_with_cameras(tmp_path):
    top = tmp_path / "PartialiLIDS"
    fill(top / "query", "001_1.jpg", "017_3.jpg")
    fill(top / "gallery", "001_2.jpg", "017_4.jpg")
    query, gallery = datasets.evaluation_sets("partial-ilids", tmp_path)
    assert query.identities.tolist() == [1, 17] and query.cameras.tolist() == [1, 3]
    assert gallery.identities.tolist() == [1, 17] and gallery.cameras.tolist() == [2, 4]


def test_index_of_a_picture_is_no_camera(tmp_path):
    """001_001.jpg is in both halves of Partial-REID: taken for camera 1, the true match would be left out."""
    reid(tmp_path / "PartialREID")
    query, gallery = datasets.evaluation_sets("partial-reid", tmp_path)
    assert set(query.cameras) == {0} and set(gallery.cameras) == {1}
    assert set(datasets.read("partial-reid", "occluded", tmp_path).cameras) == {0}


def test_two_sets_merged_into_one_folder_are_noticed(tmp_path):
    top = ilids(tmp_path / "Partial_iLIDS", names=[f"{i:03d}.jpg" for i in range(1, 120)])
    rows = {row["part"]: row for row in datasets.check(tmp_path) if row["dataset"] == "partial-ilids"}
    assert {row["status"] for row in rows.values()} == {"complete"}
    fill(top / "Probe", *(f"{i:03d}.jpg" for i in range(120, 180)))
    rows = {row["part"]: row for row in datasets.check(tmp_path) if row["dataset"] == "partial-ilids"}
    assert rows["query"]["status"] == "differs" and rows["gallery"]["status"] == "complete"
    assert (rows["query"]["pictures"], rows["query"]["identities"]) == (179, 179)
    assert "119" in rows["query"]["note"]


def test_pictures_come_sorted_by_name_whatever_made_them(tmp_path):
    made = ["0010_c1s1_000001_00.jpg", "0002_c6s1_000001_00.jpg", "0002_c1s1_000009_00.jpg", "0002_c1s1_000001_00.png"]
    for folder, order in (("one", made), ("two", made[::-1])):
        market(tmp_path / folder / MARKET, train=order)
        train = datasets.read("market1501", "train", tmp_path / folder)
        assert names(train) == sorted(made)
        assert train.identities.tolist() == [2, 2, 2, 10] and train.cameras.tolist() == [1, 1, 6, 1]


def test_junk_is_left_out_and_distractors_stay_in_the_gallery(tmp_path):
    top = market(tmp_path / MARKET)
    fill(top / "bounding_box_test", "-1_c1s1_000001_00.jpg", "0000_c2s1_000001_00.jpg")
    gallery = datasets.read("market1501", "gallery", tmp_path)
    assert gallery.identities.tolist() == [0, 3, 5]
    assert names(gallery)[0].startswith("0000")
    row = next(row for row in datasets.check(tmp_path) if row["part"] == "gallery")
    assert row["identities"] == 2  # a distractor is nobody


@pytest.mark.parametrize("folder, part", [("query", "query"), ("bounding_box_train", "train")])
def test_distractors_are_nobody_outside_the_gallery(tmp_path, folder, part):
    """As a query, 0000 would find the gallery's distractors, who are different people, and call them right."""
    top = market(tmp_path / MARKET)
    fill(top / folder, "0000_c2s1_000001_00.jpg")
    assert 0 not in datasets.read("market1501", part, tmp_path).identities


# --- what is wrong is said ---


@pytest.mark.parametrize(
    "dataset, part, host",
    [
        ("market1501", "train", "zheng-lab.cecs.anu.edu.au"),
        ("partial-reid", "query", "isee-ai.cn"),
        ("partial-ilids", "gallery", "lingxiao-he/Partial-Person-ReID"),
    ],
)
def test_missing_set_names_folder_and_remedy(tmp_path, dataset, part, host):
    for data in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            datasets.read(dataset, part, data)
        for wanted in (str(data), host, "data synthesise", SETS[dataset].folders[0]):
            assert wanted in str(caught.value)


def test_folder_of_nothing_but_junk_is_named(tmp_path):
    fill(tmp_path / MARKET / "bounding_box_train", "-1_c1s1_000001_00.jpg")
    with pytest.raises(DataError, match="bounding_box_train.*junk"):
        datasets.read("market1501", "train", tmp_path)


def test_unknown_set_or_part_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="market1501, cuhk03, partial-reid, partial-ilids"):
        datasets.read("market", "query", tmp_path)
    with pytest.raises(DataError, match="query, gallery, occluded"):
        datasets.read("partial-reid", "train", tmp_path)


# --- drawn data, and what check says ---


def test_check_of_drawn_data(drawn):
    everything = datasets.check(drawn, "person")
    rows = [row for row in everything if row["dataset"] != "cuhk03"]
    assert {row["status"] for row in rows} == {"drawn"}
    counts = {(row["dataset"], row["part"]): (row["pictures"], row["identities"]) for row in rows}
    assert counts == {
        ("market1501", "train"): (60, 10),
        ("market1501", "query"): (6, 6),
        ("market1501", "gallery"): (18 + 3 + 2, 6),
        ("partial-reid", "query"): (12, 6),
        ("partial-reid", "gallery"): (12, 6),
        ("partial-reid", "occluded"): (6, 6),
        ("partial-ilids", "query"): (8, 8),
        ("partial-ilids", "gallery"): (8, 8),
        ("occluded-reid", "query"): (6, 6),
        ("occluded-reid", "gallery"): (6, 6),
    }
    assert datasets.available(drawn) == PEOPLE
    faces = datasets.check(drawn, "face")
    assert {row["status"] for row in faces} == {"missing"} and datasets.check(drawn) == everything + faces


def test_check_tells_missing_from_different(tmp_path):
    market(tmp_path / MARKET)
    found = {(row["dataset"], row["part"]): row for row in datasets.check(tmp_path)}
    assert found["market1501", "train"]["status"] == "differs"
    assert found["market1501", "train"]["folder"] == f"{MARKET}/bounding_box_train"
    assert found["partial-reid", "query"]["status"] == "missing"
    assert "isee-ai.cn" in found["partial-reid", "query"]["note"]


def test_every_drawn_query_has_a_true_match_after_camera_exclusion(drawn):
    for dataset in PEOPLE:
        query, gallery = datasets.evaluation_sets(dataset, drawn)
        match = query.identities[:, None] == gallery.identities[None]
        assert (match & (query.cameras[:, None] != gallery.cameras[None])).any(1).all()


def test_truth_has_a_row_for_every_drawn_picture(drawn):
    table = datasets.truth(drawn)
    for dataset in PEOPLE:
        for part in SETS[dataset].parts:
            pictures = datasets.read(dataset, part, drawn)
            rows = table.loc[[path.relative_to(drawn).as_posix() for path in pictures.paths]]
            assert rows["identity"].astype(int).tolist() == pictures.identities.tolist()


def test_truth_of_real_data_is_missing(tmp_path):
    market(tmp_path / MARKET)
    assert not datasets.is_drawn(tmp_path)
    with pytest.raises(DataError, match="truth.csv.*data synthesise"):
        datasets.truth(tmp_path)


def test_keep_filters_everything_alike(tmp_path):
    reid(tmp_path / "PartialREID")
    gallery = datasets.read("partial-reid", "gallery", tmp_path)
    kept = gallery.keep(np.array([True, False, True]))
    assert (
        names(kept) == ["001_001.jpg", "002_001.jpg"] and kept.identities.tolist() == [1, 2] and len(kept.cameras) == 2
    )


# --- what is left out is said ---


def test_junk_is_counted(tmp_path):
    market(tmp_path / MARKET)
    fill(tmp_path / MARKET / "bounding_box_test", "-1_c1s1_000001_00.jpg", "-1_c2s1_000001_00.jpg")
    assert len(datasets.read("market1501", "gallery", tmp_path)) == 2
    junk = "2 pictures are junk, such as -1_c1s1_000001_00.jpg, and left out"
    rows = [row for row in datasets.check(tmp_path) if (row["dataset"], row["part"]) == ("market1501", "gallery")]
    assert junk in rows[0]["note"]


def test_people_with_one_picture_are_counted(tmp_path):
    data = folders_of_people(tmp_path, {f"person {i}": 3 if i % 3 == 0 else 1 for i in range(60)})
    test = datasets.read("own", "test", data)
    counts = np.unique(test.identities, return_counts=True)[1]
    query, gallery = datasets.evaluation_sets("own", data)
    said = f"own/test: {(counts == 1).sum()} of {len(counts)} people have one picture and are not tested"
    assert said in query.notes and len(gallery) == (counts > 1).sum() > 1


@pytest.mark.parametrize(
    "make, there, also",
    [(market, MARKET, "market1501"), (ilids, "Partial_iLIDS", "PartialiLIDS")],
)
def test_a_second_folder_of_a_set_is_named(tmp_path, capsys, make, there, also):
    make(tmp_path / there)
    make(tmp_path / also)
    dataset = "market1501" if make is market else "partial-ilids"
    assert datasets.read(dataset, "query", tmp_path).folder.parent.name == there
    said = capsys.readouterr().err
    assert f"{there}/" in said and f"and {tmp_path / also}/" in said and "is not: move one of them away" in said


@pytest.mark.parametrize("task, chosen", [("face", "lfw"), ("face", "partial-lfw"), ("person", "partial-reid")])
def test_a_set_without_training_pictures_is_not_trained_on(tmp_path, task, chosen):
    with pytest.raises(DataError, match=f"data.training={chosen}: unknown training set"):
        datasets.trained_on(task, tmp_path, Data(training=chosen))


@pytest.mark.parametrize("dataset", ["market1501", "partial-reid", "own", "lfw"])
@pytest.mark.parametrize("kind", ["deeper", "linked", "ending", "no ending"])
def test_pictures_that_are_not_read_are_counted(tmp_path, capsys, dataset, kind):
    if dataset in ("own", "lfw"):
        top = folders_of_people(tmp_path / {"own": "identities", "lfw": "lfw"}[dataset], dict.fromkeys("abcdefgh", 2))
        folder, part = top / "a", {"own": "train", "lfw": "all"}[dataset]
        (top / "pairs.txt").write_text("2\t1\n" + 2 * "a\t1\t2\na\t1\tb\t1\n")
    else:
        top = {"market1501": market, "partial-reid": reid}[dataset](tmp_path / SETS[dataset].folders[0])
        folder, part = top / {"market1501": "query", "partial-reid": "partial_body_images"}[dataset], "query"
    assert datasets.read(dataset, part, tmp_path).notes == ()
    if kind == "linked":
        (tmp_path / "elsewhere").mkdir()
        (folder / "more").symlink_to(tmp_path / "elsewhere")
    names = {"deeper": ["more/1.jpg", "more/2.jpg"], "ending": ["1.heic", "2.jpg_large"], "no ending": ["1", "2"]}
    names = names["deeper" if kind == "linked" else kind]
    for name in names:
        fill(folder / name.rpartition("/")[0], name.rpartition("/")[2])
    (notes,) = datasets.read(dataset, part, tmp_path).notes
    name = dataset if dataset == "own" else f"{dataset}/{part}"  # own people of both parts lie in one folder
    assert notes.startswith(f"{name}: 2 pictures are left out, such as ") and names[0] in notes
    rows = {row["part"]: row["note"] for row in datasets.check(tmp_path) if row["dataset"] == dataset}
    said = notes.partition(": ")[2]  # the row names the set
    assert said in rows[part] and notes not in rows[part]
    assert main(["data", "check", "--data", str(tmp_path)]) == 0 and said in capsys.readouterr().out


@pytest.mark.parametrize("part", ["train", "query"])
def test_people_numbered_zero_are_counted(tmp_path, part):
    top = market(tmp_path / MARKET)
    fill(
        top / {"train": "bounding_box_train", "query": "query"}[part],
        "0000_c1s1_000001_00.jpg",
        "-1_c1s1_000001_00.jpg",
    )
    (note,) = datasets.read("market1501", part, tmp_path).notes
    assert "1 picture is left out, such as 0000_c1s1_000001_00.jpg: identity 0" in note


@pytest.mark.parametrize(
    "files, said",
    [
        (["0/cam1/1.jpg", "1/cam1/1.jpg"], "holds 0, 1 (pictures lie deeper than <identity>/<file>, in 0/cam1: move"),
        (
            ["train/0/1.jpg", "val/0/1.jpg"],
            "holds train, val (pictures lie deeper than <identity>/<file>, in train/0: ",
        ),
        (["0/1.jpg", "val/1.jpg"], "holds 0, val (no folder of identities, nor one in it, may be called 'val': rename"),
        (["train/0_1.jpg"], "holds train; give your own pictures as identities/<identity>/<file> below --data"),
        ([], "holds nothing; give your own pictures as identities/<identity>/<file> below --data"),
    ],
)
def test_check_says_what_lies_where_no_set_is(tmp_path, capsys, files, said):
    for name in files:
        fill(tmp_path / name.rpartition("/")[0], name.rpartition("/")[2])
    assert main(["data", "check", "--data", str(tmp_path)]) == 0
    assert f"own: no identities below {tmp_path}, which {said}" in capsys.readouterr().out
    reid(tmp_path / SETS["partial-reid"].folders[0])
    assert main(["data", "check", "--data", str(tmp_path)]) == 0 and "own:" not in capsys.readouterr().out


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("part", ["bounding_box_train", "query", "bounding_box_test"])
def test_check_names_a_picture_that_is_empty_or_not_there(tmp_path, part, link):
    picture = min((market(tmp_path / MARKET) / part).glob("*.jpg"))
    picture.unlink() if link else picture.write_bytes(b"")
    picture.symlink_to("nowhere") if link else None
    wrong = [row for row in datasets.check(tmp_path) if row["status"] == "unreadable"]
    assert [row["folder"] for row in wrong] == [f"{MARKET}/{part}"]
    assert wrong[0]["note"].startswith(f"1 pictures are empty or not there, such as {picture}")


@pytest.mark.parametrize("ending", ["jfif", "jpe"])
def test_other_names_of_jpeg_are_read(tmp_path, ending):
    fill(market(tmp_path / MARKET) / "query", f"0005_c2s1_000001_00.{ending}")
    assert len(datasets.read("market1501", "query", tmp_path)) == 2


@pytest.mark.parametrize(
    "copied, to, told",
    [
        ("Partial_iLIDS/Probe/001.jpg", "Partial_iLIDS/Gallery/002.jpg", "ilids/query .* partial-ilids/gallery"),
        ("identities/a/1.jpg", "Partial_iLIDS/Probe/002.jpg", "partial-ilids/query .* own/train"),
        ("identities/a/1.jpg", "Partial_iLIDS/Gallery/002.jpg", "partial-ilids/gallery .* own/train"),
        ("lfw/Ann/Ann_0001.jpg", "lfw/Ann/Ann_0002.jpg", "1 pairs hold copies of one picture of lfw/all"),
        ("identities/a/1.jpg", "lfw/Bo/Bo_0001.jpg", "lfw/all .* own/train"),
    ],
)
def test_copies_on_both_sides_of_a_test_are_counted(tmp_path, copied, to, told):
    own = [f"identities/{who}/{shot}.jpg" for who in "abcdefgh" for shot in (1, 2)]
    halves = [f"Partial_iLIDS/{half}/{name}.jpg" for half in ("Probe", "Gallery") for name in ("001", "002")]
    faces = [f"lfw/{who}/{who}_000{shot}.jpg" for who in ("Ann", "Bo") for shot in (1, 2)]
    for number, name in enumerate(own + halves + faces):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (8 * number, 0, 0)).save(tmp_path / name, quality=100)
    pairs = ["2\t1", "Ann\t1\t2", "Ann\t1\tBo\t1", "Bo\t1\t2", "Ann\t2\tBo\t2"]
    (tmp_path / "lfw/pairs.txt").write_text("\n".join(pairs))
    dataset = "lfw" if "lfw" in to else "partial-ilids"
    chosen = recipe("face" if dataset == "lfw" else "person", "tiny")
    assert datasets.copies(dataset, tmp_path, chosen) == ()
    shutil.copy(tmp_path / copied, tmp_path / to)
    (line,) = datasets.copies(dataset, tmp_path, chosen)
    assert re.search(f"{told}: they prove nothing", line) and line.startswith(f"{dataset}: 1 ")
    (row,) = (row for row in datasets.check(tmp_path) if row["dataset"] == dataset and row["part"] in ("query", "all"))
    assert f"; {row['note']}".endswith(f"; {line.removeprefix(f'{dataset}: ')}")


@pytest.mark.parametrize("cameras, lost", [((1, 2), 0), ((1,), 2)])
def test_check_counts_queries_without_a_match(tmp_path, cameras, lost):
    top = tmp_path / MARKET
    for part in ("bounding_box_test", "query"):
        fill(top / part, *(f"000{who}_c{c}s1_00000{len(part)}_00.jpg" for who in (1, 2) for c in cameras))
    (row,) = (row for row in datasets.check(tmp_path) if row["part"] == "query" and row["dataset"] == "market1501")
    assert ("match only pictures of their own camera" in row["note"]) == bool(lost)
    assert datasets.available(tmp_path) == ([] if lost else ["market1501", "partial-market1501"])


@pytest.mark.parametrize("folder, name", [("Probe", "001"), *(("Partial-LFW/probe", f"face{n}") for n in ("_001", ""))])
def test_a_test_of_one_person_is_refused(tmp_path, folder, name):
    top = tmp_path / ("Partial-LFW" if "LFW" in folder else "Partial_iLIDS")
    for half in ("probe", "gallery"):
        fill(top / half, f"{name}.jpg", *(["face_002.jpg"] if "face" in name else []))
    words = "read as pictures of 'face'.*rename" if "face" in name else "shows one person"
    with pytest.raises(DataError, match=words):
        datasets.evaluation_sets("partial-lfw" if "face" in name else "partial-ilids", tmp_path)


@pytest.mark.parametrize("names, told", [("man_001 woman_002 man_003", True), ("man_001 woman_001 man_002", False)])
def test_numbers_that_may_be_the_people_are_told(tmp_path, names, told):
    for half in ("probe", "gallery"):
        fill(tmp_path / "Partial-LFW" / half, *(f"{name}.jpg" for name in names.split()))
    query, gallery = datasets.evaluation_sets("partial-lfw", tmp_path)
    assert len(set(gallery.identities)) == 2 and query.notes == ()
    said = "partial-lfw/gallery: 3 pictures such as man_001.jpg are read as of 2 people, for names"
    assert [note.startswith(said) for note in gallery.notes] == [True] * told


def test_where_a_set_is_from_is_said_in_whole_sentences():
    for one in SETS.values():
        assert one.how_to_get[-1].isalnum() and ",," not in one.how_to_get, one.how_to_get


@pytest.mark.parametrize("task", ["person", "face"])
def test_the_default_folder_is_drawn_where_it_does_not_exist(task, tmp_path):
    data = datasets.ready(recipe(task, "tiny"), tmp_path / "run/data", tmp_path / "run", quiet=True)
    assert len(set(datasets.training_set(task, data).identities)) == 10


def test_people_who_are_trained_on_and_tested_are_counted(tmp_path):
    names = [f"{person:04d}_c{camera}s1_000001_00.jpg" for person in (1, 2, 3) for camera in (1, 2)]
    for part, some in {"bounding_box_train": names, "query": names[::2], "bounding_box_test": names[1::2]}.items():
        (tmp_path / MARKET / part).mkdir(parents=True)
        for number, name in enumerate(some):
            Image.effect_noise((8, 8), 9 + number).save(tmp_path / MARKET / part / name)
    chosen = recipe("person", "tiny")
    said = datasets.copies("market1501", tmp_path, chosen)
    assert "market1501: 3 people of market1501/query are people of market1501/train, by their numbers" in said[0]
    assert any(
        "partial-market1501: 3 people" in line for line in datasets.copies("partial-market1501", tmp_path, chosen)
    )


def test_a_set_with_one_half_is_told(tmp_path, capsys):
    top = market(tmp_path / MARKET)
    (top / "bounding_box_test").rename(top / "gallery")
    assert datasets.available(tmp_path) == []
    assert "market1501 is not evaluated: " in capsys.readouterr().err


def test_a_link_is_known_by_its_own_name(tmp_path):
    market(tmp_path / "disk")
    (tmp_path / "market1501").symlink_to(tmp_path / "disk")
    assert datasets.training_set("person", tmp_path / "market1501").name == "market1501/train"
