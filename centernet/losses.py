"""Losses of maps and of cells. Objects as Points, Eq. 1 (focal), Eq. 2 (offset), Eq. 3 (size).

Every loss takes the raw output map ``[B, C, H, W]`` and its target, and returns a scalar that is 0 with a usable
gradient when there are no objects (``mean_multi_bin`` a constant).

With several processes, each divides by its share of what all of them count (``shared``). So the mean of their losses,
and of their gradients, is that of one process with the whole batch, wherever its objects are. Nothing here waits for
the device.

Boxes by their overlap: TTFNet (Liu et al., 2019, arXiv:1909.00700), Sec. 4.2. For monocular 3D: angles in overlapping
bins (Mousavian et al., 2017, Sec. 3; Objects as Points, appendix), and the losses of MonoDLE (Ma et al., 2021,
arXiv:2103.16237).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from centernet.ops.boxes import OVERLAPS, overlap
from centernet.ops.heatmap import gather_cells, suppress_non_peaks
from centernet.structures import AtCells, DenseMap

# Probabilities are kept away from 0 and 1 by this much, as in the original, so that the logarithms stay finite.
PROBABILITY_MARGIN = 1e-4
# Added to a count before dividing by it, as in the original.
COUNT_MARGIN = 1e-4


def shared(count: Tensor, least: float = 0.0, margin: float = 0.0) -> Tensor:
    """The divisor of a loss that counts ``count`` in this process: the sum over all processes, at least ``least``, plus
    ``margin``, divided by the number of processes. Has no gradient; all processes must call it."""
    total, processes = count.detach(), 1
    if distributed.is_available() and distributed.is_initialized():
        processes = distributed.get_world_size()
        distributed.all_reduce(total := total.clone())
    return (total.clamp(min=least) + margin) / processes


def _shared_rows(target: AtCells, least: float) -> tuple[Tensor, Tensor]:
    """Rows of this process, padded to the longest of all processes as one process would, and ``shared`` of them."""
    images, rows = target.cell.shape
    most = torch.full((), float(rows), device=target.cell.device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return images * most, shared(images * most, least)


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
    return -total / shared(is_center.sum(), least=1)


def soft_focal(output: Tensor, target: DenseMap, gamma: float = 2.0) -> Tensor:
    """Cross-entropy of logits and the probabilities ``target.value``, scaled by their distance to the power ``gamma``
    (the quality focal loss of Li et al., 2020, arXiv:2006.04388); 0 where they agree.

    Divided by the number of objects that the target believes in: the sum of its peaks (by 1 below that).
    """
    logits, value = output.float(), target.value
    entropy = F.binary_cross_entropy_with_logits(logits, value, reduction="none")
    error = (entropy * (logits.sigmoid() - value).abs() ** gamma).sum()
    return error / shared(suppress_non_peaks(value).sum(), least=1)


def mse(output: Tensor, target: DenseMap) -> Tensor:
    """Mean squared error of the raw map against the Gaussians (the original's ``mse_loss`` option)."""
    error = (output.float() - target.value) ** 2
    error = error if target.weight is None else error * target.weight
    return error.sum() / shared(torch.full((), float(error.numel()), device=error.device))


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
    return (predicted * mask - truth * mask).abs().sum() / shared(mask.sum(), margin=COUNT_MARGIN)


def smooth_l1(output: Tensor, target: AtCells) -> Tensor:
    """Smooth L1 at cells; divided by the number of supervised objects (not elements), as the original does."""
    predicted, truth, mask = _at_cells(output, target)
    objects = mask.sum() / predicted.shape[-1]
    return F.smooth_l1_loss(predicted * mask, truth * mask, reduction="sum") / shared(objects, margin=COUNT_MARGIN)


def dense_l1(output: Tensor, target: DenseMap) -> Tensor:
    """L1 over a map with weights: sum of |w * (output - value)|, divided by the sum of the weights."""
    weight = torch.ones_like(target.value) if target.weight is None else target.weight
    return (output.float() * weight - target.value * weight).abs().sum() / shared(weight.sum(), margin=COUNT_MARGIN)


def box_overlap(output: Tensor, target: DenseMap, kind: str = "giou") -> Tensor:
    """1 minus the overlap of boxes in every cell, weighted by ``target.weight`` (one channel) and divided by its sum.

    ``output`` and ``target.value [B, 4, H, W]``: x1, y1, x2, y2 relative to the cell, in cells.
    """
    weight = target.weight[:, 0]
    missing = 1 - overlap(output.movedim(1, -1), target.value.movedim(1, -1), kind)
    return (weight * missing).sum() / shared(weight.sum(), margin=COUNT_MARGIN)


def box_quality(output: Tensor, boxes: Tensor, target: DenseMap) -> Tensor:
    """Cross-entropy of logits ``output [B, 1, H, W]`` and the overlap that predicted ``boxes [B, 4, H, W]`` have with
    those of ``target``, weighted as in ``box_overlap``. The boxes get no gradient."""
    weight = target.weight[:, 0]
    with torch.no_grad():
        iou = overlap(boxes.movedim(1, -1), target.value.movedim(1, -1))
    entropy = F.binary_cross_entropy_with_logits(output[:, 0].float(), iou, reduction="none")
    return (weight * entropy).sum() / shared(weight.sum(), margin=COUNT_MARGIN)


def mean_l1(output: Tensor, target: AtCells) -> Tensor:
    """L1 at cells as a plain mean over batch x rows x channels, unsupervised rows included as 0.

    Used by the original's monocular 3D, where every image has 50 rows, whatever its number of objects.
    """
    predicted, truth, mask = _at_cells(output, target)
    _, rows = _shared_rows(target, least=1)
    return (predicted * mask - truth * mask).abs().sum() / (rows * predicted.shape[-1])


def multi_bin(output: Tensor, target: AtCells) -> Tensor:
    """An angle in two overlapping bins: membership (cross-entropy) and residual (sine and cosine, smooth L1).

    Eight channels, for each bin: logits of outside and inside, sine and cosine of the residual. ``value [B, M, 4]``:
    for both bins 0 or 1, then both residuals in radians. The entropies are averaged over the objects, the residuals
    over the objects inside that bin.
    """
    entropy, residual = _multi_bin(output, target)
    return (entropy * target.mask).sum() / shared(target.mask.sum(), least=1) + residual


def mean_multi_bin(output: Tensor, target: AtCells) -> Tensor:
    """``multi_bin`` with the entropies averaged over all rows, of which an unsupervised one counts 2 ln 2.

    As in the original, where masking zeroes the logits but not the loss; this adds a constant without gradient.
    """
    entropy, residual = _multi_bin(output, target)
    rows, all_rows = _shared_rows(target, least=1)
    missing = 2 * math.log(2) * (rows - entropy.numel())
    return (entropy.sum() + missing) / all_rows + residual


def _multi_bin(output: Tensor, target: AtCells) -> tuple[Tensor, Tensor]:
    """Entropy of both bins together ``[B, M]``, 2 ln 2 in unsupervised rows, and the mean error of the residuals."""
    supervised = target.mask[..., None] > 0
    predicted = gather_cells(output.float(), target.cell).unflatten(-1, (2, 4))  # [B, M, bin, channel]
    inside, residual = torch.where(supervised, target.value, 0).unflatten(-1, (2, 2)).unbind(-2)
    logits = torch.where(supervised[..., None], predicted[..., :2], 0)
    entropy = F.cross_entropy(logits.movedim(-1, 1), inside.long(), reduction="none").sum(-1)
    angle = torch.stack([residual.sin(), residual.cos()], -1)
    error = F.smooth_l1_loss(predicted[..., 2:], angle, reduction="none").sum(-1) * inside
    return entropy, (error.sum((0, 1)) / shared(inside.sum((0, 1)), least=1)).sum()


def _supervised(output: Tensor, target: AtCells) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction ``[B, M, C]``, truth ``[B, M, C']``, and which rows are supervised ``[B, M]``; 0 in the others."""
    rows = target.mask > 0
    predicted = gather_cells(output.float(), target.cell)
    return torch.where(rows[..., None], predicted, 0), torch.where(rows[..., None], target.value, 0), rows


def laplacian(output: Tensor, target: AtCells) -> Tensor:
    """Negative log-likelihood of a Laplace distribution with predicted spread.

    Two channels: the value, and the logarithm of its standard deviation s: sqrt(2) |error| / s + log s, averaged over
    objects (Kendall and Gal, 2017; MonoDLE uses it for depth). It may be negative.
    """
    predicted, truth, rows = _supervised(output, target)
    value, log_spread = predicted.split(1, -1)
    loss = 2**0.5 * torch.exp(-log_spread) * (value - truth).abs() + log_spread  # 0 where both are
    return loss.sum() / shared(rows.sum(), least=1)


def dimension_aware_l1(output: Tensor, target: AtCells) -> Tensor:
    """L1 relative to each side of the object, scaled to the magnitude of the plain L1 (MonoDLE).

    ``value [B, M, 6]``: targets of the three channels, then the object's dimensions in meters. Relative errors reflect
    the loss of 3D overlap; the scale has no gradient.
    """
    predicted, truth, rows = _supervised(output, target)
    wanted, dimensions = truth.split(3, -1)
    error = (predicted - wanted).abs()
    relative = error / dimensions.clamp(min=COUNT_MARGIN)
    scale = shared(error.sum()) / shared(relative.sum(), least=COUNT_MARGIN)
    return scale * relative.sum() / shared(3 * rows.sum(), least=1)


def heading_bins(output: Tensor, target: AtCells) -> Tensor:
    """An angle in one of several bins: the bin (cross-entropy) and the residual (L1), per object.

    The first half of the channels are logits of the bins, the second half a residual in radians for each. ``value [B,
    M, 2]``: index of the bin, residual.
    """
    predicted, truth, rows = _supervised(output, target)
    logits, residuals = predicted.chunk(2, -1)
    which = truth[..., :1].long()
    error = (residuals.gather(-1, which) - truth[..., 1:]).abs().squeeze(-1)
    entropy = F.cross_entropy(logits.movedim(-1, 1), which.squeeze(-1), reduction="none")
    return torch.where(rows, entropy + error, 0).sum() / shared(rows.sum(), least=1)


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
    **{f"box_{kind}": partial(box_overlap, kind=kind) for kind in OVERLAPS},
}
