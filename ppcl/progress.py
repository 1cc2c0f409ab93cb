"""Progress bars where a person watches, none where nobody does."""

import os
import sys

from tqdm.auto import tqdm

HEADLESS = "PPCL_HEADLESS"  # set by `reproduce` for the notebooks that it runs


def bar(iterable=None, label: str = "", total: int | None = None, quiet: bool | None = None, initial: int = 0) -> tqdm:
    """A tqdm bar; `quiet` None: shown on a terminal and in an open notebook, not in a headless one or in a log file."""
    if quiet is None:
        quiet = bool(os.environ.get(HEADLESS)) or not ("ipykernel" in sys.modules or sys.stderr.isatty())
    return tqdm(iterable, label, total, leave=False, disable=quiet, initial=initial)
