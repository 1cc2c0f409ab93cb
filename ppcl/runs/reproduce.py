"""A whole experiment: every notebook in order, headless, with papermill; interrupted runs resume."""

import hashlib
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .. import evaluation, jobs, recipes, training
from ..data import datasets
from ..data.sets import SETS
from ..disk import checkpoints, locks, progress
from ..disk.files import given_path, replacing, write_text
from ..evaluation import results
from ..models import nets
from ..training import stage_on_disk
from . import report
from .manifest import ReproduceError, manifest, of_profile, record

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
EXPLORE = NOTEBOOKS / "explore.ipynb"
ROOM = {"tiny": 50, "demo": 300, "paper": 6000}  # MiB that a run may write
STAGES = {"02_glrec_pretraining": "glrec", "03_backbone_training": "backbone", "04_joint_training": "joint"}
MARKS = ("<!-- results: begin -->", "<!-- results: end -->")  # around README's table of results


def at_root() -> None:
    """Leave the notebooks' folder for the project's root, so that `runs/demo` means the same as on the command line.

    A notebook that papermill starts from another folder stays there: its relative paths are the caller's.
    """
    if Path.cwd() == NOTEBOOKS:
        os.chdir(ROOT)


def notebooks(only: str | None = None) -> list[Path]:
    """The numbered notebooks in order, or those whose numbers `only` lists ("01,02"). Raises ValueError for others."""
    found = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ReproduceError(f"no notebooks in {NOTEBOOKS}: clone the project and run it there, as the README shows")
    wanted = [number.strip().zfill(2) for number in only.split(",")] if only else list(found)
    for number in wanted:
        if number not in found:
            raise ValueError(f"--only: there is no notebook {number!r}; there are {', '.join(found)}")
    return [found[number] for number in sorted(set(wanted))]


def fingerprint(path: Path, parameters: dict, recipe: recipes.Recipe) -> str:
    """Hash of a notebook's cells, parameters (its folders aside) and recipe, of the library, and of committed tables.

    The pictures that it reads are compared apart, so that a change of them can be named.
    """
    given = {key: value for key, value in parameters.items() if key not in ("run", "data")}
    digest = hashlib.sha256(json.dumps([given, recipe.to_dict()], sort_keys=True).encode())
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        digest.update("".join(cell["source"]).encode())
    shown = [*(ROOT / "figures").glob("*.csv"), *(ROOT / "figures").glob("*.json")]
    read = sorted(shown) if path.stem[:2] in ("05", "06", "08") else []  # they show earlier results, too
    for source in [*sorted((ROOT / "ppcl").rglob("*.py")), *read]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def pictures(data: Path, recipe: recipes.Recipe) -> dict[str, str]:
    """Fingerprints of the task's training set (`market1501/train`) and test sets below `data` (`partial-reid`)."""
    training = datasets.training_set(recipe.task, data, recipe.data)
    names = datasets.available(data, settings=recipe.data)
    tested = {name: evaluation.prepare(name, data, recipe).fingerprint for name in names}
    return {training.name: training.fingerprint} | tested


def read_by(stem: str, task: str, known: dict[str, str], there: dict[str, str]) -> dict[str, str]:
    """The fingerprints of the sets that a notebook reads: 01 all, the stages the training set, 07 both tasks' sets.

    `known`: those of `pictures`; `there`: of all parts of all sets, also of those that no test or training reads.
    """
    if stem == "08_performance":
        return {}
    if stem == "01_data_preparation":
        return there | known
    stage = stem[:2] in ("02", "03", "04")
    tasks = None if stem == "07_figures" else task
    return {name: one for name, one in known.items() if "/" in name or (not stage and SETS[name].of(tasks))}


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
    count: int | None = None,
) -> Path:
    """Run the notebooks for each task; executed copies go to `run/notebooks`. -> the run folder.

    A notebook that ran to its end with the same code, parameters and pictures is not run again, and an interrupted
    stage resumes. `count` jobs run side by side (default: `jobs.default`); with several, the stages are jobs of their
    own, and the notebooks find them finished. `publish` copies the executed notebooks and figures into the project; of
    a run with overrides, such as the whole ablation table, only its rows of all queries, as `figures/ablations.csv`.
    """
    if data and not given_path(data).is_dir():
        raise ValueError(f"{data} is not a folder: give one that is there, or leave it out and pictures are drawn")
    if publish and profile != "demo":
        raise ValueError(f"--publish replaces the committed results, which are of the demo profile, not of {profile}")
    run = Path(run or f"runs/{profile}").resolve()
    data = given_path(data).resolve() if data else run / "data"
    if odd := [folder for folder in (run, data) if re.search("[\udc80-\udcff]", str(folder))]:
        raise ValueError(f"{odd[0]}: its name is not UTF-8, and notebooks hold nothing else: rename the folder")
    chosen, where = notebooks(only), jobs.device(on)
    tasks = [task]
    own = datasets.is_own(data)
    if task == "all":  # faces first: the person notebooks show their figures as well
        if own and all(datasets.trained_on(name, data).split for name in recipes.TASKS):
            raise ValueError(f"{data} is a folder of identities: say of which kind, with --task person or --task face")
        drawing = not own and profile != "paper"
        tasks = [name for name in reversed(recipes.TASKS) if drawing or _there(name, data)] or ["person"]
    wanted = {name: recipes.recipe(name, profile, **recipes.parse_overrides(overrides or [])) for name in tasks}
    for name, recipe in wanted.items():
        if not recipe.selection.heldout:
            raise ValueError("the notebooks show held-out people: a final fit is trained by python -m ppcl train")
        if own or profile == "paper":
            datasets.training_set(name, data, recipe.data)
            datasets.partial_sets(data, name, recipe.data)
        begun = stage_on_disk.stage_path(run, name, "backbone").is_file()
        if not begun and any(path.stem == "03_backbone_training" for path in chosen):
            nets.body(recipe.backbone.architecture, recipe.backbone.weights)  # fails now, not after the first stage
    run.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run).free >> 20
    if free < ROOM[profile]:
        raise ReproduceError(
            f"{run}: {free} MiB are free, a {profile} run needs {ROOM[profile]}: free some room, or give --run"
        )
    began, count = time.time(), count or jobs.default(where)
    with locks.hold(run / ".lock", f"{run}: another `reproduce` works in this run folder; wait for it, or give --run"):
        of_profile(run, profile)
        side = 1 if datasets.is_drawn(data) or datasets.is_own(data) else count
        jobs.run({f"drawing {name}": jobs.Job(datasets.ready, (wanted[name], data, run)) for name in tasks}, side)
        known = {name: pictures(data, recipe) for name, recipe in wanted.items()}
        sets = {name.partition("/")[0] for one in known.values() for name in one}
        if publish and (real := sorted(name for name in sets if not datasets.is_drawn(data, name))):
            raise ValueError(f"--publish is for drawn pictures alone, and {real[0]} in {data} is not drawn")
        parts = datasets.parts(data)
        there = {name: one for name, (_, one) in parts.items()}
        for name, recipe in wanted.items():
            _check_stages(run, recipe, seed, known[name])
        given = {"profile": profile, "run": _short(run), "data": _short(data), "seed": seed, "device": on}
        given |= {"overrides": list(overrides or [])}
        work = sorted(((path, name) for name in tasks for path in chosen), key=lambda one: one[0].stem[:2] == "08")
        todo, ran = {}, {}
        for number, (path, name) in enumerate(work, 1):
            label, recipe = f"[{number}/{len(work)}] {name} {path.stem}", wanted[name]
            parameters = given | {"task": name}
            reads = read_by(path.stem, name, known[name], there)
            stamp = {"code": fingerprint(path, parameters, recipe), "pictures": reads}
            made = _stamp(_copy(path, run, name))
            weights = made.pop("weights", None)
            if made == stamp and weights == _weights(run, weights) and _left(path.stem, run, recipe, seed, reads):
                print(f"{label}: done before", flush=True)
                continue
            whole = path.stem[:2] in ("05", "08")  # 05 shows other tasks' results, 08 measures: both wait for all
            after = [one for one, other in ran.items() if whole or other == name]
            here = count if name == tasks[-1] else 1  # the other tasks' work is done when the last one is evaluated
            todo[label] = jobs.Job(_execute, (path, run, parameters, label, stamp, here), tuple(after))
            ran[label] = name
        if count > 1:
            todo = _with_stages(todo, wanted, data, run, seed, where)

        def done(label: str, result: tuple[float, int]) -> None:
            name = ran.get(label) or label.split("/")[0]
            key = f"{name}_{label.split()[-1]}" if label in ran else label
            record(run, wanted[name], where, seed, seconds={key: result[0]}, peak_memory_mib=result[1])

        jobs.run(todo, count, done)
        contents = datasets.contents(data, parts)
        if todo or manifest(run).get("data") != contents:
            record(run, wanted[tasks[-1]], where, seed, data=contents)
        if publish and not overrides and not only:  # the explorer as it looks before anyone moves a slider
            _execute(EXPLORE, run, parameters, EXPLORE.stem, {}, count)
        report.write(run, data)
    if publish and overrides:
        # notebook 06 shows no other subsets, and these are one row in four
        whole = results.read(run).query("subset in ['all', 'pooled']")
        write_text(ROOT / "figures" / results.ABLATIONS, results.as_csv(whole))
    elif publish:
        _publish(chosen if only else [*chosen, EXPLORE], run, tasks[-1])
    print(summary(run))
    if gone := sorted(set(results.read(run).dataset) - {name for one in known.values() for name in one}):
        print(f"results.csv and figures/ also show {', '.join(gone)}, which {_short(data)} does not hold (any more)")
    spent = progress.duration(time.time() - began)
    print(f"{len(work)} notebooks: {len(ran)} ran now, {len(work) - len(ran)} had run before; {spent}")
    return run


def source(recipe: recipes.Recipe, data: Path | str, seed: int, seeds: int = 1) -> str:
    """A figure's note: kind of pictures, profile, seed or seeds."""
    kind = "photographs" if datasets.is_own(given_path(data)) else "drawn pictures"
    trained = f"seeds {seed} to {seed + seeds - 1}" if seeds > 1 else f"seed {seed}"
    return f"{kind}, {recipe.profile} profile, {trained}"


def summary(run: Path) -> str:
    """The end of a run's output: results in short, time, memory, and the paths of what was written."""
    known = manifest(run)
    table = results.read(run)
    tables = results.summary(table).items()
    lines = [f"\n{name}, per cent with 95 % intervals\n{shown.rename_axis(None).to_string()}" for name, shown in tables]
    for task, recipe in known.get("recipes", {}).items():
        plain = json.loads(json.dumps(recipes.recipe(task, "demo").to_dict()))
        compared = results.verdict(table, task) if recipe == plain else ()
        if len(compared):
            head = f"{task}, this run (seed {known['seed']}) against the committed run's 95 % intervals"
            lines.append(f"\n{head}\n{compared.rename_axis(None).to_string()}")
    spent = progress.duration(sum(known.get("seconds", {}).values()))
    peak = known.get("peak_memory_mib", 0) / 1024
    lines.append(f"\nall stages and notebooks: {spent}, up to {peak:.1f} GiB a process")
    paths = {"numbers": "results.csv", "figures": "figures", "notebooks": "notebooks", "report": "report/index.html"}
    lines += [f"{name + ':':10} {_short(run / path)}" for name, path in paths.items() if (run / path).exists()]
    return "\n".join(lines)


def _there(task: str, data: Path) -> bool:
    try:
        return bool(datasets.training_set(task, data)) and not datasets.trained_on(task, data).split
    except datasets.DataError:
        return False


def _check_stages(run: Path, recipe: recipes.Recipe, seed: int, known: dict[str, str]) -> None:
    """Refuse stages of another recipe, seed or training set before anything is done."""
    name, pictures = next(iter(known.items()))
    for stage in ("glrec", "backbone"):
        path = stage_on_disk.stage_path(run, recipe.task, stage)
        found = checkpoints.header(path) if path.is_file() else {}
        if found:
            facts = {"stage": stage, "task": recipe.task, "seed": seed, "pictures": pictures}
            stage_on_disk.compare(path, found, recipe.to_dict(), (stage,), "delete it", name, **facts)


def _stamp(copy: Path) -> dict:
    """Hashes of the code and the pictures of an executed copy; empty if the copy is missing or damaged."""
    try:
        found = json.loads(copy.read_text(encoding="utf-8"))["metadata"]["ppcl"]
        return found if isinstance(found["pictures"], dict) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _weights(run: Path, names: Iterable[str] | None) -> dict[str, str]:
    """What stands for the weights of checkpoints, named below the run folder."""
    return {name: checkpoints.weights(run / name) for name in sorted(names or ())}


def _left(stem: str, run: Path, recipe: recipes.Recipe, seed: int, reads: dict[str, str]) -> bool:
    """True if what a finished notebook made is still there: checkpoints, the main figure, results of these pictures."""
    if stem == "05_evaluation":
        table = results.read(run)
        rows = table[(table.task == recipe.task) & (table.seed == seed)]
        tested = {name: one for name, one in reads.items() if "/" not in name}
        known = {name: results.measured_on(run, recipe.task, name) for name in rows.dataset.unique()}
        return all(one in known.get(name, ()) for name, one in tested.items())
    if stem in STAGES:
        return not training.stage_jobs(recipe, run, run, seed, "cpu", [STAGES[stem]])
    return stem != "07_figures" or (run / "figures" / "figure1.png").is_file()


def _kernel(count: int):
    """A kernel manager that starts this interpreter with one thread, whatever kernels other folders describe."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class Kernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            named = {"display_name": "Python 3 (ipykernel)", "language": "python"}
            return KernelSpec(argv=command, env={"OMP_NUM_THREADS": "1", jobs.JOBS: str(count)}, **named)

    return Kernel


def _with_stages(
    todo: dict[str, jobs.Job], wanted: dict[str, recipes.Recipe], data: Path, run: Path, seed: int, where: str
) -> dict[str, jobs.Job]:
    """The notebooks' jobs, each task's behind jobs for the stages that they show."""
    found = {}
    for name, recipe in wanted.items():
        own = {label: job for label, job in todo.items() if job.arguments[2]["task"] == name}
        shown = {label: STAGES.get(job.arguments[0].stem, "") for label, job in own.items()}
        stages = training.stage_jobs(recipe, data, run, seed, where, {*shown.values()})
        found |= stages
        for label, job in own.items():
            first = [one for one in stages if shown[label] and one.startswith(f"{name}/{shown[label]}")]
            found[label] = replace(job, after=(*job.after, *first))
    return found


def _copy(path: Path, run: Path, task: str) -> Path:
    return run / "notebooks" / f"{task}_{path.name}"


def _execute(path: Path, run: Path, parameters: dict, label: str, stamp: dict, count: int) -> tuple[float, int]:
    """Run a notebook, whose own work may take `count` jobs; its copy appears whole. -> seconds, MiB at most."""
    import papermill  # these take seconds
    from papermill.exceptions import PapermillExecutionError

    target = _copy(path, run, parameters["task"])
    draft, reads = target.with_name(f".{target.name}"), stamp.get("pictures", {})
    old = _stamp(target).get("pictures", reads)
    changed = ", ".join(sorted(name for name in old.keys() | reads.keys() if old.get(name) != reads.get(name)))
    progress.say(f"{label} …" + f" (other pictures than before: {changed})" * bool(changed))
    began = time.time()
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        with progress.followed(label), tempfile.TemporaryDirectory() as home:
            papermill.execute_notebook(
                *(str(one).replace("{", "{{").replace("}", "}}") for one in (path, draft)),  # papermill formats them
                parameters, kernel_name="python3", progress_bar=False,
                kernel_manager_class=_kernel(count), extra_arguments=["--log-level=CRITICAL", f"--ipython-dir={home}"],
            )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # Ctrl-C reached the notebook's process first
            raise KeyboardInterrupt from None
        raise ReproduceError(
            f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue} (so far: {draft})"
        ) from None
    except RuntimeError as error:  # of a process that was killed, or never answered
        raise ReproduceError(
            f"{path.name}: its process was killed or did not answer ({error}), most often because memory ran out; "
            f"close other programs or give smaller batches by --set, and start again, stages are kept (so far: {draft})"
        ) from None
    notebook = json.loads(draft.read_text(encoding="utf-8"))
    reads_none = path.stem[:2] in ("01", "08")
    used = [] if reads_none else (run / parameters["task"]).glob("**/checkpoint.safetensors")
    finished = [one.relative_to(run).as_posix() for one in used if checkpoints.header(one).get("finished")]
    notebook["metadata"]["ppcl"] = stamp | {"weights": _weights(run, finished)}
    write_text(target, json.dumps(notebook, indent=1) + "\n")
    draft.unlink()
    seconds = round(time.time() - began, 1)
    progress.say(f"{label}: {seconds:.0f} s")
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024  # of the notebooks' processes so far


def _short(path: Path) -> str:
    """A path relative to the working folder where it lies inside, so that executed notebooks name no private folder."""
    here = Path.cwd()  # from the notebooks' own folder every notebook goes to the project's root
    return path.relative_to(here).as_posix() if path.is_relative_to(here) and here != NOTEBOOKS else str(path)


def _publish(chosen: list[Path], run: Path, task: str) -> None:
    """Copy executed notebooks, without papermill's metadata, figures and the README's tables into the project.

    Raises ReproduceError, before anything is copied, for a run without the results of a task that is published.
    """
    if gone := sorted({*results.read(ROOT / "figures").task} - {*results.read(run).task}):
        raise ReproduceError(f"{run} has no results of task {gone[0]}, which are published: run all notebooks of it")
    if not (run / "results.csv").is_file():
        raise ReproduceError(f"{run} has no results.csv to publish: run notebook 05_evaluation first")
    for path in chosen:
        notebook = json.loads((run / "notebooks" / f"{task}_{path.name}").read_text(encoding="utf-8"))
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
    known = manifest(run)
    for one in known["recipes"]:
        if "ppcl" in evaluation.trained(run, one, known["seed"]):
            _keep_weights(run, one, known["seed"])
    write_text(ROOT / "figures" / "results.csv", (run / "results.csv").read_text(encoding="utf-8"))
    begin, end = MARKS
    before, rest = (ROOT / "README.md").read_text(encoding="utf-8").split(begin)
    table = results.markdown(results.read(ROOT / "figures"))
    write_text(ROOT / "README.md", f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def _keep_weights(run: Path, task: str, seed: int) -> None:
    """Copy `ppcl` of a task, in half precision, to the weights that come with the library."""
    facts = checkpoints.header(evaluation.checkpoint(run, task, "ppcl", seed))
    model = evaluation.load(run, task, seed=seed).half()
    checkpoints.save(evaluation.checkpoint(evaluation.BUNDLED, task, "ppcl"), model, None, **facts)
