"""The three stages: one visible loop each, resumable after an epoch, and after any step if a signal stops it.

`train_glrec`, `train_backbone` and `train_joint` each take the recipe, the training pictures and the run folder and
return the path of a finished checkpoint; a finished one is returned at once, a half-finished one goes on. The joint
stage ends by choosing the fusion weight on training identities that were held out of all three. Under torchrun the
same loops run in every process, each on its share of a batch (processes.py).
"""

import math
from itertools import islice
from pathlib import Path

import torch

from .. import geometry, losses
from ..data import image_bank, stage_batches
from ..data.partial_views import make_rng
from ..data.stage_batches import TrainingData, backbone_batch, glrec_batch, heldout_queries, joint_batch, training_data
from ..disk import checkpoints, processes, progress
from ..disk.processes import gather, share
from ..disk.run_lock import guarded
from ..models.glrec import GLRec, cap_gradient
from ..models.ppcl import PPCL
from ..recipes import Recipe, trained_by
from . import stage_on_disk
from .fusion_weight import choose_fusion
from .schedules import autocast, backbone_lr, glrec_lr, joint_lr, make_optimiser, set_lr
from .stage_on_disk import Stage

__all__ = ["heldout_queries", "train_backbone", "train_glrec", "train_joint", "training_data"]
LOG_EVERY = 10  # steps


# --- stage 1 ---


@guarded
def train_glrec(recipe: Recipe, data: TrainingData, run: Path | str, seed: int = 0, quiet: bool | None = None) -> Path:
    """Stage 1 (supplement §2.1): self-supervised pre-training of GLRec. -> its checkpoint."""
    how = recipe.glrec
    path = stage_on_disk.of_stage(run, recipe.task, "glrec")
    stage = Stage(path, recipe, ("glrec",), "GLRec", stage="glrec", task=recipe.task, seed=seed, pictures=data.pictures)
    if stage.finished:
        return path
    device = data.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GLRec(recipe.input.size, how)
    model = processes.one_model(model.to(device).train())
    optimiser = torch.optim.SGD(
        model.parameters(), how.lr, how.momentum, weight_decay=how.weight_decay, fused=device.type == "cuda"
    )
    stage.resume(model, optimiser)
    average = processes.averaging(optimiser)

    per_epoch = max(1, len(data.train) // how.batch)
    total = min(how.steps or math.inf, how.epochs * per_epoch)
    step = stage.begin(per_epoch, total)
    shown = progress.bar(None, stage.label, total, quiet, step, "steps")
    for epoch in range(stage.epoch, -(-total // per_epoch)):
        set_lr(optimiser, glrec_lr(recipe, epoch))
        order = make_rng(seed, "glrec", epoch)
        all_of_it = stage_batches.shuffled_batches(len(data.train), how.batch, order)
        for index in islice(all_of_it, step - epoch * per_epoch, None):  # those that are still to do
            if step >= total:
                break
            draw = make_rng(seed, "glrec", epoch, step, device=device)
            pictures, ratios, box, partial = map(share, glrec_batch(data.train, index, recipe, draw))
            with autocast(device):
                predicted, gate = model(pictures, ratios)
            box_loss, gate_loss = losses.placement(predicted, gate, box, partial, how)
            optimiser.zero_grad(set_to_none=True)
            loss = box_loss + gate_loss
            loss.backward()
            average()
            optimiser.step()
            stage.watch(epoch, step, loss, data, index)
            if step % LOG_EVERY == 0:
                right = ((gate > 0) == partial).float().mean()
                predicted, box, partial = map(gather, (predicted.detach(), box, partial))
                overlap = geometry.iou(predicted, box)[partial].mean() if partial.any() else box_loss * 0
                terms = {"box": box_loss, "gate": gate_loss, "iou": overlap, "gate_accuracy": right}
                stage.log(epoch=epoch, step=step, lr=glrec_lr(recipe, epoch), **terms)
            step += 1
            shown.update()
            stage.stop_if_asked(model, optimiser, epoch, step, LOG_EVERY)
        stage.save(model, optimiser, epoch + 1, False)
    stage.save(model, None, how.epochs, True)
    shown.close()
    return path


# --- stage 2 ---


@guarded
def train_backbone(
    recipe: Recipe, data: TrainingData, run: Path | str, seed: int = 0, quiet: bool | None = None
) -> Path:
    """Stage 2 (supplement §2.1): the backbone on whole pictures, identity and triplet loss. -> its checkpoint."""
    how = recipe.backbone
    path = stage_on_disk.of_stage(run, recipe.task, "backbone")
    facts = {"stage": "backbone", "task": recipe.task, "seed": seed, "classes": data.classes, "pictures": data.pictures}
    stage = Stage(path, recipe, ("backbone",), "backbone", **facts)
    if stage.finished:
        return path
    device = data.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PPCL(recipe, data.classes, "backbone", pretrained=not stage.epoch).backbone
    model = processes.one_model(model.to(device, memory_format=torch.channels_last).train())
    optimiser = make_optimiser([p for p in model.parameters() if p.requires_grad], how, device)
    stage.resume(model, optimiser)
    average = processes.averaging(optimiser)

    labels = torch.from_numpy(data.labels).to(device)
    per_epoch = max(1, len(data.train) // how.batch)
    total = min(how.steps or math.inf, how.epochs * per_epoch)
    step = stage.begin(per_epoch, total)
    shown = progress.bar(None, stage.label, total, quiet, step, "steps")
    each, seen = how.batch // how.identities, None
    for epoch in range(stage.epoch, -(-total // per_epoch)):
        set_lr(optimiser, backbone_lr(recipe, epoch))
        order = make_rng(seed, "backbone", epoch)
        all_of_it = stage_batches.identity_batches(data.labels, how.identities, each, order)
        for index in islice(all_of_it, step - epoch * per_epoch, None):  # those that are still to do
            if step >= total:
                break
            draw = make_rng(seed, "backbone", epoch, step, device=device)
            seen = backbone_batch(data.train, index, recipe, draw, seen)  # no step needs those of the last one
            pictures, index = share(seen), share(image_bank.on(device, index))
            with autocast(device):
                features = model(pictures.contiguous(memory_format=torch.channels_last))
                pooled = features.float().mean((2, 3))
                embedding = model.neck(pooled)
                identity, logits = losses.identity(model.classifier, embedding, labels[index], how.label_smoothing)
            triplet = losses.batch_hard(pooled, labels[index], how)
            optimiser.zero_grad(set_to_none=True)
            loss = identity + how.triplet_weight * triplet
            loss.backward()
            average()
            optimiser.step()
            stage.watch(epoch, step, loss, data, index)
            if step % LOG_EVERY == 0:
                right = (logits.argmax(1) == labels[index]).float().mean()
                terms = {"identity": identity, "triplet": triplet, "accuracy": right}
                stage.log(epoch=epoch, step=step, lr=backbone_lr(recipe, epoch), **terms)
            step += 1
            shown.update()
            stage.stop_if_asked(model, optimiser, epoch, step, LOG_EVERY)
        stage.save(model, optimiser, epoch + 1, False)
    stage.save(model, None, how.epochs, True)
    shown.close()
    return path


# --- stage 3 ---


@guarded
def train_joint(
    recipe: Recipe, data: TrainingData, run: Path | str, row: str = "ppcl", seed: int = 0, quiet: bool | None = None
) -> Path:
    """Stage 3 (supplement §2.1) for one row of the table, from the checkpoints of stages 1 and 2. -> its checkpoint.

    Every row takes the same steps on batches of the same pictures; only views and losses differ (METHOD.md, Fair rows).
    """
    how, row = recipe.joint, trained_by(row)
    base = Path(run) / recipe.task
    path = base / "joint" / row / f"seed{seed}" / "checkpoint.safetensors"
    parts = ("glrec", "backbone", "joint", "matching")
    known = {"classes": data.classes, "pictures": data.pictures}
    stage = Stage(path, recipe, parts, row, stage="joint", task=recipe.task, method=row, seed=seed, **known)
    if stage.finished:
        return path
    device = data.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PPCL(recipe, data.classes, row)
    same = "give this stage the same --set as that one"
    for part, net, facts in (("glrec", model.glrec, {"pictures": data.pictures}), ("backbone", model.backbone, known)):
        begun = base / part / "checkpoint.safetensors"
        found = checkpoints.header(begun)
        stage_on_disk.compare(begun, found, stage.recipe, (part,), same, stage=part, **facts)
        if not found["finished"]:
            raise checkpoints.CheckpointError(f"{base / part} is not finished: run its stage again first")
        checkpoints.load(begun, net)
    model = processes.one_model(model.to(device, memory_format=torch.channels_last).train())
    model.glrec.eval()  # its statistics are those of pre-training, where half the pictures are whole
    method = model.method
    placed = method.layout == "glrec"
    body, neck, classifier = model.backbone.body, model.backbone.neck, model.backbone.classifier
    groups = [{"params": [*body.parameters(), neck.weight, *classifier.parameters()]}]
    if placed:
        groups.append({"params": [*model.glrec.parameters()], "share": how.glrec_lr_fraction})
    if method.region == "trained":
        groups.append({"params": [*model.crloc.parameters()], "share": how.crloc_lr_fraction})
    optimiser = make_optimiser(groups, how, device)
    stage.resume(model, optimiser)
    average = processes.averaging(optimiser)

    labels = torch.from_numpy(data.labels).to(device)
    per_epoch = max(1, len(data.train) // how.batch)
    total = min(how.steps or math.inf, how.epochs * per_epoch)
    step = stage.begin(per_epoch, total)
    shown = progress.bar(None, f"joint {stage.label}", total, quiet, step, "steps")
    for epoch in range(stage.epoch, -(-total // per_epoch)):
        order = make_rng(seed, "joint", epoch)
        all_of_it = stage_batches.identity_batches(data.labels, how.identities, 4, order)
        for index in islice(all_of_it, step - epoch * per_epoch, None):  # those that are still to do
            if step >= total:
                break
            lr = joint_lr(recipe, step, per_epoch, total)
            set_lr(optimiser, lr)
            draw = make_rng(seed, "joint", epoch, step, device=device)
            batch = joint_batch(data, labels, index, recipe, method.views, draw)
            batch = stage_batches.JointBatch(*(share(values, 4) for values in vars(batch).values()))
            with autocast(device):
                box, gate = model.predict(batch.pictures, batch.ratios)
                if placed:  # wide views of whole pictures stay as they are, and no outside gradient reaches the gate
                    gate = torch.where(batch.partial, gate.detach(), torch.full_like(gate, -1.0))
                layout = model.layout(batch.pictures, batch.ratios, (cap_gradient(box, how.gradient_cap), gate))
                features, visible, pooled = model.features(layout)
                embedding, smoothing = model.backbone.neck(pooled), recipe.backbone.label_smoothing
                identity, _ = losses.identity(model.backbone.classifier, embedding, batch.labels, smoothing)
            terms = {"identity": identity}
            terms["triplet"] = recipe.backbone.triplet_weight * losses.batch_hard(pooled, batch.labels, recipe.backbone)
            seen = {}
            if method.region == "trained":
                found = losses.region_losses(model, batch, layout.box.detach(), features.float(), visible, pooled, draw)
                if method.cycle:
                    terms["cycle"] = how.cycle_weight * found["cycle"]
                if method.geometry:
                    terms["geometry"] = how.geometry_weight * found["geometry"]
                seen["crloc_iou"] = found["iou"]
                if "region" in found:
                    terms["region"] = how.region_weight * found["region"]
            if placed:
                own = torch.randint(len(data.train), (how.glrec_batch,), generator=draw, device=device)
                pictures, ratios, target, partial = map(share, glrec_batch(data.train, own, recipe, draw))
                with autocast(device):
                    predicted, own_gate = model.glrec(pictures, ratios)
                terms["box"], terms["gate"] = losses.placement(predicted, own_gate, target, partial, recipe.glrec)
                seen["gate_accuracy"] = ((own_gate > 0) == partial).float().mean()
            optimiser.zero_grad(set_to_none=True)
            loss = sum(terms.values())
            loss.backward()
            average()
            optimiser.step()
            stage.watch(epoch, step, loss, data, index)
            if step % LOG_EVERY == 0:
                stage.log(epoch=epoch, step=step, lr=lr, **terms, **seen)
            step += 1
            shown.update()
            stage.stop_if_asked(model, optimiser, epoch, step, LOG_EVERY)
        stage.save(model, optimiser, epoch + 1, False)
    shown.close()
    weights, scores = choose_fusion(model.eval(), data) if processes.first() else ({}, {})
    stage.save(model, None, how.epochs, True, fusion_weights=weights, heldout=scores)
    return path
