"""Learning rates over epochs and steps, optimisers, and the networks' precision."""

import math

import torch

from ..recipes import BackboneStage, GLRecStage, JointStage, Recipe


def glrec_lr(recipe: Recipe, epoch: int) -> float:
    """Supplement §2.1: constant, then linear to the final rate in the last epoch."""
    stage = recipe.glrec
    past = max(0, epoch + 1 - stage.constant_epochs) / max(1, stage.epochs - stage.constant_epochs)
    return stage.lr + (stage.final_lr - stage.lr) * past


def backbone_lr(recipe: Recipe, epoch: int) -> float:
    """Supplement §2.1: x0.1 every 40 epochs; or a half cosine. A linear warm-up may come first."""
    return _decaying(recipe.backbone, epoch, 1, recipe.backbone.epochs)


def joint_lr(recipe: Recipe, step: int, per_epoch: int, total: int) -> float:
    """Faces: x0.1 every 5 epochs (§2.2); people: a half cosine (not published). A warm-up may come first."""
    return _decaying(recipe.joint, step, per_epoch, total, recipe.joint.final_lr_fraction)


def _decaying(stage: BackboneStage | JointStage, step: int, per_epoch: int, total: int, low: float = 0.0) -> float:
    """Rate of one of `total` steps; `low`: where the half cosine ends, as a share of the first rate."""
    warm = min(1.0, (step + 1) / (stage.warmup_epochs * per_epoch + 1))
    if stage.decay_epochs:
        return stage.lr * warm * stage.decay ** (step // per_epoch // stage.decay_epochs)
    return stage.lr * warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * step / total)))


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give each parameter group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("share", 1.0)


def autocast(device: torch.device | str):
    """bf16 for the networks, on CUDA and on CPUs with bf16 instructions; losses and geometry stay in fp32."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" or torch.cpu._is_avx512_bf16_supported())


def make_optimiser(parameters, stage: GLRecStage | BackboneStage | JointStage) -> torch.optim.Optimizer:
    """The stage's optimiser, SGD (always for GLRec, §2.1) or Adam; fused, so that a step is one operation."""
    how = {"lr": stage.lr, "weight_decay": stage.weight_decay, "fused": True}
    if getattr(stage, "optimiser", "sgd") == "sgd":
        return torch.optim.SGD(parameters, momentum=stage.momentum, **how)
    return torch.optim.Adam(parameters, **how)
