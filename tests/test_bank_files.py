"""Banks that are kept on the disk: whole or absent, decoded again when stale, mapped and not held in memory."""

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ppcl.data import image_bank, stage_batches
from ppcl.data.datasets import DataError

NAME = "people-32x16-abc.npy"


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    for number in range(9):
        Image.effect_noise((20 + number, 40), 50).convert("RGB").save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The file of a bank, which is kept however small it is."""
    monkeypatch.setattr(image_bank, "KEPT", 0)
    return tmp_path / "data" / "decoded" / NAME


def make(files, kept, size=(32, 16)):
    return image_bank.bank(files, size, quiet=True, kept=kept)


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.ratios, b.ratios)


def test_a_kept_bank_is_the_one_in_memory(files, kept, capsys):
    plain = image_bank.bank(files, (32, 16), quiet=True)
    assert same(make(files, kept), plain) and same(make(files, kept), plain)
    assert np.load(kept, allow_pickle=False)[36:].tobytes() == plain.images.numpy().tobytes()
    assert [path.name for path in kept.parent.iterdir()] == [NAME]
    assert capsys.readouterr().err == ""


def test_it_is_not_decoded_again(files, kept, monkeypatch):
    found = make(files, kept)
    monkeypatch.setattr(image_bank, "open_picture", lambda _: pytest.fail("it was decoded again"))
    assert same(make(files, kept), found)


def test_what_was_made_of_other_pictures_is_deleted(files, kept, capsys):
    make(files, kept)
    other = kept.with_name("person-32x16-abc.npy")
    other.write_bytes(b"another set")
    new = kept.with_name("people-32x16-def.npy")
    assert same(make(files[1:], new), image_bank.bank(files[1:], (32, 16), quiet=True))
    assert {path.name for path in kept.parent.iterdir()} == {new.name, other.name}
    assert capsys.readouterr().err == ""


DAMAGE = {
    "cut": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
    "no array": lambda whole: b"hello" * 9999,
    "header": lambda whole: whole[:20] + b"?" * 40 + whole[60:],
    "another shape": lambda whole: whole.replace(b"(13860,)", b"(1386,) "),
    "a shape that does not fit": lambda whole: whole.replace(b"(13860,)", b"(99999,)"),
    "numbers of another kind": lambda whole: whole.replace(b"|u1", b"|i1"),
    "objects": lambda whole: whole.replace(b"'|u1'", b"'|O' "),
    "code in its header": lambda whole: whole.replace(b"(13860,)", b"exit(1) "),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_named_in_one_line_and_made_again(files, kept, capsys, damage):
    make(files, kept)
    broken = DAMAGE[damage](kept.read_bytes())
    kept.unlink()  # what is mapped is not changed
    kept.write_bytes(broken)
    plain = image_bank.bank(files, (32, 16), quiet=True)
    assert same(make(files, kept), plain)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(kept) in said and "damaged" in said
    assert same(make(files, kept), plain) and capsys.readouterr().err == ""


def test_all_unreadable_files_are_listed_at_once_and_nothing_is_left(files, kept):
    for bad in (files[1], files[7]):
        bad.write_bytes(b"no picture")
    with pytest.raises(DataError, match="2 unreadable") as caught:
        make(files, kept)
    assert str(files[1]) in str(caught.value) and str(files[7]) in str(caught.value)
    assert list(kept.parent.iterdir()) == []


REFUSALS = {
    "a full disk": (image_bank.os, "posix_fallocate", errno.ENOSPC),
    "no memory map": (image_bank, "open_memmap", errno.ENODEV),
    "a read-only disk": (image_bank.Path, "mkdir", errno.EROFS),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("there", [False, True])
def test_where_nothing_can_be_kept_pictures_are_decoded_into_memory(files, kept, capsys, monkeypatch, refusal, there):
    """Said in one line; a bank that is there and sound is used where it can be mapped, and never called damaged."""
    if there:
        make(files, kept)
    before = kept.read_bytes() if there else None
    place, name, number = REFUSALS[refusal]

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(place, name, refuse)
    found = make(files, kept)
    said = capsys.readouterr().err
    if there and refusal != "no memory map":
        assert said == ""
    else:
        assert said.count("\n") == 1 and str(kept) in said and "into memory" in said and os.strerror(number) in said
    assert same(found, image_bank.bank(files, (32, 16), quiet=True))
    assert (kept.read_bytes() if kept.exists() else None) == before
    assert not list(kept.parent.glob(".*.tmp"))


def kept_banks(data):
    return sorted(path.name for path in (data / "decoded").glob("market1501-train-64x32-*.npy"))


def test_training_reads_slices_of_the_kept_bank_and_notices_other_pictures(tiny, drawn, tmp_path, monkeypatch):
    plain = stage_batches.training_data(tiny, drawn, quiet=True)
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    monkeypatch.setattr(image_bank, "KEPT", 0)
    found = stage_batches.training_data(tiny, data, quiet=True)
    assert same(found.train, plain.train) and same(found.heldout, plain.heldout)
    assert (found.labels == plain.labels).all() and (found.heldout_ids == plain.heldout_ids).all()
    ends = found.train.images.data_ptr() + found.train.images.nbytes
    assert found.heldout.images.data_ptr() == ends  # parts of one mapping, nothing was copied
    before = kept_banks(data)
    assert len(before) == 1
    stage_batches.training_data(tiny, data, quiet=True)
    assert kept_banks(data) == before

    files = sorted((data / "Market-1501-v15.09.15/bounding_box_train").iterdir(), key=lambda path: path.stat().st_size)
    changed, larger = files[1], files[-1]  # the name, size and time of writing of a picture stay as they are
    status, content = larger.stat(), changed.read_bytes()
    larger.write_bytes(content + bytes(status.st_size - len(content)))
    os.utime(larger, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = stage_batches.training_data(tiny, data, quiet=True)
    monkeypatch.setattr(image_bank, "KEPT", 1 << 28)
    fresh = stage_batches.training_data(tiny, data, quiet=True)
    assert same(again.train, fresh.train) and same(again.heldout, fresh.heldout)
    assert again.pictures == fresh.pictures != found.pictures


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from ppcl.data import augmentation, image_bank
from ppcl.data.partial_views import make_rng
from ppcl.recipes import Augmentation

image_bank.KEPT = 0
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
    augmentation.shifted_crops(half.images, torch.randint(1300, (16,)), Augmentation(), 10, make_rng(0, step))
print(bank.images.nbytes / 2**20, private() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_bank_larger_than_the_memory_that_is_allowed(tmp_path):
    """244 MiB of pictures are decoded, mapped, split and trained on with less than 100 MiB of memory of one's own."""
    Image.new("RGB", (64, 128), "red").save(tmp_path / "0.jpg")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "0.jpg"), str(tmp_path / "data/decoded/a-1.npy")]
    size, grown = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert size > 240 and grown < 100
