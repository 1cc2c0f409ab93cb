import dataclasses
import inspect
import json
import re

import pytest

from ppcl import recipes
from ppcl.recipes import RecipeError, parse_overrides, recipe
from ppcl.training.schedules import backbone_lr, glrec_lr, joint_lr


@pytest.fixture
def paper():
    return recipe("person", "paper")


# --- supplement §2.1 to the letter ---


def test_paper_glrec_is_the_supplements(paper):
    how = paper.glrec
    assert (how.constant_epochs, how.epochs - how.constant_epochs) == (60, 100)
    assert (how.lr, how.final_lr, how.batch) == (5e-2, 5e-5, 128)


def test_paper_backbone_is_the_supplements(paper):
    how = paper.backbone
    assert (how.epochs, how.lr, how.decay, how.decay_epochs) == (120, 5e-4, 0.1, 40)
    assert (how.batch, how.identities, how.warmup_epochs) == (64, 16, 0)


def test_paper_joint_is_the_supplements(paper):
    assert (paper.joint.epochs, paper.joint.lr) == (40, 5e-4)


def test_paper_stages_run_all_their_epochs_and_nothing_more(paper):
    assert paper.glrec.steps == paper.backbone.steps == paper.joint.steps == 0


def test_glrec_rate_is_constant_then_linear(paper):
    rates = [glrec_lr(paper, epoch) for epoch in range(160)]
    assert rates[:60] == pytest.approx([5e-2] * 60)
    assert rates[159] == pytest.approx(5e-5)
    assert rates[109] == pytest.approx((5e-2 + 5e-5) / 2)  # half of the hundred epochs
    steps = [b - a for a, b in zip(rates[59:], rates[60:], strict=False)]
    assert steps == pytest.approx([(5e-5 - 5e-2) / 100] * 100)


def test_backbone_rate_falls_tenfold_every_forty_epochs(paper):
    expected = {0: 5e-4, 39: 5e-4, 40: 5e-5, 79: 5e-5, 80: 5e-6, 119: 5e-6}
    assert {epoch: backbone_lr(paper, epoch) for epoch in expected} == pytest.approx(expected)


def test_joint_rate_starts_at_the_supplements_and_only_falls(paper):
    rates = [joint_lr(paper, step, 10, 100) for step in range(101)]
    assert rates[0] == pytest.approx(5e-4)
    assert rates[50] == pytest.approx(5e-4 * (1 + 0.01) / 2)
    assert rates[100] == pytest.approx(5e-6)
    assert rates == sorted(rates, reverse=True)


def test_warmup_rises_linearly_to_the_published_rate():
    slow = recipe("person", "paper", **{"backbone.warmup_epochs": 3})
    rates = [backbone_lr(slow, epoch) for epoch in range(5)]
    assert rates == pytest.approx([5e-4 * share for share in (0.25, 0.5, 0.75, 1, 1)])


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_phases_keep_the_papers_proportions(profile):
    chosen = recipe("person", profile)
    glrec, backbone, joint = chosen.glrec, chosen.backbone, chosen.joint
    assert glrec.constant_epochs / glrec.epochs == 60 / 160
    assert backbone.decay_epochs / backbone.epochs == 1 / 3
    assert glrec.epochs == 160 and backbone.epochs / joint.epochs == 120 / 40


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_rates_and_batches_are_the_papers_in_the_demo_too(profile):
    chosen = recipe("person", profile)
    assert (chosen.glrec.lr, chosen.glrec.final_lr, chosen.glrec.batch) == (5e-2, 5e-5, 128)
    assert (chosen.backbone.lr, chosen.backbone.batch, chosen.backbone.identities) == (5e-4, 64, 16)
    assert (chosen.joint.lr, chosen.joint.batch, chosen.joint.identities) == (5e-4, 64, 16)
    last = chosen.glrec.epochs - 1
    assert glrec_lr(chosen, last) == pytest.approx(5e-5)
    assert backbone_lr(chosen, chosen.backbone.epochs - 1) == pytest.approx(5e-6)


def numeric_lines(stage):
    """Source lines of a dataclass that give a field a number, or numbers."""
    numeric = {f.name for f in dataclasses.fields(stage) if isinstance(f.default, int | float | tuple)}
    found = {}
    for line in inspect.getsource(stage).splitlines():
        match = re.match(r"    (\w+): .*=", line)
        if match and match[1] in numeric:
            found[match[1]] = line
    assert found.keys() == numeric
    return found


STAGES = [
    recipes.Input,
    recipes.GLRecStage,
    recipes.BackboneStage,
    recipes.JointStage,
    recipes.Matching,
    recipes.Selection,
    recipes.Augmentation,
]


@pytest.mark.parametrize("stage", STAGES)
def test_every_number_says_where_it_comes_from(stage):
    for name, line in numeric_lines(stage).items():
        assert name == "steps" or re.search("# .*(§2.1|§2.2|not published)", line), line


@pytest.mark.parametrize(
    "stage, published",
    [
        (recipes.GLRecStage, {"epochs", "constant_epochs", "lr", "final_lr", "batch"}),
        (recipes.BackboneStage, {"epochs", "decay_epochs", "decay", "lr", "batch", "identities"}),
        (recipes.JointStage, {"epochs", "lr", "batch", "identities", "decay_epochs", "decay"}),
        (recipes.Matching, set()),
        (recipes.Augmentation, set()),
        (recipes.Input, set()),
        (recipes.Selection, set()),
    ],
)
def test_nothing_is_called_published_that_is_not(stage, published):
    assert {name for name, line in numeric_lines(stage).items() if "§" in line} == published


# --- overrides ---


def test_overrides_as_strings_take_the_fields_type():
    given = {"joint.epochs": "2", "joint.lr": "1e-3", "joint.grid": "12,3", "joint.wide_scale": "0.8, 1"}
    chosen = recipe("person", "demo", **given, **{"backbone.weights": "mine.safetensors", "scale": "market"})
    found = (chosen.joint.epochs, chosen.joint.lr, chosen.joint.grid, chosen.joint.wide_scale)
    assert found == (2, 1e-3, (12, 3), (0.8, 1.0))
    assert [type(v) for v in (*found[:2], *chosen.joint.grid, *chosen.joint.wide_scale)] == [
        int,
        float,
        int,
        int,
        float,
        float,
    ]
    assert chosen.backbone.weights == "mine.safetensors" and chosen.scale == "market"


def test_overrides_as_values():
    chosen = recipe("person", "demo", **{"joint.grid": (12, 3), "joint.lr": 1, "joint.epochs": 2.0})
    assert chosen.joint.grid == (12, 3)
    assert (chosen.joint.lr, type(chosen.joint.lr)) == (1.0, float)
    assert (chosen.joint.epochs, type(chosen.joint.epochs)) == (2, int)


def test_override_changes_nothing_else():
    changed = recipe("person", "demo", **{"joint.epochs": 3}).to_dict()
    plain = recipe("person", "demo").to_dict()
    assert changed["joint"].pop("epochs") == 3 != plain["joint"].pop("epochs")
    assert changed == plain


def test_every_key_takes_its_own_value_as_json_gives_it_back():
    """What a checkpoint's header or `--set` carries: the default of each key, through JSON and as a string."""
    whole = recipe("person", "demo")
    plain = json.loads(json.dumps(whole.to_dict()))
    for key in recipes.keys(recipes.Recipe()):
        head, _, leaf = key.rpartition(".")
        value = plain[head][leaf] if head else plain[leaf]
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for given in (value, text):
            assert recipe("person", "demo", **{key: given}) == whole, key


@pytest.mark.parametrize(
    "key, near",
    [
        ("joint.epoch", "joint.epochs"),
        ("joint.epohcs", "joint.epochs"),
        ("glrec.momentm", "glrec.momentum"),
        ("matching.shortlst", "matching.shortlist"),
        ("epochs", "epochs"),
        ("joint", "joint."),
    ],
)
def test_unknown_key_names_the_nearest(key, near):
    with pytest.raises(RecipeError) as caught:
        recipe("person", "demo", **{key: 1})
    assert repr(key) in str(caught.value)
    named = re.search("did you mean '(.*)'", str(caught.value))[1]
    assert near in named and named in recipes.keys(recipes.Recipe())


@pytest.mark.parametrize(
    "key, value",
    [
        ("joint.epochs", "two"),
        ("joint.epochs", "2.5"),
        ("joint.epochs", 2.5),
        ("joint.epochs", True),
        ("joint.epochs", None),
        ("joint.lr", "fast"),
        ("joint.lr", [1e-3]),
        ("joint.grid", "6"),
        ("joint.grid", "6,3,1"),
        ("joint.grid", 6),
        ("joint.grid", "six,3"),
        ("joint.wide_scale", "0.8"),
    ],
)
def test_value_of_another_type_is_refused(key, value):
    with pytest.raises(RecipeError) as caught:
        recipe("person", "demo", **{key: value})
    assert key in str(caught.value)


def test_unknown_task_profile_and_method_name_the_known():
    with pytest.raises(RecipeError, match="'dog'.*person"):
        recipe("dog")
    with pytest.raises(RecipeError, match="'huge'.*tiny, demo, paper"):
        recipe("person", "huge")
    with pytest.raises(RecipeError, match="'pcl'.*'ppcl'"):
        recipes.method("pcl")


def test_parse_overrides():
    assert parse_overrides(["joint.epochs=2", " backbone.weights = a=b.safetensors "]) == {
        "joint.epochs": "2",
        "backbone.weights": "a=b.safetensors",
    }
    assert parse_overrides("joint.epochs=2") == parse_overrides(["joint.epochs=2"])  # a notebook's parameter, as text
    assert parse_overrides("") == parse_overrides([]) == {}
    for given in (["joint.epochs"], "joint.epochs"):
        with pytest.raises(RecipeError, match="key=value.*'joint.epochs'"):
            parse_overrides(given)


@pytest.mark.parametrize(
    "given",
    [
        {"backbone.batch": 63},
        {"glrec.view_scale": "-1,-1"},
        {"glrec.view_scale": "1.2,0.8"},
        {"joint.wide_scale": "0,0"},
        {"joint.wide_share": 1.5},
        {"joint.glrec_batch": 0},
        {"backbone.label_smoothing": 1.5},
        {"glrec.momentum": 1},
        {"selection.weight_step": 1e-9},
        {"augmentation.whole_scale": "nan,1"},
        {"backbone.identities": 1},
        {"backbone.views": "any"},
        {"backbone.pad": 64},
        {"joint.batch": 32},
        {"joint.identities": 8},
        {"matching.placements": 3},
        {"input.height": 100},
        {"input.width": 16},
        {"glrec.epochs": 0},
        {"joint.lr": 0},
        {"joint.lr": -1e-3},
        {"joint.steps": -1},
        {"glrec.batch": 1},
        {"selection.heldout": 1},
        {"backbone.frozen": 4, "backbone.stride": 4},
        {"backbone.stride": 12},
        {"ablation.rows": "ppcl,stage-2"},
        {"joint.lr": "nan"},
        {"joint.lr": "inf"},
        {"joint.grid": "5,3"},
        {"joint.grid": "0,3"},
        {"joint.sigma": 0},
        {"joint.temperature": -0.1},
        {"matching.shortlist": -1},
        {"selection.weight_step": 0},
        {"selection.queries": 0},
        {"backbone.architecture": "resnet5"},
    ],
    ids=str,
)
def test_what_could_only_fail_later_is_refused(given):
    """Some give an exception or NaN after minutes of work: a division by 0, a log of 0, six stripes of five rows."""
    with pytest.raises(RecipeError) as caught:
        recipe("person", "demo", **given)
    assert "\n" not in str(caught.value)


# --- rows of the table ---


def test_rows_come_in_the_tables_order_whatever_was_asked():
    chosen = recipe("person", "demo", **{"ablation.rows": "ppcl, backbone ,+glrec"})
    assert recipes.rows(chosen) == ["backbone", "+glrec", "ppcl"]


def test_all_rows_are_the_trained_ones():
    found = recipes.rows(recipe("person", "demo", **{"ablation.rows": "all"}))
    ladder = ["backbone", "backbone+crops", "backbone+crops+pad", "+glrec", "+crloc", "ppcl"]
    left_out = ["cycle", "geometry", "triplet", "contrast", "prior", "prior-no-cycle", "stripes", "whitening"]
    assert found == [*ladder, *(f"no-{part}" for part in left_out), *recipes.CONTROLS]
    assert all(recipes.trained_by(row) == row for row in found if row not in recipes.CONTROLS)


def test_rows_without_ppcl_are_refused_before_anything_is_trained():
    with pytest.raises(RecipeError, match="must include ppcl"):
        recipe("person", "demo", **{"ablation.rows": "backbone,+glrec"})


def test_row_without_training_of_its_own_names_the_one_it_uses():
    assert recipes.trained_by("ppcl@1") == "ppcl" and recipes.trained_by("+glrec@7") == "+glrec"
    with pytest.raises(RecipeError, match=r"ppcl@1.*'ppcl'"):
        recipes.rows(recipe("person", "demo", **{"ablation.rows": "ppcl,ppcl@1"}))
    with pytest.raises(RecipeError, match="backbon"):
        recipes.rows(recipe("person", "demo", **{"ablation.rows": "backbon"}))


def test_rows_that_share_a_checkpoint_differ_in_nothing_that_is_trained():
    for name, row in recipes.METHODS.items():
        if row.checkpoint:
            used = recipes.METHODS[row.checkpoint]
            assert not used.checkpoint, name
            assert (row.views, row.layout, row.triplet) == (used.views, used.layout, used.triplet), name
            assert row.region == used.region or row.region in ("same", "untrained", "true", "cells", "embedding"), name
