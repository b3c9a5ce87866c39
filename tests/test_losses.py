"""Losses against their formulas written out, and what must not disturb them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from centernet.losses import (
    LOSSES,
    box_overlap,
    box_quality,
    clamped_sigmoid,
    dense_l1,
    dimension_aware_l1,
    focal,
    heading_bins,
    l1,
    laplacian,
    mean_l1,
    mean_multi_bin,
    mse,
    multi_bin,
    smooth_l1,
    soft_focal,
)
from centernet.ops.boxes import OVERLAPS
from centernet.structures import AtCells, DenseMap

SHAPE = (2, 3, 4, 5)


def random_maps(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Raw output and a heatmap with centers."""
    torch.manual_seed(seed)
    target = torch.rand(SHAPE) * 0.9
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = target[1, 2, 3, 4] = 1
    return (torch.randn(SHAPE) * 3).requires_grad_(), target


def random_cells(channels: int = 2, seed: int = 0) -> tuple[Tensor, AtCells]:
    torch.manual_seed(seed)
    output = torch.randn(2, channels, 4, 5).requires_grad_()
    cell = torch.tensor([[3, 19, 3, 0], [7, 0, 0, 0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    return output, AtCells(cell, torch.randn(2, 4, channels) * 3, mask)


def test_the_soft_focal_loss_is_its_formula_and_divides_by_the_sum_of_the_peaks():
    raw, target = random_maps()
    total = 0.0
    for x, y in zip(raw.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        total -= (p - y) ** 2 * (y * math.log(p) + (1 - y) * math.log(1 - p))
    peaks = 0.0
    for b, c, i, j in np.ndindex(*SHAPE):
        window = target[b, c, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        peaks += target[b, c, i, j].item() if target[b, c, i, j] == window.max() else 0
    assert peaks > 3
    assert soft_focal(raw, DenseMap(target)).item() == pytest.approx(total / peaks, rel=1e-4)


@pytest.mark.parametrize("wanted", [0.01, 0.4, 0.9])
def test_the_soft_focal_loss_leads_to_any_probability_from_both_sides(wanted):
    raw = torch.linspace(-6, 6, 31).view(1, 1, 1, -1).requires_grad_()
    target = torch.full_like(raw, wanted)
    soft_focal(raw, DenseMap(target)).backward()
    assert torch.equal(raw.grad > 0, raw.sigmoid() > wanted)
    there = torch.logit(target).requires_grad_()
    loss = soft_focal(there, DenseMap(target))
    loss.backward()
    assert (loss.item(), there.grad.abs().max().item()) == pytest.approx((0, 0), abs=1e-9)


def test_the_focal_loss_is_equation_one():
    raw, target = random_maps()
    total, centers = 0.0, 0
    for x, y in zip(raw.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = min(max(1 / (1 + math.exp(-x)), 1e-4), 1 - 1e-4)
        if y == 1:
            total, centers = total + (1 - p) ** 2 * math.log(p), centers + 1
        else:
            total += (1 - y) ** 4 * p**2 * math.log(1 - p)
    assert focal(raw, DenseMap(target)).item() == pytest.approx(-total / centers, rel=1e-5)


def test_the_focal_loss_ignores_what_its_weight_hides():
    raw, target = random_maps()
    weight = torch.ones(SHAPE)
    weight[0, 0] = 0
    focal(raw, DenseMap(target, weight)).backward()
    assert (raw.grad[0, 0] == 0).all()
    assert (raw.grad[0, 2] != 0).all()
    other = raw.detach().clone()
    other[0, 0] = 7
    assert focal(other, DenseMap(target, weight)) == focal(raw, DenseMap(target, weight))


def test_a_center_inside_an_ignored_region_still_counts():
    raw, target = random_maps()
    focal(raw, DenseMap(target, torch.zeros(SHAPE))).backward()
    assert torch.equal(raw.grad != 0, target == 1)


def test_a_heatmap_without_centers_is_pushed_down_and_not_divided_by_zero():
    raw = torch.zeros(SHAPE, requires_grad=True)
    loss = focal(raw, DenseMap(torch.zeros(SHAPE)))
    loss.backward()
    assert loss.item() == pytest.approx(raw.numel() * 0.25 * math.log(2), rel=1e-5)
    assert (raw.grad > 0).all()


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_the_focal_loss_stays_finite_however_sure_the_network_is(logit):
    raw = torch.full(SHAPE, logit, requires_grad=True)
    loss = focal(raw, DenseMap(random_maps()[1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(raw.grad).all()


def test_losses_are_computed_in_float32_whatever_the_network_gives():
    raw, target = random_maps()
    half = raw.detach().bfloat16()
    assert clamped_sigmoid(half).dtype == torch.float32
    for loss in (focal, mse, dense_l1):
        assert loss(half, DenseMap(target)).dtype == torch.float32
        assert loss(half, DenseMap(target)) == loss(half.float(), DenseMap(target))
    output, cells = random_cells()
    for loss in (l1, smooth_l1):
        assert loss(output.bfloat16(), cells).dtype == torch.float32


def test_mse_is_the_mean_over_all_cells():
    raw, target = random_maps()
    assert mse(raw, DenseMap(target)).item() == pytest.approx(((raw - target) ** 2).mean().item(), rel=1e-6)
    hidden = DenseMap(target, torch.zeros(SHAPE))
    assert mse(raw, hidden).item() == 0


def test_l1_is_the_mean_over_supervised_elements():
    output, target = random_cells()
    values = output.detach().flatten(2)
    errors = [
        abs(values[b, c, target.cell[b, m]] - target.value[b, m, c]).item()
        for b, m in target.mask.nonzero().tolist()
        for c in range(2)
    ]
    assert l1(output, target).item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_smooth_l1_is_the_sum_per_object():
    output, target = random_cells()
    values = output.detach().flatten(2)
    errors = np.array(
        [
            abs(values[b, c, target.cell[b, m]] - target.value[b, m, c]).item()
            for b, m in target.mask.nonzero().tolist()
            for c in range(2)
        ]
    )
    wanted = np.where(errors < 1, errors**2 / 2, errors - 0.5).sum() / 4
    assert smooth_l1(output, target).item() == pytest.approx(wanted, rel=1e-4)


def test_dense_l1_is_the_weighted_mean():
    raw, target = random_maps()
    weight = torch.rand(SHAPE)
    wanted = ((raw - target).abs() * weight).sum() / weight.sum()
    assert dense_l1(raw, DenseMap(target, weight)).item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("loss", [l1, smooth_l1])
def test_a_mask_may_pick_single_elements(loss):
    output, target = random_cells()
    elements = torch.zeros(2, 4, 2)
    elements[0, 1, 1] = 1
    loss(output, AtCells(target.cell, target.value, elements)).backward()
    assert output.grad.nonzero().tolist() == [[0, 1, 3, 4]]


@pytest.mark.parametrize("loss", [l1, smooth_l1])
def test_without_objects_the_loss_is_zero_and_its_gradient_usable(loss):
    output, target = random_cells()
    nothing = AtCells(target.cell, target.value, torch.zeros_like(target.mask))
    value = loss(output, nothing)
    value.backward()
    assert value.item() == 0
    assert (output.grad == 0).all()
    no_rows = AtCells(target.cell[:, :0], target.value[:, :0], target.mask[:, :0])
    value = loss(output, no_rows)
    value.backward()
    assert value.item() == 0


def test_a_dense_target_without_weight_anywhere_is_zero_with_a_usable_gradient():
    raw, target = random_maps()
    value = dense_l1(raw, DenseMap(target, torch.zeros(SHAPE)))
    value.backward()
    assert value.item() == 0
    assert (raw.grad == 0).all()


@pytest.mark.parametrize("loss", [l1, smooth_l1])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_whatever_stands_in_the_padding_is_harmless(loss, garbage):
    output, target = random_cells()
    clean = loss(output, target)
    dirty_value = target.value.masked_fill(~target.mask[..., None], garbage)
    dirty = loss(output, AtCells(target.cell, dirty_value, target.mask))
    assert dirty == clean
    dirty.backward()
    assert torch.isfinite(output.grad).all()


def test_two_objects_in_one_cell_both_pull_at_it():
    output, target = random_cells()
    l1(output, target).backward()
    touched = {(b, target.cell[b, m].item()) for b, m in target.mask.nonzero().tolist()}
    moved = {(b, y * 5 + x) for b, _, y, x in output.grad.nonzero().tolist()}
    assert moved <= touched
    assert len(moved) == 3


def test_mean_l1_is_the_mean_over_all_rows():
    output, target = random_cells()
    assert mean_l1(output, target).item() == pytest.approx(l1(output, target).item() * 4 / 8, rel=1e-4)


# Losses with values of their own: channels of the output, and a function that draws values [B, M, C].
THREE_D = {
    multi_bin: (8, lambda: torch.cat([torch.randint(0, 2, (2, 4, 2)).float(), torch.randn(2, 4, 2)], -1)),
    laplacian: (2, lambda: torch.rand(2, 4, 1) * 50),
    dimension_aware_l1: (3, lambda: torch.cat([torch.randn(2, 4, 3), 0.5 + 4 * torch.rand(2, 4, 3)], -1)),
    heading_bins: (24, lambda: torch.cat([torch.randint(0, 12, (2, 4, 1)).float(), torch.randn(2, 4, 1)], -1)),
}


def three_d_cells(loss) -> tuple[Tensor, AtCells]:
    channels, draw = THREE_D[loss]
    output, target = random_cells(channels)
    return output, AtCells(target.cell, draw(), target.mask)


def at_objects(output: Tensor, target: AtCells) -> list[tuple[list[float], list[float]]]:
    """Prediction and truth of every supervised object."""
    flat = output.detach().flatten(2)
    return [
        (flat[b, :, target.cell[b, m]].tolist(), target.value[b, m].tolist()) for b, m in target.mask.nonzero().tolist()
    ]


def entropy(logits: list[float], which: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - logits[which]


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def test_an_angle_in_two_bins_costs_its_bins_and_its_residuals():
    output, target = three_d_cells(multi_bin)
    objects = at_objects(output, target)
    bins = sum(entropy(p[0:2], int(t[0])) + entropy(p[4:6], int(t[1])) for p, t in objects) / len(objects)
    residuals = 0.0
    for n in range(2):
        inside = [
            huber(p[4 * n + 2] - math.sin(t[2 + n])) + huber(p[4 * n + 3] - math.cos(t[2 + n]))
            for p, t in objects
            if t[n] == 1
        ]
        assert inside  # else the test proves little
        residuals += np.mean(inside)
    assert multi_bin(output, target).item() == pytest.approx(bins + residuals, rel=1e-5)
    # Over all eight rows, of which four are empty and cost ln 2 for each bin.
    wanted = (bins * 4 + 4 * 2 * math.log(2)) / 8 + residuals
    assert mean_multi_bin(output, target).item() == pytest.approx(wanted, rel=1e-5)


def test_the_laplacian_weighs_errors_by_the_spread_that_the_network_says():
    output, target = three_d_cells(laplacian)
    wanted = [math.sqrt(2) * abs(p[0] - t[0]) / math.exp(p[1]) + p[1] for p, t in at_objects(output, target)]
    assert laplacian(output, target).item() == pytest.approx(np.mean(wanted), rel=1e-5)


def test_the_laplacian_is_smallest_where_the_spread_fits_the_error():
    cell, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    target = AtCells(cell, torch.full((1, 1, 1), 13.0), mask)
    spreads = torch.arange(1, 60) / 10
    losses = [laplacian(torch.tensor([10.0, s.log()]).view(1, 2, 1, 1), target).item() for s in spreads]
    assert spreads[int(np.argmin(losses))].item() == pytest.approx(3 * math.sqrt(2), abs=0.06)


def test_dimensions_cost_what_plain_l1_costs_but_pull_more_at_short_sides():
    output, target = three_d_cells(dimension_aware_l1)
    value = dimension_aware_l1(output, target)
    errors = [abs(a - b) for p, t in at_objects(output, target) for a, b in zip(p, t, strict=False)]
    assert value.item() == pytest.approx(np.mean(errors), rel=1e-4)
    value.backward()
    b, m = 0, 1  # cell 19 holds one object only
    pull = output.grad.flatten(2)[b, :, target.cell[b, m]].abs()
    sides = target.value[b, m, 3:]
    assert torch.allclose(pull * sides, (pull * sides).mean().expand(3), rtol=1e-4)


def test_a_heading_costs_its_bin_and_the_residual_in_it():
    output, target = three_d_cells(heading_bins)
    wanted = [entropy(p[:12], int(t[0])) + abs(p[12 + int(t[0])] - t[1]) for p, t in at_objects(output, target)]
    assert heading_bins(output, target).item() == pytest.approx(np.mean(wanted), rel=1e-5)


@pytest.mark.parametrize("loss", THREE_D)
def test_in_3d_too_nothing_is_lost_where_nothing_is_supervised(loss):
    output, target = three_d_cells(loss)
    for nothing in (
        AtCells(target.cell, target.value, torch.zeros_like(target.mask)),
        AtCells(target.cell[:, :0], target.value[:, :0], target.mask[:, :0]),
    ):
        output.grad = None
        value = loss(output, nothing)
        value.backward()
        assert value.item() == 0
        assert (output.grad == 0).all()
    assert loss(output.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("loss", [*THREE_D, mean_multi_bin, mean_l1])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_in_3d_too_whatever_stands_in_the_padding_is_harmless(loss, garbage):
    twin = {mean_multi_bin: multi_bin, mean_l1: laplacian}.get(loss, loss)
    output, target = three_d_cells(twin)
    output = output[:, :1].detach().requires_grad_() if loss is mean_l1 else output
    clean = loss(output, target)
    dirty_value = target.value.masked_fill(~target.mask[..., None], garbage)
    dirty = loss(output, AtCells(target.cell, dirty_value, target.mask))
    assert dirty == clean
    dirty.backward()
    assert torch.isfinite(output.grad).all()


def test_every_loss_has_a_name_that_heads_can_give():
    assert {focal, mse, l1, smooth_l1, dense_l1, mean_l1, mean_multi_bin, *THREE_D} <= set(LOSSES.values())
    named = {name: loss for name, loss in LOSSES.items() if not name.startswith("box_")}
    assert all(name == loss.__name__ for name, loss in named.items())
    assert {name.removeprefix("box_") for name in LOSSES.keys() - named.keys()} == set(OVERLAPS)


def boxes_in_cells(weights: list[float]) -> tuple[Tensor, DenseMap]:
    """Predicted and true boxes of four cells: equal, half, apart, and of a cell without an object."""
    predicted = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 4], [6, 0, 8, 4], [3, 3, 1, 1]])
    truth = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0]])
    maps = [rows.T.reshape(1, 4, 2, 2).clone() for rows in (predicted, truth)]
    return maps[0].requires_grad_(), DenseMap(maps[1], torch.tensor(weights).reshape(1, 1, 2, 2))


def test_the_loss_of_boxes_is_the_weighted_mean_of_what_their_overlap_lacks():
    output, target = boxes_in_cells([1.0, 3.0, 2.0, 0.0])
    # The third is 2 x 4 beside 4 x 4, in a hull of 8 x 4: neither covers 8 of 32.
    wanted = (1 * 0 + 3 * 0.5 + 2 * (1 + 8 / 32)) / 6
    assert box_overlap(output, target).item() == pytest.approx(wanted, abs=1e-4)
    assert box_overlap(output, target, "iou").item() == pytest.approx((3 * 0.5 + 2) / 6, abs=1e-4)


def test_cells_without_an_object_teach_no_box():
    output, target = boxes_in_cells([1.0, 3.0, 2.0, 0.0])
    box_overlap(output, target).backward()
    assert (output.grad[0, :, 1, 1] == 0).all()
    assert (output.grad[0, :, 0, 1] != 0).any()


def test_without_objects_the_loss_of_boxes_is_zero_with_a_usable_gradient():
    output, target = boxes_in_cells([0.0] * 4)
    logits = torch.randn(1, 1, 2, 2, requires_grad=True)
    total = box_overlap(output, target) + box_quality(logits, output, target)
    total.backward()
    assert total == 0
    assert (output.grad == 0).all()
    assert (logits.grad == 0).all()


def test_the_quality_of_a_box_is_its_overlap():
    output, target = boxes_in_cells([1.0, 3.0, 2.0, 0.0])
    logits = torch.tensor([2.0, 0.0, -1.0, 5.0]).reshape(1, 1, 2, 2).requires_grad_()

    def entropy(logit: float, iou: float) -> float:
        p = 1 / (1 + math.exp(-logit))
        return -iou * math.log(p) - (1 - iou) * math.log(1 - p)

    wanted = (entropy(2, 1) + 3 * entropy(0, 0.5) + 2 * entropy(-1, 0)) / 6
    loss = box_quality(logits, output, target)
    assert loss.item() == pytest.approx(wanted, abs=1e-4)
    loss.backward()
    assert output.grad is None
    assert logits.grad[0, 0, 0, 1] == pytest.approx(0, abs=1e-6)  # it already says a half


def test_the_loss_of_boxes_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    low = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    truth = torch.cat([low, low + 1 + torch.rand_like(low)], 1)
    target = DenseMap(truth, torch.rand(1, 1, 3, 3, dtype=torch.float64))
    output = (truth + 0.3 * torch.rand_like(truth)).requires_grad_()
    for kind in ("iou", "giou", "diou"):
        assert torch.autograd.gradcheck(lambda boxes, kind=kind: box_overlap(boxes, target, kind), output)
