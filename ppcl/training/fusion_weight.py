"""Choice of the weight that fuses global and region distances, on held-out training identities only."""

import numpy as np
import torch

from .. import matching, metrics
from ..data.stage_batches import TrainingData, heldout_parts, heldout_queries
from ..models.ppcl import PPCL
from ..recipes.methods import CONTROLS, METHODS, trained_by


def choose_fusion(model: PPCL, data: TrainingData, asked: str = "") -> tuple[dict[str, float], dict[str, float]]:
    """Return, for each row that uses this checkpoint, the weight with the best held-out mAP, and that mAP.

    The set's camera rule holds, as in its test. Rows of CONTROLS are left out, except the one that was asked for. In a
    final fit nobody is held out: the weight of regions is the recipe's, and there is no mAP.
    """
    rows = [row for row in METHODS if trained_by(row) == model.row and (row not in CONTROLS or row == asked)]
    if not len(data.heldout):
        fixed = {"none": 0.0, "embedding": 1.0}
        return {row: fixed.get(METHODS[row].region, model.recipe.matching.weight) for row in rows}, {}
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
        best = int(np.nanargmax(maps)) if np.isfinite(maps).any() else 0
        weights[row], scores[row] = round(float(tried[best]), 4), round(float(maps[best]), 4)
    return weights, scores
