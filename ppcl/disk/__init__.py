"""What a run keeps on the disk: whole files, checkpoints, lock and signals, progress."""

from . import progress

__all__ = ["progress"]
