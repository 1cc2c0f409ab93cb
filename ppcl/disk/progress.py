"""How far long work is: bars where a person watches, plain lines, seldom, where nobody does."""

import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

HEADLESS = "PPCL_HEADLESS"  # set where nobody watches: seconds between lines, and the file for them (none: silent)
EVERY, LONG = 30.0, 10.0  # seconds: between plain lines; work that ends sooner is not spoken of


def bar(
    iterable=None,
    label: str = "",
    total: int | None = None,
    quiet: bool | None = None,
    initial: int = 0,
    unit: str = "pictures",
) -> "tqdm | Lines":
    """A tqdm bar on a terminal and in an open notebook, plain lines elsewhere (`quiet` None); True: neither."""
    if quiet is None and (HEADLESS in os.environ or not (in_notebook() or sys.stderr.isatty())):
        return Lines(iterable, label, total, initial, unit)
    return tqdm(iterable, label, total, leave=False, disable=bool(quiet), initial=initial, unit=f" {unit}")


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class Lines:
    """What is used of a tqdm bar here, in lines of text: one now and then, one when long work ends."""

    def __init__(self, iterable, label: str, total: int | None, initial: int, unit: str):
        every, _, self.path = os.environ.get(HEADLESS, "").partition(" ")
        self.silent = bool(every) and not self.path
        self.every, self.iterable, self.label, self.unit = float(every or EVERY), iterable, label, unit
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
        self.n = self.initial = initial
        self.began = self.last = time.monotonic()
        self.spoken = self.closed = False

    def __iter__(self):
        with self:
            for one in self.iterable:
                yield one
                self.update()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, count: int = 1) -> None:
        """So much more is done; says it where the last line was long ago."""
        self.n += count
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last, self.spoken = now, True
        done = self.n - self.initial
        if self.total and done:
            left = (now - self.began) / done * (self.total - self.n)
            self._say(f"{self._count()}, {100 * self.n / self.total:.0f} %, {duration(left)} left")
        else:
            self._say(f"{self._count()} so far")

    def close(self) -> None:
        """All is done, or given up; says it of long work."""
        spent = time.monotonic() - self.began
        if not self.closed and (self.spoken or spent >= LONG):
            self._say(f"{self._count()} in {duration(spent)}")
        self.closed = True

    def _count(self) -> str:
        return f"{self.n}/{self.total} {self.unit}" if self.total not in (None, self.n) else f"{self.n} {self.unit}"

    def _say(self, text: str) -> None:
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{self.label}: {text}\n")
        elif not self.silent:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds for the eye: 40 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def meanwhile(work, *given):
    """Beside the block, `work(*given, done)` in a thread; `done`, an Event, is set when the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(*given, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def followed(path: Path, label: str, out=None):
    """Processes that are started inside are headless, and what they say (into `path`) is shown here on `out` (stderr).

    On a terminal the label, its time and all work that goes on stand in one line, written anew every second; elsewhere
    lines come seldom, one below the other.
    """
    out = out or sys.stderr
    watched, before = out.isatty(), os.environ.get(HEADLESS)
    path.write_text("")
    os.environ[HEADLESS] = f"{1 if watched else EVERY:g} {path}"
    try:
        with meanwhile(_follow, path, label, out, watched):
            yield
    finally:
        path.unlink(missing_ok=True)
        if before is None:
            del os.environ[HEADLESS]
        else:
            os.environ[HEADLESS] = before


def _follow(path: Path, label: str, out, watched: bool, done: threading.Event) -> None:
    began, going = time.monotonic(), {}
    with open(path, encoding="utf-8") as file:
        while True:
            ended = done.wait(1)
            for line in file.read().splitlines():
                name = line.partition(":")[0]
                going.pop(name, None)
                if line.endswith(("left", "so far")):
                    going[name] = line
                if not watched:
                    print(f"  {line}", file=out, flush=True)
            if ended:
                break
            if watched:
                text = " · ".join([f"{label}, {duration(time.monotonic() - began)}", *going.values()])
                out.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
                out.flush()
    if watched:
        out.write("\r\x1b[K")
        out.flush()
