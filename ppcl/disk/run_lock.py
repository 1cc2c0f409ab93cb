"""Run-folder lock: one process at a time writes into a run."""

import functools
import os
import signal
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..recipes import Recipe
from . import processes
from .files import REFUSED, warn_once

HELD = "PPCL_RUN"  # the run folder that this process, or the one that started it, holds


class BusyError(RuntimeError):
    """Another process works in the run folder."""


@contextmanager
def hold(run: Path | str):
    """Hold a run folder while writing into it; nested calls, and the notebooks that `reproduce` starts, share the hold.

    The lock ends with the process, however it ends; the empty `.lock` that stays has no meaning. Raises BusyError if
    another process holds the folder.
    """
    run = Path(run).resolve()
    before = os.environ.get(HELD, "")
    if before == str(run):
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock", timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(f"{run}: another process works in this run folder; wait for it, or use another --run") from None
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        warn_once(f"{run}: no files can be locked here ({error.strerror}); start one command at a time in this folder")
    os.environ[HELD] = str(run)
    try:
        yield
    finally:
        os.environ[HELD] = before
        lock.release()


def alone(run):
    return hold(run) if processes.first() else nullcontext()


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
