"""Targets in every cell, for oracle evaluation: each cell takes what the nearest cell with a target has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from centernet.ops.heatmap import points_of_cells
from centernet.structures import AtCells, DenseMap, Target

# Cells times known cells whose distances are computed in one go: 64 MB in float32.
PAIRS_AT_ONCE = 2**24


def spread(target: Target, positions: Sequence[bool], grid_size: tuple[int, int]) -> DenseMap:
    """A target for every cell, values ``[B, C, H, W]``: those of the nearest cell with one, in steps along the axes;
    the first object among equally near ones, as in the original. 0 without any.

    Values at cells are taken as they are, also offsets from the cell (the original's ``gen_oracle_map``). In a dense
    map, ``positions`` says of each pair of channels in a group whether it is relative to its cell; those go on pointing
    to the same place.
    """
    if isinstance(target, AtCells):
        return _spread_cells(target, grid_size)
    weight = target.weight
    if weight is None:
        return target
    value = target.value.clone()
    count, channels, height, width = value.shape
    groups = channels // (2 * len(positions)) if positions else 1
    moves = torch.tensor([is_place for is_place in positions for _ in range(2)], device=value.device)
    cells = points_of_cells(torch.arange(height * width, device=value.device), width)
    for image in range(count):
        for group, own in enumerate(value[image].chunk(groups)):
            first = group * channels // groups if weight.shape[1] == channels else 0
            known = weight[image, first].flatten().nonzero().flatten()
            if not len(known):
                continue
            donor = known[_nearest(cells, cells[known])]
            taken = own.flatten(1)[:, donor]
            if positions:
                step = (cells[donor] - cells).T.to(taken.dtype).repeat(len(own) // 2, 1)
                taken = torch.where(moves[:, None], taken + step, taken)
            own.copy_(taken.view_as(own))
    return DenseMap(value)


def _spread_cells(target: AtCells, grid_size: tuple[int, int]) -> DenseMap:
    height, width = grid_size
    rows, _, channels = target.value.shape
    cells = points_of_cells(torch.arange(height * width, device=target.value.device), width)
    value = target.value.new_zeros(rows, height * width, channels)
    for image in range(rows):
        # Channels are known together, or (joints) each on its own.
        masks = target.mask[image] if target.mask.ndim == 3 else target.mask[image, :, None]
        for mask in {tuple(column.tolist()): column for column in masks.T}.values():
            rows_known = mask.nonzero().flatten()
            if not len(rows_known):
                continue
            points = points_of_cells(target.cell[image, rows_known], width)
            taken = target.value[image, rows_known][_nearest(cells, points)]
            same = (masks == mask[:, None]).all(0)
            value[image] = torch.where(same, taken, value[image])
    return DenseMap(value.transpose(1, 2).reshape(rows, channels, height, width))


def _nearest(cells: Tensor, points: Tensor) -> Tensor:
    """For each of ``cells [N, 2]``, which of ``points [M, 2]`` is nearest, the first of equally near ones."""
    order = torch.arange(len(points), device=points.device) / (len(points) + 1)  # distances are whole numbers
    found = [
        (torch.cdist(some.float(), points.float(), p=1) + order).argmin(1)
        for some in cells.split(max(PAIRS_AT_ONCE // len(points), 1))
    ]
    return torch.cat(found)
