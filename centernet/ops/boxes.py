"""Boxes (x1, y1, x2, y2) as tensors: size, clipping, overlap.

Overlaps that also grade boxes which do not touch: GIoU (Rezatofighi et al., 2019, arXiv:1902.09630), DIoU and CIoU
(Zheng et al., 2019, arXiv:1911.08287).

Convention: continuous coordinates, a box covers x2 - x1 by y2 - y1 pixels (no "+ 1").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OVERLAPS = ("iou", "giou", "diou", "ciou")


def xywh_from_xyxy(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) ``[..., 4]`` to (x, y, width, height)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def clip_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """Clip ``[..., 4]`` to 0 <= x <= width and 0 <= y <= height."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], -1).flatten(-2)


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


def overlap(a: Tensor, b: Tensor, kind: str = "iou") -> Tensor:
    """The overlap ``[...]`` of each box of ``a [..., 4]`` with the one of ``b [..., 4]``, at most 1.

    ``kind``: ``iou`` (0 to 1); ``giou`` minus the share of their hull that neither covers (-1 to 1); ``diou`` minus the
    squared distance of their centers, relative to the hull's diagonal (-1 to 1); ``ciou`` minus a term for unlike
    aspect ratios as well. Boxes may be empty, those of ``a`` turned inside out. Computed in float32 at least.
    """
    if kind not in OVERLAPS:
        raise ValueError(f"unknown overlap {kind!r}; choose one of {', '.join(OVERLAPS)}")
    a, b = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (a, b))
    tiny = torch.finfo(torch.float32).eps
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    inter = sides[..., 0] * sides[..., 1]
    union = box_area(a) + box_area(b) - inter
    iou = inter / union.clamp(min=tiny)
    if kind == "iou":
        return iou
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    if kind == "giou":
        area = (hull[..., 0] * hull[..., 1]).clamp(min=tiny)
        return iou - (area - union) / area
    between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    diou = iou - between.square().sum(-1) / hull.square().sum(-1).clamp(min=tiny)
    if kind == "diou":
        return diou
    aspects = [torch.atan2(width.clamp(min=tiny), height.clamp(min=tiny)) for width, height in map(box_sides, (a, b))]
    unlike = (aspects[1] - aspects[0]).square() * (4 / math.pi**2)
    with torch.no_grad():  # the trade-off is a constant for the gradient, as in the paper
        share = unlike / (1 - iou + unlike).clamp(min=tiny)
    return diou - share * unlike
