"""Affine maps between image, input and grid space.

Follows the geometry of the original (`get_affine_transform` of CenterNet), expressed as one 3x3 matrix per image.

Convention: matrices are destination-from-source and act on column vectors (x, y, 1); the center of the first pixel is
at (0, 0); a mirror maps x to width - 1 - x and shows as a negative determinant.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]


def place_matrix(
    center: tuple[float, float], target: tuple[float, float], scale: tuple[float, float], rotation: float = 0.0
) -> np.ndarray:
    """Input-from-image matrix that brings one point of the image to one point of the input, float64 ``[3, 3]``.

    ``center`` (x, y) in the image and ``target`` (x, y) in the input; ``rotation`` in degrees, the image turns
    counter-clockwise on the screen around that point; then ``scale`` (along x, along y) stretches it.
    """
    angle = np.deg2rad(rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    (sx, sy), (cx, cy) = scale, (float(center[0]), float(center[1]))
    return np.array(
        [
            [cos * sx, sin * sx, target[0] - sx * (cos * cx + sin * cy)],
            [-sin * sy, cos * sy, target[1] + sy * (sin * cx - cos * cy)],
            [0.0, 0.0, 1.0],
        ]
    )


def crop_matrix(center: tuple[float, float], extent: float, size: Size, rotation: float = 0.0) -> np.ndarray:
    """Input-from-image matrix that shows a window of the image, float64 ``[3, 3]``.

    ``center`` (x, y) of the window in image pixels, which lands in the middle ``(width / 2, height / 2)`` of the input;
    ``extent`` the width of the window in image pixels, which fills the width of the input (one scale for both axes);
    ``size`` (height, width) of the input; ``rotation`` in degrees, the window turns clockwise on the screen.
    """
    height, width = size
    scale = width / extent
    # The window is turned by `rotation`; to bring it upright the image turns the other way.
    return place_matrix(center, (width / 2, height / 2), (scale, scale), rotation)


def flip_matrix(width: int) -> np.ndarray:
    """Mirror an image of this width left to right, float64 ``[3, 3]``: x becomes width - 1 - x."""
    return np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def stretch_matrix(image_size: Size, size: Size) -> np.ndarray:
    """Resize without keeping the aspect ratio, float64 ``[3, 3]``; image corner (0, 0) to input corner (0, 0)."""
    return np.diag([size[1] / image_size[1], size[0] / image_size[0], 1.0])


def fit_extent(image_size: Size, size: Size) -> float:
    """Width of the smallest window of the input's shape that holds the whole image, in image pixels."""
    height, width = image_size
    return max(width, height * size[1] / size[0])


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply matrices ``[..., 3, 3]`` to points ``[..., N, 2]``; computed in the matrix's precision."""
    moved = points.to(matrix.dtype) @ matrix[..., :2, :2].mT + matrix[..., None, :2, 2]
    return moved.to(points.dtype)


def transform_boxes(matrix: Tensor, boxes: Tensor) -> Tensor:
    """Apply matrices ``[..., 3, 3]`` to boxes ``[..., N, 4]``: the upright box around the four moved corners."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], -1).unflatten(-1, (4, 2))
    moved = transform_points(matrix, corners.flatten(-3, -2)).unflatten(-2, (-1, 4))
    return torch.cat([moved.amin(-2), moved.amax(-2)], -1)


def is_mirrored(matrix: Tensor) -> Tensor:
    """Whether matrices ``[..., 3, 3]`` mirror the image (bool ``[...]``): left and right change places."""
    return _area_factor(matrix) < 0


def scale_of(matrix: Tensor) -> Tensor:
    """How much longer lengths become ``[...]`` under matrices ``[..., 3, 3]``: the square root of the area's factor."""
    return _area_factor(matrix).abs().sqrt()


def _area_factor(matrix: Tensor) -> Tensor:
    """The determinant of the linear part; ``torch.linalg.det`` takes ten times as long for one matrix."""
    return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
