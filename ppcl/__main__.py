"""The command line: parsing, and one call each (`python -m ppcl --help`)."""

import argparse
import errno
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from . import __version__
from .data.sets import TESTS
from .disk.files import as_json, given_path, prepare_streams, printable, write_text
from .recipes import METHODS, PROFILES, TASKS, RecipeError, check_processes, method, parse_overrides, recipe

STAGES = ("glrec", "backbone", "joint")
SEVERAL_GPUS = """\
several GPUs: `reproduce` trains stages and rows side by side, one on each GPU. For one stage on all of them, start it
with torchrun before `reproduce`, which then finds it finished. The batch stays the published one and is split by
identity, so the number of processes must divide the batch's identities (people: 2, 4, 8 or 16). Losses and BatchNorm
see the whole batch. All stages need the same --set, and all machines the same --data and --run.

  one machine with 8 GPUs:
    torchrun --nproc-per-node 8 -m -- ppcl train backbone --profile paper --data DATA --run runs/paper
  two machines with 4 GPUs each (HOST is the first; --node-rank 1 on the second):
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr HOST --master-port 29500 \\
        -m -- ppcl train backbone --profile paper --data DATA --run runs/paper

The -- keeps torchrun from reading --run as an option of its own. Training sets of more than 256 MiB are decoded once
into DATA/decoded, which may be deleted at any time.
"""


def world_size() -> int:
    """Return the number of processes that torchrun started; 0 if WORLD_SIZE is no number."""
    given = os.environ.get("WORLD_SIZE") or "1"
    return int(given) if given.isdecimal() else 0


def report(line: str) -> None:
    """Print one line on stderr, whatever names it holds; of torchrun's processes, only the first to fail prints."""
    if world_size() > 1:
        with suppress(Exception):  # PyTorch may be half imported when a signal comes
            from .training.processes import reports_failure

            if not reports_failure():
                return
    print(printable(line), file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """A parser that answers a wrong call with one line and exit status 2."""

    def error(self, message: str):
        """Print what is wrong, and exit."""
        report(f"{self.prog}: {message} (see {self.prog} --help)")
        raise SystemExit(2)


def at_least(low: int):
    """Return an argparse type: a whole number from `low` on, below 2^63."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdecimal() or not low <= int(text) < 1 << 63:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} on, below 2^63, not {text!r}")
        return int(text)

    return number


def folder(text: str) -> Path:
    """Argparse type: a path; an unset variable in a shell gives an empty one, which would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a folder")
    return given_path(text)


def output_file(text: str) -> Path:
    """Argparse type: a file that exists or can be created."""
    path = given_path(text)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror.lower()}") from None
    path = path.resolve()  # a link stays, and the file that it leads to is written
    if path.exists() and not path.is_file():  # a device or a pipe would be replaced by a file
        raise argparse.ArgumentTypeError(f"{text} is a {'folder' if path.is_dir() else 'device or a pipe'}, not a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {above} is no folder with write permission")
    return path


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser("python -m ppcl", description="Partial person re-identification by part-part correspondence learning.")
    top.add_argument("--version", action="version", version=__version__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    options = {
        "--task": {"choices": TASKS, "default": "person"},
        "--profile": {"choices": PROFILES, "default": "demo"},
        "--run": {"type": folder, "metavar": "DIR", "required": True, "help": "run folder"},
        "--data": {"type": folder, "metavar": "DIR", "required": True, "help": "folder of the data sets"},
        "--out": {"type": folder, "metavar": "DIR", "required": True, "help": "output folder"},
        "--seed": {"type": at_least(0), "default": 0, "metavar": "N"},
        "--device": {"choices": ("auto", "cpu", "cuda"), "default": "auto"},
        "--method": {"default": "ppcl", "metavar": "M", "help": "row of the table; default: ppcl"},
        "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "change a recipe field"},
        "--jobs": {"type": at_least(1), "metavar": "N", "help": "processes side by side; default: as many as cores"},
        "--json": {"type": output_file, "metavar": "FILE"},
    }

    def command(name: str, text: str, *names: str, group=commands, **changed):
        sub = group.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)
        for each in names:
            sub.add_argument(each, **options[each] | changed.pop(each[2:], {}))
        return sub

    shown = ("--task", "--run", "--seed", "--device")
    sub = command(
        "reproduce", "run all notebooks in order; an interrupted run resumes", *shown, "--data", "--profile", "--set",
        "--jobs",
        task={"choices": (*TASKS, "all"), "default": "all"},
        run={"required": False, "help": "run folder; default: runs/PROFILE"},
        data={"required": False, "help": "folder of the data sets; default: RUN/data, drawn if missing (not by paper)"},
    )  # fmt: skip
    sub.add_argument("--only", metavar="01,02", help="run these notebooks only")
    sub.add_argument("--publish", action="store_true", help="copy executed notebooks and figures into the project")

    data = commands.add_parser("data", help="check data sets, or draw stand-ins")
    data = data.add_subparsers(dest="action", required=True, parser_class=Parser)
    sub = command(
        "check", "list the data sets found, their completeness, and sources of the others", "--data", group=data
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = command(
        "synthesise", "draw people or faces in the layouts of the real sets", "--task", "--out", "--seed", group=data
    )
    sub.add_argument("--scale", choices=("demo", "market", "tiny"), default="demo")

    sub = command(
        "train", "train one stage; an interrupted stage resumes, a finished one is kept", *shown, "--data", "--profile",
        "--method", "--set", data={"required": False, "help": "folder of the data sets; default: RUN/data"},
        method={"help": "row of the table, for the joint stage; default: ppcl"},
    )  # fmt: skip
    sub.epilog, sub.formatter_class = SEVERAL_GPUS, argparse.RawDescriptionHelpFormatter
    sub.add_argument("stage", choices=STAGES)

    sub = command(
        "evaluate", "evaluate a run on a data set; writes RUN/results.csv", *shown, "--data", "--method", "--json",
        "--jobs",
        method={"default": None, "help": f"one row of the table ({', '.join(METHODS)}); default: all trained rows"},
        json={"help": "also write the rows as JSON"},
    )  # fmt: skip
    sub.add_argument("--dataset", required=True, choices=TESTS)
    sub.add_argument("--rerank", action="store_true", help="add rows with k-reciprocal re-ranking (…+rerank)")

    sub = command(
        "rank", "rank your own pictures: a CSV and a figure", *shown, "--method", "--out",
        run={"required": False, "help": "run folder; default: the weights that come with the library"},
    )  # fmt: skip
    sub.add_argument("--query", required=True, nargs="+", type=given_path, metavar="IMAGE")
    sub.add_argument("--gallery", required=True, type=folder, metavar="FOLDER")
    sub.add_argument("--top", type=at_least(1), default=10, metavar="N", help="gallery pictures shown per query")

    command(
        "bench", "measure speed against usual implementations, 2 to 5 minutes", "--json",
        json={"help": "output file; default: figures/benchmarks.json"},
    )  # fmt: skip
    return top


def run_reproduce(given) -> None:
    """Run every notebook in order."""
    from .runs.reproduce import reproduce

    reproduce(
        given.profile, given.task, given.run, given.data, given.seed, given.only, given.set, given.device,
        given.publish, given.jobs,
    )  # fmt: skip


def run_data(given) -> None:
    """Check the data sets in a folder, or draw some into it."""
    from .data import datasets

    if given.action == "synthesise":
        datasets.synthesise(given.task, given.out, given.seed, given.scale)
        return print(f"drawn: {given.out}")
    rows = datasets.check(given.data)
    if given.json:
        return print(as_json(rows))
    for row in rows:
        line = f"{row['dataset']:14} {row['part']:9} {row['status']:10} {row['pictures']:6} pictures, "
        print(line + f"{row['identities']:4} people  {row['folder'] or ''}  {row['note']}".rstrip())
    if not any(row["folder"] or row["status"] == "made" for row in rows):
        try:
            datasets.read("own", "train", given.data)
        except datasets.DataError as error:  # says what lies there
            print(error)


def run_train(given) -> None:
    """Train one stage, alone or as one of torchrun's processes."""
    chosen = recipe(given.task, given.profile, **parse_overrides(given.set))
    method(given.method)
    check_processes(chosen, given.stage, world_size())

    from . import training
    from .data import datasets
    from .jobs import device
    from .runs.manifest import of_profile, record
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
    row = [given.method] if given.stage == "joint" else []
    path = training.STAGES[given.stage](chosen, pictures, given.run, *row, given.seed)
    if processes.is_main():
        record(given.run, chosen, where, given.seed, processes=world_size(), data=datasets.contents(data))
        print(path)
    processes.stop()


def run_evaluate(given) -> None:
    """Evaluate a run on a data set and print its table."""
    from . import evaluation, jobs
    from .evaluation import results

    methods, where = [given.method] if given.method and method(given.method) else None, jobs.device(given.device)
    count = given.jobs or jobs.default(where)
    found = evaluation.evaluate(
        given.run, given.task, given.dataset, given.data, methods, given.seed, where, rerank=given.rerank, count=count
    )
    if given.json:
        write_text(given.json, as_json(found.rows) + "\n")
    table = results.read(given.run)
    table = table[(table.task == given.task) & (table.synthetic == found.drawn) & (table.seed == given.seed)]
    for protocol in dict.fromkeys(row["protocol"] for row in found.rows):
        if protocol not in ("truth", "input-ratio"):
            print(f"{given.dataset}, {protocol}, per cent with 95 % intervals")
            shown = {"metrics": ("accuracy", "TAR@FAR=1e-3", "TAR@FAR=1e-2")} if protocol == "verification" else {}
            print(results.wide(table, given.dataset, protocol, **shown).to_string(), end="\n\n")
    print(given.run / "results.csv")


def run_rank(given) -> None:
    """Rank a folder of pictures for each query picture."""
    from . import search
    from .jobs import device

    table = search.rank(
        given.run, given.task, given.query, given.gallery, given.out, given.top, given.method, given.seed,
        device(given.device),
    )  # fmt: skip
    print(table[table["rank"] == 1][["query", "gallery", "distance", "partial"]].to_string(index=False))
    print(given.out / "ranking.csv", given.out / "ranking.png")


def run_bench(given) -> None:
    """Measure this machine."""
    from . import bench
    from .jobs import device

    path = given.json or bench.RECORD
    if not (given.json or path.parent.is_dir()):
        raise RecipeError(f"{path.parent} does not exist, since ppcl is not run from a checkout: give --json FILE")
    bench.bench(path, device=device())
    print(path)


COMMANDS = {
    "reproduce": run_reproduce, "data": run_data, "train": run_train, "evaluate": run_evaluate, "rank": run_rank,
    "bench": run_bench,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; -> 0 done, 1 the work failed, 2 wrong call, 130 stopped by Ctrl-C."""
    given = parser().parse_args(arguments)
    try:
        if world_size() < 1:
            raise RecipeError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, not a number of processes: unset it")
        if world_size() > 1 and given.command != "train":
            raise RecipeError(f"{given.command} runs in one process: start it without torchrun (only train uses it)")
        COMMANDS[given.command](given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        resumes = given.command in ("reproduce", "train", "data")
        report(f"stopped; the same command {'resumes' if resumes else 'starts again, and nothing is lost'}")
        return 130
    except RecipeError as error:
        report(f"python -m ppcl: {error}")
        return 2
    except Exception as error:
        if given.debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
            error = RuntimeError(f"{where}no room left on the disk: free some and start again, finished work is kept")
        elif isinstance(error, OSError) and error.filename:
            name = printable(os.fsdecode(error.filename))
            error = RuntimeError(f"{name}: {error.strerror.lower()}; give another folder or file")
        lines = str(error).strip().splitlines() or [""]
        command = f"{given.command} {given.action}" if given.command == "data" else given.command
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        report(f"python -m ppcl {command}: {lines[0] or type(error).__name__}{notes}")
        return 1
    return 0


def prepare_process() -> None:
    """Set up a process started by a shell: standard streams that may be closed, SIGTERM like Ctrl-C, a home folder."""
    prepare_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if os.path.expanduser("~") == "~":  # no HOME, and a user whom the system does not know: Jupyter wants a name
        os.environ["HOME"] = "/"


if __name__ == "__main__":
    if sys.stdout is sys.__stdout__:  # not in a notebook by %run
        prepare_process()
    status = main()
    if status and world_size() > 1:  # a normal exit would wait for the others, who wait for this process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
