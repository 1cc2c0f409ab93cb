"""Training curves that grow while a stage trains, in a notebook that somebody watches."""

import io
import os
import threading
from contextlib import contextmanager
from pathlib import Path

import pandas
from IPython.display import HTML, display

from .. import plots
from ..disk import progress


@contextmanager
def curves(logs: dict[str, Path | str], columns: dict[str, str], every: float = 5.0):
    """While the block trains, `plots.curves` of its logs (name -> `log.jsonl`), redrawn in place every few seconds.

    Only where a notebook is open; headless nothing is shown. The logs are read from the disk, so training knows nothing
    of it. Nothing is drawn as long as no log grows: a finished stage returns at once.
    """
    if progress.HEADLESS in os.environ or not progress.in_notebook():
        yield
        return
    logs = {name: Path(path) for name, path in logs.items()}
    handle, before = display(HTML(""), display_id=True), _sizes(logs)  # before the block: what it writes at once is new
    with progress.meanwhile(_redraw, handle, logs, columns, every, before):
        yield


def _redraw(
    handle, logs: dict[str, Path], columns: dict[str, str], every: float, before, done: threading.Event
) -> None:
    ended = False
    while not ended:
        ended = done.wait(every)
        if (now := _sizes(logs)) != before:
            before = now
            handle.update(plots.curves(read(logs), columns))


def _sizes(logs: dict[str, Path]) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in logs.items() if path.is_file() and path.stat().st_size}


def read(logs: dict[str, Path]) -> dict[str, pandas.DataFrame]:
    """The logs that are there, without a last line that is being written."""
    texts = {name: logs[name].read_text(encoding="utf-8") for name in _sizes(logs)}
    whole = {name: text[: text.rfind("\n") + 1] for name, text in texts.items()}
    return {name: pandas.read_json(io.StringIO(text), lines=True) for name, text in whole.items() if text}
