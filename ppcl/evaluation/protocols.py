"""Evaluation of a trained run by a data set's protocol -> rows of the result table.

All methods are measured on the same queries, so differences are paired. No parameter is chosen here.
"""

import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from .. import jobs, matching, metrics, recipes
from ..data import datasets, partial_protocol, stage_batches
from ..data.sets import SETS
from ..disk import checkpoints, progress
from ..disk.files import given_path, read_json, warn_once, write_text
from ..models.ppcl import PPCL
from ..recipes import CONTROLS, METHODS, Recipe, trained_by
from ..training import stage_on_disk
from . import known_truth, results
from .known_truth import Evaluation, prepare

BUNDLED = Path(__file__).parents[1] / "weights"  # a run folder with `ppcl` of both tasks, in half precision
RANKS = (1, 3, 5, 10)
MIN_FALSE_PAIRS = 3  # that the threshold of a TAR must accept; LFW's official pairs have 3 at FAR = 1e-3
COMPARED = ("data", "input", "augmentation", "glrec", "backbone", "joint", "matching", "selection")  # parts of recipes
CURVES = ("backbone", "backbone+crops+pad", "+glrec@7", "ppcl")  # rows with a curve over the input ratio


def from_header(header: dict) -> Recipe:
    """The recipe of a checkpoint's training."""
    flat = {}
    for part, value in header["recipe"].items():
        if part in ("task", "profile"):
            continue
        flat |= {f"{part}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {part: value}
    return recipes.recipe(header["recipe"]["task"], header["recipe"]["profile"], **flat)


def checkpoint(run: Path | str, task: str, method: str, seed: int = 0) -> Path:
    """Path of the checkpoint that a row of the result table uses."""
    if METHODS[trained_by(method)].stage != "joint":
        return stage_on_disk.stage_path(run, task, METHODS[method].stage)
    return stage_on_disk.stage_path(run, task, "joint", trained_by(method), seed)


def load(
    run: Path | str | None = BUNDLED, task: str = "person", method: str = "ppcl", seed: int = 0, device: str = "cpu"
) -> PPCL:
    """Load a trained row of a run, in eval mode; by default the `ppcl` that comes with the library.

    That one was trained on drawn pictures. Raises ValueError for an unknown task or row, and CheckpointError for a
    missing, unfinished or unsuitable checkpoint, with the command that makes it.
    """
    if task not in recipes.TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(recipes.TASKS)}")
    if run in recipes.TASKS and not given_path(run).is_dir():
        raise ValueError(f"{run!r} is a task, and no run folder is called so: load(task={run!r})")
    run = BUNDLED if run is None else given_path(run)
    path = checkpoint(run, task, method, seed)
    joint = recipes.method(method).stage == "joint"
    if not path.exists():
        if run == BUNDLED:
            raise checkpoints.CheckpointError(f"the library comes with ppcl of seed 0 alone: give --run for {method}")
        stage = f"joint --method {trained_by(method)}" if joint else "backbone"
        raise checkpoints.CheckpointError(
            f"{path} does not exist: make it by python -m ppcl train {stage} --task {task} --seed {seed} --run {run} "
            "--data DATA (and the run's --profile), or with notebook 04_joint_training"
        )
    header = checkpoints.header(path)
    if not stage_on_disk.is_stage(header) or header.get("stage") != ("joint" if joint else "backbone"):
        raise checkpoints.CheckpointError(f"{path} is a checkpoint of stage {header.get('stage')!r}, not of {method}'s")
    facts = {"task": task} | ({"method": trained_by(method), "seed": seed} if joint else {})
    if other := checkpoints.first_difference(facts, {key: header.get(key, facts[key]) for key in facts}):
        raise checkpoints.CheckpointError(f"{path} is not what its folder says ({other}): move it where it belongs")
    if not header["finished"] and joint:
        raise checkpoints.CheckpointError(f"{path} is not finished: start its training again, it resumes")
    classes, weights = header.get("classes"), header.get("fusion_weights") if joint else {}
    prefix = "model.backbone.classifier." if joint else "model.classifier."
    fits = type(classes) is int and classes in checkpoints.sides(path, prefix)
    if not fits or not isinstance(weights, dict):
        raise checkpoints.CheckpointError(f"{path} is not a checkpoint of {header['stage']}; delete it and train again")
    try:
        recipe = from_header(header)
    except (KeyError, TypeError, recipes.RecipeError) as error:
        raise checkpoints.CheckpointError(f"{path} has a recipe that this version does not know ({error})") from None
    model = PPCL(recipe, classes, method)
    checkpoints.load(path, model if joint else model.backbone)
    if not header["finished"]:
        warn_once(f"{path} is not finished: {method} is the state after {header['epoch']} epochs")
    model.fusion_weights = weights
    return model.to(jobs.device(device)).eval()


def trained(run: Path | str, task: str = "person", seed: int = 0) -> list[str]:
    """Rows of a run that are evaluated by default: finished ones of the joint stage; controls if their w is chosen."""
    found = []
    for name in METHODS:
        path = checkpoint(run, task, name, seed)
        header = checkpoints.header(path) if path.is_file() and METHODS[name].stage == "joint" else {}
        if header.get("finished") and (name not in CONTROLS or name in header.get("fusion_weights", ())):
            found.append(name)
    return found


@jobs.one_thread()
def evaluate(
    run,
    task: str,
    dataset: str,
    data,
    methods: list[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool | None = None,
    rerank: bool = False,
    count: int = 1,
) -> Evaluation:
    """Evaluate a run's methods on a data set, `count` checkpoints in parallel; write the rows into `results.csv`.

    With several methods `ppcl` is also compared with each other row, query by query: metric `rank-1 over <row>`. Where
    the protocol crops the queries, their boxes are saved in the run folder, and a single method, or those of CURVES,
    are measured over the input ratio. Queries without a match are reported in one line. `rerank` adds a row `…+rerank`
    for each method (METHOD.md §9). All values are fractions, 0 to 1. Raises RecipeError if set and task do not match,
    or for `rerank` of pairs; CheckpointError if a row is not trained; DataError for missing pictures; ValueError if
    nothing can be measured.
    """
    if dataset in SETS and not SETS[dataset].of(task):
        raise recipes.RecipeError(f"{dataset} belongs to task {SETS[dataset].task}, not {task}")
    if rerank and SETS[dataset].protocol == "verification":
        raise recipes.RecipeError(f"{dataset} has pairs and no gallery to re-rank: leave out --rerank")
    methods = [methods] if isinstance(methods, str) else methods or trained(run, task, seed)
    if not methods:
        raise checkpoints.CheckpointError(
            f"{run} holds no finished joint stage of task {task} and seed {seed}: run notebook 04_joint_training first"
        )
    run = given_path(run)
    results.read(run)  # so that a damaged table is reported before the work
    if not os.access(run, os.W_OK):
        raise ValueError(f"{run} cannot be written, and results.csv belongs there: evaluate a copy of it (cp -r)")
    recipe = load(run, task, methods[0], seed).recipe
    weights = {}
    for row, path in {trained_by(method): checkpoint(run, task, method, seed) for method in methods}.items():
        weights[row] = checkpoints.weights(path)
        if not path.is_file() or METHODS[row].stage != "joint":
            continue
        both = recipe.to_dict(), from_header(checkpoints.header(path)).to_dict()
        if other := checkpoints.first_difference(*({part: one[part] for part in COMPARED} for one in both)):
            warn_once(f"{run}: {row} and {methods[0]} are not comparable, their recipes differ ({other})")
    found = prepare(dataset, data, recipe, quiet)
    facts = {"task": task, "dataset": dataset, "stage": METHODS[methods[0]].stage, "seed": seed}
    facts |= {"profile": recipe.profile, "synthetic": found.drawn, "commit": results.commit()}
    if found.query.boxes is not None:
        write_text(run / task / f"{dataset}.csv", partial_protocol.boxes_csv(found.query))
    lost = "" if found.pairs else datasets.without_match(dataset, found.query, found.gallery)  # perhaps of all
    datasets.print_notes(datasets.copies(dataset, data, recipe))
    curves = [name for name in methods if (len(methods) == 1 or name in CURVES) and not METHODS[name].needs_truth]
    groups = [tuple(some) for _, some in groupby(methods, trained_by)]
    if count == 1:
        groups = [tuple(methods)]
    todo = {some[0]: jobs.Job(_measure, (found, run, facts, some, curves, device, rerank)) for some in groups}
    values = {}
    for rows, distances, some in jobs.run(todo, count).values():
        found.rows += rows
        found.distances |= distances
        values |= some
    if not found.rows:
        raise ValueError(
            f"{methods[0]} needs the true boxes of {dataset}'s queries, which are unknown: choose another --method"
        )
    found.rows += _gains(found, facts, values, run / task)
    results.add(run, found.rows, found.fingerprint, weights)
    if lost:
        print(lost)
    return found


@jobs.one_thread()
def _measure(
    found: Evaluation, run, facts: dict, methods: tuple[str, ...], curves: list[str], device: str, rerank: bool
):
    """Measure some rows, as a job. -> their lines of the table, distances, and values by protocol/method/metric."""
    rows, values, kept = [], {}, {}
    label, protocol = f"evaluating {facts['task']} on {found.dataset}", SETS[found.dataset].first_protocol
    for method in progress.bar(methods, label, quiet=found.quiet, unit="rows"):
        model = load(run, facts["task"], method, facts["seed"], device)
        figures = found.drawn and not found.pairs
        if (model.method.oracle and not found.knows_boxes) or (model.method.region == "true" and not figures):
            continue  # the true boxes of these queries are unknown
        own, weight = facts | {"method": method, "protocol": protocol}, (matching.fusion_weight(model),) * 3
        rows.append(results.row(own, "fusion-weight", weight, len(found.query), len(found.gallery)))
        if found.pairs:
            lines, some = _verify(found, own, model, kept)
        else:
            lines, some = _search(found, own, model, method in curves, kept, rerank)
        rows, values = rows + lines, values | some
    return rows, found.distances, values


def _features(found: Evaluation, model: PPCL, part: str, kept: dict) -> matching.Features:
    """A row's features of the set's `query` or `gallery`; those in `kept` if the row before has the same.

    Most rows that share a checkpoint are neighbours in METHODS, so only the last features are kept.
    """
    is_query, method = part == "query", model.method
    key = trained_by(model.row), method.region == "true"
    key += (is_query and (method.placements, method.oracle, not method.locates and method.region),)
    if part not in kept or kept[part][0] != key:
        kept.pop(part, None)  # free its memory first
        boxes = known_truth.view_boxes(found) if is_query and method.oracle else None
        bank = found.query_bank if is_query else found.gallery_bank
        described = matching.describe(model, bank, is_query, boxes)
        if is_query and not found.pairs:  # pairs are matched in both directions
            described = described.as_queries(slice(None))
        if method.region == "true":
            view = known_truth.view_boxes(found) if is_query else None
            described = described.with_truth(stage_batches.figures(found.truth[1 - is_query]), view)
        kept[part] = key, described
    return kept[part][1]


def _search(
    found: Evaluation, facts: dict, model: PPCL, curve: bool, kept: dict, rerank: bool
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Rank the gallery for each query; with `curve`, and where the protocol crops queries, also over the input ratio.

    -> lines of the table; values by query of each protocol/method/metric.
    """
    method, rows, values = facts["method"], [], {}
    query, gallery = (_features(found, model, part, kept) for part in ("query", "gallery"))
    matched = _matched(found, model, query, gallery)
    for row in (method, f"{method}+rerank") if rerank else (method,):
        if row != method:
            mine, theirs, how = query.embedding.mean(1), gallery.embedding[:, 0], model.recipe.matching
            matched = [[(i, j, matching.rerank(d, mine[i], theirs[j], how)) for i, j, d in one] for one in matched]
        found.distances[row] = matched[0][0][2]
        for protocol, ranked in _rankings(found, matched).items():
            measured = {f"rank-{k}": np.mean([one.hits(k) for one in ranked], 0) for k in RANKS}  # over the galleries
            measured["mAP"] = np.mean([one.average_precision for one in ranked], 0)
            if SETS[found.dataset].task == "face":
                ids = found.query.identities, found.gallery.identities
                measured["TAR@FAR=1e-3"] = metrics.accepted(found.distances[row], *ids, 1e-3)
            rows += _retrieval_rows(found, facts | {"protocol": protocol, "method": row}, measured, ranked)
            values |= {f"{protocol}/{row}/{metric}": value for metric, value in measured.items()}
    if found.knows_boxes:
        rows += known_truth.rows(found, facts | {"protocol": "truth"}, model, query, gallery)
    if curve and found.query.boxes is not None:
        rows += _ratio_curve(found, facts, model, gallery)
    return rows, values


def _verify(found: Evaluation, facts: dict, model: PPCL, kept: dict) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Verify LFW's pairs. -> lines of the table; accuracy by fold."""
    method, pairs = facts["method"], found.pairs
    pictures = _features(found, model, "query", kept)
    first, second = torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)
    found.distances[method] = matching.match_pairs(model, pictures, first, second).cpu().numpy()
    judged = metrics.verification(-found.distances[method], pairs.same, pairs.folds)
    counts = len(pairs.same), len(found.gallery)
    measured = {"accuracy": metrics.bootstrap(judged.accuracy, range(pairs.folds))}
    for rate in ("1e-3", "1e-2"):
        if float(rate) * (~pairs.same).sum() >= MIN_FALSE_PAIRS:
            tar = metrics.tar_interval(-found.distances[method], pairs.same, float(rate), pairs.folds)
            measured[f"TAR@FAR={rate}"] = tar
    rows = [results.row(facts, metric, interval, *counts) for metric, interval in measured.items()]
    return rows, {f"verification/{method}/accuracy": judged.accuracy}


def _ratio_curve(found: Evaluation, facts: dict, model: PPCL, gallery: matching.Features) -> list[dict]:
    """Rows of protocol `input-ratio`: one query of each person, cropped to each share 0.1, 0.2, …, 1 of its area."""
    (query, banks), ids, rows = found.at_ratios, found.gallery.identities, []
    facts = facts | {"protocol": "input-ratio"}
    for share, bank in banks.items():
        described = matching.describe(model, bank, several=True)
        distances = matching.match(model, described, gallery).cpu().numpy()
        cameras = (query.cameras, found.gallery.cameras) if found.cameras else ()
        values = {"rank-1": metrics.cmc_map(distances, query.identities, ids, *cameras).hits(1)}
        if not cameras:
            values["TAR@FAR=1e-3"] = metrics.accepted(distances, query.identities, ids, 1e-3)
        for metric, value in values.items():
            interval, counts = metrics.bootstrap(value, query.identities), (int((~np.isnan(value)).sum()), len(ids))
            rows.append(results.row(facts, metric, interval, *counts, subset=f"{share:.1f}"))
    return rows


def _matched(found: Evaluation, model: PPCL, query, gallery) -> list[list[tuple[np.ndarray, ...]]]:
    """The galleries of the set's protocols with a row's distances; the first is the whole gallery.

    A gallery is a list of (queries, pictures, distances), the first two as indices: queries of different cameras may
    have different pictures.
    """
    everything = np.arange(len(found.query)), np.arange(len(gallery))
    if SETS[found.dataset].protocol == "standard":
        return [[(*everything, matching.match(model, query, gallery).cpu().numpy())]]
    whole, single = np.empty(tuple(map(len, everything)), np.float32), []
    for rows, columns in single_shots(found):
        places = [torch.from_numpy(some).to(gallery.embedding.device) for some in (everything[1], *columns)]
        first, *each = matching.match_within(model, query.as_queries(torch.from_numpy(rows)), gallery, places)
        whole[rows] = first.cpu().numpy()
        single.append([(rows, some, one.cpu().numpy()) for some, one in zip(columns, each, strict=True)])
    return [[(*everything, whole)], *zip(*single, strict=True)]


def _rankings(found: Evaluation, matched: list[list[tuple[np.ndarray, ...]]]) -> dict[str, list[metrics.Ranking]]:
    """Rankings by protocol, one for each of its galleries."""
    ranked = []
    for parts in matched:
        rankings = []
        for i, j, distances in parts:
            cameras = [some[places] for some, places in zip(found.cameras, (i, j), strict=False)]
            ids = found.query.identities[i], found.gallery.identities[j]
            rankings.append(metrics.cmc_map(distances, *ids, *cameras))
        ranked.append(metrics.Ranking.joined(rankings, np.argsort(np.concatenate([rows for rows, *_ in parts]))))
    if SETS[found.dataset].protocol == "standard":
        return {"standard": ranked}
    return {"single-shot": ranked[1:], "all-shot": ranked[:1]}


def single_shots(found: Evaluation) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield groups of queries with their single-shot galleries, as indices.

    With the camera rule, a group holds the queries of one camera; its galleries hold one picture of each person, taken
    by another camera.
    """
    people, query = found.gallery.identities, np.arange(len(found.query))
    if not found.cameras:
        yield query, metrics.single_shot_columns(people)
        return
    cameras, others = found.cameras
    for camera in np.unique(cameras):
        distractor = (people == 0) & SETS[found.dataset].distractors
        places = np.flatnonzero((others != camera) & ~distractor)
        yield query[cameras == camera], [places[some] for some in metrics.single_shot_columns(people[places])]


def _retrieval_rows(found: Evaluation, facts: dict, values: dict, ranked: list[metrics.Ranking]) -> list[dict]:
    rows = []
    people = set(found.gallery.identities) - ({0} if SETS[found.dataset].distractors else set())
    gallery = len(people) if facts["protocol"] == "single-shot" else len(found.gallery)
    for subset, mask in known_truth.subsets(found).items():
        for metric, value in values.items():
            if subset != "all" and (metric not in ("rank-1", "mAP") or np.isnan(value[mask]).all()):
                continue
            interval = metrics.bootstrap(value[mask], found.query.identities[mask])
            rows.append(results.row(facts, metric, interval, int((mask & ~np.isnan(value)).sum()), gallery, subset))
    if lost := ranked[0].unmatched:
        rows.append(results.row(facts, "queries without a match", (lost,) * 3, len(found.query), gallery))
    return rows


def _gains(found: Evaluation, facts: dict, values: dict[str, np.ndarray], folder: Path) -> list[dict]:
    """Rows `<metric> over <row>`: `ppcl` above each other row on the same queries, or folds, by a paired bootstrap.

    Subset `pooled`: over all trainings (seeds) evaluated on these pictures; a resampled person brings the queries of
    all of them. For these the run folder keeps values by query, one file for each seed.
    """
    mine = {key: value.tolist() for key, value in values.items() if key.endswith(("/rank-1", "/mAP", "/accuracy"))}
    groups, rows = {"all": {facts["seed"]: mine}}, []
    if found.pairs:
        units = range(found.pairs.folds)
    else:
        units, stem = found.query.identities, f"{found.dataset}-{found.fingerprint}-seed"
        seeds = {one.stem.removeprefix(stem): one for one in folder.glob(f"{stem}*.json")}
        kept = {int(number): _kept_values(one, int(number)) for number, one in seeds.items() if number.isdecimal()}
        kept[facts["seed"]] = kept.get(facts["seed"], {}) | mine
        used = {row: _weights(folder, row, facts["seed"]) for row in {key.split("/")[1] for key in kept[facts["seed"]]}}
        write_text(folder / f"{stem}{facts['seed']}.json", json.dumps(kept[facts["seed"]] | {"weights": used}))
        groups |= {"pooled": dict(sorted(kept.items()))} if len(kept) > 1 else {}
    for subset, trainings in groups.items():
        for key in mine:
            protocol, method, metric = key.split("/")
            base = "ppcl@1" if method == "oracle-placement" else "ppcl"  # that oracle has one placement
            other = f"{protocol}/{base}/{metric}"
            pairs = [(one[other], one[key]) for one in trainings.values() if {other, key} <= one.keys()]
            if method != base and len(pairs) > (subset == "pooled"):
                ours, theirs = np.array(pairs, float).swapaxes(0, 1)
                interval = metrics.bootstrap((ours - theirs).ravel(), np.tile(units, len(pairs)))
                named = facts | {"protocol": protocol, "method": base, "seed": max(trainings)}
                counts = len(found.pairs.same) if found.pairs else ours.size, len(found.gallery)
                rows.append(results.row(named, f"{metric} over {method}", interval, *counts, subset))
    return rows


def _kept_values(path: Path, seed: int) -> dict[str, list[float]]:
    """A training's values by query that an evaluation kept, without those of rows that have other weights since."""
    kept = read_json(path, "delete it and evaluate again")
    known, rows = kept.pop("weights", {}), {key.split("/")[1] for key in kept}
    if changed := {row for row in rows if known.get(row) != _weights(path.parent, row, seed)}:
        names = ", ".join(sorted(changed))
        print(f"{path}: the weights of {names} changed since, so seed {seed} counts without: evaluate it again")
    return {key: values for key, values in kept.items() if key.split("/")[1] not in changed}


def _weights(folder: Path, row: str, seed: int) -> str:
    """What stands for the weights of a row, perhaps re-ranked, of the run that holds a task's folder."""
    return checkpoints.weights(checkpoint(folder.parent, folder.name, row.removesuffix("+rerank"), seed))


def cmc_bands(found: Evaluation, methods: list[str], length: int = 20) -> dict[str, np.ndarray]:
    """All-shot CMC curves: for each method `(length, 3)`, rank-k with its 95 % interval."""
    bands = {}
    for method in methods:
        ids = found.query.identities, found.gallery.identities
        ranked = metrics.cmc_map(found.distances[method], *ids, *found.cameras)
        hits = [ranked.hits(k) for k in range(1, length + 1)]
        bands[method] = np.array([metrics.bootstrap(hit, found.query.identities, 500) for hit in hits])
    return bands


def roc(found: Evaluation, methods: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ROC curves of LFW's pairs: for each method the false and the true accept rates."""
    same, folds = found.pairs.same, found.pairs.folds
    judged = {name: metrics.verification(-found.distances[name], same, folds) for name in methods}
    return {name: (one.far, one.tar) for name, one in judged.items()}
