"""Losses of maps and of cells. Objects as Points, Eq. 1 (focal), Eq. 2 (offset), Eq. 3 (size).

Every loss takes the raw output map ``[B, C, H, W]`` and its target, and returns a scalar that is 0 with a usable
gradient when there are no objects (``mean_multi_bin`` a constant).

For monocular 3D: angles in overlapping bins (Mousavian et al., 2017, Sec. 3; Objects as Points, appendix), and the
losses of MonoDLE (Ma et al., 2021, arXiv:2103.16237).
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
# Added to a count before dividing by it, as in the original.
COUNT_MARGIN = 1e-4


def clamped_sigmoid(logits: Tensor) -> Tensor:
    """Probability of a heatmap cell, kept in [1e-4, 1 - 1e-4]; computed in float32 whatever the input is."""
    return torch.sigmoid(logits.float()).clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)


def focal(output: Tensor, target: DenseMap, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Penalty-reduced pixelwise focal loss (Eq. 1), divided by the number of centers (by 1 when there is none).

    Cells with target exactly 1 are centers; the others are pushed down by (1 - target)^beta. ``target.weight`` scales
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
    # where, not multiplication: padding is arbitrary, and 0 * NaN is NaN.
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


def mean_l1(output: Tensor, target: AtCells) -> Tensor:
    """L1 at cells as a plain mean over batch x rows x channels, unsupervised rows included as 0.

    Used by the original's monocular 3D, where every image has 50 rows, whatever its number of objects.
    """
    predicted, truth, mask = _at_cells(output, target)
    return (predicted * mask - truth * mask).abs().sum() / max(predicted.numel(), 1)


def multi_bin(output: Tensor, target: AtCells) -> Tensor:
    """An angle in two overlapping bins: membership (cross-entropy) and residual (sine and cosine, smooth L1).

    Eight channels, for each bin: logits of outside and inside, sine and cosine of the residual. ``value [B, M, 4]``:
    for both bins 0 or 1, then both residuals in radians. The entropies are averaged over the objects, the residuals
    over the objects inside that bin.
    """
    entropy, residual = _multi_bin(output, target)
    return (entropy * target.mask).sum() / target.mask.sum().clamp(min=1) + residual


def mean_multi_bin(output: Tensor, target: AtCells) -> Tensor:
    """``multi_bin`` with the entropies averaged over all rows, of which an unsupervised one counts 2 ln 2.

    As in the original, where masking zeroes the logits but not the loss; this adds a constant without gradient.
    """
    entropy, residual = _multi_bin(output, target)
    return entropy.sum() / max(entropy.numel(), 1) + residual


def _multi_bin(output: Tensor, target: AtCells) -> tuple[Tensor, Tensor]:
    """Entropy of both bins together ``[B, M]``, 2 ln 2 in unsupervised rows, and the mean error of the residuals."""
    supervised = target.mask[..., None] > 0
    predicted = gather_cells(output.float(), target.cell).unflatten(-1, (2, 4))  # [B, M, bin, channel]
    inside, residual = torch.where(supervised, target.value, 0).unflatten(-1, (2, 2)).unbind(-2)
    logits = torch.where(supervised[..., None], predicted[..., :2], 0)
    entropy = F.cross_entropy(logits.movedim(-1, 1), inside.long(), reduction="none").sum(-1)
    angle = torch.stack([residual.sin(), residual.cos()], -1)
    error = F.smooth_l1_loss(predicted[..., 2:], angle, reduction="none").sum(-1) * inside
    return entropy, (error.sum((0, 1)) / inside.sum((0, 1)).clamp(min=1)).sum()


def _supervised(output: Tensor, target: AtCells) -> tuple[Tensor, Tensor]:
    """Prediction ``[N, C]`` and truth ``[N, C']`` of the supervised rows."""
    rows = target.mask > 0
    return gather_cells(output.float(), target.cell)[rows], target.value[rows]


def laplacian(output: Tensor, target: AtCells) -> Tensor:
    """Negative log-likelihood of a Laplace distribution with predicted spread.

    Two channels: the value, and the logarithm of its standard deviation s: sqrt(2) |error| / s + log s, averaged over
    objects (Kendall and Gal, 2017; MonoDLE uses it for depth). It may be negative.
    """
    predicted, truth = _supervised(output, target)
    value, log_spread = predicted.split(1, -1)
    loss = 2**0.5 * torch.exp(-log_spread) * (value - truth).abs() + log_spread
    return loss.sum() / max(len(truth), 1)


def dimension_aware_l1(output: Tensor, target: AtCells) -> Tensor:
    """L1 relative to each side of the object, scaled to the magnitude of the plain L1 (MonoDLE).

    ``value [B, M, 6]``: targets of the three channels, then the object's dimensions in meters. Relative errors reflect
    the loss of 3D overlap; the scale has no gradient.
    """
    predicted, truth = _supervised(output, target)
    wanted, dimensions = truth.split(3, -1)
    error = (predicted - wanted).abs()
    relative = error / dimensions.clamp(min=COUNT_MARGIN)
    scale = (error.sum() / relative.sum().clamp(min=COUNT_MARGIN)).detach()
    return scale * relative.sum() / max(relative.numel(), 1)


def heading_bins(output: Tensor, target: AtCells) -> Tensor:
    """An angle in one of several bins: the bin (cross-entropy) and the residual (L1), per object.

    The first half of the channels are logits of the bins, the second half a residual in radians for each. ``value [B,
    M, 2]``: index of the bin, residual.
    """
    predicted, truth = _supervised(output, target)
    logits, residuals = predicted.chunk(2, -1)
    which = truth[:, 0].long()
    error = (residuals.gather(1, which[:, None])[:, 0] - truth[:, 1]).abs()
    return (F.cross_entropy(logits, which, reduction="sum") + error.sum()) / max(len(truth), 1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "focal": focal,
    "mse": mse,
    "l1": l1,
    "smooth_l1": smooth_l1,
    "dense_l1": dense_l1,
    "mean_l1": mean_l1,
    "multi_bin": multi_bin,
    "mean_multi_bin": mean_multi_bin,
    "laplacian": laplacian,
    "dimension_aware_l1": dimension_aware_l1,
    "heading_bins": heading_bins,
}
