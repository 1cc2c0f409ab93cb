"""A folder of identities of one's own, `<identity>/<file>`: trained on, tested on, searched; of people or of faces."""

import json
import os
import re
import shutil
import unicodedata

import numpy as np
import pandas
import pytest
from conftest import SMALL, by_commands, folders_of_people
from PIL import Image

from ppcl.__main__ import main
from ppcl.data import datasets, partial_protocol, stage_batches
from ppcl.data.datasets import DataError
from ppcl.disk import checkpoints
from ppcl.evaluation import results
from ppcl.recipes import recipe, trained_by

FAST = ["--profile", "tiny"] + [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]


def by_identity(top, *sets):
    """Pictures of sets copied into a folder for each person."""
    for some in sets:
        for path, person in zip(some.paths, some.identities, strict=True):
            target = top / f"{some.name.split('/')[0]} {person:04d}"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return top


@pytest.fixture(scope="module")
def people(drawn, tmp_path_factory):
    """Drawn people of three sets as somebody's own: 24 folders."""
    train, partial = datasets.read("market1501", "train", drawn), datasets.read("partial-reid", "gallery", drawn)
    gallery = datasets.read("market1501", "gallery", drawn)
    sets = train, partial, gallery.keep(gallery.identities > 0)
    return by_identity(tmp_path_factory.mktemp("own") / "my people", *sets)


@pytest.mark.parametrize("nested", [True, False])
def test_everybody_is_for_training_or_for_tests_and_stays_there(tmp_path, nested):
    names = {f"person {i}": 2 for i in range(60)}
    top = folders_of_people(tmp_path / "identities" if nested else tmp_path / "any name", names)
    data = tmp_path if nested else top
    parts = {part: datasets.read("own", part, data) for part in ("train", "test")}
    shown = {part: {path.parent.name for path in some.paths} for part, some in parts.items()}
    assert not shown["train"] & shown["test"] and shown["train"] | shown["test"] == set(names)
    assert 6 <= len(shown["test"]) <= 18 and datasets.training_set("person", data).paths == parts["train"].paths
    folders_of_people(top, {f"anybody {i}": 3 for i in range(30)})
    (top / "decoded").mkdir()
    for part, before in shown.items():
        assert before <= {path.parent.name for path in datasets.read("own", part, data).paths}


def test_a_name_is_the_same_however_a_disk_writes_it(tmp_path):
    """HFS+ takes letters and accents apart: whoever was trained on must not turn into a test on another computer."""
    shown = {}
    for form in ("NFC", "NFD"):
        names = {unicodedata.normalize(form, f"Zoë {i}"): 2 for i in range(30)}
        data = folders_of_people(tmp_path / form, names)
        paths = datasets.read("own", "test", data).paths
        shown[form] = {unicodedata.normalize("NFC", path.parent.name) for path in paths}
    assert shown["NFC"] == shown["NFD"] and 2 <= len(shown["NFC"]) < 30


def test_decoded_pictures_beside_them_change_nobodys_number(tmp_path):
    folders_of_people(tmp_path, {f"{letter} person": 3 for letter in "abcdefgh"})  # "decoded" stands among them
    before = datasets.read("own", "train", tmp_path)
    (tmp_path / "decoded").mkdir(exist_ok=True)
    assert before.fingerprint == datasets.read("own", "train", tmp_path).fingerprint
    assert set(before.identities) | set(datasets.read("own", "test", tmp_path).identities) == {*range(8)}


def test_any_name_that_a_folder_can_have_is_read_and_written(tmp_path):
    names = {os.fsdecode(b"p\xe9rson %d" % i): 2 for i in range(30)}
    top = folders_of_people(tmp_path / "identities", names)
    query, _ = datasets.evaluation_sets("own", tmp_path, recipe("face", "tiny"))
    assert {path.parent for path in query.paths} <= {top / name for name in names}
    assert "p\\udce9rson" in partial_protocol.boxes_csv(query).encode().decode()
    assert datasets.available(tmp_path, "person") == ["own"]


def test_hidden_files_are_nobodys_set(tmp_path):
    (tmp_path / ".gitkeep").touch()
    assert not datasets.is_own(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert datasets.is_own(tmp_path)


def test_queries_are_crops_of_test_people_and_lose_no_true_match(people):
    two = recipe("person", "tiny", **{"partial_lfw.queries": 2})
    query, gallery = datasets.evaluation_sets("own", people, two)
    tested = {path.parent.name for path in datasets.read("own", "test", people).paths}
    assert {path.parent.name for path in query.paths} == {path.parent.name for path in gallery.paths} <= tested
    assert not set(query.paths) & set(gallery.paths) and set(query.identities) == set(gallery.identities)
    assert (query.boxes[:, 2] * query.boxes[:, 3] < 0.75).all() and set(query.cameras) | set(gallery.cameras) == {0}
    again, _ = datasets.evaluation_sets("own", people, two)
    assert again.paths == query.paths and np.array_equal(again.boxes, query.boxes)


def test_faces_are_cut_to_their_centre_and_people_are_not(tmp_path):
    folders_of_people(tmp_path / "identities", {f"person {i}": 2 for i in range(30)})
    assert datasets.training_set("face", tmp_path, recipe("face", "tiny").data).uncut == 250
    sides = {
        task: [part.uncut for part in datasets.evaluation_sets("own", tmp_path, recipe(task, "tiny"))]
        for task in ("person", "face")
    }
    assert sides == {"person": [0, 0], "face": [250, 250]}


@pytest.mark.parametrize("folders", [["query", "gallery"], ["Probe", "x"], ["lfw", "A"], ["bounding_box_train"]])
def test_folders_named_like_a_set_or_a_part_of_one_are_no_identities(tmp_path, folders):
    folders_of_people(tmp_path / "photographs", dict.fromkeys(folders, 2))
    assert datasets.available(tmp_path / "photographs") == []
    with pytest.raises(DataError, match=r"Market-1501.*identities/<identity>/<file>"):
        datasets.training_set("person", tmp_path / "photographs")


@pytest.mark.parametrize("name, inside", [("query", False), ("Gallery", True), ("lfw", False)])
def test_a_name_that_is_taken_is_named(tmp_path, name, inside):
    data = tmp_path / ("mine" if inside else name)
    folders_of_people(data, dict.fromkeys(["a", "b", *([name] * inside)], 2))
    with pytest.raises(DataError, match=f"may be called '{name}': rename it"):
        datasets.training_set("person", data)


def test_the_folder_identities_may_be_given_itself(tmp_path):
    folders_of_people(tmp_path / "identities", dict.fromkeys("abcdefgh", 3))
    names = [datasets.training_set("person", tmp_path / above).paths for above in ("identities", ".")]
    assert names[0] == names[1] and len(names[0]) > 3


def test_a_missing_folder_of_identities_is_described(tmp_path):
    with pytest.raises(DataError, match=r"own: no identities below .*; give your own pictures as identities/<identity"):
        datasets.evaluation_sets("own", tmp_path)


@pytest.mark.parametrize("task", ["person", "face"])
def test_drawn_and_downloaded_sets_hold_no_folder_of_identities(request, task, tmp_path):
    data = request.getfixturevalue({"person": "drawn", "face": "faces"}[task])
    assert not datasets.trained_on(task, data).split and "own" not in datasets.available(data, task)
    folders_of_people(tmp_path / "CASIA-WebFace", {f"{i:07d}": 2 for i in range(30)})
    for folder in (tmp_path, tmp_path / "CASIA-WebFace"):
        assert datasets.training_set("face", folder).name == "casia-webface/train"
        assert not datasets.trained_on("person", folder).split


def test_the_tasks_own_set_goes_first(drawn, people, tmp_path):
    shutil.copytree(drawn / "Market-1501-v15.09.15", tmp_path / "Market-1501-v15.09.15")
    shutil.copytree(people, tmp_path / "identities")
    assert datasets.training_set("person", tmp_path).name == "market1501/train"
    assert datasets.available(tmp_path, "person") == ["market1501", "partial-market1501", "own"]
    with pytest.raises(DataError, match="CASIA"):
        datasets.training_set("face", tmp_path / "Market-1501-v15.09.15")


def test_data_check_shows_both_parts(people, capsys):
    assert main(["data", "check", "--data", str(people), "--json"]) == 0
    rows = {row["part"]: row for row in json.loads(capsys.readouterr().out) if row["dataset"] == "own"}
    assert rows.keys() == {"train", "test"} and {row["status"] for row in rows.values()} == {"own"}
    assert sum(row["identities"] for row in rows.values()) == 22
    assert sum(row["pictures"] for row in rows.values()) == len(list(people.rglob("*.jpg")))
    counts = datasets.contents(people)
    assert sum(counts["pictures"].values()) == len(list(people.rglob("*.jpg"))) and not counts["drawn"]


@pytest.mark.parametrize(
    "counts, words",
    [({"A": 4}, "two are needed: add people"), ({f"{i}": 1 for i in range(40)}, "has one picture of each person")],
)
def test_too_few_are_said_in_one_line(tmp_path, capsys, counts, words):
    folders_of_people(tmp_path / "identities", counts)
    given = ["train", "glrec", "--run", str(tmp_path / "run"), "--data", str(tmp_path), *FAST]
    assert main(given) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and words in said[0]
    with pytest.raises(DataError, match=words):
        datasets.evaluation_sets("own", tmp_path)


def test_too_few_for_a_batch_are_said_before_training(people):
    chosen = recipe("person", "tiny", **{"backbone.identities": 32, "backbone.batch": 64})
    with pytest.raises(DataError, match="has 19 people; .* a batch needs 32"):
        stage_batches.training_data(chosen, people, quiet=True)


def test_reproduce_asks_whose_identities_they_are(people, capsys, tmp_path):
    given = ["reproduce", "--profile", "tiny", "--run", str(tmp_path / "run"), "--data", str(people)]
    assert main(given) == 1
    assert "--task person or --task face" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_the_demo_on_drawn_pictures_is_published(people, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("ppcl.runs.reproduce._check_stages", lambda *_: pytest.fail("it goes on"))
    given = ["reproduce", "--task", "person", "--run", str(tmp_path / "run"), "--data", str(people), "--publish"]
    for profile, why in (("demo", "own in .* is not drawn"), ("tiny", "of the demo profile, not of tiny")):
        assert main([*given, "--profile", profile]) == 1
        assert re.search(why, capsys.readouterr().err)


def test_people_of_ones_own_from_training_to_the_figures(people, tmp_path):
    """The numbers are of people whom no stage has seen."""
    run, common = tmp_path / "run", ["--run", str(tmp_path / "run"), "--data", str(people)]
    by_commands(run, people)
    assert main(["evaluate", *common, "--dataset", "own"]) == 0
    header = checkpoints.header(run / "person/joint/ppcl/seed0/checkpoint.safetensors")
    assert header["fusion_weights"].keys() >= {"ppcl", "ppcl@1"}
    table = pandas.read_csv(run / "results.csv")
    assert set(table.dataset) == {"own"} and not table.synthetic.any()
    assert {"single-shot", "all-shot", "input-ratio", "truth"} == set(table.protocol)
    assert {"rank-1", "mAP", "glrec-IoU", "gate-accuracy"} <= set(table.metric)
    assert ["own rank-1", "own mAP"] == list(results.summary(table)["person, photographs"].columns)
    written = pandas.read_csv(run / "person/own.csv")
    tested = {path.parent.name for path in datasets.read("own", "test", people).paths}
    assert {file.split("/")[0] for file in written.file} <= tested
    assert main(["reproduce", "--task", "person", "--only", "07,09", *common, *FAST]) == 0
    assert list((run / "figures").glob("ranking_own_*.png"))
    query = sorted(people.rglob("*.jpg"))[0]
    found = ["rank", "--run", str(run), "--query", str(query), "--gallery", str(query.parent), "--out", str(tmp_path)]
    assert main([*found, "--top", "2"]) == 0
    assert len(pandas.read_csv(tmp_path / "ranking.csv")) == 2


def test_faces_of_ones_own_are_trained_and_evaluated(faces, capsys, tmp_path):
    train = datasets.read("casia-webface", "train", faces)
    everybody = datasets.read("lfw", "all", faces)
    by_identity(tmp_path / "data/identities", train, everybody)
    Image.new("RGB", (9, 9)).save(tmp_path / "data/identities/nobody.jpg")
    common = ["--task", "face", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "data")]
    by_commands(tmp_path / "run", tmp_path / "data", "--task", "face")
    capsys.readouterr()
    assert main(["evaluate", *common, "--dataset", "own"]) == 0
    shown, table = capsys.readouterr().out, pandas.read_csv(tmp_path / "run/results.csv")
    assert set(table.dataset) == {"own"} and set(table.task) == {"face"} and "input-ratio" in set(table.protocol)
    results.add(tmp_path / "run", table.assign(task="person", value=1.0, high=1.0).to_dict("records"), "others")
    assert main(["evaluate", *common, "--dataset", "own"]) == 0
    assert capsys.readouterr().out == shown and len(results.read(tmp_path / "run")) == 2 * len(table)


def test_two_folders_of_ones_own_never_share_a_table(tmp_path, capsys):
    facts = {"task": "person", "stage": "joint", "seed": 0, "profile": "demo", "synthetic": False, "commit": "0"}

    def added(method, value, pictures, dataset="own"):
        one = results.row(
            facts | {"dataset": dataset, "protocol": "all-shot", "method": method}, "mAP", [value] * 3, 5, 9
        )
        return [tuple(line) for line in results.add(tmp_path, [one], pictures)[["dataset", "method", "value"]].values]

    added("ppcl", 0.5, "lfw's", "lfw")
    assert added("ppcl", 0.1, "A") == [("lfw", "ppcl", 0.5), ("own", "ppcl", 0.1)]
    assert added("+crloc", 0.2, "A")[1:] == [("own", "ppcl", 0.1), ("own", "+crloc", 0.2)]
    assert capsys.readouterr().out == ""
    assert added("ppcl", 0.3, "B") == [("lfw", "ppcl", 0.5), ("own", "ppcl", 0.3)]
    assert "2 rows of own are removed: they were measured on other pictures" in capsys.readouterr().out


def test_rows_of_weights_that_were_replaced_do_not_stay(tmp_path, capsys):
    facts = {"task": "person", "dataset": "own", "stage": "joint", "profile": "demo", "synthetic": False, "commit": "0"}
    facts["protocol"] = "all-shot"

    def added(method, metric, weights, seed=0):
        one = results.row(facts | {"method": method, "seed": seed}, metric, [0.5] * 3, 5, 9)
        table = results.add(tmp_path, [one], "A", {trained_by(method.removesuffix("+rerank")): weights})
        return [tuple(line) for line in table[["method", "metric", "seed"]].values]

    for method, metric in (("ppcl", "mAP"), ("ppcl+rerank", "mAP"), ("no-crloc", "mAP"), ("ppcl", "mAP over +crloc")):
        added(method, metric, "1")
    added("ppcl", "mAP", "7", seed=1)
    assert len(added("+crloc", "mAP", "2")) == 6 and capsys.readouterr().out == ""
    left = added("+crloc", "mAP", "3")  # `ppcl` was compared with the former one
    assert ("ppcl", "mAP over +crloc", 0) not in left and ("ppcl", "mAP", 0) in left and len(left) == 5
    assert added("no-crloc", "rank-1", "4") == [("ppcl", "mAP", 1), ("+crloc", "mAP", 0), ("no-crloc", "rank-1", 0)]
    assert "3 rows of own are removed: they were measured with other weights" in capsys.readouterr().out


def test_other_pictures_have_another_fingerprint(people, tmp_path):
    def found(data, **overrides):
        both = datasets.evaluation_sets("own", data, recipe("person", "tiny", **overrides))
        return [part.fingerprint for part in both]

    first = found(people)
    shutil.copytree(people, tmp_path / "elsewhere")
    assert found(tmp_path / "elsewhere") == first
    assert found(tmp_path / "elsewhere", **{"partial_lfw.seed": 1}) != first
    Image.new("RGB", (40, 80)).save(datasets.evaluation_sets("own", tmp_path / "elsewhere")[1].paths[0])
    assert found(tmp_path / "elsewhere") != first


def test_nothing_is_drawn_into_a_folder_of_identities(people, capsys):
    before = sorted(path.name for path in people.iterdir())
    datasets.ready(recipe("person", "tiny"), people)
    for task in ("person", "face"):
        assert main(["data", "synthesise", "--task", task, "--scale", "tiny", "--out", str(people)]) == 1
        assert "not drawn here: draw into another, empty folder" in capsys.readouterr().err
    assert sorted(path.name for path in people.iterdir()) == before
