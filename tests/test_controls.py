"""The field's methods and further controls, each against its plain form."""

import pytest
import torch
import torch.nn.functional as F
from conftest import blocks
from safetensors.torch import load_file

from ppcl import evaluation, matching, training
from ppcl.data.image_bank import ImageBank
from ppcl.evaluation import results
from ppcl.models import peers
from ppcl.recipes import CONTROLS, METHODS


def described(model, row, draw, queries=5, pictures=7):
    """The row's model, its queries and its gallery: partial block pictures against whole ones."""
    model = model.as_row(row)
    ratios = torch.rand(queries, generator=draw) * 2 - 1
    query = matching.describe(model, ImageBank(blocks(queries, draw), ratios), several=True)
    gallery = matching.describe(model, ImageBank(blocks(pictures, draw), torch.rand(pictures, generator=draw) - 0.5))
    return model, query, gallery


def test_reconstruction_is_the_naive_ridge_solve(draw):
    mine, theirs = (F.normalize(torch.randn(n, 8, 16, generator=draw), dim=-1) for n in (3, 4))
    mine[0, 5:] = 0  # invisible
    theirs[1, 6:] = 0
    found = peers.unexplained(mine, theirs, peers.reconstruction(theirs, 0.7))
    for i in range(3):
        for j in range(4):
            gaps = []
            for y in mine[i]:
                if y.any():  # ‖y − Xᵀw‖² + 0.7 ‖w‖², as a least-squares problem with more equations
                    equations = torch.cat([theirs[j].T, 0.7**0.5 * torch.eye(8)]).double()
                    w = torch.linalg.lstsq(equations, torch.cat([y, torch.zeros(8)])[:, None].double()).solution
                    gaps.append(float((y - theirs[j].T.double() @ w[:, 0]).square().sum()))
            assert found[i, j].item() == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)


def test_stripes_are_compared_where_both_are_visible(draw):
    maps, visible = torch.randn(5, 16, 8, 4, generator=draw), torch.rand(5, 1, 8, 4, generator=draw)
    visible[0, :, :4] = 0
    visible[1, :, 4:] = 0
    read = peers.canvas_stripes(maps, visible, 4)
    found = peers.stripe_distances(read[:3], read[3:])
    for i in range(3):
        for j in range(3, 5):
            total = weight = 0.0
            for s in range(4):
                rows = slice(2 * s, 2 * s + 2)
                means = [(maps[k, :, rows] * visible[k, :, rows]).sum((1, 2)) for k in (i, j)]
                shared = float(visible[i, :, rows].mean() * visible[j, :, rows].mean())
                total += shared * float(F.cosine_similarity(*means, dim=0))
                weight += shared
            assert found[i, j - 3].item() == pytest.approx(1 - total / weight, abs=1e-5)
    assert peers.stripe_distances(read[:1], read[1:2]).item() == 1  # no stripe is visible in both


@pytest.mark.parametrize("row", ["dsr", "+glrec@best"])
def test_shortlists_and_blocks_change_no_distance(untrained, draw, row, monkeypatch):
    model, query, gallery = described(untrained, row, draw)
    whole = matching.region_distances(model, query, gallery)
    assert whole.isfinite().all() and whole.std() > 0
    index = torch.stack([torch.randperm(7, generator=draw)[:3] for _ in range(5)])
    monkeypatch.setitem(matching.part_to_part.BLOCK, "cpu", 2 * gallery.whitened[0].numel())
    assert torch.allclose(matching.region_distances(model, query, gallery, index), whole.gather(1, index), atol=1e-6)


def test_dsr_reads_the_visible_cells_of_the_padded_canvas(untrained, draw):
    model, query, gallery = described(untrained, "dsr", draw)
    cells = query.stripes.norm(dim=-1)  # of each picture and of its mirror image
    assert query.stripes.shape[1:3] == (2, 32) and set(cells.round(decimals=4).unique().tolist()) == {0.0, 1.0}
    theirs = peers.unit_cells(gallery.whitened, gallery.visible, 0.3)
    form = peers.reconstruction(theirs, 1.0)
    expected = torch.stack([peers.unexplained(query.stripes[:, m], theirs, form) for m in (0, 1)]).mean(0)
    assert torch.allclose(matching.region_distances(model, query, gallery), expected, atol=1e-6)


def test_placements_are_averaged_or_the_best_counts(untrained, draw):
    model, query, gallery = described(untrained, "+glrec@best", draw)
    each = 1 - torch.einsum("qmc,gc->qmg", query.embedding, gallery.embedding[:, 0])
    mean = (each[:, :7].amin(1) + each[:, 7:].amin(1)) / 2  # the best placement of a picture, and of its mirror image
    assert torch.allclose(matching.region_distances(model, query, gallery), mean, atol=1e-5)
    best, average = (matching.region_distances(model.as_row(row), query, gallery) for row in ("ppcl", "ppcl@mean"))
    assert (average >= best - 1e-6).all() and (average > best + 1e-4).any()


def test_only_queries_are_padded(untrained):
    rows = ("pad-queries", "backbone+crops+pad")
    (query, gallery), (padded, other) = (
        described(untrained, row, torch.Generator().manual_seed(0))[1:] for row in rows
    )
    assert torch.equal(query.box, padded.box) and torch.equal(query.embedding, padded.embedding)
    assert (gallery.box == torch.tensor([0.5, 0.5, 1, 1])).all() and (other.box[:, 0, 2:] < 0.99).any()


def test_controls_are_evaluated_once_they_were_asked_for(run_of_controls, small, pictures, drawn):
    folder = run_of_controls
    before = evaluation.trained(folder)
    assert not set(CONTROLS) & set(before) and {"ppcl@1", "no-crloc"} <= set(before)
    with pytest.raises(ValueError, match="train joint --method dsr"):
        evaluation.evaluate(folder, "person", "partial-ilids", drawn, ["dsr"], quiet=True)
    kept = load_file(evaluation.checkpoint(folder, "person", "ppcl"))
    for row in CONTROLS:
        training.train_joint(small, pictures, folder, row, quiet=True)
    now = load_file(evaluation.checkpoint(folder, "person", "ppcl"))
    assert now.keys() == kept.keys() and all(torch.equal(now[name], kept[name]) for name in kept)
    assert set(evaluation.trained(folder)) == {*before, *CONTROLS}
    assert evaluation.load(folder, "person", "+glrec@best").fusion_weights["+glrec@best"] == 1
    evaluation.evaluate(folder, "person", "partial-ilids", drawn, quiet=True)
    table = results.read(folder)
    single = table[(table.protocol == "single-shot") & (table.metric == "rank-1") & (table.subset == "all")]
    assert set(single.method) == {*before, *CONTROLS} and single.value.between(0, 1).all()


def test_a_row_with_shared_features_is_measured_as_alone(run_of_controls, small, pictures, drawn):
    folder = run_of_controls
    for row in ("dsr", "+glrec@best"):
        training.train_joint(small, pictures, folder, row, quiet=True)
    rows = [name for name in METHODS if name in ("backbone+crops+pad", "dsr", "+glrec", "+glrec@7", "+glrec@best")]
    together = evaluation.evaluate(folder, "person", "partial-reid", drawn, rows, quiet=True).distances
    for row in rows:
        alone = evaluation.evaluate(folder, "person", "partial-reid", drawn, [row], quiet=True).distances
        assert (together[row] == alone[row]).all(), row
