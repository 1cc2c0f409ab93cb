"""The command line: parsing, and one call each (`python -m ppcl --help`)."""

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
from pathlib import Path

from . import __version__
from .data.sets import TESTS
from .disk.files import printable, write_text
from .recipes import METHODS, PROFILES, TASKS, RecipeError, check_processes, method, parse_overrides, recipe

STAGES = ("glrec", "backbone", "joint")
SEVERAL_GPUS = """\
several GPUs: start a stage with torchrun before `reproduce`, which then finds it finished. The batch stays the
published one and is split by identity, so the number of processes must divide the batch's identities (people: 2, 4,
8 or 16). Losses and BatchNorm see the whole batch. All stages need the same --set, and all machines the same --data
and --run.

  one machine with 8 GPUs:
    torchrun --nproc-per-node 8 -m -- ppcl train backbone --profile paper --data DATA --run runs/paper
  two machines with 4 GPUs each (HOST is the first; --node-rank 1 on the second):
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr HOST --master-port 29500 \\
        -m -- ppcl train backbone --profile paper --data DATA --run runs/paper

The -- keeps torchrun from reading --run as an option of its own. Training sets of more than 256 MiB are decoded once
into DATA/decoded, which may be deleted at any time.
"""
PROCESSES = int(os.environ.get("WORLD_SIZE") or 1)  # as torchrun says


def tell(line: str) -> None:
    """One line on stderr, whatever names stand in it: of several processes of torchrun, by the first that fails."""
    if PROCESSES > 1:
        from .training.processes import reports_failure

        if not reports_failure():
            return
    print(printable(line), file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """One clear line for a wrong call, exit 2."""

    def error(self, message: str):
        """Say what was wrong, and end with status 2."""
        tell(f"{self.prog}: {message} (see {self.prog} --help)")
        raise SystemExit(2)


def at_least(low: int):
    """An argparse type: a whole number from `low` on, of 63 bits at most."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdigit() or not low <= int(text) < 1 << 63:
            raise argparse.ArgumentTypeError(f"a whole number from {low} on, below 2^63, not {text!r}")
        return int(text)

    return number


def a_file(text: str) -> Path:
    """An argparse type: the path of a file, whether it is there or not."""
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"a file is wanted, and {text} is a folder")
    above = next(folder for folder in Path(text).absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written, for {above} is no folder that may be written to")
    return Path(text)


def parser() -> Parser:
    """All commands and their options."""
    top = Parser("python -m ppcl", description="Partial person re-identification by part-part correspondence learning.")
    top.add_argument("--version", action="version", version=__version__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)

    def command(name: str, text: str, group=commands):
        return group.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)

    def common(sub, data: bool = True):
        sub.add_argument("--task", choices=TASKS, default="person")
        sub.add_argument("--run", required=True, type=Path, metavar="DIR", help="the run folder")
        if data:
            sub.add_argument("--data", required=True, type=Path, metavar="DIR", help="the folder of the data sets")
        sub.add_argument("--seed", type=at_least(0), default=0, metavar="N")
        sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")

    sub = command("reproduce", "run every notebook in order; resumes where it stopped")
    sub.add_argument("--profile", choices=PROFILES, default="demo")
    sub.add_argument("--task", choices=(*TASKS, "all"), default="all")
    sub.add_argument("--run", default="", metavar="DIR", help="default: runs/PROFILE")
    sub.add_argument("--data", default="", metavar="DIR", help="default: RUN/data, drawn when missing (not by paper)")
    sub.add_argument("--seed", type=at_least(0), default=0, metavar="N")
    sub.add_argument("--only", metavar="01,02", help="these notebooks only")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    sub.add_argument("--publish", action="store_true", help="put executed notebooks and figures back into the project")

    data = command("data", "check or draw data sets").add_subparsers(dest="action", required=True, parser_class=Parser)
    sub = command("check", "which sets are there, whole, and how to get the others", data)
    sub.add_argument("--data", required=True, type=Path, metavar="DIR")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = command("synthesise", "draw people or faces in the real sets' layouts", data)
    sub.add_argument("--task", choices=TASKS, default="person")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR")
    sub.add_argument("--seed", type=at_least(0), default=0, metavar="N")
    sub.add_argument("--scale", choices=("demo", "market", "tiny"), default="demo")

    sub = command("train", "train one stage; a finished one is left, a half-finished one goes on")
    sub.epilog, sub.formatter_class = SEVERAL_GPUS, argparse.RawDescriptionHelpFormatter
    sub.add_argument("stage", choices=STAGES)
    common(sub, data=False)
    sub.add_argument("--data", type=Path, metavar="DIR", help="the folder of the data sets; default: RUN/data")
    sub.add_argument("--profile", choices=PROFILES, default="demo")
    sub.add_argument("--method", default="ppcl", metavar="M", help="the row of the table, for joint")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key")

    sub = command("evaluate", "evaluate a run on a data set; writes RUN/results.csv")
    common(sub)
    sub.add_argument("--dataset", required=True, choices=TESTS)
    sub.add_argument("--method", metavar="M", help=f"one row ({', '.join(METHODS)}); default: all that are trained")
    sub.add_argument("--json", type=a_file, metavar="FILE", help="write the rows as JSON, too")

    sub = command("rank", "rank your own photographs: a CSV and a picture")
    common(sub, data=False)
    sub.add_argument("--query", required=True, nargs="+", type=Path, metavar="IMAGE")
    sub.add_argument("--gallery", required=True, type=Path, metavar="FOLDER")
    sub.add_argument("--top", type=at_least(1), default=10, metavar="N")
    sub.add_argument("--method", default="ppcl", metavar="M")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR")

    sub = command("bench", "measure speed and memory against references and this machine's bounds; two to five minutes")
    sub.add_argument("--json", type=a_file, metavar="FILE", help="the record; default: figures/benchmarks.json")
    return top


def run_reproduce(given) -> None:
    """Every notebook in order."""
    from .runs.reproduce import reproduce

    reproduce(
        given.profile, given.task, given.run, given.data, given.seed, given.only, given.set, given.device, given.publish
    )


def run_data(given) -> None:
    """Check the sets below a folder, or draw some into it."""
    from .data import datasets

    if given.action == "synthesise":
        datasets.synthesise(given.task, given.out, given.seed, given.scale)
        return print(f"drawn: {given.out}")
    rows = datasets.check(given.data)
    if given.json:
        return print(json.dumps(rows, indent=1))
    for row in rows:
        line = f"{row['dataset']:14} {row['part']:9} {row['status']:10} {row['pictures']:6} pictures, "
        print(line + f"{row['identities']:4} people  {row['folder'] or ''} {row['note']}".rstrip())


def run_train(given) -> None:
    """One stage, alone or as one of torchrun's processes."""
    chosen = recipe(given.task, given.profile, **parse_overrides(given.set))
    method(given.method)
    check_processes(chosen, given.stage, PROCESSES)

    from . import training
    from .data import datasets
    from .disk import run_lock
    from .runs.manifest import device, manifest, of_profile, record
    from .training import processes

    of_profile(given.run, given.profile)
    data = given.data or given.run / "data"
    where = device(given.device)
    processes.start(where)
    for turn in (True, False):  # the first decodes and keeps the pictures, the others map its file
        if processes.is_main() == turn:
            pictures = training.training_data(chosen, data, where)
        processes.wait()
    processes.agree(int(pictures.pictures, 16) >> 8, f"{data} does not hold the same pictures for all processes")
    with run_lock.hold(given.run) if processes.is_main() else contextlib.nullcontext():
        if given.stage == "joint":
            path = training.train_joint(chosen, pictures, given.run, given.method, given.seed)
        else:
            train = {"glrec": training.train_glrec, "backbone": training.train_backbone}[given.stage]
            path = train(chosen, pictures, given.run, given.seed)
        if processes.is_main():
            known = {} if "data" in manifest(given.run) else {"data": datasets.contents(data)}  # reads every byte
            record(given.run, chosen, where, given.seed, processes=PROCESSES, **known)
            print(path)
    processes.stop()


def run_evaluate(given) -> None:
    """A run on a data set, and its table printed."""
    from . import evaluation
    from .evaluation import results
    from .runs.manifest import device

    methods = [given.method] if given.method and method(given.method) else None
    found = evaluation.evaluate(
        given.run, given.task, given.dataset, given.data, methods, given.seed, device(given.device)
    )
    if given.json:
        write_text(given.json, results.as_json(found.rows) + "\n")
    table = results.read(given.run)
    table = table[(table.task == given.task) & (table.synthetic == found.drawn) & (table.seed == given.seed)]
    for protocol in dict.fromkeys(row["protocol"] for row in found.rows):
        if protocol not in ("truth", "input-ratio"):
            print(f"{given.dataset}, {protocol}, per cent with 95 % intervals")
            shown = {"metrics": ("accuracy", "TAR@FAR=1e-3")} if protocol == "verification" else {}
            print(results.wide(table, given.dataset, protocol, **shown).to_string(), end="\n\n")
    print(given.run / "results.csv")


def run_rank(given) -> None:
    """Photographs against a folder of others."""
    from . import search
    from .runs.manifest import device

    table = search.rank(
        given.run, given.task, given.query, given.gallery, given.out, given.top, given.method, given.seed,
        device(given.device),
    )  # fmt: skip
    print(table[table["rank"] == 1][["query", "gallery", "distance", "partial"]].to_string(index=False))
    print(given.out / "ranking.csv", given.out / "ranking.png")


def run_bench(given) -> None:
    """What this machine measures."""
    from . import bench
    from .runs.manifest import device

    path = given.json or bench.RECORD
    if not (given.json or path.parent.is_dir()):
        raise RecipeError(f"there is no {path.parent}, as ppcl is no checkout: say where to, by --json FILE")
    bench.bench(path, device=device())
    print(path)


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; 0 done, 1 the work failed, 2 the call was wrong, 130 stopped by Ctrl-C."""
    given = parser().parse_args(arguments)
    try:
        if PROCESSES > 1 and given.command != "train":
            raise RecipeError(f"{given.command} runs in one process: start it without torchrun, which is for train")
        {
            "reproduce": run_reproduce,
            "data": run_data,
            "train": run_train,
            "evaluate": run_evaluate,
            "rank": run_rank,
            "bench": run_bench,
        }[given.command](given)
    except KeyboardInterrupt:
        goes_on = given.command in ("reproduce", "train", "data")
        tell(f"stopped; the same command {'goes on where it stopped' if goes_on else 'begins anew, nothing is lost'}")
        return 130
    except RecipeError as error:
        tell(f"python -m ppcl: {error}")
        return 2
    except Exception as error:
        if given.debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error = RuntimeError("no room left on the disk: free some and start again, what is finished is kept")
        elif isinstance(error, OSError) and error.filename:
            name = printable(os.fsdecode(error.filename))
            error = RuntimeError(f"{name}: {error.strerror.lower()}; give another folder or file")
        lines = str(error).strip().splitlines() or [""]
        command = f"{given.command} {given.action}" if given.command == "data" else given.command
        tell(f"python -m ppcl {command}: {lines[0] or type(error).__name__}")
        return 1
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files that a terminal has no letters for
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: a stage ends its step and saves
    status = main()
    if status and PROCESSES > 1:  # an orderly end would wait for the others, who wait for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
