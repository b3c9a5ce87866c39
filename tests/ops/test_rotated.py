"""Rotated overlap: against torchvision and shapely, at the awkward places, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from centernet.ops.rotated import (
    PAIRS_AT_ONCE,
    rectangle_corners,
    rectangle_intersection,
    rectangles_of_boxes,
    shared_height,
)

QUARTERS = [n * math.pi / 2 for n in range(-4, 5)]
places = st.floats(-6, 6, width=32)
sides = st.floats(2**-6, 8, width=32)
turns = st.one_of(st.floats(-7, 7, width=32), st.sampled_from(QUARTERS))
rectangle = st.tuples(places, places, sides, sides, turns)
rectangles = st.lists(rectangle, min_size=1, max_size=8).map(lambda rows: torch.tensor(rows, dtype=torch.float64))
box = st.tuples(places, places, places, sides, sides, sides, turns)
boxes = st.lists(box, min_size=1, max_size=8).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def over_union(inter, size_a, size_b):
    """Intersection over union; 0 where both are empty."""
    return inter / (size_a + size_b - inter).clamp(min=torch.finfo(inter.dtype).tiny)


def rectangle_iou(a, b):
    """Intersection over union of each pair of rectangles ``[..., 5]``."""
    sizes = (rows.double()[..., 2:4].abs().prod(-1) for rows in (a, b))
    return over_union(rectangle_intersection(a, b), *sizes)


def box_intersection_3d(a, b):
    """Common volume of each pair of boxes ``[..., 7]``, as KITTI's metric takes it."""
    return shared_height(a, b) * rectangle_intersection(rectangles_of_boxes(a), rectangles_of_boxes(b))


def box_iou_3d(a, b):
    """Intersection over union of each pair of boxes ``[..., 7]``."""
    return over_union(box_intersection_3d(a, b), *(rows.double()[..., 3:6].abs().prod(-1) for rows in (a, b)))


def area(rows: torch.Tensor) -> torch.Tensor:
    return rows[..., 2] * rows[..., 3]


def tensor(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@given(rectangles, rectangles)
def test_the_area_is_shapelys(a, b):
    shapely = pytest.importorskip("shapely", reason="shapely is a development dependency")
    first, second = (shapely.polygons(rectangle_corners(rows).numpy()) for rows in (a, b))
    wanted = torch.from_numpy(shapely.area(shapely.intersection(first[:, None], second[None])))
    assert torch.allclose(rectangle_intersection(a[:, None], b[None]), wanted, rtol=1e-9, atol=1e-9)


def test_random_overlaps_are_torchvisions():
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 60, 5, dtype=torch.float64, generator=random) * tensor((9.0, 9, 6, 6, 7)) + 0.01
    degrees = 180 / math.pi  # counterclockwise where y points down
    wanted = torchvision.ops.box_iou(
        *(torch.cat([rows[:, :4], rows[:, 4:] * degrees], 1) for rows in (a, b)), fmt="cxcywhr"
    )
    ours = rectangle_iou(a[:, None], b[None])
    assert (ours > 0.01).sum() > 500
    assert torch.allclose(ours, wanted.double(), atol=1e-6)  # theirs comes back as float32


@given(rectangles, rectangles)
def test_an_overlap_is_symmetric_and_no_larger_than_either(a, b):
    a, b = a[:, None], b[None]
    common = rectangle_intersection(a, b)
    assert torch.allclose(common, rectangle_intersection(b, a), atol=1e-10)
    assert (common <= torch.minimum(area(a), area(b)) + 1e-10).all()
    assert (common >= 0).all()


@given(rectangles, places, places, turns)
def test_moving_and_turning_both_changes_nothing(rows, x, z, yaw):
    cos, sin = math.cos(yaw), math.sin(yaw)
    moved = rows.clone()
    moved[:, 0], moved[:, 1] = rows[:, 0] * cos + rows[:, 1] * sin + x, rows[:, 1] * cos - rows[:, 0] * sin + z
    moved[:, 4] += yaw
    before, after = (rectangle_intersection(given[:, None], given[None]) for given in (rows, moved))
    assert torch.allclose(before, after, atol=1e-9)


@given(rectangles)
def test_a_rectangle_is_itself_and_its_opposite_and_its_quarter_turn_with_sides_swapped(rows):
    opposite, quarter = rows.clone(), rows[:, [0, 1, 3, 2, 4]]
    opposite[:, 4] += math.pi
    quarter[:, 4] -= math.pi / 2
    for same in (rows, opposite, quarter):
        assert torch.allclose(rectangle_iou(rows, same), torch.ones(len(rows), dtype=torch.float64), atol=1e-12)


@given(rectangles, st.floats(0.001, 0.9))
def test_a_nested_rectangle_is_the_whole_overlap(rows, share):
    inner = rows * tensor((1.0, 1, share, share, 1))
    assert torch.allclose(rectangle_intersection(rows, inner), area(inner), rtol=1e-9)
    assert torch.allclose(
        rectangle_iou(rows, inner), torch.full((len(rows),), share**2, dtype=torch.float64), rtol=1e-9
    )


@given(rectangles)
def test_touching_rectangles_share_nothing(rows):
    beside = rows.clone()
    beside[:, 0] += rows[:, 2] * rows[:, 4].cos()
    beside[:, 1] -= rows[:, 2] * rows[:, 4].sin()
    assert rectangle_intersection(rows, beside).max() < 1e-12


def test_a_square_and_one_turned_by_half_a_right_angle_share_an_octagon():
    square, diamond = tensor((3, -1, 2, 2, 0)), tensor((3, -1, 2, 2, math.pi / 4))
    assert rectangle_intersection(square, diamond).item() == pytest.approx(8 * (math.sqrt(2) - 1))


def test_tiny_and_far_rectangles_keep_their_precision():
    tiny = tensor((70.0, 80, 1e-4, 2e-4, 0.3))
    shifted = tensor((70 + 5e-5 * math.cos(0.3), 80 - 5e-5 * math.sin(0.3), 1e-4, 2e-4, 0.3))
    assert rectangle_iou(tiny, shifted).item() == pytest.approx(1 / 3, abs=1e-8)
    nearly = tensor((70.0, 80, 1e-4, 2e-4, 0.3 + 1e-9))
    assert rectangle_iou(tiny, nearly).item() == pytest.approx(1, abs=1e-8)


def test_a_rectangle_without_area_overlaps_nothing():
    flat = tensor((0.0, 0, 0, 0, 0.2), (0, 0, 3, 0, 0.2))
    assert rectangle_iou(flat, tensor((0.0, 0, 2, 2, 0))).max() < 1e-15
    assert rectangle_iou(flat, flat).tolist() == [0, 0]


def test_more_pairs_than_fit_at_once_and_none_at_all():
    count = PAIRS_AT_ONCE + 7
    rows = tensor((1.0, 2, 3, 4, 0.5)).expand(count, 5)
    assert torch.allclose(rectangle_intersection(rows, rows), torch.full((count,), 12.0).double())
    assert rectangle_intersection(rows[:0], rows[:0]).shape == (0,)
    assert rectangle_intersection(rows[:3, None], rows[None, :0]).shape == (3, 0)


def test_float32_is_measured_in_float64():
    rows = torch.tensor([[50.0, 60, 4, 2, 1]])
    assert rectangle_iou(rows, rows).dtype == torch.float64
    assert rectangle_iou(rows, rows).item() == pytest.approx(1, abs=1e-12)


@given(boxes, boxes)
def test_boxes_share_their_footprint_times_their_common_height(a, b):
    bottom, top = torch.minimum(a[:1, 1], b[:1, 1]), torch.maximum(a[:1, 1] - a[:1, 3], b[:1, 1] - b[:1, 3])
    footprint = rectangle_intersection(rectangles_of_boxes(a[:1]), rectangles_of_boxes(b[:1]))
    assert torch.allclose(box_intersection_3d(a[:1], b[:1]), footprint * (bottom - top).clamp(min=0))
    assert torch.allclose(box_iou_3d(a, a), torch.ones(len(a), dtype=torch.float64))


def test_two_upright_boxes_by_hand():
    # 2 high, 2 wide, 4 long; the other is shifted by 1 along the length and by 1 upward: 3 * 2 * 1 in common.
    low, high = tensor((0, 0, 20, 2, 2, 4, 0)), tensor((1, -1, 20, 2, 2, 4, math.pi))
    assert box_intersection_3d(low, high).item() == pytest.approx(6)
    assert box_iou_3d(low, high).item() == pytest.approx(6 / 26)
    above = tensor((0, -2, 20, 2, 2, 4, 0))
    assert box_iou_3d(low, above).item() == 0


def test_convention_yaw_turns_the_length_from_x_toward_minus_z():
    corners = rectangle_corners(tensor((10, 20, 4, 2, 0), (10, 20, 4, 2, math.pi / 2)))
    assert corners[0].tolist() == [[12, 21], [12, 19], [8, 19], [8, 21]]
    torch.testing.assert_close(corners[1], tensor((11, 18), (9, 18), (9, 22), (11, 22)))


def test_convention_a_box_stands_on_its_location():
    # y points down: a box 2 m high at y = 1.5 reaches up to -0.5.
    box, slab = tensor((0, 1.5, 10, 2, 1, 1, 0)), tensor((0, 0.5, 10, 1, 1, 1, 0))
    assert box_intersection_3d(box, slab).item() == pytest.approx(1)
    assert box_intersection_3d(box, tensor((0, 2.5, 10, 1, 1, 1, 0))).item() == 0
