import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import blocks
from torch.autograd import gradcheck

from ppcl import geometry, matching
from ppcl.data.image_bank import ImageBank, normalise
from ppcl.matching import features
from ppcl.models.crloc import MAX_HALF, MIN_HALF, CRLoc, describe_stripes, fit, stripe_weights, stripes
from ppcl.models.glrec import padded_box, placements, rectify
from ppcl.recipes import METHODS, JointStage, recipe

CELLS = (24, 12)
# what a shows is this part of b, and p is this part of a: near, shifted right, shrunk, shifted down and shrunk
PLANTED = torch.tensor([[0.5, 0.5, 0.8, 0.8], [0.64, 0.5, 0.7, 0.7], [0.5, 0.5, 0.55, 0.55], [0.6, 0.66, 0.6, 0.6]])
REGION = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.4, 0.45, 0.6, 0.7], [0.5, 0.5, 0.9, 0.9], [0.45, 0.4, 0.7, 0.6]])


def locator(temperature=0.03, sigma=5.0, **others):
    """A CRLoc that looks everywhere and is sure of itself; its keys are given, not projected."""
    return CRLoc(4, JointStage(temperature=temperature, sigma=sigma, **others))


def random_keys(count, draw, cells=CELLS, size=64):
    return F.normalize(torch.randn(count, size, *cells, generator=draw), dim=1)


def planted(draw):
    """Keys of b, and of a: what b shows in a known box, resized."""
    keys_b = random_keys(len(PLANTED), draw)
    return F.normalize(geometry.crop(keys_b, PLANTED, CELLS), dim=1), keys_b


def everywhere(keys):
    return torch.ones(len(keys), 1, *keys.shape[-2:])


def test_locates_what_was_planted(draw):
    keys_a, keys_b = planted(draw)
    truth = geometry.compose(PLANTED, REGION)
    found, confidence = locator()(keys_a, keys_b, REGION, everywhere(keys_b))
    right, stayed = geometry.iou(found, truth), geometry.iou(REGION, truth)
    assert (right > 0.8).all(), right
    assert (right > stayed).all()
    assert (stayed < 0.6).sum() >= 2
    assert (confidence > 0.1).all() and (confidence <= 1).all()


def test_locates_in_the_other_direction(draw):
    """From the whole picture into the part that shows it closer: q is larger than p."""
    keys_a, keys_b = planted(draw)
    region = geometry.compose(PLANTED, REGION * torch.tensor([1, 1, 0.8, 0.8]))
    truth = geometry.compose(geometry.invert(PLANTED), region)
    found, _ = locator()(keys_b, keys_a, region, everywhere(keys_a))
    assert (geometry.iou(found, truth) > 0.8).all()


def test_area_follows_the_truth(draw):
    keys_a, keys_b = planted(draw)
    found, _ = locator()(keys_a, keys_b, REGION, everywhere(keys_b))
    ratio = geometry.area(found) / geometry.area(geometry.compose(PLANTED, REGION))
    assert ratio.min() > 0.8 and ratio.max() < 1.25


def test_same_picture_gives_the_same_region(draw):
    keys = random_keys(len(REGION), draw)
    found, _ = locator()(keys, keys, REGION, everywhere(keys))
    assert (geometry.iou(found, REGION) > 0.9).all()


def test_same_picture_gives_exactly_the_same_region_where_points_are_cells(draw):
    keys = random_keys(1, draw, (6, 3))
    found, confidence = locator(temperature=0.01)(keys, keys, geometry.whole(1), everywhere(keys))
    torch.testing.assert_close(found, geometry.whole(1), atol=1e-5, rtol=0)
    assert confidence.item() == pytest.approx(1, abs=1e-5)


def test_stays_without_confidence_where_nothing_is_visible(draw):
    keys = random_keys(2, draw)
    visible = everywhere(keys)
    visible[1] = 0.29
    found, confidence = locator()(keys, keys.flip(0), REGION[:2], visible)
    assert torch.equal(found[1], REGION[1])
    assert confidence[1] == 0 and confidence[0] > 0


def test_ignores_a_copy_in_an_invisible_place(draw):
    """The left half of b stands in its right half again, and the right half is invisible."""
    keys_b = random_keys(1, draw, (24, 24))
    keys_b[..., 12:] = keys_b[..., :12]
    left = torch.tensor([[0.25, 0.5, 0.4, 0.8]])
    visible = everywhere(keys_b)
    visible[..., 12:] = 0
    masked, _ = locator()(keys_b, keys_b, left, visible)
    assert geometry.iou(masked, left) > 0.85
    both, _ = locator()(keys_b, keys_b, left, everywhere(keys_b))
    assert both[0, 0] > left[0, 0] + 0.15  # unmasked it is torn between the two


def test_attention_rows_sum_to_one_over_the_visible(draw):
    crloc, keys = locator(), random_keys(2, draw)
    visible = (torch.rand(2, 1, *CELLS, generator=draw) > 0.5).float()
    query, where = crloc.queries(keys, REGION[:2])
    attention = crloc.attention(query, where, keys, visible)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 18))
    assert (attention * (visible.flatten(2) == 0)).sum() == 0


def test_prior_alone_keeps_points_where_they_were(draw):
    """Keys that say nothing and a narrow prior: every point goes to itself."""
    keys = torch.ones(1, 4, 48, 24) / 2
    region = torch.tensor([[0.45, 0.55, 0.5, 0.6]])
    found, _ = locator(sigma=0.03)(keys, keys, region, everywhere(keys))
    torch.testing.assert_close(found, region, atol=1e-3, rtol=0)


def test_gradients_of_the_locator(draw):
    crloc = CRLoc(4, JointStage(channels=4, temperature=0.3, sigma=0.5, grid=(3, 2))).double()
    keys = [random_keys(2, draw, (4, 3), 4).double().requires_grad_() for _ in range(2)]
    region = torch.tensor([[0.43, 0.52, 0.5, 0.6], [0.55, 0.47, 0.7, 0.4]], dtype=torch.float64, requires_grad=True)
    visible = torch.ones(2, 1, 4, 3)
    visible[1, :, 0] = 0
    assert gradcheck(lambda a, b, p: crloc(a, b, p, visible), (*keys, region))


def test_gradients_are_finite_where_nothing_is_visible(draw):
    crloc, keys = locator(), random_keys(2, draw).requires_grad_()
    found, confidence = crloc(keys, keys, REGION[:2], torch.zeros(2, 1, *CELLS))
    (found.sum() + confidence.sum()).backward()
    assert torch.isfinite(keys.grad).all()
    assert torch.isfinite(crloc.log_sigma.grad) and torch.isfinite(crloc.log_temperature.grad)


def exact_moments(box, grid, draw):
    expected = geometry.points(box, *grid)
    mass = 0.2 + 0.8 * torch.rand(*expected.shape[:-1], 1, generator=draw)
    return torch.cat([mass, mass * expected], -1).transpose(-1, -2), torch.rand(expected.shape[:-1], generator=draw)


def unit_points_to(box, grid):
    """Where a box's own u of [-1, 1] lands: `points` are cell centres, u goes with half the side."""
    return box[..., None, :2] + geometry.unit_grid(*grid, box.dtype, box.device) * box[..., None, 2:] / 2


def test_fit_recovers_an_exact_box_whatever_the_weights(draw):
    truth = torch.tensor([[0.4, 0.55, 0.3, 0.7], [0.6, 0.5, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]])
    moments, sharp = exact_moments(truth, (6, 3), draw)
    found, _ = fit(moments, sharp, geometry.whole(3), (6, 3))
    torch.testing.assert_close(moments[:, 1:] / moments[:, :1], unit_points_to(truth, (6, 3)).transpose(1, 2))
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=0)


def test_fit_clamps_the_half_size(draw):
    tiny_and_huge = torch.tensor([[0.3, 0.4, 0.01, 0.01], [0.5, 0.5, 3.0, 3.0], [0.5, 0.5, -0.4, 0.4]])
    found, _ = fit(*exact_moments(tiny_and_huge, (6, 3), draw), geometry.whole(3), (6, 3))
    sizes = torch.tensor([[MIN_HALF, MIN_HALF], [MAX_HALF, MAX_HALF], [MIN_HALF, 0.2]]) * 2
    torch.testing.assert_close(found[:, 2:], sizes, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, :2], tiny_and_huge[:, :2], atol=1e-5, rtol=0)


def test_fit_trusts_sharp_points_more(draw):
    """One point strays: the surer the others are of themselves, the less it counts."""
    moments, _ = exact_moments(torch.tensor([[0.5, 0.5, 0.6, 0.6]]), (6, 3), draw)
    moments[0, 1:, 0] = moments[0, :1, 0] * 2
    even, less = torch.ones(1, 18), torch.ones(1, 18)
    less[0, 0] = 0.01
    truth = torch.tensor([[0.5, 0.5, 0.6, 0.6]])
    gaps = [geometry.corner_distance(fit(moments, s, truth, (6, 3))[0], truth).item() for s in (even, less)]
    assert gaps[1] < 0.5 * gaps[0]


# --- stripes ---


def test_stripe_weights_read_as_grid_sample_does(draw):
    features = torch.randn(4, 5, 16, 8, generator=draw)
    region = torch.tensor([[0.5, 0.5, 1, 1], [0.3, 0.6, 0.5, 0.4], [0.9, 0.1, 0.4, 0.4], [0.5, 0.5, 1.2, 1.2]])
    where = geometry.points(region, 6, 3) * 2 - 1
    sampled = F.grid_sample(features, where[:, None], padding_mode="border", align_corners=False)[:, :, 0]
    for count in (1, 2, 3, 6):
        weights = stripe_weights(region, (6, 3), (16, 8), count)
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, count))
        expected = sampled.view(4, 5, count, -1).mean(-1).transpose(1, 2)
        torch.testing.assert_close(stripes(features, region, (6, 3), count), expected, atol=1e-5, rtol=0)


def test_stripes_run_from_top_to_bottom():
    rows = torch.arange(12.0)[:, None].expand(1, 1, 12, 6)
    assert stripes(rows, geometry.whole(1), (6, 3)).flatten().tolist() == pytest.approx([1.5, 5.5, 9.5])


def test_descriptor_is_a_unit_vector_of_equal_stripes(draw):
    whitened = torch.randn(4, 3, 7, generator=draw)
    found = describe_stripes(whitened)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(found.view(4, 3, 7).norm(dim=-1), torch.full((4, 3), 3**-0.5))
    torch.testing.assert_close(describe_stripes(5 * whitened), found)


# --- matching: all pairs at once against pair by pair ---


@pytest.fixture(params=[False, True], ids=["maps", "gram"])
def described(untrained, draw, request, monkeypatch):
    """Features of four partial queries, once in one view and once in 2 x 7, and of six gallery pictures.

    Once as they are, with fewer channels than `gram_matrix` asks for, and once with Gram matrices all the same.
    """
    queries, gallery = ImageBank(blocks(4, draw), torch.zeros(4)), ImageBank(blocks(6, draw), torch.zeros(6))
    boxes = torch.tensor([[0.3, 0.5, 0.5, 0.9], [0.7, 0.5, 0.55, 1], [0.5, 0.25, 0.9, 0.45], [0.5, 0.7, 1, 0.5]])
    placed = torch.cat([geometry.whole(4), torch.tensor([[0.3, 0.5, 0.45, 1], [0.5, 0.3, 1, 0.4]])])
    one = matching.describe(untrained, queries, boxes=boxes)
    several = matching.describe(untrained, queries, several=True, boxes=boxes)
    if request.param:
        monkeypatch.setattr(features, "GRAM_FACTOR", 0)
    there = matching.describe(untrained, gallery, boxes=placed)
    if request.param:
        products = torch.einsum("ncij,nckl->nijkl", there.whitened, there.whitened)
        torch.testing.assert_close(there.gram, products.flatten(3).flatten(1, 2))
    else:
        assert there.gram.shape == (6, 0, 0)
    return one, several, there


def test_gram_matrices_are_of_maps_with_many_channels(draw):
    maps = torch.randn(2, 33, 2, 4, generator=draw)
    found = features.gram_matrix(maps)
    for i, j in ((0, 0), (0, 7), (5, 2)):
        pairs = maps[:, :, i // 4, i % 4] * maps[:, :, j // 4, j % 4]
        torch.testing.assert_close(found[:, i, j], pairs.sum(1))
    assert found.shape == (2, 8, 8) and features.gram_matrix(maps[:, :32]).shape == (2, 0, 0)


@torch.no_grad()
def test_locate_is_the_locator_pair_by_pair(untrained, described):
    one, _, gallery = described
    assert (gallery.visible < untrained.crloc.min_visible).any()
    for i in range(4):
        found, confidence = untrained.crloc.locate_all(one.points[i], one.box[i], gallery.keys, gallery.visible)
        for j in range(6):
            pair = one.keys[i : i + 1], gallery.keys[j : j + 1], one.box[i], gallery.visible[j : j + 1]
            expected, sure = untrained.crloc(*pair)
            torch.testing.assert_close(found[j], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(confidence[j], sure, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_locate_in_an_invisible_picture_stays(untrained, described):
    one, _, gallery = described
    gallery.visible = gallery.visible * (torch.arange(6) != 2).view(6, 1, 1, 1)
    found, confidence = untrained.crloc.locate_all(one.points[0], one.box[0], gallery.keys, gallery.visible)
    assert torch.equal(found[2], one.box[0])
    assert confidence[2] == 0


@torch.no_grad()
def naive_region_distance(model, query, gallery, i, j):
    """1 − descriptor p · descriptor q of the best placement, mean over the picture and its mirror image.

    With several placements of 3 and of 6 stripes.
    """
    found, several = [], query.box.shape[1] > 2
    for m in range(query.box.shape[1]):
        total = 0.0
        attention = model.crloc.attention(
            query.points[i, m][None],
            geometry.points(query.box[i, m][None], *model.crloc.grid),
            gallery.keys[j][None],
            gallery.visible[j][None],
        )
        positions = geometry.points(geometry.whole(), *gallery.keys.shape[-2:])
        moments = torch.cat([attention.sum(-1, keepdim=True), attention @ positions], -1).transpose(1, 2)
        region, _ = fit(moments, attention.square().sum(-1), query.box[i, m][None], model.crloc.grid)
        for count in (3, 6) if several else (3,):
            mine = describe_stripes(query.stripes[i, m].view(count, 6 // count, -1).mean(1))
            theirs = describe_stripes(stripes(gallery.whitened[j][None], region, model.crloc.grid, count)[0])
            total += (1 - mine @ theirs).item() / (2 if several else 1)
        found.append(total)
    return (min(found[:7]) + min(found[7:])) / 2 if several else sum(found) / len(found)


def test_region_distances_are_the_naive_pairs(untrained, described):
    *queries, gallery = described
    for query in queries:
        found = matching.region_distances(untrained, query, gallery)
        expected = [[naive_region_distance(untrained, query, gallery, i, j) for j in range(6)] for i in range(4)]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)
        assert found.std() > 0.01


@pytest.mark.parametrize("noise", [0, 1e-5, 1e-3])
def test_a_region_whose_reading_cancels_is_near_to_nobody(untrained, described, draw, noise):
    """Its descriptor's direction is rounding: whatever it is, the distance stays one."""
    one, _, gallery = described
    maps = gallery.whitened.clone()
    maps[..., maps.shape[-1] // 2 :] = -maps[..., : maps.shape[-1] // 2].flip(-1)
    maps += noise * torch.randn(maps.shape, generator=draw)
    products = torch.einsum("ncij,nckl->nijkl", maps, maps).flatten(3).flatten(1, 2)
    gallery = replace(gallery, whitened=maps, gram=products if gallery.gram.numel() else gallery.gram)
    untrained.method = METHODS["same-location"]
    one = replace(one, box=geometry.whole(4, 1))
    assert matching.region_distances(untrained, one, gallery).sub(1).abs().max() <= 1 + 1e-4


def test_region_distance_of_a_shortlist_is_read_from_the_full_matrix(untrained, described):
    one, _, gallery = described
    index = torch.tensor([[5, 0], [1, 2], [3, 3], [0, 4]])
    full = matching.region_distances(untrained, one, gallery)
    found = matching.region_distances(untrained, one, gallery, index)
    torch.testing.assert_close(found, full.gather(1, index), atol=1e-6, rtol=0)


def test_match_is_the_weighted_sum(untrained, described):
    _, several, gallery = described
    overall = 1 - torch.stack([several.embedding[:, m] @ gallery.embedding[:, 0].T for m in range(14)]).mean(0)
    region = matching.region_distances(untrained, several, gallery)
    found = matching.match(untrained, several, gallery, shortlist=0, weight=0.3)
    torch.testing.assert_close(found, 0.7 * overall + 0.3 * region, atol=1e-5, rtol=0)


def test_match_with_a_shortlist_of_all_is_the_full_matrix(untrained, described):
    one, _, gallery = described
    full = matching.match(untrained, one, gallery, shortlist=0, weight=0.5)
    for length in (6, 100):
        assert torch.equal(matching.match(untrained, one, gallery, shortlist=length, weight=0.5), full)


def test_match_keeps_global_order_behind_the_shortlist(untrained, described):
    one, _, gallery = described
    overall = matching.global_distances(one, gallery)
    full = matching.match(untrained, one, gallery, shortlist=0, weight=0.9)
    found = matching.match(untrained, one, gallery, shortlist=3, weight=0.9)
    order = overall.argsort(1)
    inside, outside = order[:, :3], order[:, 3:]
    torch.testing.assert_close(found.gather(1, inside), full.gather(1, inside), atol=1e-6, rtol=0)
    assert (found.gather(1, outside).amin(1) > found.gather(1, inside).amax(1)).all()
    assert torch.equal(found.argsort(1)[:, 3:], outside)


@pytest.mark.parametrize("shortlist", [0, 1, 2, 3, 100])
def test_parts_of_a_gallery_are_matched_as_if_each_were_alone(untrained, described, shortlist):
    _, several, gallery = described
    untrained.fusion_weights["ppcl"] = 0.9
    parts = [torch.tensor(part) for part in ([5, 0, 3, 1], [2, 4], [3], [0, 1, 2, 3, 4, 5])]
    together = matching.match_within(untrained, several, gallery, parts, shortlist)
    for part, found in zip(parts, together, strict=True):
        alone = matching.match(untrained, several, gallery[part], shortlist)
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)


def test_a_pair_that_several_parts_ask_for_is_matched_once(untrained, described, monkeypatch):
    one, _, gallery = described
    untrained.fusion_weights["ppcl"] = 0.9
    asked, really = [], matching.region_distances

    def counting(model, query, gallery, index=None):
        asked.append(len(gallery) if index is None else index.shape[1])
        return really(model, query, gallery, index)

    monkeypatch.setattr(matching.part_to_part, "region_distances", counting)
    matching.match_within(untrained, one, gallery, [torch.arange(4)] * 5, 2)
    assert asked == [2]


def test_match_without_regions_or_weight_is_global(untrained, described):
    one, _, gallery = described
    assert torch.equal(matching.match(untrained, one, gallery, weight=0), matching.global_distances(one, gallery))


def test_match_wants_a_chosen_weight(untrained, described):
    one, _, gallery = described
    with pytest.raises(ValueError, match="ppcl"):
        matching.match(untrained, one, gallery)
    untrained.fusion_weights["ppcl"] = 0.5
    given = matching.match(untrained, one, gallery, weight=0.5)
    assert torch.equal(matching.match(untrained, one, gallery), given)


def looped(model, query, gallery, index):
    """`region_distances` of a shortlist, one pair at a time."""
    rows = [[naive_region_distance(model, query, gallery, i, j) for j in row] for i, row in enumerate(index.tolist())]
    return torch.tensor(rows)


@pytest.mark.parametrize("numbers", [1, 5_000, 20_000, 10**6])
def test_blocks_of_any_size_give_the_naive_pairs(untrained, described, monkeypatch, numbers):
    monkeypatch.setitem(matching.BLOCK, "cpu", numbers)
    *queries, gallery = described
    everything = torch.arange(6).expand(4, 6)
    for query in queries:
        expected = looped(untrained, query, gallery, everything)
        torch.testing.assert_close(matching.region_distances(untrained, query, gallery), expected, atol=1e-5, rtol=0)
        for index in (everything, torch.tensor([[3, 1, 5], [0, 0, 2], [4, 5, 1], [2, 3, 0]]), everything[:, 2:3]):
            found = matching.region_distances(untrained, query, gallery, index)
            torch.testing.assert_close(found, expected.gather(1, index), atol=1e-5, rtol=0)


@pytest.mark.parametrize("row", ["same-location", "no-stripes"])
def test_blocks_of_other_rows(untrained, described, monkeypatch, row):
    """Rows with q = p and with one stripe: all at once and in small blocks, in full and by shortlist."""
    _, several, gallery = described
    untrained.method = METHODS[row]
    index = torch.tensor([[5, 0], [1, 2], [3, 3], [0, 4]])
    full = matching.region_distances(untrained, several, gallery)
    monkeypatch.setitem(matching.BLOCK, "cpu", 20_000)
    torch.testing.assert_close(matching.region_distances(untrained, several, gallery), full, atol=1e-6, rtol=0)
    found = matching.region_distances(untrained, several, gallery, index)
    torch.testing.assert_close(found, full.gather(1, index), atol=1e-6, rtol=0)
    if row == "same-location":
        cosines = []
        for count in (3, 6):
            mine = describe_stripes(several.stripes.unflatten(2, (count, -1)).mean(3))  # (Q, M, C)
            boxes = several.box[:, None].expand(-1, 6, -1, -1).flatten(0, 2)
            maps = gallery.whitened[None, :, None].expand(4, -1, 14, -1, -1, -1).flatten(0, 2)
            theirs = describe_stripes(stripes(maps, boxes, untrained.crloc.grid, count)).view(4, 6, 14, -1)
            cosines.append((mine[:, None] * theirs).sum(-1))
        best = (sum(cosines) / 2).view(4, 6, 2, 7).amax(3).mean(2)
        torch.testing.assert_close(full, 1 - best, atol=1e-5, rtol=0)


def test_no_queries_and_empty_shortlists(untrained, described):
    one, _, gallery = described
    assert matching.region_distances(untrained, one[:0], gallery).shape == (0, 6)
    assert matching.region_distances(untrained, one, gallery, torch.empty(4, 0, dtype=torch.long)).shape == (4, 0)


@pytest.mark.parametrize("shortlist", [None, 0, 1, 99])
def test_a_gallery_of_one_and_of_none(untrained, described, shortlist):
    one, _, gallery = described
    for there in (gallery[:1], gallery[:0]):
        how = {"shortlist": shortlist, "weight": 0.5}
        found = matching.match(untrained, one, there, **how)
        distances, overall, index = matching.search(untrained, one, there, 10, **how)
        assert found.shape == distances.shape == overall.shape == (4, len(there)) and found.isfinite().all()
        assert not index.any()
        torch.testing.assert_close(distances, found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("numbers", [1, 100, 4 * 100, 10**6])  # blocks of a shortlist's length, of 25, of 100, of all
def test_nearest_is_the_sorted_row(monkeypatch, described, draw, numbers):
    monkeypatch.setitem(matching.BLOCK, "cpu", numbers)
    one, several, gallery = described
    many = replace(gallery, embedding=F.normalize(torch.randn(407, 1, one.embedding.shape[2], generator=draw), dim=2))
    for query in (one, several, one[:1], one[:0]):
        expected = matching.global_distances(query, many).sort(1)
        for length in (1, 7, 50, 500):
            distances, index = matching.nearest(query, many, length)
            torch.testing.assert_close(distances, expected.values[:, :length], atol=1e-6, rtol=0)
            assert torch.equal(index, expected.indices[:, :length])


@pytest.mark.parametrize("numbers", [1, 4 * 100, 10**6])
@pytest.mark.parametrize("sign", [1, -1])
def test_nearest_of_pictures_that_are_alike(monkeypatch, described, numbers, sign):
    """Seven kinds that take turns: of a kind, near or opposite, the first in the gallery come first."""
    monkeypatch.setitem(matching.BLOCK, "cpu", numbers)
    one, _, gallery = described
    corners = torch.eye(one.embedding.shape[2])[:7]  # of which a product is exact, however it is made
    alike = replace(gallery, embedding=corners[torch.arange(407) % 7][:, None])
    query = replace(one, embedding=sign * torch.arange(1.0, 4 * 128 + 1).view(4, 1, 128) / 512)
    expected = matching.global_distances(query, alike).sort(dim=1, stable=True)
    for length in (1, 5, 20, 100):
        distances, index = matching.nearest(query, alike, length)
        torch.testing.assert_close(distances, expected.values[:, :length], atol=1e-6, rtol=0)
        assert torch.equal(index, expected.indices[:, :length])


@pytest.mark.parametrize("numbers", [1, 4 * 100, 10**6])
def test_a_picture_without_a_number_is_the_last(monkeypatch, described, draw, numbers):
    """NaN of one picture hides none of its neighbours."""
    monkeypatch.setitem(matching.BLOCK, "cpu", numbers)
    one, _, gallery = described
    many = replace(gallery, embedding=F.normalize(torch.randn(407, 1, one.embedding.shape[2], generator=draw), dim=2))
    expected = matching.global_distances(one, many).sort(1)
    lost = expected.indices[0, 0].item()
    many.embedding[lost] = math.nan
    _, index = matching.nearest(one, many, 5)
    for found, row in zip(index, expected.indices, strict=True):
        assert found.tolist() == [place for place in row.tolist() if place != lost][:5]
    many.embedding[4:] = math.nan
    distances, index = matching.nearest(one, many, 5)
    assert distances.isfinite().sum() == 4 * (4 - (lost < 4)) and index.max() < 407


def test_search_is_the_head_of_match(untrained, described):
    _, several, gallery = described
    overall = matching.global_distances(several, gallery)
    for how in ({"shortlist": 3, "weight": 0.9}, {"shortlist": 0, "weight": 0.5}, {"weight": 0.0}):
        for top in (1, 2, 5, 9):
            distances, globally, index = matching.search(untrained, several, gallery, top, **how)
            if how.get("shortlist"):  # all that are returned were matched by parts
                how["shortlist"] = max(3, top)
            expected = matching.match(untrained, several, gallery, **how).sort(dim=1, stable=True)
            assert (distances < 10).all()
            assert torch.equal(index, expected.indices[:, :top])
            torch.testing.assert_close(distances, expected.values[:, :top], atol=1e-5, rtol=0)
            torch.testing.assert_close(globally, overall.gather(1, index), atol=1e-6, rtol=0)


def test_search_keeps_the_gallery_order_of_equal_pictures(untrained, described):
    one, _, gallery = described
    twice = gallery[torch.tensor([4, 2, 2, 4, 2])]
    _, _, index = matching.search(untrained, one, twice, 5, weight=0.5, shortlist=0)
    assert all(row in ([0, 3, 1, 2, 4], [1, 2, 4, 0, 3]) for row in index.tolist())


def test_describe_refuses_a_model_in_training(untrained):
    with pytest.raises(ValueError, match="eval"):
        matching.describe(untrained.train(), ImageBank(torch.zeros(1, 3, 64, 32, dtype=torch.uint8), torch.zeros(1)))


def test_views_of_a_query_are_its_placements_and_those_of_its_mirror_image(untrained, draw):
    pictures = ImageBank(blocks(3, draw), torch.tensor([0.3, 0.0, -0.2]))
    turned = ImageBank(pictures.images.flip(-1), pictures.ratios)
    both, alone, mirrored = (matching.describe(untrained, *how) for how in ((pictures, True), (pictures,), (turned,)))
    assert both.embedding.shape[1] == 14 and alone.embedding.shape[1] == 1
    for name in ("embedding", "box", "points", "stripes"):
        for view, expected in ((0, alone), (7, mirrored)):
            torch.testing.assert_close(
                getattr(both, name)[:, view], getattr(expected, name)[:, 0], atol=1e-4, rtol=1e-4
            )
    torch.testing.assert_close(both.keys, alone.keys, atol=1e-4, rtol=1e-4)
    asked = matching.region_distances(untrained, both, alone)
    other = matching.region_distances(untrained, matching.describe(untrained, turned, True), alone)
    torch.testing.assert_close(asked, other, atol=1e-4, rtol=0)  # which of the two is asked for changes nothing


def test_a_whole_picture_is_described_once_for_all_its_placements(untrained, draw, monkeypatch):
    pictures, gates = ImageBank(blocks(4, draw), torch.zeros(4)), torch.tensor([1.0, -1, -1, -1, 0, 0, 1, 1])
    boxes = torch.rand(8, 4, generator=draw) * 0.3 + 0.4
    monkeypatch.setattr(untrained, "predict", lambda images, ratios: (boxes[: len(images)], gates[: len(images)]))
    seen, layout = [], untrained.layout
    monkeypatch.setattr(untrained, "layout", lambda *given: seen.append(len(given[0])) or layout(*given))
    found = matching.describe(untrained, pictures, several=True)
    assert seen == [3 * 7 + 5]  # of four pictures and their mirror images three are partial
    both = torch.stack([pictures.images, pictures.images.flip(-1)], 1).flatten(0, 1)
    for number in range(8):  # the slow version: every placement for itself
        for turn, box in enumerate(placements(boxes[number : number + 1], 0.06, 0.05)[0]):
            lone = layout(normalise(both[number : number + 1]), torch.zeros(1), (box[None], gates[number : number + 1]))
            features, _, pooled = untrained.features(lone)
            embedding = F.normalize(untrained.backbone.neck(pooled), dim=1)
            place = number // 2, number % 2 * 7 + turn
            torch.testing.assert_close(found.embedding[place], embedding[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found.box[place], lone.box[0])
            if place[1] == 0:
                torch.testing.assert_close(
                    found.keys[place[0]], untrained.crloc.keys(features)[0], atol=1e-5, rtol=1e-4
                )
                assert found.gate[place[0]] == gates[number]


def test_given_boxes_are_mirrored_with_their_pictures(untrained, draw):
    pictures, boxes = (
        ImageBank(blocks(2, draw), torch.zeros(2)),
        torch.tensor([[0.3, 0.5, 0.5, 0.9], [0.6, 0.4, 0.7, 0.8]]),
    )
    found = matching.describe(untrained, pictures, True, boxes)
    torch.testing.assert_close(found.box[:, 0], boxes)
    torch.testing.assert_close(found.box[:, 7], torch.tensor([[0.7, 0.5, 0.5, 0.9], [0.4, 0.4, 0.7, 0.8]]))


def test_without_mirror_images_a_query_has_its_placements_alone(untrained, draw, monkeypatch):
    monkeypatch.setattr(untrained, "recipe", recipe("person", "tiny", **{"matching.mirror": False}))
    pictures = ImageBank(blocks(2, draw), torch.zeros(2))
    assert matching.describe(untrained, pictures, True).box.shape == (2, 7, 4)


def test_descriptions_do_not_depend_on_the_batch(untrained, draw):
    pictures = ImageBank(blocks(5, draw), torch.randn(5, generator=draw))
    whole, pieces = (matching.describe(untrained, pictures, several=True, batch=size) for size in (256, 8))
    for name in ("embedding", "box", "points", "stripes", "keys"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), atol=1e-4, rtol=1e-4)


# --- layout ---


def test_rectify_leaves_whole_pictures_alone_to_the_bit(draw):
    pictures = torch.randn(3, 3, 16, 8, generator=draw)
    box = torch.tensor([[0.25, 0.5, 0.5, 1], [0.3, 0.3, 0.4, 0.4], [0.5, 0.25, 1, 0.5]])
    canvas, visible = rectify(pictures, box, torch.tensor([True, False, True]))
    assert torch.equal(canvas[1], pictures[1])
    assert torch.equal(visible[1], torch.ones(1, 16, 8))
    assert (canvas[0, :, :, 4:] == 0).all() and (canvas[2, :, 8:] == 0).all()
    assert visible[0].mean().item() == pytest.approx(0.5) and visible[2].mean().item() == pytest.approx(0.5)


@pytest.mark.parametrize("partial", [[True, False, True, False], [False] * 4, [True] * 4])
def test_rectify_of_some_pictures_equals_placing_all_and_choosing(partial, draw):
    pictures, partial = torch.randn(4, 3, 16, 8, generator=draw), torch.tensor(partial)
    box = (0.4 + 0.4 * torch.rand(4, 4, generator=draw)).requires_grad_()
    upstream = torch.randn(4, 3, 16, 8, generator=draw)
    canvas, visible = rectify(pictures, box, partial)
    placed, covered = geometry.place(pictures, box)
    keep = partial[:, None, None, None]
    plain = torch.where(keep, placed, pictures)
    assert torch.equal(canvas, plain) and torch.equal(visible, torch.where(keep, covered, 1.0))
    mine, expected = (torch.autograd.grad((one * upstream).sum(), box)[0] for one in (canvas, plain))
    assert torch.equal(mine, expected) and not visible.requires_grad


def test_another_row_shares_the_networks_and_leaves_the_model_as_it_was(untrained):
    row = untrained.row
    other = untrained.as_row("no-whitening")
    assert (other.row, other.method) == ("no-whitening", METHODS["no-whitening"])
    assert (untrained.row, untrained.method) == (row, METHODS[row])
    assert all(mine is theirs for mine, theirs in zip(other.parameters(), untrained.parameters(), strict=True))


def test_untrained_whole_pictures_pass_through_the_layout_untouched(untrained, draw):
    pictures, boxes = torch.randn(2, 3, 64, 32, generator=draw), torch.tensor([[0.3, 0.3, 0.4, 0.4]]).expand(2, 4)
    layout = untrained.layout(pictures, torch.zeros(2), (boxes, torch.tensor([-1.0, 1.0])))
    assert torch.equal(layout.canvas[0], pictures[0])
    assert torch.equal(layout.box[0], geometry.whole()) and torch.equal(layout.box[1], boxes[1])
    assert not torch.equal(layout.canvas[1], pictures[1])


def test_glrec_box_has_the_corrected_ratio(untrained):
    ratios = torch.tensor([-0.5, 0.0, 0.6])
    raw = torch.tensor([[0.0, 1.0, -0.5, 0.0]]).expand(3, 4)
    box = untrained.glrec.box(raw, ratios)
    torch.testing.assert_close((box[:, 2] / box[:, 3]).log(), ratios)
    torch.testing.assert_close(box[:, :2], torch.tensor([[0.5, 0.7310586]]).expand(3, 2))
    far = untrained.glrec.box(torch.tensor([[0.0, 0.0, -0.5, 100.0]]), ratios[1:2])
    assert (far[0, 2] / far[0, 3]).log().item() == pytest.approx(0.4, abs=1e-5)


def test_padded_box_by_hand():
    """Of the canvas's own ratio, twice as wide, four times as narrow."""
    found = padded_box(torch.tensor([1.0, 2.0, 0.25]).log())
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 0.5], [0.5, 0.5, 0.25, 1]]))


def test_placements_by_hand():
    found = placements(torch.tensor([[0.5, 0.4, 0.6, 0.12], [0.5, 0.5, 1.15, 1.0]]), 0.06, 0.05)
    expected = [
        [0.5, 0.4, 0.6, 0.12],
        [0.56, 0.4, 0.6, 0.12],
        [0.44, 0.4, 0.6, 0.12],
        [0.5, 0.46, 0.6, 0.12],
        [0.5, 0.34, 0.6, 0.12],
        [0.5, 0.4, 0.7, 0.22],
        [0.5, 0.4, 0.5, 0.1],  # no side below .1
    ]
    torch.testing.assert_close(found[0], torch.tensor(expected))
    torch.testing.assert_close(found[1, 5], torch.tensor([0.5, 0.5, 1.2, 1.1]))  # nor above 1.2


def test_masked_pooling_counts_visible_positions_only(untrained):
    features = torch.arange(8.0).view(1, 1, 2, 4)
    visible = torch.tensor([[1.0, 0.5, 0, 0], [0, 0, 0, 0]]).view(1, 1, 2, 4)
    assert untrained.backbone.pool(features, visible).item() == pytest.approx(0.5 / 1.5)
    assert untrained.backbone.pool(features, 0 * visible).item() == 0


def test_locate_all_is_forward_pair_by_pair(draw):
    crloc = CRLoc(8, JointStage(channels=8)).eval()
    keys = F.normalize(torch.randn(3, 8, 8, 4, generator=draw), dim=1)
    region = torch.tensor([[0.5, 0.3, 0.8, 0.5], [0.4, 0.6, 0.5, 0.6], [0.5, 0.5, 1.0, 1.0]])
    visible = torch.ones(3, 1, 8, 4)
    visible[2, :, 4:] = 0
    points, _ = crloc.queries(keys, region)
    found, sure = crloc.locate_all(points, region, keys, visible)
    for a in range(3):
        for b in range(3):
            one, confidence = crloc(keys[a : a + 1], keys[b : b + 1], region[a : a + 1], visible[b : b + 1])
            assert torch.allclose(found[b, a], one[0], atol=1e-5)
            assert torch.allclose(sure[b, a], confidence[0], atol=1e-6)


def test_without_gradients_the_locator_finds_the_same(draw):
    """The attention is then written over its logits; one picture shows nothing, one a part of itself."""
    crloc, keys = locator(), random_keys(3, draw)
    visible = torch.ones(3, 1, *CELLS)
    visible[1], visible[2, :, 5:] = 0, 0
    query, where = crloc.queries(keys, REGION[1:])

    def found():
        return crloc.attention(query, where, keys, visible), *crloc.locate_all(query, REGION[1:], keys, visible)

    with torch.inference_mode():
        without = found()
    for mine, expected in zip(without, found(), strict=True):
        torch.testing.assert_close(mine, expected.detach())
    assert without[0][1].eq(0).all() and torch.equal(without[1][1], REGION[1:]) and without[2][1].eq(0).all()


def test_regions_return_from_the_canvas_to_the_picture(described):
    _, _, gallery = described
    gallery.box = gallery.box.clone()
    gallery.box[0, 0] = torch.tensor([0.5, 0.25, 1.0, 0.5])  # placed as an upper half
    gallery.box[1, 0] = geometry.whole()
    on_canvas = torch.tensor([0.5, 0.25, 0.5, 0.25]).expand(len(gallery), 4)
    seen = matching.in_picture(on_canvas, gallery.box[:, 0])
    assert torch.allclose(seen[0], torch.tensor([0.5, 0.5, 0.5, 0.5]))
    assert torch.allclose(seen[1], on_canvas[1])
