"""Extreme points grouped into objects by the heatmap of centers.

ExtremeNet (Zhou et al., 2019, arXiv:1901.08043): Sec. 4.1 (center grouping, Alg. 1) and Sec. 4.3 (edge aggregation).

Convention: grid space, as in ``ops.heatmap``; the four kinds of points are in the order top, left, bottom, right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.ops.heatmap import points_of_cells

# Combinations of pairs that are looked at in one go.
COMBINATIONS_AT_ONCE = 2**20
# Pairs of each kind, per image, that are combined in an exported graph.
PAIRS_IN_GRAPH = 2**10
# Sums of scores in another order differ by less than this.
ROUNDING = 1e-5


class Extremes(NamedTuple):
    """The best peaks of one kind of extreme point."""

    scores: Tensor  # [B, K]
    labels: Tensor  # int64 [B, K]
    cell: Tensor  # int64 [B, K] flat index


class Groups(NamedTuple):
    """The N best groups of four points of each image, by decreasing score; rows of score 0 are empty."""

    scores: Tensor  # [B, N]
    labels: Tensor  # int64 [B, N]
    cell: Tensor  # int64 [B, N] flat index of the center
    corner: Tensor  # [B, N, 2] x, y of the center's cell
    extremes: Tensor  # int64 [B, N, 4] flat indices of the points


class _Pairs(NamedTuple):
    """Pairs of opposite points of an image, P in number: top and bottom, or left and right."""

    first: Tensor  # int64 [P] which of the candidates
    second: Tensor
    labels: Tensor
    middle: Tensor  # int64 [P] row (of top and bottom) or column of the center
    start: Tensor  # of the pair along its axis: the row of the top, the column of the left
    end: Tensor
    low: Tensor  # the smaller and the larger coordinate across the axis
    high: Tensor
    total: Tensor  # [P] sum of both scores
    center: Tensor  # [P] the largest probability of a center in that row or column

    def at(self, rows: Tensor | slice) -> _Pairs:
        return _Pairs(*(value[rows] for value in self))


def aggregate_edges(heatmap: Tensor, weight: float, axis: int) -> Tensor:
    """Edge aggregation (Sec. 4.3) of ``heatmap [B, C, H, W]`` along ``axis``: of a straight edge every point is an
    extreme one, with a weak response each, which is added up at the strongest.

    Each cell gains ``weight`` times the sum of its neighbors on either side, as far as they do not rise.
    """
    before, after = (_sum_up(heatmap, axis, backward) for backward in (False, True))
    return weight * before + weight * after + heatmap


def _sum_up(heatmap: Tensor, axis: int, backward: bool) -> Tensor:
    """For each cell the sum over the cells before it (``backward``: after it), back to where the values last fell."""
    lines = heatmap.unbind(axis)[:: -1 if backward else 1]
    sums = [lines[0]]
    # One by one: a running sum, from which others are subtracted, would make different values of equal ones.
    for previous, line in pairwise(lines):
        sums.append(line + sums[-1] * (line >= previous))
    return torch.stack(sums[:: -1 if backward else 1], axis) - heatmap


def group_extremes(
    kinds: Sequence[Extremes],
    centers: Tensor,
    most: int,
    min_score: float = 0.1,
    min_center_score: float = 0.1,
    per_class: bool = True,
) -> Groups:
    """Center grouping (Alg. 1): the ``most`` best groups of a top, a left, a bottom and a right point (``kinds``).

    ``centers [B, C, H, W]``: probabilities. A group has points of one class and of at least ``min_score``, none of
    which lies beyond another in the direction in which it is the extreme one (equal is not beyond), and a probability
    of at least ``min_center_score`` in the cell (rounded down) between them. Its score is the mean of six: its points',
    and twice its center's. Without ``per_class`` points have no classes, and a group has that of the largest
    probability at its center (the first of equal ones). Equal scores are in the order of their top and bottom points,
    those of the better bound first, then of their left and right ones.

    Exact, without all K^4 combinations: points are filtered and paired first (K^2 each of opposite ones, of one class
    and in order, with a center in their row or column). Pairs are combined by decreasing bounds of their scores, in
    blocks of ``COMBINATIONS_AT_ONCE``, until no bound reaches the score of the ``most``-th best group.

    An exported graph has no such loop: there, the ``PAIRS_IN_GRAPH`` best pairs of either kind by these bounds are
    combined. The result is the same where an image has no more of them.
    """
    width = centers.shape[-1]
    best, which = centers.max(1, keepdim=True)
    values = centers if per_class else best
    if torch.compiler.is_exporting():
        scores, labels, cell, extremes = _group_in_graph(kinds, values, most, min_score, min_center_score)
        if not per_class:
            labels = torch.where(scores > 0, which.flatten(1).gather(1, cell), 0)
        return Groups(scores, labels, cell, points_of_cells(cell, width), extremes)
    rows = [
        _group(
            [Extremes(*(value[image] for value in kind)) for kind in kinds],
            values[image],
            most,
            min_score,
            min_center_score,
        )
        for image in range(len(centers))
    ]
    scores, labels, cell, extremes = (torch.stack(column) for column in zip(*rows, strict=True))
    if not per_class:
        labels = torch.where(scores > 0, which.flatten(1).gather(1, cell), 0)
    return Groups(scores, labels, cell, points_of_cells(cell, width), extremes)


def _group(
    kinds: Sequence[Extremes], centers: Tensor, most: int, min_score: float, min_center_score: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, labels, center cells ``[most]`` and cells of the points ``[most, 4]`` of one image."""
    width = centers.shape[-1]
    kinds = [Extremes(*(value[kind.scores >= min_score] for value in kind)) for kind in kinds]
    top, left, bottom, right = kinds
    in_rows, in_columns = centers.amax(2), centers.amax(1)
    upright = _pairs(top, bottom, in_rows, min_center_score, width, is_upright=True)
    level = _pairs(left, right, in_columns, min_center_score, width, is_upright=False)
    bound = upright.total + 2 * upright.center
    order = bound.argsort(descending=True, stable=True)
    upright, bound = upright.at(order), bound[order]
    level = level.at(level.total.argsort(descending=True, stable=True))

    found = (centers.new_zeros(0), *(centers.new_zeros(0, dtype=torch.long) for _ in range(6)))
    step = max(COMBINATIONS_AT_ONCE // max(len(level.total), 1), 1)
    for start in range(0, len(bound), step):
        some, others = upright.at(slice(start, start + step)), level
        if len(found[0]) == most:
            least = 6 * found[0][-1] - ROUNDING
            reach = int((level.total + bound[start] >= least).sum())
            if not reach:
                break
            others = level.at(slice(reach))
        found = _best(found, _combine(some, others, kinds, centers, min_center_score), most)
    scores, labels, cell, *points = found
    chosen = [kind.cell[point] for kind, point in zip(kinds, points, strict=True)]
    scores, labels, cell, *chosen = (F.pad(value, (0, most - len(value))) for value in (scores, labels, cell, *chosen))
    return scores, labels, cell, torch.stack(chosen, -1)


def _pairs(
    first: Extremes, second: Extremes, centers: Tensor, min_center_score: float, width: int, is_upright: bool
) -> _Pairs:
    """Pairs that may belong to a group: of one class, in order along their axis, with a center in ``centers [C, H or
    W]`` half-way."""
    axes = (1, 0) if is_upright else (0, 1)
    (a_along, a_across), (b_along, b_across) = (
        [torch.div(kind.cell, width, rounding_mode="floor") if axis else kind.cell % width for axis in axes]
        for kind in (first, second)
    )
    middle = torch.div(a_along[:, None] + b_along, 2, rounding_mode="floor")
    center = centers[first.labels[:, None], middle]
    fits = (first.labels[:, None] == second.labels) & (a_along[:, None] <= b_along) & (center >= min_center_score)
    a, b = fits.nonzero(as_tuple=True)
    return _Pairs(
        a,
        b,
        first.labels[a],
        middle[a, b],
        a_along[a],
        b_along[b],
        torch.minimum(a_across[a], b_across[b]),
        torch.maximum(a_across[a], b_across[b]),
        first.scores[a] + second.scores[b],
        center[a, b],
    )


def _combine(
    upright: _Pairs, level: _Pairs, kinds: Sequence[Extremes], centers: Tensor, min_center_score: float
) -> tuple[Tensor, ...]:
    """Scores, labels, center cells and the numbers of the four points of all groups of these pairs ``[G]``."""
    fits = upright.labels[:, None] == level.labels
    fits &= upright.start[:, None] <= level.low
    fits &= upright.end[:, None] >= level.high
    fits &= level.start <= upright.low[:, None]
    fits &= level.end >= upright.high[:, None]
    p, q = fits.nonzero(as_tuple=True)
    labels, y, x = upright.labels[p], upright.middle[p], level.middle[q]
    center = centers[labels, y, x]
    kept = center >= min_center_score
    p, q, labels, center = p[kept], q[kept], labels[kept], center[kept]
    points = (upright.first[p], level.first[q], upright.second[p], level.second[q])
    total = sum(kind.scores[point] for kind, point in zip(kinds, points, strict=True))
    cell = upright.middle[p] * centers.shape[-1] + level.middle[q]
    return ((total + 2 * center) / 6, labels, cell, *points)


def _best(found: tuple[Tensor, ...], more: tuple[Tensor, ...], most: int) -> tuple[Tensor, ...]:
    """The ``most`` best of both, by decreasing score; equal ones in their order."""
    scores = torch.cat([found[0], more[0]])
    order = scores.argsort(descending=True, stable=True)[:most]
    return tuple(torch.cat(both)[order] for both in zip(found, more, strict=True))


def _group_in_graph(
    kinds: Sequence[Extremes], centers: Tensor, most: int, min_score: float, min_center_score: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``_group`` for a whole batch, with shapes that do not depend on the values: what does not fit has score 0."""
    height, width = centers.shape[2:]
    top, left, bottom, right = kinds
    xy = [points_of_cells(kind.cell, width).long() for kind in kinds]
    (top_x, top_y), (left_x, left_y), (bottom_x, bottom_y), (right_x, right_y) = (each.unbind(-1) for each in xy)

    def pair(
        first: Extremes, second: Extremes, start: Tensor, end: Tensor, lines: Tensor, is_bound: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Numbers of the best pairs' points ``[B, P]``, their middles, and whether they fit."""
        count = second.cell.shape[1]
        middle = torch.div(start[:, :, None] + end[:, None], 2, rounding_mode="floor")
        line = first.labels[:, :, None] * lines.shape[2] + middle
        center = lines.flatten(1).gather(1, line.flatten(1)).view_as(line)
        fits = (first.labels[:, :, None] == second.labels[:, None]) & (start[:, :, None] <= end[:, None])
        fits = fits & (center >= min_center_score)
        fits = fits & (first.scores[:, :, None] >= min_score) & (second.scores[:, None] >= min_score)
        total = first.scores[:, :, None] + second.scores[:, None]
        bound = torch.where(fits, total + 2 * center if is_bound else total, -1).flatten(1)
        best, which = torch.topk(bound, min(PAIRS_IN_GRAPH, first.cell.shape[1] * count))
        number = torch.div(which, count, rounding_mode="floor")
        return number, which - number * count, middle.flatten(1).gather(1, which), best >= 0

    a, b, y, is_upright = pair(top, bottom, top_y, bottom_y, centers.amax(3), True)
    c, d, x, is_level = pair(left, right, left_x, right_x, centers.amax(2), False)

    def of_upright(values: Tensor, which: Tensor) -> Tensor:
        return values.gather(1, which)[:, :, None]

    def of_level(values: Tensor, which: Tensor) -> Tensor:
        return values.gather(1, which)[:, None]

    labels = of_upright(top.labels, a)
    low = torch.minimum(of_upright(top_x, a), of_upright(bottom_x, b))
    high = torch.maximum(of_upright(top_x, a), of_upright(bottom_x, b))
    first_row = torch.minimum(of_level(left_y, c), of_level(right_y, d))
    last_row = torch.maximum(of_level(left_y, c), of_level(right_y, d))
    fits = (labels == of_level(left.labels, c)) & is_upright[:, :, None] & is_level[:, None]
    fits = fits & (of_upright(top_y, a) <= first_row) & (of_upright(bottom_y, b) >= last_row)
    fits = fits & (of_level(left_x, c) <= low) & (of_level(right_x, d) >= high)
    cell = y[:, :, None] * width + x[:, None]
    center = centers.flatten(1).gather(1, (labels * (height * width) + cell).flatten(1)).view_as(cell)
    total = of_upright(top.scores, a) + of_level(left.scores, c)
    total = total + of_upright(bottom.scores, b) + of_level(right.scores, d)
    scores = torch.where(fits & (center >= min_center_score), (total + 2 * center) / 6, 0).flatten(1)
    missing = max(most - a.shape[1] * c.shape[1], 0)
    scores, which = torch.topk(scores, most - missing)
    upright = torch.div(which, c.shape[1], rounding_mode="floor")
    level = which - upright * c.shape[1]
    is_found = scores > 0
    chosen = [
        kind.cell.gather(1, numbers.gather(1, pairs))
        for kind, numbers, pairs in ((top, a, upright), (left, c, level), (bottom, b, upright), (right, d, level))
    ]
    labels = top.labels.gather(1, a.gather(1, upright))
    cell = cell.flatten(1).gather(1, which)
    labels, cell, *chosen = (torch.where(is_found, value, 0) for value in (labels, cell, *chosen))
    scores, labels, cell, *chosen = (F.pad(value, (0, missing)) for value in (scores, labels, cell, *chosen))
    return scores, labels, cell, torch.stack(chosen, -1)
