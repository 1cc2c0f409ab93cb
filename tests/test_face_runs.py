"""Every stage and protocol of the face task at work on drawn faces."""

import shutil

import numpy as np
import pandas
import pytest
from conftest import SMALL, train

from ppcl import evaluation, geometry, matching, metrics, recipes, training
from ppcl.__main__ import main
from ppcl.data import datasets, image_bank, partial_protocol, stage_batches
from ppcl.disk import checkpoints
from ppcl.evaluation import known_truth
from ppcl.recipes import RecipeError, recipe
from ppcl.runs import reproduce

ROWS = ["+glrec", "ppcl"]


@pytest.fixture(scope="module")
def run(small_face, face_pictures, tmp_path_factory):
    """A run with the method and one baseline trained."""
    return train(small_face, face_pictures, tmp_path_factory.mktemp("run"), ROWS)


def rows_of(found, **wanted):
    return [row for row in found.rows if all(row[key] == value for key, value in wanted.items())]


def check_intervals(rows):
    for row in rows:
        assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9, row


def test_faces_are_verified(run, faces):
    found = evaluation.evaluate(run, "face", "lfw", faces, ROWS, quiet=True)
    assert [row["metric"] for row in rows_of(found, method="+glrec")] == ["fusion-weight", "accuracy"]
    assert [row["metric"] for row in rows_of(found, method="ppcl")] == [
        "fusion-weight",
        "accuracy",
        "accuracy over +glrec",
    ]
    assert {(row["protocol"], row["n_query"], row["synthetic"]) for row in found.rows} == {("verification", 40, True)}
    check_intervals(found.rows)
    over, mine, theirs = (
        rows_of(found, metric=metric, method=method)[0]["value"]
        for metric, method in (("accuracy over +glrec", "ppcl"), ("accuracy", "ppcl"), ("accuracy", "+glrec"))
    )
    assert over == pytest.approx(mine - theirs)


def test_pairs_still_name_the_same_pictures_when_others_are_left_out(small_face, faces):
    everybody, pairs = datasets.verification_set("lfw", faces)
    found = evaluation.prepare("lfw", faces, small_face, quiet=True)
    for mine, theirs in ((found.pairs.first, pairs.first), (found.pairs.second, pairs.second)):
        assert [found.query.paths[i] for i in mine] == [everybody.paths[i] for i in theirs]
    assert len(found.query) == len(found.query_bank) == len(set(pairs.first) | set(pairs.second))


def test_partial_faces_are_searched(run, faces):
    found = evaluation.evaluate(run, "face", "partial-lfw", faces, ROWS, quiet=True)
    names = {row["metric"] for row in rows_of(found, protocol="all-shot", method="ppcl")}
    assert {"rank-1", "mAP", "TAR@FAR=1e-3", "rank-1 over +glrec", "mAP over +glrec"} <= names
    truth = {row["metric"] for row in rows_of(found, protocol="truth", method="ppcl")}
    assert {"glrec-IoU", "constant-box-IoU", "gate-accuracy", "gate-accuracy-whole", "crloc-IoU"} <= truth
    assert not any("crloc" in row["metric"] for row in rows_of(found, method="+glrec"))
    check_intervals(found.rows)
    table = pandas.read_csv(run / "face/partial-lfw.csv")
    assert table[["cx", "cy", "w", "h"]].to_numpy().tolist() == found.query.boxes.tolist()
    assert table.file.tolist() == [f"{path.parent.name}/{path.name}" for path in found.query.paths]


def test_subsets_by_input_ratio_are_the_boxes_areas(small_face, faces):
    found = evaluation.prepare("partial-lfw", faces, small_face, quiet=True)
    masks = known_truth.subsets(found)
    share = found.query.boxes[:, 2] * found.query.boxes[:, 3]
    for name, mask in masks.items():
        if name != "all":
            low, high = map(float, name.split("-"))
            assert mask.tolist() == ((low <= share) & (share < high)).tolist()
    assert masks["all"].all() and not set(masks) & set(recipes.KINDS)


def test_true_region_is_found_by_the_figures(small_face, faces):
    """What the query shows, point by point: the same place of either face's own frame, clipped to the picture."""
    found = evaluation.prepare("partial-lfw", faces, small_face, quiet=True)
    query, gallery, region = known_truth.true_pairs(found)
    assert (found.query.identities[query] == found.gallery.identities[gallery]).all() and len(query) == len(found.query)
    table = datasets.truth(faces)
    for i, j, box in zip(query, gallery, geometry.corners(region).tolist(), strict=True):
        asked = table.loc[found.query.paths[i].relative_to(faces).as_posix()]
        have = table.loc[found.gallery.paths[j].relative_to(faces).as_posix()]
        cx, cy, w, h = found.query.boxes[i]
        points = [("x", "w", cx - w / 2), ("y", "h", cy - h / 2), ("x", "w", cx + w / 2), ("y", "h", cy + h / 2)]
        for (axis, size, point), carried in zip(points, box, strict=True):
            inside = (point - asked[f"figure_c{axis}"]) / asked[f"figure_{size}"]
            expected = have[f"figure_c{axis}"] + inside * have[f"figure_{size}"]
            assert carried == pytest.approx(min(max(expected, 0), 1), abs=1e-4)


def test_curve_over_the_input_ratio(run, faces):
    """Of the named rows where several are evaluated, of a row that is evaluated alone in any case."""
    everything = evaluation.evaluate(run, "face", "partial-lfw", faces, quiet=True)
    named = {row["method"] for row in rows_of(everything, protocol="input-ratio")}
    assert named == {method for method in evaluation.trained(run, "face") if method in evaluation.CURVES}
    rows = rows_of(evaluation.evaluate(run, "face", "partial-lfw", faces, ["ppcl"]), protocol="input-ratio")
    assert [(row["method"], row["subset"], row["metric"]) for row in rows] == [
        ("ppcl", f"{k / 10:.1f}", metric) for k in range(1, 11) for metric in ("rank-1", "TAR@FAR=1e-3")
    ]
    assert all(row["n_query"] == row["n_gallery"] for row in rows)
    check_intervals(rows)
    model = evaluation.load(run, "face", "ppcl")
    query, gallery = datasets.evaluation_sets("partial-lfw", faces, model.recipe)
    query = query.keep(~pandas.Series(query.identities).duplicated().to_numpy())
    expected = []
    for share in (0.1, 0.3, 0.5, 0.7, 1.0):
        parts = (partial_protocol.at_ratio(query, share), gallery)
        banks = [image_bank.bank(part.pictures, model.recipe.input.size, quiet=True) for part in parts]
        several = [matching.describe(model, bank, several) for bank, several in zip(banks, (True, False), strict=True)]
        ids = query.identities, gallery.identities
        ranked = metrics.cmc_map(matching.match(model, *several).numpy(), *ids)
        expected.append(ranked.rank(1))
    found = {row["subset"]: row["value"] for row in rows if row["method"] == "ppcl" and row["metric"] == "rank-1"}
    assert [found[share] for share in ("0.1", "0.3", "0.5", "0.7", "1.0")] == pytest.approx(expected)
    assert len(set(expected)) > 1
    saved = pandas.read_csv(run / "results.csv", dtype={"subset": str})
    assert set(saved[saved.protocol == "input-ratio"].method) >= {"ppcl"}


def test_ready_made_partial_faces_have_no_curve(run, faces, tmp_path):
    query, gallery = datasets.evaluation_sets("partial-lfw", faces)
    for name, some in (("probe", query), ("gallery", gallery)):
        (tmp_path / "partial" / name).mkdir(parents=True)
        for path in some.paths[:5]:
            shutil.copy(path, tmp_path / "partial" / name / f"{path.parent.name}.jpg")
    found = evaluation.evaluate(run, "face", "partial-lfw", tmp_path, ["ppcl"], quiet=True)
    assert len(rows_of(found, metric="TAR@FAR=1e-3")) == 2 and not rows_of(found, protocol="truth")
    assert not rows_of(found, protocol="input-ratio")


@pytest.mark.parametrize("task, dataset", [("person", "lfw"), ("person", "partial-lfw"), ("face", "partial-reid")])
def test_a_set_of_the_other_task_is_refused(run, faces, task, dataset):
    with pytest.raises(RecipeError, match=f"{dataset} belongs to task"):
        evaluation.evaluate(run, task, dataset, faces)


@pytest.mark.parametrize("dataset", ["lfw", "partial-lfw"])
def test_the_command_line_evaluates_faces(run, faces, capsys, dataset):
    common = ["evaluate", "--run", str(run), "--data", str(faces), "--dataset", dataset]
    assert main([*common, "--task", "face"]) == 0
    assert "ppcl" in capsys.readouterr().out
    assert main(common) == 2
    assert f"{dataset} belongs to task face" in capsys.readouterr().err


def test_the_papers_recipe_goes_through_one_step_of_every_stage(faces, tmp_path):
    """The face network, its margin softmax and SGD; pictures and batches are smaller, because few people are drawn."""
    few = {"input.height": 32, "input.width": 32, "selection.heldout": 0.3, "glrec.batch": 8, "joint.glrec_batch": 8}
    few |= {"backbone.batch": 8, "backbone.identities": 4, "joint.batch": 16, "joint.identities": 4}
    few |= {"glrec.steps": 1, "backbone.steps": 1, "joint.steps": 1}
    paper = recipe("face", "paper", **few)
    pictures = stage_batches.training_data(paper, faces, quiet=True)
    training.train_glrec(paper, pictures, tmp_path, quiet=True)
    training.train_backbone(paper, pictures, tmp_path, quiet=True)
    header = checkpoints.header(training.train_joint(paper, pictures, tmp_path, "ppcl", quiet=True))
    assert header["finished"] and set(header["fusion_weights"]) == {"ppcl", "ppcl@1", "no-crloc", "oracle-placement"}


def test_the_command_line_draws_and_trains_faces(tmp_path, capsys):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["data", "synthesise", "--task", "face", "--scale", "tiny", "--out", data]) == 0
    given = [f"{key}={value}" for key, value in SMALL.items()]
    given = [part for pair in given for part in ("--set", pair)]
    assert main(["train", "glrec", "--task", "face", "--profile", "tiny", "--run", run, "--data", data, *given]) == 0
    assert checkpoints.header(tmp_path / "run/face/glrec/checkpoint.safetensors")["finished"]
    with pytest.raises(SystemExit):
        main(["evaluate", "--task", "face", "--run", run, "--data", data, "--dataset", "casia-webface"])


def test_reproduce_runs_faces_before_people_and_measures_at_the_end(monkeypatch, drawn, faces, tmp_path):
    done, both = [], shutil.copytree(faces, tmp_path / "both")
    shutil.copytree(drawn, both, dirs_exist_ok=True)
    monkeypatch.setattr(reproduce.datasets, "ready", lambda *_: None)  # it would draw the faces again

    def execute(path, run, given, *_):
        done.append((path.name[:2], given["task"]))
        return 1.0, 100

    monkeypatch.setattr(reproduce, "_execute", execute)
    reproduce.reproduce("tiny", run=tmp_path / "a", data=both)
    numbers = [path.name[:2] for path in reproduce.notebooks()]
    assert "08" in numbers and len(done) == 2 * len(numbers)
    assert done[:-2] == [(number, task) for task in ("face", "person") for number in numbers if number != "08"]
    assert done[-2:] == [("08", "face"), ("08", "person")]
    done.clear()
    own = shutil.copytree(drawn, tmp_path / "own", ignore=shutil.ignore_patterns("drawn.txt"))
    reproduce.reproduce("tiny", run=tmp_path / "b", data=own, only="01")
    assert done == [("01", "person")]
    done.clear()
    monkeypatch.setitem(reproduce.ROOM, "paper", 0)
    reproduce.reproduce("paper", run=tmp_path / "c", data=drawn, only="01")  # which draws nothing
    assert done == [("01", "person")]


def test_partial_lfw_of_the_recipe_is_the_one_that_is_evaluated(small_face, faces):
    other = recipe("face", "tiny", **{"partial_lfw.area": "0.2,0.3", "partial_lfw.people": 7})
    found = evaluation.prepare("partial-lfw", faces, other, quiet=True)
    query, _, boxes = partial_protocol.sampled_test(datasets.read("lfw", "all", faces), other.partial_lfw, ("random",))
    assert found.query.paths == query.paths and len(found.gallery) == 7
    assert found.query.boxes == pytest.approx(boxes.numpy(), abs=1e-4)


def test_margin_softmax_is_saved_loaded_and_evaluated(face_pictures, faces, run, tmp_path):
    chosen = recipe("face", "tiny", **SMALL, **{"backbone.softmax": "cosface", "backbone.triplet_weight": 0})
    shutil.copytree(run / "face/glrec", tmp_path / "face/glrec")
    training.train_backbone(chosen, face_pictures, tmp_path, quiet=True)
    training.train_joint(chosen, face_pictures, tmp_path, "backbone+crops", quiet=True)
    model = evaluation.load(tmp_path, "face", "backbone+crops")
    assert model.backbone.classifier.W.shape == (128, 7) and model.recipe == chosen
    found = evaluation.evaluate(tmp_path, "face", "lfw", faces, quiet=True)
    assert {row["metric"] for row in found.rows} == {"fusion-weight", "accuracy"}
    log = pandas.read_json(tmp_path / "face/backbone/log.jsonl", lines=True)
    assert np.isfinite(log.identity).all()


def test_folds_are_trained_on_and_others_tested(small_face, faces, tmp_path):
    """Of the training people, those with one picture serve GLRec alone, and nobody else is held out or counted."""
    few = {"backbone.identities": 2, "backbone.batch": 4, "joint.identities": 2, "joint.batch": 8, "backbone.epochs": 2}
    folds = recipe("face", "tiny", **SMALL | few | {"data.folds": "1,2"})
    shutil.copytree(faces / "lfw", tmp_path / "data/lfw")
    shutil.copy(next(faces.rglob("pairs.txt")), tmp_path / "data")
    for name in "ABCDWXYZ":  # two batches' worth: an epoch of the backbone is shorter than one of GLRec
        (tmp_path / f"data/lfw/{name}").mkdir()
        shutil.copy(next(faces.glob("lfw/*/*.jpg")), tmp_path / f"data/lfw/{name}/{name}_0001.jpg")
    faces = tmp_path / "data"
    pictures = stage_batches.training_data(folds, faces, quiet=True)
    everybody = datasets.training_set("face", faces, folds.data)
    people, counts = np.unique(everybody.identities, return_counts=True)
    assert (counts == 1).sum() == 8 and pictures.classes == (counts > 1).sum() - len(set(pictures.heldout_ids))
    assert (pictures.labels < 0).sum() == (counts == 1).sum()
    assert len(pictures.train) + len(pictures.heldout) == len(everybody)
    assert {len(pictures.names[i].split("/")) for i in range(len(pictures.names))} == {2}
    for label in range(pictures.classes):
        assert len({pictures.names[i].split("/")[0] for i in np.flatnonzero(pictures.labels == label)}) == 1
    train(folds, pictures, tmp_path, ["ppcl"])
    found = evaluation.evaluate(tmp_path, "face", "lfw", faces, quiet=True)
    assert found.pairs.folds == 2 and not {*found.query.paths} & {*everybody.paths}
    found = evaluation.evaluate(tmp_path, "face", "partial-lfw", faces, quiet=True)
    assert len(found.query) and not {*found.query.paths, *found.gallery.paths} & {*everybody.paths}
