"""Losses of maps and of cells. Objects as Points, Eq. 1 (focal), Eq. 2 (offset), Eq. 3 (size).

Every loss takes the raw output map ``[B, C, H, W]`` and its target, and returns a scalar that is 0 with a usable
gradient when there are no objects.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.ops.heatmap import gather_cells
from centernet.structures import AtCells, DenseMap

# Probabilities are kept away from 0 and 1 by this much, as in the original, so that the logarithms stay finite.
PROBABILITY_MARGIN = 1e-4
# What the original adds to a count before it divides by it.
COUNT_MARGIN = 1e-4


def clamped_sigmoid(logits: Tensor) -> Tensor:
    """Probability of a heatmap cell, kept in [1e-4, 1 - 1e-4]; computed in float32 whatever the input is."""
    return torch.sigmoid(logits.float()).clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)


def focal(output: Tensor, target: DenseMap, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Penalty-reduced pixelwise focal loss (Eq. 1), divided by the number of centres (by 1 when there is none).

    Cells with target exactly 1 are centres; the others are pushed down by (1 - target)^beta. ``target.weight`` scales
    the cells (0 inside crowd regions).
    """
    p = clamped_sigmoid(output)
    is_center = target.value == 1
    positive = torch.log(p) * (1 - p) ** alpha
    negative = torch.log(1 - p) * p**alpha * (1 - target.value) ** beta
    if target.weight is not None:
        negative = negative * target.weight
    total = torch.where(is_center, positive, negative).sum()
    return -total / is_center.sum().clamp(min=1)


def mse(output: Tensor, target: DenseMap) -> Tensor:
    """Mean squared error of the raw map against the Gaussians (the original's ``mse_loss`` option)."""
    error = (output.float() - target.value) ** 2
    return (error if target.weight is None else error * target.weight).mean()


def _at_cells(output: Tensor, target: AtCells) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, truth and mask, each float ``[B, M, C]``; masked-out elements are 0 in the first two."""
    predicted = gather_cells(output.float(), target.cell)
    mask = target.mask.to(predicted.dtype)
    mask = (mask if mask.ndim == 3 else mask[..., None]).expand_as(predicted)
    # where, not multiplication: padding may hold anything, and 0 * NaN is NaN.
    zero = torch.zeros((), device=predicted.device)
    return torch.where(mask > 0, predicted, zero), torch.where(mask > 0, target.value, zero), mask


def l1(output: Tensor, target: AtCells) -> Tensor:
    """L1 at cells (Eqs. 2 and 3): sum over elements, divided by the number of supervised elements."""
    predicted, truth, mask = _at_cells(output, target)
    return (predicted * mask - truth * mask).abs().sum() / (mask.sum() + COUNT_MARGIN)


def smooth_l1(output: Tensor, target: AtCells) -> Tensor:
    """Smooth L1 at cells; divided by the number of supervised objects (not elements), as the original does."""
    predicted, truth, mask = _at_cells(output, target)
    objects = mask.sum() / predicted.shape[-1]
    return F.smooth_l1_loss(predicted * mask, truth * mask, reduction="sum") / (objects + COUNT_MARGIN)


def dense_l1(output: Tensor, target: DenseMap) -> Tensor:
    """L1 over a map with weights: sum of |w * (output - value)|, divided by the sum of the weights."""
    weight = torch.ones_like(target.value) if target.weight is None else target.weight
    return (output.float() * weight - target.value * weight).abs().sum() / (weight.sum() + COUNT_MARGIN)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "focal": focal,
    "mse": mse,
    "l1": l1,
    "smooth_l1": smooth_l1,
    "dense_l1": dense_l1,
}
