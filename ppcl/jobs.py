"""Parallel jobs, each in a process of one thread: the results of a seed are bit-equal for any number of processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .disk import progress
from .disk.files import prepare_streams

JOBS = "PPCL_JOBS"  # environment variable: number of parallel jobs where none is given
MEMORY = 3 << 29  # free bytes for each job, enough for the demo's


def cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _words("cpu.max") or _words("cpu/cpu.cfs_quota_us") + _words("cpu/cpu.cfs_period_us")
    if len(quota) == 2 and quota[0].isdecimal():  # not "max", not -1
        count = min(count, int(quota[0]) // int(quota[1]))
    return max(1, count)


def device(name: str = "auto") -> str:
    """Return a device that is there: `auto` is `cuda` if there is one, else `cpu`.

    Raises ValueError for an unknown device, and for a CUDA device where there is none.
    """
    import torch

    try:
        kind = "cuda" if name == "auto" else torch.device(name).type
    except (RuntimeError, TypeError):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu or cuda") from None
    if kind != "cuda" or torch.cuda.is_available():
        return "cuda" if name == "auto" else name
    if name != "auto":
        raise ValueError("no CUDA device is available: use --device cpu, or auto")
    return "cpu"


def default(device: str = "cpu") -> int:
    """Return the number of parallel jobs: PPCL_JOBS, else one per GPU, or one per core with enough free memory.

    Raises ValueError if PPCL_JOBS is not a number from 1 on.
    """
    given = os.environ.get(JOBS, "")
    if given and not (given.isdecimal() and int(given)):
        raise ValueError(f"{JOBS}={given} is no number of jobs: give one from 1 on, or unset it")
    if given:
        return int(given)
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    limit = _words("memory.max") or _words("memory/memory.limit_in_bytes")
    rooms = [int(word) for word in limit if word.isdecimal()]
    lines = dict(line.split(":") for line in _text("/proc/meminfo").splitlines())
    rooms += [int(lines["MemAvailable"].split()[0]) << 10] if "MemAvailable" in lines else []
    return max(1, min([cores(), *(room // MEMORY for room in rooms)]))


def _words(name: str) -> list[str]:
    return _text(f"/sys/fs/cgroup/{name}").split()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:  # not Linux, or the other version of control groups
        return ""


def in_threads(work: Callable, items: Sequence, label: str, quiet: bool | None = None, part: int = 32) -> Iterator:
    """Results of `work` on each item, in order, with a bar: a thread for each core takes `part` items at a time."""
    if not len(items):
        return  # no threads, and no bar of nothing
    parts = (items[start : start + part] for start in range(0, len(items), part))
    with ThreadPoolExecutor(cores()) as pool, progress.bar(None, label, len(items), quiet) as shown:
        for found in pool.map(lambda part: [work(one) for one in part], parts):
            yield from found
            shown.update(len(found))


@contextmanager
def one_thread():
    """Compute with one thread inside the block, or the decorated function; the caller's setting is restored.

    Sums round differently for each number of threads, and threads that share their cores with another program wait for
    each other.
    """
    import torch  # drawing does without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Job:
    """A call of a function that other processes can import; it starts after the jobs named in `after`."""

    work: Callable
    arguments: tuple = ()
    after: tuple[str, ...] = ()


def run(jobs: dict[str, Job], count: int, done: Callable = lambda name, result: None) -> dict:
    """Run jobs, at most `count` in parallel -> their results by name. A job is listed after those that it waits for.

    With `count` 1 they run in this process. `done(name, result)` is called when a job ends. Ctrl-C, SIGTERM, a failed
    job, a killed worker and the end of this process stop all jobs; training stages save their step first. Raises a
    job's own error, or RuntimeError with its name if its process was killed.
    """
    results = {}
    if count == 1 or len(jobs) < 2:
        for name, job in jobs.items():
            results[name] = job.work(*job.arguments)
            done(name, results[name])
        return results
    context = multiprocessing.get_context("spawn")
    life, end = context.Pipe(duplex=False)  # workers read from it until this process ends or closes it
    gpus = _gpus() or [None]
    own = [(life, gpus[number % len(gpus)]) for number in range(min(count, len(jobs)))]
    # A pool for each worker: one pool of several does not notice a death right after a start.
    free = [ProcessPoolExecutor(1, context, _begin, each) for each in own]
    pools, waiting, running = [*free], dict(jobs), {}
    try:
        with progress.followed():
            while waiting or running:
                ready = [name for name, job in waiting.items() if results.keys() >= {*job.after}]
                for name in ready[: len(free)]:
                    pool = free.pop()
                    running[pool.submit(_call, waiting.pop(name))] = name, pool
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name, pool = running.pop(future)
                    results[name] = future.result()
                    free.append(pool)
                    done(name, results[name])
    except BrokenProcessPool:
        raise RuntimeError(
            f"{name}: its process was killed, most often because memory ran out; close other programs, or give fewer "
            "--jobs or smaller batches by --set, and start again: finished work is kept"
        ) from None
    except Exception as error:
        error.add_note(f"in {name}")
        raise
    finally:
        if len(results) < len(jobs):
            end.close()
        for pool in pools:
            pool.shutdown(cancel_futures=True)
        end.close()
    return {name: results[name] for name in jobs}


def _gpus() -> list[str]:
    """Return the GPUs of this process, as CUDA_VISIBLE_DEVICES names them; none if torch is not imported."""
    if "torch" not in sys.modules:
        return []
    count = sys.modules["torch"].cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")[:count]


def _begin(life, gpu: str | None) -> None:
    """Prepare a worker: one thread, its own GPU, and a watcher that ends it when the parent closes `life` or ends."""
    prepare_streams()
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C also reaches the process that ends this one
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=(life,), daemon=True).start()


def _watch(life) -> None:
    try:
        life.recv()  # nothing is ever sent
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


def _leave(*_) -> None:
    sys.stdout.flush()
    os._exit(130)


def _call(job: Job):
    """Run a job in a worker; an interrupted job ends its worker."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return job.work(*job.arguments)
    except KeyboardInterrupt:
        _leave()
    finally:
        signal.signal(signal.SIGTERM, _leave)
