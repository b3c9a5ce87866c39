"""The camera: what is projected is lifted back, and the conventions of KITTI hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from centernet.ops.camera import (
    box_corners,
    camera_matrix,
    project,
    unproject,
    wrap_angle,
    yaw_of_alpha,
)
from tests.tiny import alpha_of_yaw

# Shaped like KITTI's P2: two focal lengths, and a last column that is not zero.
CAMERA = torch.tensor([[721.5, 0, 609.6, 44.86], [0, 721.5, 172.9, 0.2164], [0, 0, 1, 0.0027459]], dtype=torch.float64)
numbers = st.floats(-1, 1)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_convention_yaw_zero_points_along_x_and_a_quarter_turn_along_minus_z():
    dimensions, location = double(1.5, 1.6, 4.0), double(3, 2, 20)
    corners = box_corners(dimensions, location, double(0.0)[0])
    assert torch.allclose(corners[:4, 1], double(2, 2, 2, 2))  # the bottom face; y points down
    assert torch.allclose(corners[4:, 1], double(0.5, 0.5, 0.5, 0.5))
    assert torch.allclose(corners[4:, [0, 2]], corners[:4, [0, 2]])
    assert torch.allclose(corners[[0, 1, 4, 5], 0], double(5, 5, 5, 5))  # the front, half a length along x
    assert torch.allclose(corners[0], double(5, 2, 20.8))
    turned = box_corners(dimensions, location, double(math.pi / 2)[0])
    assert torch.allclose(turned[[0, 1, 4, 5], 2], double(18, 18, 18, 18))


def test_convention_pixels_follow_x_to_the_right_and_y_down():
    center, right, below = project(CAMERA, double(0, 0, 10, 1, 0, 10, 0, 1, 10).view(3, 3))
    assert right[0] > center[0]
    assert right[1] == center[1]
    assert below[1] > center[1]
    u, v = ((721.5 * 0 + 609.6 * 10 + 44.86) / 10.0027459, (172.9 * 10 + 0.2164) / 10.0027459)
    assert torch.allclose(center, double(u, v))


def test_convention_alpha_is_the_yaw_on_the_axis_and_smaller_to_its_right():
    on_axis, to_the_right = alpha_of_yaw(CAMERA, double(0.3, 0.3), double(609.6, 609.6 + 721.5))
    assert on_axis.item() == pytest.approx(0.3)
    assert to_the_right.item() == pytest.approx(0.3 - math.pi / 4)


def test_convention_the_depth_that_is_lifted_is_projective():
    points = unproject(CAMERA, double(100, 50).view(1, 2), double(7))
    assert points[0, 2].item() == pytest.approx(7 - 0.0027459, abs=1e-12)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=6))
def test_a_car_is_projected_and_lifted_back_to_its_place(places):
    a, b, c, d = torch.tensor(places, dtype=torch.float64).unbind(-1)
    location = torch.stack([30 * a, 2 * b, 41 + 39 * c], -1)
    corners = box_corners(double(1.5, 1.6, 3.9).expand(len(a), 3), location, math.pi * d)
    pixels = project(CAMERA, location)
    lifted = unproject(CAMERA, pixels, location[:, 2] + CAMERA[2, 3])
    assert (lifted - location).abs().max() < 1e-3
    # Float32 is enough for a millimeter too.
    single = unproject(CAMERA, pixels.float(), (location[:, 2] + CAMERA[2, 3]).float())
    assert single.dtype == torch.float32
    assert (single - location).abs().max() < 1e-3
    # The middle of the corners is the middle of the box, half a height above its location.
    assert torch.allclose(corners.mean(-2), location - double(0, 0.75, 0))


def test_every_image_of_a_batch_has_its_own_camera():
    other = CAMERA * double(0.5, 0.5, 1)[:, None]  # half the resolution
    points = double(1, 2, 30, -4, 1, 12).view(1, 2, 3).expand(2, 2, 3)
    pixels = project(torch.stack([CAMERA, other]), points)
    assert torch.allclose(pixels[1], pixels[0] / 2)
    lifted = unproject(torch.stack([CAMERA, other]), pixels, points[..., 2] + CAMERA[2, 3])
    assert torch.allclose(lifted, points)
    yaw = double(0.5, -0.5).expand(2, 2)
    alpha = alpha_of_yaw(torch.stack([CAMERA, other]), yaw, pixels[..., 0])
    assert torch.allclose(alpha[0], alpha[1])


@given(st.floats(-20, 20), st.floats(-500, 1700))
def test_angles_go_there_and_back_and_stay_in_one_turn(angle, x):
    yaw, column = double(angle), double(x)
    alpha = alpha_of_yaw(CAMERA, yaw, column)
    assert alpha.abs() <= math.pi
    back = yaw_of_alpha(CAMERA, alpha, column)
    assert torch.allclose((back - yaw).cos(), double(1))
    assert torch.allclose(back, wrap_angle(yaw)) or math.pi - back.abs() < 1e-6


def test_without_calibration_the_axis_meets_the_middle_of_the_image():
    camera = camera_matrix(700, (375, 1242))
    assert project(camera, double(0, 0, 20).view(1, 3)).tolist() == [[620.5, 187.0]]
    edge = project(camera, double(1, 0, 10).view(1, 3))
    assert edge[0, 0].item() == pytest.approx(620.5 + 70)
