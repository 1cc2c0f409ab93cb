"""Progress bars interactively, occasional log lines otherwise."""

import io
import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import tqdm.auto

HEADLESS = "PPCL_HEADLESS"  # set in processes without a user: the folder for their progress, or "silent"
tqdm.tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore of the system, which a killed process leaves behind
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
    """A bar as lines of text on stderr; in a notebook of `reproduce`, in a file that `followed` shows."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm when a line is due, and when the bar is closed."""
        if folder := os.environ.get(HEADLESS):
            bars = sorted((each for each in self._instances if isinstance(each, _Lines)), key=lambda each: each.start_t)
            with suppress(OSError):  # a full disk stops no work for the sake of a bar
                Path(folder, str(os.getpid())).write_text(" · ".join(map(str, bars)), encoding="utf-8")
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
def followed(label: str = ""):
    """Show the progress of processes that are started inside the block: a bar in a line each.

    They keep their bars in a folder that HEADLESS names; where it is set already, another process shows them. A
    terminal and an open notebook show label, time and bars, updated every second; a log gets a line now and then.
    """
    if HEADLESS in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ppcl-") as folder:
        shown = None
        if in_notebook():
            from IPython.display import display

            shown = display({"text/plain": label}, raw=True, display_id=True)
        os.environ[HEADLESS] = folder
        try:
            with meanwhile(_follow, Path(folder), label, shown):
                yield
        finally:
            os.environ.pop(HEADLESS)


def _follow(folder: Path, label: str, shown, done: threading.Event) -> None:
    watched, began, logged = shown or sys.stderr.isatty(), time.monotonic(), []
    while not done.wait(1 if watched else EVERY):
        bars = []
        for path in sorted(folder.iterdir()):
            with suppress(OSError):
                bars += filter(None, [path.read_text(encoding="utf-8", errors="replace")])
        if watched:
            _show([f"{label}, {duration(time.monotonic() - began)}"] * bool(label) + bars, shown)
        elif bars != logged:
            logged = bars
            print("".join(f"  {each}\n" for each in bars), end="", file=sys.stderr, flush=True)
    if watched:
        _show([], shown)


def _show(lines: list[str], shown) -> None:
    """Show lines in place of those before: in a notebook's display, or on a terminal from the cursor on."""
    if shown:
        return shown.update({"text/plain": "\n".join(lines)}, raw=True)
    wide = shutil.get_terminal_size().columns - 1
    text = "".join(f"{line[:wide]}\x1b[K\n" for line in lines)
    print(f"\r{text}\x1b[J", end=f"\x1b[{len(lines)}F" if lines else "", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """Print a line on stdout, over what a terminal shows of the progress."""
    print(line, end="\x1b[K\n" if sys.stdout.isatty() else "\n", flush=True)
