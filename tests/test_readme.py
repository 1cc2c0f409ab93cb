"""README.md and METHOD.md: commands and snippets run as they stand, tables agree with what is committed."""

import itertools
import re
import shlex
import shutil
from pathlib import Path

import pandas
import pytest
import torch
from conftest import SMALL, train

from ppcl import geometry, recipes
from ppcl.__main__ import main, parser
from ppcl.data import datasets, stage_batches
from ppcl.data.sets import SETS
from ppcl.models import nets

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHOD = (ROOT / "ppcl/METHOD.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
PPCL = [line for line in LINES if "-m ppcl" in line]
SNIPPETS = re.findall(r"```python\n(.*?)```", README + METHOD, re.S)
ELSEWHERE = {  # word of a command -> the test that runs it
    "paper": "real data and a GPU; test_training.py and test_face_runs.py take a step of every stage of its recipe",
    "reproduce": "test_notebooks.py, tiny",
}


def test_docstrings_cite_sections_of_the_method_that_exist():
    assert all((ROOT / "ppcl" / link).is_file() for link in re.findall(r"\]\(([^)]+)\)", METHOD))
    sections = re.findall(r"^## (\d+)\.", METHOD, re.M)
    assert sections == [str(number + 1) for number in range(10)]
    source = "".join(path.read_text() for path in sorted((ROOT / "ppcl").rglob("*.py")))
    cited = re.findall(r"METHOD\.md(?:'s)?(?:,? §(\d+)| *)(?: and §(\d+))?", source)
    assert len(cited) > 10 and {number for pair in cited for number in pair if number} <= set(sections)


def words_of(line):
    words = shlex.split(line.split("#")[0])
    return words[words.index("ppcl") + 1 :]


@pytest.fixture(scope="module")
def folder(tiny, drawn, tmp_path_factory):
    """Where the README's lines are run: a trained run in `runs/demo`, photographs, sets in DATA, identities in MINE."""
    top = tmp_path_factory.mktemp("readme")
    train(
        recipes.recipe("person", "tiny", **SMALL), stage_batches.training_data(tiny, drawn), top / "runs/demo", ["ppcl"]
    )
    shutil.copytree(drawn, top / "DATA")
    whole = sorted((drawn / "Partial-REID_Dataset/whole_body_images").glob("*.jpg"))
    shutil.copytree(whole[0].parent, top / "photographs")
    for name, path in zip(("half", "a", "b"), whole, strict=False):
        shutil.copy(path, top / f"{name}.jpg")
    for part in ("train", "gallery"):
        some = datasets.read("market1501", part, drawn)
        for path, person in zip(some.paths, some.identities, strict=True):
            (top / f"MINE/{part} {person}").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, top / f"MINE/{part} {person}")
    return top


@pytest.mark.parametrize("line", PPCL)
def test_every_command_of_the_readme_is_one(line):
    given = parser().parse_args(words_of(line))
    overrides = recipes.parse_overrides(getattr(given, "set", []))
    recipes.recipe("person", getattr(given, "profile", "demo"), **overrides)


def test_every_command_and_file_in_the_text_is_one():
    text = re.sub(r"```.*?```", "", README, flags=re.S).replace("\n", " ")
    spans = re.findall(r"`([^`]+)`", text)
    commands = [span for span in spans if span.startswith(("python -m ppcl ", "reproduce "))]
    assert len(commands) > 2
    for command in commands:
        if not command.endswith("--help"):
            parser().parse_args(shlex.split(command.removeprefix("python -m ppcl ")))
    for file in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / "ppcl" / file).is_file(), file


def test_every_command_that_needs_nothing_else_runs_as_it_stands(folder, monkeypatch):
    """In their order, since one reads what another wrote; trained at the tiny size."""
    monkeypatch.chdir(folder)
    run = [line for line in PPCL if not any(word in line for word in ELSEWHERE)]
    assert {tuple(words_of(line)[:1]) for line in run} == {("rank",), ("data",), ("train",), ("evaluate",)}
    fast = ["--profile", "tiny", *itertools.chain(*(["--set", f"{key}={value}"] for key, value in SMALL.items()))]
    for line in run:
        assert main(words_of(line) + (fast if words_of(line)[0] == "train" else [])) == 0, line
    assert {"ranking.csv", "ranking.png", "ranking.pdf"} <= {path.name for path in Path("found").iterdir()}
    assert (
        set(pandas.read_csv("runs/mine/results.csv").dataset) == {"own"} and Path("runs/mine/person/own.csv").is_file()
    )


@pytest.mark.parametrize("word", ELSEWHERE)
def test_every_command_that_is_run_elsewhere_is_there(word):
    assert any(word in line for line in PPCL)
    for file in re.findall(r"test_\w+\.py", ELSEWHERE[word]):
        assert {"paper": '"paper"'}.get(word, word) in (ROOT / "tests" / file).read_text(), file


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.strip().splitlines()[-1][:30])
def test_every_snippet_runs_as_it_stands(snippet, folder, monkeypatch):
    """Only the profile is smaller. Results have the shapes that the comments give."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(nets, "NETS", dict(nets.NETS))
    found = {}
    exec(compile(snippet.replace('"person", "demo"', '"person", "tiny"'), "README.md", "exec"), found)
    if "distances" in found:
        assert found["distances"].shape == (1, 2) and found["distances"].isfinite().all()
    elif "rectify" in found:
        assert found["box"].shape == (1, 4) and found["gate"].shape == (1,)
        assert found["canvas"].shape == found["pictures"].shape and found["visible"].shape == (1, 1, 64, 32)
    elif "located" in found:
        assert found["located"].shape == (1, 4) and 0 < found["confidence"] <= 1
        assert geometry.iou(found["located"], found["upper_half"]) > 0.3  # random maps: it is the place that speaks
    else:
        assert found["model"].backbone.channels == 64 and not found["model"].training


def test_there_is_a_snippet_for_each_use():
    wanted = ("ppcl.match", "rectify", "CRLoc(", 'NETS["own:')
    assert [sum(word in text for text in SNIPPETS) for word in wanted] == [1, 1, 1, 1] and len(SNIPPETS) == 4


def test_crloc_alone_finds_a_part_that_moved():
    """As in METHOD.md's snippet, on maps where the answer is known: b is a, moved down by a quarter."""
    from ppcl.models.crloc import CRLoc

    torch.manual_seed(0)
    a = torch.randn(1, 256, 16, 8)
    b = a.roll(4, dims=2)
    crloc = CRLoc(channels=256, recipe=recipes.recipe("person", "paper").joint)
    region, visible = torch.tensor([[0.5, 0.25, 1.0, 0.5]]), torch.ones(1, 1, 16, 8)
    located, _ = crloc(crloc.keys(a), crloc.keys(b), region, visible)
    truth = torch.tensor([[0.5, 0.5, 1.0, 0.5]])
    assert geometry.iou(located, truth) > geometry.iou(region, truth) + 0.2


def test_the_citation_is_the_one_of_the_file():
    bibtex = re.search(r"```bibtex\n(.*?)```", README, re.S)[1]
    file = (ROOT / "CITATION.cff").read_text()
    paper = file.split("preferred-citation:")[1]
    assert re.search(r"title: (.*)", paper)[1] in bibtex and re.search(r"year: (\d+)", paper)[1] in bibtex
    names = re.findall(r"family-names: ([\w-]+), given-names: ([\w-]+)", paper)
    assert " and ".join(f"{family}, {given}" for family, given in names) in bibtex
    version = re.search(r'version = "(.*)"', (ROOT / "pyproject.toml").read_text())[1]
    assert re.search(r"^version: (.*)", file, re.M)[1] == version


def test_torchrun_reads_the_lines_of_trains_help_as_meant(capsys):
    """Its own options end before ours begin, or it would take `--run` for `--run-path`."""
    from torch.distributed.run import parse_args

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out.replace("\\\n", " ")
    lines = [line.strip() for line in shown.splitlines() if line.strip().startswith("torchrun ")]
    assert len(lines) == 2
    for line in lines:
        read = parse_args(shlex.split(line)[1:])
        assert read.module and read.training_script == "ppcl"
        assert int(read.nnodes.split(":")[0]) * int(read.nproc_per_node) == 8
        parser().parse_args(read.training_script_args)


def test_the_two_commands_set_everything_up_themselves():
    for name, last in (("reproduce", "-m ppcl reproduce"), ("tests", "-m pytest -n auto")):
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
    """METHOD.md's tables of choices, people's and then faces', give keys and values of the paper profile."""
    tables = METHOD.split("For faces, in the paper profile:")
    assert len(tables) == 2
    for task, table in zip(("person", "face"), tables, strict=True):
        chosen = recipes.recipe(task, "paper")
        rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([^|]+) \|", table, re.M)
        assert len(rows) > 10
        for part, key, value in rows:
            known = getattr(getattr(chosen, part), key)
            known = ",".join(map(str, known)) if isinstance(known, tuple) else str(known)
            assert known == value.strip(), (task, part, key)


def test_the_table_is_what_the_committed_results_say():
    from ppcl.evaluation import results
    from ppcl.runs.reproduce import MARKS

    shown = README.split(MARKS[0])[1].split(MARKS[1])[0].strip()
    assert shown == results.markdown(results.read(ROOT / "figures"))
    assert "[" in shown and "ppcl" in shown


def test_the_table_of_sources_is_what_the_records_say():
    for one in SETS.values():
        counts = [f"{part.pictures:,}" for part in one.parts.values() if part.pictures]
        if one.source:
            row = next(line for line in README.splitlines() if line.startswith("| ") and f"`{one.folders[0]}/" in line)
            assert all(count in row for count in counts), (one.name, row)
            assert one.source.split(" (")[0].rstrip(",") in row, (one.name, row)


def test_the_readme_is_short():
    tables = [len(table.splitlines()) - 2 for table in re.findall(r"(?:^\|.*\n)+", README, re.M)]
    assert len(README.encode()) <= 14_000 and len(tables) <= 3 and max(tables) <= 6
