"""What the tests share: drawn people and faces on disk, the tiny recipe, an untrained model."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image

from ppcl import jobs, training
from ppcl.__main__ import main
from ppcl.data import stage_batches
from ppcl.data.image_bank import normalise
from ppcl.drawn.faces import draw_faces
from ppcl.drawn.people import draw_people
from ppcl.models.ppcl import PPCL
from ppcl.recipes import recipe

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it, for children as well
WORKERS = jobs.default()
os.environ[jobs.JOBS] = "1"  # the tests themselves run side by side


def pytest_xdist_auto_num_workers(config):
    return WORKERS


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder with the four sets, drawn at the tiny scale. Read it, write nothing into it."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_people(folder, seed=0, scale="tiny", quiet=True)
    return folder


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder with the face sets, drawn at the tiny scale. Read it, write nothing into it."""
    folder = tmp_path_factory.mktemp("faces")
    draw_faces(folder, seed=0, scale="tiny", quiet=True)
    return folder


@pytest.fixture(scope="session")
def tiny():
    return recipe("person", "tiny")


@pytest.fixture
def draw():
    """A seeded generator, fresh in each test."""
    return torch.Generator().manual_seed(0)


FAST = "--profile tiny --set glrec.epochs=2 --set glrec.constant_epochs=1 --set backbone.epochs=1".split()


def by_commands(run, data, *more):
    """The three stages, trained by the command line. -> the run folder."""
    for stage in ("glrec", "backbone", "joint"):
        assert main(["train", stage, *more, "--run", str(run), "--data", str(data), *FAST]) == 0
    return run


def another_process(code, *arguments):
    """A new interpreter that runs this code, for a minute at most; its output is a pipe.

    A forked one would wait for ever where another thread held a lock at that moment.
    """
    code = f"import os, signal, sys\nfrom pathlib import Path\nsignal.alarm(60)\n{textwrap.dedent(code)}"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def failure(capsys, arguments):
    """(exit status, the lines on stderr) of a call."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err.strip().splitlines()


SMALL = {"glrec.epochs": 2, "glrec.constant_epochs": 1, "backbone.epochs": 1}


@pytest.fixture(scope="session")
def small_face():
    """The tiny face recipe with hardly any epochs."""
    return recipe("face", "tiny", **SMALL)


@pytest.fixture(scope="session")
def face_pictures(small_face, faces):
    return stage_batches.training_data(small_face, faces, quiet=True)


@pytest.fixture(scope="session")
def small():
    """The tiny recipe of people with hardly any epochs."""
    return recipe("person", "tiny", **SMALL)


@pytest.fixture(scope="session")
def pictures(small, drawn):
    return stage_batches.training_data(small, drawn, quiet=True)


@pytest.fixture(scope="module")
def run_of_controls(small, pictures, tmp_path_factory):
    """A run with the rows whose checkpoints controls use."""
    return train(small, pictures, tmp_path_factory.mktemp("controls"), ["backbone+crops+pad", "+glrec", "ppcl"])


def train(chosen, pictures, folder, rows=()):
    """Stages 1 and 2, then the joint stage of these rows. -> the run folder."""
    training.train_glrec(chosen, pictures, folder, quiet=True)
    training.train_backbone(chosen, pictures, folder, quiet=True)
    for row in rows:
        training.train_joint(chosen, pictures, folder, row, quiet=True)
    return folder


def blocks(count, draw, size=(64, 32)):
    """Pictures of random coloured blocks `(count, 3, *size)`, uint8."""
    coarse = torch.randint(256, (count, 3, size[0] // 8, size[1] // 8), generator=draw, dtype=torch.uint8)
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)


def folders_of_people(top, people, order=1):
    """LFW's layout: so many pictures of each person by name, made in this order or (-1) the other way round."""
    for name, count in list(people.items())[::order]:
        (top / name).mkdir(parents=True)
        for number in range(1, count + 1)[::order]:
            Image.new("RGB", (12, 12), (number, 0, 0)).save(top / name / f"{name}_{number:04d}.jpg")
    return top


@pytest.fixture
def untrained(tiny, draw):
    """A tiny PPCL in eval mode whose BN-neck knows the statistics of block pictures, so that descriptors differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PPCL(tiny, classes=5).eval()
    with torch.no_grad():
        features = model.backbone(normalise(blocks(32, draw)))
        model.backbone.neck.running_mean.copy_(features.mean((0, 2, 3)))
        model.backbone.neck.running_var.copy_(features.var((0, 2, 3)))
        model.backbone.neck.weight.uniform_(0.5, 2, generator=draw)
    return model
