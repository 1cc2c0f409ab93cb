"""The host never waits for a GPU inside a training step: no copy to it, no question to it, once the first step is done.

Of several GPUs, torch's SyncBatchNorm makes it wait in each of its layers. No GPU is needed: the steps run on tensors
that only claim to lie on one, and refuse every question about their content.
"""

import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppcl import geometry, losses, matching
from ppcl.data import augmentation, image_bank, partial_views, stage_batches
from ppcl.matching import features
from ppcl.matching.features import MAPS, Features
from ppcl.models.glrec import cap_gradient
from ppcl.models.ppcl import PPCL
from ppcl.recipes import METHODS, recipe

fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")


@pytest.fixture(autouse=True)
def made_anew():
    """No constant outlives its test: a tensor that only claims to lie on a GPU would be taken for a real one."""
    made = geometry.constant, geometry.unit_grid
    for one in made:
        one.cache_clear()
    yield
    for one in made:
        one.cache_clear()


class Copies(TorchDispatchMode):
    """Where something went from the host to the GPU; a number on its way as an argument is none."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given, made = ([v for v in tree_leaves(x) if isinstance(v, torch.Tensor)] for x in ((args, kwargs), out))
        if any(v.is_cuda for v in made) and any(not v.is_cuda for v in given) and func._opname != "fill_":
            lines = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack() if "/ppcl/" in f.filename]
            self.seen.append((str(func), *lines))
        return out


class Draw:
    """Stands for a generator on the GPU."""

    device = torch.device("cuda")


def steps(model, data, index, draw):
    """What the three loops do until backward."""
    chosen, labels = model.recipe, torch.zeros(len(data.train), dtype=torch.int64, device="cuda")
    pictures, ratios, box, partial = stage_batches.glrec_batch(data.train, index, chosen, draw)
    losses.placement(*model.glrec(pictures, ratios), box, partial, chosen.glrec)
    classified = lambda pooled: model.backbone.classifier(model.backbone.neck(pooled))  # noqa: E731

    view = stage_batches.whole_views(len(index), chosen, draw)
    seen = partial_views.read_views(
        data.train.images[index], view, partial_views.uniform(0, 1, len(index), rng=draw) < 0.5
    )
    pictures = image_bank.normalise(augmentation.augment(seen, chosen.augmentation, draw))
    pooled = model.backbone(pictures).float().mean((2, 3))
    losses.recognition(classified(pooled), pooled, labels[index], chosen.backbone)

    batch = stage_batches.joint_batch(data, labels, index, chosen, METHODS["ppcl"], draw)
    box, gate = model.predict(batch.pictures, batch.ratios)
    layout = model.layout(batch.pictures, batch.ratios, (cap_gradient(box, 1.0), gate.detach()))
    features, visible, pooled = model.features(layout)
    outputs = layout.box.detach(), features.float(), visible, pooled, classified(pooled)
    losses.joint_losses(model, batch, *outputs, draw)


@pytest.mark.parametrize("task, softmax", [("person", "plain"), ("face", "cosface")])
def test_no_step_makes_the_host_wait_for_a_gpu(task, softmax, monkeypatch):
    chosen = recipe(task, "tiny", **{"backbone.softmax": softmax})
    for name in ("rand", "randn", "randint"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, plain=plain, generator=None, **more: plain(*args, **more))
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = PPCL(chosen, 5, "ppcl").train()
        if softmax == "cosface":  # made by a constructor that does not ask which device is the default
            model.backbone.classifier.W = torch.nn.Parameter(torch.zeros(model.backbone.channels, 5))
        bank = image_bank.ImageBank(torch.zeros(40, 3, *chosen.input.size, dtype=torch.uint8), torch.zeros(40))
        data, index = stage_batches.TrainingData(bank, None, None, None), torch.zeros(16, dtype=torch.int64)
        with Copies() as first:
            steps(model, data, index, Draw())
        with Copies() as second:
            steps(model, data, index, Draw())
    assert first.seen and all("geometry.py" in seen[-1] for seen in first.seen)  # constants, once
    assert second.seen == []


@pytest.mark.parametrize("short, home", [(0, "cuda"), (1, "cpu")])
def test_maps_that_fill_a_gpu_are_kept_in_the_hosts_memory(monkeypatch, short, home):
    maps = 10 * 64 * 16 * 8 * 4  # bytes of ten pictures' whitened maps: a quarter of what is free, or a byte more
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * maps - short, None))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * maps)  # of which a part is free again
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 * maps)
    shapes = {"embedding": (1, 64), "box": (1, 4), "gate": (), "mark": (), "points": (1, 18, 8), "stripes": (1, 99, 64)}
    shapes |= {"keys": (8, 16, 8), "whitened": (64, 16, 8), "visible": (1, 16, 8), "gram": (0, 0)}
    with fake_tensor.FakeTensorMode():
        parts = ({name: torch.empty(5, *shape, device="cuda") for name, shape in shapes.items()} for _ in range(2))
        whole = Features.joined((Features(**part) for part in parts), 10)
        near = whole.as_gallery(torch.zeros(3, dtype=torch.int64, device="cuda"), torch.device("cuda"))
    assert whole.whitened.device.type == home and whole.keys.device.type == "cuda" and len(whole) == 10
    assert near.whitened.device.type == "cuda" and len(near.whitened) == 3


class Indexing(TorchDispatchMode):
    """Where a tensor in the host's memory is indexed by one on the GPU, which fails; questions are answered no."""

    def __init__(self):
        super().__init__()
        self.wrong = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._opname in ("_local_scalar_dense", "is_nonzero"):
            return 0
        if func._opname.startswith("index"):
            first, *index = [v for v in tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
            if not first.is_cuda and any(v.is_cuda for v in index):
                self.wrong.append((str(func), traceback.format_stack()[-6:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("home", ["cuda", "cpu"])
def test_maps_are_matched_wherever_they_lie(home, monkeypatch):
    chosen = recipe("person", "tiny")
    monkeypatch.setattr(features, "free", lambda device: 2**40)
    monkeypatch.setattr(matching.part_to_part, "nearest", lambda query, gallery, length: shortlist)
    every = lambda views, return_inverse: (views, torch.arange(len(views), device=views.device))  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "unique", every)  # how many differ only a real tensor knows: as if all did
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), Indexing() as indexing:
        with torch.device("cuda"):
            model = PPCL(chosen, 5, "ppcl").eval()
            model.fusion_weights = {"ppcl": 0.5}
            bank = image_bank.ImageBank(torch.zeros(9, 3, *chosen.input.size, dtype=torch.uint8), torch.zeros(9))
            query, gallery = (matching.describe(model, bank, several) for several in (True, False))
            shortlist = torch.zeros(9, 4), torch.zeros(9, 4, dtype=torch.int64)
            pairs = torch.zeros(7, dtype=torch.int64)
        gallery = replace(gallery, **{name: getattr(gallery, name).to(home) for name in MAPS})
        found = [matching.match(model, query, gallery, shortlist=length) for length in (0, 4)]
        found += [*matching.search(model, query, gallery, 3), matching.match_pairs(model, query, pairs, pairs)]
        assert all(value.is_cuda for value in found)
    assert indexing.wrong == []
