"""Modulated deformable 3x3 convolution on a CPU: weighted sums of cells, then one matrix product.

The operation is that of DCNv2 (Zhu et al., 2019, arXiv:1811.11168, Eq. 1), with zeros outside the map and a stride of
1, and its results are ``torchvision.ops.deform_conv2d``'s up to the order of sums. That operator computes one number at
a time. Here a sample is a weighted sum of the four cells around it, with all their channels: what an embedding bag
computes for the bag of these four rows, in vector instructions. Samples are made and multiplied in pieces that stay in
the caches.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.ops.heatmap import is_recorded

TAPS, CORNERS = 9, 4
# Positions whose samples one thread makes and multiplies in one go.
POSITIONS_AT_ONCE = 512
# Positions of one backward pass, of whole images: their samples' gradients are all kept until they are summed.
POSITIONS_BACKWARD = 2**14


def suits_cpu(x: Tensor) -> bool:
    """Whether to convolve in this way: on a CPU, and not while a graph is recorded, which keeps the operator."""
    return x.device.type == "cpu" and x.numel() > 0 and not is_recorded()


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)`` of a CPU, with all of its gradients.

    ``x [B, C, H, W]``; ``offset [B, 18, H, W]``: y and x, in cells, of each tap in turn; ``mask [B, 9, H, W]``;
    ``weight [O, C, 3, 3]``, ``bias [O]``. Returns ``[B, O, H, W]``, channels last in memory, which suits the input and
    the weight as well.
    """
    count, channels, height, width = x.shape
    table = x.permute(0, 2, 3, 1).reshape(-1, channels)
    matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
    cells, shares = _corners(offset, mask)
    given = (table, matrix, bias, cells, shares)
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        out = _Product.apply(*given, height * width)
    else:
        out = _product(*given)
    return out.view(count, height, width, -1).permute(0, 3, 1, 2)


def _corners(offset: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The cells around each sample and how much of them it takes: int32 and float ``[B * H * W, 9 * 4]``.

    Cells count through all images; those outside of theirs are replaced by ones inside, of which nothing is taken.
    """
    count, _, height, width = offset.shape
    # Positions in front, taps last. The copies are small: 27 numbers for each position.
    offset = offset.permute(0, 2, 3, 1).reshape(count, height, width, TAPS, 2)
    mask = mask.permute(0, 2, 3, 1)
    step = torch.arange(TAPS)
    rows = torch.arange(height)[:, None, None] + torch.div(step, 3, rounding_mode="floor") - 1
    columns = torch.arange(width)[:, None] + step % 3 - 1
    (top, bottom), (above, below) = _around(offset[..., 0] + rows, height)
    (left, right), (before, behind) = _around(offset[..., 1] + columns, width)
    above, below = above * mask, below * mask
    first = torch.arange(count, dtype=torch.int32).view(-1, 1, 1, 1) * height
    top, bottom = (top + first) * width, (bottom + first) * width
    cells = torch.stack([top + left, top + right, bottom + left, bottom + right], -1)
    shares = torch.stack([above * before, above * behind, below * before, below * behind], -1)
    return cells.view(-1, TAPS * CORNERS), shares.view(-1, TAPS * CORNERS)


def _around(place: Tensor, length: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The cells on either side of places along an axis (int32, in 0 .. length - 1), and the share of each, 0 for those
    outside."""
    place = place.clamp(-2, length + 1)  # all the same outside, infinity included
    low = place.detach().floor()
    share = place - low
    low = low.int().clamp(-2, length + 1)  # NaN becomes some integer; its share is NaN
    high = low + 1
    shares = ((1 - share) * ((low >= 0) & (low < length)), share * ((high >= 0) & (high < length)))
    return (low.clamp(0, length - 1), high.clamp(0, length - 1)), shares


def _samples(table: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """The samples of positions, ``[P, 9 * C]``."""
    starts = torch.arange(0, cells.numel(), CORNERS, dtype=torch.int32)
    found = F.embedding_bag(cells.view(-1), table, starts, mode="sum", per_sample_weights=shares.view(-1))
    return found.view(len(cells), -1)


def _pieces(count: int, at_once: int) -> Iterator[slice]:
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


def _product(table: Tensor, matrix: Tensor, bias: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """``[P, O]`` at all positions."""
    out = table.new_empty(len(cells), len(matrix))
    for piece in _pieces(len(cells), POSITIONS_AT_ONCE * torch.get_num_threads()):
        torch.addmm(bias, _samples(table, cells[piece], shares[piece]), matrix.T, out=out[piece])
    return out


class _Product(torch.autograd.Function):
    """The same with gradients, for which the samples are made again instead of being kept."""

    @staticmethod
    def forward(ctx, table, matrix, bias, cells, shares, area):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(table, matrix, cells, shares)
        ctx.area = area
        return _product(table, matrix, bias, cells, shares)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        table, matrix, cells, shares = ctx.saved_tensors
        grad = grad.contiguous()
        of_table, of_matrix, of_shares = table.new_empty(table.shape), torch.zeros_like(matrix), shares.new_empty(0)
        if ctx.needs_input_grad[4]:
            of_shares = torch.empty_like(shares)
        images = max(POSITIONS_BACKWARD // ctx.area, 1) * ctx.area
        for group in _pieces(len(cells), images):  # a group's samples lie in the group's own cells
            own, given, taken = cells[group] - group.start, grad[group], shares[group]
            of_samples = table.new_empty(len(own), matrix.shape[1])
            for piece in _pieces(len(own), POSITIONS_AT_ONCE * torch.get_num_threads()):
                torch.mm(given[piece], matrix, out=of_samples[piece])
                if ctx.needs_input_grad[1]:
                    of_matrix.addmm_(given[piece].T, _samples(table[group], own[piece], taken[piece]))
                if ctx.needs_input_grad[4]:
                    of_shares[group][piece] = _share_gradients(of_samples[piece], table[group], own[piece])
            if ctx.needs_input_grad[0]:
                of_table[group] = _cell_gradients(of_samples, own, taken, len(table[group]))
        needed = ctx.needs_input_grad
        return (
            of_table if needed[0] else None,
            of_matrix if needed[1] else None,
            grad.sum(0) if needed[2] else None,
            None,
            of_shares if needed[4] else None,
            None,
        )


def _share_gradients(of_samples: Tensor, table: Tensor, cells: Tensor) -> Tensor:
    """Gradients ``[P, 9 * 4]`` of the shares from those of the samples: products of these with the cells."""
    flat = cells.view(-1)
    samples = len(flat) // CORNERS
    starts = torch.arange(0, len(flat), CORNERS, dtype=torch.int32)
    bags = torch.arange(samples, dtype=torch.int32).repeat_interleave(CORNERS)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        of_samples.view(samples, -1), table, flat, starts, bags, 0
    ).view_as(cells)


def _cell_gradients(of_samples: Tensor, cells: Tensor, shares: Tensor, count: int) -> Tensor:
    """Gradients ``[count, C]`` of the cells from those ``[P, 9 * C]`` of the samples.

    A cell's is a weighted sum of those of the samples that take from it, a bag as well, once they are sorted by cell.
    """
    flat = cells.view(-1)
    order = flat.sort(stable=True).indices
    sizes = torch.bincount(flat, minlength=count)
    starts = (sizes.cumsum(0) - sizes).int()
    samples = of_samples.view(-1, of_samples.shape[1] // TAPS)
    taken = torch.div(order, CORNERS, rounding_mode="floor").int()
    return F.embedding_bag(taken, samples, starts, mode="sum", per_sample_weights=shares.reshape(-1)[order])
