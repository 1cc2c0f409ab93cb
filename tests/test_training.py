"""The stages: a batch overfitted in each, the same bits twice and after a kill, refusals."""

import copy
import dataclasses
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import another_process, train
from safetensors.torch import load_file

from ppcl import evaluation, geometry, losses, training
from ppcl.data import stage_batches
from ppcl.data.image_bank import normalise
from ppcl.data.partial_views import make_rng
from ppcl.disk import checkpoints, locks
from ppcl.evaluation import protocols
from ppcl.models.backbone import Backbone
from ppcl.models.glrec import GLRec, cap_gradient
from ppcl.models.ppcl import PPCL
from ppcl.recipes import METHODS, RecipeError, recipe
from ppcl.training import fusion_weight, stage_on_disk, stages

SMALL = {"glrec.epochs": 2, "glrec.constant_epochs": 1, "backbone.epochs": 2, "joint.epochs": 2}


@pytest.fixture(scope="module")
def small():
    return recipe("person", "tiny", **SMALL)


@pytest.fixture(scope="module")
def pictures(small, drawn):
    return stage_batches.training_data(small, drawn, quiet=True)


@pytest.fixture(scope="module")
def run(small, pictures, tmp_path_factory):
    """A run with stages 1 and 2 finished."""
    return train(small, pictures, tmp_path_factory.mktemp("run"))


def copy_base(run, target):
    for stage in ("glrec", "backbone"):
        shutil.copytree(run / "person" / stage, target / "person" / stage)
    return target


def same_bits(a, b):
    return a.read_bytes() == b.read_bytes()


def test_heldout_people_are_in_no_training_batch(small, pictures, drawn):
    assert len(pictures.train) + len(pictures.heldout) == 60
    assert pictures.classes == 10 - len(set(pictures.heldout_ids)) == 7
    again = stage_batches.training_data(small, drawn, quiet=True)
    assert (again.heldout_ids == pictures.heldout_ids).all()


def test_a_person_with_one_picture_is_trained_on_but_not_held_out(small, drawn, tmp_path):
    source = drawn / "Market-1501-v15.09.15/bounding_box_train"
    target = tmp_path / "Market-1501-v15.09.15/bounding_box_train"
    target.mkdir(parents=True)
    for path in source.iterdir():
        person = int(path.name[:4])
        if person > 4 or not list(target.glob(f"{person:04d}_*")):
            shutil.copy(path, target)
    pictures = stage_batches.training_data(small, tmp_path, quiet=True)
    counts = {person: (pictures.heldout_ids == person).sum() for person in pictures.heldout_ids}
    assert len(counts) == 3 and min(counts.values()) == 6
    _, query_ids, _, gallery_ids, _ = stage_batches.heldout_queries(small, pictures)
    assert set(query_ids) == set(gallery_ids) == set(counts)


def test_the_heldout_gallery_has_a_bound_and_still_everybody(small, drawn, monkeypatch):
    pictures = stage_batches.training_data(small, drawn, quiet=True)
    queries, ids, gallery, gallery_ids, box = stage_batches.heldout_queries(small, pictures)
    people = len(set(ids))
    monkeypatch.setattr(stage_batches, "GALLERY", 2 * people + 1)
    same, same_ids, fewer, fewer_ids, same_box = stage_batches.heldout_queries(small, pictures)
    assert torch.equal(queries.images, same.images) and torch.equal(box, same_box) and list(ids) == list(same_ids)
    assert len(gallery) > len(fewer) == len(fewer_ids) == 2 * people and set(fewer_ids) == set(gallery_ids)
    first = torch.from_numpy(pandas.Series(gallery_ids).groupby(gallery_ids).cumcount().to_numpy() < 2)
    assert torch.equal(fewer.images, gallery.images[first])


def test_the_fusion_weight_is_chosen_under_the_camera_rule(small, pictures, drawn, monkeypatch, capsys):
    """Embeddings are near to pictures of the query's own camera, regions to the person's one picture of another."""
    ids, everybody = pictures.heldout_ids, stage_batches.datasets.training_set("person", drawn)
    assert (pictures.heldout_cameras == everybody.cameras[np.isin(everybody.identities, ids)]).all()
    query, gallery = stage_batches.heldout_parts(small, pictures)
    own, other = ids[query][:, None] == ids[gallery], np.append(ids[1:] != ids[:-1], True)
    near, far = (torch.from_numpy(np.where(own, other[gallery] == away, 0.5)) for away in (True, False))
    monkeypatch.setattr(fusion_weight.matching, "global_distances", lambda *_: near)
    monkeypatch.setattr(fusion_weight.matching, "region_distances", lambda *_: far)
    model = PPCL(small, pictures.classes).eval()
    for cameras, expected in ((None, 0), (other.astype(int), 0.55)):  # the first grid point above a half
        data = dataclasses.replace(pictures, heldout_cameras=cameras)
        assert fusion_weight.choose_fusion(model, data)[0]["ppcl"] == expected
    alone = torch.from_numpy(ids == ids[0])
    capsys.readouterr()
    for words, changed in {
        "no held-out query has a match": {"heldout_cameras": np.zeros_like(ids)},
        "one held-out person": {"heldout_ids": ids[ids == ids[0]], "heldout": pictures.heldout[alone]},
    }.items():
        weights, scores = fusion_weight.choose_fusion(model, dataclasses.replace(pictures, **changed))
        assert weights["ppcl"] == small.matching.weight == 1 and scores == {}
        assert words in capsys.readouterr().out


def test_the_final_backbone_is_mixed_with_that_of_stage_2(small, run, pictures, tmp_path):
    found = {}
    for share in (0.0, 0.25):
        mixed = dataclasses.replace(small, joint=dataclasses.replace(small.joint, start_share=share))
        path = training.train_joint(mixed, pictures, copy_base(run, tmp_path / str(share)), "ppcl", quiet=True)
        found[share] = load_file(path)
    start = load_file(run / "person/backbone/checkpoint.safetensors")
    for name, value in found[0.0].items():
        before = start.get(name.replace("model.backbone.", "model.")) if "backbone" in name else None
        if before is not None and value.is_floating_point():
            value = 0.75 * value + 0.25 * before
        assert torch.allclose(found[0.25][name], value, atol=1e-6), name
    moved = [name for name in found[0.0] if not torch.equal(found[0.0][name], found[0.25][name])]
    assert moved and all(name.startswith("model.backbone.") for name in moved)


def test_nobody_seen_twice_is_said_before_training(small, drawn, tmp_path):
    target = tmp_path / "Market-1501-v15.09.15/bounding_box_train"
    target.mkdir(parents=True)
    for path in (drawn / "Market-1501-v15.09.15/bounding_box_train").glob("*_000*01.jpg"):
        if not list(target.glob(f"{path.name[:4]}_*")):
            shutil.copy(path, target)
    with pytest.raises(stage_batches.datasets.DataError, match="one picture of each person"):
        stage_batches.training_data(small, tmp_path, quiet=True)


def test_a_log_line_cut_off_by_a_kill_does_no_harm(small, pictures, run, tmp_path):
    copy_base(run, tmp_path)
    log = tmp_path / "person/glrec/log.jsonl"
    stage = stage_on_disk.Stage(tmp_path, small, pictures, "glrec", 0)
    log.write_text(log.read_text() + '{"epoch": 1, "st')
    model = GLRec(small.input.size, small.glrec)
    stage.resume(model, torch.optim.SGD(model.parameters(), 0.1))
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_glrec_overfits_a_batch(small, pictures):
    torch.manual_seed(0)
    model = GLRec(small.input.size, small.glrec).train()
    batch, ratios, box, partial = stage_batches.glrec_batch(
        pictures.train, torch.arange(16), small, make_rng(0, "overfit")
    )
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        predicted, gate = model(batch, ratios)
        optimiser.zero_grad()
        sum(losses.placement(predicted, gate, box, partial, small.glrec)[0].values()).backward()
        optimiser.step()
    assert 4 < partial.sum() < 12
    assert ((gate > 0) == partial).all()
    assert geometry.iou(predicted, box)[partial].mean() > 0.85


def test_backbone_overfits_a_batch(small, pictures):
    torch.manual_seed(0)
    model = PPCL(small, pictures.classes, "backbone").backbone.train()
    index = next(stage_batches.identity_batches(pictures.labels, 4, 2, make_rng(0, "overfit")))
    labels = torch.from_numpy(pictures.labels)[index]
    images = normalise(pictures.train.images[index])
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(60):
        pooled = model(images).mean((2, 3))
        terms, measures = losses.recognition(model.classifier(model.neck(pooled)), pooled, labels, small.backbone)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
    assert measures["accuracy"] == 1
    assert terms["triplet"] < 0.1


def test_joint_overfits_a_batch(small, pictures):
    torch.manual_seed(0)
    model = PPCL(small, pictures.classes, "ppcl").train()
    labels = torch.from_numpy(pictures.labels)
    index = next(stage_batches.identity_batches(pictures.labels, 4, 4, make_rng(0, "overfit")))
    batch = stage_batches.joint_batch(pictures, labels, index, small, METHODS["ppcl"], make_rng(0, "views"))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    log = []
    for _ in range(120):
        canvas = geometry.whole(16, like=batch.ratios)
        predicted = torch.where(batch.partial[:, None], batch.crop, canvas), torch.where(batch.partial, 1.0, -1.0)
        layout = model.layout(batch.pictures, batch.ratios, predicted)
        features, visible, pooled = model.features(layout)
        logits = model.backbone.classifier(model.backbone.neck(pooled))
        rng = make_rng(0, "regions")
        terms, measures = losses.joint_losses(model, batch, layout.box, features, visible, pooled, logits, rng)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        log.append({name: float(value.detach()) for name, value in (terms | measures).items()})
    assert all(log[-1][term] < 0.6 * log[0][term] for term in ("geometry", "region", "contrast"))
    assert log[-1]["crloc_iou"] > log[0]["crloc_iou"] + 0.1


def test_gradient_at_the_box_is_capped_a_sample():
    box = torch.rand(4, 4, requires_grad=True)
    capped = cap_gradient(box * 1, 0.25)
    (capped * torch.tensor([100.0, 0.01, 0, 1])[:, None]).sum().backward()
    norms = box.grad.norm(dim=1)
    assert torch.allclose(norms, torch.tensor([0.125, 0.02, 0, 0.125]), atol=1e-6)


def test_no_outside_gradient_reaches_the_gate(small, pictures):
    torch.manual_seed(0)
    model = PPCL(small, pictures.classes, "ppcl").train()
    images = normalise(pictures.train.images[:4])
    box, _ = model.predict(images, torch.zeros(4))
    layout = model.layout(images, torch.zeros(4), (box, torch.ones(4)))
    features, _, pooled = model.features(layout)
    (features.square().mean() + pooled.square().mean()).backward()
    assert model.glrec.gate_head.weight.grad is None
    assert model.glrec.box_head.weight.grad.abs().sum() > 0


def test_two_seeded_runs_are_identical(small, pictures, run, tmp_path):
    for name in ("a", "b"):
        training.train_glrec(small, pictures, tmp_path / name, quiet=True)
        training.train_backbone(small, pictures, tmp_path / name, quiet=True)
        training.train_joint(small, pictures, tmp_path / name, "ppcl", quiet=True)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.safetensors"))
    assert len(files) == 3
    assert all(same_bits(tmp_path / "a" / f, tmp_path / "b" / f) for f in files)
    logs = [(tmp_path / name / "person/joint/ppcl/seed0/log.jsonl").read_text() for name in ("a", "b")]
    assert logs[0] == logs[1]


def test_another_seed_gives_other_weights(small, pictures, run, tmp_path):
    copy_base(run, tmp_path)
    paths = [training.train_joint(small, pictures, tmp_path, "+glrec", seed, quiet=True) for seed in (0, 1)]
    assert not same_bits(*paths)


@pytest.mark.parametrize("stage", ["glrec", "backbone", "joint"])
def test_a_killed_stage_resumes_to_the_same_bits(stage, small, pictures, run, tmp_path, monkeypatch):
    def train(folder):
        if stage == "joint":
            return training.train_joint(small, pictures, folder, "ppcl", quiet=True)
        return getattr(training, f"train_{stage}")(small, pictures, folder, quiet=True)

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        if stage == "joint":
            copy_base(run, folder)
    whole = train(undisturbed)
    save = stage_on_disk.Stage._save

    def save_then_die(self, *args, **kwargs):
        save(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage_on_disk.Stage, "_save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    monkeypatch.undo()
    resumed = train(killed)
    assert same_bits(whole, resumed)
    assert whole.with_name("log.jsonl").read_text() == resumed.with_name("log.jsonl").read_text()
    headers = [checkpoints.header(path) for path in (whole, resumed)]
    assert headers[0].get("fusion_weights") == headers[1].get("fusion_weights")


@pytest.mark.parametrize("seconds, saved", [(0, [1, 2, 3]), (3600, [1])])
def test_epochs_that_end_soon_after_a_save_are_not_saved(pictures, run, tmp_path, monkeypatch, seconds, saved):
    """The first is; what is killed then goes on from it to the same bits."""
    chosen, written = recipe("person", "tiny", **SMALL | {"glrec.epochs": 3}), []
    save = checkpoints.save

    def told(path, model, optimiser, **facts):
        save(path, model, optimiser, **facts)
        written.append((facts["epoch"], facts["finished"]))

    monkeypatch.setattr(stage_on_disk, "SAVE_EVERY", seconds)
    monkeypatch.setattr(checkpoints, "save", told)
    whole = training.train_glrec(chosen, pictures, tmp_path / "whole", quiet=True)
    assert written == [*((epoch, False) for epoch in saved), (3, True)]

    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(stage_on_disk.Stage, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            training.train_glrec(chosen, pictures, tmp_path / "killed", quiet=True)
    resumed = training.train_glrec(chosen, pictures, tmp_path / "killed", quiet=True)
    assert same_bits(whole, resumed)
    assert whole.with_name("log.jsonl").read_text() == resumed.with_name("log.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["glrec", "backbone", "joint"])
def test_a_signal_stops_after_the_step_saved_and_the_rest_gives_the_same_bits(
    stage, number, small, pictures, run, tmp_path, monkeypatch
):
    """Inside the second epoch, where no checkpoint would be written."""
    steps = []

    def train(folder):
        if stage == "joint":
            return training.train_joint(small, pictures, folder, "+glrec", quiet=True)
        return getattr(training, f"train_{stage}")(small, pictures, folder, quiet=True)

    def record(self, *given):
        steps.append(self.step)
        if len(steps) == 1 + len(pictures.train) // 8 if stage == "backbone" else len(steps) == 3:
            signal.raise_signal(number)
        return recorded(self, *given)

    for folder in ("whole", "stopped") if stage == "joint" else ():
        copy_base(run, tmp_path / folder)
    recorded = stage_on_disk.Stage.record
    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage_on_disk.Stage, "record", record)
        train(tmp_path / "stopped")
    assert signal.getsignal(number) is before
    name = "joint/+glrec/seed0" if stage == "joint" else stage
    found = checkpoints.header(tmp_path / "stopped/person" / name / "checkpoint.safetensors")
    assert found["step"] == steps[-1] + 1 and not found["finished"]
    paths = [train(tmp_path / folder) for folder in ("whole", "stopped")]
    assert same_bits(*paths) and same_bits(*(path.with_name("log.jsonl") for path in paths))


def test_a_stage_has_one_process_at_a_time(small, pictures, run, tmp_path):
    """Another process holds it and is killed; the lock goes with it, whatever file stays. Other stages are free."""
    copy_base(run, tmp_path)
    code = """
        from ppcl.disk import locks

        with locks.hold(Path(sys.argv[1]), "busy"):
            print("held", flush=True)
            signal.pause()
    """
    other = another_process(code, tmp_path / "person/glrec/.lock")
    assert other.stdout.readline() == "held\n"
    with pytest.raises(locks.BusyError, match="person/glrec: another process trains this stage.*--run"):
        training.train_glrec(small, pictures, tmp_path, quiet=True)
    assert training.train_backbone(small, pictures, tmp_path, quiet=True).is_file()
    other.kill()
    other.wait()
    assert training.train_glrec(small, pictures, tmp_path, quiet=True).is_file()


def test_what_a_killed_save_left_is_cleared_away(small, pictures, run, tmp_path):
    copy_base(run, tmp_path)
    path = tmp_path / "person/glrec/checkpoint.safetensors"
    left = path.with_name(f".{path.name}.123.tmp")
    left.write_bytes(b"half")
    stage = stage_on_disk.Stage(tmp_path, small, pictures, "glrec", 0)
    model = GLRec(small.input.size, small.glrec)
    stage.resume(model, torch.optim.SGD(model.parameters(), 0.1))
    assert not left.exists()


def test_a_finished_stage_is_left_alone(small, pictures, run):
    path = run / "person/glrec/checkpoint.safetensors"
    before = path.stat().st_mtime_ns
    assert training.train_glrec(small, pictures, run, quiet=True) == path
    assert path.stat().st_mtime_ns == before


def test_a_checkpoint_of_another_recipe_is_refused_by_the_key_that_differs(pictures, run):
    other = recipe("person", "tiny", **SMALL | {"glrec.epochs": 3})
    with pytest.raises(checkpoints.CheckpointError, match=r"glrec\.epochs is 2 there, 3 here.*--run"):
        training.train_glrec(other, pictures, run, quiet=True)


def test_the_joint_stage_says_which_stage_is_missing(small, pictures, tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="glrec.*train that stage first"):
        training.train_joint(small, pictures, tmp_path, quiet=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(
    small, pictures, run, tmp_path, monkeypatch
):
    copy_base(run, tmp_path)
    monkeypatch.setattr(losses, "identity", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(
        FloatingPointError, match=r"loss is nan at epoch 0, step 0; nothing was saved.*the batch: "
    ) as found:
        training.train_joint(small, pictures, tmp_path, "+glrec", quiet=True)
    named = str(found.value).split("the batch: ")[1].split(", ")
    assert len(named) == 16 and set(named) <= set(pictures.names) and len(set(pictures.names)) == len(pictures.train)
    assert not (tmp_path / "person/joint/+glrec/seed0/checkpoint.safetensors").exists()


def test_a_loss_between_two_log_lines_that_is_not_finite_is_found_before_it_is_saved(
    small, pictures, tmp_path, monkeypatch
):
    calls, placement = [], losses.placement

    def bad(*given):
        calls.append(1)
        terms, measures = placement(*given)
        return {"box": terms["box"] * (float("inf") if len(calls) == 2 else 1)}, measures

    monkeypatch.setattr(losses, "placement", bad)
    with pytest.raises(FloatingPointError, match=r"loss is inf at epoch 0, step 1"):
        training.train_glrec(small, pictures, tmp_path, quiet=True)
    assert not (tmp_path / "person/glrec/checkpoint.safetensors").exists()


@pytest.mark.parametrize("stage, people, batch", [("joint", 25, 100), ("joint", 5, 20), ("backbone", 7, 35)])
def test_the_smaller_batch_that_is_proposed_is_a_recipe(stage, people, batch):
    chosen = recipe("person", "tiny", **{f"{stage}.identities": people, f"{stage}.batch": batch})
    words = stage_on_disk.half_batch(stage, getattr(chosen, stage)).replace(",", "").split()
    proposed = dict(word.split("=") for word in words if word.startswith(f"{stage}.") and "=" in word)
    smaller = getattr(recipe("person", "tiny", **proposed), stage)
    assert 0 < smaller.batch <= batch / 2 and smaller.identities == people // 2


def test_memory_that_runs_out_is_told_with_a_batch_that_fits(small, pictures, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(losses, "identity", full)
    fits = r"batch of 8;.*--set backbone.identities=2 --set backbone.batch=4, here and in the later stages$"
    with pytest.raises(RuntimeError, match=fits):
        training.train_backbone(small, pictures, tmp_path, quiet=True)


def test_fusion_weights_are_stored_for_every_row_of_a_checkpoint(small, pictures, run, tmp_path):
    copy_base(run, tmp_path)
    header = checkpoints.header(training.train_joint(small, pictures, tmp_path, "+glrec", quiet=True))
    weights = header["fusion_weights"]
    assert set(weights) == {"+glrec", "+glrec@7", "same-location", "untrained-crloc"}
    assert weights["+glrec"] == weights["+glrec@7"] == 0
    assert all(0 <= w <= 1 for w in weights.values())


def test_a_final_fit_trains_on_everybody_and_takes_the_recipes_weight(drawn, tmp_path):
    whole = recipe("person", "tiny", **SMALL, **{"selection.heldout": 0, "matching.weight": 0.4})
    pictures = stage_batches.training_data(whole, drawn, quiet=True)
    assert pictures.classes == 10 and len(pictures.train) == 60 and len(pictures.heldout) == 0
    header = checkpoints.header(evaluation.checkpoint(train(whole, pictures, tmp_path, ["ppcl"]), "person", "ppcl"))
    assert set(header["fusion_weights"].values()) == {0.4} and header["heldout"] == {}


def test_stage_2_by_itself_is_evaluated_and_is_no_row_to_train(small, pictures, run, drawn, tmp_path):
    copy_base(run, tmp_path)
    found = evaluation.evaluate(tmp_path, "person", "partial-reid", drawn, ["stage-2"], quiet=True)
    assert {(row["method"], row["stage"]) for row in found.rows} == {("stage-2", "backbone")}
    assert evaluation.trained(tmp_path) == []
    net, loaded = Backbone(small.backbone, 7), evaluation.load(tmp_path, "person", "stage-2").backbone.state_dict()
    checkpoints.load(stage_on_disk.stage_path(run, "person", "backbone"), net)
    assert all(torch.equal(value, loaded[name]) for name, value in net.state_dict().items())
    with pytest.raises(RecipeError, match="evaluate --method stage-2"):
        training.train_joint(small, pictures, tmp_path, "stage-2", quiet=True)


def test_every_line_of_a_log_is_json_with_its_step(run):
    lines = (run / "person/glrec/log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[0] == 0


def test_the_papers_recipe_goes_through_one_step_of_every_stage(drawn, tmp_path):
    """ResNet-50 at 256 x 128 with the paper's stages; the batch is smaller, because few people are drawn here."""
    few = {"backbone.weights": "none", "selection.heldout": 0.3, "glrec.batch": 8, "joint.glrec_batch": 8}
    few |= {"backbone.batch": 8, "backbone.identities": 4, "joint.batch": 16, "joint.identities": 4}
    few |= {"glrec.steps": 1, "backbone.steps": 1, "joint.steps": 1}
    paper = recipe("person", "paper", **few)
    pictures = stage_batches.training_data(paper, drawn, quiet=True)
    training.train_glrec(paper, pictures, tmp_path, quiet=True)
    training.train_backbone(paper, pictures, tmp_path, quiet=True)
    header = checkpoints.header(training.train_joint(paper, pictures, tmp_path, "ppcl", quiet=True))
    assert header["finished"] and set(header["fusion_weights"]) == {"ppcl", "ppcl@1", "no-crloc", "oracle-placement"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_stage_runs_on_cuda(small, drawn, tmp_path):
    pictures = stage_batches.training_data(small, drawn, "cuda", quiet=True)
    training.train_glrec(small, pictures, tmp_path, quiet=True)
    training.train_backbone(small, pictures, tmp_path, quiet=True)
    assert checkpoints.header(training.train_joint(small, pictures, tmp_path, "ppcl", quiet=True))["finished"]


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_stage_and_an_evaluation_have_one_thread(small, pictures, run, drawn, tmp_path, monkeypatch, three_threads):
    """Whatever the caller has, whose setting is restored, after an error as well."""
    seen = []
    for owner, name in ((stages, "descend"), (protocols, "prepare")):
        plain = getattr(owner, name)
        spy = lambda *given, plain=plain: (seen.append(torch.get_num_threads()), plain(*given))[1]  # noqa: E731
        monkeypatch.setattr(owner, name, spy)
    copy_base(run, tmp_path)
    training.train_joint(small, pictures, tmp_path, quiet=True)
    assert set(seen) == {1} and torch.get_num_threads() == 3
    seen.clear()
    evaluation.evaluate(tmp_path, "person", "partial-ilids", drawn, ["ppcl"], quiet=True)
    assert seen == [1] and torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="task person, not persn"):
        evaluation.evaluate(tmp_path, "persn", "partial-ilids", drawn, ["ppcl"])
    assert torch.get_num_threads() == 3


def test_a_field_that_is_younger_than_a_checkpoint_had_its_default():
    chosen = recipe("person", "tiny").to_dict()
    older = copy.deepcopy(chosen)
    del older["data"]["folds"], older["glrec"]["crops"]
    header = {"recipe": older, "finished": True, "epoch": 1}
    stage_on_disk.compare(Path("old"), header, chosen, ("glrec",), "delete it", "the set")
    chosen["data"]["folds"] = "1,2"
    with pytest.raises(checkpoints.CheckpointError, match='another recipe .data.folds is "" there, "1,2" here'):
        stage_on_disk.compare(Path("old"), header, chosen, ("glrec",), "delete it", "the set")
