"""A whole experiment in a run folder: manifest, notebooks in order, report."""

from ..jobs import device
from .manifest import versions
from .reproduce import ROOT, at_root, source

__all__ = ["ROOT", "at_root", "device", "source", "versions"]
