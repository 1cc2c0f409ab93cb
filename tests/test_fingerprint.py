"""One idea of "these pictures": names below the set's folder and contents, whatever the files' times and places."""

import os
import shutil
import time

import numpy as np
import pytest
from conftest import folders_of_people

from ppcl.data import datasets, fingerprint
from ppcl.recipes import Data


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A small lfw with pairs, and own people."""
    monkeypatch.setattr(fingerprint, "SETTLED", -(10**12))
    folders_of_people(tmp_path / "data/lfw", {"Ann": 3, "Bo": 2, "Zoë \udcff": 2})
    (tmp_path / "data/lfw/pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t1\tBo\t1\n")
    folders_of_people(tmp_path / "data/identities", dict.fromkeys("abcdefgh", 2))
    return tmp_path / "data"


def opened(monkeypatch):
    """Names of the pictures that are read from here on."""
    names, digest = [], fingerprint._digest
    monkeypatch.setattr(fingerprint, "_digest", lambda path: names.append(str(path)) or digest(path))
    return names


def test_an_unchanged_set_is_not_read_again(data, monkeypatch):
    first, names = datasets.contents(data), opened(monkeypatch)
    assert set(first["pictures"]) == {"lfw/all", "own/all"} and datasets.contents(data) == first and names == []


@pytest.mark.parametrize("change", ["copied", "moved", "touched", "hidden file", "decoded"])
def test_identical_pictures_are_the_same_set(data, tmp_path, change):
    first = datasets.contents(data)
    if change == "copied":
        data = shutil.copytree(data, tmp_path / "other place")
    elif change == "moved":
        data = data.rename(tmp_path / "other place")
    elif change == "touched":
        for path in data.rglob("*.jpg"):
            os.utime(path)
    elif change == "hidden file":
        (data / "lfw/Ann/.DS_Store").touch()
    else:
        (data / "decoded/lfw-all.npy").touch()
    assert datasets.contents(data) == first


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "swapped", "same size", "pairs", "broken link"])
def test_other_pictures_are_another_set(data, change):
    first, (a, b) = datasets.contents(data), [data / f"lfw/Ann/Ann_000{i}.jpg" for i in (1, 2)]
    if change == "added":
        shutil.copy(a, data / "lfw/Bo/Bo_0003.jpg")
    elif change == "removed":
        b.unlink()
    elif change == "renamed":
        a.parent.rename(data / "lfw/Anna")
    elif change == "swapped":
        a.rename(a.with_suffix(".x"))
        b.rename(a)
        a.with_suffix(".x").rename(b)
    elif change == "same size":
        old, at = a.stat(), a.read_bytes()
        a.write_bytes(at[:-1] + bytes([at[-1] ^ 1]))
        os.utime(a, ns=(old.st_atime_ns, old.st_mtime_ns))
    elif change == "pairs":
        (data / "lfw/pairs.txt").write_text("1\t1\nAnn\t2\t1\nAnn\t1\tBo\t1\n")
    else:
        a.unlink()
        a.symlink_to("nowhere")
    assert datasets.contents(data)["sha256"] != first["sha256"]


def test_pictures_of_the_last_seconds_are_read_again(data, monkeypatch):
    """A file that changes twice within the file system's tick looks the same."""
    monkeypatch.setattr(fingerprint, "SETTLED", 2 * 10**9)
    datasets.contents(data)
    names = opened(monkeypatch)
    datasets.contents(data)
    assert len(names) == 24
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 10 * 10**9)
    datasets.contents(data)
    del names[:]
    assert datasets.contents(data) and names == []


@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty", "pickle", "other shape", "folder"])
def test_damaged_digests_are_made_again(data, capsys, damage):
    first, kept = datasets.contents(data), fingerprint.kept_below(data)
    raw = kept.read_bytes()
    if damage == "folder":
        kept.unlink()
        kept.mkdir()
    elif damage == "pickle":
        np.save(kept, np.array([{}]), allow_pickle=True)
    elif damage == "other shape":
        np.save(kept, np.zeros((3, 4), np.uint64))
    else:
        kept.write_bytes(
            {"cut short": raw[:-9], "a bit": raw[:200] + bytes([raw[200] ^ 1]) + raw[201:]}.get(damage, b"")
        )
    assert datasets.contents(data) == first
    assert f"{kept}" in capsys.readouterr().err.splitlines()[0]


def test_digests_that_cannot_be_kept_are_said_once(data, capsys, monkeypatch):
    (data / "decoded").write_text("no folder")
    first, names = datasets.contents(data), opened(monkeypatch)
    assert datasets.contents(data) == first and names == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "cannot be kept there" in said[0]


def test_fingerprint_of_a_set_knows_what_is_kept_of_each_picture(data):
    uncut, whole = (datasets.read("lfw", "all", data, Data(uncut=side)) for side in (250, 0))
    some = uncut.keep(np.arange(3))
    assert len({uncut.fingerprint, whole.fingerprint, some.fingerprint}) == 3
