"""Several processes train one model (`torchrun … -m ppcl train STAGE …`), on one machine or on several.

Every process draws the whole batch from the same (seed, stage, epoch, step) and works on its `share` of the
identities, so that the number of processes changes neither the pictures nor the loss. Each has a loss of its own, and
what is trained on is their mean: either the mean over its own samples, or a loss of values that were gathered from
all, which is then the same everywhere. Gradients go back through `gather` to the process that a value came from, and
are averaged over the processes at the parameters. A process alone passes through all of this untouched.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..recipes.methods import RecipeError
from .progress import HEADLESS

PATIENCE = timedelta(hours=1)  # the others wait while the first chooses the fusion weight and writes
BUCKET = 1 << 22  # gradients that are sent together, numbers


def size() -> int:
    """How many processes train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0 on."""
    return dist.get_rank() if size() > 1 else 0


def first() -> bool:
    """Whether this is the process that writes; the others only train."""
    return rank() == 0


def start(where: str) -> None:
    """Join the processes that torchrun started, each with its own GPU (nccl) or on the CPU (gloo).

    Raises RuntimeError if a machine has fewer GPUs than processes, or this was not started by torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise RuntimeError(f"WORLD_SIZE is set, but {name} is not: start with torchrun, or unset WORLD_SIZE")
    own = None
    if where == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise RuntimeError(f"a machine has {there} GPU(s) for more processes: torchrun --nproc-per-node {there}")
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
    if os.environ["RANK"] != "0":
        os.environ[HEADLESS] = "silent"
    dist.init_process_group("gloo" if own is None else "nccl", timeout=PATIENCE, device_id=own)


def stop() -> None:
    """Leave the others, after all have come to this point."""
    if size() > 1:
        dist.barrier()
        dist.destroy_process_group()


def wait() -> None:
    """Go on when all processes have come to this point."""
    if size() > 1:
        dist.barrier()


def tells() -> bool:
    """Whether this process tells what went wrong: the first to ask, so that a failure of many is one line."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return True
    try:  # torchrun keeps this store; it outlives any of the processes
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=10)))
        return store.add("ppcl failed", 1) == 1
    except Exception:  # no torchrun, or it has gone
        return os.environ.get("RANK", "0") == "0"


def anyone(value: bool, device: torch.device) -> bool:
    """Whether it is true of any process; `device` is where they talk to each other."""
    found = torch.tensor(float(value), device=device)
    if size() > 1:
        dist.all_reduce(found)
    return bool(found)


def agree(value: int | tuple[int, ...], otherwise: str) -> None:
    """Raise RuntimeError(otherwise) in all processes unless `value` is the same in all."""
    if size() > 1:
        mine = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        seen = [torch.empty_like(mine) for _ in range(size())]
        dist.all_gather(seen, mine)
        if any(not torch.equal(each, seen[0]) for each in seen):
            raise RuntimeError(otherwise)


def share(values: Tensor, blocks: int = 1) -> Tensor:
    """This process's share of the whole batch `(B, …)` -> `(B / size, …)`: the same part of each of its blocks.

    Raises RecipeError if the batch cannot be shared evenly.
    """
    if size() == 1:
        return values
    if len(values) % (blocks * size()):
        raise RecipeError(f"{len(values) // blocks} cannot be shared evenly by {size()} processes: change the batch")
    return values.unflatten(0, (blocks, size(), -1))[:, rank()].flatten(0, 1)


def gather(values: Tensor, blocks: int = 1) -> Tensor:
    """The whole batch from everyone's share, the inverse of `share`: `(b, …)` -> `(size * b, …)`, differentiable."""
    if size() == 1:
        return values
    return _Gather.apply(values).unflatten(1, (blocks, -1)).transpose(0, 1).flatten(0, 2)


class _Gather(torch.autograd.Function):
    """`(b, …)` -> `(size, b, …)`; back goes the sum of what all processes' losses ask of this process's values."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        found = values.new_empty(size(), *values.shape)
        dist.all_gather(list(found.unbind()), values.contiguous())
        return found

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank()]


def mean(values: dict) -> dict:
    """Tensors among these numbers averaged over the processes, for the log; the others as they are."""
    names = [name for name, value in values.items() if isinstance(value, Tensor)]
    if size() == 1 or not names:
        return values
    found = torch.stack([values[name].detach().float() for name in names])
    dist.all_reduce(found)
    return values | dict(zip(names, found / size(), strict=True))


def one_model(model: nn.Module) -> nn.Module:
    """The same weights in every process, and BatchNorm that sees the whole batch.

    On CUDA the layers become torch's SyncBatchNorm. That one does not exist for the CPU, where they keep their class
    and `_batch_norm` computes. Either way names and tensors stay, so a checkpoint fits one process and many.
    Raises RuntimeError for a layer that does more than BatchNorm (timm's with an activation inside): it would be lost.
    """
    if size() == 1:
        return model
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if more := {type(each).__name__ for each in norms if type(each) not in (nn.BatchNorm1d, nn.BatchNorm2d)}:
        raise RuntimeError(
            f"{', '.join(sorted(more))} of this backbone.architecture cannot see the whole batch of several processes: "
            "train in one, without torchrun, or choose another net"
        )
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for each in norms:
        each.forward = partial(_batch_norm, each)
    return model


def _batch_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm by the mean and variance of the whole batch, with gradient: `(b, C, …)` -> the same shape."""
    if not layer.training:
        return type(layer).forward(layer, x)
    along = [0, *range(2, x.dim())]
    spread, middle = torch.var_mean(x.float(), along, correction=0)
    middles, spreads = gather(torch.stack([middle, spread])[None]).unbind(1)
    middle = middles.mean(0)
    spread = (spreads + (middles - middle).square()).mean(0)
    with torch.no_grad():
        count = size() * x.numel() // x.shape[1]
        layer.num_batches_tracked += 1
        layer.running_mean.lerp_(middle, layer.momentum)
        layer.running_var.lerp_(spread * (count / (count - 1)), layer.momentum)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale = layer.weight * (spread + layer.eps).rsqrt()
    return ((x.float() - middle.view(shape)) * scale.view(shape) + layer.bias.view(shape)).to(x.dtype)


def averaging(optimiser: torch.optim.Optimizer) -> Callable[[], None]:
    """Average the optimiser's gradients over the processes while backward still runs. -> what ends it, before a step.

    As soon as backward has finished a few megabytes of gradients they are on their way. DistributedDataParallel does
    the same, but wants the whole step inside one module's forward; here the loop stays in sight.
    """
    if size() == 1:
        return lambda: None
    ready, sent = [], []

    def send() -> None:
        numbers = torch.cat([parameter.grad.flatten() for parameter in ready])
        sent.append((list(ready), numbers, dist.all_reduce(numbers, async_op=True)))
        ready.clear()

    def collect(parameter: nn.Parameter) -> None:
        ready.append(parameter)  # in the same order everywhere: the graphs are the same
        if sum(each.numel() for each in ready) >= BUCKET:
            send()

    def finish() -> None:
        if ready:
            send()
        for parameters, numbers, work in sent:
            work.wait()
            parts = (numbers / size()).split([each.numel() for each in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad.copy_(part.view_as(parameter))
        sent.clear()

    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.register_post_accumulate_grad_hook(collect)
    return finish
