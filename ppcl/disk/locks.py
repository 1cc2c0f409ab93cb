"""Locks: one process at a time reproduces a run, trains a stage, or merges into the tables of a run."""

from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .files import REFUSED, warn_once

PATIENCE = 60  # seconds to wait for tables that another process writes


class BusyError(RuntimeError):
    """Another process does this work."""


@contextmanager
def hold(path: Path, busy: str, patience: float = 0):
    """Hold the lock file `path` inside the block; the process waits `patience` seconds for it, at most.

    The lock ends with the process, however it ends; the empty file that stays has no meaning. Raises BusyError(busy)
    if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=patience, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(busy) from None
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        where = path.parent
        warn_once(f"{where}: no files can be locked here ({error.strerror}); start one command at a time in this run")
    try:
        yield
    finally:
        lock.release()


def merging(folder: Path | str):
    """Hold a folder's tables between reading and writing them, which takes moments."""
    busy = f"{folder}: another process has been writing its tables for a minute; start again when it has ended"
    return hold(Path(folder) / ".merging", busy, PATIENCE)
