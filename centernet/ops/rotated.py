"""Overlap of rotated rectangles on the ground and of upright boxes in camera space.

A polygon's area inside an axis-aligned rectangle is a line integral (Green's theorem): around the polygon, the integral
of its height, clamped to the rectangle, over the part of its width inside the rectangle. One rectangle is put into the
axes of the other, so that four edges and a few clamps are the whole clipping: nothing is sorted and nothing compared
with a tolerance.

Convention: camera space has x to the right, y down, z forward. A rectangle is (x, z, length, width, yaw): at yaw 0 its
length lies along x and its width along z; yaw turns around the y axis, so that the length then lies along
(cos yaw, -sin yaw) in (x, z) (KITTI's rotation_y). A box is (x, y, z, height, width, length, yaw) with (x, y, z) the
middle of its bottom face: KITTI's location, dimensions and rotation_y side by side. Lengths and widths count by their
magnitude (files write -1 for unknown); what has a negative height overlaps nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 16


def rectangles_of_boxes(boxes: Tensor) -> Tensor:
    """Footprints ``[..., 5]`` of boxes ``[..., 7]``."""
    return boxes[..., [0, 2, 5, 4, 6]]


def rectangle_corners(rectangles: Tensor) -> Tensor:
    """Corners (x, z) ``[..., 4, 2]`` of rectangles ``[..., 5]``, one behind the other around it."""
    x, z, length, width, yaw = (value[..., None] for value in rectangles.unbind(-1))
    along = length * rectangles.new_tensor([0.5, 0.5, -0.5, -0.5])
    across = width * rectangles.new_tensor([0.5, -0.5, -0.5, 0.5])
    cos, sin = yaw.cos(), yaw.sin()
    return torch.stack([x + along * cos + across * sin, z - along * sin + across * cos], -1)


def rectangle_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Common area ``[...]`` of each pair of rectangles ``[..., 5]`` (broadcast against each other), in float64."""
    a, b = torch.broadcast_tensors(a.double(), b.double())
    shape, a, b = a.shape[:-1], a.reshape(-1, 5), b.reshape(-1, 5)
    area = a.new_zeros(len(a))
    for start in range(0, len(area), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        reach = (_diagonal(a[part]) + _diagonal(b[part])) / 2
        near = start + (torch.linalg.vector_norm(a[part, :2] - b[part, :2], dim=-1) < reach).nonzero()[:, 0]
        area[near] = _intersection(a[near], b[near])
    return area.reshape(shape)


def shared_height(a: Tensor, b: Tensor) -> Tensor:
    """Common vertical extent ``[...]`` of each pair of boxes ``[..., 7]``, in float64."""
    a, b = a.double(), b.double()
    bottom = torch.minimum(a[..., 1], b[..., 1])
    top = torch.maximum(a[..., 1] - a[..., 3], b[..., 1] - b[..., 3])
    return (bottom - top).clamp(min=0)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Common area ``[N]`` of rectangles ``[N, 5]``: the integral along the edges of a, in the axes of b."""
    half_length, half_width = b[:, None, 2].abs() / 2, b[:, None, 3].abs() / 2
    cos, sin = b[:, 4].cos(), b[:, 4].sin()
    dx, dz = (a[:, :2] - b[:, :2]).unbind(-1)
    turned = torch.stack([dx * cos - dz * sin, dx * sin + dz * cos, a[:, 2], a[:, 3], a[:, 4] - b[:, 4]], -1)
    x0, z0 = rectangle_corners(turned).unbind(-1)  # [N, 4]
    x1, z1 = x0.roll(-1, -1), z0.roll(-1, -1)
    # What of each edge lies over b's length ...
    left, right = x0.clamp(-half_length, half_length), x1.clamp(-half_length, half_length)
    start, end = z0 + _share(left, x0, x1) * (z1 - z0), z0 + _share(right, x0, x1) * (z1 - z0)
    # ... and its mean height there: a straight line, clamped to b's width, bends where it enters and where it leaves.
    bends = torch.stack([_share(-half_width, start, end), _share(half_width, start, end)]).sort(0).values
    places = torch.stack([torch.zeros_like(start), *bends, torch.ones_like(start)])
    heights = (start + places * (end - start)).clamp(-half_width, half_width)
    mean = ((places[1:] - places[:-1]) * (heights[1:] + heights[:-1]) / 2).sum(0)
    return ((right - left) * mean).sum(-1).abs()


def _share(value: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Where between start (0) and end (1) a value lies, clamped to them; 0 where they are the same and it is there."""
    return ((value - start) / (end - start)).nan_to_num(0, torch.inf, -torch.inf).clamp(0, 1)


def _diagonal(rectangles: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rectangles[:, 2:4], dim=-1)
