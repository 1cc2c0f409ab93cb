"""The three training stages, one loop each.

`train_glrec`, `train_backbone` and `train_joint` take the recipe, the training pictures and the run folder, and return
the path of the finished checkpoint. A finished stage is not trained again. An interrupted one resumes at its last step
after a signal, at its last save after a crash. After the joint stage the fusion weight is chosen on training identities
that are held out of all three stages. Under torchrun every process runs the same loop: it computes the networks on its
share of a batch, and the losses on the whole batch (processes.py).

All raise CheckpointError if the folder holds a stage of another recipe or of other pictures, BusyError if another
process trains it, FloatingPointError if a loss is not finite.
"""

import copy
import resource
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import jobs, losses
from ..data.image_bank import on
from ..data.stage_batches import (
    TrainingData,
    backbone_batch,
    glrec_batch,
    identity_batches,
    joint_batch,
    shuffled_batches,
    training_data,
)
from ..disk import checkpoints, progress
from ..disk.files import given_path
from ..models.glrec import GLRec, cap_gradient
from ..models.ppcl import PPCL
from ..recipes import METHODS, Recipe, RecipeError, check_processes, rows, trained_by
from . import processes
from .fusion_weight import choose_fusion
from .processes import gather, share
from .schedules import autocast, backbone_lr, glrec_lr, joint_lr, make_optimiser, set_lr
from .stage_on_disk import Stage, compare, opened, stage_path


def train_glrec(recipe: Recipe, data: TrainingData, run: Path | str, seed: int = 0, quiet: bool | None = None) -> Path:
    """Stage 1 (supplement §2.1): self-supervised pre-training of GLRec. -> its checkpoint."""
    how, device = recipe.glrec, data.device
    with opened(run, recipe, data, "glrec", seed) as stage:
        if stage.finished:
            return stage.path
        check_processes(recipe, "glrec", processes.size(), len(data.train))
        model = processes.one_model(seeded(seed, lambda: GLRec(recipe.input.size, how)).to(device).train())
        optimiser = make_optimiser(model.parameters(), how)
        stage.resume(model, optimiser)

        for step, index, rng in stage.steps(lambda rng: shuffled_batches(len(data.train), how.batch, rng), quiet):
            set_lr(optimiser, glrec_lr(recipe, step // stage.per_epoch))
            pictures, ratios, box, partial = glrec_batch(data.train, index, recipe, rng)
            with autocast(device):
                predicted = model(share(pictures), share(ratios))
            terms, measures = losses.placement(*map(gather, predicted), box, partial, how)
            descend(optimiser, terms)
            stage.record(terms, measures)
        stage.finish()
        return stage.path


def train_backbone(
    recipe: Recipe, data: TrainingData, run: Path | str, seed: int = 0, quiet: bool | None = None
) -> Path:
    """Stage 2 (supplement §2.1): the backbone on whole pictures, identity and triplet loss. -> its checkpoint."""
    how, device = recipe.backbone, data.device
    with opened(run, recipe, data, "backbone", seed) as stage:
        if stage.finished:
            return stage.path
        model = seeded(seed, lambda: PPCL(recipe, data.classes, "backbone", pretrained=not stage.begun).backbone)
        model = processes.one_model(model.to(device, memory_format=torch.channels_last).train())
        optimiser = make_optimiser([p for p in model.parameters() if p.requires_grad], how)
        stage.resume(model, optimiser)

        labels, k = torch.from_numpy(data.labels).to(device), how.batch // how.identities  # k pictures of each identity
        for step, index, rng in stage.steps(lambda rng: identity_batches(data.labels, how.identities, k, rng), quiet):
            set_lr(optimiser, backbone_lr(recipe, step // stage.per_epoch))
            views = backbone_batch(data.train, index, recipe, rng)
            with autocast(device):
                pooled = model(share(views).contiguous(memory_format=torch.channels_last)).float().mean((2, 3))
                logits = model.classifier(model.neck(pooled)).float()
            terms, measures = losses.recognition(gather(logits), gather(pooled), labels[on(device, index)], how)
            descend(optimiser, terms)
            stage.record(terms, measures)
        stage.finish()
        return stage.path


def train_joint(
    recipe: Recipe, data: TrainingData, run: Path | str, row: str = "ppcl", seed: int = 0, quiet: bool | None = None
) -> Path:
    """Stage 3 (supplement §2.1) for one row of the table, from the checkpoints of stages 1 and 2. -> its checkpoint.

    All rows take the same number of steps on batches of the same pictures (METHOD.md §4, Fair rows). Raises RecipeError
    for a row of stage 2, and ValueError for a row with true regions on pictures that are not drawn.
    """
    how, device, asked, row = recipe.joint, data.device, row, trained_by(row)
    if METHODS[row].stage != "joint":
        raise RecipeError(f"row {row!r} is stage 2 by itself: train stage backbone, then evaluate --method {row}")
    if METHODS[asked].region == "true" and data.figures is None:
        raise ValueError(f"row {asked} needs the true positions of people: train it on drawn pictures")
    with opened(run, recipe, data, "joint", seed, row) as stage:
        if stage.finished:
            _add_weight(stage, PPCL(recipe, data.classes, row).to(device).eval(), data, asked)
            return stage.path
        model = seeded(seed, lambda: PPCL(recipe, data.classes, row))
        _load_start(model, given_path(run), data)
        model = processes.one_model(model.to(device, memory_format=torch.channels_last).train())
        model.glrec.eval()  # its statistics are those of pre-training, where half the pictures are whole
        method, backbone = model.method, model.backbone
        placed, padded = method.layout == "glrec", method.layout == "pad-queries"
        groups = [{"params": [*backbone.body.parameters(), backbone.neck.weight, *backbone.classifier.parameters()]}]
        if placed:
            groups.append({"params": [*model.glrec.parameters()], "share": how.glrec_lr_fraction})
        if method.region == "trained":
            groups.append({"params": [*model.crloc.parameters()], "share": how.crloc_lr_fraction})
        optimiser = make_optimiser(groups, how)
        stage.resume(model, optimiser)

        labels = torch.from_numpy(data.labels).to(device)
        for step, index, rng in stage.steps(lambda rng: identity_batches(data.labels, how.identities, 4, rng), quiet):
            set_lr(optimiser, joint_lr(recipe, step, stage.per_epoch, stage.total))
            batch = joint_batch(data, labels, index, recipe, method, rng)
            pictures, ratios, partial = (share(each, 4) for each in (batch.pictures, batch.ratios, batch.partial))
            with autocast(device):
                box, gate = model.predict(pictures, ratios)
                if placed or padded:  # only partial views are placed, and the gate gets no gradient from other losses
                    gate = torch.where(partial, gate.detach(), torch.full_like(gate, -1.0))
                layout = model.layout(pictures, ratios, (cap_gradient(box, how.gradient_cap), gate))
                features, visible, pooled = model.features(layout)
                logits = backbone.classifier(backbone.neck(pooled)).float()
            outputs = (layout.box.detach(), features.float(), visible, pooled, logits)
            terms, measures = losses.joint_losses(model, batch, *(gather(each, 4) for each in outputs), rng)
            if placed:
                others = torch.randint(len(data.train), (how.glrec_batch,), generator=rng, device=device)
                pictures, ratios, target, partial = glrec_batch(data.train, others, recipe, rng)
                with autocast(device):
                    predicted = model.glrec(share(pictures), share(ratios))
                own_terms, own_measures = losses.placement(*map(gather, predicted), target, partial, recipe.glrec)
                terms, measures = terms | own_terms, measures | own_measures
            descend(optimiser, terms)
            stage.record(terms, measures)
        if how.start_share:
            _average(backbone, stage_path(run, recipe.task, "backbone"), how.start_share)
        weights, scores = choose_fusion(model.eval(), data, asked) if processes.is_main() else ({}, {})
        stage.finish(fusion_weights=weights, heldout=scores)
        return stage.path


def _add_weight(stage: Stage, model: PPCL, data: TrainingData, row: str) -> None:
    """Add the fusion weight of a row of CONTROLS to the finished checkpoint that it shares with another row."""
    found = checkpoints.header(stage.path)
    if row not in found["fusion_weights"] and processes.is_main():
        checkpoints.load(stage.path, model)
        stage.model, (weights, scores) = model, choose_fusion(model, data, row)
        stage.finish(fusion_weights=found["fusion_weights"] | weights, heldout=found["heldout"] | scores)


STAGES = {"glrec": train_glrec, "backbone": train_backbone, "joint": train_joint}
_training_data = lru_cache(maxsize=1)(training_data)


def train_stage(recipe: Recipe, data: Path, device: str, stage: str, run: Path, *more) -> tuple[float, int]:
    """Train one stage, as a job that reads the training pictures itself. -> its seconds, its peak memory in MiB.

    `more`: the arguments of the stage after `run`: for the joint stage the row, then the seed.
    """
    began = time.time()
    STAGES[stage](recipe, _training_data(recipe, data, device), run, *more)
    return round(time.time() - began, 1), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def stage_jobs(
    recipe: Recipe, data: Path, run: Path, seed: int, device: str, stages: Iterable[str] = STAGES
) -> dict[str, jobs.Job]:
    """Jobs of the unfinished stages, named by their folders; the joint stage has one job for each row and seed.

    GLRec and backbone are independent; the joint stage waits for both.
    """
    wanted = [(stage, seed) for stage in ("glrec", "backbone") if stage in stages]
    seeds = range(seed, seed + recipe.ablation.seeds)
    own = [row for row in rows(recipe) if "joint" in stages and not METHODS[row].checkpoint]
    wanted += [("joint", row, number) for row in own for number in seeds]
    todo, first = {}, ()
    for stage, *more in wanted:
        path = stage_path(run, recipe.task, stage, *more[:-1], seed=more[-1])
        if not (path.is_file() and checkpoints.header(path).get("finished")):
            name = path.parent.relative_to(run).as_posix()
            todo[name] = jobs.Job(train_stage, (recipe, data, device, stage, run, *more), first * (stage == "joint"))
            first = tuple(todo) if stage != "joint" else first
    return todo


def train_rows(
    recipe: Recipe, pictures: TrainingData, data: Path | str, run: Path | str, seed: int = 0
) -> dict[tuple[str, int], Path]:
    """Train all rows and seeds of the joint stage, in parallel if several jobs may run. -> (row, seed): checkpoint."""
    device = pictures.device.type
    if (count := jobs.default(device)) > 1:
        jobs.run(stage_jobs(recipe, given_path(data), given_path(run), seed, device, ["joint"]), count)
    both = [(row, number) for row in rows(recipe) for number in range(seed, seed + recipe.ablation.seeds)]
    return {one: train_joint(recipe, pictures, run, *one) for one in progress.bar(both, "rows", unit="rows")}


def _load_start(model: PPCL, run: Path, data: TrainingData) -> None:
    """Load the finished checkpoints of stages 1 and 2; CheckpointError if they are not of this recipe and data."""
    recipe = model.recipe
    for name, net in (("glrec", model.glrec), ("backbone", model.backbone)):
        path = stage_path(run, recipe.task, name)
        found, facts = checkpoints.header(path), {"pictures": data.pictures}
        if name == "backbone":
            facts["classes"] = data.classes
        remedy = "give this stage the same --set as that one"
        compare(path, found, recipe.to_dict(), (name,), remedy, data.name, stage=name, **facts)
        if not found["finished"]:
            raise checkpoints.CheckpointError(f"{path.parent} is not finished: run its stage again first")
        checkpoints.load(path, net)


@torch.no_grad()
def _average(backbone: nn.Module, start: Path, share: float) -> None:
    """Mix the weights of the backbone that the joint stage started from into the trained one (METHOD.md §4)."""
    before = copy.deepcopy(backbone)
    checkpoints.load(start, before)
    for name, value in before.state_dict().items():
        if value.is_floating_point():
            backbone.state_dict()[name].lerp_(value, share)


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network with the initial weights of a seed, the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def descend(optimiser: torch.optim.Optimizer, terms: dict[str, Tensor]) -> None:
    """Take one optimiser step on the sum of the weighted terms."""
    optimiser.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    processes.average_gradients(optimiser)
    optimiser.step()
