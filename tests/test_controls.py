"""The field's methods and further controls, each against its plain form."""

import dataclasses
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import blocks
from safetensors.torch import load_file, save_file

from ppcl import evaluation, geometry, losses, matching, search, training
from ppcl.data import partial_views, stage_batches
from ppcl.data.image_bank import ImageBank
from ppcl.disk import checkpoints
from ppcl.evaluation import known_truth, results
from ppcl.models import crloc, nets, peers
from ppcl.recipes import CONTROLS, METHODS
from ppcl.recipes.overrides import override


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
    controls = ("dsr", "+glrec@best", "ppcl@true-region", "ppcl@mean")
    for row in controls:
        training.train_joint(small, pictures, folder, row, quiet=True)
    rows = [name for name in METHODS if name in ("backbone+crops+pad", "+glrec", "+glrec@7", "ppcl", *controls)]
    together = evaluation.evaluate(folder, "person", "partial-reid", drawn, rows, quiet=True).distances
    for row in rows:
        alone = evaluation.evaluate(folder, "person", "partial-reid", drawn, [row], quiet=True).distances
        assert (together[row] == alone[row]).all(), row


def test_rows_of_different_recipes_are_not_compared_in_silence(
    run_of_controls, small, pictures, drawn, tmp_path, capsys
):
    run = shutil.copytree(run_of_controls, tmp_path / "run")
    longer = dataclasses.replace(small, joint=dataclasses.replace(small.joint, epochs=2))
    training.train_joint(longer, pictures, run, "no-contrast", quiet=True)
    evaluation.evaluate(run, "person", "partial-ilids", drawn, ["ppcl", "no-contrast"], quiet=True)
    assert "no-contrast and ppcl are not comparable, their recipes differ (joint.epochs is 2" in capsys.readouterr().err


def test_a_joint_stage_of_another_backbone_is_refused(run_of_controls, small, pictures, tmp_path):
    run = shutil.copytree(run_of_controls, tmp_path / "run")
    training.train_joint(small, pictures, run, "ppcl", quiet=True)  # finished, and the same
    shutil.rmtree(run / "person/backbone")
    training.train_joint(small, pictures, run, "ppcl@mean", quiet=True)  # a stage that was deleted is not missed
    training.train_backbone(small, pictures, run, seed=1, quiet=True)
    with pytest.raises(checkpoints.CheckpointError, match="ppcl/seed0/.* began from other weights of backbone"):
        training.train_joint(small, pictures, run, "ppcl", quiet=True)


def test_a_start_that_was_replaced_under_its_name_is_noticed(small, pictures, tmp_path):
    start = tmp_path / "start.safetensors"
    net = nets.body("small", "none")
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, start)
    backbone = dataclasses.replace(small.backbone, weights=str(start), steps=1)
    chosen = dataclasses.replace(small, backbone=backbone)
    training.train_backbone(chosen, pictures, tmp_path, quiet=True)
    training.train_backbone(chosen, pictures, tmp_path, quiet=True)
    save_file({name: value.contiguous() + 1 for name, value in net.state_dict().items()}, start)
    with pytest.raises(checkpoints.CheckpointError, match="began from other weights of .*start.safetensors"):
        training.train_backbone(chosen, pictures, tmp_path, quiet=True)


@pytest.mark.parametrize("row", ["oracle-region", "ppcl@true-region"])
def test_rows_with_true_regions_are_refused_on_photographs(run_of_controls, small, pictures, drawn, tmp_path, row):
    photographs = dataclasses.replace(pictures, figures=None)
    with pytest.raises(ValueError, match=f"row {row} needs the true positions"):
        training.train_joint(small, photographs, tmp_path, row, quiet=True)
    training.train_joint(small, pictures, run_of_controls, row, quiet=True)
    query = min((drawn / "Partial_iLIDS/Probe").iterdir())
    with pytest.raises(ValueError, match=f"{row} needs true boxes"):
        search.rank(run_of_controls, "person", [query], query.parent, tmp_path / "out", method=row)


# --- trained rows ---

PEOPLE = 4
TRAINED = [name for name, row in CONTROLS.items() if row.contrast and not row.checkpoint]
BY_PLACE = [name for name in TRAINED if METHODS[name].region != "true"]


def joint(model, row, draw):
    """A model as a row, and what `losses.joint_losses` takes, with maps that learn."""
    model, count, cells = model.as_row(row), 4 * PEOPLE, (8, 4)
    crop = partial_views.part_boxes(count, draw)[0]
    crop[: count // 2] = geometry.whole(1)
    partial = torch.arange(count) >= count // 2
    boxes = partial_views.view_boxes(count, (0.9, 1.1), 0.05, draw)
    labels, figures = torch.arange(PEOPLE).repeat(4), torch.cat([boxes, torch.rand(count, 1, generator=draw) * 0.5], 1)
    batch = stage_batches.JointBatch(torch.empty(0), torch.zeros(count), labels, boxes, crop, partial, figures)
    features = torch.randn(count, 128, *cells, generator=draw).requires_grad_()
    visible = geometry.coverage(crop, cells)
    return model, batch, crop, features, visible


def terms_of(model, batch, box, features, visible, seed=3):
    pooled = model.backbone.pool(features, visible)
    logits = model.backbone.classifier(pooled)
    return losses.joint_losses(
        model, batch, box, features, visible, pooled, logits, torch.Generator().manual_seed(seed)
    )[0]


def naive_distance(model, row, i, j, region, features, visible):
    """The row's distance of partial view i to whole view j, stripe by stripe."""
    neck = model.backbone.neck
    scale = neck.weight / (neck.running_var + neck.eps).sqrt()
    if METHODS[row].region == "none":
        one, two = (neck(model.backbone.pool(features[k : k + 1], visible[k : k + 1]))[0] for k in (i, j))
        return 1 - F.cosine_similarity(one, two, dim=0)
    white = (features - neck.running_mean[:, None, None]) * scale[:, None, None]
    if METHODS[row].region == "stripes":
        both = peers.canvas_stripes(white[[i, j]], visible[[i, j]], 6)
        return peers.stripe_distances(both[:1], both[1:])[0, 0]
    read = [geometry.crop(white[k : k + 1], region[None], model.crloc.grid)[0] for k in (i, j)]  # (C, 6, 3) at q = p
    thirds = [[one[:, 2 * s : 2 * s + 2].mean((1, 2)) for s in range(3)] for one in read]
    return 1 - sum(F.cosine_similarity(a, b, dim=0) for a, b in zip(*thirds, strict=True)) / 3


@pytest.mark.parametrize("row", BY_PLACE)
def test_contrast_of_a_row_is_the_naive_loop(untrained, draw, row):
    model, batch, box, features, visible = joint(untrained, row, draw)
    terms, how = terms_of(model, batch, box, features, visible), model.recipe.joint
    rng = torch.Generator().manual_seed(3)
    a = [*range(2 * PEOPLE, 4 * PEOPLE)]  # r1, r2
    b = [*range(PEOPLE, 2 * PEOPLE), *range(PEOPLE)]  # h2, h1
    regions = geometry.compose(box[a], losses.random_parts(2 * PEOPLE, how.whole_box_share, rng))
    pairs = [(n, n) for n in range(2 * PEOPLE)]
    pairs += [(n, n - PEOPLE) for n in range(PEOPLE, 2 * PEOPLE)] * (how.contrast_pairs == 3)  # r2 with h2
    expected = 0
    for n, right in pairs:
        near = [naive_distance(model, row, a[n], j, regions[n], features, visible) for j in b]
        rivals = [m for m in range(2 * PEOPLE) if m == right or m % PEOPLE != n % PEOPLE]
        logits = torch.stack([-near[m] / how.contrast_temperature for m in rivals])
        expected += F.cross_entropy(logits, torch.tensor(rivals.index(right))) / len(pairs)
    assert terms["contrast"].item() == pytest.approx(
        how.region_weight * how.contrast_weight * expected.item(), rel=1e-4
    )
    assert ("region" in terms) == METHODS[row].triplet and not {"cycle", "geometry"} & terms.keys()


@pytest.mark.parametrize("row", TRAINED)
def test_a_row_learns_a_batch_by_heart(untrained, draw, row):
    model, batch, box, features, visible = joint(untrained, row, draw)
    optimiser, losses_seen = torch.optim.Adam([features], 0.05), []
    for step in range(40):
        terms = terms_of(model, batch, box, features, visible, seed=step)
        loss = terms["contrast"] + terms.get("region", 0)
        optimiser.zero_grad()
        loss.backward()
        assert features.grad.isfinite().all()
        optimiser.step()
        losses_seen.append(loss.item())
    assert losses_seen[-1] < 0.1 * losses_seen[0]


def test_views_of_rows_at_the_same_location_move_by_their_own_share(pictures, small, draw):
    index = torch.arange(16)
    still = override(override(small, "joint.still_share", 0.0), "joint.wide_share", 1.0)
    sizes = {
        row: stage_batches.joint_batch(
            pictures, torch.from_numpy(pictures.labels), index, still, METHODS[row], torch.Generator().manual_seed(0)
        ).view[:8, 2]
        for row in ("trained-same-location", "ppcl")
    }
    low, high = small.augmentation.whole_scale
    assert sizes["trained-same-location"].min() >= low and sizes["trained-same-location"].max() <= high
    assert sizes["ppcl"].min() < low or sizes["ppcl"].max() > high


def test_the_oracle_trains_where_the_figures_say(untrained, draw):
    """Two views of one picture: as `true_region` says. Of other pictures: corners carried over by hand."""
    _, batch, box, _, _ = joint(untrained, "oracle-region", draw)
    h1, _, r1, _ = torch.arange(4 * PEOPLE).split(PEOPLE)
    batch.figure[r1] = batch.figure[h1]
    region = geometry.compose(box[r1], partial_views.part_boxes(PEOPLE, draw)[0])
    found = losses.drawn_regions(batch, box, region, r1, h1)
    truth, _ = losses.true_region(region, box[r1], batch.crop[r1], batch.view[r1], batch.view[h1])
    each = torch.arange(PEOPLE)
    assert found.shape == (PEOPLE, PEOPLE, 4) and torch.allclose(found[each, each], truth, atol=1e-5)
    batch.figure[:, 4] = 0  # level cameras: a map of boxes
    moved = losses.drawn_regions(batch, box, region, r1, h1)[1, 0]
    inside = geometry.compose(geometry.invert(batch.figure[r1[0], :4]), geometry.compose(batch.view[r1[0]], region[0]))
    there = geometry.compose(geometry.invert(batch.view[h1[1]]), geometry.compose(batch.figure[h1[1], :4], inside))
    assert torch.allclose(moved, geometry.clip(there), atol=1e-5)  # a crop lies on its canvas where it was cut out


def test_the_oracle_matches_the_true_region(untrained, small, drawn):
    found = evaluation.prepare("partial-reid", drawn, small, quiet=True)
    model = untrained.as_row("oracle-region")
    figures = [stage_batches.figures(table) for table in found.truth]
    query = matching.describe(model, found.query_bank, True).with_truth(figures[0], known_truth.view_boxes(found))
    gallery = matching.describe(model, found.gallery_bank).with_truth(figures[1])
    first = dataclasses.replace(query, **{n: v[:, :1] for n, v in vars(query).items() if v.dim() > 2 and len(v)})
    distances = matching.region_distances(model, first, gallery)
    i, j, region = known_truth.true_pairs(found)
    on_canvas = geometry.compose(gallery.box[j, 0], region)
    theirs = crloc.describe_stripes(crloc.stripes(gallery.whitened[j], on_canvas, model.crloc.grid))
    mine = crloc.describe_stripes(query.stripes[i, 0].unflatten(1, (3, 2)).mean(2))
    assert torch.allclose(distances[i, j], 1 - (mine * theirs).sum(1), atol=1e-4)
    turned = query.points[:, query.points.shape[1] // 2 :, 0]
    assert torch.allclose(turned[:, 0, 0], 1 - query.points[:, 0, 0, 0]) and torch.equal(
        turned[..., 1:], query.points[:, :7, 0, 1:]
    )
