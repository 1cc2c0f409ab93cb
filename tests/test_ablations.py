"""Each row of the ablation table leaves out what it names, and no test label has a say in any of them."""

import json
import re
import shutil

import numpy as np
import pandas
import pytest
import torch
from conftest import SMALL as SHORT
from conftest import train
from safetensors.torch import load_file

from ppcl import evaluation, geometry, matching
from ppcl.__main__ import main
from ppcl.data import datasets, stage_batches
from ppcl.disk import checkpoints
from ppcl.disk.checkpoints import CheckpointError
from ppcl.disk.files import as_json
from ppcl.evaluation import known_truth, results
from ppcl.models.crloc import stripe_weights
from ppcl.models.ppcl import PPCL
from ppcl.recipes import recipe
from ppcl.recipes.methods import ABLATIONS, CONTROLS, METHODS

SMALL = SHORT | {"joint.epochs": 1}
TRAINED = [name for name, row in ABLATIONS.items() if not (row.checkpoint or name in CONTROLS or name == "stage-2")]


@pytest.fixture(scope="module")
def small():
    return recipe("person", "tiny", **SMALL)


@pytest.fixture(scope="module")
def run(small, drawn, tmp_path_factory):
    """A run with the method and every ablation trained."""
    pictures = stage_batches.training_data(small, drawn, quiet=True)
    return train(small, pictures, tmp_path_factory.mktemp("ablations"), ["ppcl", *TRAINED])


def log(run, row):
    lines = (run / f"person/joint/{row}/seed0/log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_row_is_trained_when_all_are_asked_for(small):
    from ppcl import recipes

    everything = recipes.rows(recipe("person", "tiny", **{"ablation.rows": "all"}))
    assert set(TRAINED) < set(everything) and "oracle-placement" not in everything
    assert set(recipes.rows(small)).isdisjoint(ABLATIONS)  # the demo's short form


def test_losses_that_are_left_out_are_not_logged(run):
    whole = log(run, "ppcl")[0]
    assert {"cycle", "geometry", "region", "contrast"} <= whole.keys()
    assert "cycle" not in log(run, "no-cycle")[0] and "geometry" in log(run, "no-cycle")[0]
    assert "geometry" not in log(run, "no-geometry")[0] and "cycle" in log(run, "no-geometry")[0]
    for row, left_out, kept in (("no-contrast", "contrast", "region"), ("no-triplet", "region", "contrast")):
        found = log(run, row)[0]
        assert left_out not in found and found[kept] == pytest.approx(whole[kept], rel=1e-4) and found[kept] > 0


@pytest.mark.parametrize("row", TRAINED)
def test_every_row_learns_something_else_than_the_method(run, row):
    first, second = (run / f"person/joint/{name}/seed0/checkpoint.safetensors" for name in ("ppcl", row))
    mine, theirs = load_file(first), load_file(second)
    assert any(not torch.equal(mine[name], theirs[name]) for name in mine)  # tensors alone: headers name the row
    assert checkpoints.header(second)["fusion_weights"].keys() == {row}


def test_without_prior_points_look_by_likeness_alone(run, draw):
    model = evaluation.load(run, "person", "no-prior")
    keys = torch.nn.functional.normalize(torch.rand(2, 64, 4, 3, generator=draw), dim=1)
    query = torch.nn.functional.normalize(torch.rand(2, 5, 64, generator=draw), dim=2)
    where = torch.rand(2, 5, 2, generator=draw)
    seen = model.crloc.attention(query, where, keys, torch.ones(2, 1, 4, 3))
    expected = (query @ keys.flatten(2) / model.crloc.log_temperature.exp()).softmax(-1)
    assert torch.allclose(seen, expected, atol=1e-6)
    nearby = evaluation.load(run, "person", "ppcl").crloc.attention(query, where, keys, torch.ones(2, 1, 4, 3))
    assert not torch.allclose(seen, nearby, atol=1e-3)


@torch.no_grad()
def test_without_stripes_a_region_is_one_mean(run, small, drawn):
    model = evaluation.load(run, "person", "no-stripes")
    found = evaluation.prepare("partial-ilids", drawn, small, quiet=True)
    query, gallery = (matching.describe(model, bank) for bank in (found.query_bank, found.gallery_bank))
    distances = matching.region_distances(model, query, gallery)
    region, _ = model.crloc.locate_all(query.points[0], query.box[0], gallery.keys, gallery.visible)
    weights = stripe_weights(region, model.crloc.grid, tuple(gallery.whitened.shape[-2:]), 1)[:, 0]
    mean = (weights @ gallery.whitened.flatten(2).transpose(1, 2))[:, 0]
    expected = 1 - torch.nn.functional.cosine_similarity(query.stripes[0, 0].mean(0)[None], mean)
    assert torch.allclose(distances[0], expected, atol=1e-5)


def test_without_whitening_the_map_is_read_as_it_is(run, small):
    features = torch.rand(2, 128, 4, 2)
    assert torch.equal(evaluation.load(run, "person", "no-whitening").described(features), features)
    assert not torch.equal(evaluation.load(run, "person", "ppcl").described(features), features)


def test_the_oracle_lies_where_the_truth_says(run, small, drawn):
    found = evaluation.evaluate(
        run, "person", "partial-reid", drawn, ["ppcl@1", "ppcl", "oracle-placement"], quiet=True
    )
    model = evaluation.load(run, "person", "oracle-placement")
    query = matching.describe(model, found.query_bank, True, known_truth.view_boxes(found))
    gallery = matching.describe(model, found.gallery_bank)
    assert np.allclose(found.distances["oracle-placement"], matching.match(model, query, gallery), atol=1e-5)
    rows = [row for row in found.rows if row["method"] == "oracle-placement"]
    assert {"rank-1", "crloc-IoU"} <= {row["metric"] for row in rows} and "glrec-IoU" not in {r["metric"] for r in rows}
    against = [row["method"] for row in found.rows if row["metric"] == "rank-1 over oracle-placement"]
    assert set(against) == {"ppcl@1"}  # it has one placement, too


@pytest.mark.parametrize(
    "to, given",
    [("person/joint/no-prior/seed0", {"method": "no-prior"}), ("person/joint/ppcl/seed7", {"seed": 7})]
    + [("face/joint/ppcl/seed0", {"task": "face"})],
)
def test_a_checkpoint_in_anothers_place_is_refused(run, tmp_path, to, given):
    source, target = run / "person/joint/ppcl/seed0/checkpoint.safetensors", tmp_path / to / "checkpoint.safetensors"
    target.parent.mkdir(parents=True)
    shutil.copy(source, target)
    (key,) = given
    with pytest.raises(CheckpointError, match=f"{to}.*{key} is .* there, .*{given[key]}.* here.*move it"):
        evaluation.load(tmp_path, **given)


def test_the_librarys_own_run_has_one_row():
    with pytest.raises(CheckpointError, match="comes with ppcl of seed 0 alone: give --run for backbone"):
        evaluation.load(method="backbone")


def test_rank_leaves_out_a_querys_own_camera():
    def some(identities, cameras):
        paths = (None,) * len(identities)
        return datasets.PictureSet("market1501/query", None, paths, np.array(identities), np.array(cameras))

    found = known_truth.Evaluation("market1501", None, some([1, 2], [1, 1]), some([1, 1, 2], [1, 2, 2]), (8, 4))
    distances, ranking = found.rank(torch.tensor([[0.1, 0.5, 0.2], [0.4, 0.3, 0.9]]))
    assert distances.isinf().tolist() == [[True, False, False], [False] * 3]
    assert ranking.hits(1).tolist() == [0, 0] and ranking.hits(2).tolist() == [1, 0] and ranking.hits(3)[1] == 1


def test_rows_that_share_features_are_measured_as_alone(run, drawn, monkeypatch):
    described, describe = [], matching.describe
    monkeypatch.setattr(matching, "describe", lambda *args: described.append(args[0].row) or describe(*args))
    rows = ["ppcl@1", "ppcl", "oracle-placement", "no-prior"]
    together = evaluation.evaluate(run, "person", "partial-ilids", drawn, rows, quiet=True)
    assert len(described) == 4 + 2  # each row's queries; the gallery once for three rows, once for the last
    for row in rows:
        alone = evaluation.evaluate(run, "person", "partial-ilids", drawn, [row], quiet=True)
        assert np.array_equal(together.distances[row], alone.distances[row]), row


def test_the_oracle_is_not_asked_about_photographs(run, drawn, tmp_path):
    shutil.copytree(drawn / "Partial_iLIDS", tmp_path / "Partial_iLIDS")  # without the table of truth
    found = evaluation.evaluate(run, "person", "partial-ilids", tmp_path, quiet=True)
    assert "ppcl" in found.distances and "oracle-placement" not in found.distances


def test_untrained_rows_of_the_table_use_what_they_name():
    assert {name for name, row in METHODS.items() if row.oracle} == {"oracle-placement"}
    for name, row in ABLATIONS.items() - CONTROLS.items():
        if row.stage == "backbone":
            assert name == "stage-2" and row.region == "none"
            continue
        assert row.triplet != (name == "no-triplet"), name
        assert row.region == ("same" if name == "no-crloc" else "trained"), name


# --- known truth, by subset ---


def test_truth_by_kind_and_ratio_agrees_with_all(run, drawn):
    found = evaluation.evaluate(run, "person", "partial-reid", drawn, ["ppcl"], quiet=True)
    table = pandas.DataFrame(found.rows)
    table = table[table.protocol == "truth"]
    for metric in ("glrec-IoU", "crloc-IoU", "constant-region-IoU"):
        rows = table[table.metric == metric].set_index("subset")
        kinds = rows.loc[[name for name in ("left", "right", "upper", "lower", "random") if name in rows.index]]
        assert kinds.n_query.sum() == rows.n_query["all"]
        assert (kinds.value * kinds.n_query).sum() / kinds.n_query.sum() == pytest.approx(rows.value["all"], abs=1e-6)


# --- test labels, and tables ---


def test_test_labels_change_nothing_that_training_and_selection_make(small, drawn, tmp_path):
    """Other names on the test pictures: the same bytes in every checkpoint, fusion weight and all."""
    shutil.copytree(drawn, tmp_path / "data")
    for folder in ("Partial-REID_Dataset/partial_body_images", "Partial_iLIDS/Probe"):
        files = sorted((tmp_path / "data" / folder).iterdir())
        for path, other in zip(files, files[1:] + files[:1], strict=True):
            path.rename(other.with_suffix(".moved"))
        for path in (tmp_path / "data" / folder).iterdir():
            path.rename(path.with_suffix(".jpg"))
    for name, data in (("one", drawn), ("two", tmp_path / "data")):
        train(small, stage_batches.training_data(small, data, quiet=True), tmp_path / name, ["ppcl"])
    names = ["glrec", "backbone", "joint/ppcl/seed0"]
    one, two = ([tmp_path / n / "person" / part / "checkpoint.safetensors" for part in names] for n in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    found = [
        evaluation.evaluate(tmp_path / n, "person", "partial-reid", d, ["ppcl"], quiet=True).distances["ppcl"]
        for n, d in (("one", drawn), ("two", tmp_path / "data"))
    ]
    assert not np.array_equal(*found)  # the queries did move


def test_a_query_without_a_valid_match_is_counted_and_reported(run, drawn, tmp_path, capsys):
    shutil.copytree(drawn / "Partial_iLIDS", tmp_path / "Partial_iLIDS")
    (tmp_path / "Partial_iLIDS/Gallery/001.jpg").unlink()
    capsys.readouterr()
    found = evaluation.evaluate(run, "person", "partial-ilids", tmp_path, ["ppcl"], quiet=True)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith(f"partial-ilids: 1 of {len(found.query)} queries have no match")
    assert said[-1].endswith("1 show people who are not in the gallery")
    lost = [row for row in found.rows if row["metric"] == "queries without a match"]
    assert {row["value"] for row in lost} == {1} and len(lost) == 2  # both protocols
    rank1 = next(row for row in found.rows if row["metric"] == "rank-1" and row["subset"] == "all")
    assert rank1["n_query"] == len(found.query) - 1


@pytest.mark.parametrize("lost", ["none", "one person", "everybody"])
def test_queries_that_match_only_their_own_camera_are_reported(run, drawn, tmp_path, capsys, lost):
    market = shutil.copytree(drawn / "Market-1501-v15.09.15", tmp_path / "Market-1501-v15.09.15")
    queries = datasets.read("market1501", "query", drawn).identities
    people = {"none": [], "one person": [queries[0]], "everybody": list(queries)}[lost]
    for path in [*(market / "query").iterdir(), *(market / "bounding_box_test").iterdir()]:
        if int(path.name.split("_")[0]) in people:
            path.rename(path.with_name(re.sub(r"_c\d+s", "_c1s", path.name)))
    call = ["evaluate", "--run", run, "--data", tmp_path, "--dataset", "market1501", "--method", "ppcl"]
    status = main([str(word) for word in [*call, "--json", tmp_path / "rows.json"]])
    said, count = capsys.readouterr(), sum(query in people for query in queries)
    if lost == "everybody":
        assert status == 1 and f"no query has a match that counts: {count} match only pictures of their" in said.err
        return
    rows = json.loads((tmp_path / "rows.json").read_text(), parse_constant=pytest.fail)
    told = f"market1501: {count} of {len(queries)} queries have no match and are left out of all metrics"
    assert status == 0 and (told in said.out) == bool(count)
    assert [row["value"] for row in rows if row["metric"] == "queries without a match"] == [count] * bool(count)
    assert {row["n_query"] for row in rows if row["metric"] == "rank-1"} == {len(queries) - count}


def test_a_test_of_one_person_is_refused(run, drawn, tmp_path):
    """Every ranking would be right."""
    shutil.copytree(drawn / "Partial_iLIDS", tmp_path / "Partial_iLIDS")
    for path in [*tmp_path.rglob("*.jpg")]:
        path.unlink() if path.stem != "001" else None
    with pytest.raises(datasets.DataError, match="one (person|identity)"):
        evaluation.evaluate(run, "person", "partial-ilids", tmp_path, ["ppcl"], quiet=True)


def test_a_number_that_rests_on_nothing_is_null():
    row = results.row({"task": "person"}, "rank-1", (float("nan"),) * 3, 0, 5)
    assert json.loads(as_json([row]), parse_constant=pytest.fail)[0]["value"] is None


def test_shuffled_gallery_gives_the_same_metrics_ties_included(run, small, drawn):
    from ppcl import metrics

    found = evaluation.evaluate(run, "person", "partial-reid", drawn, ["ppcl"], quiet=True)
    distances = found.distances["ppcl"].round(2)  # many ties
    order = np.random.default_rng(0).permutation(len(found.gallery))
    ids = found.query.identities, found.gallery.identities
    one, two = metrics.cmc_map(distances, *ids), metrics.cmc_map(distances[:, order], ids[0], ids[1][order])
    assert len(np.unique(distances)) < distances.size / 2
    assert (one.first == two.first).all() and np.allclose(one.average_precision, two.average_precision)


def test_single_shot_knows_nothing_of_pictures_that_were_not_drawn(run, small, drawn):
    from ppcl import metrics

    found = evaluation.evaluate(run, "person", "partial-reid", drawn, ["ppcl"], quiet=True)
    model = evaluation.load(run, "person", "ppcl")
    query = matching.describe(model, found.query_bank, several=True)
    gallery = matching.describe(model, found.gallery_bank)
    ids, scores = found.gallery.identities, []
    assert model.recipe.matching.shortlist < len(np.unique(ids)) < len(ids)
    for columns in metrics.single_shot_columns(ids):
        distances = matching.match(model, query, gallery[torch.from_numpy(columns)])
        scores.append(metrics.cmc_map(distances, found.query.identities, ids[columns]).mAP)
    rows = [row for row in found.rows if (row["protocol"], row["metric"]) == ("single-shot", "mAP")]
    assert next(row["value"] for row in rows if row["subset"] == "all") == pytest.approx(np.mean(scores), abs=1e-9)


def test_drawn_and_photographed_numbers_share_no_table(run, drawn, tmp_path):
    evaluation.evaluate(run, "person", "partial-ilids", drawn, ["ppcl"], quiet=True)
    shutil.copytree(drawn / "Partial_iLIDS", tmp_path / "Partial_iLIDS")
    evaluation.evaluate(run, "person", "partial-ilids", tmp_path, ["ppcl"], quiet=True)
    table = results.read(run)
    assert table.synthetic.nunique() == 2
    with pytest.raises(ValueError, match="do not go into one table"):
        results.wide(table, "partial-ilids", "single-shot")
    assert len(results.wide(table[table.synthetic], "partial-ilids", "single-shot")) >= 1


def test_datasets_of_both_kinds_are_told_apart(drawn):
    assert datasets.is_drawn(drawn, "partial-reid") and not datasets.is_drawn(drawn, "lfw")


def test_the_trained_model_of_a_row_knows_its_row(run):
    for row in ("ppcl", *TRAINED):
        model = evaluation.load(run, "person", row)
        assert isinstance(model, PPCL) and model.crloc.has_prior == (not row.startswith("no-prior"))


def test_truth_follows_the_camera_above_the_heads():
    """A box of the figure moves as the drawing moves it, and back."""
    from ppcl.drawn.figure import _from_above
    from ppcl.drawn.looks import Cloth
    from ppcl.drawn.paint import Part

    above, top, low, side = 0.4, 0.2, 0.7, 0.08
    part = _from_above(Part(0, (side, top), (side, low), (0.1, 0.1), Cloth((0, 0, 0))), above)
    wide = 0.32  # of the figure's frame, body heights
    box = torch.tensor([[0.5 + side / wide / 2, (top + low) / 2, side / wide, low - top]])
    seen = geometry.of_figure(box, torch.tensor([[0.5, 0.5, 1, 1, above]]))[0]
    x, y, w, h = seen.tolist()
    assert (y - h / 2, y + h / 2) == pytest.approx((part.p[1], part.q[1]), abs=1e-6)
    middle = (part.p[0] + part.q[0]) / 2 / wide  # the right edge of the box, at half its height
    assert x + w / 2 - 0.5 == pytest.approx(middle, abs=1e-6)
    assert part.radii[0] > 0.1 > part.radii[1] and part.p[1] > top
    boxes = torch.rand(20, 4) * 0.4 + 0.3
    figures = torch.cat([torch.tensor([0.4, 0.55, 0.7, 0.8]).expand(20, 4), torch.rand(20, 1) * 0.55], 1)
    assert torch.allclose(geometry.in_figure(geometry.of_figure(boxes, figures), figures), boxes, atol=1e-4)
    figures[:, 4] = 0
    assert torch.allclose(geometry.in_figure(geometry.compose(figures[:, :4], boxes), figures), boxes, atol=1e-6)


def of_draws(values):
    facts = {"dataset": "partial-reid", "protocol": "single-shot", "subset": "all", "metric": "rank-1"}
    both = (("ppcl", 0.4), ("+glrec", 0.4))
    rows = [
        facts | {"method": name, "value": base + (name == "ppcl") * v, "seed": n}
        for n, v in enumerate(values)
        for name, base in both
    ]
    return results.over_draws(pandas.DataFrame(rows)).loc[("partial-reid", "+glrec")].drop("holm")


def test_over_draws_is_the_t_interval_by_hand():
    assert of_draws([0.1, 0.2, 0.6]).tolist() == pytest.approx(
        [30, 30 - 4.302653 * 26.457513 / 3**0.5, 95.724, 3], abs=1e-3
    )
    assert np.isnan(of_draws([0.1])[["low", "high"]]).all() and of_draws([0.1]).value == pytest.approx(10)


def test_over_draws_holds_the_truth_in_95_of_100():
    draw = np.random.default_rng(0)
    found = [of_draws(draw.normal(0.2, 0.03, 6)) for _ in range(400)]
    assert 0.92 < np.mean([one.low <= 20 <= one.high for one in found]) < 0.98


def test_holm_by_hand():
    """0.01 of four, 0.02 of three, 0.04 of two, and the last no smaller than the one before."""
    found = results.holm(pandas.Series({"a": 0.04, "b": 0.01, "none": np.nan, "c": 0.02, "d": 0.05}))
    assert found.drop("none").tolist() == pytest.approx([0.08, 0.04, 0.06, 0.08]) and np.isnan(found["none"])
    assert results.holm(pandas.Series([0.4, 0.7])).tolist() == pytest.approx([0.8, 0.8])


def test_draws_are_tested_as_a_family_of_rows_that_have_all_of_them():
    from scipy.stats import ttest_1samp

    draw = np.random.default_rng(0)
    facts = {"dataset": "partial-reid", "protocol": "single-shot", "subset": "all", "metric": "rank-1"}
    rows = [
        facts | {"method": name, "value": draw.normal(0.4 + 0.05 * (name == "ppcl"), 0.03), "seed": n}
        for n in range(6)
        for name in ("ppcl", "+glrec", "dsr", "dsr+rerank", "no-crloc")
        if name != "no-crloc" or n < 3
    ]
    table = pandas.DataFrame(rows)
    found = results.over_draws(table).droplevel(0)
    values = table.pivot(index="seed", columns="method", values="value")
    p = pandas.Series(
        {name: ttest_1samp(values.ppcl - values[name], 0).pvalue for name in ("+glrec", "dsr", "dsr+rerank")}
    )
    assert found.holm[p.index].tolist() == pytest.approx(results.holm(p).tolist()) and np.isnan(found.holm["no-crloc"])


def test_differences_of_several_trainings_are_pooled_over_people(run, drawn, capsys):
    """A person is resampled with the queries of all trainings; one training has the interval of its own queries."""
    from ppcl import metrics
    from ppcl.evaluation import protocols

    rows = ["ppcl", "no-crloc"]
    found = evaluation.evaluate(run, "person", "partial-reid", drawn, rows, quiet=True)
    first = results.differences(results.read(run)).loc[("partial-reid", "no-crloc")]
    one = next(
        row for row in found.rows if row["metric"] == "rank-1 over no-crloc" and row["protocol"] == "single-shot"
    )
    assert first.tolist() == pytest.approx([100 * one["value"], 100 * one["low"], 100 * one["high"], 1], abs=1e-4)
    draw, count = np.random.default_rng(0), len(found.query)
    values = {
        seed: {f"single-shot/{row}/rank-1": draw.integers(2, size=count).astype(float) for row in rows}
        for seed in (1, 2)
    }
    facts = {"task": "person", "dataset": "partial-reid", "seed": 0, "profile": "tiny", "synthetic": True}
    for seed, by in values.items():
        more = protocols._gains(found, facts | {"seed": seed, "stage": "joint", "commit": "x"}, by, run / "person")
    pooled = next(row for row in more if row["metric"] == "rank-1 over no-crloc" and row["subset"] == "pooled")
    own = json.loads(next((run / "person").glob("partial-reid-*-seed0.json")).read_text())
    gaps = [np.subtract(*(own[f"single-shot/{row}/rank-1"] for row in rows))]
    gaps += [np.subtract(*(by[f"single-shot/{row}/rank-1"] for row in rows)) for by in values.values()]
    expected = metrics.bootstrap(np.concatenate(gaps), np.tile(found.query.identities, 3))
    assert (pooled["value"], pooled["low"], pooled["high"]) == pytest.approx(expected)
    assert (pooled["subset"], pooled["seed"], pooled["n_query"]) == ("pooled", 2, 3 * count)
    single = one | {"seed": 1}
    table = results.differences(pandas.DataFrame([one, single, pooled]))
    assert table.loc[("partial-reid", "no-crloc")].tolist() == pytest.approx([100 * x for x in expected] + [2])
    other = next((run / "person").glob("partial-reid-*-seed1.json"))
    other.write_text(json.dumps(json.loads(other.read_text()) | {"weights": {"ppcl": "", "no-crloc": "trained again"}}))
    capsys.readouterr()
    more = protocols._gains(found, facts | {"seed": 2, "stage": "joint", "commit": "x"}, values[2], run / "person")
    assert "the weights of no-crloc changed since, so seed 1 counts without" in capsys.readouterr().out
    pooled = next(row for row in more if row["metric"] == "rank-1 over no-crloc" and row["subset"] == "pooled")
    assert pooled["n_query"] == 2 * count
    for path in (run / "person").glob("partial-reid-*-seed[12].json"):
        path.unlink()
    damaged = next((run / "person").glob("partial-reid-*-seed0.json"))
    damaged.write_text("{")
    with pytest.raises(ValueError, match=f"{damaged.name} is damaged"):
        evaluation.evaluate(run, "person", "partial-reid", drawn, ["ppcl"], quiet=True)
    damaged.unlink()


@pytest.mark.parametrize("to", ["1.5", "x", ""])
@pytest.mark.parametrize("column", ["seed", "value", "n_query", "synthetic", "method"])
def test_a_table_with_a_wrong_field_is_damaged(tmp_path, column, to):
    """Also one that was cut off: nothing is added to it."""
    facts = dict.fromkeys(results.COLUMNS, "a") | {"synthetic": True, "seed": 0, "profile": "tiny"}
    results.add(tmp_path, [results.row(facts, "rank-1", (0.5, 0.4, 0.6), 6, 6)])
    table = pandas.read_csv(tmp_path / "results.csv", dtype=str, keep_default_na=False)
    table[column] = to
    table.to_csv(tmp_path / "results.csv", index=False)
    if (column, to) in [("value", "1.5"), ("value", ""), ("method", "x"), ("method", "1.5")]:
        assert len(results.read(tmp_path)) == 1
    else:
        with pytest.raises(ValueError, match="results.csv is damaged .*: delete it and evaluate again"):
            results.read(tmp_path)
