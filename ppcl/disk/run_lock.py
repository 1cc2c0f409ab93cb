"""Run-folder lock: one process at a time writes into a run."""

import os
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

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
