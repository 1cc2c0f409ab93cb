"""What long work says: bars, plain lines where nobody watches, curves that grow in an open notebook."""

import io
import json
import os
import re
import sys
import time
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from ppcl.disk import progress
from ppcl.plots import live_curves


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand, and no terminal and no notebook."""
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.time)
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    return now


def test_a_process_that_only_imported_ipython_is_no_notebook(monkeypatch):
    """Bars of tests, and of scripts that draw, would stand between the lines of a log."""
    import IPython

    assert "IPython" in sys.modules and not progress.in_notebook()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    assert progress.in_notebook()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace())  # ipython on a terminal
    assert not progress.in_notebook()


def work(clock, shown, steps, seconds):
    for _ in range(steps):
        clock.time += seconds
        shown.update()


def test_headless_work_says_seldom_how_far_it_is_and_how_long_still(clock, capsys):
    shown = progress.bar(None, "joint ppcl", 460, initial=100, unit="steps")
    assert capsys.readouterr().err == ""
    work(clock, shown, 20, 1.4)  # 28 s
    assert capsys.readouterr().err == ""
    work(clock, shown, 40, 1.4)  # to 84 s: two lines
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["joint ppcl: 122/460 steps, 27 %, 8 min left", "joint ppcl: 144/460 steps, 31 %, 7 min left"]
    work(clock, shown, 300, 1.4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 14 and lines[-1] == "joint ppcl: 452/460 steps, 98 %, 11 s left"
    shown.close()
    shown.close()
    assert capsys.readouterr().err == "joint ppcl: 460 steps in 8 min\n"


def test_short_work_says_nothing_and_longer_work_says_once_what_it_took(clock, capsys):
    for seconds, said in ((0.9, ""), (1.2, "decoding: 10 pictures in 12 s\n")):
        with progress.bar(None, "decoding", 10) as shown:
            work(clock, shown, 10, seconds)
        assert capsys.readouterr().err == said


def test_an_iterable_counts_itself_with_and_without_a_length(clock, capsys):
    for some in (range(4), iter(range(4))):
        for _ in progress.bar(some, "drawing"):
            clock.time += 20
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "drawing: 2/4 pictures, 50 %, 40 s left"
    assert lines[-2:] == ["drawing: 4 pictures so far", "drawing: 4 pictures in 80 s"]


def test_a_headless_process_writes_where_it_is_told_or_nowhere(clock, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(progress.HEADLESS, "1")
    with progress.bar(None, "silent", 10) as shown:
        work(clock, shown, 10, 40)
    monkeypatch.setenv(progress.HEADLESS, f"5 {tmp_path}/a file")
    with progress.bar(None, "GLRec", 2, unit="steps") as shown:
        work(clock, shown, 2, 6)
    assert capsys.readouterr().err == ""
    assert (tmp_path / "a file").read_text().splitlines() == [
        "GLRec: 1/2 steps, 50 %, 6 s left",
        "GLRec: 2 steps, 100 %, 0 s left",
        "GLRec: 2 steps in 12 s",
    ]


def test_quiet_is_quiet_and_a_watched_terminal_gets_a_bar(clock, capsys, monkeypatch):
    assert progress.bar(None, "x", 3, quiet=True).disable
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.bar(None, "GLRec", 3, unit="steps") as shown:
        shown.update()
    assert not isinstance(shown, progress.Lines) and "GLRec" in capsys.readouterr().err


@pytest.mark.parametrize(
    "seconds, text", [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "60 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def until(true):
    """Wait until something is true, ten seconds at most."""
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_what_a_started_process_says_reaches_the_one_who_watches(monkeypatch, tmp_path, out):
    monkeypatch.setenv(progress.HEADLESS, "before")
    path = tmp_path / ".progress"
    with progress.followed(path, "[1/2] person 04", out):
        every, _, where = os.environ[progress.HEADLESS].partition(" ")
        assert (float(every), where) == (1 if out.isatty() else 30, str(path))
        with open(path, "a") as file:
            file.write("rows: 2/6 rows, 33 %, 4 min left\njoint ppcl: 10 steps in 9 s\n")
            file.write("joint +crloc: 1/9 steps, 11 %, 8 s left\n")
        until(lambda: not out.isatty() or "joint" in out.getvalue())
    assert os.environ[progress.HEADLESS] == "before" and not path.exists()
    said = out.getvalue()
    if out.isatty():  # one line, in place, of what goes on; nothing stays
        assert "\n" not in said and said.endswith("\r\x1b[K")
        assert re.search(r"\[1/2\] person 04, \d+ s · rows: 2/6 rows, 33 %, 4 min left · joint \+crloc: 1/9", said)
        assert "joint ppcl" not in said
    else:
        assert [line.strip() for line in said.splitlines()][1] == "joint ppcl: 10 steps in 9 s"
        assert len(said.splitlines()) == 3 and "\r" not in said


class Handle(list):
    def update(self, figure):
        self.append(figure)


@pytest.fixture
def notebook(monkeypatch):
    """An open notebook's display, which keeps what it was given."""
    handle = Handle()
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(live_curves, "display", lambda *_, **how: handle if how == {"display_id": True} else 1 / 0)
    return handle


def write(path, steps, tail=""):
    path.write_text("".join(json.dumps({"step": i, "box": 1 / (1 + i)}) + "\n" for i in range(steps)) + tail)


def test_curves_grow_in_place_while_a_stage_writes_its_log(notebook, tmp_path):
    log = tmp_path / "log.jsonl"
    with live_curves.curves({"GLRec": log, "later": tmp_path / "none"}, {"box": "box loss"}, every=0.05):
        write(log, 3, tail='{"step": 3, "bo')  # a line that is being written
        until(lambda: notebook)
        write(log, 50)
    assert len(notebook) == 2 and all(isinstance(figure, Figure) for figure in notebook)
    counts = [len(figure.axes[0].lines[0].get_xdata()) for figure in notebook]
    assert counts == [3, 50]


def test_no_curves_for_a_finished_stage_or_where_nobody_watches(notebook, monkeypatch, tmp_path):
    log = tmp_path / "log.jsonl"
    write(log, 5)
    with live_curves.curves({"GLRec": log}, {"box": "box loss"}, every=0.01):
        time.sleep(0.1)
    assert notebook == []
    monkeypatch.setenv(progress.HEADLESS, "30 somewhere")
    monkeypatch.setattr(live_curves, "display", lambda *_, **__: pytest.fail("something was shown"))
    with live_curves.curves({"GLRec": log}, {"box": "box loss"}, every=0.01):
        write(log, 9)
        time.sleep(0.1)


def test_a_failing_stage_is_not_held_up_by_its_curves(notebook, tmp_path):
    with (
        pytest.raises(FloatingPointError),
        live_curves.curves({"a": tmp_path / "log.jsonl"}, {"box": "box"}, every=0.01),
    ):
        raise FloatingPointError("the loss is nan")
