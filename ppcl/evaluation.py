"""A trained run against a data set's protocol -> rows for the result table.

Everything is measured for all methods on the same queries, so differences are paired. Where the data were drawn,
their `truth.csv` also tells how well GLRec and CRLoc place and locate. Nothing in here chooses anything.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from . import checkpoints, geometry, matching, metrics, recipes, results
from .data import batches, datasets, images
from .models.ppcl import PPCL
from .recipes import METHODS, Recipe, trained_by

RANKS = (1, 3, 5, 10)
RATIO_BINS = ((0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.8))


def from_header(header: dict) -> Recipe:
    """The recipe that a checkpoint was trained by."""
    flat = {}
    for part, value in header["recipe"].items():
        if part in ("task", "profile"):
            continue
        flat |= {f"{part}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {part: value}
    return recipes.recipe(header["recipe"]["task"], header["recipe"]["profile"], **flat)


def load(run: Path | str, task: str = "person", method: str = "ppcl", seed: int = 0, device: str = "cpu") -> PPCL:
    """A trained row of a run, in eval mode. Raises CheckpointError that names what is missing and what makes it."""
    path = Path(run) / task / "joint" / trained_by(method) / f"seed{seed}" / "checkpoint.safetensors"
    if not path.is_file():
        raise checkpoints.CheckpointError(
            f"{path} does not exist: make it by python -m ppcl train joint --method {trained_by(method)} --run {run}, "
            "or with notebook 04_joint_training"
        )
    header = checkpoints.header(path)
    if header.get("stage") != "joint":
        raise checkpoints.CheckpointError(f"{path} is a checkpoint of stage {header.get('stage')!r}, not of joint")
    if not header["finished"]:
        raise checkpoints.CheckpointError(f"{path} is not finished: start its training again, it resumes")
    model = PPCL(from_header(header), header["classes"], method)
    checkpoints.load(path, model)
    model.fusion_weights = header["fusion_weights"]
    return model.to(device).eval()


def trained(run: Path | str, task: str = "person", seed: int = 0) -> list[str]:
    """The rows of the result table that a run can be evaluated on."""
    found = []
    for name in METHODS:
        path = Path(run) / task / "joint" / trained_by(name) / f"seed{seed}" / "checkpoint.safetensors"
        if path.is_file() and checkpoints.header(path)["finished"]:
            found.append(name)
    return found


@dataclass
class Evaluation:
    """A data set in memory, and what each method did with it."""

    dataset: str
    data: Path
    query: datasets.PictureSet
    gallery: datasets.PictureSet
    query_bank: images.ImageBank
    gallery_bank: images.ImageBank
    distances: dict[str, np.ndarray] = field(default_factory=dict)  # method -> (Q, G)
    rows: list[dict] = field(default_factory=list)


def prepare(dataset: str, data: Path | str, size: tuple[int, int], quiet: bool | None = None) -> Evaluation:
    """Read and decode a set's query and gallery."""
    query, gallery = datasets.evaluation_sets(dataset, data)
    banks = [images.bank(part.paths, size, f"decoding {part.name}", quiet) for part in (query, gallery)]
    return Evaluation(dataset, Path(data), query, gallery, *banks)


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
    """
    methods = methods or trained(run, task, seed)
    if not methods:
        raise checkpoints.CheckpointError(
            f"{run} holds no finished joint stage of task {task}: run notebook 04_joint_training first"
        )
    found = None
    rankings: dict[tuple[str, str], list[metrics.Ranking]] = {}
    for method in methods:
        model = load(run, task, method, seed, device)
        if found is None:
            found = prepare(dataset, data, model.recipe.input.size, quiet)
            facts = {"task": task, "dataset": dataset, "stage": "joint", "seed": seed, "profile": model.recipe.profile}
            facts |= {"synthetic": datasets.is_drawn(data), "commit": results.commit()}
        query = matching.describe(model, found.query_bank, several=model.method.placements)
        gallery = matching.describe(model, found.gallery_bank)
        found.distances[method] = matching.match(model, query, gallery).cpu().numpy()
        for protocol, ranked in _protocols(found, method).items():
            rankings[method, protocol] = ranked
            found.rows += _retrieval_rows(found, facts | {"protocol": protocol, "method": method}, ranked)
        if datasets.is_drawn(data) and dataset != "market1501":
            found.rows += _truth_rows(found, facts | {"protocol": "truth", "method": method}, model, query, gallery)
    if "ppcl" in methods:
        for method, protocol in rankings:
            if method != "ppcl":
                found.rows += _paired_rows(found, facts | {"protocol": protocol, "method": "ppcl"}, rankings, method)
    results.add(run, found.rows)
    return found


def _protocols(found: Evaluation, method: str) -> dict[str, list[metrics.Ranking]]:
    distances, query, gallery = found.distances[method], found.query, found.gallery
    if found.dataset == "market1501":
        one = metrics.cmc_map(distances, query.identities, gallery.identities, query.cameras, gallery.cameras)
        return {"standard": [one]}
    whole = metrics.cmc_map(distances, query.identities, gallery.identities)
    drawn = metrics.single_shot(distances, query.identities, gallery.identities)
    return {"single-shot": drawn, "all-shot": [whole]}


def _values(ranked: list[metrics.Ranking]) -> dict[str, np.ndarray]:
    """Per-query values of each metric `(Q,)`, mean over the protocol's draws; NaN without a valid match."""
    found = {f"rank-{k}": np.mean([one.hits(k) for one in ranked], 0) for k in RANKS}
    return found | {"mAP": np.mean([one.average_precision for one in ranked], 0)}


def subsets(found: Evaluation) -> dict[str, np.ndarray]:
    """Masks of the queries `(Q,)` by kind of crop and by input ratio, where the truth is known; `all` always."""
    masks = {"all": np.ones(len(found.query), bool)}
    if datasets.is_drawn(found.data) and found.dataset != "market1501":
        table = truth_of(found.query, found.data)
        for kind in batches.KINDS:
            masks[kind] = (table.kind == kind).to_numpy()
        share = (table.view_w * table.view_h).to_numpy()
        for low, high in RATIO_BINS:
            masks[f"{low}-{high}"] = (share >= low) & (share < high)
    return {name: mask for name, mask in masks.items() if mask.any()}


def truth_of(pictures: datasets.PictureSet, data: Path | str):
    """The lines of `truth.csv` for these pictures, in their order."""
    root = Path(data).resolve()
    return datasets.truth(data).loc[[path.resolve().relative_to(root).as_posix() for path in pictures.paths]]


def _retrieval_rows(found: Evaluation, facts: dict, ranked: list[metrics.Ranking]) -> list[dict]:
    rows, values = [], _values(ranked)
    gallery = len(set(found.gallery.identities)) if facts["protocol"] == "single-shot" else len(found.gallery)
    for subset, mask in subsets(found).items():
        for metric, value in values.items():
            if subset != "all" and metric not in ("rank-1", "mAP"):
                continue
            mean, low, high = metrics.bootstrap(value[mask], found.query.identities[mask])
            counts = {"n_query": int((mask & ~np.isnan(value)).sum()), "n_gallery": gallery}
            rows.append(
                {**facts, **counts, "subset": subset, "metric": metric, "value": mean, "low": low, "high": high}
            )
    lost = ranked[0].unmatched
    if lost:
        rows.append(
            {
                **facts,
                "subset": "all",
                "metric": "queries without a match",
                "value": lost,
                "low": lost,
                "high": lost,
                "n_query": len(found.query),
                "n_gallery": gallery,
            }
        )
    return rows


def _paired_rows(found: Evaluation, facts: dict, rankings: dict, other: str) -> list[dict]:
    mine, theirs = _values(rankings["ppcl", facts["protocol"]]), _values(rankings[other, facts["protocol"]])
    rows = []
    for metric in ("rank-1", "mAP"):
        mean, low, high = metrics.bootstrap(mine[metric] - theirs[metric], found.query.identities)
        name = {
            "subset": "all",
            "metric": f"{metric} over {other}",
            "n_query": len(found.query),
            "n_gallery": len(found.gallery),
        }
        rows.append({**facts, **name, "value": mean, "low": low, "high": high})
    return rows


def boxes(table, prefix: str) -> torch.Tensor:
    """The `figure` or `view` boxes `(N, 4)` of truth lines."""
    return torch.tensor(table[[f"{prefix}_{side}" for side in ("cx", "cy", "w", "h")]].to_numpy(), dtype=torch.float32)


def true_pairs(found: Evaluation) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Every query with each of its true gallery pictures: (query index, gallery index, true region `(P, 4)`).

    The region is what the query shows, carried over by the two figures' frames and clipped to the canvas.
    """
    query, gallery = np.nonzero(found.query.identities[:, None] == found.gallery.identities[None])
    asked, have = truth_of(found.query, found.data), truth_of(found.gallery, found.data)
    figure_q, figure_g = boxes(asked, "figure")[query], boxes(have, "figure")[gallery]
    region = geometry.compose(figure_g, geometry.compose(geometry.invert(figure_q), boxes(asked, "view")[query]))
    return query, gallery, geometry.clip(region)


def _truth_rows(
    found: Evaluation, facts: dict, model: PPCL, query: matching.Features, gallery: matching.Features
) -> list[dict]:
    """How well GLRec places, the gate decides and CRLoc locates, on pictures whose truth is known."""
    asked = truth_of(found.query, found.data)
    target, predicted = boxes(asked, "view"), query.box[:, 0].cpu()
    people = found.query.identities
    measured: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if model.method.layout == "glrec" and model.method.region in ("none", "trained"):
        measured["glrec-IoU"] = geometry.iou(predicted, target).numpy(), people
        crops, _ = batches.part_boxes(10_000, batches.generator(0, "constant box"))  # the best guess without looking
        middle = geometry.from_corners(geometry.corners(crops).median(0).values)
        measured["constant-box-IoU"] = geometry.iou(middle.expand_as(target), target).numpy(), people
        measured["gate-accuracy"] = (query.gate.cpu() > 0).float().numpy(), people
        right = (gallery.gate.cpu() <= 0).float().numpy()
        measured["gate-accuracy-whole"] = right, found.gallery.identities
    if model.method.region != "none":
        i, j, region = true_pairs(found)
        found_boxes = locate_pairs(model, query, gallery, i, j)
        measured["crloc-IoU"] = geometry.iou(found_boxes, region).numpy(), people[i]
        same = geometry.iou(query.box[:, 0].cpu()[i], region).numpy()
        far = same < 0.6
        if far.any():
            measured["crloc-IoU-where-it-moved"] = measured["crloc-IoU"][0][far], people[i][far]
    rows = []
    for metric, (value, ids) in measured.items():
        masks = (
            subsets(found)
            if len(value) == len(found.query) and metric != "gate-accuracy-whole"
            else {"all": slice(None)}
        )
        for subset, mask in masks.items():
            mean, low, high = metrics.bootstrap(value[mask], ids[mask])
            name = {"subset": subset, "metric": metric, "n_query": len(value[mask]), "n_gallery": len(found.gallery)}
            rows.append({**facts, **name, "value": mean, "low": low, "high": high})
    return rows


def locate_pairs(model: PPCL, query: matching.Features, gallery: matching.Features, i, j) -> torch.Tensor:
    """Where CRLoc finds query i's first placement in gallery picture j `(P, 4)`; there itself for rows with q = p."""
    if model.method.region == "same":
        return matching.in_picture(query.box[i, 0], gallery[torch.from_numpy(j)]).cpu()
    found = torch.empty(len(i), 4)
    for one in np.unique(i):
        pairs = np.flatnonzero(i == one)
        some = gallery[torch.from_numpy(j[pairs])]
        region, _ = matching.locate(model, query.points[one, :1], query.box[one, :1], some)
        found[pairs] = matching.in_picture(region[:, 0], some).cpu()
    return found
