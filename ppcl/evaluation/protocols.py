"""A trained run against a data set's protocol -> rows for the result table.

Everything is measured for all methods on the same queries, so differences are paired. Where the data were drawn,
their `truth.csv` also tells how well GLRec and CRLoc place and locate. Nothing in here chooses anything.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from .. import matching, metrics, recipes
from ..data import partial_protocol
from ..data.sets import SETS
from ..disk import checkpoints, progress, run_lock
from ..disk.files import write_text
from ..models.ppcl import PPCL
from ..recipes import METHODS, Recipe, trained_by
from ..training import stage_on_disk
from . import known_truth, results
from .known_truth import Evaluation, prepare

RANKS = (1, 3, 5, 10)
CURVES = ("backbone", "backbone+crops+pad", "+glrec@7", "ppcl")  # rows of Partial-LFW's curve, if all are evaluated


def from_header(header: dict) -> Recipe:
    """The recipe that a checkpoint was trained by."""
    flat = {}
    for part, value in header["recipe"].items():
        if part in ("task", "profile"):
            continue
        flat |= {f"{part}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {part: value}
    return recipes.recipe(header["recipe"]["task"], header["recipe"]["profile"], **flat)


def checkpoint(run: Path | str, task: str, method: str, seed: int = 0) -> Path:
    """Where a run keeps the joint stage that a row of the result table is read from."""
    return Path(run) / task / "joint" / trained_by(method) / f"seed{seed}" / "checkpoint.safetensors"


def load(run: Path | str, task: str = "person", method: str = "ppcl", seed: int = 0, device: str = "cpu") -> PPCL:
    """A trained row of a run, in eval mode. Raises CheckpointError that names what is missing and what makes it."""
    if task not in recipes.TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(recipes.TASKS)}")
    path = checkpoint(run, task, method, seed)
    if not path.is_file():
        raise checkpoints.CheckpointError(
            f"{path} does not exist: make it by python -m ppcl train joint --method {trained_by(method)} --task {task} "
            f"--seed {seed} --run {run} --data DATA (and the run's --profile), or with notebook 04_joint_training"
        )
    header = checkpoints.header(path)
    if not stage_on_disk.of_a_stage(header) or header.get("stage") != "joint":
        raise checkpoints.CheckpointError(f"{path} is a checkpoint of stage {header.get('stage')!r}, not of joint")
    if not header["finished"]:
        raise checkpoints.CheckpointError(f"{path} is not finished: start its training again, it resumes")
    classes, weights = header.get("classes"), header.get("fusion_weights")
    fits = type(classes) is int and classes in checkpoints.sides(path, "model.backbone.classifier.")
    if not fits or not isinstance(weights, dict):
        raise checkpoints.CheckpointError(f"{path} is no checkpoint of joint; delete it and train again")
    try:
        recipe = from_header(header)
    except (KeyError, TypeError, recipes.RecipeError) as error:
        raise checkpoints.CheckpointError(f"{path} is of a recipe that is not known here ({error})") from None
    model = PPCL(recipe, classes, method)
    checkpoints.load(path, model)
    model.fusion_weights = weights
    return model.to(device).eval()


def trained(run: Path | str, task: str = "person", seed: int = 0) -> list[str]:
    """The rows of the result table that a run can be evaluated on."""
    found = []
    for name in METHODS:
        path = checkpoint(run, task, name, seed)
        if path.is_file() and checkpoints.header(path).get("finished"):
            found.append(name)
    return found


def evaluate(
    run,
    task: str,
    dataset: str,
    data,
    methods: list[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool | None = None,
) -> Evaluation:
    """Evaluate the run's methods on a data set and write the rows into `results.csv`.

    With several methods at once, `ppcl` is also compared with each other row: metric `rank-1 over <row>`, paired.
    Where Partial-LFW is made from LFW, or `own` from a folder of identities, its boxes are saved in the run folder, and
    some rows are measured over the input ratio, too.
    """
    if dataset in SETS and not SETS[dataset].of(task):
        raise recipes.RecipeError(f"{dataset} belongs to task {SETS[dataset].task}, not {task}")
    methods = methods or trained(run, task, seed)
    if not methods:
        raise checkpoints.CheckpointError(
            f"{run} holds no finished joint stage of task {task} and seed {seed}: run notebook 04_joint_training first"
        )
    with run_lock.hold(run) if Path(run).is_dir() else nullcontext():  # a wrong path is not made a folder
        return _evaluate(run, task, dataset, data, methods, seed, device, quiet)


def _evaluate(run, task: str, dataset: str, data, methods: list[str], seed: int, device: str, quiet) -> Evaluation:
    found, values, kept = None, {}, {}
    results.read(run)  # a damaged table is named before the work, not after
    for method in progress.bar(methods, f"evaluating {task} on {dataset}", quiet=quiet, unit="rows"):
        model = load(run, task, method, seed, device)
        if found is None:
            found = prepare(dataset, data, model.recipe, quiet)
            facts = {"task": task, "dataset": dataset, "stage": "joint", "seed": seed, "profile": model.recipe.profile}
            facts |= {"synthetic": found.drawn, "commit": results.commit()}
            if found.query.boxes is not None:
                write_text(Path(run) / task / f"{dataset}.csv", partial_protocol.boxes_csv(found.query))
        if model.method.oracle and not found.knows_boxes:
            continue  # nobody knows the true placement of these queries
        if found.pairs is not None:
            values |= _verify(found, facts | {"method": method}, model, kept)
        else:
            curve = len(methods) == 1 or method in CURVES
            values |= _search(found, facts | {"method": method}, model, curve, kept)
    if not found.rows:
        raise ValueError(f"{methods[0]} needs the truth, which nobody knows of {dataset}: choose another --method")
    for protocol, method in values if "ppcl" in methods else ():
        if method != "ppcl":
            named = facts | {"protocol": protocol, "method": "ppcl"}
            found.rows += _paired_rows(found, named, values[protocol, "ppcl"], values[protocol, method], method)
    results.add(run, found.rows, f"{found.query.fingerprint} {found.gallery.fingerprint}")
    return found


def _features(found: Evaluation, model: PPCL, part: str, kept: dict) -> matching.Features:
    """The set's `query` or `gallery` as a row sees it; `kept` from the row before, if that saw them alike.

    Rows that share a checkpoint stand side by side in METHODS but for the oracle, so the last ones are enough.
    """
    asking, how = part == "query", model.method
    key = trained_by(model.row), asking and (how.placements, how.oracle)
    if part not in kept or kept[part][0] != key:
        kept.pop(part, None)  # before others take its room
        boxes = known_truth.view_boxes(found) if asking and how.oracle else None
        bank = found.query_bank if asking else found.gallery_bank
        described = matching.describe(model, bank, asking, boxes)
        if asking and found.pairs is None:  # whose pairs are matched in both directions
            described = described.as_queries(slice(None))
        kept[part] = key, described
    return kept[part][1]


def _search(
    found: Evaluation, facts: dict, model: PPCL, curve: bool, kept: dict
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Rank the gallery for each query; with the curve over the input ratio, if asked for and the queries are our crops.

    -> values by query, for (protocol, method).
    """
    method = facts["method"]
    query, gallery = (_features(found, model, part, kept) for part in ("query", "gallery"))
    values = {}
    for protocol, ranked in _protocols(found, model, query, gallery).items():
        values[protocol, method] = _values(ranked)
        if SETS[found.dataset].accept_rate:
            ids = found.query.identities, found.gallery.identities
            values[protocol, method]["TAR@FAR=1e-3"] = metrics.accepted(found.distances[method], *ids, 1e-3)
        found.rows += _retrieval_rows(found, facts | {"protocol": protocol}, values[protocol, method], ranked)
    if found.knows_boxes:
        found.rows += known_truth.rows(found, facts | {"protocol": "truth"}, model, query, gallery)
    if curve and found.query.boxes is not None:
        found.rows += _ratio_curve(found, facts, model, gallery)
    return values


def _verify(found: Evaluation, facts: dict, model: PPCL, kept: dict) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Judge LFW's pairs. -> accuracy by fold, for (protocol, method)."""
    method, pairs = facts["method"], found.pairs
    pictures = _features(found, model, "query", kept)
    first, second = torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)
    found.distances[method] = matching.match_pairs(model, pictures, first, second).cpu().numpy()
    judged = metrics.verification(-found.distances[method], pairs.same, pairs.folds)
    facts, counts = facts | {"protocol": "verification"}, (len(pairs.same), len(found.gallery))
    measured = {"accuracy": metrics.bootstrap(judged.accuracy, range(pairs.folds))}
    measured["TAR@FAR=1e-3"] = metrics.tar_interval(-found.distances[method], pairs.same, 1e-3, pairs.folds)
    found.rows += [results.row(facts, metric, interval, *counts) for metric, interval in measured.items()]
    return {("verification", method): {"accuracy": judged.accuracy}}


def _ratio_curve(found: Evaluation, facts: dict, model: PPCL, gallery: matching.Features) -> list[dict]:
    """Partial-LFW, a query a person, each cropped to the same share of the area, 0.1 … 1: protocol `input-ratio`."""
    (query, banks), ids, rows = found.at_ratios, found.gallery.identities, []
    facts, counts = facts | {"protocol": "input-ratio"}, (len(query), len(found.gallery))
    for share, bank in banks.items():
        asked = matching.describe(model, bank, several=True)
        distances = matching.match(model, asked, gallery).cpu().numpy()
        values = {"rank-1": metrics.cmc_map(distances, query.identities, ids).hits(1)}
        values["TAR@FAR=1e-3"] = metrics.accepted(distances, query.identities, ids, 1e-3)
        for metric, value in values.items():
            interval = metrics.bootstrap(value, query.identities)
            rows.append(results.row(facts, metric, interval, *counts, subset=f"{share:.1f}"))
    return rows


def _protocols(found: Evaluation, model: PPCL, query, gallery) -> dict[str, list[metrics.Ranking]]:
    """A row's rankings by protocol; its distances to the whole gallery are kept."""
    asked, there, method = found.query, found.gallery, model.row
    if SETS[found.dataset].protocol == "standard":
        found.distances[method] = matching.match(model, query, gallery).cpu().numpy()
        cameras = asked.cameras, there.cameras
        return {"standard": [metrics.cmc_map(found.distances[method], asked.identities, there.identities, *cameras)]}
    parts = [np.arange(len(there)), *metrics.single_shot_columns(there.identities)]
    places = [torch.from_numpy(part).to(gallery.embedding.device) for part in parts]
    matched = [one.cpu().numpy() for one in matching.match_within(model, query, gallery, places)]
    found.distances[method] = matched[0]
    every = zip(matched, parts, strict=True)
    whole, *drawn = (metrics.cmc_map(one, asked.identities, there.identities[part]) for one, part in every)
    return {"single-shot": drawn, "all-shot": [whole]}


def _values(ranked: list[metrics.Ranking]) -> dict[str, np.ndarray]:
    """Per-query values of each metric `(Q,)`, mean over the protocol's draws; NaN without a valid match."""
    found = {f"rank-{k}": np.mean([one.hits(k) for one in ranked], 0) for k in RANKS}
    return found | {"mAP": np.mean([one.average_precision for one in ranked], 0)}


def _retrieval_rows(found: Evaluation, facts: dict, values: dict, ranked: list[metrics.Ranking]) -> list[dict]:
    rows = []
    gallery = len(set(found.gallery.identities)) if facts["protocol"] == "single-shot" else len(found.gallery)
    for subset, mask in known_truth.subsets(found).items():
        for metric, value in values.items():
            if subset != "all" and metric not in ("rank-1", "mAP"):
                continue
            interval = metrics.bootstrap(value[mask], found.query.identities[mask])
            rows.append(results.row(facts, metric, interval, int((mask & ~np.isnan(value)).sum()), gallery, subset))
    if lost := ranked[0].unmatched:
        rows.append(results.row(facts, "queries without a match", (lost,) * 3, len(found.query), gallery))
    return rows


def _paired_rows(found: Evaluation, facts: dict, mine: dict, theirs: dict, other: str) -> list[dict]:
    rows = []
    counts = len(found.query) if found.pairs is None else len(found.pairs.same), len(found.gallery)
    for metric in ("rank-1", "mAP", "accuracy"):
        if metric in mine:
            units = found.query.identities if found.pairs is None else range(found.pairs.folds)
            interval = metrics.bootstrap(mine[metric] - theirs[metric], units)
            rows.append(results.row(facts, f"{metric} over {other}", interval, *counts))
    return rows


def cmc_bands(found: Evaluation, methods: list[str], length: int = 20) -> dict[str, np.ndarray]:
    """CMC curves, all-shot: for each method `(length, 3)`, rank-k with its 95 % interval."""
    bands = {}
    for method in methods:
        ranked = metrics.cmc_map(found.distances[method], found.query.identities, found.gallery.identities)
        hits = [ranked.hits(k) for k in range(1, length + 1)]
        bands[method] = np.array([metrics.bootstrap(hit, found.query.identities, 500) for hit in hits])
    return bands


def roc(found: Evaluation, methods: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ROC curves of LFW's pairs: for each method false and true accept rates."""
    same, folds = found.pairs.same, found.pairs.folds
    judged = {name: metrics.verification(-found.distances[name], same, folds) for name in methods}
    return {name: (one.far, one.tar) for name, one in judged.items()}
