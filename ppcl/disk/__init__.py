"""Whole files, checkpoints, the run-folder lock, progress."""

from . import progress

__all__ = ["progress"]
