"""Every notebook in order, headless, with papermill; resumes where it stopped."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

from .. import evaluation, recipes
from ..data import datasets
from ..disk import progress, run_lock
from ..disk.files import replacing, write_text
from ..evaluation import results
from ..models import nets
from ..training import stage_on_disk
from . import report
from .manifest import ReproduceError, manifest, of_profile, peak_memory, record
from .manifest import device as device  # with reproduce, as notebooks meet them
from .manifest import versions as versions

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
EXPLORE = NOTEBOOKS / "explore.ipynb"
ROOM = {"tiny": 50, "demo": 300, "paper": 6000}  # MiB that a run may write
MARKS = ("<!-- results: begin -->", "<!-- results: end -->")  # around README's table of results


def at_root() -> None:
    """Work at the project's root, wherever a notebook was opened."""
    os.chdir(ROOT)


def notebooks(only: str | None = None) -> list[Path]:
    """The numbered notebooks in order, or those whose numbers `only` names ("01,02"). Raises ValueError for others."""
    found = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ReproduceError(f"no notebooks in {NOTEBOOKS}: clone the project and run it there, as the README shows")
    wanted = [number.strip().zfill(2) for number in only.split(",")] if only else list(found)
    for number in wanted:
        if number not in found:
            raise ValueError(f"--only: there is no notebook {number!r}; there are {', '.join(found)}")
    return [found[number] for number in sorted(set(wanted))]


def fingerprint(path: Path, parameters: dict, recipe: recipes.Recipe, pictures: str = "") -> str:
    """What a finished notebook depends on: its cells, parameters, recipe, own photographs, the library's sources."""
    digest = hashlib.sha256(json.dumps([parameters, recipe.to_dict(), pictures], sort_keys=True).encode())
    for cell in json.loads(path.read_text())["cells"]:
        digest.update("".join(cell["source"]).encode())
    for source in sorted((ROOT / "ppcl").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def reproduce(
    profile: str = "demo",
    task: str = "all",
    run: Path | str = "",
    data: Path | str = "",
    seed: int = 0,
    only: str | None = None,
    overrides: list[str] | None = None,
    on: str = "auto",
    publish: bool = False,
) -> Path:
    """Run the notebooks for each task; executed copies go to `run/notebooks`. -> the run folder.

    A notebook that ran to its end with the same code and parameters is not run again; inside one, a stage that was
    cut off goes on after its last epoch. `publish` puts the executed notebooks and figures back into the project; of a
    run with overrides, such as the whole ablation table, its table of all queries alone, as `figures/ablations.csv`.
    """
    if data and not Path(data).is_dir():
        raise ValueError(f"{data} is not a folder: give one that is there, or leave it out and pictures are drawn")
    run = Path(run or f"runs/{profile}").resolve()
    data = Path(data).resolve() if data else run / "data"
    chosen, where = notebooks(only), device(on)
    tasks = [task]
    own = datasets.is_own(data)
    if task == "all":  # people last, so that their notebooks can show faces, too
        if own and all(datasets.trained_on(name, data).split for name in recipes.TASKS):
            raise ValueError(f"{data} is a folder of identities: say whose, with --task person or --task face")
        drawing = not own and profile != "paper"  # what is not there
        tasks = [name for name in reversed(recipes.TASKS) if drawing or _there(name, data)] or ["person"]
    if own or profile == "paper":
        for name in tasks:
            datasets.training_set(name, data)
            datasets.partial_sets(data, name)
    wanted = {name: recipes.recipe(name, profile, **recipes.parse_overrides(overrides or [])) for name in tasks}
    for name in tasks:  # weights that are another net's, or cannot be fetched, are no news for after the first stage
        how, begun = wanted[name].backbone, stage_on_disk.of_stage(run, name, "backbone").is_file()
        if not begun and any(path.stem == "03_backbone_training" for path in chosen):
            nets.body(how.architecture, how.weights)
    run.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run).free >> 20
    if free < ROOM[profile]:
        raise ReproduceError(
            f"{run}: {free} MiB are free, a {profile} run needs {ROOM[profile]}: free some room, or give --run"
        )
    began, ran = time.time(), 0
    grows = any(datasets.trained_on(name, data).split for name in tasks)  # people are added to such a folder
    pictures = str([datasets.read("own", part, data).fingerprint for part in ("train", "test")]) if grows else ""
    work = [(path, name) for path in chosen for name in tasks]
    with run_lock.hold(run):
        of_profile(run, profile)
        for name in tasks:
            for stage in ("glrec", "backbone"):  # one of another recipe or seed is refused before anything is done
                path, facts = stage_on_disk.of_stage(run, name, stage), {"stage": stage, "task": name, "seed": seed}
                stage_on_disk.Stage(path, wanted[name], (stage,), stage, **facts)
        for number, (path, name) in enumerate(work, 1):
            recipe = wanted[name]
            parameters = {"task": name, "profile": profile, "run": _short(run), "data": _short(data), "seed": seed}
            parameters |= {"device": on, "overrides": list(overrides or [])}
            seconds = _execute(path, run, parameters, recipe, f"[{number}/{len(work)}] {name} {path.stem}", pictures)
            if seconds:
                ran += 1
                spent = {"seconds": {f"{name}_{path.stem}": seconds}, "peak_memory_mib": peak_memory()}
                if path in (chosen[0], chosen[-1]):  # reading every byte takes minutes on the real sets
                    spent["data"] = datasets.contents(data)
                record(run, recipe, where, seed, **spent)
        if "data" not in manifest(run):  # killed while it was read
            record(run, recipe, where, seed, data=datasets.contents(data))
        if publish and not overrides and not only:  # as it looks without a hand on its sliders
            _execute(EXPLORE, run, parameters, recipe, EXPLORE.stem)
        report.write(run, data)
    if publish and overrides:
        whole = results.read(run).query("subset == 'all'")  # what notebook 06 shows; the kinds of crop are 3 in 4 rows
        write_text(ROOT / "figures" / results.ABLATIONS, results.as_csv(whole))
    elif publish:
        _publish(chosen if only else [*chosen, EXPLORE], run, tasks[-1])
    print(summary(run))
    spent = progress.duration(time.time() - began)
    print(f"{len(work)} notebooks: {ran} ran now, {len(work) - ran} had run before; {spent}")
    return run


def source(recipe: recipes.Recipe, data: Path | str, seed: int, seeds: int = 1) -> str:
    """What numbers and figures come from, for the eye: pictures, profile, seed or seeds."""
    pictures = "photographs" if datasets.is_own(Path(data)) else "drawn pictures"
    trained = f"seeds {seed} to {seed + seeds - 1}" if seeds > 1 else f"seed {seed}"
    return f"{pictures}, {recipe.profile} profile, {trained}"


def summary(run: Path) -> str:
    """What a run came to: its results in short, its time and memory, and where everything lies."""
    known = manifest(run)
    tables = results.summary(results.read(run)).items()
    lines = [f"\n{name}, per cent with 95 % intervals\n{shown.rename_axis(None).to_string()}" for name, shown in tables]
    spent = progress.duration(sum(known.get("seconds", {}).values()))
    lines.append(f"\nall notebooks: {spent}, up to {known.get('peak_memory_mib', 0) / 1024:.1f} GiB")
    paths = {"numbers": "results.csv", "figures": "figures", "notebooks": "notebooks", "report": "report/index.html"}
    lines += [f"{name + ':':10} {_short(run / path)}" for name, path in paths.items() if (run / path).exists()]
    return "\n".join(lines)


def _there(task: str, data: Path) -> bool:
    try:
        return bool(datasets.training_set(task, data)) and not datasets.trained_on(task, data).split
    except datasets.DataError:
        return False


def _stamp(copy: Path) -> str | None:
    """What an executed copy depends on; None where there is none, or a damaged one: it is made again."""
    try:
        return json.loads(copy.read_text())["metadata"]["ppcl"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _left(stem: str, run: Path, recipe: recipes.Recipe, seed: int) -> bool:
    """Whether what a finished notebook made is still there: checkpoints, results, the main figure."""
    if stem == "05_evaluation":
        table = results.read(run)
        return bool(((table.task == recipe.task) & (table.seed == seed)).any())
    seeds = range(seed, seed + recipe.ablation.seeds)
    made = {
        "02_glrec_pretraining": [stage_on_disk.of_stage(run, recipe.task, "glrec")],
        "03_backbone_training": [stage_on_disk.of_stage(run, recipe.task, "backbone")],
        "04_joint_training": [
            evaluation.checkpoint(run, recipe.task, row, number) for row in recipes.rows(recipe) for number in seeds
        ],
        "07_figures": [run / "figures" / "figure1.png"],
    }
    return all(path.is_file() for path in made.get(stem, ()))


def _execute(path: Path, run: Path, parameters: dict, recipe: recipes.Recipe, label: str, pictures: str = "") -> float:
    """One notebook, unless it is done; the copy appears whole under its own name when it ran to its end. -> seconds."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    target = run / "notebooks" / f"{parameters['task']}_{path.name}"
    stamp = fingerprint(path, parameters, recipe, pictures)
    draft = target.with_name(f".{target.name}")
    if _stamp(target) == stamp and _left(path.stem, run, recipe, parameters["seed"]):
        draft.unlink(missing_ok=True)  # of a process that was killed in between
        print(f"{label}: done before", flush=True)
        return 0.0
    print(f"{label} …", flush=True)
    began = time.time()
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        with progress.followed(run / ".progress", label):
            papermill.execute_notebook(
                str(path), str(draft), parameters, cwd=str(ROOT), kernel_name="python3", progress_bar=False,
                extra_arguments=["--log-level=CRITICAL"],
            )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # Ctrl-C reached the notebook's process first
            raise KeyboardInterrupt from None
        raise ReproduceError(
            f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue} (so far: {draft})"
        ) from None
    notebook = json.loads(draft.read_text())
    notebook["metadata"]["ppcl"] = stamp
    write_text(target, json.dumps(notebook, indent=1) + "\n")
    draft.unlink()
    seconds = round(time.time() - began, 1)
    print(f"{label}: {seconds:.0f} s", flush=True)
    return seconds


def _short(path: Path) -> str:
    """A path relative to the project where it lies inside, so that executed notebooks carry no absolute ones."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _publish(chosen: list[Path], run: Path, task: str) -> None:
    """Executed notebooks and figures into the project: metadata of papermill removed, outputs kept."""
    for path in chosen:
        notebook = json.loads((run / "notebooks" / f"{task}_{path.name}").read_text())
        notebook["metadata"] = {key: notebook["metadata"][key] for key in ("kernelspec", "language_info")}
        cells = [cell for cell in notebook["cells"] if "injected-parameters" not in cell["metadata"].get("tags", [])]
        for count, cell in enumerate((c for c in cells if c["cell_type"] == "code"), 1):
            cell["execution_count"] = count
            for output in cell["outputs"]:
                if "execution_count" in output:
                    output["execution_count"] = count
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)  # its model is gone
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for cell in cells:
            cell["metadata"] = {"tags": cell["metadata"]["tags"]} if cell["metadata"].get("tags") else {}
        notebook["cells"] = cells
        write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    for picture in sorted((run / "figures").glob("*.png")):
        with replacing(ROOT / "figures" / picture.name) as temporary:
            temporary.write_bytes(picture.read_bytes())
    write_text(ROOT / "figures" / "results.csv", (run / "results.csv").read_text())
    begin, end = MARKS
    before, rest = (ROOT / "README.md").read_text().split(begin)
    table = results.markdown(results.read(ROOT / "figures"))
    write_text(ROOT / "README.md", f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")
