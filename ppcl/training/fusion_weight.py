"""Choice of the weight that fuses global and region distances, on held-out training identities only."""

import numpy as np
import torch

from .. import matching, metrics
from ..data.stage_batches import TrainingData, heldout_parts, heldout_queries
from ..disk import progress
from ..models.ppcl import PPCL
from ..recipes.methods import CONTROLS, METHODS, trained_by


def choose_fusion(model: PPCL, data: TrainingData, asked: str = "") -> tuple[dict[str, float], dict[str, float]]:
    """Return, for each row that uses this checkpoint, the weight with the best held-out mAP, and that mAP.

    The set's camera rule holds, as in its test. Rows of CONTROLS are left out, except the one that was asked for. In a
    final fit nobody is held out: the weight of regions is the recipe's, and there is no mAP; so it is, with a line,
    where fewer than two people are held out, or none of their queries has a match.
    """
    rows = [row for row in METHODS if trained_by(row) == model.row and (row not in CONTROLS or row == asked)]
    weight = model.recipe.matching.weight
    fixed = {row: {"none": 0.0, "embedding": 1.0}.get(METHODS[row].region, weight) for row in rows}
    people = len(np.unique(data.heldout_ids))
    if people == 1:
        progress.say(f"one held-out person cannot choose the weight of regions: it is matching.weight, {weight}")
    if people < 2:
        return fixed, {}
    queries, query_ids, gallery, gallery_ids, box = heldout_queries(model.recipe, data)
    parts = heldout_parts(model.recipe, data)
    cameras = () if data.heldout_cameras is None else [data.heldout_cameras[part] for part in parts]
    weights, scores = {}, {}
    grid = np.arange(0, 1 + 1e-9, model.recipe.selection.weight_step)
    found = matching.describe(model, gallery)
    for row in rows:
        as_row, method = model.as_row(row), METHODS[row]
        query = matching.describe(as_row, queries, several=True, boxes=box if method.oracle else None)
        theirs = found
        if method.region == "true":
            mine, other = (data.figures[-len(data.heldout_ids) :][torch.from_numpy(part)] for part in parts)
            query, theirs = query.with_truth(mine, box), found.with_truth(other)
        overall = matching.global_distances(query, theirs)
        region = overall if method.region == "none" else matching.region_distances(as_row, query, theirs)
        tried = {"none": grid[:1], "embedding": grid[-1:]}.get(method.region, grid)
        fused = (matching.fuse(overall, region, w).cpu() for w in tried)
        maps = [metrics.cmc_map(distances, query_ids, gallery_ids, *cameras).mAP for distances in fused]
        if not np.isfinite(maps).any():
            progress.say(f"no held-out query has a match: the weight of regions is matching.weight, {weight}")
            return fixed, {}
        best = int(np.nanargmax(maps))
        weights[row], scores[row] = round(float(tried[best]), 4), round(float(maps[best]), 4)
    return weights, scores
