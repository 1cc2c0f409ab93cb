import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from ppcl import geometry

PROPERTY = settings(max_examples=50, deadline=None)


def number(low, high):
    return st.floats(low, high)


box = st.builds(
    lambda *values: torch.tensor(values, dtype=torch.float64),
    number(-0.5, 1.5),
    number(-0.5, 1.5),
    number(0.05, 1.5),
    number(0.05, 1.5),
)


def boxes(count, draw, dtype=torch.float64):
    """Random boxes wholly inside the canvas."""
    size = 0.2 + 0.7 * torch.rand(count, 2, generator=draw, dtype=dtype)
    low = torch.rand(count, 2, generator=draw, dtype=dtype) * (1 - size)
    return torch.cat([low + size / 2, size], 1)


def cells(x1, y1, x2, y2, height, width):
    """The box of whole cells x1..x2, y1..y2 of a canvas."""
    return geometry.from_corners(torch.tensor([[x1 / width, y1 / height, x2 / width, y2 / height]]))


def test_crop_of_whole_canvas_is_the_canvas(draw):
    canvas = torch.randn(2, 3, 32, 16, generator=draw)
    assert torch.equal(geometry.crop(canvas, geometry.whole(2), (32, 16)), canvas)


def test_place_in_whole_canvas_is_the_view(draw):
    view = torch.randn(2, 3, 32, 16, generator=draw)
    canvas, visible = geometry.place(view, geometry.whole(2))
    assert torch.equal(canvas, view)
    assert torch.equal(visible, torch.ones(2, 1, 32, 16))


def test_crop_of_whole_cells_is_a_slice(draw):
    canvas = torch.randn(1, 3, 16, 8, generator=draw)
    view = geometry.crop(canvas, cells(2, 3, 7, 13, 16, 8), (10, 5))
    torch.testing.assert_close(view, canvas[:, :, 3:13, 2:7], atol=1e-5, rtol=0)


def test_crop_undoes_place(draw):
    view = torch.randn(1, 3, 10, 5, generator=draw)
    where = cells(2, 3, 7, 13, 16, 8)
    canvas, _ = geometry.place(view, where, (16, 8))
    torch.testing.assert_close(geometry.crop(canvas, where, (10, 5)), view, atol=1e-5, rtol=0)


def test_place_undoes_crop_inside_the_box():
    """On a picture that is linear in x and y, where bilinear reading is exact, for a box across cells."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(16.0), indexing="ij")
    canvas = torch.stack([x, y, x + 2 * y])[None]
    where = torch.tensor([[0.47, 0.55, 0.61, 0.52]])
    again, visible = geometry.place(geometry.crop(canvas, where, (32, 16)), where)
    inside = (visible == 1).squeeze()
    inside &= ~F.max_pool2d((visible < 1).float(), 3, 1, 1).bool().squeeze()  # the edge repeats its last cell
    assert inside.sum() > 60
    torch.testing.assert_close(again[0][:, inside], canvas[0][:, inside], atol=1e-4, rtol=0)


def test_place_is_zero_outside_the_box(draw):
    view = 1 + torch.rand(1, 3, 16, 8, generator=draw)
    canvas, visible = geometry.place(view, cells(2, 3, 7, 13, 16, 8))
    outside = torch.ones(16, 8, dtype=torch.bool)
    outside[3:13, 2:7] = False
    assert (canvas[0][:, outside] == 0).all()
    assert (canvas[0][:, ~outside] > 0.9).all()
    torch.testing.assert_close(visible[0, 0], (~outside).float(), atol=1e-5, rtol=0)


def test_crop_beyond_the_canvas_repeats_the_border_or_shows_zeros():
    canvas = torch.arange(1.0, 5.0).view(1, 1, 1, 4)
    double = torch.tensor([[0.5, 0.5, 2.0, 1.0]])
    assert geometry.crop(canvas, double, (1, 8)).flatten().tolist() == [1, 1, 1, 2, 3, 4, 4, 4]
    assert geometry.crop(canvas, double, (1, 8), padding="zeros").flatten().tolist() == [0, 0, 1, 2, 3, 4, 0, 0]


def test_two_crops_are_one_crop_at_the_composed_box():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    canvas = torch.stack([x, y])[None]
    outer, inner = torch.tensor([[0.45, 0.6, 0.7, 0.6]]), torch.tensor([[0.55, 0.4, 0.5, 0.6]])
    twice = geometry.crop(geometry.crop(canvas, outer, (64, 64)), inner, (64, 64))
    once = geometry.crop(canvas, geometry.compose(outer, inner), (64, 64))
    torch.testing.assert_close(twice, once, atol=1e-3, rtol=0)


@PROPERTY
@given(box)
def test_coverage_sums_to_the_area_inside_the_canvas(where):
    covered = geometry.coverage(where[None], (12, 7))
    assert covered.min() >= 0 and covered.max() <= 1 + 1e-9
    assert covered.mean().item() == pytest.approx(geometry.area(geometry.clip(where)).item(), abs=1e-9)


def test_coverage_of_a_half_covered_cell():
    """The box ends in the middle of the second of four columns and of the first of two rows."""
    covered = geometry.coverage(geometry.from_corners(torch.tensor([[0, 0, 0.375, 0.25]])), (2, 4))
    assert covered.flatten().tolist() == [0.5, 0.25, 0, 0, 0, 0, 0, 0]


@PROPERTY
@given(box)
def test_inverse_composes_to_the_whole_canvas(where):
    for both in (geometry.compose(where, geometry.invert(where)), geometry.compose(geometry.invert(where), where)):
        torch.testing.assert_close(both, geometry.whole(like=where), atol=1e-9, rtol=0)


@PROPERTY
@given(box, box, box)
def test_compose_is_associative(a, b, c):
    left = geometry.compose(geometry.compose(a, b), c)
    torch.testing.assert_close(left, geometry.compose(a, geometry.compose(b, c)), atol=1e-9, rtol=0)


@PROPERTY
@given(box, box)
def test_inverse_of_a_composition_is_the_inverses_in_turn(a, b):
    turned = geometry.compose(geometry.invert(b), geometry.invert(a))
    torch.testing.assert_close(geometry.invert(geometry.compose(a, b)), turned, atol=1e-6, rtol=1e-9)


def test_compose_by_hand():
    outer, inner = torch.tensor([0.5, 0.25, 0.5, 0.5]), torch.tensor([0.25, 0.75, 0.5, 0.5])
    assert geometry.compose(outer, inner).tolist() == [0.375, 0.375, 0.25, 0.25]
    assert geometry.compose(outer, geometry.whole(like=outer)).tolist() == outer.tolist()
    assert geometry.compose(geometry.whole(like=outer), outer).tolist() == outer.tolist()


@PROPERTY
@given(box)
def test_corners_and_back(where):
    torch.testing.assert_close(geometry.from_corners(geometry.corners(where)), where, atol=1e-12, rtol=0)


def test_iou_by_hand():
    left_half, upper_half = [0.25, 0.5, 0.5, 1], [0.5, 0.25, 1, 0.5]
    quarter, whole, right_half = [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.75, 0.5, 0.5, 1]
    pairs = [
        (left_half, upper_half, (1 / 4) / (3 / 4)),
        (quarter, whole, 1 / 4),
        (quarter, left_half, 1 / 2),
        (left_half, right_half, 0),
        (left_half, left_half, 1),
        ([0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], 0),
        ([0.5, 0.5, 0, 0], whole, 0),
        ([0.2, 0.2, 0.4, 0.4], [0.7, 0.7, 0.4, 0.4], 0),  # apart along both axes: no product of two negatives
    ]
    a, b, expected = (torch.tensor(column) for column in zip(*pairs, strict=True))
    torch.testing.assert_close(geometry.iou(a, b), expected.float())


@PROPERTY
@given(box, box)
def test_iou_is_symmetric_and_blind_to_a_common_map(a, b):
    found = geometry.iou(a, b)
    assert 0 <= found <= 1 + 1e-12
    torch.testing.assert_close(geometry.iou(b, a), found)
    outer = torch.tensor([0.3, 0.6, 0.5, 1.4], dtype=torch.float64)
    moved = geometry.iou(geometry.compose(outer, a), geometry.compose(outer, b))
    torch.testing.assert_close(moved, found, atol=1e-9, rtol=0)


def test_corner_distance_by_hand():
    """Corners (0, 0, .5, 1) and (.25, .5, .75, .75): the mean of .25, .5, .25, .25."""
    a, b = torch.tensor([0.25, 0.5, 0.5, 1]), torch.tensor([0.5, 0.625, 0.5, 0.25])
    assert geometry.corner_distance(a, b).item() == pytest.approx(1.25 / 4)


def test_clip_by_hand():
    out = torch.tensor([[0.0, 0.5, 0.5, 0.5], [0.5, 0.5, 2, 3], [2.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.25, 0.5]])
    expected = torch.tensor([[0.125, 0.5, 0.25, 0.5], [0.5, 0.5, 1, 1], [1, 0.5, 0, 0.5], [0.5, 0.5, 0.25, 0.5]])
    torch.testing.assert_close(geometry.clip(out), expected)


def test_points_run_row_by_row():
    found = geometry.points(torch.tensor([0.5, 0.25, 1, 0.5]), 2, 2)
    assert found.tolist() == [[0.25, 0.125], [0.75, 0.125], [0.25, 0.375], [0.75, 0.375]]


def test_bilinear_is_grid_sample_as_a_matrix(draw):
    """Positions inside, between the outermost centres and the border, and beyond it."""
    picture = torch.randn(1, 1, 5, 7, generator=draw)
    x, y = torch.rand(2, 200, generator=draw) * 1.6 - 0.3
    grid = torch.stack([x, y], -1)[None, None] * 2 - 1
    expected = F.grid_sample(picture, grid, padding_mode="border", align_corners=False).flatten()
    rows, columns = geometry.bilinear(y, 5), geometry.bilinear(x, 7)
    torch.testing.assert_close(torch.einsum("nh,hw,nw->n", rows, picture[0, 0], columns), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(rows.sum(1), torch.ones(200))


def test_gradients(draw):
    a, b = boxes(3, draw).requires_grad_(), boxes(3, draw).requires_grad_()
    canvas = torch.randn(3, 2, 5, 4, generator=draw, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda c, p: geometry.crop(c, p, (4, 3)), (canvas, a))
    assert gradcheck(lambda c, p: geometry.place(c, p, (6, 5)), (canvas, a))
    assert gradcheck(lambda p: geometry.coverage(p, (5, 4)), a)
    assert gradcheck(geometry.iou, (a, b))
    assert gradcheck(geometry.compose, (a, b))
    assert gradcheck(geometry.invert, a)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halved_is_average_pooling_to_the_bit(layout, draw):
    pictures = torch.randn(2, 3, 32, 16, generator=draw).contiguous(memory_format=layout)
    assert torch.equal(geometry.halved(pictures), F.avg_pool2d(pictures, 2))
