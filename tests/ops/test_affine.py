"""Affine maps: what a window shows, that maps invert and compose, and the conventions of the package."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from centernet.ops.affine import (
    crop_matrix,
    fit_extent,
    flip_matrix,
    is_mirrored,
    place_matrix,
    stretch_matrix,
    transform_boxes,
    transform_points,
)

sides = st.integers(8, 700)
sizes = st.tuples(sides, sides)
coordinates = st.floats(-800, 800)
points = st.tuples(coordinates, coordinates)
windows = st.builds(
    crop_matrix, center=points, extent=st.floats(4, 900), size=sizes, rotation=st.sampled_from([0, 0, 30, -75, 180])
)


def move(matrix: np.ndarray, *xy: float) -> list[float]:
    return transform_points(torch.from_numpy(matrix), torch.tensor([xy], dtype=torch.float64))[0].tolist()


@given(windows, points)
def test_a_window_and_its_inverse_cancel(matrix, point):
    back = move(np.linalg.inv(matrix), *move(matrix, *point))
    assert back == pytest.approx(point, abs=1e-6)


@given(windows, windows, points)
def test_matrices_compose_from_right_to_left(outer, inner, point):
    assert move(outer @ inner, *point) == pytest.approx(move(outer, *move(inner, *point)), rel=1e-6, abs=1e-6)


@given(points, st.floats(4, 900), sizes, st.floats(-180, 180))
def test_the_center_of_a_window_lands_in_the_middle_of_the_input(center, extent, size, rotation):
    assert move(crop_matrix(center, extent, size, rotation), *center) == pytest.approx(
        [size[1] / 2, size[0] / 2], abs=1e-6
    )


@given(sizes, sizes)
def test_the_fitted_window_shows_the_whole_image_and_touches_two_sides(image_size, size):
    height, width = image_size
    matrix = crop_matrix((width / 2, height / 2), fit_extent(image_size, size), size)
    x1, y1 = move(matrix, 0, 0)
    x2, y2 = move(matrix, width, height)
    assert min(x1, y1) >= -1e-6
    assert x2 <= size[1] + 1e-6
    assert y2 <= size[0] + 1e-6
    assert (x1, x2) == pytest.approx((0, size[1]), abs=1e-6) or (y1, y2) == pytest.approx((0, size[0]), abs=1e-6)


@given(windows, st.integers(2, 700), points)
def test_a_mirror_shows_as_a_negative_determinant(window, width, point):
    flip = flip_matrix(width)
    assert not is_mirrored(torch.from_numpy(window))
    assert is_mirrored(torch.from_numpy(window @ flip))
    assert not is_mirrored(torch.from_numpy(window @ flip @ flip))
    assert is_mirrored(torch.from_numpy(np.stack([window, flip]))).tolist() == [False, True]
    assert move(flip @ flip, *point) == pytest.approx(point)


@given(windows, points, points)
def test_a_moved_box_encloses_the_moved_corners_and_no_more(matrix, first, second):
    (x1, x2), (y1, y2) = (sorted(pair) for pair in zip(first, second, strict=True))
    box = transform_boxes(torch.from_numpy(matrix), torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64))[0]
    corners = np.array([move(matrix, x, y) for x in (x1, x2) for y in (y1, y2)])
    np.testing.assert_allclose(box, [*corners.min(0), *corners.max(0)], rtol=1e-9, atol=1e-6)


def test_a_batch_of_matrices_moves_each_image_with_its_own():
    matrices = torch.from_numpy(np.stack([np.eye(3), flip_matrix(11), stretch_matrix((10, 10), (20, 40))]))
    boxes = torch.tensor([[1.0, 2, 3, 4]]).expand(3, 1, 4)
    assert transform_boxes(matrices, boxes).tolist() == [[[1, 2, 3, 4]], [[7, 2, 9, 4]], [[4, 4, 12, 8]]]
    assert transform_boxes(matrices, boxes[:, :0]).shape == (3, 0, 4)


def test_points_keep_their_precision_and_are_computed_in_the_matrixs():
    matrix = torch.from_numpy(crop_matrix((1000.25, 0), 3, (7, 7)))
    point = torch.tensor([[1000.5, 1.0]])
    moved = transform_points(matrix, point)
    assert moved.dtype == torch.float32
    assert moved.tolist() == transform_points(matrix, point.double()).float().tolist()


def test_convention_matrices_are_destination_from_source():
    # A window twice as wide as the input: image pixel (200, 100) in its middle, 2 image pixels to the input pixel.
    matrix = crop_matrix((200, 100), 128, (64, 64))
    assert move(matrix, 200, 100) == [32, 32]
    assert move(matrix, 210, 100) == [37, 32]
    assert move(stretch_matrix((100, 200), (64, 32)), 200, 100) == [32, 64]


def test_convention_the_center_of_the_first_pixel_is_at_zero():
    image = np.zeros((5, 9), np.uint8)
    image[2, 3] = 255
    shifted = cv2.warpAffine(image, np.array([[1.0, 0, 2], [0, 1, 1]]), (9, 5))
    assert np.argwhere(shifted).tolist() == [[3, 5]]
    flipped = cv2.warpAffine(image, flip_matrix(9)[:2], (9, 5))
    assert np.argwhere(flipped).tolist() == [[2, 9 - 1 - 3]]
    assert move(flip_matrix(9), 3, 2) == [5, 2]


def test_convention_a_positive_rotation_turns_the_window_clockwise_on_the_screen():
    # Seen through a window that was turned clockwise, the image turns counter-clockwise: right goes up.
    x, y = move(crop_matrix((50, 50), 100, (100, 100), rotation=90), 60, 50)
    assert (x, y) == pytest.approx((50, 40))


def test_convention_points_are_x_y_and_sizes_height_width():
    matrix = stretch_matrix(image_size=(10, 20), size=(30, 80))
    assert move(matrix, 20, 0) == [80, 0]
    assert move(matrix, 0, 10) == [0, 30]


def test_a_point_is_placed_where_it_shall_be_and_the_image_is_turned_before_it_is_stretched():
    matrix = place_matrix((10, 20), (100, 50), (3, 0.5), rotation=90)
    moved = transform_points(torch.from_numpy(matrix), torch.tensor([[10.0, 20], [11, 20], [10, 21]]))
    # Counter-clockwise on the screen: right becomes up, down becomes right.
    assert torch.allclose(moved, torch.tensor([[100.0, 50], [100, 49.5], [103, 50]]), atol=1e-5)
