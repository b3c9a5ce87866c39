"""Boxes (x1, y1, x2, y2) as tensors: size, clipping, overlap.

Convention: continuous coordinates, a box covers x2 - x1 by y2 - y1 pixels (no "+ 1").
"""

from __future__ import annotations

import torch
from torch import Tensor


def xywh_from_xyxy(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) ``[..., 4]`` to (x, y, width, height)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def clip_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """Clip ``[..., 4]`` to 0 <= x <= width and 0 <= y <= height."""
    high = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), high)


def box_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height ``[...]`` of boxes ``[..., 4]``."""
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def box_area(boxes: Tensor) -> Tensor:
    """Area ``[...]`` of boxes ``[..., 4]``; a box turned inside out has none."""
    width, height = box_sides(boxes)
    return width.clamp(min=0) * height.clamp(min=0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union ``[..., N, M]`` of boxes ``[..., N, 4]`` and ``[..., M, 4]``; 0 where both are empty."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - inter
    return inter / union.clamp(min=torch.finfo(inter.dtype).tiny)
