"""Boxes: size, clipping and overlap."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from centernet.ops.boxes import OVERLAPS, box_area, box_sides, clip_boxes, overlap, pairwise_iou, xywh_from_xyxy

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


THEIRS = {
    "giou": torchvision.ops.generalized_box_iou_loss,
    "diou": torchvision.ops.distance_box_iou_loss,
    "ciou": torchvision.ops.complete_box_iou_loss,
}
solid = st.tuples(coordinates, coordinates, st.floats(0.5, 80, width=32), st.floats(0.5, 80, width=32))
pairs = st.lists(st.tuples(solid, solid), min_size=1, max_size=6).map(
    lambda rows: torch.tensor([[[x, y, x + w, y + h] for x, y, w, h in row] for row in rows], dtype=torch.float64)
)


@given(pairs)
@pytest.mark.parametrize("kind", sorted(THEIRS))
def test_graded_overlaps_and_their_gradients_are_torchvisions(kind, given):
    first, second = (given[:, n].clone().requires_grad_(n == 0) for n in (0, 1))
    again = first.detach().clone().requires_grad_()
    ours, theirs = overlap(first, second, kind), 1 - THEIRS[kind](again, second)
    assert torch.allclose(ours, theirs, atol=1e-5)
    ours.sum().backward()
    theirs.sum().backward()
    # Where sides or corners coincide, the two differ in which of two equal numbers gets the gradient.
    apart = ((first - second).abs() > 1e-3).all(-1) & ((first[:, :2] - second[:, 2:]).abs() > 1e-3).all(-1)
    apart &= ((first[:, 2:] - second[:, :2]).abs() > 1e-3).all(-1)
    assert torch.allclose(first.grad[apart], again.grad[apart], atol=1e-4)


@given(pairs)
def test_the_plain_overlap_is_the_diagonal_of_the_pairwise_one(given):
    first, second = given.unbind(1)
    assert torch.allclose(overlap(first, second), pairwise_iou(first, second).diagonal(), atol=1e-9)


@pytest.mark.parametrize("kind", OVERLAPS)
def test_a_box_overlaps_itself_by_one_and_gradients_stay_finite(kind):
    box = torch.tensor([10.0, 20.0, 11.0, 21.0])
    hopeless = torch.tensor([[50.0, 60.0, 40.0, 55.0], [10.0, 20.0, 10.0, 20.0], [1e6, 1e6, 2e6, 2e6]])
    given = torch.cat([box[None], hopeless]).requires_grad_()
    graded = overlap(given, box.expand(4, 4), kind)
    assert graded[0].item() == pytest.approx(1)
    assert (graded[1:] <= 0.01).all()
    graded.sum().backward()
    assert torch.isfinite(given.grad).all()


def test_boxes_that_do_not_touch_are_graded_by_their_distance():
    near, far, wanted = torch.tensor([[20.0, 0, 30, 10], [90, 0, 100, 10], [0, 0, 10, 10]])
    # By hand: the hull of the near one is 30 x 10, of which 10 x 10 are covered by neither.
    assert overlap(near, wanted, "giou") == pytest.approx(-1 / 3)
    assert overlap(near, wanted, "diou") == pytest.approx(-(20**2) / (30**2 + 10**2))
    for kind in ("giou", "diou", "ciou"):
        assert overlap(near, wanted, kind) > overlap(far, wanted, kind)


def test_an_unknown_overlap_is_refused():
    with pytest.raises(ValueError, match="unknown overlap 'siou'; choose one of iou, giou, diou, ciou"):
        overlap(torch.zeros(4), torch.ones(4), "siou")
