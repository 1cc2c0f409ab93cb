"""Inputs that are damaged, misnamed, hostile or merely odd, over all layouts and by the commands' own ways in.

Each is read rightly, which is said here, or is named in one line; nothing shows a traceback, nothing hangs. A case is a
layout with one mutation.
"""

import functools
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from ppcl import evaluation
from ppcl.__main__ import main
from ppcl.data import datasets, image_bank, image_files, stage_batches
from ppcl.data.datasets import DataError
from ppcl.data.sets import SETS
from ppcl.disk import checkpoints, progress
from ppcl.drawn import records
from ppcl.evaluation import known_truth
from ppcl.models.ppcl import PPCL
from ppcl.recipes import recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SECONDS = 120  # that an input may take on a busy machine; most take milliseconds


class Hung(BaseException):
    """Past every `except Exception` on its way."""


@pytest.fixture(autouse=True)
def in_time(monkeypatch):
    def stop(*_):
        raise Hung(f"this input took {SECONDS} s")

    monkeypatch.setenv(progress.HEADLESS, "silent")  # other tests may have loaded what makes bars appear
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def refused(call, *words):
    """One printable line with these words in it."""
    with pytest.raises(DataError) as caught:
        call()
    said = str(caught.value)
    assert said.isprintable()
    assert all(word in said for word in words), said


@pytest.fixture
def command(capsys):
    """Runs a command line. -> exit status, stdout, stderr; a failure says one printable line and shows no traceback."""

    def call(*arguments):
        capsys.readouterr()
        try:
            status = main([str(one) for one in arguments])
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert "Traceback" not in said.err + said.out
        assert status == 0 or (status in (1, 2) and len(lines) == 1 and lines[0].isprintable())
        return status, said.out, said.err

    return call


def failing(command, arguments, *words):
    """The data are at fault: exit 1, and one line with these words."""
    status, _, line = command(*arguments)
    assert status == 1
    assert all(word in line for word in words), line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of both tasks, loaded once, whose joint stage is untrained: what it finds does not matter here."""
    folder = tmp_path_factory.mktemp("mutations") / "run"
    for task in ("person", "face"):
        chosen = recipe(task, "tiny")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = PPCL(chosen, 5)
        path = evaluation.checkpoint(folder, task, "ppcl")
        facts = {"stage": "joint", "method": "ppcl", "seed": 0, "classes": 5, "fusion_weights": {"ppcl": 0.5}}
        checkpoints.save(path, model, None, **facts, recipe=chosen.to_dict(), finished=True, epoch=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "load", functools.cache(evaluation.load))
        yield folder


# --- layouts: small, whole, of pictures that tell who is in them ---


def encoded(picture, kind="JPEG", **how):
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


PLAIN = encoded(Image.new("RGB", (8, 16), (90, 140, 200)), quality=95)
PARTS = {  # dataset, part -> its folder, its files
    ("market1501", "train"): (
        "Market-1501-v15.09.15/bounding_box_train",
        [f"{person:04d}_c{camera}s1_000001_0{camera}.jpg" for person in range(2, 9) for camera in (1, 2)],
    ),
    ("market1501", "query"): ("Market-1501-v15.09.15/query", ["0011_c1s1_000001_00.jpg", "0012_c2s1_000001_00.jpg"]),
    ("market1501", "gallery"): (
        "Market-1501-v15.09.15/bounding_box_test",
        ["0011_c2s1_000001_00.jpg", "0012_c1s1_000001_00.jpg", "0000_c1s1_000001_00.jpg", "-1_c1s1_000001_00.jpg"],
    ),
    ("partial-reid", "query"): ("Partial-REID_Dataset/partial_body_images", ["001_001.jpg", "002_001.jpg"]),
    ("partial-reid", "occluded"): ("Partial-REID_Dataset/occluded_body_images", ["001_001.jpg", "002_002.jpg"]),
    ("partial-reid", "gallery"): (
        "Partial-REID_Dataset/whole_body_images",
        ["001_001.jpg", "001_002.jpg", "002_1.jpg"],
    ),
    ("partial-ilids", "query"): ("Partial_iLIDS/Probe", ["001.jpg", "002.jpg"]),
    ("partial-ilids", "gallery"): ("Partial_iLIDS/Gallery", ["001.jpg", "002.jpg"]),
    ("occluded-reid", "query"): ("Occluded_REID/occluded_body_images", ["001_01.jpg", "002_02.jpg"]),
    ("occluded-reid", "gallery"): ("Occluded_REID/whole_body_images", ["001/001_01.jpg", "002/002_01.jpg"]),
    ("casia-webface", "train"): (
        "CASIA-WebFace",
        [f"{person:07d}/00{number}.jpg" for person in range(40, 47) for number in (1, 2)],
    ),
    ("lfw", "all"): ("lfw", [f"{name}/{name}_000{i}.jpg" for name in ("Ann_Lee", "Bo", "Zoe") for i in (1, 2)]),
    ("partial-lfw", "query"): ("Partial-LFW/probe", ["ann_1.jpg", "bo_1.jpg", "bo_2.jpg"]),
    ("partial-lfw", "gallery"): ("Partial-LFW/gallery", ["ann.jpg", "bo.jpg"]),
}
PAIRS = ["2\t1", "Ann_Lee\t1\t2", "Bo\t1\tZoe\t1", "Bo\t1\t2", "Ann_Lee\t1\tBo\t2"]


def cases(*found):
    names = ["-".join(str(part) for part in case).encode("unicode_escape").decode()[:90] for case in found]
    return pytest.mark.parametrize("case", found, ids=names)


def build(data, dataset):
    """The whole set below a folder."""
    for (name, _), (folder, files) in PARTS.items():
        for file in files if name == dataset else ():
            path = data / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PLAIN + file.encode() + folder.encode())  # no two are copies of one picture
    if dataset == "lfw":
        (data / "lfw/pairs.txt").write_text("\n".join(PAIRS))
    return data


def whole(dataset, data):
    """What a command reads of a set: its halves, its pairs or its training pictures."""
    if dataset == "lfw":
        return datasets.verification_set("lfw", data)[:1]
    if dataset == "casia-webface":
        return [datasets.training_set("face", data)]
    extra = [datasets.training_set("person", data)] if dataset == "market1501" else []
    return [*datasets.evaluation_sets(dataset, data), *extra]


def seen(found):
    """Names, and who is who: numbers of identities mean nothing across sets."""
    return [
        ([path.name for path in part.paths], np.unique(part.identities, return_inverse=True)[1].tolist())
        for part in found
    ]


def asked(run, data, dataset, part):
    """The command that meets a part of a set."""
    task = SETS[dataset].task
    if part == "train":
        profile = ["--profile", "tiny", "--device", "cpu"]
        return ["train", "glrec", "--task", task, "--run", run.parent / "none", "--data", data, *profile]
    return ["evaluate", "--task", task, "--run", run, "--data", data, "--dataset", dataset, "--method", "ppcl"]


# --- folders ---


def link(folder):
    folder.symlink_to(folder.rename(folder.with_name("somewhere else")), target_is_directory=True)


def cleared(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def beside(folder):
    """What other systems leave, and what is no picture; in a folder of identities, beside these."""
    for name in (
        "Thumbs.db",
        ".DS_Store",
        "._0002_c1s1_000001_01.jpg",
        ".hidden.jpg",
        "desktop.ini",
        "a.gif",
        "b.jpg~",
    ):
        (folder / name).write_bytes(b"no picture")
    (folder / "003.jpg").mkdir()
    (folder / ".git").mkdir()


def in_place(folder, make):
    shutil.rmtree(folder)
    make(folder)


FOLDERS = {  # mutation -> how it is made, and whether the set is read as before, else what is said
    "missing": (shutil.rmtree, "missing"),
    "empty": (cleared, "missing"),
    "a file in its place": (lambda folder: in_place(folder, lambda path: path.write_bytes(PLAIN)), "missing"),
    "a pipe in its place": (lambda folder: in_place(folder, os.mkfifo), "missing"),
    "a loop in its place": (lambda folder: in_place(folder, lambda path: path.symlink_to(path)), "missing"),
    "a link to nowhere": (lambda folder: in_place(folder, lambda path: path.symlink_to("nowhere")), "missing"),
    "a link to it": (link, "read"),
    "upper case": (lambda folder: folder.rename(folder.with_name(folder.name.upper())), "read"),
    "lower case": (lambda folder: folder.rename(folder.with_name(folder.name.lower())), "read"),
    "things beside": (beside, "read"),
    "a loop inside": (lambda folder: (folder / "zz").symlink_to(folder, target_is_directory=True), "read"),
    "a link to the top inside": (lambda folder: (folder / "zz").symlink_to("/", target_is_directory=True), "read"),
    "unreadable": (None, "unreadable"),
    "too long a path": (None, "long"),
}


@cases(*((*part, mutation) for part in PARTS for mutation in FOLDERS))
def test_folder(case, tmp_path, monkeypatch, command, run):
    dataset, part, mutation = case
    data = build(tmp_path / "data", dataset)
    before = seen([*whole(dataset, data), datasets.read(dataset, part, data)])
    folder = data / PARTS[dataset, part][0]
    make, expected = FOLDERS[mutation]
    if make:
        make(folder)
    if expected == "unreadable":  # as an administrator no folder is, so it is pretended
        real = os.scandir

        def denied(path="."):
            if str(path) == str(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", denied)
    if expected == "long":
        data = data / ("x" * 300)
        failing(command, ["data", "check", "--data", data], "name too long")
        return failing(command, asked(run, data, dataset, part), "name too long")
    status, out, _ = command("data", "check", "--data", data, "--json")
    row = next(row for row in json.loads(out) if (row["dataset"], row["part"]) == (dataset, part))
    assert status == 0 and row["note"].isprintable()
    if expected == "read":
        assert seen([*whole(dataset, data), datasets.read(dataset, part, data)]) == before
        assert row["status"] == "differs" and row["pictures"] == len(PARTS[dataset, part][1])
        return
    words = ("permission denied",) if expected == "unreadable" else ()
    words += (str(folder),) if mutation in ("empty", "unreadable") or part == "." else (str(data),)
    refused(lambda: datasets.read(dataset, part, data), *words)
    if dataset == "partial-lfw":  # then it would be made from lfw, which is not there either
        assert row["status"] in ("missing", "unreadable")
    else:
        assert row["status"] == expected and (expected == "unreadable" or SETS[dataset].source in row["note"])
    if part != "occluded":  # which no command needs
        failing(command, asked(run, data, dataset, part))


# --- names of files ---

ODD = [
    "IMG_0001",
    "person12",
    "0002_c1s1_000451_03 (1)",
    "0002_c1s1_000451_03.png",
    "0002_c1s1_000451_03.jpg.jpg",
    "0002_c1s1_000451",
    "c1s1_0002_000451_03",
    "0002-c1s1-000451-03",
    "0002_c-1s1_000451_03",
    "0002_c1s1_000451_03\n",
    "\n001",
    "001\n_001",
    "001_001 ",
    " 001_001",
    "001__001",
    "001_001_001",
    "-001_001",
    "+1_001",
    "--1_c1s1_000451_03",
    "-2_c1s1_000451_03",
    "٠٠٠٢_c1s1_000451_03",
    "٠٠١_٠٠١",
    "１_１",
    "1²_1",
    "²",
    "0x1_1",
    "1e3",
    "1.5",
    "9" * 200,
    "9" * 100 + "_" + "9" * 100,
    "0002_c" + "9" * 100 + "s1_1_1",
    "9" * 19 + "_c1s1_1_1",
    "a" * 245,
    "漢字",
    "Zoë",
    unicodedata.normalize("NFD", "Zoë"),
    "\u202egpj.100",
    "\u2028",
    "\x1b[31mred",
    "\x01",
    "\udcff\udcfe",
    "001_\udcff",
    "a\\..\\001",
    "%s%n{0}",
    "$\\frac$",
    "'; rm -rf",
    "<b>",
    "=1+1",
    "con",
    "~",
    "*?[a]",
]
BY_NAME = [part for part in PARTS if "?P<identity>" in SETS[part[0]].pattern]


@cases(*((*part, name) for part in BY_NAME for name in ODD))
def test_a_name_of_no_layout_is_named(case, tmp_path, command, run):
    dataset, part, name = case
    data = build(tmp_path, dataset)
    path = data / PARTS[dataset, part][0] / f"{name}.jpg"
    path.write_bytes(PLAIN)
    shown = path.name if path.name.isprintable() else "not named like"
    refused(lambda: datasets.read(dataset, part, data), str(path.parent), shown, "not named like", "another set's")
    rows = {row["part"]: row for row in datasets.check(data) if row["dataset"] == dataset}
    assert rows[part]["status"] == "unreadable" and shown in rows[part]["note"]
    if part != "occluded":
        failing(command, asked(run, data, dataset, part), shown)


@cases(*((*part, name) for part in PARTS if part not in BY_NAME for name in ODD))
def test_any_name_is_a_person(case, tmp_path):
    """Folders of identities and ready-made partial faces are named by people: any name is somebody's."""
    dataset, part, name = case
    data = build(tmp_path, dataset)
    before = whole(dataset, data)
    if dataset == "partial-lfw":
        name = re.sub("(_[0-9]+)+$", "", name)  # a number after `_` counts the pictures of a person
        for file in (f"gallery/{name}.jpg", f"probe/{name}_7.jpg", f"probe/{name}_8.jpg"):
            (data / "Partial-LFW" / file).write_bytes(PLAIN)
        query, gallery = whole(dataset, data)
        mine = [query.identities[[path.stem.endswith(("_7", "_8")) for path in query.paths]], gallery.identities]
        assert len(query) == len(before[0]) + 2 and len(gallery) == len(before[1]) + 1
        assert len(set(mine[0])) == 1 and (mine[1] == mine[0][0]).sum() == 1 and len(set(mine[1])) == 3
        return
    folder = data / PARTS[dataset, part][0] / name
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{name[:200]}_{number:04d}.jpg").write_bytes(PLAIN)
    found = whole(dataset, data)[0]
    new = [i for i, path in enumerate(found.paths) if path.parent.name == name]
    assert len(found) == len(before[0]) + 2 and len(new) == 2
    assert len(set(found.identities)) == len(set(before[0].identities)) + 1 and len(set(found.identities[new])) == 1


def test_all_wrong_names_are_told_at_once(tmp_path):
    data = build(tmp_path, "market1501")
    for name in ("a", "b", "c"):
        (data / PARTS["market1501", "train"][0] / f"{name}.jpg").write_bytes(PLAIN)
    refused(lambda: datasets.training_set("person", data), "a.jpg and 2 more (b.jpg, c.jpg) are not named like 0002_")


# --- pairs.txt ---

NUMBERS = [
    "",
    "x",
    "-1",
    "+1",
    "1.0",
    "1e0",
    "0x1",
    "²",
    "١",
    "１",
    "0",
    "3",
    "9" * 9,
    "9" * 400,
    "9" * 5000,
    "1\x00",
    "../1",
]
PEOPLE = [
    "",
    "Nobody",
    "ann_lee",
    "BO",
    "..",
    ".",
    "../lfw/Bo",
    "../../../../etc/passwd",
    "/etc/passwd",
    "Bo/",
    "Bo\\..\\Bo",
    "Bo\x00",
    "B" * 5000,
    "Bo_0001",
    "Bo.jpg",
    "Bo,",
    "'Bo'",
    "\u202eBo",
    "\u0412o",
    "*",
    "$HOME",
    "~",
]


def with_field(line, field, text):
    fields = PAIRS[line].split("\t")
    fields[field] = text
    return "\n".join([*PAIRS[:line], "\t".join(fields), *PAIRS[line + 1 :]])


FIELDS = {
    (f"line {line + 1}", f"field {field}", text): with_field(line, field, text)
    for line, pair in enumerate(PAIRS[:4])
    for field in range(len(pair.split("\t")))
    for text in (NUMBERS if field in ({0: (0, 1), 2: (1, 3)}.get(line, (1, 2))) else PEOPLE)
}
LINES = {
    ("line 2", "too few"): "\n".join([PAIRS[0], "Ann_Lee\t1", *PAIRS[2:]]),
    ("line 2", "too many"): "\n".join([PAIRS[0], "Ann_Lee\t1\t2\t3\t4", *PAIRS[2:]]),
    ("line 2", "itself"): "\n".join([PAIRS[0], "Ann_Lee\t1\t1", *PAIRS[2:]]),
    ("line 3", "nobody else"): "\n".join([*PAIRS[:2], "Bo\t1\tBo\t2", *PAIRS[3:]]),
    ("line 2", "the other kind"): "\n".join([PAIRS[0], PAIRS[2], *PAIRS[2:]]),
    ("line 3", "the other kind"): "\n".join([*PAIRS[:2], PAIRS[1], *PAIRS[3:]]),
    ("line 2", "a comment"): "\n".join([PAIRS[0], "# same", *PAIRS[2:]]),
    ("line 2", "after blank lines"): "\n".join([PAIRS[0], "Ann_Lee\t1\t9", "", *PAIRS[2:]]),
    ("line 1", "no head"): "\n".join(PAIRS[1:]),
    ("line 1", "nothing"): "",
    ("line 1", "blank"): " \n\t\n\n",
    ("line 1", "three numbers"): "\n".join(["2\t1\t1", *PAIRS[1:]]),
    ("line 1", "no UTF-8, no mark"): "\n".join(PAIRS).encode("utf-16-le").decode("latin-1"),
    ("pairs.txt", "not readable as text", "latin-1"): "\n".join(PAIRS).replace("Bo", "Boë").encode("latin-1"),
    ("pairs.txt", "not readable as text", "a picture"): PLAIN,
    ("pairs.txt", "3 pairs", "cut"): "\n".join(PAIRS[:-1]),
    ("pairs.txt", "5 pairs", "a line twice"): "\n".join([*PAIRS, PAIRS[-1]]),
    ("pairs.txt", "4 pairs", "other counts"): "\n".join(["10\t300", *PAIRS[1:]]),
    ("pairs.txt", "4 pairs", "huge counts"): "\n".join(["999999999\t999999999", *PAIRS[1:]]),
    ("pairs.txt", "0 pairs", "a head alone"): PAIRS[0],
}
SPELT = {
    "UTF-16": "\n".join(PAIRS).encode("utf-16"),
    "BOM": "\ufeff" + "\n".join(PAIRS),
    "CRLF": "\r\n".join(PAIRS) + "\r\n",
    "CR": "\r".join(PAIRS),
    "spaces": "\n".join(PAIRS).replace("\t", "  "),
    "blank lines": "\n\n" + "\n\n".join(PAIRS) + "\n\n",
    "blanks around": "\n".join(f"  {line}\t" for line in PAIRS),
    "zeros before": "\n".join(PAIRS).replace("\t1", "\t0001"),
}


@cases(*(("pairs", *key) for key in (*FIELDS, *LINES)))
def test_a_bad_line_of_pairs_is_named(case, tmp_path, command, run):
    data, text = build(tmp_path, "lfw"), {**FIELDS, **LINES}[case[1:]]
    (data / "lfw/pairs.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    words = case[1:2] if case[1].startswith("line") else case[1:3]
    refused(lambda: datasets.verification_set("lfw", data), "pairs.txt", *words)
    row = next(row for row in datasets.check(data) if row["dataset"] == "lfw")
    assert row["status"] == "unreadable" and len(row["note"]) < 1000
    failing(command, asked(run, data, "lfw", "all"), "pairs.txt", *words)


@cases(*(("pairs", key) for key in SPELT))
def test_pairs_in_other_spellings_are_read(case, tmp_path):
    data = build(tmp_path, "lfw")
    found, before = datasets.verification_set("lfw", data)
    text = SPELT[case[1]]
    (data / "lfw/pairs.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    _, after = datasets.verification_set("lfw", data)
    for name in ("first", "second", "same"):
        assert (getattr(before, name) == getattr(after, name)).all()
    assert [found.paths[i].stem for i in after.second] == ["Ann_Lee_0002", "Zoe_0001", "Bo_0002", "Bo_0002"]


IN_PLACE = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a loop": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@cases(*(("pairs", key) for key in IN_PLACE))
def test_what_lies_in_place_of_pairs(case, tmp_path, command, run):
    data = build(tmp_path, "lfw")
    (data / "lfw/pairs.txt").unlink()
    IN_PLACE[case[1]](data / "lfw/pairs.txt")
    failing(command, asked(run, data, "lfw", "all"), "no pairs.txt", str(data / "lfw"), "figshare")


def test_pairs_that_may_not_be_read(tmp_path, monkeypatch, command, run):
    data = build(tmp_path, "lfw")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no", "x")))
    failing(command, asked(run, data, "lfw", "all"), "pairs.txt", "PermissionError")


def test_one_fold_is_too_few_to_judge_by(tmp_path, command, run):
    data = build(tmp_path, "lfw")
    (data / "lfw/pairs.txt").write_text("1\t2\nAnn_Lee\t1\t2\nBo\t1\t2\nAnn_Lee\t1\tBo\t2\nBo\t1\tZoe\t2")
    failing(command, asked(run, data, "lfw", "all"), "pairs.txt", "one fold")


# --- pictures ---


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks, size=(8, 16), depth=8, colour=2, pixels=None):
    """A PNG made by hand: grey of 128 where nothing else is said, with these chunks before its pixels."""
    if pixels is None:
        wide = (size[0] * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth + 7) // 8
        pixels = (b"\0" + b"\x80" * wide) * size[1]
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def segment(marker, content):
    """PLAIN with one more segment after its first marker."""
    return PLAIN[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + PLAIN[2:]


def exif(kind, count, value, rest=b""):
    """An EXIF block with one entry, the orientation, written by hand."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12" + struct.pack(">HI", kind, count) + value + b"\0\0\0\0" + rest


def sized(picture, size):
    """A JPEG whose header claims another size (width, height)."""
    at = picture.index(b"\xff\xc0") + 5
    return picture[:at] + struct.pack(">HH", *size[::-1]) + picture[at + 4 :]


def scans(count):
    picture = encoded(Image.new("L", (8, 16), 128), progressive=True)
    at = picture.rindex(b"\xff\xda")
    return picture[:at] + picture[at:-2] * count + picture[-2:]


def bitmap(width, height, more=0):
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, more, 0, 0, 0, 0, 0)


BLUE = Image.new("RGB", (8, 16), (90, 140, 200))
NOISE = Image.effect_noise((40, 60), 90).convert("RGB")
ACROSS = BLUE.rotate(90, expand=True)
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (8, 16), "red")]}
SIXTEEN = Image.fromarray(np.full((16, 8), 0x8080, np.uint16))
READ = {  # content -> the colour that is shown, and the size (8, 16) unless another is said
    "JPEG": (PLAIN, (90, 140, 200)),
    "JPEG progressive": (encoded(BLUE, progressive=True, quality=95), (90, 140, 200)),
    "JPEG grey": (encoded(BLUE.convert("L")), (132, 132, 132)),
    "JPEG CMYK": (encoded(Image.new("CMYK", (8, 16), (0, 255, 255, 0)), quality=95), (255, 0, 0)),
    "JPEG YCCK, Adobe": (segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"), (90, 140, 200)),
    "PNG": (encoded(BLUE, "PNG"), (90, 140, 200)),
    "PNG palette": (encoded(BLUE.quantize(2), "PNG"), (90, 140, 200)),
    "PNG one bit": (encoded(Image.new("1", (8, 16), 1), "PNG"), (255, 255, 255)),
    "PNG grey, two bits": (png(depth=2, colour=0, pixels=b"\0\xaa\xaa" * 16), (170, 170, 170)),
    "PNG grey, four bits": (png(depth=4, colour=0, pixels=b"\0\x88\x88\x88\x88" * 16), (136, 136, 136)),
    "PNG sixteen bits grey": (encoded(SIXTEEN, "PNG"), (128, 128, 128)),
    "PNG sixteen bits, clear": (png(chunk(b"tRNS", b"\x80\x80"), depth=16, colour=0), (255, 255, 255)),
    "PNG sixteen bits colour": (png(depth=16), (128, 128, 128)),
    "PNG sixteen bits alpha": (png(depth=16, colour=6), (191, 191, 191)),
    "PNG grey and alpha": (png(colour=4), (191, 191, 191)),
    "PNG clear colour": (png(chunk(b"tRNS", b"\0\x80\0\x80\0\x80")), (255, 255, 255)),
    "PNG clear grey": (png(chunk(b"tRNS", b"\0\x80"), colour=0), (255, 255, 255)),
    "PNG alpha": (encoded(Image.new("RGBA", (8, 16), (255, 0, 0, 0)), "PNG"), (255, 255, 255)),
    "PNG animated": (encoded(BLUE, "PNG", **FRAMES), (90, 140, 200)),
    "PNG without its end": (png()[:-12], (128, 128, 128)),
    "PNG with text": (png(chunk(b"tEXt", b"a\0b")), (128, 128, 128)),
    "PNG with a wrong gamma": (png(chunk(b"gAMA", b"\0\0\0\0")), (128, 128, 128)),
    "PNG with a private chunk": (png(chunk(b"prIv", b"junk" * 99)), (128, 128, 128)),
    "BMP": (encoded(BLUE, "BMP"), (90, 140, 200)),
    "BMP palette": (encoded(BLUE.quantize(2), "BMP"), (90, 140, 200)),
    "GIF": (encoded(BLUE, "GIF"), (90, 140, 200)),
    "GIF animated": (encoded(BLUE, "GIF", **FRAMES), (90, 140, 200)),
    "WebP": (encoded(BLUE, "WEBP", lossless=True), (90, 140, 200)),
    "WebP animated": (encoded(BLUE, "WEBP", lossless=True, **FRAMES), (90, 140, 200)),
    "WebP alpha": (encoded(Image.new("RGBA", (8, 16), (255, 0, 0, 0)), "WEBP", lossless=True), (255, 255, 255)),
    "TIFF": (encoded(BLUE, "TIFF"), (90, 140, 200)),
    "TIFF LZW": (encoded(BLUE, "TIFF", compression="tiff_lzw"), (90, 140, 200)),
    "TIFF sixteen bits": (encoded(SIXTEEN, "TIFF"), (128, 128, 128)),
    "TIFF sixteen bits, other end first": (
        encoded(Image.frombytes("I;16B", (8, 16), b"\x80\x80" * 128), "TIFF"),
        (128,) * 3,
    ),
    "TIFF of fractions": (encoded(Image.new("F", (8, 16), 0.5), "TIFF"), (127, 127, 127)),
    "TIFF of large numbers": (encoded(Image.new("I", (8, 16), 10**6), "TIFF"), (255, 255, 255)),
    "TIFF no numbers": (encoded(Image.fromarray(np.full((16, 8), np.nan, np.float32)), "TIFF"), (0, 0, 0)),
    "TIFF CMYK": (encoded(Image.new("CMYK", (8, 16), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
    "several in one": (encoded(BLUE, "MPO", **FRAMES, quality=95), (90, 140, 200)),
    "one pixel": (encoded(Image.new("RGB", (1, 1), (9, 80, 200)), "PNG"), (9, 80, 200), (1, 1)),
    "a line": (encoded(Image.new("RGB", (3000, 1), (9, 80, 200)), "PNG"), (9, 80, 200), (3000, 1)),
    "a column": (encoded(Image.new("RGB", (1, 3000), (9, 80, 200)), "PNG"), (9, 80, 200), (1, 3000)),
    "turned": (encoded(ACROSS, exif=exif(3, 1, b"\0\6\0\0"), quality=95), (90, 140, 200)),
    "turned in itself": (segment(0xE1, exif(3, 1, b"\0\6\0\0")[:-4] + b"\0\0\0\x08"), (90, 140, 200), (16, 8)),
    "turned by 99": (segment(0xE1, exif(3, 1, b"\0\x63\0\0")), (90, 140, 200)),
    "turned by a word": (segment(0xE1, exif(2, 2, b"a\0\0\0")), (90, 140, 200)),
    "turned by many": (segment(0xE1, exif(3, 2**31, b"\0\0\xff\xff")), (90, 140, 200)),
    "EXIF cut": (segment(0xE1, exif(3, 1, b"\0\6\0\0")[:12]), (90, 140, 200)),
    "EXIF junk": (segment(0xE1, b"Exif\0\0" + b"junk" * 9), (90, 140, 200)),
    "EXIF empty": (segment(0xE1, b"Exif\0\0"), (90, 140, 200)),
    "EXIF of another size": (segment(0xE1, exif(3, 1, b"\0\1\0\0").replace(b"\x01\x12", b"\x01\0")), (90, 140, 200)),
    "ICC junk": (segment(0xE2, b"ICC_PROFILE\0\1\1junk"), (90, 140, 200)),
    "ICC of many parts": (segment(0xE2, b"ICC_PROFILE\0\7\xff"), (90, 140, 200)),
    "MPF junk": (segment(0xE2, b"MPF\0junk"), (90, 140, 200)),
    "Photoshop junk": (segment(0xED, b"Photoshop 3.0\0008BIM\4\4\0\0\xff\xff"), (90, 140, 200)),
    "XMP junk": (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='9'/>"), (90, 140, 200)),
    "a comment": (segment(0xFE, b"\0\xff\n" * 99), (90, 140, 200)),
    "more after it": (PLAIN + b"<?php" * 99, (90, 140, 200)),
    "another after it": (PLAIN + PLAIN, (90, 140, 200)),
    "a hundred scans": (scans(90), (128, 128, 128)),
}
DAMAGED = {  # content that is refused
    "empty": b"",
    "one byte": b"\xff",
    "zeros": bytes(5000),
    "text": b"no picture\n" * 99,
    "UTF-16": "no picture".encode("utf-16"),
    "a page": b"<!DOCTYPE html><html><img src=x></html>",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a program": b"\x7fELF" + bytes(300),
    "an archive": b"PK\x03\x04" + bytes(300),
    "PDF": b"%PDF-1.4\n%%EOF",
    "PostScript": encoded(BLUE, "EPS"),
    "icon": encoded(BLUE, "ICO"),
    "PPM": encoded(BLUE, "PPM"),
    "Photoshop's own": b"8BPS\0\1" + bytes(100),
    "astronomy's": b"SIMPLE  =                    T" + b" " * 3000,
    "a pointer to a large file": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "PNG of no size": png(size=(0, 0), pixels=b""),
    "PNG of no width": png(size=(0, 9), pixels=b""),
    "PNG of too many rows": png(size=(8, 2000), pixels=b"\0\1\2"),
    "PNG of an odd depth": png(depth=3),
    "PNG without pixels": png().split(chunk(b"IDAT", b"")[4:8])[0],
    "PNG with a wrong checksum": png()[:-20] + b"\0\0\0\0" + png()[-16:],
    "PNG with a text bomb": png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))),
    "PNG with an iTXt bomb": png(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(5_000_000), 9))),
    "PNG with many texts": png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6), 9)) * 80),
    "PNG with a colour bomb": png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))),
    "PNG with colour junk": png(chunk(b"iCCP", b"junk")),
    "JPEG of no height": sized(PLAIN, (8, 0)),
    "JPEG without tables": PLAIN.replace(b"\xff\xdb", b"\xff\xfe"),
    "JPEG after a line": b"\n" + PLAIN,
    "JPEG of one marker": PLAIN[:2],
    "JPEG of a thousand scans": scans(1000),
    "bomb PNG": png(size=(30_000, 30_000), pixels=b""),
    "bomb PNG below Pillow's warning": png(size=(10_000, 8000), pixels=b""),
    "bomb JPEG": sized(PLAIN, (65_000, 65_000)),
    "bomb JPEG below Pillow's warning": sized(PLAIN, (10_000, 8000)),
    "bomb GIF": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
    "bomb BMP": bitmap(30_000, 30_000),
    "bomb BMP of negative width": bitmap(-8, 16),
    "bomb BMP packed": bitmap(30_000, 30_000, 1),
    "bomb TIFF": encoded(BLUE, "TIFF").replace(
        struct.pack("<HHII", 256, 4, 1, 8), struct.pack("<HHII", 256, 4, 1, 2**31)
    ),
    "bomb WebP": encoded(Image.new("L", (16_000, 8)).convert("RGB"), "WEBP")[:24]
    + b"\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f",
}
WHOLE = {
    "JPEG": encoded(NOISE),
    "JPEG progressive": encoded(NOISE, progressive=True),
    "PNG": encoded(NOISE, "PNG"),
    "PNG palette": encoded(NOISE.quantize(64), "PNG"),
    "BMP": encoded(NOISE, "BMP"),
    "GIF": encoded(NOISE, "GIF"),
    "WebP": encoded(NOISE, "WEBP"),
    "TIFF": encoded(NOISE, "TIFF"),
    "TIFF LZW": encoded(NOISE, "TIFF", compression="tiff_lzw"),
}
DAMAGED |= {
    f"{kind}, {share:.0%}": content[: int(share * len(content))]
    for kind, content in WHOLE.items()
    for share in (0.02, 0.1, 0.5, 0.9)
}
FILES = {  # what is no file, though named like a picture
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
    "a loop": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link through a file": lambda path: path.symlink_to(__file__ + "/x"),
    "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a device that is empty": lambda path: path.symlink_to("/dev/null"),
    "a socket": lambda path: bound(path),
}


def bound(path):
    """A socket's name may have a hundred letters, so it is made from its own folder."""
    before = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(before)


def put(path, name):
    """One of the pictures that are refused."""
    path.parent.mkdir(exist_ok=True)
    if name in DAMAGED:
        path.write_bytes(DAMAGED[name])
    else:
        FILES[name](path)
    return path


@cases(*(("picture", name) for name in READ))
def test_a_picture_that_is_read(case, tmp_path):
    content, colour, size = (*READ[case[1]], (8, 16))[:3]
    (tmp_path / "a.jpg").write_bytes(content)
    found = image_files.open_picture(tmp_path / "a.jpg")
    assert found.mode == "RGB" and found.size == size
    assert np.abs(np.asarray(found, int) - colour).max() <= 4
    assert np.array_equal(image_files.open_picture(io.BytesIO(content)), found)
    bank = image_bank.bank([tmp_path / "a.jpg"], (16, 8), quiet=True)
    assert (bank.images.int() - torch.tensor(colour).view(1, 3, 1, 1)).abs().max() <= 4
    assert bank.ratios.item() == pytest.approx(np.log(2 * size[0] / size[1]), abs=1e-5)


@cases(*(("query", name) for name in (*DAMAGED, *FILES)))
def test_a_picture_that_is_refused(case, tmp_path, monkeypatch, command, run):
    path = put(tmp_path / "a.jpg", case[1])
    if "bomb" in case[1]:
        monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    refused(lambda: image_files.open_picture(path), str(path))
    if case[1] in DAMAGED:  # an upload is refused, too
        refused(lambda: image_files.open_picture(io.BytesIO(DAMAGED[case[1]])))
    refused(lambda: image_bank.bank([path], (16, 8), quiet=True), "1 unreadable picture(s)", str(path))
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery/b.jpg").write_bytes(PLAIN)
    arguments = ["--query", path, "--gallery", tmp_path / "gallery", "--out", tmp_path / "out"]
    failing(command, ["rank", "--run", run, *arguments], str(path))


@cases(*(("flipped", kind, seed) for kind in WHOLE for seed in range(12)))
def test_a_picture_with_changed_bytes(case, tmp_path):
    """It is read at some size that is allowed, or refused by its name; no other way out."""
    _, kind, seed = case
    rng = np.random.default_rng([seed, *kind.encode()])
    content = np.frombuffer(WHOLE[kind], np.uint8).copy()
    places = rng.integers(4, 60 if seed % 2 else len(content), size=1 + seed // 3)  # in the header, or anywhere
    content[places] = rng.integers(256, size=len(places))
    (tmp_path / "a.jpg").write_bytes(content.tobytes())
    try:
        found = image_files.open_picture(tmp_path / "a.jpg")
    except DataError as error:
        assert str(tmp_path / "a.jpg") in str(error) and str(error).isprintable()
    else:
        assert found.mode == "RGB" and found.width * found.height <= image_files.MAX_PIXELS
        assert np.asarray(found).shape == (found.height, found.width, 3)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError()]
)
def test_a_picture_that_may_not_be_read(tmp_path, monkeypatch, error):
    (tmp_path / "a.jpg").write_bytes(PLAIN)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    why = error.strerror if isinstance(error, OSError) else "MemoryError"
    refused(lambda: image_files.open_picture(tmp_path / "a.jpg"), "a.jpg", why)


TRAINED = [part for part in PARTS if part[1] == "train"]


@pytest.mark.parametrize("part", TRAINED, ids=[part[0] for part in TRAINED])
def test_all_bad_training_pictures_are_listed_at_once(part, tmp_path, command, run):
    """One run finds them all, in either layout; with them stand pictures of every kind that is read."""
    data = build(tmp_path / "data", part[0])
    folder, bad = data / PARTS[part][0], []
    for number, name in enumerate((*READ, *DAMAGED, *(set(FILES) - {"a folder"}))):
        person = 2 + number % 7
        names = (f"{person:04d}_c3s1_{number:06d}_00.jpg", f"{38 + person:07d}/1{number:03d}.jpg")
        path = folder / names[part[0] == "casia-webface"]
        if name in READ:
            path.write_bytes(READ[name][0])
        else:
            bad.append(put(path, name))
    failing(command, asked(run, data, *part), f"{len(bad)} unreadable picture(s)", *(f"{path}: " for path in bad))
    assert datasets.contents(data)["pictures"][f"{part[0]}/train"] == 14 + len(READ) + len(bad)
    for path in bad:
        path.unlink()
    found = stage_batches.training_data(recipe(SETS[part[0]].task, "tiny"), data, quiet=True)
    assert len(found.train) + len(found.heldout) == 14 + len(READ)


HALVES = [part for part in PARTS if part[1] in ("query", "gallery", "all")]


@pytest.mark.parametrize("part", HALVES, ids=["-".join(part) for part in HALVES])
def test_all_bad_pictures_of_a_half_are_listed_at_once(part, tmp_path, command, run):
    data, bad = build(tmp_path, part[0]), []
    for name, file in zip(("text", "JPEG, 50%", "a loop", "a pipe", "bomb PNG"), PARTS[part][1], strict=False):
        path = data / PARTS[part][0] / file
        path.unlink()
        bad.append(put(path, name))
    bad = [path for path in bad if "-1_" not in path.name]  # junk is not even opened
    failing(command, asked(run, data, *part), f"{len(bad)} unreadable picture(s)", *(f"{path}: " for path in bad))


# --- what is whole, but odd: identities, counts, numbers ---


def evaluated(command, run, data, dataset, tmp_path):
    """(protocol, metric) -> value, of all queries."""
    arguments = [*asked(run, data, dataset, "query"), "--json", tmp_path / "rows.json"]
    status, out, error = command(*arguments)
    assert status == 0 and error == "", error
    rows = [row for row in json.loads((tmp_path / "rows.json").read_text()) if row["subset"] == "all"]
    assert all(row["method"] == "ppcl" for row in rows)
    return {(row["protocol"], row["metric"]): row["value"] for row in rows}


ALONE = "queries without a match"


@pytest.mark.parametrize("dataset", ["market1501", "partial-reid", "partial-ilids", "partial-lfw"])
def test_people_in_one_half_only_are_counted_and_judged_by_nobody(dataset, tmp_path, command, run):
    data = build(tmp_path, dataset)
    extra = {"market1501": "0099_c1s1_000001_00", "partial-lfw": "zoe_1"}.get(dataset, "099_1")
    for part in ("query", "gallery"):
        path = data / PARTS[dataset, part][0] / f"{extra.replace('9', str(len(part)))}.jpg"
        path.write_bytes(PLAIN + part.encode())
    if dataset == "partial-lfw":
        (data / PARTS[dataset, "gallery"][0] / "zoe_1.jpg").rename(data / PARTS[dataset, "gallery"][0] / "yan.jpg")
    found = evaluated(command, run, data, dataset, tmp_path)
    protocols = ["standard"] if dataset == "market1501" else ["single-shot", "all-shot"]
    for protocol in protocols:
        assert found[protocol, ALONE] == 1
        assert 0 <= found[protocol, "rank-1"] <= found[protocol, "rank-3"] <= 1 and 0 < found[protocol, "mAP"] <= 1


@pytest.mark.parametrize("dataset", ["market1501", "partial-reid", "partial-ilids", "partial-lfw"])
def test_halves_that_share_nobody_are_refused(dataset, tmp_path, command, run):
    data = build(tmp_path, dataset)
    folder, names = PARTS[dataset, "query"]
    for name in names:
        (data / folder / name).rename(data / folder / name.translate(str.maketrans("12abno", "78xyzw")))
    failing(command, asked(run, data, dataset, "query"), "no query identity", str(data / folder))


def test_a_gallery_of_one_person_is_refused(tmp_path, command, run):
    for part in ("query", "gallery"):
        path = tmp_path / PARTS["partial-ilids", part][0] / "001.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(PLAIN)
    failing(command, asked(run, tmp_path, "partial-ilids", "query"), "Gallery shows one person", "add people")


def test_no_valid_match_at_all_is_refused(tmp_path, command, run):
    """Each query's only picture is from its own camera: no number can be given."""
    data = build(tmp_path, "market1501")
    folder = data / PARTS["market1501", "gallery"][0]
    for person, camera in ((11, 2), (12, 1)):
        path = folder / f"{person:04d}_c{camera}s1_000001_00.jpg"
        path.rename(path.with_name(f"{person:04d}_c{3 - camera}s1_000002_00.jpg"))
    failing(command, asked(run, data, "market1501", "query"), "no query has a match", "own camera", "2 match only")


def test_one_person_cannot_be_trained_on(tmp_path, command, run):
    data = build(tmp_path, "market1501")
    folder, names = PARTS["market1501", "train"]
    for name in names[2:]:
        (data / folder / name).unlink()
    failing(command, asked(run, data, "market1501", "train"), str(data / folder), "fewer than two identities")


@pytest.mark.parametrize("part", PARTS, ids=["-".join(part) for part in PARTS])
def test_doubled_pictures_are_counted_and_read(part, tmp_path, command):
    """The same picture again under another ending: twice the pictures of the same people, and `differs`."""
    data = build(tmp_path, part[0])
    folder, files = PARTS[part]
    for file in files:
        (data / folder / file).with_suffix(".PNG").write_bytes(encoded(BLUE, "PNG"))
    before, found = build(tmp_path / "before", part[0]), datasets.read(*part, data)
    assert len(found) == 2 * len(datasets.read(*part, before))
    assert len(set(found.identities)) == len(set(datasets.read(*part, before).identities))
    status, out, _ = command("data", "check", "--data", data)
    line = next(line for line in out.splitlines() if line.split()[:2] == list(part))
    assert status == 0 and line.split()[2:4] == ["differs", str(2 * len(files))] and "published: " in line


def test_names_that_differ_in_case_alone_are_two_people(tmp_path):
    data = build(tmp_path, "lfw")
    (data / "lfw/bo").mkdir()
    (data / "lfw/bo/bo_0001.jpg").write_bytes(PLAIN)
    (data / "lfw/pairs.txt").write_text("2\t1\nBo\t1\t2\nBo\t1\tbo\t1\nZoe\t1\t2\nbo\t1\tBo\t2")
    found, pairs = datasets.verification_set("lfw", data)
    assert [found.paths[i].stem for i in (*pairs.first, *pairs.second)] == [
        *("Bo_0001", "Bo_0001", "Zoe_0001", "bo_0001"),
        *("Bo_0002", "bo_0001", "Zoe_0002", "Bo_0002"),
    ]


DATA = {
    "missing": lambda path: None,
    "a file": lambda path: path.write_bytes(PLAIN),
    "a pipe": os.mkfifo,
    "a loop": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@cases(*(("data", name) for name in DATA))
def test_data_that_are_no_folder(case, tmp_path, command, run):
    data = tmp_path / "da\nta\udcff"
    DATA[case[1]](data)
    failing(command, ["data", "check", "--data", data], "da\\nta\\udcff", "is not a folder")
    for dataset, part in PARTS:
        if part in ("train", "query", "all"):
            failing(command, asked(run, data, dataset, part), "da\\nta\\udcff", "is not a folder", "data synthesise")


def test_an_empty_folder_lacks_everything(tmp_path, command):
    status, out, error = command("data", "check", "--data", tmp_path)
    lines = [line.split() for line in out.splitlines()]
    named = {(one.name, part) for one in SETS.values() if one.folders and not one.split for part in one.parts}
    assert (status, error) == (0, "") and {tuple(line[:2]) for line in lines[:-1]} == named
    assert out.splitlines()[-1].startswith("own: no identities below") and "holds nothing" in out
    assert {line[2] for line in lines[:-1]} <= {"missing", "made"}


# --- the table of what was drawn ---

HEAD, FIRST, SECOND = range(3)


def changed(lines, at, text):
    return "\n".join([*lines[:at], text, *lines[at + 1 :]])


TRUTHS = {  # mutation -> the table from its lines, and what is said
    "no column": (lambda lines: changed(lines, HEAD, lines[HEAD].replace("view_w", "view_v")), "damaged"),
    "no file": (lambda lines: changed(lines, HEAD, lines[HEAD].replace("file", "name")), "damaged"),
    "a word": (lambda lines: changed(lines, FIRST, lines[FIRST].rsplit(",", 1)[0] + ",wide"), "damaged"),
    "no number": (lambda lines: changed(lines, FIRST, lines[FIRST].rsplit(",", 1)[0] + ",nan"), "damaged"),
    "infinity": (lambda lines: changed(lines, FIRST, lines[FIRST].rsplit(",", 1)[0] + ",inf"), "damaged"),
    "a field too few": (lambda lines: changed(lines, FIRST, lines[FIRST].rsplit(",", 1)[0]), "damaged"),
    "a field too many": (lambda lines: changed(lines, SECOND, lines[SECOND] + ",1"), "damaged"),
    "a quote": (lambda lines: changed(lines, FIRST, '"' + lines[FIRST]), "damaged"),
    "a line twice": (lambda lines: changed(lines, FIRST, f"{lines[FIRST]}\n{lines[FIRST]}"), "damaged"),
    "cut": (lambda lines: "\n".join(lines)[: len("\n".join(lines)) // 2], ""),
    "another file": (lambda lines: "\n".join(lines).replace("Probe/", "Prob/"), "not in truth.csv"),
    "above": (lambda lines: "\n".join(lines).replace("Partial_iLIDS/", "../Partial_iLIDS/"), "not in truth.csv"),
    "zeros": (lambda lines: "\0" * 500 + "\n" + "\n".join(lines), "damaged"),
}


@cases(*(("truth.csv", name) for name in TRUTHS))
def test_a_damaged_truth_is_named(case, tmp_path, command, run, drawn):
    for name in ("Partial_iLIDS", "truth.csv"):
        (shutil.copytree if (drawn / name).is_dir() else shutil.copy)(drawn / name, tmp_path / name)
    make, said = TRUTHS[case[1]]
    lines = (drawn / "truth.csv").read_text().splitlines()
    lines = [lines[0], *(line for line in lines if line.startswith("partial-ilids"))]
    (tmp_path / "truth.csv").write_text(make(lines))
    failing(command, asked(run, tmp_path, "partial-ilids", "query"), "truth.csv", said)


def test_drawing_beside_a_damaged_note_and_table(tmp_path):
    """They are written anew; what is told of other sets, if anything, stays for its readers to judge."""
    (tmp_path / "drawn.txt").write_bytes(b"\xff\xfe: \n")
    (tmp_path / "truth.csv").write_bytes(b"\n\n\xff\n\n")
    records.claim(tmp_path, "people", 0, "tiny", ["tiny"], ["Market-1501-v15.09.15"])
    records.finish(tmp_path, [["market1501", "a.jpg", *[1] * 12]])
    assert "people: drawing 2" in (tmp_path / "drawn.txt").read_text()
    assert datasets.is_drawn(tmp_path, "market1501") and not datasets.is_drawn(tmp_path, "partial-reid")
    refused(lambda: datasets.truth(tmp_path), "truth.csv is damaged")


def test_a_drawn_set_behind_a_link_is_known(tmp_path, drawn, tiny):
    for path in drawn.iterdir():
        (tmp_path / path.name).symlink_to(path)
    found = known_truth.prepare("partial-ilids", tmp_path, tiny, quiet=True)
    assert found.drawn and [len(half) for half in found.truth] == [8, 8]


# --- rank ---


def ranked(out):
    return pandas.read_csv(out / "ranking.csv", dtype={"gallery": str}, keep_default_na=False)


def test_rank_leaves_out_what_cannot_be_read_and_ranks_the_rest(tmp_path, command, run):
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    good, bad = [f"good{i:03d}.jpg" for i in range(len(READ))], []
    for name, (content, *_) in zip(good, READ.values(), strict=True):
        (gallery / name).write_bytes(content)
    for number, name in enumerate((*DAMAGED, *(set(FILES) - {"a folder"}))):
        bad.append(put(gallery / f"bad{number:03d}.jpg", name))
    arguments = ["rank", "--run", run, "--query", gallery / good[0], "--gallery", gallery, "--out", tmp_path / "out"]
    for top in (999, 1):  # described, then from what was kept
        status, out, error = command(*arguments, "--top", top)
        assert status == 0 and error == "", error
        assert f"left out {len(bad)} gallery picture(s)" in out
        assert all(f"{path}: " in out for path in bad)
        table = ranked(tmp_path / "out")
        assert sorted(table.gallery) == good or top == 1
        assert table.distance.astype(float).is_monotonic_increasing
    moved = gallery.rename(tmp_path / "moved")
    status, out, error = command(*arguments[:4], moved / good[0], "--gallery", moved, "--out", tmp_path / "out")
    assert status == 0 and error == "" and "described again" not in out
    assert all(f"{moved / path.name}: " in out for path in bad) and str(gallery / "bad") not in out
    best = table.gallery[0]  # the query itself, or another picture of the same pixels
    assert READ[list(READ)[good.index(best)]][1] == READ["JPEG"][1]


def test_rank_with_odd_names(tmp_path, command, run):
    """Names that no terminal shows are written as escapes, in the table, the picture and the lines."""
    gallery = tmp_path / "gal\nlery $x_\udcff"
    gallery.mkdir()
    names = [name for name in ODD if len(name) < 200]
    for name in names:
        (gallery / f"{name}.jpg").write_bytes(PLAIN)
    (gallery / "bad\n\udcff.jpg").write_bytes(b"")
    queries = [gallery / f"{name}.jpg" for name in ("漢字", "$\\frac$", "001_\udcff", "001\n_001", "\u202egpj.100")]
    arguments = ["rank", "--run", run, "--gallery", gallery, "--out", tmp_path / "out", "--query"]
    for some, top in ((queries[:1], 999), (queries, 1)):
        status, out, error = command(*arguments, *some, "--top", top)
        assert status == 0 and error == "" and "left out 1" in out and "bad\\n\\udcff.jpg" in out
        assert "described again" not in out
        table = ranked(tmp_path / "out")
        assert all(text.isprintable() for column in ("query", "gallery") for text in table[column])
        if top == 999:
            assert len(table) == table.gallery.nunique() == len(names)
            assert "001_\\udcff.jpg" in set(table.gallery) and "漢字.jpg" in set(table.gallery)
    assert len(table) == len(queries) == table["query"].nunique()
    kept = [path.name for path in (run / "person/galleries").iterdir()]
    assert all("\n" not in name and "/" not in name for name in kept)


def test_rank_of_a_folder_with_a_long_name(tmp_path, command, run):
    gallery = tmp_path / ("漢" * 80)
    gallery.mkdir()
    (gallery / "a.jpg").write_bytes(PLAIN)
    arguments = ["--query", gallery / "a.jpg", "--gallery", gallery, "--out", tmp_path / "out"]
    status, out, _ = command("rank", "--run", run, *arguments)
    assert status == 0 and "cannot be kept" not in out and len(ranked(tmp_path / "out")) == 1


def test_nothing_is_written_outside_the_folders_that_were_given(tmp_path, command, run):
    """Whatever the pictures are called: only the run's and the `--out` folder grow."""
    top = tmp_path / "top"
    gallery = top / "in/gallery"
    gallery.mkdir(parents=True)
    for name in ("..\\..\\up", "%2e%2e%2fup", "~", "$HOME", "C:up", "..", "...", "-rf"):
        (gallery / f"{name}.jpg").write_bytes(PLAIN)
    before = sorted(top.rglob("*"))
    arguments = ["--query", gallery / "$HOME.jpg", "--gallery", gallery, "--top", 99, "--out", tmp_path / "out"]
    assert command("rank", "--run", run, *arguments)[0] == 0
    assert len(ranked(tmp_path / "out")) == 5  # the others are hidden
    assert sorted(top.rglob("*")) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ranking.csv", "ranking.pdf", "ranking.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no UTF-8")
def test_a_terminal_of_plain_letters_and_no_warnings(tmp_path, run):
    """The process itself: what Pillow and matplotlib would remark is not said, no letter is too much for stdout."""
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    for number, name in enumerate(("EXIF cut", "MPF junk", "turned by many", "turned in itself", "ICC junk")):
        (gallery / f"漢{number}\udcff.jpg").write_bytes(READ[name][0])
    query = gallery / "漢0\udcff.jpg"
    call = [
        sys.executable,
        "-m",
        "ppcl",
        "rank",
        "--run",
        run,
        "--query",
        query,
        "--gallery",
        gallery,
        "--out",
        tmp_path,
    ]
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([os.fspath(one) for one in call], capture_output=True, env=plain)
    assert (done.returncode, done.stderr) == (0, b"") and b"\\udcff" in done.stdout
