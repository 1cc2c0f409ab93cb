"""The command line: exit codes, one clear line for a wrong call, and every command at work on the tiny run."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch
from conftest import FAST, by_commands, failure
from PIL import Image
from safetensors.torch import save_file

import ppcl
from ppcl import evaluation, matching, search, training
from ppcl.__main__ import main, parser
from ppcl.data import datasets, image_files
from ppcl.data.reading import DataError
from ppcl.disk import files
from ppcl.disk.files import as_json
from ppcl.evaluation.results import COLUMNS
from ppcl.runs import reproduce


def made(folder):
    """What lies in a stage's folder beside its lock."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    """A run whose three stages were trained by the command line."""
    return by_commands(tmp_path_factory.mktemp("cli") / "run", drawn)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["reproduce", "--nonsense"], "--nonsense"),
        (["reproduce", "--profile", "huge"], "huge"),
        (["fly"], "fly"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "joint.epoch=2"], "joint.epochs"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "joint.epochs"], "key=value"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "joint.epochs=two"], "two"),
        (["train", "joint", "--run", "r", "--data", "d", "--method", "ppcc"], "'ppcl'"),
        (["evaluate", "--run", "r", "--data", "d", "--dataset", "partial-rid"], "partial-reid"),
        (["rank", "--run", "r", "--query", "q", "--gallery", "g", "--out", "o", "--top", "0"], "--top"),
        (["evaluate", "--run", "r", "--data", "d", "--dataset", "own", "--json", "/"], "/ is a folder"),
        (["data", "synthesise", "--out", "d", "--seed", "-1"], "--seed"),
        (["data", "synthesise", "--out", "d", "--seed", str(2**64)], "below 2^63"),
        (["bench", "--json", "/dev/null/x.json"], "/dev/null is no folder"),
        (["bench", "--json", "/dev/null"], "/dev/null is a device or a pipe"),
        (["bench", "--json", 300 * "x"], "cannot be written: file name too long"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "ablation.rows=foo"], "foo"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "backbone.weights=/nowhere.pt"], "/nowhere.pt"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "augmentation.flip=7"], "augmentation.flip"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "glrec.min_side=-3"], "glrec.min_side"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "glrec.min_side=2"], "glrec.min_side"),
        (["train", "joint", "--run", "r", "--data", "d", "--set", "task=face"], "give --task face"),
        ([], "command"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_exit_2(capsys, arguments, words):
    status, lines = failure(capsys, arguments)
    assert status == 2
    assert len(lines) == 1 and words in lines[0]


def test_every_command_has_help(capsys):
    for command in (
        [],
        ["reproduce"],
        ["data", "check"],
        ["data", "synthesise"],
        ["train"],
        ["evaluate"],
        ["rank"],
        ["bench"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_missing_data_is_one_line_that_names_folder_and_remedy(capsys, tmp_path):
    arguments = ["train", "glrec", "--run", tmp_path / "run", "--data", tmp_path / "nowhere", "--profile", "tiny"]
    status, lines = failure(capsys, arguments)
    assert status == 1 and len(lines) == 1
    assert "nowhere" in lines[0] and "data synthesise" in lines[0]


def test_an_unreadable_training_picture_is_named_before_training(capsys, drawn, tmp_path):
    shutil.copytree(drawn / "Market-1501-v15.09.15", tmp_path / "data/Market-1501-v15.09.15")
    bad = sorted((tmp_path / "data/Market-1501-v15.09.15/bounding_box_train").glob("*.jpg"))[7]
    bad.write_bytes(bad.read_bytes()[:300])
    arguments = ["train", "glrec", "--run", tmp_path / "run", "--data", tmp_path / "data", "--profile", "tiny"]
    status, lines = failure(capsys, arguments)
    assert status == 1 and bad.name in lines[-1]
    assert not (tmp_path / "run").exists()


def test_evaluating_a_set_that_is_not_there_says_how_to_get_it(capsys, run, tmp_path):
    status, lines = failure(
        capsys, ["evaluate", "--run", run, "--data", tmp_path, "--dataset", "partial-ilids", "--method", "ppcl"]
    )
    assert status == 1 and "Partial-Person-ReID" in lines[0]


def test_evaluating_by_a_truth_that_nobody_knows_is_no_success(capsys, run, drawn):
    arguments = ["evaluate", "--run", run, "--data", drawn, "--dataset", "market1501", "--method", "oracle-placement"]
    status, lines = failure(capsys, arguments)
    assert status == 1 and len(lines) == 1 and "oracle-placement needs the true boxes" in lines[0]


def test_a_run_without_the_method_says_what_makes_it(capsys, run, drawn):
    status, lines = failure(
        capsys, ["evaluate", "--run", run, "--data", drawn, "--dataset", "partial-reid", "--method", "+crloc"]
    )
    assert status == 1 and "train joint --method +crloc" in lines[0]


def test_training_again_leaves_a_finished_stage(capsys, run, drawn):
    path = run / "person/joint/ppcl/seed0/checkpoint.safetensors"
    before = path.stat().st_mtime_ns
    assert main(["train", "joint", "--run", str(run), "--data", str(drawn), *FAST]) == 0
    assert path.stat().st_mtime_ns == before
    assert str(path) in capsys.readouterr().out


def test_another_recipe_in_the_same_run_is_refused(capsys, run, drawn):
    status, lines = failure(
        capsys, ["train", "joint", "--run", run, "--data", drawn, *FAST, "--set", "joint.sigma=0.3"]
    )
    assert status == 1 and "joint.sigma is 0.2 there, 0.3 here" in lines[0]


@pytest.mark.parametrize("stage", ["glrec", "backbone", "joint"])
def test_other_pictures_of_as_many_people_are_refused(capsys, run, drawn, tmp_path, stage):
    source = datasets.read("market1501", "train", drawn).folder
    shutil.copytree(source, tmp_path / source.relative_to(drawn))
    changed = sorted(tmp_path.rglob("*.jpg"))[3]
    changed.write_bytes(changed.read_bytes() + b"\0")
    given = ["train", stage, "--method", "no-prior", "--run", run, "--data", tmp_path, *FAST]
    status, lines = failure(capsys, given)
    assert status == 1 and "the pictures of market1501/train changed" in lines[-1] and "use another --run" in lines[-1]
    assert not made(run / "person/joint/no-prior")


def test_train_finds_the_data_in_the_run_folder(capsys, drawn, tmp_path):
    (tmp_path / "data").symlink_to(drawn)
    assert main(["train", "glrec", "--run", str(tmp_path), *FAST, "--set", "glrec.steps=1"]) == 0
    assert (tmp_path / "person/glrec/checkpoint.safetensors").is_file()


def test_bench_of_an_installed_copy_asks_where_its_record_goes(capsys, tmp_path, monkeypatch):
    from ppcl import bench

    monkeypatch.setattr(bench, "RECORD", tmp_path / "figures/benchmarks.json")
    status, lines = failure(capsys, ["bench"])
    assert status == 2 and "--json FILE" in lines[0]


@pytest.mark.parametrize("change", ["backbone.epochs=9", "glrec.width=16", "selection.heldout=0.2"])
def test_a_joint_stage_never_claims_another_recipe_for_what_it_starts_from(capsys, run, drawn, change):
    """Its header has the whole recipe."""
    given = ["train", "joint", "--method", "no-cycle", "--run", run, "--data", drawn, *FAST, "--set", change]
    status, lines = failure(capsys, given)
    assert status == 1 and f"{change.split('=')[0]} is" in lines[0] and "use another --run" in lines[0]
    assert not made(run / "person/joint/no-cycle")


def test_a_finished_joint_stage_is_not_kept_for_another_test(capsys, run, drawn):
    """It is evaluated by the protocol in its header."""
    given = ["train", "joint", "--run", run, "--data", drawn, *FAST, "--set", "partial_lfw.people=7"]
    status, lines = failure(capsys, given)
    assert status == 1 and "partial_lfw.people is" in lines[0] and "use another --run" in lines[0]


def test_data_check_counts_and_says_drawn(capsys, drawn):
    assert main(["data", "check", "--data", str(drawn), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(r["dataset"], r["part"]) for r in rows} >= {("market1501", "train"), ("partial-ilids", "gallery")}
    people = ("market1501", "partial-reid", "partial-ilids", "occluded-reid")
    assert all(r["status"] == ("drawn" if r["dataset"] in people else "missing") for r in rows)
    train = next(r for r in rows if r["part"] == "train")
    assert (train["pictures"], train["identities"]) == (60, 10)


def test_evaluate_writes_the_tidy_table(capsys, run, drawn, tmp_path):
    for dataset in ("partial-reid", "partial-ilids", "market1501"):
        arguments = ["evaluate", "--run", run, "--data", drawn, "--dataset", dataset, "--json", tmp_path / "rows.json"]
        assert main([str(a) for a in arguments]) == 0
    table = pandas.read_csv(run / "results.csv")
    assert list(table.columns) == COLUMNS
    numbers = table[~table.metric.str.contains("without")]
    assert (numbers.low <= numbers.value + 1e-9).all() and (numbers.value <= numbers.high + 1e-9).all()
    assert table.synthetic.all()
    assert set(table.method) == {"ppcl", "ppcl@1", "no-crloc", "oracle-placement"}
    assert {"single-shot", "all-shot", "standard", "truth"} == set(table.protocol)
    assert {"glrec-IoU", "gate-accuracy", "crloc-IoU", "rank-1", "mAP", "rank-1 over ppcl@1"} <= set(table.metric)
    lines = len(table)
    assert main([str(a) for a in arguments]) == 0
    assert len(pandas.read_csv(run / "results.csv")) == lines  # evaluated again: replaced, not added


def test_evaluate_prints_the_numbers_of_its_seed(capsys, run, drawn, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("results.csv"))
    call = ["evaluate", "--run", tmp_path / "run", "--data", drawn, "--dataset", "partial-ilids", "--method", "ppcl"]
    main([str(a) for a in call])
    path = tmp_path / "run/results.csv"
    table = pandas.read_csv(path)
    table.assign(seed=1, value=0, low=0, high=0).to_csv(path, index=False)  # another training's
    capsys.readouterr()
    main([str(a) for a in call])
    out, mine = capsys.readouterr().out, table[(table.metric == "mAP") & (table.subset == "all")].iloc[0]
    assert f"{100 * mine.value:.1f} [{100 * mine.low:.1f}, {100 * mine.high:.1f}]" in out and mine.value > 0
    assert set(pandas.read_csv(path).seed) == {0, 1}


@pytest.mark.parametrize("content", ["", "not,a\n1,2\n", "\x00\xff"])
def test_a_damaged_table_is_named_before_the_work(capsys, run, drawn, tmp_path, monkeypatch, content):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("results.csv"))
    path = tmp_path / "run/results.csv"
    path.write_text(content)
    monkeypatch.setattr(matching, "describe", None)  # what the work begins with
    call = ["evaluate", "--run", tmp_path / "run", "--data", drawn, "--dataset", "partial-ilids"]
    status, lines = failure(capsys, call)
    assert status == 1 and str(path) in lines[-1] and "delete it and evaluate again" in lines[-1]
    assert path.read_text() == content


def test_rank_takes_any_ordinary_photographs(run, drawn, tmp_path):
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    whole = sorted((drawn / "Partial-REID_Dataset/whole_body_images").glob("*.jpg"))
    for number, path in enumerate(whole[:5]):
        Image.open(path).convert(["RGB", "L", "RGBA", "P", "CMYK"][number]).save(
            gallery / f"{path.stem}.{'png' if number in (1, 2, 3) else 'jpg'}"
        )
    (gallery / "broken.jpg").write_text("not a picture")
    turned = tmp_path / "turned.jpg"
    picture = Image.open(whole[0])
    exif = picture.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    picture.rotate(90, expand=True).save(turned, exif=exif, quality=95)
    arguments = ["rank", "--run", run, "--query", whole[0], turned, "--gallery", gallery, "--top", 3]
    assert main([str(a) for a in [*arguments, "--out", tmp_path / "out"]]) == 0
    table = pandas.read_csv(tmp_path / "out/ranking.csv")
    assert len(table) == 6 and list(table["rank"]) == [1, 2, 3, 1, 2, 3]
    assert table.distance.is_monotonic_increasing or (table.groupby("query").distance.diff().dropna() >= 0).all()
    assert "broken.jpg" not in set(table.gallery)
    upright, exifed = (table[table["query"] == str(q)] for q in (whole[0], turned))
    assert list(upright.gallery) == list(exifed.gallery)  # the EXIF rotation was honoured
    assert (table.x1 < table.x2).all() and (table.y1 < table.y2).all()
    with Image.open(tmp_path / "out/ranking.png") as figure:
        assert figure.width > 300


def test_rank_keeps_the_gallery_until_it_changes(capsys, monkeypatch, run, drawn, tmp_path):
    gallery, whole = tmp_path / "gallery", sorted((drawn / "Partial-REID_Dataset/whole_body_images").glob("*.jpg"))
    gallery.mkdir()
    for path in whole[:6]:
        shutil.copy(path, gallery)
    (gallery / "broken.jpg").write_text("not a picture")
    arguments = [str(a) for a in ["rank", "--run", run, "--query", whole[0], whole[7], "--gallery", gallery]]
    described = []
    describe = matching.describe
    monkeypatch.setattr(
        matching,
        "describe",
        lambda model, bank, *others: (described.append(len(bank)), describe(model, bank, *others))[1],
    )

    def ranked(name):
        described.clear()
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
        assert "broken.jpg" in capsys.readouterr().out
        return (tmp_path / name / "ranking.csv").read_text(), sorted(described)

    first, work = ranked("first")
    assert work == [2, 6]
    assert ranked("again") == (first, [2])
    for path in gallery.iterdir():
        os.utime(path, (1, 1))
    assert ranked("touched") == (first, [2])
    gallery.rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", gallery)
    assert ranked("copied") == (first, [2])
    arguments[-1] = str(tmp_path / "old")
    assert ranked("elsewhere") == (first, [2])
    arguments[-1] = str(gallery)
    arguments += ["--method", "no-crloc"]  # of the same checkpoint, with the same features
    assert ranked("other")[1] == [2]
    arguments = arguments[:-2]
    pictures = [gallery / path.name for path in whole[:2]]  # swapped in place, with equal names, sizes and times
    contents = [path.read_bytes() for path in pictures]
    length = max(map(len, contents))
    for path, content in zip(pictures, contents, strict=True):
        path.write_bytes(content.ljust(length, b"\0"))
        os.utime(path, (1, 1))
    swapped, work = ranked("padded")
    assert work == [2, 6]
    for path, content in zip(pictures, reversed(contents), strict=True):
        path.write_bytes(content.ljust(length, b"\0"))
        os.utime(path, (1, 1))
    changed, work = ranked("swapped")
    assert work == [2, 6] and changed != swapped
    with monkeypatch.context() as unwritable:
        unwritable.setattr("ppcl.matching.kept_features._write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        (gallery / whole[5].name).unlink()
        assert len(pandas.read_csv(io.StringIO(ranked("full")[0]))) == 10
        unwritable.setattr("ppcl.search.PART", 4)
        status, lines = failure(capsys, [*arguments, "--out", str(tmp_path / "larger")])
        assert status == 1 and len(lines) == 1 and "free some room" in lines[0]


ALBUMS = {  # file in the gallery -> picture, by number; words of the one line
    "subfolders": ({"cover.jpg": 0, "2023/a.jpg": 1, "2023/b.jpg": 2, "2024/c.jpg": 3},
                   ["3 pictures are left out", "2023/a.jpg", "folders within"]),
    "other endings": ({"a.jpg": 0, "b.jfif": 1, "c.jpe": 2, "d": 3, "e.heic": 4, "f.jpg_large": 5, "g.jpg.1": 5},
                      ["4 pictures are left out", "such as d", "the ending is none of"]),
    "thumbnails": ({"a.jpg": 0, "b.jpg": 1, "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": 0}, []),
    "copies": ({"a.jpg": 0, "a (1).jpg": 0, "b.jpg": 1, "B.JPG": 2},
               ["2 gallery pictures are copies of 1: a (1).jpg = a.jpg"]),
    "itself": ({"a.jpg": 7, "b.jpg": 1}, ["1 of 1 queries are themselves in the gallery: ", " = a.jpg"]),
    "nothing": ({"a.jpg": 0, "b.jpg": 1}, []),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALBUMS)
def test_rank_says_in_one_line_what_is_left_out_or_there_twice(capsys, run, drawn, tmp_path, kind):
    whole = sorted((drawn / "Partial-REID_Dataset/whole_body_images").glob("*.jpg"))
    gallery, (album, words) = tmp_path / "al {0} [a] $x ~", ALBUMS[kind]
    for name, number in album.items():
        (gallery / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole[number], gallery / name)
    arguments = [
        "rank",
        "--run",
        run,
        "--query",
        whole[7],
        "--gallery",
        gallery,
        "--out",
        tmp_path / "out",
        "--top",
        99,
    ]
    for _ in range(2):  # also when the gallery's features were kept
        files.warn_once.cache_clear()
        assert main([str(a) for a in arguments]) == 0
        out, error = capsys.readouterr()
        notes = out.splitlines()[:-3] + error.splitlines()  # without the table's head and its line, and the files
        assert len(notes) == bool(words) and all(word in notes[0] for word in words)
        ranked = [name for name in album if "/" not in name and name.lower().endswith((".jpg", ".jfif", ".jpe"))]
        assert sorted(pandas.read_csv(tmp_path / "out/ranking.csv").gallery) == sorted(ranked)


def test_rank_says_that_uncut_faces_are_cut(capsys, monkeypatch, run, drawn, tmp_path):
    load, gallery = evaluation.load, tmp_path / "gallery"

    def of_faces(*arguments):
        model = load(*arguments)
        model.recipe = replace(model.recipe, data=replace(model.recipe.data, uncut=250))
        return model

    monkeypatch.setattr(evaluation, "load", of_faces)
    gallery.mkdir()
    for name, side in (("a.png", 250), ("b.png", 250), ("c.png", 240)):
        Image.effect_noise((side, side), 50).save(gallery / name)
    Image.effect_noise((250, 250), 50).save(tmp_path / "query.png")
    arguments = ["rank", "--run", run, "--query", tmp_path / "query.png", "--gallery", gallery, "--out", tmp_path]
    files.warn_once.cache_clear()
    for again in (False, True):
        assert main([str(a) for a in arguments]) == 0
        out, error = capsys.readouterr()
        assert "2 gallery picture(s) of 250 x 250 pixels are cut to their central half" in out
        assert again or "queries: 1 of 1 pictures have 250 x 250 pixels and are cut" in error


def test_a_path_may_begin_at_the_home_folder(monkeypatch, run, drawn, tmp_path):
    shutil.copytree(drawn / "Partial-REID_Dataset/whole_body_images", tmp_path / "album")
    monkeypatch.setenv("HOME", str(tmp_path))
    query = sorted((tmp_path / "album").glob("*.jpg"))[0].name
    table = search.rank(run, "person", f"~/album/{query}", "~/album", "~/found", 1)
    assert len(table) == 1 and (tmp_path / "found/ranking.csv").is_file()


def test_a_gallery_picture_that_can_be_read_again_is_taken_up(capsys, monkeypatch, run, drawn, tmp_path):
    """Of a passing cause, as of permissions or a network share, neither size nor time of a file tells."""
    gallery, whole = tmp_path / "gallery", sorted((drawn / "Partial-REID_Dataset/whole_body_images").glob("*.jpg"))
    gallery.mkdir()
    for path in whole[:3]:
        shutil.copy(path, gallery)
    arguments = [str(a) for a in ["rank", "--run", run, "--query", whole[0], "--gallery", gallery, "--out", tmp_path]]

    def refusing(path):
        if Path(path).name == whole[1].name:
            raise DataError(f"{path}: not a readable picture (Permission denied)")
        return open_picture(path)

    open_picture = image_files.open_picture
    for open_, count in ((refusing, 2), (refusing, 2), (open_picture, 3)):
        monkeypatch.setattr(image_files, "open_picture", open_)
        assert main(arguments) == 0
        assert len(pandas.read_csv(tmp_path / "ranking.csv")) == count
        assert ("Permission denied" in capsys.readouterr().out) == (count == 2)


@pytest.mark.parametrize("wrong", ["query", "gallery", "empty"])
def test_rank_names_what_it_cannot_read(capsys, run, tmp_path, wrong):
    query, gallery = tmp_path / "query.png", tmp_path / "gallery"
    Image.new("RGB", (30, 60)).save(query)
    if wrong != "gallery":
        gallery.mkdir()
    if wrong == "query":
        Image.new("RGB", (30, 60)).save(gallery / "a.png")
        query.write_bytes(b"")
    arguments = ["rank", "--run", run, "--query", query, "--gallery", gallery, "--out", tmp_path / "out"]
    status, lines = failure(capsys, arguments)
    assert status == 1 and len(lines) == 1
    assert (query.name if wrong == "query" else gallery.name) in lines[0]


def test_ctrl_c_exits_130(monkeypatch, capsys, drawn, tmp_path):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(training.STAGES, "glrec", interrupted)
    arguments = ["train", "glrec", "--run", tmp_path / "run", "--data", drawn, "--profile", "tiny"]
    status, lines = failure(capsys, arguments)
    assert status == 130 and len(lines) == 1 and "the same command resumes" in lines[0]
    monkeypatch.setattr("ppcl.search.rank", interrupted)
    status, lines = failure(capsys, ["rank", "--run", "r", "--query", "q", "--gallery", "g", "--out", "o"])
    assert status == 130 and len(lines) == 1 and "starts again" in lines[0]


def test_the_result_of_a_search_is_no_picture_of_the_gallery(run, drawn, capsys, tmp_path):
    shutil.copytree(drawn / "Partial-REID_Dataset/whole_body_images", tmp_path / "gallery")
    query = sorted((drawn / "Partial-REID_Dataset/partial_body_images").glob("*.jpg"))[0]
    given = ["rank", "--run", run, "--query", query, "--gallery", tmp_path / "gallery"]
    status, lines = failure(capsys, [*given, "--out", tmp_path / "out/../gallery"])
    assert status == 1 and len(lines) == 1 and "is the gallery: give another folder" in lines[0]
    assert not (tmp_path / "gallery/ranking.png").exists()


def test_rows_without_regions_show_none(run, drawn, tmp_path):
    assert main(["train", "joint", "--method", "+glrec", "--run", str(run), "--data", str(drawn), *FAST]) == 0
    gallery = drawn / "Partial-REID_Dataset/whole_body_images"
    query = sorted((drawn / "Partial-REID_Dataset/partial_body_images").glob("*.jpg"))[0]
    arguments = ["rank", "--run", run, "--query", query, "--gallery", gallery, "--out", tmp_path]
    assert main([str(a) for a in [*arguments, "--method", "+glrec"]]) == 0
    table = pandas.read_csv(tmp_path / "ranking.csv")
    assert table[["region", "x1", "y1", "x2", "y2"]].isna().all(axis=None) and table["global"].notna().all()
    assert main([str(a) for a in [*arguments, "--method", "same-location"]]) == 0
    table = pandas.read_csv(tmp_path / "ranking.csv")
    assert table.x1.notna().all() and table.region.notna().all()


def test_people_are_not_drawn_among_photographs(capsys, tmp_path):
    (tmp_path / "Market-1501-v15.09.15/bounding_box_train").mkdir(parents=True)
    status, lines = failure(capsys, ["data", "synthesise", "--out", tmp_path, "--scale", "tiny"])
    assert status == 1 and "not drawn here" in lines[0]
    assert not (tmp_path / "truth.csv").exists() and not (tmp_path / "drawn.txt").exists()


def test_a_run_of_another_profile_keeps_its_manifest(capsys, run, drawn):
    manifest = (run / "manifest.json").read_text()
    status, lines = failure(capsys, ["reproduce", "--run", run, "--data", drawn, "--profile", "demo", "--only", "01"])
    assert status == 1 and "holds a tiny run" in lines[0]
    assert (run / "manifest.json").read_text() == manifest


def test_a_data_folder_that_is_not_there_is_not_drawn(capsys, tmp_path):
    call = ["reproduce", "--profile", "tiny", "--run", tmp_path / "run", "--data", tmp_path / "MINNE", "--only", "01"]
    status, lines = failure(capsys, call)
    assert status == 1 and f"{tmp_path / 'MINNE'} is not a folder" in lines[0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--run", "--data"])
def test_an_empty_folder_is_refused(capsys, drawn, tmp_path, option):
    call = ["train", "glrec", "--run", tmp_path, "--data", drawn, option, ""]
    status, lines = failure(capsys, call)
    assert status == 2 and f"argument {option}: it is empty: give a folder" in lines[-1]


def test_a_manifest_that_is_none_is_named(capsys, drawn, tmp_path):
    (tmp_path / "manifest.json").write_text("[1]")
    call = ["train", "glrec", "--run", tmp_path, "--data", drawn, "--profile", "tiny"]
    status, lines = failure(capsys, call)
    assert status == 1 and "manifest.json is damaged" in lines[-1] and "delete it" in lines[-1]


def test_a_run_of_another_profile_is_refused_before_training(capsys, run, drawn):
    given = ["train", "joint", "--method", "no-prior", "--run", run, "--data", drawn, "--profile", "demo"]
    status, lines = failure(capsys, given)
    assert status == 1 and "holds a tiny run" in lines[0] and not made(run / "person/joint/no-prior")


def test_a_notebook_that_failed_leaves_the_manifest(monkeypatch, capsys, run, drawn):
    """It tells what made the numbers that are there."""
    manifest = (run / "manifest.json").read_text()

    def fails(*_):
        raise reproduce.ReproduceError("05: no")

    monkeypatch.setattr(reproduce, "_execute", fails)
    given = ["reproduce", "--run", run, "--data", drawn, "--profile", "tiny", "--task", "person", "--seed", "1"]
    assert failure(capsys, given)[0] == 1 and (run / "manifest.json").read_text() == manifest


def test_reproduce_says_at_once_that_there_is_no_partial_set(capsys, drawn, tmp_path):
    train = "Market-1501-v15.09.15/bounding_box_train"  # with its test half, partial-market1501 would be made of it
    shutil.copytree(drawn / train, tmp_path / "data" / train)
    arguments = ["reproduce", "--profile", "tiny", "--run", tmp_path / "run", "--data", tmp_path / "data"]
    status, lines = failure(capsys, arguments)
    assert status == 1 and "no partial set" in lines[0] and not (tmp_path / "run/notebooks").exists()


def test_reproduce_looks_at_weights_before_anything_runs(capsys, drawn, tmp_path):
    save_file({"another.weight": torch.zeros(2)}, tmp_path / "net.safetensors")
    call = ["reproduce", "--profile", "tiny", "--task", "person", "--data", str(drawn), "--run", str(tmp_path / "run")]
    assert main([*call, "--set", f"backbone.weights={tmp_path / 'net.safetensors'}"]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "is it another network's?" in told[0] and not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_stage_is_refused_by_name(capsys, run, tmp_path):
    target = tmp_path / "person/joint/ppcl/seed0"
    target.mkdir(parents=True)
    shutil.copy(run / "person/glrec/checkpoint.safetensors", target)
    arguments = ["rank", "--run", tmp_path, "--query", "q.jpg", "--gallery", tmp_path, "--out", tmp_path / "out"]
    status, lines = failure(capsys, arguments)
    assert status == 1 and "'glrec'" in lines[0] and str(target) in lines[0]


def test_a_file_in_place_of_the_out_folder_is_named(capsys, run, drawn, tmp_path):
    (tmp_path / "out").write_text("")
    gallery = drawn / "Partial-REID_Dataset/whole_body_images"
    query = sorted(gallery.glob("*.jpg"))[0]
    arguments = ["rank", "--run", run, "--query", query, "--gallery", gallery, "--out", tmp_path / "out"]
    status, lines = failure(capsys, arguments)
    assert status == 1 and str(tmp_path / "out") in lines[0] and "another" in lines[0]


# --- other people's shells ---


def shell(line, **environment):
    """Run a line of bash in which `ppcl` is the command line. -> the finished process."""
    line = f'set -o pipefail; ppcl() {{ {shlex.quote(sys.executable)} -m ppcl "$@"; }}; {line}'
    known = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    known |= {"PYTHONPATH": str(Path(ppcl.__file__).parent.parent), **environment}
    return subprocess.run(["bash", "-c", line], env=known, capture_output=True, encoding="utf-8", timeout=300)


@pytest.mark.parametrize(
    "line, environment, status, said",
    [
        ("ppcl data check --data . | head -1", {}, 0, ""),
        ("ppcl data check --data nowhere 2>&1 | head -0", {}, 1, ""),
        ("ppcl data check --data . >&-", {}, 0, ""),
        ("ppcl data check --data . <&- >&- 2>&-", {}, 0, ""),
        ("ppcl data check --data . >/dev/full", {}, 1, "python -m ppcl data check: no room left on the disk"),
        ("ppcl --version", {"WORLD_SIZE": ""}, 0, ""),
        ("ppcl data check --data . >/dev/null", {"WORLD_SIZE": ""}, 0, ""),
        ("ppcl --version", {"WORLD_SIZE": "two"}, 0, ""),
        ("ppcl data check --data .", {"WORLD_SIZE": "two"}, 2, "python -m ppcl: WORLD_SIZE is 'two', not a number"),
        ("ppcl fly", {"WORLD_SIZE": "two"}, 2, "python -m ppcl: argument command: invalid choice: 'fly'"),
    ],
)
def test_odd_streams_and_environments(tmp_path, line, environment, status, said):
    found = shell(f"cd {shlex.quote(str(tmp_path))}; {line}", **environment)
    lines = found.stderr.splitlines()
    assert found.returncode == status and len(lines) == bool(said) and found.stderr.startswith(said)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_PORT"])
@pytest.mark.parametrize("value", ["", "x"])
def test_a_variable_of_torchrun_that_is_no_number_is_named(capsys, monkeypatch, drawn, tmp_path, name, value):
    given = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for each, text in (given | {name: value}).items():
        monkeypatch.setenv(each, text)
    call = ["train", "glrec", "--profile", "tiny", "--data", drawn, "--run", tmp_path / "run"]
    status, lines = failure(capsys, call)
    words = f"{name} is 'x', not a number" if value else f"WORLD_SIZE is set, but {name} is not"
    assert status == 1 and len(lines) == 1 and words in lines[0]


@pytest.mark.parametrize("home, known, found", [(None, False, "/"), (None, True, None), ("/proc", False, "/proc")])
def test_a_home_folder_that_is_named_stays_even_if_nothing_can_be_written_there(home, known, found):
    code = "import os, pwd\ndef unknown(*_): raise KeyError\n"
    code += f"pwd.getpwuid = {'pwd.getpwuid' if known else 'unknown'}\n"
    code += "from ppcl.__main__ import prepare_process\nprepare_process()\n"
    code += "print(os.environ.get('HOME'))"
    given = {name: value for name, value in os.environ.items() if name != "HOME"} | ({"HOME": home} if home else {})
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split()[0] == str(found)


def test_a_home_folder_stands_for_a_tilde_in_every_path(capsys, drawn, tmp_path, monkeypatch):
    """And a path may hold any legal character."""
    monkeypatch.setenv("HOME", str(tmp_path))
    data, run = "~/d {x} [1] %s 'ä'", "~/run {task} $1 #"
    shutil.copytree(drawn, tmp_path / data[2:])
    for call in (
        ["data", "check", "--data", data],
        ["train", "glrec", "--run", run, "--data", data, *FAST, "--set", "glrec.epochs=1"],
    ):
        assert failure(capsys, call) == (0, [])
    assert (tmp_path / run[2:] / "person/glrec/checkpoint.safetensors").is_file()
    given = parser().parse_args(["rank", "--run", run, "--query", "~/q", "--gallery", "~/g", "--out", "~/o"])
    assert [given.run, *given.query, given.gallery, given.out] == [tmp_path / name for name in (run[2:], "q", "g", "o")]


def test_numbers_that_rest_on_nothing_are_null_in_json():
    assert json.loads(as_json([{"a": float("nan"), "b": [-float("inf"), 1.5]}])) == [{"a": None, "b": [None, 1.5]}]
