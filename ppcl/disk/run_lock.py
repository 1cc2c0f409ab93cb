"""Who works in a run folder: one process at a time, which a signal ends after its step, saved."""

import fcntl
import functools
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import torch

from ..recipes import Recipe
from . import processes

HOLDER = "PPCL_HOLDER"  # process and run folder that it holds, for the notebooks that `reproduce` starts


class BusyError(RuntimeError):
    """A run folder in which another process works."""


def _holder() -> tuple[int, str]:
    """The process that holds a run folder, if it is this one or the one that started it (`reproduce` its notebooks)."""
    number, _, run = os.environ.get(HOLDER, "0:").partition(":")
    return int(number), run


def orphaned() -> bool:
    """Whether the process that started this one, and holds the run folder, is gone."""
    return _holder()[0] not in (0, os.getpid(), os.getppid())


@contextmanager
def alone(run: Path | str):
    """Hold a run folder while something is written into it; of several processes under torchrun the first holds it.

    The system gives it free when the process ends, however that comes; the empty `.lock` that stays behind means
    nothing. Raises BusyError where another process holds it.
    """
    run = Path(run).resolve()
    if not processes.first() or _holder()[1] == str(run):
        if orphaned():
            raise KeyboardInterrupt
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(HOLDER, "0:")
    with open(run / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the second from some network file systems
            raise BusyError(
                f"{run}: another process works in this run folder; wait for it, or give another --run"
            ) from None
        except OSError:
            pass  # a file system without locks
        os.environ[HOLDER] = f"{os.getpid()}:{run}"
        try:
            yield
        finally:
            os.environ[HOLDER] = before


class _Asked:
    """The signal that asked the running stage to stop; 0: none did."""

    signal = 0


def asked() -> bool:
    """Whether a signal asked the running stage to stop."""
    return bool(_Asked.signal)


@contextmanager
def stopping():
    """Ctrl-C and SIGTERM ask to stop: the running step ends and is saved first. A second Ctrl-C does not wait."""

    def ask(number, _):
        if _Asked.signal and processes.size() == 1:
            raise KeyboardInterrupt
        _Asked.signal = number

    _Asked.signal = 0
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread alone
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if _Asked.signal:  # after the last step; the stage is finished
        raise KeyboardInterrupt


def guarded(train):
    """A stage's training function `(recipe, data, run, …)`, alone in its run folder and stopped by signals cleanly."""

    @functools.wraps(train)
    def one(recipe: Recipe, data, run, *args, **kwargs):
        with alone(run), stopping():
            try:
                return train(recipe, data, run, *args, **kwargs)
            except torch.OutOfMemoryError:
                name = train.__name__.removeprefix("train_")
                raise RuntimeError(_smaller(name, getattr(recipe, name))) from None

    return one


def _smaller(name: str, stage) -> str:
    """What to do when the GPU's memory does not hold a stage's batch."""
    people = getattr(stage, "identities", None)
    if stage.batch < 4 or (people or 4) < 4:
        return f"{name}: out of GPU memory with a batch of {stage.batch}; use a larger GPU, or --device cpu"
    half = f"--set {name}.batch={stage.batch // 2}"
    if people:  # half of them, with as many pictures each
        half = f"--set {name}.identities={people // 2} --set {name}.batch={people // 2 * (stage.batch // people)}"
    later = "" if name == "joint" else ", here and in the later stages"
    return f"{name}: out of GPU memory with a batch of {stage.batch}; half of it takes half the memory: {half}{later}"
