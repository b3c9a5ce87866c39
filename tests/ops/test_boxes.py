"""Boxes: size, clipping and overlap."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from centernet.ops.boxes import box_area, box_sides, clip_boxes, pairwise_iou, xywh_from_xyxy

coordinates = st.floats(-100, 100, width=32)
sides = st.floats(0, 80, width=32)
boxes = st.lists(st.tuples(coordinates, coordinates, sides, sides), min_size=1, max_size=6).map(
    lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64)
)


@given(boxes)
def test_corners_and_sides_convert_into_each_other(given):
    x, y, width, height = xywh_from_xyxy(given).unbind(-1)
    assert torch.allclose(torch.stack([x, y, x + width, y + height], -1), given)
    assert torch.allclose(torch.stack(box_sides(given), -1), xywh_from_xyxy(given)[:, 2:])


@given(boxes, st.floats(1, 90), st.floats(1, 90))
def test_a_clipped_box_lies_inside_and_clipping_again_changes_nothing(given, width, height):
    clipped = clip_boxes(given, width, height)
    assert (clipped >= 0).all()
    assert (clipped[:, [0, 2]] <= width).all()
    assert (clipped[:, [1, 3]] <= height).all()
    assert torch.equal(clip_boxes(clipped, width, height), clipped)
    assert (box_area(clipped) <= box_area(given) + 1e-9).all()


@given(boxes, boxes)
def test_the_overlap_is_torchvisions(first, second):
    ours = pairwise_iou(first, second)
    both_empty = (box_area(first)[:, None] + box_area(second)[None]) == 0
    wanted = torchvision.ops.box_iou(first, second).masked_fill(both_empty, 0)
    assert torch.allclose(ours, wanted, atol=1e-9)
    assert torch.allclose(ours, pairwise_iou(second, first).mT)
    assert (ours >= 0).all()
    assert (ours <= 1 + 1e-9).all()


def test_the_overlap_works_on_batches():
    rows = torch.rand(2, 3, 4).cumsum(-1)
    assert pairwise_iou(rows, rows[:, :2]).shape == (2, 3, 2)
    assert torch.allclose(pairwise_iou(rows, rows).diagonal(dim1=-2, dim2=-1), torch.ones(2, 3))


def test_convention_a_box_covers_x2_minus_x1_without_a_plus_one():
    assert box_area(torch.tensor([[10.0, 20, 14, 25]])).tolist() == [20]
    touching = pairwise_iou(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[4.0, 0, 8, 4]]))
    assert touching.item() == 0


def test_a_box_turned_inside_out_has_no_area():
    assert box_area(torch.tensor([[5.0, 5, 3, 9], [5, 5, 3, 3]])).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_points_overlap_by_nothing(dtype):
    point = torch.tensor([[3, 3, 3, 3]], dtype=dtype)
    assert pairwise_iou(point, point).item() == 0
