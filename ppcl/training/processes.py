"""Several processes train one model (`torchrun … -m ppcl train STAGE …`), on one machine or on several.

Every process draws the whole batch from the same (seed, stage, epoch, step) and runs the networks on its `share` of it.
The outputs are gathered once, and from there on every process computes the same losses of the whole batch. Gradients
return through `gather` to the process that computed an output, and are averaged at the parameters. BatchNorm sees the
whole batch. So the number of processes changes neither pictures nor losses, and one process needs none of this.
"""

import os
import sys
from datetime import timedelta
from functools import partial
from multiprocessing.pool import ThreadPool

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..disk.progress import HEADLESS

PATIENCE = timedelta(hours=1)  # the longest wait for the others, who choose the fusion weight or have not started


def size() -> int:
    """Return how many processes train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Return True in the one process that writes; the others only train."""
    return size() == 1 or dist.get_rank() == 0


def start(kind: str) -> None:
    """Join the processes that torchrun started: on `cuda` each with its own GPU (nccl), on `cpu` by gloo.

    Raises RuntimeError if a machine has fewer GPUs than processes, or torchrun did not start this one.
    """
    given = os.environ
    if int(given.get("WORLD_SIZE") or 1) == 1:
        return
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not given.get(name):
            raise RuntimeError(f"WORLD_SIZE is set, but {name} is not: start with torchrun, or unset WORLD_SIZE")
        if name != "MASTER_ADDR" and not (given[name].isdecimal() and int(given[name]) < 1 << 16):
            remedy = "start with torchrun, or unset WORLD_SIZE"
            raise RuntimeError(f"{name} is {given[name]!r}, not a number below 65536: {remedy}")
    own = None
    if kind == "cuda":
        local, there = int(given["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise RuntimeError(f"a machine has {there} GPU(s) for more processes: torchrun --nproc-per-node {there}")
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
    if given["RANK"] != "0":
        given[HEADLESS] = "silent"
    meeting = ThreadPool(1).apply_async(lambda: next(dist.rendezvous("env://", timeout=PATIENCE)))
    meeting.wait(5)
    if not meeting.ready():
        place, minutes = f"{given['MASTER_ADDR']}:{given['MASTER_PORT']}", PATIENCE.total_seconds() / 60
        line = f"process {given['RANK']} of WORLD_SIZE={given['WORLD_SIZE']} waits at {place} for the others, "
        line += f"{minutes:.0f} min at most; Ctrl-C ends it, and without WORLD_SIZE one process trains alone"
        print(line, file=sys.stderr, flush=True)
    store, rank, count = meeting.get()  # in a thread, because signals are not handled inside rendezvous
    backend = "gloo" if own is None else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE, device_id=own)


def stop() -> None:
    """Leave the process group once all processes have arrived here."""
    wait()
    if size() > 1:
        dist.destroy_process_group()


def wait() -> None:
    """Wait until all processes have arrived here."""
    if size() > 1:
        dist.barrier()


def reports_failure() -> bool:
    """Return True in exactly one process, so that an error is reported once."""
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return True
    try:  # torchrun keeps this store; it outlives any of the processes
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=3)))
        return store.add("ppcl failed", 1) == 1
    except Exception:  # no torchrun, or it has ended
        return os.environ.get("RANK", "0").lstrip("0") == "" or not os.environ["RANK"].isdecimal()


def any_of(value: bool) -> bool:
    """Return True in all processes if the value is true in one of them."""
    return value if size() == 1 else max(_from_all(float(value))).item() > 0


def agree(value: int | tuple[int, ...], message: str) -> None:
    """Raise RuntimeError(message) in all processes unless all have the same value."""
    if size() > 1:
        values = _from_all(value)
        if any(not torch.equal(each, values[0]) for each in values):
            raise RuntimeError(message)


def _from_all(value) -> list[Tensor]:
    mine = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    values = [torch.empty_like(mine) for _ in range(size())]
    dist.all_gather(values, mine)
    return values


def share(values: Tensor, blocks: int = 1) -> Tensor:
    """This process's share of the whole batch: `(B, …)` -> `(B / size, …)`, the same part of each of its blocks."""
    if size() == 1:
        return values
    return values.unflatten(0, (blocks, size(), -1))[:, dist.get_rank()].flatten(0, 1)


def gather(values: Tensor, blocks: int = 1) -> Tensor:
    """The whole batch from all shares, the inverse of `share`: `(b, …)` -> `(size * b, …)`, differentiable."""
    if size() == 1:
        return values
    return _Gather.apply(values).unflatten(1, (blocks, -1)).transpose(0, 1).flatten(0, 2)


class _Gather(torch.autograd.Function):
    """`(b, …)` -> `(size, b, …)`; the gradient is the sum over all processes' losses."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        whole = values.new_empty(size(), *values.shape)
        dist.all_gather(list(whole.unbind()), values.contiguous())
        return whole

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def one_model(model: nn.Module) -> nn.Module:
    """Give every process the same weights, and let BatchNorm see the whole batch.

    On CUDA the layers become SyncBatchNorm, which does not exist for the CPU: there they keep their class and
    `_batch_norm` computes. Names and tensors stay, so that a checkpoint fits any number of processes. Raises
    RuntimeError for a BatchNorm that does more (timm's with an activation inside), which would be lost.
    """
    if size() == 1:
        return model
    norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if more := {type(layer).__name__ for layer in norms if type(layer) not in (nn.BatchNorm1d, nn.BatchNorm2d)}:
        raise RuntimeError(
            f"{', '.join(sorted(more))} of this backbone.architecture cannot see the whole batch of several processes: "
            "train in one, without torchrun, or choose another net"
        )
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for layer in norms:
        layer.forward = partial(_batch_norm, layer)
    return model


def _batch_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm by the mean and variance of the whole batch, with gradient: `(b, C, …)` -> the same shape."""
    if not layer.training:
        return type(layer).forward(layer, x)
    variance, mean = torch.var_mean(x.float(), [0, *range(2, x.dim())], correction=0)
    means, variances = gather(torch.stack([mean, variance])[None]).unbind(1)
    mean = means.mean(0)
    variance = (variances + (means - mean).square()).mean(0)
    with torch.no_grad():
        count = size() * x.numel() // x.shape[1]
        layer.num_batches_tracked += 1
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance * (count / (count - 1)), layer.momentum)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale = layer.weight * (variance + layer.eps).rsqrt()
    return ((x.float() - mean.view(shape)) * scale.view(shape) + layer.bias.view(shape)).to(x.dtype)


def average_gradients(optimiser: torch.optim.Optimizer) -> None:
    """Average the gradients of the optimiser's parameters over the processes, after backward and before a step."""
    if size() == 1:
        return
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(whole)
    parts = (whole / size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
