"""Several processes: the gradients of one, its checkpoints, one line when something is wrong."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import train
from torch.nn import functional as F

from ppcl import __main__, training
from ppcl.data import stage_batches
from ppcl.disk import checkpoints
from ppcl.models.ppcl import PPCL
from ppcl.recipes import check_processes, recipe
from ppcl.recipes.methods import RecipeError
from ppcl.training import processes, stage_on_disk, stages

ROOT = Path(__main__.__file__).resolve().parent.parent
PROCESSES = 2
SMALL = {"glrec.epochs": 2, "glrec.constant_epochs": 1, "backbone.epochs": 2, "joint.epochs": 2}
COSFACE = {"backbone.softmax": "cosface", "backbone.triplet_weight": 0.0, "backbone.optimiser": "sgd"}
CASES = {  # task, recipe, stage or row of the joint stage
    "glrec": ("person", SMALL, "glrec"),
    "backbone": ("person", SMALL, "backbone"),
    "joint, all of it": ("person", SMALL, "ppcl"),
    "joint, no regions": ("person", SMALL, "+glrec"),
    "joint, whole pictures": ("person", SMALL, "backbone-row"),
    "face backbone": ("face", SMALL, "backbone"),
    "face, margin softmax": ("face", SMALL | COSFACE, "backbone"),
    "face joint": ("face", SMALL, "ppcl"),
}


class Enough(Exception):  # noqa: N818
    """The gradients that a first step would have used."""


def run_stage(name, chosen, pictures, folder):
    if name in ("glrec", "backbone"):
        return getattr(training, f"train_{name}")(chosen, pictures, folder, quiet=True)
    return training.train_joint(chosen, pictures, folder, name.removesuffix("-row"), quiet=True)


def first_gradients(case, data, base, folder):
    """What the first step's optimiser would see, in fp64: its rounding moves no sample over the edge of a pixel."""
    task, overrides, name = CASES[case]
    chosen = recipe(task, "tiny", **overrides)
    pictures = stage_batches.training_data(chosen, data[task], quiet=True)
    if case.startswith("joint") or case.endswith("joint"):
        shutil.copytree(base[task], folder)
    average = processes.average_gradients

    def and_stop(optimiser):
        average(optimiser)
        raise Enough([p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "autocast", lambda device: contextlib.nullcontext())
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        patch.setattr(processes, "average_gradients", and_stop)
        with pytest.raises(Enough) as found:
            run_stage(name, chosen, pictures, folder)
    torch.set_default_dtype(torch.float32)
    return found.value.args[0]


def normalised(layer, x):
    """A BatchNorm layer's output, the gradients of its input and parameters, and its state."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out.square() * torch.linspace(0, 1, out[0].numel()).view_as(out[0])).mean().backward()
    return out.detach(), x.grad, layer.weight.grad, layer.bias.grad, *layer.state_dict().values()


def alone_in(number, folder, port, data, base):
    """One of the processes: writes what it found to the folder."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    processes.start("cpu")
    found = {}
    for case in CASES:
        found[case] = first_gradients(case, data, base, folder / f"{case} {number}")

    layer = processes.one_model(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(8, 3, 4, 5, generator=draw)
    found["norm"] = normalised(layer[0], processes.share(whole))
    layer.eval()
    assert torch.equal(layer(whole), F.batch_norm(whole, layer[0].running_mean, layer[0].running_var))
    assert torch.equal(processes.gather(processes.share(whole, 2), 2), whole)
    assert processes.any_of(number == 1) and not processes.any_of(False)
    with pytest.raises(RuntimeError, match="not one"):
        processes.agree(number, "not one")

    chosen = recipe("person", "tiny", **SMALL)
    pictures = stage_batches.training_data(chosen, data["person"], quiet=True)
    save = stage_on_disk.Stage._save

    def save_then_die(self, *args, **kwargs):
        save(self, *args, **kwargs)
        processes.wait()
        raise KeyboardInterrupt

    for name in ("glrec", "backbone", "ppcl"):
        run_stage(name, chosen, pictures, folder / "undisturbed")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stage_on_disk.Stage, "_save", save_then_die)
            run_stage(name, chosen, pictures, folder / "killed")
        run_stage(name, chosen, pictures, folder / "killed")
    torch.save(found, folder / f"found{number}.pt")
    processes.stop()


@pytest.fixture(scope="module")
def data(drawn, faces):
    return {"person": drawn, "face": faces}


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """Stages 1 and 2 of both tasks, by one process."""
    found = {}
    for task, folder in data.items():
        chosen = recipe(task, "tiny", **SMALL)
        pictures = stage_batches.training_data(chosen, folder, quiet=True)
        found[task] = train(chosen, pictures, tmp_path_factory.mktemp(task))
    return found


@pytest.fixture(scope="module")
def several(data, base, tmp_path_factory):
    """The folder in which two processes worked."""
    folder = tmp_path_factory.mktemp("several")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    torch.multiprocessing.spawn(alone_in, (folder, port, data, base), PROCESSES)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradients_of_one(case, several, data, base, tmp_path):
    alone = first_gradients(case, data, base, tmp_path / "alone")
    assert sum(float(gradient.abs().sum()) for gradient in alone) > 0
    for number in range(PROCESSES):
        found = torch.load(several / f"found{number}.pt")[case]
        assert len(found) == len(alone)
        for mine, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_batchnorm_sees_the_whole_batch(several):
    whole = torch.randn(8, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    out, back, weight, bias, *state = normalised(torch.nn.BatchNorm2d(3), whole)
    shares = [torch.load(several / f"found{number}.pt")["norm"] for number in range(PROCESSES)]
    torch.testing.assert_close(torch.cat([share[0] for share in shares]), out)
    torch.testing.assert_close(torch.cat([share[1] for share in shares]) / PROCESSES, back)
    torch.testing.assert_close(sum(share[2] for share in shares) / PROCESSES, weight)
    torch.testing.assert_close(sum(share[3] for share in shares) / PROCESSES, bias)
    for share in shares:
        torch.testing.assert_close(list(share[4:]), state)


@pytest.mark.parametrize("stage", ["glrec", "backbone", "joint/ppcl/seed0"])
def test_a_killed_stage_of_two_processes_resumes_to_the_same_bits(stage, several):
    for name in ("checkpoint.safetensors", "log.jsonl"):
        files = [several / folder / "person" / stage / name for folder in ("undisturbed", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_two_processes_leave_what_one_would(several, data, tmp_path):
    """The same names, shapes, facts and number of log lines; and one process finds the stage finished."""
    chosen = recipe("person", "tiny", **SMALL)
    pictures = stage_batches.training_data(chosen, data["person"], quiet=True)
    for name, stage in {"glrec": "glrec", "backbone": "backbone", "ppcl": "joint/ppcl/seed0"}.items():
        path = several / "undisturbed/person" / stage / "checkpoint.safetensors"
        before = path.stat().st_mtime_ns
        assert run_stage(name, chosen, pictures, several / "undisturbed") == path
        assert path.stat().st_mtime_ns == before
        alone = run_stage(name, chosen, pictures, tmp_path)
        mine, theirs = checkpoints.header(path), checkpoints.header(alone)
        assert mine.keys() == theirs.keys() and mine["finished"]
        measured = ("fusion_weights", "heldout", "tensors", "start")  # sums of two shares round differently
        assert {k: v for k, v in mine.items() if k not in measured} == {
            k: v for k, v in theirs.items() if k not in measured
        }
        model = PPCL(chosen, pictures.classes, "ppcl")
        part = {"glrec": model.glrec, "backbone": model.backbone}.get(name, model)
        checkpoints.load(path, part)
        logs = [file.with_name("log.jsonl").read_text().splitlines() for file in (path, alone)]
        assert len(logs[0]) == len(logs[1])


# --- torchrun ---

FAILING = """
import os, sys
from ppcl import __main__
from ppcl.training import stage_on_disk

if os.environ["RANK"] == "1" and "--fail" in sys.argv:
    def record(self, *given):
        raise RuntimeError("this process fell over")
    stage_on_disk.Stage.record = record
sys.exit(__main__.main([word for word in sys.argv[1:] if word != "--fail"]))
"""


def torchrun(*words):
    """(exit status, stdout, the lines of ppcl's own on stderr)"""
    call = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES), *map(str, words)]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, env=settings, cwd=ROOT)
    return done.returncode, done.stdout, [line for line in done.stderr.splitlines() if line.startswith("python -m")]


def test_a_process_that_fails_ends_all_with_one_line_and_torchrun_goes_on(base, data, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    shutil.copytree(base["person"], tmp_path / "run")
    call = ["train", "joint", "--profile", "tiny", "--run", tmp_path / "run", "--data", data["person"]]
    call += [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    status, _, lines = torchrun("--", script, *call, "--fail")
    assert status != 0 and lines == ["python -m ppcl train: this process fell over"]
    path = tmp_path / "run/person/joint/ppcl/seed0/checkpoint.safetensors"
    assert not path.exists()

    status, out, lines = torchrun("-m", "--", "ppcl", *call)
    assert (status, out, lines) == (0, f"{path}\n", [])
    before = path.stat().st_mtime_ns
    assert __main__.main([str(word) for word in call]) == 0
    assert path.stat().st_mtime_ns == before and checkpoints.header(path)["finished"]


def test_without_torchrun_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(RuntimeError, match="LOCAL_RANK is not.*torchrun"):
        processes.start("cpu")


def test_a_batch_that_cannot_be_shared_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    call = ["train", "joint", "--run", "r", "--data", "d", "--profile", "tiny"]
    for number, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", number)
        assert __main__.main(call) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == lines
        assert not lines or "joint.identities=4" in told[0] and "3 processes" in told[0]


def test_a_batchnorm_that_does_more_is_refused_by_several_processes(monkeypatch):
    class WithActivation(torch.nn.BatchNorm2d):  # timm's BatchNormAct2d is one of this kind
        def forward(self, x):
            return super().forward(x).relu()

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), WithActivation(4))
    assert processes.one_model(net) is net
    monkeypatch.setattr(processes, "size", lambda: 2)
    with pytest.raises(RuntimeError, match="WithActivation.*without torchrun"):
        processes.one_model(net)


def test_only_train_runs_under_torchrun(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert __main__.main(["reproduce"]) == 2
    assert "reproduce" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stage, key, count", [("glrec", "glrec.batch=128", 3), ("backbone", "identities=16", 32), ("joint", "glrec", 128)]
)
def test_every_published_batch_is_checked(stage, key, count):
    chosen = recipe("person", "paper", **{"joint.identities": 128, "joint.batch": 512})
    check_processes(chosen, stage, 8)
    with pytest.raises(RecipeError, match=key):
        check_processes(chosen, stage, count)


def test_the_number_of_processes_that_is_proposed_works():
    faces = recipe("face", "paper")
    with pytest.raises(RecipeError, match=r"joint.identities=50 cannot .* by 4 processes: start 2, or set joint.id"):
        check_processes(faces, "joint", 4)
    check_processes(faces, "joint", 2)


def test_a_set_smaller_than_the_batch_is_named():
    chosen = recipe("person", "tiny", **{"glrec.batch": 64})
    check_processes(chosen, "glrec", 2, 65)
    check_processes(chosen, "glrec", 2, 22)
    with pytest.raises(RecipeError, match=r"21 training pictures.*glrec.batch=64.*2 processes.*--set glrec.batch=20"):
        check_processes(chosen, "glrec", 2, 21)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_without_partners_says_so_and_a_signal_ends_it(data, tmp_path, number):
    port = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port
    alone = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    call = [sys.executable, "-m", "ppcl", "train", "glrec", "--profile", "tiny"]
    call += ["--run", str(tmp_path), "--data", str(data["person"])]
    settings = os.environ | alone | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env=settings) as process:
        line = process.stderr.readline()
        process.send_signal(number)
        assert process.wait(60) == 130
        assert f"process 0 of WORLD_SIZE=2 waits at 127.0.0.1:{port}" in line and "min at most" in line


@pytest.mark.parametrize("given", ["", "1"])
def test_an_empty_world_size_means_one_process(given):
    call = [sys.executable, "-m", "ppcl", "--version"]
    assert subprocess.run(call, env=os.environ | {"WORLD_SIZE": given, "PYTHONPATH": str(ROOT)}).returncode == 0
