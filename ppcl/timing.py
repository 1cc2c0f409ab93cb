"""How `bench` measures: calls timed in turns, medians with their spread, bounds measured on the spot."""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

KEYS = ("name", "value", "unit", "spread", "ratio", "reference", "bound", "share_of_bound", "note", "threads")


@dataclass(frozen=True)
class Sizes:
    """How large the items are; the defaults take two to five minutes on two cores."""

    rounds: int = 5
    batch: int = 64
    pictures: int = 512  # files that are drawn
    size: tuple[int, int] = (256, 128)
    bank: int = 12936  # Market-1501's training pictures
    step_batch: int = 16
    architecture: str = "resnet50"
    queries: int = 3368  # Market-1501's, by its gallery without junk
    gallery: int = 15913
    textbook: int = 60  # queries of the textbook evaluator
    searched: int = 256  # queries of the global step
    asked: int = 64  # queries matched by parts; in all their views a quarter of them
    parts: int = 512  # gallery pictures matched by parts
    channels: int = 2048
    galleries: tuple[int, ...] = (10**4, 10**5, 10**6)
    width: int = 256  # numbers of a drawn embedding
    product: int = 2048  # rows and columns of the product that gives the bound
    buffer: int = 1 << 26  # bytes copied for the bandwidth
    stage_steps: int = 60  # on CUDA


def interleaved(calls: list[Callable], rounds: int) -> list[list[float]]:
    """Seconds of each call, `rounds` times in turns after a turn that is not counted."""
    times = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, found in zip(calls, times, strict=True):
            _wait()
            began = time.perf_counter()
            call()
            _wait()
            if turn:
                found.append(time.perf_counter() - began)
    return times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def item(
    name: str,
    unit: str,
    mine: Callable,
    work: float = 1,
    reference: tuple[str, Callable, float] | None = None,
    bound: tuple[str, Callable, float] | None = None,
    rounds: int = 5,
    note: str = "",
) -> dict:
    """Time a call that does so much work -> a record of KEYS.

    A unit per second (`img/s`) is a rate, any other a time for a unit of work. reference, bound: a name, a call, and
    the work that this does, timed in turns with ours. ratio: how many times the reference.
    """
    others = [other for other in (reference, bound) if other]
    times = interleaved([mine, *(call for _, call, _ in others)], rounds)
    each = statistics.median(times[0]) / work
    rate = unit.endswith("/s")
    seen = sorted((work / t if rate else t / work) for t in times[0])
    found = dict.fromkeys(KEYS) | {"name": name, "unit": unit, "note": note, "threads": torch.get_num_threads()}
    found |= {"value": 1 / each if rate else each, "spread": [seen[0], seen[-1]]}
    if reference:
        found |= {"reference": reference[0], "ratio": statistics.median(times[1]) / reference[2] / each}
    if bound:
        least = statistics.median(times[-1]) / bound[2]
        found |= {"bound": f"{bound[0]}: {1 / least:.4g} /s", "share_of_bound": least / each}
    return found


def fact(name: str, value: float, unit: str, **more) -> dict:
    """A record of something counted, not timed."""
    return dict.fromkeys(KEYS) | {"name": name, "value": value, "unit": unit, "note": ""} | more


@contextlib.contextmanager
def threads(count: int):
    """So many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bandwidth(sizes: Sizes, touched: float) -> tuple[str, Callable, float]:
    """The bound of work that touches so many bytes a piece: a large copy, and how many pieces that is worth."""
    source, target = torch.zeros(sizes.buffer // 4), torch.empty(sizes.buffer // 4)
    return "memory bandwidth", partial(target.copy_, source), 2 * sizes.buffer / touched


def product(
    sizes: Sizes, operations: float, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[str, Callable, float]:
    """The bound of work of so many operations a piece: a large matrix product, and how many pieces that is worth."""
    a, b = (torch.randn(sizes.product, sizes.product, device=device).to(dtype) for _ in range(2))
    return f"matrix product in {str(dtype)[6:]}", partial(torch.mm, a, b), 2 * sizes.product**3 / operations
