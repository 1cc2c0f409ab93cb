"""What long work says: bars, plain lines where nobody watches, curves that grow in an open notebook."""

import io
import json
import os
import re
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from ppcl.disk import progress
from ppcl.plots import charts, live_curves


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand, and no terminal and no notebook."""
    now = SimpleNamespace(time=0.0)
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    monkeypatch.setattr("tqdm.std.time", lambda: now.time)
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


def test_a_log_gets_a_line_every_half_minute_and_a_last_one(clock, capsys):
    shown = progress.bar(None, "joint ppcl", 460, initial=100, unit="steps")
    work(clock, shown, 20, 1.4)  # 28 s
    assert capsys.readouterr().err == ""
    work(clock, shown, 40, 1.4)  # to 84 s
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["joint ppcl: 122/460 steps [00:30<07:53]", "joint ppcl: 144/460 steps [01:01<07:22]"]
    work(clock, shown, 300, 1.4)
    assert len(capsys.readouterr().err.splitlines()) == 14
    shown.close()
    shown.close()
    assert capsys.readouterr().err == "joint ppcl: 460/460 steps [08:23<00:00]\n"


def test_short_work_logs_nothing(clock, capsys):
    for _ in progress.bar(range(10), "decoding"):
        clock.time += 2.9
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("some, total", [(range(4), "4"), (iter(range(4)), "?")])
def test_an_iterable_counts_itself_with_and_without_a_length(clock, capsys, some, total):
    for _ in progress.bar(some, "drawing"):
        clock.time += 20
    assert capsys.readouterr().err.splitlines()[0].startswith(f"drawing: 2/{total} pictures [00:40<")


def test_a_notebooks_process_keeps_its_bars_in_a_file_or_is_silent(clock, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(progress._Lines, "_instances", weakref.WeakSet())  # without bars that failed tests left
    monkeypatch.setenv(progress.HEADLESS, "silent")
    with progress.bar(None, "silent", 10) as shown:
        work(clock, shown, 10, 40)
    path = tmp_path / str(os.getpid())
    monkeypatch.setenv(progress.HEADLESS, str(tmp_path))
    with progress.bar(None, "rows", 3, unit="rows") as rows:
        work(clock, rows, 1, 6)
        with progress.bar(None, "GLRec", 2, unit="steps") as shown:
            work(clock, shown, 1, 6)
            assert re.fullmatch(r"rows: 1/3 rows \[00:12<.*\] · GLRec: 1/2 steps \[00:06<.*\]", path.read_text())
        work(clock, rows, 1, 6)
        assert re.fullmatch(r"rows: 2/3 rows \[00:18<.*\]", path.read_text())
    assert path.read_text() == "" and capsys.readouterr().err == ""


def test_quiet_is_quiet_and_a_watched_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    assert progress.bar(None, "x", 3, quiet=True).disable
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.bar(None, "GLRec", 3, unit="steps") as shown:
        shown.update()
    assert not isinstance(shown, progress._Lines) and "GLRec" in capsys.readouterr().err


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


@pytest.mark.parametrize("where", ["log", "terminal", "notebook"])
def test_progress_of_started_processes_is_shown(monkeypatch, where):
    out, shown = Terminal() if where == "terminal" else io.StringIO(), []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    monkeypatch.setattr(progress, "EVERY", 0.1)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(progress, "in_notebook", lambda: where == "notebook")
    monkeypatch.setattr("IPython.display.display", lambda *_, **how: handle)
    with progress.followed("[1/2] person 04"):
        folder = Path(os.environ[progress.HEADLESS])
        with progress.followed():  # the outer one shows
            for number, bar in {"7": "rows: 2/6 rows", "8": "joint: 1/9 steps", "9": ""}.items():
                (folder / number).write_text(bar, encoding="utf-8")
        until(lambda: "joint" in (out.getvalue() or "".join(shown)))
    assert progress.HEADLESS not in os.environ and not folder.exists()
    if where == "log":
        assert out.getvalue() == "  rows: 2/6 rows\n  joint: 1/9 steps\n"
    elif where == "notebook":
        assert re.fullmatch(r"\[1/2\] person 04, \d s\nrows: 2/6 rows\njoint: 1/9 steps", shown[-2]) and shown[-1] == ""
    else:  # a block of lines, above which the cursor stays; it is cleared at the end
        lines = r"\r\[1/2\] person 04, \d s\x1b\[K\nrows: 2/6 rows\x1b\[K\njoint: 1/9 steps\x1b\[K\n\x1b\[J\x1b\[3F"
        assert re.search(lines, out.getvalue()) and out.getvalue().endswith("\r\x1b[J")


class Handle(list):
    def update(self, figure, raw):
        self.append(figure)


@pytest.fixture
def notebook(monkeypatch):
    """An open notebook's display, which keeps what it was given."""
    handle = Handle()
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(charts, "display", lambda *_, **how: handle if how == {"display_id": True} else 1 / 0)
    monkeypatch.setattr(charts, "notebook_picture", lambda figure: figure)
    return handle


def write(path, steps, tail=""):
    path.write_text("".join(json.dumps({"step": i, "box": 1 / (1 + i)}) + "\n" for i in range(steps)) + tail)


def test_curves_grow_in_place_while_a_stage_writes_its_log(notebook, tmp_path):
    log = tmp_path / "log.jsonl"
    with live_curves({"GLRec": log, "later": tmp_path / "none"}, {"box": "box loss"}, every=0.05):
        write(log, 3, tail='{"step": 3, "bo')  # a line that is being written
        until(lambda: notebook)
        write(log, 50)
    assert len(notebook) == 2 and all(isinstance(figure, Figure) for figure in notebook)
    counts = [len(figure.axes[0].lines[0].get_xdata()) for figure in notebook]
    assert counts == [3, 50]


def test_no_curves_for_a_finished_stage_or_where_nobody_watches(notebook, monkeypatch, tmp_path):
    log = tmp_path / "log.jsonl"
    write(log, 5)
    with live_curves({"GLRec": log}, {"box": "box loss"}, every=0.01):
        time.sleep(0.1)
    assert notebook == []
    monkeypatch.setenv(progress.HEADLESS, "30 somewhere")
    monkeypatch.setattr(charts, "display", lambda *_, **__: pytest.fail("something was shown"))
    with live_curves({"GLRec": log}, {"box": "box loss"}, every=0.01):
        write(log, 9)
        time.sleep(0.1)


def test_a_failing_stage_is_not_held_up_by_its_curves(notebook, tmp_path):
    with (
        pytest.raises(FloatingPointError),
        live_curves({"a": tmp_path / "log.jsonl"}, {"box": "box"}, every=0.01),
    ):
        raise FloatingPointError("the loss is nan")
