"""Banks that are kept on the disk: whole or absent, made again when stale, mapped and not held in memory."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from ppcl.data import bank_files, image_bank, stage_batches
from ppcl.data.datasets import DataError
from ppcl.disk.files import HOST


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    for number in range(9):
        Image.effect_noise((20 + number, 40), 50).convert("RGB").save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where a bank is kept, however small it is, written in blocks of two pictures."""
    monkeypatch.setattr(image_bank, "KEPT", 0)
    monkeypatch.setattr(image_bank, "BLOCK", 2 * 3 * 32 * 16)
    return tmp_path / "data" / "decoded" / "people.safetensors"


def make(files, kept, size=(32, 16)):
    kept.parent.parent.mkdir(exist_ok=True)
    return image_bank.bank(files, size, quiet=True, kept=kept)


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.ratios, b.ratios)


def test_a_kept_bank_is_the_one_in_memory(files, kept, capsys):
    plain = image_bank.bank(files, (32, 16), quiet=True)
    assert same(make(files, kept), plain) and same(make(files, kept), plain)
    with safe_open(kept, "pt") as file:
        assert torch.equal(file.get_tensor("images"), plain.images)
        assert torch.equal(file.get_tensor("ratios"), plain.ratios)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name] and capsys.readouterr().out == ""


def test_it_is_not_decoded_again(files, kept, monkeypatch):
    first = make(files, kept)
    monkeypatch.setattr(image_bank, "open_picture", lambda _: pytest.fail("it was decoded again"))
    assert same(make(files, kept), first)
    moved = files[0].parent.rename(files[0].parents[1] / "elsewhere") / ".."
    folder = (moved.parent.parent / "elsewhere").rename(moved.parent.parent / "people")
    assert same(make(sorted(folder.glob("*.png")), kept), first)


@pytest.mark.parametrize("change", ["pixels", "time", "fewer", "size", "name"])
def test_a_stale_one_is_made_again_without_a_word(files, kept, capsys, change):
    make(files, kept)
    size = (32, 16)
    if change == "pixels":
        Image.new("RGB", (20, 40), "red").save(files[0])
    elif change == "time":
        os.utime(files[0], (1, 1))
    elif change == "fewer":
        files = files[1:]
    elif change == "size":
        size = (16, 16)
    else:
        files[0] = files[0].rename(files[0].with_name("0a.png"))
    assert same(make(files, kept, size), image_bank.bank(files, size, quiet=True))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "header", "no safetensors"])
def test_a_damaged_one_is_named_in_one_line_and_made_again(files, kept, capsys, damage):
    first = make(files, kept)
    whole = kept.read_bytes()
    first = image_bank.ImageBank(first.images.clone(), first.ratios)
    new = {"cut": whole[:-1], "longer": whole + b"x", "empty": b"", "no safetensors": b"hello" * 9999}
    kept.write_bytes(new.get(damage, whole[:8] + b"?" * 40 + whole[48:]))
    assert same(make(files, kept), first)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and str(kept) in said and "damaged" in said
    assert same(make(files, kept), first) and capsys.readouterr().out == ""


def test_all_unreadable_files_are_listed_at_once_and_nothing_is_left(files, kept):
    for bad in (files[1], files[7]):
        bad.write_bytes(b"no picture")
    with pytest.raises(DataError, match="2 unreadable") as caught:
        make(files, kept)
    assert str(files[1]) in str(caught.value) and str(files[7]) in str(caught.value)
    assert list(kept.parent.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_away(files, kept):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept.parent.mkdir(parents=True)
    left, mine = (kept.with_name(f".{kept.name}.{HOST}-{pid}.tmp") for pid in (dead.pid, os.getppid()))
    left.write_bytes(b"half"), mine.write_bytes(b"being written")
    (other := kept.with_name(f".{kept.name}.elsewhere-{dead.pid}.tmp")).write_bytes(b"another host's")
    make(files, kept)
    assert not left.exists() and mine.exists() and other.exists()


def test_where_nothing_can_be_kept_pictures_are_decoded_into_memory(files, kept, capsys, monkeypatch):
    usage = bank_files.shutil.disk_usage(files[0].parent)
    monkeypatch.setattr(bank_files.shutil, "disk_usage", lambda _: usage._replace(free=100))
    found = make(files, kept)
    assert same(found, image_bank.bank(files, (32, 16), quiet=True)) and not kept.exists()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "into memory" in said and str(kept.parent.parent) in said


def test_what_is_kept_and_stale_makes_no_room(files, kept, capsys, monkeypatch):
    """The new bank is written beside the old one."""
    make(files, kept)
    stale = kept.read_bytes()
    usage = bank_files.shutil.disk_usage(files[0].parent)
    monkeypatch.setattr(bank_files.shutil, "disk_usage", lambda _: usage._replace(free=100))
    assert same(make(files, kept), image_bank.bank(files, (32, 16), quiet=True)) and capsys.readouterr().out == ""
    os.utime(files[0], (1, 1))
    make(files, kept)
    assert "into memory" in capsys.readouterr().out and kept.read_bytes() == stale


def test_training_reads_slices_of_the_kept_bank(tiny, drawn, tmp_path, monkeypatch):
    plain = stage_batches.training_data(tiny, drawn, quiet=True)
    data = tmp_path / "data"
    data.mkdir()
    for path in drawn.iterdir():
        (data / path.name).symlink_to(path)
    monkeypatch.setattr(image_bank, "KEPT", 0)
    found = stage_batches.training_data(tiny, data, quiet=True)
    assert same(found.train, plain.train) and same(found.heldout, plain.heldout)
    assert (found.labels == plain.labels).all() and (found.heldout_ids == plain.heldout_ids).all()
    ends = found.train.images.data_ptr() + found.train.images.nbytes
    assert found.heldout.images.data_ptr() == ends  # parts of one mapping, nothing was copied
    assert [path.name for path in (data / "decoded").iterdir()] == ["market1501-train-64x32.safetensors"]


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from ppcl.data import images, usual
from ppcl.data.batches import generator
from ppcl.recipes import Augmentation

image_bank.KEPT, image_bank.BLOCK = 0, 1 << 22
torch.set_num_threads(1)
files = [Path(sys.argv[1])] * 2600
def private():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024
image_bank.bank(files[:8], (256, 128), quiet=True)
before = private()
resource.setrlimit(resource.RLIMIT_DATA, (int(1024**2 * (before + 1000)), resource.RLIM_INFINITY))
bank = image_bank.bank(files, (256, 128), quiet=True, kept=Path(sys.argv[2]))
half = bank[1300:]
for step in range(30):
    usual.usual_views(half.images, torch.randint(1300, (16,)), Augmentation(), 10, generator(0, step))
print(bank.images.nbytes / 2**20, private() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_bank_larger_than_the_memory_that_is_allowed(tmp_path):
    """244 MiB of pictures are decoded, mapped, split and trained on with less than 100 MiB of memory of one's own."""
    Image.new("RGB", (64, 128), "red").save(tmp_path / "0.jpg")
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "0.jpg"), str(tmp_path / "data/decoded/a.safetensors")]
    size, grown = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert size > 240 and grown < 100
