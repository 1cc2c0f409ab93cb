"""k-reciprocal re-ranking against the formulas of the paper, written out with sets."""

import math

import numpy as np
import pytest
import torch

from ppcl import evaluation, matching
from ppcl.evaluation import results
from ppcl.recipes import RecipeError, recipe


def textbook(distances, features, queries, k1, k2, weight):
    """Equations 2 to 12 of Zhong et al. (2017), picture by picture; a picture is its own nearest neighbour."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    d = 1 - unit @ unit.T
    np.fill_diagonal(d, -1)
    order = d.argsort(1, kind="stable")
    np.fill_diagonal(d, 0)
    everybody = range(len(d))

    def near(p, k):
        return set(order[p, : k + 1].tolist())

    def reciprocal(p, k):
        return {g for g in near(p, k) if p in near(g, k)}

    v = np.zeros_like(d)
    for p in everybody:
        grown = set(reciprocal(p, k1))
        for q in reciprocal(p, k1):
            half = reciprocal(q, round(k1 / 2))
            if len(reciprocal(p, k1) & half) >= 2 / 3 * len(half):
                grown |= half
        for g in grown:
            v[p, g] = math.exp(-d[p, g])
    v = np.array([np.mean([v[g] for g in order[p, :k2]], axis=0) for p in everybody])
    jaccard = np.array(
        [[1 - np.minimum(v[p], v[g]).sum() / np.maximum(v[p], v[g]).sum() for g in everybody[queries:]]
         for p in everybody[:queries]]
    )  # fmt: skip
    return (1 - weight) * jaccard + weight * distances


@pytest.mark.parametrize("k1, k2, weight", [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.8), (500, 500, 0.3)])
def test_reranking_is_the_textbook_form(k1, k2, weight, monkeypatch):
    rng = np.random.default_rng(0)
    people = rng.normal(size=(12, 8))
    features = people[rng.integers(12, size=70)] + 0.5 * rng.normal(size=(70, 8))
    distances = rng.uniform(0, 2, (25, 45))
    how = recipe("person", "tiny", **{"matching.rerank_k1": k1, "matching.rerank_k2": k2,
                                      "matching.rerank_weight": weight}).matching  # fmt: skip
    query, gallery = torch.from_numpy(features).split([25, 45])
    found = matching.rerank(distances, query, gallery, how)
    expected = textbook(distances, features, 25, k1, min(k2, 70), weight)
    assert found.shape == (25, 45) and np.abs(found - expected).max() < 1e-6


def test_reranking_adds_rows_and_changes_no_other(run_of_controls, drawn):
    plain = evaluation.evaluate(run_of_controls, "person", "partial-reid", drawn, ["ppcl"], quiet=True)
    found = evaluation.evaluate(run_of_controls, "person", "partial-reid", drawn, ["ppcl"], quiet=True, rerank=True)
    assert np.array_equal(found.distances["ppcl"], plain.distances["ppcl"])
    model = evaluation.load(run_of_controls, "person", "ppcl")
    query, gallery = (matching.describe(model, bank, several).embedding
                      for bank, several in ((found.query_bank, True), (found.gallery_bank, False)))  # fmt: skip
    expected = matching.rerank(plain.distances["ppcl"], query.mean(1), gallery[:, 0], model.recipe.matching)
    assert np.allclose(found.distances["ppcl+rerank"], expected)
    assert not np.allclose(expected.argsort(1)[:, 0], plain.distances["ppcl"].argsort(1)[:, 0])
    table = results.read(run_of_controls)
    rows = table[(table.method == "ppcl+rerank") & (table.metric == "rank-1") & (table.subset == "all")]
    assert set(rows.protocol) == {"single-shot", "all-shot"} and (table.metric == "rank-1 over ppcl+rerank").any()
    assert "ppcl+rerank" in results.summary(table)["person, drawn pictures"].index
    evaluation.evaluate(run_of_controls, "person", "market1501", drawn, ["ppcl"], quiet=True, rerank=True)
    with pytest.raises(RecipeError, match="no gallery"):
        evaluation.evaluate(run_of_controls, "face", "lfw", drawn, ["ppcl"], rerank=True)
