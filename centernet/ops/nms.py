"""Suppression of overlapping detections. One pass of a detector needs none; results of several passes do."""

from __future__ import annotations

import torch
from torch import Tensor

from centernet.ops.heatmap import on_host

METHODS = ("none", "plain", "linear", "soft")


def decay_scores(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    method: str = "soft",
    overlap: float = 0.5,
    sigma: float = 0.5,
    least: float = 0.001,
) -> Tensor:
    """Scores ``[B, N]`` after suppression among detections of one class, by the method of Soft-NMS (Bodla et al., 2017,
    arXiv:1704.04503, Eq. 1 to 3); 0 for those that are suppressed.

    ``boxes [B, N, 4]`` in image pixels, ``scores [B, N]``, ``labels [B, N]``; a score of 0: an empty row. From
    the highest score on, each detection lowers those below it that it overlaps. With the intersection over union o,
    ``plain`` makes a score 0 where o > ``overlap``, ``linear`` multiplies it by 1 - o there, ``soft`` by
    exp(-o² / ``sigma``) everywhere; ``none`` changes nothing. A score that falls below ``least`` becomes 0. As in the
    original, a box includes its last pixels, so that its sides are one pixel longer here.

    All images and classes at once, in N steps without a round trip to the device.
    """
    if method == "none" or not boxes.shape[1]:
        return scores
    x1, y1, x2, y2 = boxes.unbind(-1)
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    scores, is_left = scores.clone(), scores > 0
    for _ in range(boxes.shape[1]):
        if on_host(scores) and not is_left.any():
            break
        best = torch.where(is_left, scores, -1.0).argmax(1, keepdim=True)
        is_left.scatter_(1, best, False)
        bx1, by1, bx2, by2, barea, label = (value.gather(1, best) for value in (x1, y1, x2, y2, area, labels))
        width = (torch.minimum(x2, bx2) - torch.maximum(x1, bx1) + 1).clamp(min=0)
        height = (torch.minimum(y2, by2) - torch.maximum(y1, by1) + 1).clamp(min=0)
        shared = width * height
        ratio = shared / (area + barea - shared)
        if method == "soft":
            weight = torch.exp(-(ratio**2) / sigma)
        else:
            weight = torch.where(ratio > overlap, 0.0 if method == "plain" else 1 - ratio, 1.0)
        # A suppressed detection suppresses none. (Once none is left, the best one is one that is done.)
        is_hit = is_left & (labels == label) & (shared > 0) & (scores.gather(1, best) > 0)
        lower = scores * weight
        lower = torch.where(lower < least, 0.0, lower)
        scores = torch.where(is_hit, lower, scores)
        is_left &= scores > 0
    return scores


def suppress_ghosts(boxes: Tensor, scores: Tensor, labels: Tensor, share: float = 3.0) -> Tensor:
    """Scores ``[B, N]`` after suppression of ghost boxes (ExtremeNet, Zhou et al., 2019, arXiv:1901.08043, Sec. 4.2).

    Of three objects in a row, the outer points of the outer ones and the center of the middle one make a box around all
    of them. A box gets half its score if the scores of the boxes of its class inside it, its own included, sum up to
    more than ``share`` times its own. ``boxes [B, N, 4]``, ``scores [B, N]``, ``labels [B, N]``.
    """
    outer, inner = boxes[:, :, None], boxes[:, None]
    is_inside = (inner[..., :2] >= outer[..., :2]).all(-1) & (inner[..., 2:] <= outer[..., 2:]).all(-1)
    is_inside &= labels[:, :, None] == labels[:, None]
    inside = (is_inside * scores[:, None]).sum(-1)
    return torch.where(inside > share * scores, scores / 2, scores)
