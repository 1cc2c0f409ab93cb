"""Partial person re-identification by part-part correspondence learning (PPCL): a thin library under the notebooks.

    import ppcl
    model = ppcl.load("runs/demo", "person")
    query, gallery = ppcl.describe(model, ["half.jpg"]), ppcl.describe(model, ["a.jpg", "b.jpg"], several=False)
    distances = ppcl.match(model, query, gallery)  # (Q, G)

Heavy parts (metrics, plots, training, …) are imported when first used.
"""

import importlib

__version__ = "0.1.0"
_NAMES = {"recipe": "recipes", "load": "evaluation", "describe": "search", "match": "matching"}
_NAMES["ready"] = "data.datasets"
_MODULES = "bench data disk drawn evaluation explore geometry jobs losses matching metrics models plots recipes".split()
_MODULES += "runs search training".split()
__all__ = ["__version__", *_NAMES, *_MODULES]


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
