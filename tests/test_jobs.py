"""Work side by side: results, order, errors, kills, and no process that outlives the one that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ppcl import jobs
from ppcl.jobs import Job

POOL = jobs.ProcessPoolExecutor


def note(folder, name, wait=0.0):
    """Write when a job begins and ends. -> its process and threads."""
    (folder / f"{name} begins").write_text(str(time.time()))
    time.sleep(wait)
    (folder / f"{name} ends").write_text(str(time.time()))
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def meet(folder, name, other):
    """End once the other job has begun, which needs both side by side."""
    (folder / f"{name} begins").write_text("")
    until(lambda: (folder / f"{other} begins").exists())
    return note(folder, name)


def fail(line):
    raise ValueError(line)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def moment(folder, name, what):
    return float((folder / f"{name} {what}").read_text())


def test_jobs_run_side_by_side_after_those_they_wait_for(tmp_path):
    some = {name: Job(meet, (tmp_path, name, other)) for name, other in ("ab", "ba")}
    some["c"] = Job(note, (tmp_path, "c"), ("a", "b"))
    ended = []
    found = jobs.run(some, 2, lambda name, result: ended.append(name))
    assert list(found) == ["a", "b", "c"] and ended[2] == "c" and {*ended} == {*"abc"}
    assert os.getpid() not in {process for process, _ in found.values()} and {one for _, one in found.values()} == {"1"}
    assert moment(tmp_path, "c", "begins") >= max(moment(tmp_path, name, "ends") for name in "ab")


def test_one_job_at_a_time_runs_here(tmp_path):
    found = jobs.run({name: Job(note, (tmp_path, name)) for name in "ab"}, 1)
    assert {process for process, _ in found.values()} == {os.getpid()}


def test_a_failed_job_is_named_and_stops_the_others(tmp_path):
    with pytest.raises(ValueError, match="a line") as caught:
        jobs.run({"long": Job(note, (tmp_path, "long", 600)), "bad": Job(fail, ("a line",))}, 2)
    assert caught.value.__notes__ == ["in bad"]
    assert not (tmp_path / "long ends").exists()


def test_a_killed_worker_is_reported_with_the_usual_cause(tmp_path):
    with pytest.raises(RuntimeError, match="^bad: its process was killed.*memory ran out"):
        jobs.run({"long": Job(note, (tmp_path, "long", 600)), "bad": Job(kill)}, 2)
    assert not (tmp_path / "long ends").exists()


START = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ppcl import jobs
from test_jobs import note
folder = Path(sys.argv[2])
jobs.run({name: jobs.Job(note, (folder, name, 600)) for name in "ab"}, 2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_process_that_started_it(tmp_path, number):
    start = "import signal\nsignal.signal(signal.SIGTERM, signal.default_int_handler)" + START
    command = [sys.executable, "-c", start, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as first:
        until(lambda: (tmp_path / "a begins").exists() and (tmp_path / "b begins").exists())
        first.send_signal(number)
        first.stderr.read()  # to its end: workers have the same stderr
    until(lambda: not alive(first.pid))


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def until(true, seconds=300):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


FILES = {
    "affinity alone": ({}, 6),
    "v2": ({"cpu.max": "250000 100000"}, 2),
    "v2, none": ({"cpu.max": "max 100000"}, 6),
    "v2, less than one": ({"cpu.max": "50000 100000"}, 1),
    "v1": ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    "v1, none": ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
}


def test_a_device_is_one_that_is_there(monkeypatch):
    for there, auto in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert (jobs.device("auto"), jobs.device("cpu")) == (auto, "cpu")
    assert jobs.device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, message in (("cuda:1", "no CUDA device"), ("gpu", "unknown device 'gpu': choose auto, cpu or cuda")):
        with pytest.raises(ValueError, match=message):
            jobs.device(name)


@pytest.mark.parametrize("files, count", FILES.values(), ids=FILES)
def test_cores_follow_affinity_and_quota(monkeypatch, files, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    monkeypatch.setattr(jobs, "_text", lambda path: files.get(path.removeprefix("/sys/fs/cgroup/"), ""))
    assert jobs.cores() == count


@pytest.mark.parametrize(
    "free, limit, count", [("16000000", "max", 6), ("5000000", "max", 3), ("16000000", f"{4 << 30}", 2), ("9", "9", 1)]
)
def test_fewer_jobs_where_memory_is_short(monkeypatch, free, limit, count):
    texts = {"/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {free} kB\n", "/sys/fs/cgroup/memory.max": limit}
    monkeypatch.delenv(jobs.JOBS, raising=False)
    monkeypatch.setattr(jobs, "cores", lambda: 6)
    monkeypatch.setattr(jobs, "_text", lambda path: texts.get(path, ""))
    assert jobs.default() == count
    monkeypatch.setenv(jobs.JOBS, "5")
    assert jobs.default() == 5
    monkeypatch.setenv(jobs.JOBS, "0")
    with pytest.raises(ValueError, match="PPCL_JOBS=0 is no number of jobs"):
        jobs.default()


@pytest.mark.parametrize("streams", ["| true", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/null"])
def test_jobs_end_whatever_their_standard_streams_are(streams):
    two = "{name: jobs.Job(print, ('a … b' * 9999,)) for name in 'ab'}"
    code = f"from ppcl import jobs; jobs.prepare_streams(); jobs.run({two}, 2)"
    command = f'{sys.executable} -c "{code}" {streams}; exit ${{PIPESTATUS[0]}}'
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(["bash", "-c", command], env=ascii_only, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr


def test_no_more_workers_than_jobs(monkeypatch):
    begun = []
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", lambda *given: begun.append(given) or POOL(*given))
    assert jobs.run({name: Job(os.getpid) for name in "ab"}, 400).keys() == {*"ab"} and len(begun) == 2
