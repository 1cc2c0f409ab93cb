"""The face task: supplement §2.2, its network and margin softmax, pairs of pictures."""

import dataclasses
import inspect
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from ppcl import losses, matching, search
from ppcl.data import image_bank, stage_batches
from ppcl.data.partial_views import make_rng
from ppcl.models.backbone import Backbone
from ppcl.models.nets import NETS
from ppcl.recipes import METHODS, BackboneStage, RecipeError, profiles, recipe
from ppcl.training.schedules import joint_lr, make_optimiser

ROWS = ["+glrec", "ppcl"]


@pytest.fixture(scope="module")
def paper():
    return recipe("face", "paper")


# --- supplement §2.2 to the letter ---


def test_paper_glrec_has_the_persons_hyper_parameters(paper):
    person = recipe("person", "paper").glrec
    ours = ("crops", "colour", "view_scale", "view_shift")  # how pictures are shown, none of it published
    assert dataclasses.replace(paper.glrec, **{key: getattr(person, key) for key in ours}) == person
    assert (paper.glrec.constant_epochs, paper.glrec.epochs - paper.glrec.constant_epochs) == (60, 100)
    assert (paper.glrec.lr, paper.glrec.final_lr, paper.glrec.batch) == (5e-2, 5e-5, 128)


def test_paper_joint_stage_is_the_supplements(paper):
    how = paper.joint
    assert (how.batch, how.optimiser, how.lr, how.decay, how.decay_epochs) == (200, "sgd", 1e-1, 0.1, 5)
    assert how.steps == paper.glrec.steps == paper.backbone.steps == 0


def test_joint_rate_rises_for_an_epoch_then_falls_tenfold_every_five(paper):
    def rate(epoch, step=0):
        return joint_lr(paper, 100 * epoch + step, 100, 1500)

    assert paper.joint.warmup_epochs == 1
    expected = {1: 0.1, 4: 0.1, 5: 0.01, 9: 0.01, 10: 0.001, 14: 0.001}
    assert {epoch: rate(epoch) for epoch in expected} == pytest.approx(expected)
    assert (rate(4, 99), rate(9, 99)) == pytest.approx((0.1, 0.01))
    first = [rate(0, step) for step in range(101)]
    assert np.diff(first) == pytest.approx(np.full(100, 0.1 / 101)) and first[0] == pytest.approx(0.1 / 101)


def test_rate_without_warmup_starts_at_the_published():
    plain = recipe("face", "paper", **{"joint.warmup_epochs": 0})
    assert joint_lr(plain, 0, 100, 1500) == joint_lr(plain, 499, 100, 1500) == 0.1


def test_optimisers_are_the_recipes(paper):
    parameter = [torch.nn.Parameter(torch.zeros(2))]
    sgd = make_optimiser(parameter, paper.joint)
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.9 and sgd.defaults["lr"] == 0.1
    assert isinstance(make_optimiser(parameter, recipe("person", "paper").joint), torch.optim.Adam)


@pytest.mark.parametrize("task", ["person", "face"])
def test_a_fused_step_equals_the_plain_optimisers(task, draw):
    stage = recipe(task, "demo").joint
    weights = torch.randn(2, 40, generator=draw)
    mine, plain = (torch.nn.Parameter(weights.clone()) for _ in range(2))
    kind = {"adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=stage.momentum)}[stage.optimiser]
    other = kind([plain], lr=stage.lr, weight_decay=stage.weight_decay, fused=False)
    fused = make_optimiser([mine], stage)
    for _ in range(5):
        mine.grad = plain.grad = torch.randn(2, 40, generator=draw)
        fused.step(), other.step()
    torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)


def test_every_difference_from_the_person_says_where_it_comes_from(paper):
    def flat(chosen):
        return {f"{part}.{key}": v for part, inner in chosen.to_dict().items() if isinstance(inner, dict)
                for key, v in inner.items()}  # fmt: skip

    face, person = flat(paper), flat(recipe("person", "paper"))
    source = inspect.getsource(profiles).split("\nFACE = {\n")[1].split("\n}")[0]
    lines = {re.match(r'    "([\w.]+)": ', line)[1]: line for line in source.splitlines()}
    assert {key for key in face if face[key] != person[key]} <= lines.keys() == profiles.FACE.keys()
    assert all(re.search("# (§|not published)", line) for line in lines.values())
    published = {key for key, line in lines.items() if "§2.2" in line.split("#")[1].split(":")[0]}
    assert published == {"joint.optimiser", "joint.lr", "joint.batch", "joint.decay_epochs"}


@pytest.mark.parametrize(
    "given",
    [
        {"backbone.softmax": "arcface"},
        {"joint.optimiser": "lbfgs"},
        {"glrec.crops": "random,middle"},
        {"glrec.area": "0.6,0.1"},
        {"partial_lfw.area": "0,0.5"},
        {"partial_lfw.people": 0},
        {"partial_lfw.queries": 0},
        {"joint.batch": 64},
    ],
    ids=str,
)
def test_face_value_that_could_only_fail_later_is_refused(given):
    with pytest.raises(RecipeError):
        recipe("face", "paper", **given)


# --- the network and the margin softmax ---


def test_face34_keeps_a_map_of_14_x_14():
    net = NETS["face34"]().eval()
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 112, 112)).shape == (1, 512, 14, 14)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 33  # and the classifier


def margin_stage():
    return BackboneStage(architecture="small", weights="none", softmax="cosface")


def test_margin_softmax_is_the_naive_loop(draw):
    stage = margin_stage()
    classifier = Backbone(stage, 5).classifier
    embedding, labels = torch.randn(4, 128, generator=draw), torch.tensor([0, 4, 2, 2])
    cosines = []
    for row in embedding.tolist():
        for column in classifier.W.T.tolist():
            dot = sum(a * b for a, b in zip(row, column, strict=True))
            cosines.append(dot / math.hypot(*row) / math.hypot(*column))
    cosines = np.array(cosines).reshape(4, 5)
    expected = 0.0
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        scaled = [64 * (cosine - (0.35 if k == label else 0)) for k, cosine in enumerate(row)]
        expected += (math.log(sum(math.exp(s - max(scaled)) for s in scaled)) + max(scaled) - scaled[label]) / 4
    logits = classifier(embedding)
    loss = losses.identity(logits, labels, stage)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(logits.detach(), 64 * cosines, rtol=1e-4, atol=1e-4)


def test_margin_softmax_reaches_its_classes_and_the_body(draw):
    net = Backbone(margin_stage(), 5).train()
    logits = net.classifier(net.neck(net(torch.randn(6, 3, 32, 32, generator=draw)).mean((2, 3))))
    losses.identity(logits, torch.tensor([0, 1, 2, 3, 4, 0]), margin_stage()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (net.classifier.W, net.body[0].weight))


@pytest.mark.parametrize("softmax", ["plain", "cosface"])
def test_backbone_overfits_a_batch_of_faces(small_face, face_pictures, softmax):
    torch.manual_seed(0)
    stage = dataclasses.replace(small_face.backbone, softmax=softmax, label_smoothing=0.0)
    model = Backbone(stage, face_pictures.classes).train()
    index = next(stage_batches.identity_batches(face_pictures.labels, 4, 2, make_rng(0, "overfit")))
    labels = torch.from_numpy(face_pictures.labels)[index]
    batch = image_bank.normalise(face_pictures.train.images[index])
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    seen = []
    for _ in range(60):
        pooled = model(batch).mean((2, 3))
        logits = model.classifier(model.neck(pooled))
        loss = sum(losses.recognition(logits, pooled, labels, stage)[0].values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert (logits.argmax(1) == labels).all()
    assert seen[-1] < 0.1 * seen[0]


def test_an_uncut_face_is_the_same_as_a_file_and_as_an_image(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(untrained, "recipe", recipe("face", "tiny"))
    path, rng = tmp_path / "a.png", np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (250, 250, 3), dtype=np.uint8)).save(path)
    seen = []
    monkeypatch.setattr(search.matching, "describe", lambda model, bank, several: seen.append(bank))
    for source in (path, str(path), Image.open(path)):
        search.describe(untrained, source)
    assert all(torch.equal(bank.images, seen[0].images) and bank.ratios == 0 for bank in seen) and len(seen) == 3
    whole = image_bank.bank([path], untrained.recipe.input.size, quiet=True)
    assert not torch.equal(seen[0].images, whole.images)


# --- pairs ---


@pytest.mark.parametrize("row", ["ppcl", "ppcl@1", "same-location", "+glrec", "+glrec@7"])
def test_pairs_are_the_mean_of_both_directions(untrained, draw, row):
    untrained.row, untrained.method = row, METHODS[row]
    untrained.fusion_weights = {row: 0.6}
    bank = image_bank.ImageBank(
        torch.randint(256, (5, 3, 64, 32), generator=draw, dtype=torch.uint8), 0.3 * torch.randn(5, generator=draw)
    )
    several = matching.describe(untrained, bank, several=True)
    first, second = torch.tensor([0, 3, 2, 4, 1]), torch.tensor([1, 0, 2, 3, 0])
    found = matching.match_pairs(untrained, several, first, second)
    every = matching.match(untrained, several, several, shortlist=0)
    for pair, i, j in zip(found.tolist(), first, second, strict=True):
        assert pair == pytest.approx((every[i, j] + every[j, i]).item() / 2, abs=1e-5)
    assert found[0] == pytest.approx(found[4].item(), abs=1e-5)  # (0, 1) and (1, 0)
    region = METHODS[row].region != "none"
    overall = matching.global_distances(several, several)
    assert torch.allclose(every, overall) != region
