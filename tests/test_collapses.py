"""The ways in which this method is known to fail without an error, each looked for in a model that has learnt a little.

The fixture trains the demo's networks on 80 drawn people for about a minute.
"""

import pytest
import torch

from ppcl import evaluation, geometry, matching, training
from ppcl.data import image_bank, partial_views, stage_batches
from ppcl.disk import checkpoints
from ppcl.drawn import people
from ppcl.evaluation import known_truth
from ppcl.models.crloc import MAX_HALF, MIN_HALF
from ppcl.models.glrec import GLRec
from ppcl.recipes import recipe

SHORT = {
    "glrec.epochs": 110,
    "glrec.constant_epochs": 40,
    "glrec.batch": 64,
    "backbone.epochs": 20,
    "backbone.decay_epochs": 8,
    "joint.epochs": 20,
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """(run folder, data folder, recipe, training pictures) of a short training."""
    folder = tmp_path_factory.mktemp("learned")
    scale = people.Scale((80, 640), (4, 4, 12), 2, 1, (40, 2, 2, 1), 40, (2, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(people.SCALES, "short", scale)
        people.draw_people(folder / "data", 0, "short", quiet=True)
    short = recipe("person", "demo", **SHORT)
    pictures = stage_batches.training_data(short, folder / "data", quiet=True)
    training.train_glrec(short, pictures, folder, quiet=True)
    training.train_backbone(short, pictures, folder, quiet=True)
    for row in ("+glrec", "ppcl"):
        training.train_joint(short, pictures, folder, row, quiet=True)
    return folder, folder / "data", short, pictures


@pytest.fixture(scope="module")
def pairs(learned):
    """Every true pair of the drawn partial-reid: (p, trained q, untrained q, truth), `(P, 4)` each."""
    run, data, short, _ = learned
    found = evaluation.prepare("partial-reid", data, short, quiet=True)
    i, j, truth = known_truth.true_pairs(found)
    regions = []
    for method in ("ppcl", "untrained-crloc"):
        model = evaluation.load(run, "person", method)
        query, gallery = (matching.describe(model, bank) for bank in (found.query_bank, found.gallery_bank))
        regions.append(known_truth.locate_pairs(model, query, gallery, i, j))
        if method == "ppcl":
            here = query.box[i, 0]
    return here, *regions, truth


def test_not_the_identity_collapse(pairs):
    here, located, untrained, truth = pairs
    same, found = geometry.iou(here, truth), geometry.iou(located, truth)
    assert found.mean() > same.mean()
    assert found[same < 0.6].mean() > same[same < 0.6].mean() + 0.02
    assert geometry.iou(located, here).mean() < 0.9


def test_trained_locates_better_than_untrained(pairs):
    _, located, untrained, truth = pairs
    assert geometry.iou(located, truth).mean() > geometry.iou(untrained, truth).mean() + 0.02


def test_not_the_whole_picture_and_not_a_constant_box(pairs):
    here, located, _, _ = pairs
    ratio = (geometry.area(located) / geometry.area(here)).median()
    assert 0.5 < ratio < 2
    assert (located.std(0) > 0.05).all()


def test_not_the_point_collapse(pairs):
    _, located, _, _ = pairs
    half = located[:, 2:] / 2
    clamped = ((half <= MIN_HALF + 1e-4) | (half >= MAX_HALF - 1e-4)).float().mean()
    assert clamped < 0.1
    assert geometry.area(located).min() > (2 * MIN_HALF) ** 2


def gate_accuracy(model, bank, crop, ratios, partial):
    seen = partial_views.read_views(bank.images, crop, torch.zeros(len(crop), dtype=torch.bool))
    with torch.inference_mode():
        _, gate = model(image_bank.normalise(seen), ratios)
    return ((gate > 0) == partial).float().mean()


def test_the_gate_is_neither_shut_nor_open_for_all(learned):
    """Also on crops that keep the canvas's ratio and on whole pictures of odd ratio: it must read the picture."""
    run, _, short, pictures = learned
    model = evaluation.load(run, "person", "ppcl").glrec
    bank, draw = pictures.heldout, partial_views.make_rng(0, "gate")
    count = len(bank)
    whole = geometry.whole(count)
    side = partial_views.uniform(0.4, 0.7, count, 1, rng=draw)
    corner = torch.rand(count, 2, generator=draw) * (1 - side)
    in_ratio = torch.cat([corner + side / 2, side, side], 1)
    cut, _ = partial_views.part_boxes(count, draw, ("left", "right", "upper", "lower"))
    odd = whole.clone()
    odd[::2, 2], odd[1::2, 3] = 1.3, 1.3  # people squeezed, nothing cut off
    assert gate_accuracy(model, bank, cut, (cut[:, 2] / cut[:, 3]).log(), True) > 0.85
    assert gate_accuracy(model, bank, in_ratio, torch.zeros(count), True) > 0.85
    assert gate_accuracy(model, bank, whole, torch.zeros(count), False) > 0.85
    assert gate_accuracy(model, bank, odd, (odd[:, 2] / odd[:, 3]).log(), False) > 0.85


def test_the_joint_stage_keeps_what_glrec_learnt(learned):
    run, _, short, pictures = learned
    before = GLRec(short.input.size, short.glrec)
    checkpoints.load(run / "person/glrec/checkpoint.safetensors", before)
    after = evaluation.load(run, "person", "ppcl").glrec
    queries, _, _, _, box = stage_batches.heldout_queries(short, pictures)
    with torch.inference_mode():
        overlap = [
            geometry.iou(m.eval()(image_bank.normalise(queries.images), queries.ratios)[0], box).mean()
            for m in (before, after)
        ]
    crops, _ = partial_views.part_boxes(1000, partial_views.make_rng(0, "constant"))
    constant = geometry.from_corners(geometry.corners(crops).median(0).values)
    assert overlap[0] > geometry.iou(constant.expand_as(box), box).mean() + 0.05
    assert overlap[1] > overlap[0] - 0.03


def test_the_method_beats_its_own_row_without_regions(learned):
    run, data, _, _ = learned
    found = evaluation.evaluate(run, "person", "partial-reid", data, ["+glrec@7", "ppcl"], quiet=True)
    over = [row for row in found.rows if row["metric"] == "mAP over +glrec@7" and row["protocol"] == "all-shot"]
    assert over[0]["value"] > 0
