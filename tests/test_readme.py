"""The README's commands are what they say: each is parsed, and the CI runs one of them to the letter."""

import re
import shlex
from pathlib import Path

import pytest

from ppcl.__main__ import parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
PPCL = [line for line in LINES if "-m ppcl" in line or "-m -- ppcl" in line]


@pytest.mark.parametrize("line", PPCL)
def test_every_command_of_the_readme_is_one(line):
    words = shlex.split(line.split("#")[0])
    parser().parse_args(words[words.index("ppcl") + 1 :])


def test_torchruns_lines_are_read_as_meant_by_torchrun():
    """Its own options end before ours begin, or it would take `--run` for `--run-path`."""
    from torch.distributed.run import parse_args

    lines = [line for line in PPCL if "torchrun" in line]
    assert len(lines) == 2
    for line in lines:
        read = parse_args(shlex.split(line)[1:])
        assert read.module and read.training_script == "ppcl" and read.training_script_args[:2] == ["train", "backbone"]
        assert int(read.nnodes.split(":")[0]) * int(read.nproc_per_node) == 8


def test_the_two_commands_set_everything_up_themselves():
    for name, last in (("reproduce", "-m ppcl reproduce"), ("tests", "-m pytest")):
        block = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", README, re.S)
        assert block, f"the README lost its {name} command"
        assert "venv" in block[1] and "-r requirements.txt" in block[1] and block[1].rstrip().endswith(last)


def test_requirements_are_pinned_and_end_in_the_project():
    lines = (ROOT / "requirements.txt").read_text().split("\n")
    assert [line for line in lines if line][-1] == "-e ."
    assert {"torch==2.14.1", "torchvision==0.29.1"} <= set(lines)
    assert all("==" in line for line in lines if line and line != "-e .")


def test_no_file_of_the_readme_is_missing():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r'src="(?!http)([^"]+)"', README):
        assert (ROOT / path).exists(), path


def test_every_choice_of_ours_that_the_tables_name_is_the_recipes():
    """The README's tables of choices, people's and then faces', give keys and values of the paper profile."""
    from ppcl.recipes import recipe

    tables = README.split("For faces, in the paper profile:")
    assert len(tables) == 2
    for task, table in zip(("person", "face"), tables, strict=True):
        chosen = recipe(task, "paper")
        rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([^|]+) \|", table, re.M)
        assert len(rows) > 10
        for part, key, value in rows:
            known = getattr(getattr(chosen, part), key)
            known = ",".join(map(str, known)) if isinstance(known, tuple) else str(known)
            assert known == value.strip().strip("`"), (task, part, key)


def test_the_table_is_what_the_committed_results_say():
    from ppcl import results
    from ppcl.reproduce import MARKS

    shown = README.split(MARKS[0])[1].split(MARKS[1])[0].strip()
    assert shown == results.markdown(results.read(ROOT / "figures"))
    assert "[" in shown and "ppcl" in shown
