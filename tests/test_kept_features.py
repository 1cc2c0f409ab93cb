"""Features kept on the disk: they come back as they were, are read lazily, and are refused where stale or damaged."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import blocks
from numpy.lib.format import open_memmap, write_array_header_1_0

from ppcl import matching
from ppcl.data.image_bank import ImageBank
from ppcl.disk import files
from ppcl.disk.checkpoints import CheckpointError
from ppcl.matching import features, kept_features

FACTS = {"checkpoint": "abc", "files": {"a.jpg": "12", "b.jpg": "13"}}


@pytest.fixture
def described(untrained, draw):
    return matching.describe(untrained, ImageBank(blocks(5, draw), torch.zeros(5)))


@pytest.mark.parametrize("factor", [0, 4], ids=["gram", "none"])
def test_what_is_saved_in_batches_comes_back(untrained, draw, monkeypatch, tmp_path, factor):
    monkeypatch.setattr(features, "GRAM_FACTOR", factor)
    described = matching.describe(untrained, ImageBank(blocks(5, draw), torch.zeros(5)))
    assert (described.gram.numel() > 0) == (factor == 0)
    for _ in range(2):  # the second replaces the first
        kept_features.save(tmp_path / "f", [described[:2], described[2:3], described[3:]], 5, FACTS, note=[1])
    found, kept = kept_features.load(tmp_path / "f", FACTS)
    assert kept["note"] == [1] and kept["facts"] == FACTS
    for field in fields(described):
        assert torch.equal(getattr(found, field.name), getattr(described, field.name))
        assert np.array_equal(np.load(tmp_path / "f" / f"{field.name}.npy"), getattr(described, field.name).numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    "facts, why",
    [
        (FACTS | {"checkpoint": "xyz"}, 'checkpoint is "abc" there, "xyz" here'),
        (FACTS | {"files": {"a.jpg": "12", "b.jpg": "14"}}, "files.b.jpg is"),
        (FACTS | {"files": {"a.jpg": "12"}}, "files.b.jpg is"),
        (FACTS | {"row": "ppcl"}, "row is null there"),
    ],
)
def test_stale_features_are_refused_in_one_line(described, tmp_path, facts, why):
    kept_features.save(tmp_path / "f", [described], 5, FACTS)
    with pytest.raises(CheckpointError, match="stale") as caught:
        kept_features.load(tmp_path / "f", facts)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def rewritten(name, array):
    return lambda folder: np.save(folder / f"{name}.npy", array, allow_pickle=True)


def cut(folder):
    path = folder / "keys.npy"
    path.write_bytes(path.read_bytes()[:-1])


def told(**changes):
    def change(folder):
        path = folder / "facts.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def claims(shape):
    """A header that speaks of other numbers than the file holds."""

    def change(folder):
        with open(folder / "gate.npy", "wb") as file:
            write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.write(bytes(20))

    return change


DAMAGED = {
    "one byte less": cut,
    "an array less": lambda folder: (folder / "gram.npy").unlink(),
    "text": lambda folder: (folder / "gate.npy").write_text("nonsense and more nonsense"),
    "empty": lambda folder: (folder / "gate.npy").write_bytes(b""),
    "a picture less": rewritten("gate", np.zeros(4, np.float32)),
    "another kind": rewritten("gate", np.zeros(5, np.float64)),
    "objects": rewritten("gate", np.array([print] * 5)),
    "more numbers than there are": claims((9**9,)),
    "fewer than none": claims((-5,)),
    "no JSON": lambda folder: (folder / "facts.json").write_text("{"),
    "JSON too deep": lambda folder: (folder / "facts.json").write_text("[" * 200_000),
    "no facts": told(facts=None),
    "no shapes": told(shapes=[]),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_features_are_refused_by_name(kind, described, tmp_path):
    kept_features.save(tmp_path / "f", [described], 5, FACTS)
    DAMAGED[kind](tmp_path / "f")
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        kept_features.load(tmp_path / "f", FACTS)
    assert str(tmp_path / "f") in str(caught.value) and "\n" not in str(caught.value)


def test_features_that_are_not_there_are_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        kept_features.load(tmp_path / "f", FACTS)


def test_a_folder_appears_whole_or_not_at_all(described, monkeypatch, tmp_path):
    def broken():
        yield described[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_features.save(tmp_path / "f", broken(), 5, FACTS)
    with pytest.raises(ValueError, match="2 pictures, not of 5"):
        kept_features.save(tmp_path / "f", [described[:2]], 5, FACTS)
    assert not list(tmp_path.iterdir())
    left = tmp_path / f".f.{files.HOST}-999999999.tmp"  # of a killed process
    left.mkdir()
    (left / "gate.npy").write_bytes(b"half")
    kept_features.save(tmp_path / "f", [described], 5, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_said_before_the_second_batch_is_described(described, monkeypatch, tmp_path):
    def batches():
        yield described[:2]
        raise AssertionError("described in vain")

    usage = kept_features.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(kept_features.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(OSError, match="MiB are needed, 0 are free"):
        kept_features.save(tmp_path / "f", batches(), 5, FACTS)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_memory_maps_is_read_whole(described, monkeypatch, tmp_path):
    def refused(*_args, **_how):
        raise OSError(19, "No such device")

    kept_features.save(tmp_path / "f", [described], 5, FACTS)
    monkeypatch.setattr(kept_features, "open_memmap", refused)
    found, _ = kept_features.load(tmp_path / "f", FACTS)
    assert torch.equal(found.keys, described.keys)


def test_features_larger_than_the_memory_are_opened(described, tmp_path):
    """Sparse files, which take no room on the disk."""
    with open("/proc/meminfo") as lines:
        memory = 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("MemTotal", "SwapTotal")))
    count = 2 * memory // sum(getattr(described, field.name)[0].nbytes for field in fields(described))
    kept_features.save(tmp_path / "f", [described], 5, FACTS)
    shapes = {field.name: [count, *getattr(described, field.name).shape[1:]] for field in fields(described)}
    for name, shape in shapes.items():
        array = open_memmap(tmp_path / "f" / f"{name}.npy", "w+", np.float32, tuple(shape))
        if name == "whitened":
            array[-1] = described.whitened[0]
    told(shapes=shapes)(tmp_path / "f")
    found, _ = kept_features.load(tmp_path / "f", FACTS)
    assert len(found) == count and torch.equal(found.whitened[-1], described.whitened[0])
    assert not found.whitened[0].any()


def test_a_mapped_gallery_is_matched_as_one_in_memory_and_hardly_read(untrained, described, tmp_path):
    """A shortlist reads little of 200 MB of maps: the kernel counts how much of the files the process holds."""
    status = "/proc/self/status"
    many = described[torch.arange(2000) % 5]
    kept_features.save(tmp_path / "f", [many], 2000, FACTS)

    def mapped() -> int:
        with open(status) as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    try:
        before = mapped()
    except OSError:
        pytest.skip("needs Linux's /proc")
    index = torch.tensor([[1500, 3], [77, 1999]])
    expected = matching.region_distances(untrained, described[:2], many, index)
    gallery, _ = kept_features.load(tmp_path / "f", FACTS)
    assert torch.equal(matching.region_distances(untrained, described[:2], gallery, index), expected)
    size = sum(path.stat().st_size for path in (tmp_path / "f").iterdir()) // 1024
    assert mapped() - before < 0.2 * size
