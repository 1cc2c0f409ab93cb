"""Features on the disk: they come back as they were, lazily, and never where they were made from something else."""

from dataclasses import fields

import pytest
import torch
from conftest import blocks
from safetensors.torch import load_file

from ppcl import matching
from ppcl.data.image_bank import ImageBank
from ppcl.disk.checkpoints import CheckpointError
from ppcl.matching import feature_files, features

FACTS = {"checkpoint": "abc", "files": {"a.jpg": "12 bytes", "b.jpg": "13 bytes"}}


@pytest.fixture
def described(untrained, draw):
    return matching.describe(untrained, ImageBank(blocks(5, draw), torch.zeros(5)))


@pytest.mark.parametrize("many", [0, 4], ids=["gram", "none"])
def test_what_is_saved_in_parts_comes_back(untrained, draw, monkeypatch, tmp_path, many):
    monkeypatch.setattr(features, "GRAM_FACTOR", many)
    described = matching.describe(untrained, ImageBank(blocks(5, draw), torch.zeros(5)))
    assert (described.gram.numel() > 0) == (many == 0)
    feature_files.save(tmp_path / "f", [described[:2], described[2:3], described[3:]], 5, FACTS, note=[1])
    found, header = feature_files.load(tmp_path / "f", FACTS)
    assert header["note"] == [1] and header["facts"] == FACTS
    plain = load_file(tmp_path / "f")  # an ordinary file to everybody else
    for field in fields(described):
        assert torch.equal(getattr(found, field.name), getattr(described, field.name))
        assert torch.equal(plain[field.name], getattr(described, field.name))
    assert found.keys.data_ptr() % 4 == 0


@pytest.mark.parametrize(
    "facts, why",
    [
        (FACTS | {"checkpoint": "xyz"}, 'checkpoint is "abc" there, "xyz" here'),
        (FACTS | {"files": {"a.jpg": "12 bytes", "b.jpg": "14 bytes"}}, "files.b.jpg is"),
        (FACTS | {"files": {"a.jpg": "12 bytes"}}, "files.b.jpg is"),
        (FACTS | {"row": "ppcl"}, "row is null there"),
    ],
)
def test_stale_features_are_refused_in_one_line(described, tmp_path, facts, why):
    feature_files.save(tmp_path / "f", [described], 5, FACTS)
    with pytest.raises(CheckpointError, match="stale") as caught:
        feature_files.load(tmp_path / "f", facts)
    assert why in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"nonsense and more nonsense", "cut"])
def test_files_that_are_missing_or_damaged_are_refused(described, tmp_path, content):
    path = tmp_path / "f"
    if content == "cut":
        feature_files.save(path, [described], 5, FACTS)
        path.write_bytes(path.read_bytes()[:-1])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not exist" if content is None else "damaged"):
        feature_files.load(path, FACTS)


@pytest.mark.parametrize("wrong", ["size", "dtype", "none"])
def test_gram_matrices_that_do_not_fit_and_older_files_are_refused(described, monkeypatch, tmp_path, wrong):
    cells = described.keys[0, 0].numel()
    described.gram = torch.zeros(5, cells, cells)
    feature_files.save(tmp_path / "f", [described], 5, FACTS)
    feature_files.load(tmp_path / "f", FACTS)
    if wrong == "size":
        described.gram = torch.zeros(5, cells - 1, cells - 1)
    elif wrong == "dtype":
        described.gram = described.gram.bfloat16()
    else:
        monkeypatch.setattr(feature_files, "NAMES", [name for name in feature_files.NAMES if name != "gram"])
    feature_files.save(tmp_path / "f", [described], 5, FACTS)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="damaged or holds no features that this version reads"):
        feature_files.load(tmp_path / "f", FACTS)


def test_a_file_appears_whole_or_not_at_all(described, tmp_path):
    def broken():
        yield described[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_files.save(tmp_path / "f", broken(), 5, FACTS)
    with pytest.raises(ValueError, match="2 pictures, not of 5"):
        feature_files.save(tmp_path / "f", [described[:2]], 5, FACTS)
    assert not list(tmp_path.iterdir())


def test_no_room_is_said_before_the_second_part_is_described(described, monkeypatch, tmp_path):
    def parts():
        yield described[:2]
        raise AssertionError("described in vain")

    usage = feature_files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_files.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(OSError, match="MiB are needed, 0 are free"):
        feature_files.save(tmp_path / "f", parts(), 5, FACTS)
    assert not list(tmp_path.iterdir())


def test_a_file_larger_than_the_memory_is_opened(described, tmp_path):
    """Sparse, so that it takes no room: what the kernel refuses to map so that it could be written to."""
    with open("/proc/meminfo") as lines:
        memory = 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("MemTotal", "SwapTotal")))
    count = 2 * memory // sum(getattr(described, field.name)[0].nbytes for field in fields(described))
    with open(tmp_path / "f", "wb") as file:
        starts = feature_files._begin(file, described, count, {"format": feature_files.FORMAT, "facts": FACTS})
        last = starts["whitened"] + (count - 1) * described.whitened[0].nbytes
        file.seek(last)
        file.write(described.whitened[:1].numpy())
        file.truncate(starts["gram"])
    found, _ = feature_files.load(tmp_path / "f", FACTS)
    assert len(found) == count and torch.equal(found.whitened[-1], described.whitened[0])
    assert not found.whitened[0].any()


def test_a_mapped_gallery_is_matched_as_one_in_memory_and_hardly_read(untrained, described, tmp_path):
    """Of 200 MB of maps a shortlist takes little: what the process holds of the file is counted by the kernel."""
    status = "/proc/self/status"
    many = described[torch.arange(2000) % 5]
    feature_files.save(tmp_path / "f", [many], 2000, FACTS)

    def mapped() -> int:
        with open(status) as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    try:
        before = mapped()
    except OSError:
        pytest.skip("needs Linux's /proc")
    index = torch.tensor([[1500, 3], [77, 1999]])
    expected = matching.region_distances(untrained, described[:2], many, index)
    gallery, _ = feature_files.load(tmp_path / "f", FACTS)
    assert torch.equal(matching.region_distances(untrained, described[:2], gallery, index), expected)
    size = (tmp_path / "f").stat().st_size // 1024
    assert mapped() - before < 0.2 * size
