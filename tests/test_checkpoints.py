import errno
import json
import os
import resource
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from ppcl.disk import checkpoints
from ppcl.disk.checkpoints import CheckpointError, first_difference
from ppcl.disk.files import write_text
from ppcl.recipes import recipe
from ppcl.training import stage_on_disk

FACTS = {
    "recipe": recipe("person", "tiny").to_dict(),
    "epoch": 3,
    "finished": False,
    "fusion_weights": {"ppcl": 0.75, "+glrec@7": 0.0},
    "method": "ppcl",
    "note": 'ö "quoted"',
}
OPTIMISERS = {
    "adam": lambda net: torch.optim.Adam(net.parameters(), 1e-2, weight_decay=1e-3),
    "sgd": lambda net: torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9),
    "plain sgd": lambda net: torch.optim.SGD(net.parameters(), 1e-2),
    "fused adam": lambda net: torch.optim.Adam(net.parameters(), 1e-2, weight_decay=1e-3, fused=True),
    "fused sgd": lambda net: torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9, fused=True),
}


def small(width=4, seed=0):
    torch.manual_seed(seed)
    conv = torch.nn.Conv2d(3, width, 2).to(memory_format=torch.channels_last)  # as the backbone's
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(width), torch.nn.Flatten(), torch.nn.Linear(width, 2))


def step(net, optimiser, number):
    """One step on a batch that depends on its number alone."""
    batch = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(number))
    optimiser.zero_grad()
    net(batch).square().sum().backward()
    optimiser.step()


def train(kind, steps):
    net = small()
    optimiser = OPTIMISERS[kind](net)
    for number in range(steps):
        step(net, optimiser, number)
    return net, optimiser


def equal(net, other):
    mine, theirs = net.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture
def saved(tmp_path):
    """A good checkpoint, alone in its folder."""
    net, optimiser = train("adam", 3)
    path = tmp_path / "run" / "checkpoint.safetensors"
    checkpoints.save(path, net, optimiser, **FACTS)
    return path


def test_a_checkpoint_is_as_private_as_the_users_other_files(saved):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("read", [checkpoints.header, lambda path: checkpoints.load(path, small())])
def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(saved, monkeypatch, number, read):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints, "open", refused, raising=False)  # root may read anything
    with pytest.raises(CheckpointError, match=f"{saved} cannot be read .{os.strerror(number)}"):
        read(saved)


def test_a_checkpoint_is_read_where_memory_maps_are_refused(saved, monkeypatch):
    monkeypatch.setattr(safetensors, "safe_open", None)
    assert checkpoints.load(saved, small()) == checkpoints.header(saved)


@pytest.mark.parametrize("owner, name, number", [(Path, "chmod", errno.EPERM), (os, "fsync", errno.EINVAL)])
def test_a_file_system_that_refuses_modes_or_flushing_is_used(tmp_path, monkeypatch, capsys, owner, name, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner, name, refused)
    net = small()
    for one in range(2):
        checkpoints.save(tmp_path / f"{one}.safetensors", net, None, **FACTS)
        checkpoints.load(tmp_path / f"{one}.safetensors", small(seed=9))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (name == "fsync") and all(str(tmp_path) in line and "here (" in line for line in lines)


# --- round trips ---


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_resumed_training_is_the_uninterrupted_to_the_bit(tmp_path, kind):
    whole, _ = train(kind, 6)
    net, optimiser = train(kind, 3)
    checkpoints.save(tmp_path / "a.safetensors", net, optimiser, **FACTS)
    resumed = small(seed=9)
    again = OPTIMISERS[kind](resumed)
    checkpoints.load(tmp_path / "a.safetensors", resumed, again)
    assert equal(resumed, net)
    for number in range(3, 6):
        step(resumed, again, number)
    assert equal(resumed, whole)
    assert not equal(whole, net)


def test_header_holds_the_facts(saved):
    found = checkpoints.header(saved)
    assert checkpoints.load(saved, small()) == found and checkpoints.weights(saved) == found.pop("tensors")[:16]
    assert found == json.loads(json.dumps({"format": checkpoints.FORMAT, **FACTS}))


def test_finished_checkpoint_carries_no_optimiser_and_leaves_one_alone(tmp_path):
    net, _ = train("adam", 3)
    checkpoints.save(tmp_path / "a.safetensors", net, None, **FACTS)
    fresh = small(seed=9)
    optimiser = OPTIMISERS["adam"](fresh)
    checkpoints.load(tmp_path / "a.safetensors", fresh, optimiser)
    assert equal(fresh, net) and optimiser.state_dict()["state"] == {}


def test_saving_leaves_one_file_and_replaces_the_old(saved):
    net, optimiser = train("adam", 5)
    checkpoints.save(saved, net, optimiser, **{**FACTS, "epoch": 5})
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    fresh = small(seed=9)
    assert checkpoints.load(saved, fresh)["epoch"] == 5 and equal(fresh, net)


# --- files that are not what they should be ---


def truncated(path, good):
    path.write_bytes(good[: len(good) * 2 // 3])


def truncated_in_the_header(path, good):
    path.write_bytes(good[:50])


def ours(**facts):
    return with_header(ppcl=json.dumps(facts))


def with_header(**metadata):
    return lambda path, good: save_file({"weight": torch.zeros(2)}, path, metadata=metadata or None)


BAD = {
    "truncated": truncated,
    "truncated in the header": truncated_in_the_header,
    "empty": lambda path, good: path.write_bytes(b""),
    "text": lambda path, good: path.write_text("not a checkpoint"),
    "pickle": lambda path, good: torch.save({"a": torch.zeros(2)}, path),
    "foreign, no header": with_header(),
    "foreign, of another library": with_header(format="pt"),
    "foreign, odd format": ours(format="two"),
    "newer": ours(format=checkpoints.FORMAT + 1),
    "folder": lambda path, good: path.unlink() or path.mkdir(),
    "absent": lambda path, good: path.unlink(),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_named_and_the_model_left_alone(saved, kind):
    good = saved.read_bytes()
    BAD[kind](saved, good)
    net, untouched = small(), small()
    for read in (checkpoints.header, lambda path: checkpoints.load(path, net)):
        with pytest.raises(CheckpointError) as caught:
            read(saved)
        assert str(saved) in str(caught.value) and "\n" not in str(caught.value)
    assert equal(net, untouched)


def test_every_flipped_bit_is_noticed_or_harmless(saved):
    """In every third byte of the header and every 31st of the tensors: refused by name, or nothing has changed."""
    good = saved.read_bytes()
    facts, net = checkpoints.header(saved), small(seed=9)
    checkpoints.load(saved, net)
    end, harmless = 8 + int.from_bytes(good[:8], "little"), 0
    for at in [*range(0, end, 3), *range(end, len(good), 31)]:
        for bit in (1 << at % 8,):
            saved.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
            again = small(seed=9)
            try:
                assert checkpoints.load(saved, again) == facts and equal(again, net)
                harmless += 1
            except CheckpointError as error:
                assert str(saved) in str(error) and "\n" not in str(error)
    assert harmless < 20


def test_a_file_of_the_first_days_without_checksum_is_read(saved):
    with safetensors.safe_open(saved, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors, saved, metadata={"ppcl": json.dumps({"format": 1, **FACTS})})
    assert checkpoints.load(saved, small()) == json.loads(json.dumps({"format": 1, **FACTS}))


def test_what_is_not_finite_is_not_saved(saved):
    good, net = saved.read_bytes(), small()
    with torch.no_grad():
        net[-1].bias[1] = float("inf")
    with pytest.raises(FloatingPointError, match="3.bias is not finite.*the last good state stays"):
        checkpoints.save(saved, net, None, **FACTS)
    assert saved.read_bytes() == good


def test_a_full_disk_keeps_the_old_file_and_says_so(saved):
    """A limit on the size of files, as a disk that fills up while the file is written."""
    good = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="could not be written.*last good one stays"):
            checkpoints.save(saved, small(), train("adam", 2)[1], **FACTS)
        with pytest.raises(OSError) as caught:
            write_text(saved.with_name("results.csv"), "x" * len(good))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert saved.read_bytes() == good and [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_newer_format_says_update(saved):
    BAD["newer"](saved, b"")
    with pytest.raises(CheckpointError, match="newer.*update"):
        checkpoints.header(saved)


def test_sound_file_of_another_library_is_not_called_damaged(saved):
    """Hugging Face's and torch's own files carry `format: pt`; nobody should be told to delete one."""
    BAD["foreign, of another library"](saved, b"")
    with pytest.raises(CheckpointError, match="not a ppcl checkpoint"):
        checkpoints.header(saved)


def test_another_models_checkpoint_is_refused_and_the_tensor_named(saved):
    net = small(width=5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit.*\d\.\w+.*another recipe"):
        checkpoints.load(saved, net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "other",
    [
        torch.nn.Sequential(torch.nn.Linear(3, 4)),
        torch.nn.Sequential(*small(), torch.nn.Linear(2, 2)),
    ],
    ids=["fewer layers", "more layers"],
)
def test_missing_and_surplus_tensors_are_refused(saved, other):
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoints.load(saved, other)


# --- saving that fails half-way ---


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(path, content):
    with open(path, "wb") as file:
        file.write(content[:100])
    no_room()


@pytest.mark.parametrize(
    "owner, name, fail",
    [
        (os, "replace", no_room),
        (os, "fsync", no_room),
        (safetensors.torch, "save", no_room),
        (Path, "write_bytes", half_written),
    ],
    ids=["replace", "fsync", "save", "half written"],
)
def test_failed_save_keeps_the_old_file_and_leaves_no_other(saved, monkeypatch, owner, name, fail):
    good = saved.read_bytes()
    net, optimiser = train("adam", 5)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.save(saved, net, optimiser, **FACTS)
    assert str(saved) in str(caught.value) and "No space left" in str(caught.value)
    assert saved.read_bytes() == good
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_interrupted_save_keeps_the_old_file(saved, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    good = saved.read_bytes()
    monkeypatch.setattr(safetensors.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(saved, small(), None, **FACTS)
    assert saved.read_bytes() == good and len(list(saved.parent.iterdir())) == 1


def test_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoints.save(tmp_path / "file" / "a.safetensors", small(), None, **FACTS)


def test_text_is_whole_or_absent(tmp_path, monkeypatch):
    write_text(tmp_path / "deep" / "log.jsonl", "ä\n")
    assert (tmp_path / "deep" / "log.jsonl").read_text(encoding="utf-8") == "ä\n"
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(OSError):
        write_text(tmp_path / "deep" / "log.jsonl", "other")
    assert (tmp_path / "deep" / "log.jsonl").read_text(encoding="utf-8") == "ä\n"
    assert len(list((tmp_path / "deep").iterdir())) == 1


# --- differences ---


def test_first_difference_names_key_and_both_values():
    mine = recipe("person", "tiny").to_dict()
    theirs = recipe("person", "tiny", **{"joint.sigma": 0.3}).to_dict()
    assert first_difference(mine, theirs) == "joint.sigma is 0.3 there, 0.2 here"
    assert first_difference(mine, mine) is None


def test_difference_survives_json():
    """Tuples come back as lists; that is no difference."""
    mine = recipe("person", "tiny").to_dict()
    assert first_difference(mine, json.loads(json.dumps(mine))) is None


def test_first_difference_tells_absent_from_present():
    assert first_difference({"a": 1}, {}) == "a is null there, 1 here"
    assert first_difference({"part": {"a": 1}}, {"part": None}) is not None
    assert first_difference({"b": {"y": 1, "x": 2}}, {"b": {"y": 9, "x": 8}}) == "b.x is 8 there, 2 here"


def test_damaged_lines_of_a_log_are_left_out(tmp_path):
    good = [{"epoch": 0, "step": 0, "loss": 1.5}, {"epoch": 1, "step": 10, "loss": 1.0}]
    lines = [
        json.dumps(good[0]).encode(),
        b"garbage }",
        b'"\xff" }',
        b'{"a": 1}',
        b"[1]",
        b"",
        json.dumps(good[1]).encode(),
    ]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*lines, b'{"epoch": 2, "st']))
    assert stage_on_disk.read_log(tmp_path / "log.jsonl") == good
