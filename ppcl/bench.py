"""Where the time goes, against what it is compared with, and what the machine would allow: all in one run.

An item is timed in turns with its reference (A B A B …), medians are kept with their spread, and the bound is measured
on the spot: memory bandwidth, or the largest matrix product. No figure is carried over from another machine or day.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from . import bench_data, bench_models
from .disk.files import write_text
from .evaluation import results
from .runs import reproduce
from .timing import Sizes

RECORD = reproduce.ROOT / "figures" / "benchmarks.json"


def machine(device: str = "cpu") -> str:
    """The machine's name: its processor and the cores that this process may use; with CUDA its GPU's, too."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    named = f"{name}, {cores} core{'s' * (cores > 1)}"
    return f"{torch.cuda.get_device_name()}, {named}" if device == "cuda" else named


def read(path: Path | str = RECORD) -> dict[str, dict]:
    """The recorded runs, one a machine; none where the file is not there."""
    path = Path(path)
    return json.loads(path.read_text()) if path.is_file() else {}


def bench(
    path: Path | str | None = None, sizes: Sizes | None = None, device: str = "cpu", items: Iterable | None = None
) -> dict:
    """Run every item, print it, and put this machine's entry into the record (`figures/benchmarks.json`). -> the entry.

    Another run on the same machine replaces the entry; other machines' are kept.
    """
    path, sizes = Path(path or RECORD), sizes or Sizes()
    began, rows = time.time(), []
    for measure in items or (*bench_data.ITEMS, *bench_models.ITEMS):
        for row in measure(sizes, device):
            print(line(row), flush=True)
            rows.append({key: _short(value) for key, value in row.items()})
    facts = {"date": time.strftime("%Y-%m-%d"), "commit": results.commit(), "versions": reproduce.versions()}
    facts |= {"device": device, "threads": torch.get_num_threads(), "seconds": round(time.time() - began)}
    entry = facts | {"items": rows}
    write_text(path, json.dumps(read(path) | {machine(device): entry}, indent=1) + "\n")
    return entry


def _readable(value: float) -> str:
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _short(value):
    if isinstance(value, list):
        return [_short(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def line(row: dict) -> str:
    """A record for the eye."""
    value, low, high = map(_readable, (row["value"], *(row["spread"] or (row["value"],) * 2)))
    text = f"{row['name']}: {value} {row['unit']} [{low}, {high}]"
    text += f"; {row['ratio']:.2f} x {row['reference']}" if row["ratio"] else ""
    text += f"; {100 * row['share_of_bound']:.0f} % of {row['bound']}" if row["share_of_bound"] else ""
    return text + (f" ({row['note']})" if row["note"] else "")
