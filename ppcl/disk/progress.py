"""Progress bars interactively, occasional log lines otherwise."""

import io
import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import tqdm.auto

HEADLESS = "PPCL_HEADLESS"  # set in processes without a user: the file for their progress, or "silent"
EVERY = 30  # seconds between log lines; shorter work logs nothing


def bar(
    iterable=None,
    label: str = "",
    total: int | None = None,
    quiet: bool | None = None,
    initial: int = 0,
    unit: str = "pictures",
) -> tqdm.tqdm:
    """Return a tqdm bar on a terminal and in an open notebook, one that logs lines elsewhere; `quiet`: neither."""
    options = {"iterable": iterable, "desc": label, "total": total, "initial": initial, "unit": f" {unit}"}
    reported = os.environ.get(HEADLESS, "")
    if quiet or reported == "silent":
        return tqdm.tqdm(disable=True, **options)
    if not reported and (in_notebook() or sys.stderr.isatty()):
        return tqdm.auto.tqdm(leave=False, **options)
    every = 1 if reported else EVERY
    form = "{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}]"
    return _Lines(file=io.StringIO(), mininterval=every, delay=every, miniters=1, bar_format=form, **options)


def in_notebook() -> bool:
    """True in the kernel process of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class _Lines(tqdm.tqdm):
    """A bar as lines of text on stderr; in a notebook of `reproduce`, in the file that `followed` shows."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm when a line is due, and when the bar is closed."""
        if path := os.environ.get(HEADLESS):
            bars = sorted((each for each in self._instances if isinstance(each, _Lines)), key=lambda each: each.start_t)
            with suppress(OSError):  # a full disk stops no work for the sake of a bar
                Path(path).write_text(" · ".join(map(str, bars)), encoding="utf-8")
        elif msg is None:
            print(self, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return seconds as text: 40 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def meanwhile(work, *given):
    """Run `work(*given, done)` in a thread beside the block; `done`, an Event, is set when the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(*given, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def followed(path: Path, label: str):
    """Show on stderr the progress of processes that are started inside the block; they keep it in the file `path`.

    A terminal shows the label, its time and all bars in one line, updated every second; a log gets a line now and then.
    """
    before = os.environ.get(HEADLESS)
    os.environ[HEADLESS] = str(path)
    try:
        with meanwhile(_follow, path, label):
            yield
    finally:
        path.unlink(missing_ok=True)
        os.environ.pop(HEADLESS)
        if before is not None:
            os.environ[HEADLESS] = before


def _follow(path: Path, label: str, done: threading.Event) -> None:
    terminal, began, logged = sys.stderr.isatty(), time.monotonic(), ""
    while not done.wait(1 if terminal else EVERY):
        bars = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if terminal:
            line = " · ".join(filter(None, [f"{label}, {duration(time.monotonic() - began)}", bars]))
            print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)
        elif bars != logged:
            logged = bars
            print(f"  {bars}", file=sys.stderr, flush=True)
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
