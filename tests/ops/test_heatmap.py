"""Heatmaps: radii, Gaussians against a naive double loop, and peaks found again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from centernet.ops.boxes import pairwise_iou
from centernet.ops.heatmap import (
    dense_owner,
    draw_gaussians,
    draw_regions,
    find_peaks,
    gather_cells,
    gaussian_radius,
    gaussian_windows,
    points_of_cells,
    suppress_non_peaks,
)

HEIGHT, WIDTH, CHANNELS, IMAGES = 11, 17, 3, 2
# Centers in and around the grid, radii from a single cell to more than the grid.
things = st.lists(
    st.tuples(
        st.integers(-6, WIDTH + 6),
        st.integers(-6, HEIGHT + 6),
        st.integers(0, 12),
        st.integers(0, CHANNELS - 1),
        st.integers(0, IMAGES - 1),
    ),
    max_size=7,
)


def columns(rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    table = torch.tensor(rows, dtype=torch.long).reshape(-1, 5)
    return table[:, :2], table[:, 2], table[:, 3], table[:, 4]


def naive_gaussian(x: int, y: int, radius: int) -> np.ndarray:
    """One Gaussian by the definition, cell by cell."""
    drawn = np.zeros((HEIGHT, WIDTH))
    sigma = (2 * radius + 1) / 6
    for row in range(HEIGHT):
        for column in range(WIDTH):
            if abs(column - x) <= radius and abs(row - y) <= radius:
                drawn[row, column] = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
    return drawn


@given(things)
def test_gaussians_are_those_of_a_double_loop(rows):
    wanted = np.zeros((IMAGES, CHANNELS, HEIGHT, WIDTH))
    for x, y, radius, channel, image in rows:
        wanted[image, channel] = np.maximum(wanted[image, channel], naive_gaussian(x, y, radius))
    centers, radius, channel, image = columns(rows)
    drawn = draw_gaussians(centers, radius, channel, wanted.shape, image)
    assert drawn.dtype == torch.float32
    np.testing.assert_allclose(drawn, wanted, atol=1e-6)


@given(things, st.integers(0, 9))
def test_gaussians_may_be_ellipses(rows, more):
    centers, radius, channel, image = columns(rows)
    both = torch.stack([radius, radius // 2 + more], -1)
    drawn = draw_gaussians(centers, both, channel, (IMAGES, CHANNELS, HEIGHT, WIDTH), image)
    wanted = np.zeros((IMAGES, CHANNELS, HEIGHT, WIDTH))
    along_x, along_y = (torch.arange(side).numpy() for side in (WIDTH, HEIGHT))
    for (x, y, _, c, b), (rx, ry) in zip(rows, both.tolist(), strict=True):
        inside = np.outer(abs(along_y - y) <= ry, abs(along_x - x) <= rx)
        bell = np.outer(
            np.exp(-((along_y - y) ** 2) / (2 * ((2 * ry + 1) / 6) ** 2)),
            np.exp(-((along_x - x) ** 2) / (2 * ((2 * rx + 1) / 6) ** 2)),
        )
        wanted[b, c] = np.maximum(wanted[b, c], bell * inside)
    np.testing.assert_allclose(drawn, wanted, atol=1e-6)


@given(things)
def test_equal_radii_along_both_axes_are_one_radius(rows):
    centers, radius, channel, image = columns(rows)
    shape = (IMAGES, CHANNELS, HEIGHT, WIDTH)
    twice = radius[:, None].repeat(1, 2)
    once = draw_gaussians(centers, radius, channel, shape, image)
    assert torch.equal(once, draw_gaussians(centers, twice, channel, shape, image))
    for unit_sum in (False, True):
        pairs = zip(
            gaussian_windows(centers, radius, (HEIGHT, WIDTH), 24.0, unit_sum),
            gaussian_windows(centers, twice, (HEIGHT, WIDTH), 24.0, unit_sum),
            strict=True,
        )
        assert all(torch.equal(one, other) for one, other in pairs)


@given(things)
def test_a_center_inside_the_grid_is_exactly_one(rows):
    centers, radius, channel, image = columns(rows)
    drawn = draw_gaussians(centers, radius, channel, (IMAGES, CHANNELS, HEIGHT, WIDTH), image)
    for x, y, _, c, b in rows:
        if 0 <= x < WIDTH and 0 <= y < HEIGHT:
            assert drawn[b, c, y, x] == 1


@given(things)
def test_windows_hold_every_cell_once_per_object_and_no_other(rows):
    centers, radius, _, _ = columns(rows)
    owner, cell, _ = gaussian_windows(centers, radius, (HEIGHT, WIDTH))
    wanted = {
        (n, y * WIDTH + x)
        for n, (cx, cy, r, _, _) in enumerate(rows)
        for y in range(HEIGHT)
        for x in range(WIDTH)
        if abs(x - cx) <= r and abs(y - cy) <= r
    }
    found = list(zip(owner.tolist(), cell.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == wanted


@given(things)
def test_a_cell_belongs_to_the_largest_gaussian_and_to_the_later_of_equals(rows):
    centers, radius, _, image = columns(rows)
    owner, strongest = dense_owner(centers, radius, image, (IMAGES, HEIGHT, WIDTH))
    each = np.stack([np.zeros((HEIGHT, WIDTH)), *(naive_gaussian(x, y, r) for x, y, r, _, _ in rows)]).astype(
        np.float32
    )
    for b in range(IMAGES):
        mine = np.where(np.array([True, *(row[4] == b for row in rows)])[:, None, None], each, 0)
        np.testing.assert_allclose(strongest[b], mine.max(0), atol=1e-6)
        is_largest = (mine >= mine.max(0) - 1e-6) & (mine > 0)
        has_owner = owner[b].numpy() >= 0
        assert np.array_equal(has_owner, mine.max(0) > 0)
        chosen = np.take_along_axis(is_largest, owner[b].numpy()[None] + 1, 0)[0]
        assert (chosen | ~has_owner).all()
    if rows:
        again, _ = dense_owner(centers.repeat(2, 1), radius.repeat(2), image.repeat(2), (IMAGES, HEIGHT, WIDTH))
        assert torch.equal(again, torch.where(owner >= 0, owner + len(rows), owner))


@given(st.floats(1, 120), st.floats(1, 120), st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_the_cornernet_radius_keeps_the_overlap_in_all_three_ways_of_moving_corners(height, width, overlap):
    h, w = torch.tensor(height, dtype=torch.float64), torch.tensor(width, dtype=torch.float64)
    r = gaussian_radius(h, w, overlap, "cornernet").item()
    assert r > 0
    box = torch.tensor([[0, 0, width, height]], dtype=torch.float64)
    moved = torch.tensor(
        [[r, r, width + r, height + r], [r, r, width - r, height - r], [-r, -r, width + r, height + r]]
    )
    overlaps = pairwise_iou(box, moved.double())[0]
    assert overlaps.min().item() == pytest.approx(overlap, abs=1e-4)  # the tightest of the three is met exactly


@given(st.floats(1, 120), st.floats(1, 120))
def test_the_proportional_radius_is_the_shift_of_one_side_that_a_box_bears(height, width):
    h, w = torch.tensor(height, dtype=torch.float64), torch.tensor(width, dtype=torch.float64)
    r = gaussian_radius(h, w, 0.7, "proportional").item()
    assert r == pytest.approx(0.15 * min(height, width))
    box = torch.tensor([[0, 0, width, height]], dtype=torch.float64)
    smaller = box + torch.tensor([r, 0, -r, 0]) if width <= height else box + torch.tensor([0, r, 0, -r])
    assert pairwise_iou(box, smaller.double()).item() == pytest.approx(0.7)


def test_the_centernet_radius_is_about_three_times_the_intended_one_for_a_square():
    side = torch.tensor([20.0, 50, 100])
    ratio = gaussian_radius(side, side) / gaussian_radius(side, side, formula="cornernet")
    assert ratio.tolist() == pytest.approx([3.3] * 3, abs=0.2)


def test_an_unknown_radius_formula_is_named():
    with pytest.raises(ValueError, match="unknown radius formula 'round'; choose one of centernet, cornernet"):
        gaussian_radius(torch.ones(1), torch.ones(1), formula="round")


def test_radii_keep_their_shape_also_when_there_is_nothing():
    for formula in ("centernet", "cornernet", "proportional"):
        assert gaussian_radius(torch.ones(2, 0), torch.ones(2, 0), formula=formula).shape == (2, 0)


def test_regions_cover_all_cells_that_a_box_touches():
    boxes = torch.tensor([[2.3, 1.0, 4.5, 2.0], [0.0, 0.0, 0.0, 0.0]])
    mask = draw_regions(
        boxes, torch.tensor([1, 0]), (2, 2, 4, 6), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    )
    assert mask.nonzero().tolist() == [
        [0, 1, y, x] for y in (1, 2) for x in (2, 3, 4, 5)
    ] + [[1, 0, 0, 0]]  # fmt: skip


heatmaps = st.integers(0, 10_000).map(
    lambda seed: torch.from_numpy(
        np.random.default_rng(seed).permutation(2 * 3 * 6 * 7).reshape(2, 3, 6, 7) / 252
    ).float()
)


@given(heatmaps, st.integers(1, 200))
def test_the_strongest_cells_of_all_channels_come_first(heatmap, k):
    score, label, cell = find_peaks(heatmap, k)
    assert score.shape == label.shape == cell.shape == (2, min(k, 3 * 42))
    for b in range(2):
        wanted, where = heatmap[b].flatten().sort(descending=True)
        assert torch.equal(score[b], wanted[:k])
        assert torch.equal(label[b] * 42 + cell[b], where[:k])


@given(heatmaps)
def test_only_cells_without_a_larger_neighbor_are_peaks(heatmap):
    kept = suppress_non_peaks(heatmap)
    for b, c, y, x in np.ndindex(*heatmap.shape):
        largest = heatmap[b, c, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
        assert kept[b, c, y, x] == (heatmap[b, c, y, x] if heatmap[b, c, y, x] == largest else 0)


def test_values_are_gathered_at_cells():
    feature = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
    cell = torch.tensor([[0, 7, 19], [5, 5, 1]])
    found = gather_cells(feature, cell)
    assert found.shape == (2, 3, 3)
    for b in range(2):
        for m in range(3):
            y, x = divmod(cell[b, m].item(), 5)
            assert torch.equal(found[b, m], feature[b, :, y, x])


def test_convention_a_cell_is_y_times_width_plus_x():
    heatmap = torch.zeros(1, 2, 5, 8)
    heatmap[0, 1, 3, 6] = 0.9  # y = 3, x = 6
    score, label, cell = find_peaks(heatmap, 1)
    assert (score.item(), label.item(), cell.item()) == (pytest.approx(0.9), 1, 3 * 8 + 6)
    assert points_of_cells(cell, 8).tolist() == [[[6, 3]]]


def test_convention_centers_are_x_y():
    drawn = draw_gaussians(
        torch.tensor([[6, 3]]), torch.tensor([0]), torch.tensor([0]), (1, 1, 5, 8), torch.tensor([0])
    )
    assert drawn.nonzero().tolist() == [[0, 0, 3, 6]]
