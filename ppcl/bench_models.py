"""What `bench` measures of networks and matching: training steps, evaluation, part to part, shortlists."""

import contextlib
import dataclasses
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from . import losses, matching, metrics, training
from .data import image_bank, stage_batches
from .matching.features import STRIPES, Features, gram_matrix
from .models.backbone import Backbone
from .models.crloc import stripes
from .models.ppcl import PPCL
from .recipes import Recipe, recipe
from .timing import Sizes, bandwidth, fact, item, product
from .training import schedules

STAGES = {"glrec": training.train_glrec, "backbone": training.train_backbone, "joint": training.train_joint}
FUSED = 0.7  # the part distance's weight, for want of a trained one


def _flops(call: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


# --- training ---


def training_step(sizes: Sizes, device: str) -> list[dict]:
    """A step of stage 2 as `training` makes it; against fp32, channels first, as torchreid's loop."""
    overrides = {"backbone.architecture": sizes.architecture, "backbone.weights": "none"}
    how, count, kind = recipe("person", "paper", **overrides).backbone, sizes.step_batch, torch.device(device).type
    labels = torch.arange(count, device=device) // 4
    pictures = torch.randn(count, 3, *sizes.size, device=device)

    def step(model: Backbone, optimiser: torch.optim.Optimizer, seen: Tensor, context: Callable) -> None:
        with context():
            features = model(seen)
            pooled = features.float().mean((2, 3))
            logits = model.classifier(model.neck(pooled))
        optimiser.zero_grad(set_to_none=True)
        sum(losses.recognition(logits, pooled, labels, how)[0].values()).backward()
        optimiser.step()

    adam = partial(torch.optim.Adam, lr=how.lr, weight_decay=how.weight_decay)
    mine = partial(schedules.make_optimiser, stage=how, device=device)
    ways = {"ours": (torch.channels_last, partial(schedules.autocast, device), mine)}
    ways["plain"] = torch.contiguous_format, contextlib.nullcontext, adam
    steps = {}
    for name, (layout, context, optimise) in ways.items():
        model = Backbone(how, 751).to(device, memory_format=layout).train()
        optimiser = optimise([p for p in model.parameters() if p.requires_grad])
        steps[name] = partial(step, model, optimiser, pictures.contiguous(memory_format=layout), context)
    with schedules.autocast(device):
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    each = _flops(steps["plain"]) / count
    bound = product(sizes, each, dtype, device)
    precision = "fp32 (convolutions TF32)" if kind == "cuda" and torch.backends.cudnn.allow_tf32 else "fp32"
    plain = (f"{precision}, channels first", steps["plain"], count)
    note = f"{sizes.architecture}, batch {count}, {each / 1e9:.1f} GFLOP a picture"
    return [item("training step", "img/s", steps["ours"], count, plain, bound, sizes.rounds, note)]


def stages(sizes: Sizes, device: str, chosen: Recipe | None = None) -> list[dict]:
    """Pictures a second of each stage, the GPU's idle share, and the whole paper recipe in minutes, extrapolated.

    A run of few steps is taken from one of more, so that what comes before the first step and after the last does not
    count; in turns, of which the median counts, as saving takes now longer, now shorter. On a CPU only for a recipe
    that is given: the paper's takes a minute a step there.
    """
    if device != "cuda" and chosen is None:
        return []
    chosen = chosen or recipe("person", "paper", **{"backbone.weights": "none"})
    few, many = sizes.stage_steps // 4 or 1, (sizes.stage_steps // 4 or 1) + sizes.stage_steps
    each, held = 8, 32  # pictures a person, pictures held out
    people = -(-many * max(getattr(chosen, stage).batch for stage in STAGES) // each)  # one epoch
    pixels = torch.randint(256, (people * each + held, 3, *chosen.input.size), dtype=torch.uint8).to(device)
    bank, ids = image_bank.ImageBank(pixels, torch.zeros(len(pixels), device=device)), np.arange(len(pixels)) // each
    data = stage_batches.TrainingData(bank[held:], ids[:-held], bank[:held], ids[:held], torch.device(device))

    def timed(steps: int, measure: Callable) -> dict[str, float]:
        parts = {stage: dataclasses.replace(getattr(chosen, stage), steps=steps) for stage in STAGES}
        some = dataclasses.replace(chosen, **parts)
        with tempfile.TemporaryDirectory() as run:
            return {stage: measure(partial(train, some, data, run, quiet=True)) for stage, train in STAGES.items()}

    timed(few, _seconds)  # warms up
    turns = [(timed(few, _seconds), timed(many, _seconds)) for _ in range(min(3, sizes.rounds))]
    kernels = [timed(steps, _kernel_seconds) for steps in (few, many)] if device == "cuda" else []
    found, minutes = [], 0.0
    for stage in STAGES:
        how = getattr(chosen, stage)
        seconds = sorted(max(1e-9, (long[stage] - short[stage]) / (many - few)) for short, long in turns)
        step, spread = statistics.median(seconds), [how.batch / seconds[-1], how.batch / seconds[0]]
        found.append(fact(f"stage {stage}", how.batch / step, "img/s", spread=spread, note=f"batch {how.batch}"))
        if kernels:
            busy = (kernels[1][stage] - kernels[0][stage]) / (many - few)
            idle = max(0.0, 1 - busy / step)
            found.append(fact(f"stage {stage}, GPU idle", 100 * idle, "%", note="of the time of a step"))
        minutes += how.epochs * max(1, sizes.bank // how.batch) * step / 60
    note = f"EXTRAPOLATED from {many - few} steps a stage on random pictures to {sizes.bank} pictures, all epochs"
    return [*found, fact("the whole recipe", minutes, "min", note=note)]


def _seconds(call: Callable) -> float:
    began = time.perf_counter()
    call()  # it ends by saving, which waits for the device
    return time.perf_counter() - began


def _kernel_seconds(call: Callable) -> float:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6


# --- evaluation ---


def textbook(distances, query_ids, gallery_ids, query_cameras, gallery_cameras) -> float:
    """mAP as the field's NumPy evaluators find it: sort everything, then walk through each query's list."""
    order = np.argsort(distances, axis=1)
    matches = gallery_ids[order] == query_ids[:, None]
    precisions = []
    for i in range(len(query_ids)):
        keep = ~((gallery_ids[order[i]] == query_ids[i]) & (gallery_cameras[order[i]] == query_cameras[i]))
        found = matches[i][keep].astype(np.int32)
        if found.any():
            cumulative = found.cumsum() / (np.arange(len(found)) + 1.0)
            precisions.append((cumulative * found).sum() / found.sum())
    return float(np.mean(precisions))


def evaluation(sizes: Sizes, _device: str) -> list[dict]:
    """CMC and mAP of a Market-1501-sized matrix, and what they need beside it."""
    rng = np.random.default_rng(0)
    people = max(2, sizes.gallery // 20)
    ids = [rng.integers(people, size=count) for count in (sizes.queries, sizes.gallery)]
    cameras = [rng.integers(6, size=count) for count in (sizes.queries, sizes.gallery)]
    distances = rng.random((sizes.queries, sizes.gallery), np.float32)
    distances -= 0.3 * (ids[0][:, None] == ids[1][None])
    everything = partial(metrics.cmc_map, distances, *ids, *cameras)
    few = min(sizes.textbook, sizes.queries)
    some = partial(textbook, distances[:few], ids[0][:few], ids[1], cameras[0][:few], cameras[1])
    ours = metrics.cmc_map(distances[:few], ids[0][:few], ids[1], cameras[0][:few], cameras[1]).mAP
    plain = (f"textbook NumPy, by {few} queries", some, few / sizes.queries)
    bound = bandwidth(sizes, distances.nbytes)  # the matrix is read once
    note = f"{sizes.queries} x {sizes.gallery}; mAP differs from the textbook's by {abs(ours - some()):.1e}"
    found = item("CMC and mAP", "s", everything, 1, plain, bound, min(3, sizes.rounds), note)
    tracemalloc.start()
    everything()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    share = f"{100 * peak / distances.nbytes:.0f} % of the matrix"
    return [found, fact("CMC and mAP, extra memory", peak / 2**20, "MiB", note=share)]


# --- matching ---


def drawn_features(count: int, people: int, sizes: Sizes, seed: int, parts: bool = True, several: int = 1) -> Features:
    """Features as described pictures have them, of people who resemble themselves; without parts only embeddings.

    `several`: views, as queries have them.
    """
    draw = torch.Generator().manual_seed(seed)
    cells, who = (sizes.size[0] // 16, sizes.size[1] // 16), torch.arange(count) % people

    def of(people_draw: torch.Generator, spread: float, views: int, *shape: int) -> Tensor:
        centre = torch.randn(people, 1, *shape, generator=people_draw)
        return torch.randn(count, views, *shape, generator=draw).mul_(spread).add_(centre[who])

    same = torch.Generator().manual_seed(0)  # the same people in queries and gallery
    embedding = F.normalize(of(same, 2.0, several, sizes.width), dim=-1)
    box, gate = torch.tensor([0.5, 0.5, 0.9, 0.9]).repeat(count, several, 1), torch.ones(count)
    if not parts:
        nothing = torch.zeros(count, 0)
        return Features(embedding, box, gate, *[nothing] * 6)
    points = F.normalize(of(same, 1.0, several, 18, 64), dim=-1)
    keys, maps = F.normalize(of(same, 1.0, 1, 64, *cells)[:, 0], dim=1), of(same, 1.0, 1, sizes.channels, *cells)[:, 0]
    read = stripes(maps, box[:, 0], (6, 3), STRIPES)[:, None].repeat(1, several, 1, 1)  # all views have one box
    visible = torch.ones(count, 1, *cells)
    return Features(embedding, box, gate, points, read, keys, maps, visible, gram_matrix(maps))


def _matcher() -> PPCL:
    small = {"backbone.architecture": "small", "backbone.weights": "none"}
    model = PPCL(recipe("person", "paper", **small), 2).eval()
    model.fusion_weights = {"ppcl": FUSED}
    return model


def part_matching(sizes: Sizes, device: str) -> list[dict]:
    """Pairs matched part to part; against one pair after the other, and the product of the operations it counts."""
    model = _matcher().to(device)
    there = drawn_features(sizes.parts, 64, sizes, 2).to(device)
    few, found = min(8, sizes.parts), []
    for count, several in ((sizes.asked, 1), (max(1, sizes.asked // 8), _views(model))):
        asked = drawn_features(count, 64, sizes, 1, several=several).to(device)
        pairs, name = count * sizes.parts, "part to part" + f", {several} views" * (several > 1)
        full = partial(matching.region_distances, model, asked, there)

        def one_by_one(asked: Features = asked) -> None:
            for j in range(few):
                matching.region_distances(model, asked[:1], there[j : j + 1])

        each = _flops(full) / pairs
        plain = "pair by pair", one_by_one, few
        note = f"{count} queries, views of each {several}, {sizes.channels} channels, {each / 1e6:.2f} MFLOP a pair"
        bound = product(sizes, each, torch.float32, device)
        found.append(item(name, "pairs/s", full, pairs, plain, bound, sizes.rounds, note))
    return found


def _views(model: PPCL) -> int:
    """In how many views a query is matched, by the recipe."""
    return model.recipe.matching.placements * (1 + model.recipe.matching.mirror)


def searches(sizes: Sizes, device: str) -> list[dict]:
    """The global step as galleries grow; of the middle one with embeddings as long as ResNet-50's, and the product."""
    length, middle, found = recipe("person", "paper").matching.shortlist, sizes.galleries[len(sizes.galleries) // 2], []
    for count, width in [*((count, sizes.width) for count in sizes.galleries), (middle, sizes.channels)]:
        drawn = partial(drawn_features, sizes=dataclasses.replace(sizes, width=width), parts=False)
        asked = drawn(sizes.searched, 64, seed=1).to(device)
        there = drawn(count, max(64, count // 20), seed=2).to(device)
        of = f" of {width} numbers" * (width != sizes.width)
        steps = {f"global step{of}, {count}": partial(matching.nearest, asked, there, length)}
        if count == middle:
            steps[f"global distances alone{of}, {count}"] = partial(matching.global_distances, asked, there)
        for name, step in steps.items():
            bound = product(sizes, 2 * count * width, torch.float32, device)
            note = f"a query of {sizes.searched}"
            found.append(item(name, "s", step, sizes.searched, None, bound, min(3, sizes.rounds), note))
    return found


def shortlists(sizes: Sizes, device: str) -> list[dict]:
    """The part step of a search, what must be kept of a gallery, and what the shortlist loses."""
    model = _matcher().to(device)
    length, several = min(model.recipe.matching.shortlist, sizes.parts // 4), _views(model)
    asked = drawn_features(max(1, sizes.asked // 4), 64, sizes, 1, several=several).to(device)
    some = drawn_features(sizes.parts, 64, sizes, 2).to(device)
    a_picture = sum(getattr(some, field.name).nbytes for field in dataclasses.fields(some)) / len(some) / 2**30
    note = "to be kept, on a disk if large"
    found = [fact(f"features, {count}", count * a_picture, "GiB", note=note) for count in sizes.galleries]
    _, index = matching.nearest(asked, some, length)
    parts = partial(matching.region_distances, model, asked, some, index)
    whole = ("the whole gallery by parts", partial(matching.region_distances, model, asked, some), len(asked))
    note = f"a query in {several} views, its {length} nearest of {len(some)}"
    found.append(item("part step", "s", parts, len(asked), whole, rounds=sizes.rounds, note=note))
    full = matching.match(model, asked, some, 0, FUSED).topk(10, largest=False).indices
    kept = (full[..., None] == index[:, None]).any(-1).float().mean().item()
    note = f"of the ten nearest in the full matrix of {len(some)}, in the {length} of the shortlist"
    return [*found, fact("shortlist, recall", 100 * kept, "%", note=note)]


ITEMS = (training_step, stages, evaluation, part_matching, searches, shortlists)
