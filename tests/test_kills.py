"""Stages killed (-9) at random moments: what is resumed ends as the undisturbed run, to the bit.

A process that imports and decodes once, and never trains itself, forks one child a training.
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from ppcl import evaluation, training
from ppcl.data import stage_batches
from ppcl.recipes import recipe
from ppcl.training import stage_on_disk

SMALL = {"glrec.epochs": 3, "glrec.constant_epochs": 1, "backbone.epochs": 2, "joint.epochs": 2}
STAGES = ("glrec", "backbone", "joint")
FILES = {stage: stage for stage in STAGES} | {"joint": "joint/ppcl/seed0"}
SETS = {"person": "partial-ilids", "face": "partial-lfw"}
KILLS = int(os.environ.get("PPCL_KILLS", 20))


@pytest.fixture(autouse=True)
def every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr(stage_on_disk, "SAVE_EVERY", 0)


def child(work):
    """A forked process that does this. -> its number."""
    number = os.fork()
    if number == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error))
        os._exit(1)
    return number


def done(work):
    assert os.waitpid(child(work), 0)[1] == 0


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def half(path, content):
    with open(path, "wb") as file:
        file.write(content[:5000])
    die()


def killed(work, moment, seconds, draw):
    """Start it and kill it at such a moment."""
    if moment == "step":
        number = child(work)
        time.sleep(draw.uniform(0, seconds))
        os.kill(number, signal.SIGKILL)
        return os.waitpid(number, 0)[1]
    owner, name, instead = {
        "writing": (Path, "write_bytes", half),
        "written": (os, "replace", die),
        "epoch": (stage_on_disk.Stage, "_save", None),
    }[moment]
    plain, left = getattr(owner, name), [draw.randint(1, 3)]

    def at_last(*args, **kwargs):
        left[0] -= 1
        if left[0] > 0 or instead is None:
            plain(*args, **kwargs)
        if left[0] == 0:
            (instead or die)(*args, **kwargs)

    def patched():
        setattr(owner, name, at_last)
        work()

    return os.waitpid(child(patched), 0)[1]


def kill_all(_, folder, data, tasks, stages, moments):
    """What `moments` list, for each stage of each task; writes how many kills hit to `folder/report.json`."""
    torch.set_num_threads(1)
    draw, report = random.Random(0), {}
    for task in tasks:
        chosen = recipe(task, "tiny", **SMALL)
        pictures = stage_batches.training_data(chosen, data[task], quiet=True)
        whole = folder / task
        for stage in STAGES:

            def train(run, stage=stage, chosen=chosen, pictures=pictures):
                getattr(training, f"train_{stage}")(chosen, pictures, run, quiet=True)

            base, began = folder / f"base {task} {stage}", time.monotonic()
            shutil.copytree(whole, base) if whole.exists() else base.mkdir()
            done(lambda train=train, whole=whole: train(whole))
            seconds, hits = time.monotonic() - began, 0
            for moment in moments if stage in stages else ():
                run = folder / "killed"
                shutil.copytree(base, run)
                hits += killed(lambda train=train, run=run: train(run), moment, seconds, draw) == signal.SIGKILL
                done(lambda train=train, run=run: train(run))
                for name in ("checkpoint.safetensors", "log.jsonl"):
                    mine, theirs = (top / task / FILES[stage] / name for top in (whole, run))
                    assert mine.read_bytes() == theirs.read_bytes(), (task, stage, moment, name)
                left = [path.name for path in (run / task).rglob(".*") if path.is_file()]
                assert set(left) == {".lock"}, left
                last = run.rename(folder / f"last {task} {stage} {time.monotonic()}")
                shutil.rmtree(last) if (task, stage) in report else None
                report[f"{task} {stage}"] = [hits, len(moments)]
                if stage == "joint" and moment == moments[-1] and last.exists():
                    tables = []
                    for top in (whole, last):
                        done(
                            lambda top=top, task=task: evaluation.evaluate(top, task, SETS[task], data[task], ["ppcl"])
                        )
                        tables.append((top / "results.csv").read_bytes())
                    assert tables[0] == tables[1]
    (folder / "report.json").write_text(json.dumps(report))


def test_a_few_kills(drawn, tmp_path):
    torch.multiprocessing.spawn(kill_all, (tmp_path, {"person": drawn}, ["person"], ["joint"], ["step", "writing"]))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["person joint"][1] == 2 and report["person joint"][0] >= 1  # a slow machine may miss the first


@pytest.mark.slow
def test_kills_at_random_moments(drawn, faces, tmp_path):
    """PPCL_KILLS of each stage of each task: inside steps, between epochs, while a checkpoint is written."""
    draw = random.Random(1)
    moments = [draw.choice(["step", "step", "writing", "written", "epoch"]) for _ in range(KILLS)]
    torch.multiprocessing.spawn(
        kill_all, (tmp_path, {"person": drawn, "face": faces}, ["person", "face"], STAGES, moments)
    )
    report = json.loads((tmp_path / "report.json").read_text())
    print("kills that hit, of", report)
    assert len(report) == 6 and all(2 * hits >= tried == KILLS for hits, tried in report.values())
