"""Benchmarks: training batches, a training step, evaluation, matching, search by gallery size, cost of each row.

An item is timed in turns with a usual implementation, its reference (A B A B …); the median is kept with the spread. No
number comes from another machine or day.
"""

import contextlib
import io
import json
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from . import losses, matching, metrics, training
from .data import image_bank
from .data.augmentation import shifted_crops
from .data.partial_views import make_rng
from .data.stage_batches import TrainingData
from .disk.files import read_json, write_text
from .evaluation import results
from .jobs import cores, one_thread
from .matching.features import STRIPES, Features, gram_matrix
from .models.backbone import Backbone
from .models.ppcl import PPCL
from .recipes import recipe, trained_by
from .runs import ROOT, versions
from .training import schedules

RECORD = ROOT / "figures" / "benchmarks.json"


@dataclass(frozen=True)
class Sizes:
    """Sizes of the items; the defaults take about two minutes on two cores."""

    rounds: int = 5
    batch: int = 64
    size: tuple[int, int] = (256, 128)
    step_batch: int = 16
    architecture: str = "resnet50"
    queries: int = 3368  # Market-1501's, against its gallery without junk
    gallery: int = 15913
    textbook: int = 60  # queries of the textbook evaluator
    searched: int = 256  # queries of the global step
    matched: int = 8  # queries matched part to part
    parts: int = 512  # gallery pictures matched part to part
    channels: int = 2048
    galleries: tuple[int, ...] = (10**4, 10**5, 10**6)
    width: int = 256  # of an embedding
    profile: str = "demo"  # of the rows' cost
    steps: int = 8  # of the joint stage
    people: int = 120  # in the gallery that a row's queries are matched with


@one_thread()
def bench(path: Path | str | None = None, sizes: Sizes | None = None, device: str = "cpu") -> dict:
    """Measure every item, print it, and write this machine's entry of `figures/benchmarks.json`. -> the entry.

    Like training and matching it computes with one thread. A new run replaces the entry of the same machine and keeps
    those of others.
    """
    path, sizes = Path(path or RECORD), sizes or Sizes()
    began, rows = time.time(), []
    for measure in ITEMS:
        for row in measure(sizes, device):
            print(line(row), flush=True)
            rows.append(row)
    measured = {"items": rows, "rows": costs(sizes, device)}
    facts = {"date": time.strftime("%Y-%m-%d"), "commit": results.commit(), "versions": versions()}
    facts |= {"device": device, "threads": torch.get_num_threads(), "seconds": round(time.time() - began)}
    entry = facts | measured
    write_text(path, json.dumps(read(path) | {machine(device): entry}, indent=1) + "\n")
    return entry


def read(path: Path | str = RECORD) -> dict[str, dict]:
    """Recorded entries by machine; none if the file is not there."""
    return read_json(Path(path))


def machine(device: str = "cpu") -> str:
    """The name of this machine: its GPU with CUDA, its processor, and the cores that this process may use."""
    cpu = Path("/proc/cpuinfo")
    found = re.findall(r"model name\s*: (.*)", cpu.read_text("utf-8")) if cpu.is_file() else []
    named = f"{(found or [platform.machine()])[0]}, {cores()} core{'s' * (cores() > 1)}"
    return f"{torch.cuda.get_device_name()}, {named}" if device == "cuda" else named


def line(row: dict) -> str:
    """An item as a line of text."""
    text = "{name}: {value:,.4g} {unit} [{spread[0]:,.4g}, {spread[1]:,.4g}]".format(**row)
    text += f"; {row['ratio']:.2f} x {row['reference']}" if row["ratio"] else ""
    return text + (f" ({row['note']})" if row["note"] else "")


def item(
    name: str,
    unit: str,
    mine: Callable,
    work: float = 1,
    reference: tuple | None = None,
    rounds: int = 5,
    note: str = "",
) -> dict:
    """Time a call that does `work` pieces of work, in turns with `reference`: its name, call and pieces of work.

    A unit per second (`img/s`) is a rate, any other the time for a piece of work. The spread is the smallest and the
    largest value, the ratio the speed in times the reference's.
    """
    calls, synchronise = [mine, *(reference or ())[1:2]], torch.cuda.synchronize if torch.cuda.is_available() else int
    times = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, seconds in zip(calls, times, strict=True):
            synchronise()
            began = time.perf_counter()
            call()
            synchronise()
            seconds.append(time.perf_counter() - began)
    each, *theirs = (statistics.median(seconds[1:]) for seconds in times)  # the first round warms up
    shown = (lambda seconds: work / seconds) if unit.endswith("/s") else (lambda seconds: seconds / work)
    spread = sorted(map(shown, times[0][1:]))
    ratio = theirs[0] / reference[2] / (each / work) if reference else None
    measured = {"name": name, "value": shown(each), "unit": unit, "spread": [spread[0], spread[-1]], "ratio": ratio}
    return measured | {"reference": reference and reference[0], "note": note}


def training_batches(sizes: Sizes, _device: str) -> list[dict]:
    """Batches from a bank; against decoding and transforming JPEGs one by one, as a DataLoader's worker."""
    how, count, rng = recipe("person", "paper"), sizes.batch, make_rng(0, "bench")
    pixels = torch.randint(256, (count, 3, *sizes.size), dtype=torch.uint8)
    ours = partial(shifted_crops, pixels, torch.arange(count), how.augmentation, how.backbone.pad, rng)
    file = io.BytesIO()
    Image.effect_noise((64, 128), 40).convert("RGB").save(file, "JPEG")  # about as many bytes as Market-1501's
    from torchvision import transforms as t  # as slow to import as PyTorch

    steps = t.Resize(sizes.size), t.RandomHorizontalFlip(), t.Pad(10), t.RandomCrop(sizes.size), t.ToTensor()
    transform = t.Compose([*steps, t.Normalize(image_bank.MEAN, image_bank.STD), t.RandomErasing()])
    worker = lambda: torch.stack([transform(Image.open(file).convert("RGB")) for _ in range(count)])  # noqa: E731
    reference = "torchvision, picture by picture", worker, count
    note = "flip, shifted crop, erasing, normalised"
    return [item("training batches", "img/s", ours, count, reference, sizes.rounds, note)]


def training_step(sizes: Sizes, device: str) -> list[dict]:
    """A step of stage 2 with this library's precision and layout; against fp32, channels first."""
    overrides = {"backbone.architecture": sizes.architecture, "backbone.weights": "none"}
    how, count = recipe("person", "paper", **overrides).backbone, sizes.step_batch
    labels = torch.arange(count, device=device) // 4
    pictures = torch.randn(count, 3, *sizes.size, device=device)

    def step(layout: torch.memory_format, context: Callable, optimise: Callable) -> Callable:
        model = Backbone(how, 751).to(device, memory_format=layout).train()
        optimiser = optimise([p for p in model.parameters() if p.requires_grad])
        batch = pictures.contiguous(memory_format=layout)

        def one() -> None:
            with context():
                pooled = model(batch).float().mean((2, 3))
                logits = model.classifier(model.neck(pooled)).float()
            training.stages.descend(optimiser, losses.recognition(logits, pooled, labels, how)[0])

        return one

    context, optimise = partial(schedules.autocast, device), partial(schedules.make_optimiser, stage=how)
    adam = partial(torch.optim.Adam, lr=how.lr, weight_decay=how.weight_decay)
    reference = "fp32, channels first", step(torch.contiguous_format, contextlib.nullcontext, adam), count
    ours, note = step(torch.channels_last, context, optimise), f"{sizes.architecture}, batch {count}"
    return [item("training step", "img/s", ours, count, reference, sizes.rounds, note)]


def textbook(distances, query_ids, gallery_ids, query_cameras, gallery_cameras) -> float:
    """mAP as usual NumPy evaluators compute it: sort everything, then walk through each query's list."""
    precisions = []
    for order, identity, camera in zip(np.argsort(distances, axis=1), query_ids, query_cameras, strict=True):
        same = gallery_ids[order] == identity
        found = same[~(same & (gallery_cameras[order] == camera))]
        if found.any():
            precisions.append((found.cumsum() / np.arange(1, len(found) + 1))[found].mean())
    return float(np.mean(precisions))


def evaluation(sizes: Sizes, _device: str) -> list[dict]:
    """CMC and mAP of a distance matrix of Market-1501's size; against a textbook NumPy evaluator."""
    rng = np.random.default_rng(0)
    shape, people, few = (sizes.queries, sizes.gallery), max(2, sizes.gallery // 20), min(sizes.textbook, sizes.queries)
    ids, cameras = ([rng.integers(values, size=count) for count in shape] for values in (people, 6))
    distances = rng.random(shape, np.float32)
    distances -= 0.3 * (ids[0][:, None] == ids[1][None])
    some = (distances[:few], ids[0][:few], ids[1], cameras[0][:few], cameras[1])
    plain = f"textbook NumPy, by {few} queries", partial(textbook, *some), few / sizes.queries
    everything = partial(metrics.cmc_map, distances, *ids, *cameras)
    note = f"{shape[0]} x {shape[1]}"
    return [item("CMC and mAP", "s", everything, 1, plain, min(3, sizes.rounds), note)]


def random_features(count: int, sizes: Sizes, views: int = 1, parts: bool = True) -> Features:
    """Features of `count` random pictures in `views` views, with the shapes of ResNet-50's; or embeddings alone."""
    cells, channels = (sizes.size[0] // 16, sizes.size[1] // 16), sizes.channels
    embedding = F.normalize(torch.randn(count, views, sizes.width), dim=-1)
    box, gate = torch.tensor([0.5, 0.5, 0.9, 0.9]).repeat(count, views, 1), torch.ones(count)
    if not parts:
        return Features(embedding, box, gate, *[torch.zeros(count, 0)] * 6, gate)
    points, stripes = torch.randn(count, views, 18, 64), torch.randn(count, views, STRIPES, channels)
    keys, maps = F.normalize(torch.randn(count, 64, *cells), dim=1), torch.randn(count, channels, *cells)
    visible = torch.ones(count, 1, *cells)
    points, gram = F.normalize(points, dim=-1), gram_matrix(maps)
    return Features(embedding, box, gate, points, stripes, keys, maps, visible, gram, gate)


def search(sizes: Sizes, device: str) -> list[dict]:
    """Matching part to part, and a search by the size of the gallery: its part step and its global step."""
    small = {"backbone.architecture": "small", "backbone.weights": "none"}
    model = PPCL(recipe("person", "paper", **small), 2).eval().to(device)
    how, count, few = model.recipe.matching, sizes.matched, min(8, sizes.parts)
    views, length = how.placements * (1 + how.mirror), min(how.shortlist, sizes.parts // 4)
    query, gallery = (random_features(n, sizes, v).to(device) for n, v in ((count, views), (sizes.parts, 1)))
    match = partial(matching.region_distances, model)
    every, pairs = partial(match, query, gallery), count * sizes.parts
    shortlist = partial(match, query, gallery, matching.nearest(query, gallery, length)[1])
    plain = "pair by pair", lambda: [match(query[:1], gallery[j : j + 1]) for j in range(few)], few
    whole, notes = ("the whole gallery part to part", every, count), f"{count} queries, {sizes.channels} channels"
    found = [item(f"part to part, {views} views", "pairs/s", every, pairs, plain, sizes.rounds, notes)]
    notes = f"a query, its {length} nearest of {sizes.parts}"
    found.append(item("part step", "s", shortlist, count, whole, sizes.rounds, notes))
    query, notes = random_features(sizes.searched, sizes, parts=False).to(device), f"a query of {sizes.searched}"
    for count in sizes.galleries:
        step = partial(matching.nearest, query, random_features(count, sizes, parts=False).to(device), how.shortlist)
        found.append(item(f"global step, {count}", "s", step, sizes.searched, None, min(3, sizes.rounds), notes))
    return found


def costs(sizes: Sizes, device: str) -> list[dict]:
    """What rows of the table cost: ms a step of the joint stage, views a partial query, ms to describe and match it.

    A row that uses another row's checkpoint has that one's step. The gallery is described before.
    """
    started = {"glrec.steps": 1, "backbone.steps": 1}
    how, noise = recipe("person", sizes.profile, **started), torch.Generator().manual_seed(0)
    count = 4 * how.joint.identities
    pixels = torch.randint(256, (count + sizes.people, 3, *how.input.size), generator=noise, dtype=torch.uint8)
    bank = image_bank.ImageBank(pixels, torch.zeros(len(pixels))).to(device)
    people, nobody = np.arange(count) // 4, np.zeros(0, int)
    data = TrainingData(bank[:count], people, bank[:0], nobody, torch.device(device))
    query, gallery, seconds, found = bank[: sizes.matched], bank[count:], {}, []
    upper = torch.tensor([[0.5, 0.3, 1, 0.6]]).repeat(len(query), 1)  # given boxes: every query counts as partial

    def search(model: PPCL, gallery: Features) -> Features:
        described = matching.describe(model, query, several=True, boxes=upper)
        matching.match(model, described, gallery, weight=0.5)
        return described

    for more in (0, sizes.steps) * ((sizes.rounds + 1) // 2):  # the fastest turns differ by the steps alone
        with tempfile.TemporaryDirectory() as folder:
            chosen = replace(how, joint=replace(how.joint, steps=1 + more, epochs=1 + more))
            for stage in ("glrec", "backbone"):
                training.STAGES[stage](chosen, data, Path(folder), quiet=True)
            for row in dict.fromkeys(map(trained_by, COSTS)):
                began = time.perf_counter()
                training.train_joint(chosen, data, Path(folder), row, quiet=True)
                took = time.perf_counter() - began
                seconds[row, more] = min(took, seconds.get((row, more), took))
    for row in COSTS:
        model = PPCL(how, int(people[-1]) + 1, row).eval().to(device)
        one = partial(search, model, matching.describe(model, gallery))
        timed = item(row, "ms", one, len(query) / 1000, rounds=sizes.rounds)["value"]
        short, long = (seconds[trained_by(row), more] for more in (0, sizes.steps))
        step, views = 1000 * (long - short) / sizes.steps, one().embedding.shape[1]
        print(f"{row}: {step:,.0f} ms a training step, {views} views and {timed:,.1f} ms a query", flush=True)
        found.append({"row": row, "step": step, "views": views, "query": timed})
    return found


COSTS = ("backbone+crops", "backbone+crops+pad", "dsr", "pad+stripes", "+glrec", "+glrec@7", "+glrec+stripes")
COSTS += ("same-location", "trained-same-location", "ppcl@1", "ppcl")
ITEMS = (training_batches, training_step, evaluation, search)
