import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ppcl import geometry
from ppcl.data import augmentation
from ppcl.data.augmentation import augment, shifted_crops, usual_erasing
from ppcl.data.image_bank import normalise
from ppcl.data.partial_views import KINDS, make_rng, part_boxes, ratio_of, read_views, uniform, view_boxes
from ppcl.data.stage_batches import identity_batches, shuffled_batches
from ppcl.recipes import Augmentation

# 12 people: one with a single picture, one with two, the others with five
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(12), [1, 2, *[5] * 10]))


def epoch(key, people=4, each=4, labels=LABELS):
    return list(identity_batches(labels, people, each, make_rng(0, "test", key)))


# --- identity batches ---


def test_batches_are_p_people_by_k_pictures():
    found = epoch(0)
    assert len(found) == len(LABELS) // 16
    for batch in found:
        people = LABELS[batch.numpy()].reshape(4, 4)
        assert (people == people[:, :1]).all()  # an identity's pictures together
        assert len(set(people[:, 0])) == 4


def test_no_picture_twice_unless_a_person_has_too_few():
    for key in range(20):
        for batch in epoch(key):
            for own in batch.view(4, 4):
                held = int((LABELS == LABELS[own[0]]).sum())
                assert len(own.unique()) == min(4, held)
                if held == 2:
                    assert own.unique(return_counts=True)[1].tolist() == [2, 2]


def test_pictures_of_nobody_are_left_out():
    labels = np.where(LABELS == LABELS.max(), -1, LABELS)
    found = epoch(0, labels=labels)
    assert len(found) == (labels >= 0).sum() // 16
    assert {label for batch in found for label in labels[batch.numpy()]} == {*labels} - {-1}


def test_everyone_is_seen_in_every_round():
    """Three batches of four are a round through twelve people, again and again."""
    labels = np.repeat(np.arange(12), 16)
    found = [set(labels[batch.numpy()]) for batch in epoch(0, labels=labels)]
    assert len(found) == 12
    for start in range(0, 12, 3):
        assert set.union(*found[start : start + 3]) == set(range(12))


def test_everyone_is_seen_where_rounds_do_not_divide():
    labels = np.repeat(np.arange(7), 30)
    found = [labels[batch.numpy()] for batch in epoch(0, people=4, labels=labels)]
    assert all(len(set(batch)) == 4 for batch in found)
    times = np.bincount(np.concatenate(found), minlength=7) // 4
    assert times.sum() == 4 * len(found) and times.max() - times.min() <= 2


def test_same_generator_state_gives_same_batches_and_another_epoch_others():
    first, again, other = torch.cat(epoch(1)), torch.cat(epoch(1)), torch.cat(epoch(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_small_set_gives_one_batch():
    assert len(epoch(0, people=2, each=4, labels=np.array([3, 3, 8]))) == 1


def test_too_few_people_are_refused():
    with pytest.raises(ValueError, match="3 identities cannot fill a batch of 4"):
        epoch(0, labels=np.array([1, 1, 2, 3]))


def test_global_generators_are_neither_read_nor_moved():
    def everything():
        draw = make_rng(3, "x")
        box, kind = part_boxes(5, draw)
        return [torch.cat(epoch(1)), box, kind, view_boxes(5, (0.8, 1.2), 0.1, draw), ratio_of(box, 0.1, draw)]

    torch.manual_seed(1), np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = everything()
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2), np.random.seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))


def test_shuffled_batches_hold_every_picture_once(draw):
    found = list(shuffled_batches(32, 8, draw))
    assert [len(batch) for batch in found] == [8] * 4
    assert torch.equal(torch.cat(found).sort().values, torch.arange(32))
    assert not torch.equal(torch.cat(found), torch.arange(32))
    assert [len(batch) for batch in shuffled_batches(35, 8, draw)] == [8] * 4
    assert [len(batch) for batch in shuffled_batches(5, 8, draw)] == [5]


# --- generators ---


def test_generator_depends_on_seed_and_key_alone():
    def first(*key):
        return torch.rand(4, generator=make_rng(*key)).tolist()

    keys = [(0,), (1,), (0, "glrec"), (0, "glrec", 0), (0, "glrec", 1), (0, "joint", 0, 1), (0, "joint", 1, 0)]
    found = [first(*key) for key in keys]
    assert found == [first(*key) for key in keys]
    assert len({tuple(values) for values in found}) == len(keys)


def test_uniform_stays_in_its_range(draw):
    found = uniform(-0.3, 0.7, 5000, rng=draw)
    assert found.min() >= -0.3 and found.max() < 0.7
    assert found.mean().item() == pytest.approx(0.2, abs=0.02)


# --- boxes ---


def test_part_boxes_lie_inside_the_canvas(draw):
    box, kind = part_boxes(4000, draw)
    corners = geometry.corners(box)
    assert corners.min() >= -1e-6 and corners.max() <= 1 + 1e-6
    assert torch.bincount(kind, minlength=5).min() > 600  # each kind in a fifth


@pytest.mark.parametrize(
    "name, axis, at_start", [("left", 0, True), ("right", 0, False), ("upper", 1, True), ("lower", 1, False)]
)
def test_side_crops_keep_the_stated_part_at_their_side(draw, name, axis, at_start):
    box, kind = part_boxes(2000, draw, (name,))
    corners = geometry.corners(box)
    assert (kind == KINDS.index(name)).all()
    cut, across = box[:, 2 + axis], box[:, 3 - axis]
    assert cut.min() >= 0.35 - 1e-6 and cut.max() <= 0.7 + 1e-6 and cut.max() - cut.min() > 0.3
    assert across.min() >= 0.8 - 1e-6 and across.max() <= 1 + 1e-6
    gap = corners[:, axis] if at_start else 1 - corners[:, 2 + axis]
    assert gap.min() >= -1e-6 and gap.max() <= 0.04 + 1e-6


def test_random_crops_cover_the_stated_areas(draw):
    box, _ = part_boxes(4000, draw, ("random",))
    area = geometry.area(box)
    assert area.min() >= 0.1 - 1e-6 and area.max() <= 0.9 + 1e-6
    assert area.min() < 0.15 and area.max() > 0.8
    assert (box[:, 0] < 0.4).any() and (box[:, 0] > 0.6).any() and (box[:, 1] < 0.4).any() and (box[:, 1] > 0.6).any()


def test_view_boxes_keep_to_scale_and_shift(draw):
    box = view_boxes(3000, (0.7, 1.2), 0.13, draw)
    assert torch.equal(box[:, 2], box[:, 3])
    assert box[:, 2].min() >= 0.7 and box[:, 2].max() <= 1.2 and box[:, 2].max() - box[:, 2].min() > 0.45
    shift = box[:, :2] - 0.5
    assert shift.abs().max() <= 0.13 + 1e-6 and shift.min() < -0.12 and shift.max() > 0.12
    assert (shift[:, 0] != shift[:, 1]).all()


def test_ratio_is_the_boxs_own_blurred(draw):
    box = torch.tensor([[0.5, 0.5, 0.8, 0.4]]).expand(4000, 4)
    exact = torch.tensor(2.0).log().item()
    assert ratio_of(box, 0.0, draw).tolist() == pytest.approx([exact] * 4000)
    noise = ratio_of(box, 0.1, draw) - exact
    assert noise.std().item() == pytest.approx(0.1, rel=0.05) and noise.abs().max() <= 0.3 + 1e-6


# --- views and augmentation ---


def some_pictures(draw, count=6):
    return torch.randint(256, (count, 3, 32, 16), generator=draw, dtype=torch.uint8)


def test_read_views_is_crop(draw):
    pictures, box = some_pictures(draw), view_boxes(6, (0.6, 1.3), 0.2, draw)
    found = read_views(pictures, box, torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(found, geometry.crop(pictures.float(), box, (32, 16)))


def test_read_views_of_a_bank_are_crops_to_the_bit(draw):
    """More than are read at a time, by index, mirrored ones too: the slow version builds the whole grid."""
    bank, box, index = some_pictures(draw, 30), view_boxes(11, (0.3, 1.3), 0.3, draw), torch.randint(30, (11,))
    mirrored = torch.rand(11, generator=draw) < 0.5
    found = read_views(bank, box, mirrored, index)
    grid = (geometry.points(box, 32, 16) * 2 - 1).unflatten(1, (32, 16))
    grid = torch.where(mirrored[:, None, None, None], grid * torch.tensor([-1.0, 1.0]), grid)
    slow = F.grid_sample(bank[index].float(), grid, padding_mode="border", align_corners=False)
    assert torch.equal(found, slow)


def slow_augment(images, how, draw):
    """One operation after the other on the whole batch."""
    count, _, *size = images.shape
    blurred = (torch.rand(count, generator=draw) < how.blur).nonzero().squeeze(1)
    soft = F.interpolate(F.avg_pool2d(images[blurred], 2), size=size, mode="bilinear", align_corners=False)
    images[blurred] = images[blurred].lerp(soft, torch.rand(len(blurred), 1, 1, 1, generator=draw))
    contrast, gain = (1 + how.colour * torch.randn(2, count, 1, 1, 1, generator=draw)).clamp(min=0.2)
    scale = contrast * gain * (1 + 0.3 * how.colour * torch.randn(count, 3, 1, 1, generator=draw))
    mean = images.mean((1, 2, 3), keepdim=True)
    light = mean * (scale / contrast - scale) + 127.5 * how.colour * torch.randn(count, 1, 1, 1, generator=draw)
    images = torch.addcmul(light, images, scale)
    field = torch.randn(-(-count // 8), 3, *size, generator=draw).repeat(8, 1, 1, 1)[:count]
    images = images + field * 255 * how.noise * torch.randn(count, 1, 1, 1, generator=draw)
    erased = (torch.rand(count, generator=draw) < how.erase).nonzero().squeeze(1)
    box = torch.cat([torch.rand(len(erased), 2, generator=draw), uniform(0.15, 0.45, len(erased), 2, rng=draw)], 1)
    fill = 255 * torch.rand(len(erased), 3, 1, 1, generator=draw)
    images[erased] = images[erased].lerp(fill, geometry.coverage(box, tuple(size)))
    return images.clamp(0, 255)


@pytest.mark.parametrize("count", [1, 5, 17, 64])
def test_augment_is_the_slow_version_up_to_rounding(draw, count):
    pictures = some_pictures(draw, count).float()
    for how in (Augmentation(), Augmentation(erase=1, blur=1, colour=0.5), Augmentation(blur=0, erase=0)):
        slow = slow_augment(pictures.clone(), how, make_rng(0, "a"))
        fast = augment(pictures.clone(), how, make_rng(0, "a"))
        torch.testing.assert_close(fast, slow, atol=1e-3, rtol=0)


# --- shifted crops of whole pictures ---


def slow_crops(bank, index, how, pad, draw):
    """Picture by picture: mirror, pad with grey, crop, erase, normalise."""
    height, width = bank.shape[-2:]
    count = len(index)
    mirrored = torch.rand(count, generator=draw) < how.flip
    shift = torch.randint(-pad, pad + 1, (count, 2), generator=draw).tolist()
    erased = torch.rand(count, generator=draw) < how.erase
    corner = geometry.corners(usual_erasing(count, width / height, draw)) * torch.tensor([width, height, width, height])
    seen = []
    for k, (dx, dy) in enumerate(shift):
        picture = normalise(bank[index[k]][None])[0]
        picture = picture.flip(-1) if mirrored[k] else picture
        picture = F.pad(picture, (pad,) * 4)[:, pad - dy : pad - dy + height, pad - dx : pad - dx + width]
        if erased[k]:
            left, top, right, bottom = corner[k].round().long().clamp(min=0).tolist()
            picture = picture.clone()
            picture[:, top:bottom, left:right] = 0
        seen.append(picture)
    return torch.stack(seen)


def test_usual_erasing_takes_the_usual_area_and_shape(draw):
    box = usual_erasing(4000, 0.5, draw)
    area, shape = box[:, 2] * box[:, 3], box[:, 3] / box[:, 2] * 2  # height / width in pixels
    assert 0.02 <= area.min() < 0.03 and 0.39 < area.max() < 0.401 and abs(area.mean() - 0.21) < 0.01
    assert 0.3 < shape.min() < 0.35 and 3 < shape.max() < 3.33
    left, top, right, bottom = geometry.corners(box).T
    assert min(left.min(), top.min()) > -1e-6 and max(right.max(), bottom.max()) < 1 + 1e-6


@pytest.mark.parametrize("pad", [0, 3, 15])
def test_shifted_crops_are_the_slow_version_on_every_kind_of_device(draw, monkeypatch, pad):
    bank, index, how = some_pictures(draw, 9), torch.randint(9, (40,)), Augmentation(erase=0.6)
    expected = slow_crops(bank, index, how, pad, make_rng(0, "u"))
    assert torch.equal(shifted_crops(bank, index, how, pad, make_rng(0, "u")), expected)
    monkeypatch.setattr(augmentation, "_one_by_one", augmentation._all_at_once)
    assert torch.equal(shifted_crops(bank, index, how, pad, make_rng(0, "u")), expected)


def test_shifted_crops_with_nothing_asked_are_the_pictures(draw):
    bank = some_pictures(draw, 9)
    found = shifted_crops(bank, torch.arange(9), Augmentation(flip=0, erase=0), 0, draw)
    assert torch.equal(found, normalise(bank))


def test_mirrored_view_is_the_view_of_the_mirrored_picture(draw):
    pictures, box = some_pictures(draw), view_boxes(6, (0.6, 1.3), 0.2, draw)
    mirrored = torch.tensor([True, False, True, True, False, False])
    found = read_views(pictures, box, mirrored)
    turned = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
    torch.testing.assert_close(found, read_views(turned, box, ~mirrored & mirrored), atol=1e-2, rtol=0)
    assert not torch.allclose(found[0], read_views(pictures, box, ~mirrored & mirrored)[0], atol=1)


def test_mirrored_whole_view_is_the_flipped_picture(draw):
    pictures = some_pictures(draw)
    found = read_views(pictures, geometry.whole(6), torch.ones(6, dtype=torch.bool))
    assert torch.equal(found, pictures.flip(-1).float())


def test_augment_keeps_shape_and_range_and_is_seeded(draw):
    pictures = some_pictures(draw, 17).float()
    first = augment(pictures.clone(), Augmentation(), make_rng(0, "a"))
    assert first.shape == pictures.shape and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 255
    assert torch.equal(first, augment(pictures.clone(), Augmentation(), make_rng(0, "a")))
    other = augment(pictures.clone(), Augmentation(), make_rng(0, "b"))
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_augment_with_nothing_asked_changes_nothing(draw):
    pictures = some_pictures(draw).float()
    nothing = Augmentation(erase=0, blur=0, noise=0, colour=0)
    torch.testing.assert_close(augment(pictures.clone(), nothing, draw), pictures, atol=1e-3, rtol=0)


@pytest.mark.parametrize("what, value", [("erase", 1.0), ("blur", 1.0), ("noise", 0.1), ("colour", 0.2)])
def test_each_part_of_augment_changes_every_picture(draw, what, value):
    pictures = some_pictures(draw).float()
    only = dataclasses.replace(Augmentation(erase=0, blur=0, noise=0, colour=0), **{what: value})
    change = (augment(pictures.clone(), only, draw) - pictures).abs().amax((1, 2, 3))
    assert (change > 0.1).all() and change.max() > 10


def test_colour_never_turns_a_picture_into_its_negative(draw):
    ramp = torch.linspace(100, 150, 16).expand(2000, 3, 8, 16).clone()
    found = augment(ramp.clone(), Augmentation(erase=0, blur=0, noise=0, colour=0.5), draw)
    assert (found.diff(dim=-1).sum(-1) >= 0).all()  # brighter stays brighter, or both are clipped


def test_erasing_fills_one_box_with_one_colour(draw):
    pictures = torch.full((40, 3, 32, 16), 50.0)
    only = Augmentation(erase=1, blur=0, noise=0, colour=0)
    found = augment(pictures.clone(), only, draw)
    share = ((found - 50).abs() > 1e-3).any(1).float().mean((1, 2))
    assert share.max() < 0.45 * 0.45 * 1.6 and share.median() > 0.02
    rare = augment(pictures.clone(), dataclasses.replace(only, erase=0.25), draw)
    assert 2 <= ((rare - 50).abs().amax((1, 2, 3)) > 1e-3).sum() <= 20


def test_blur_lowers_contrast_and_keeps_the_mean(draw):
    pictures = some_pictures(draw).float() * 0.5 + 60
    found = augment(pictures.clone(), Augmentation(erase=0, blur=1, noise=0, colour=0), draw)
    assert (found.std((1, 2, 3)) < pictures.std((1, 2, 3))).all()
    torch.testing.assert_close(found.mean((1, 2, 3)), pictures.mean((1, 2, 3)), atol=2, rtol=0)
