"""Whole files, checkpoints, the run-folder lock, progress."""
