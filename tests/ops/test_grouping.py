"""Grouping of extreme points: the same as trying every combination, in far less time and memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from centernet.ops import grouping
from centernet.ops.grouping import Extremes, Groups, aggregate_edges, group_extremes

HEIGHT, WIDTH = 6, 7
Row = tuple[float, int, int, int, int, int, int]


def exhaustive(
    kinds: list[Extremes], centers: Tensor, image: int, min_score: float, min_center: float, per_class: bool
) -> list[Row]:
    """Every combination of four points of an image that passes every test: score, label, center, points."""
    found = []
    width = centers.shape[-1]
    candidates = [
        list(zip(*(value[image].tolist() for value in (kind.scores, kind.labels, kind.cell)), strict=True))
        for kind in kinds
    ]
    for group in itertools.product(*candidates):
        (t, l, b, r) = [(cell // width, cell % width) for _, _, cell in group]  # noqa: E741
        if t[0] > min(l[0], b[0], r[0]) or b[0] < max(t[0], l[0], r[0]):
            continue
        if l[1] > min(t[1], b[1], r[1]) or r[1] < max(t[1], l[1], b[1]):
            continue
        if per_class and len({label for _, label, _ in group}) > 1:
            continue
        y, x = int((t[0] + b[0] + 0.5) / 2), int((l[1] + r[1] + 0.5) / 2)
        here = centers[image, :, y, x]
        label = group[0][1] if per_class else int(here.argmax())
        center = here[label].item()
        if center < min_center or any(score < min_score for score, _, _ in group):
            continue
        total = sum(score for score, _, _ in group)
        found.append(((total + 2 * center) / 6, label, y * width + x, *(cell for _, _, cell in group)))
    return sorted(found, reverse=True)


def draw(seed: int, classes: int, count: int, levels: int, images: int = 2) -> tuple[list[Extremes], Tensor]:
    """Random candidates and centers, whose values are some of ``levels`` (few of them: many equal ones)."""
    rng = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        return torch.randint(1, levels + 1, shape, generator=rng) / (levels + 1)

    kinds = [
        Extremes(
            values(images, count).sort(descending=True).values,
            torch.randint(0, classes, (images, count), generator=rng),
            torch.stack([torch.randperm(HEIGHT * WIDTH, generator=rng)[:count] for _ in range(images)]),
        )
        for _ in range(4)
    ]
    return kinds, values(images, classes, HEIGHT, WIDTH)


def rows_of(groups: Groups, image: int) -> list[Row]:
    kept = groups.scores[image] > 0
    columns = (groups.scores, groups.labels, groups.cell, *groups.extremes.unbind(-1))
    return list(zip(*(column[image, kept].tolist() for column in columns), strict=True))


def assert_same(groups: Groups, wanted: list[Row], image: int, most: int) -> None:
    ours = rows_of(groups, image)
    assert len(ours) == min(most, len(wanted))
    assert [row[0] for row in ours] == pytest.approx([row[0] for row in wanted[:most]], abs=1e-6)
    # Of those that share the last score, any may be left out; all others are there, whatever their order.
    last = wanted[most - 1][0] + 1e-6 if len(wanted) > most else 0
    mine, theirs = ({row[1:]: row[0] for row in rows if row[0] > last} for rows in (ours, wanted))
    assert mine == pytest.approx(theirs, abs=1e-6)
    possible = {row[1:] for row in wanted}
    assert all(row[1:] in possible for row in ours)


@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(1, 3),
    count=st.integers(1, 6),
    levels=st.sampled_from([1, 2, 5, 1000]),
    most=st.sampled_from([1, 3, 20, 2000]),
    at_once=st.sampled_from([1, 7, 2**20]),
    per_class=st.booleans(),
    thresholds=st.tuples(st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.0, 0.1, 0.6])),
)
def test_groups_are_the_best_of_all_combinations(seed, classes, count, levels, most, at_once, per_class, thresholds):
    kinds, centers = draw(seed, classes if per_class else 1, count, levels)
    if not per_class:
        _, centers = draw(seed, classes, 1, levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "COMBINATIONS_AT_ONCE", at_once)
        found = group_extremes(kinds, centers, most, *thresholds, per_class=per_class)
    assert found.scores.shape == (2, most)
    assert (found.scores.diff() <= 0).all()
    for image in range(2):
        assert_same(found, exhaustive(kinds, centers, image, *thresholds, per_class), image, most)
        empty = found.scores[image] == 0
        assert not found.extremes[image, empty].any()


def test_blocks_and_repetitions_change_nothing_not_even_the_order_of_equal_scores(monkeypatch):
    kinds, centers = draw(3, 2, 6, 2)
    first, again = (group_extremes(kinds, centers, 50) for _ in range(2))
    monkeypatch.setattr(grouping, "COMBINATIONS_AT_ONCE", 5)
    blocks = group_extremes(kinds, centers, 50)
    for mine, same in zip(first, again, strict=True):
        assert torch.equal(mine, same)
    assert torch.equal(first.scores, blocks.scores)


def test_an_image_is_grouped_as_in_a_batch_of_its_own():
    kinds, centers = draw(5, 2, 6, 1000)
    together = group_extremes(kinds, centers, 30)
    for image in range(2):
        own = [Extremes(*(value[image : image + 1] for value in kind)) for kind in kinds]
        alone = group_extremes(own, centers[image : image + 1], 30)
        for mine, other in zip(alone, together, strict=True):
            assert torch.equal(mine[0], other[image])


def test_combinations_are_looked_at_in_blocks_and_only_as_long_as_they_may_be_good_enough(monkeypatch):
    # A hundred candidates of one class in one row and column each: every one of 10^8 combinations passes the tests.
    count = 100
    scores = torch.linspace(0.9, 0.5, count)[None]
    side = 102
    along = torch.arange(1, count + 1)
    cells = [along, along * side, (side - 1) * side + along, along * side + side - 1]
    kinds = [Extremes(scores, torch.zeros(1, count, dtype=torch.long), cell[None]) for cell in cells]
    looked_at = []
    combine = grouping._combine

    def counted(upright, level, *others):
        looked_at.append(len(upright.total) * len(level.total))
        return combine(upright, level, *others)

    monkeypatch.setattr(grouping, "_combine", counted)
    found = group_extremes(kinds, torch.full((1, 1, side, side), 0.5), 1000)
    assert max(looked_at) <= grouping.COMBINATIONS_AT_ONCE
    assert sum(looked_at) < 10**8 / 20
    best = torch.cartesian_prod(*[scores[0, :20]] * 4).sum(1).topk(1000).values
    torch.testing.assert_close(found.scores[0], (best + 1) / 6, rtol=0, atol=1e-6)


def test_nothing_to_group_makes_empty_rows():
    kinds, centers = draw(0, 2, 3, 5)
    found = group_extremes(kinds, centers * 0, 4)
    assert not any(value.any() for value in found)


# Edge aggregation ----------------------------------------------------------------------------------------------------


def test_an_edge_adds_up_at_its_strongest_cell():
    row = torch.tensor([0.0, 0.1, 0.1, 0.3, 0.2, 0.2, 0.4, 0.0])
    # 0.1 + 0.1 on the left and 0.2 + 0.2 on the right rise up to 0.3; a fall begins anew.
    before = torch.tensor([0.0, 0.0, 0.1, 0.2, 0.0, 0.2, 0.4, 0.0])
    after = torch.tensor([0.0, 0.1, 0.0, 0.4, 0.2, 0.0, 0.0, 0.0])
    found = aggregate_edges(row.view(1, 1, 1, -1), 0.5, 3)
    torch.testing.assert_close(found.flatten(), row + 0.5 * before + 0.5 * after)
    upright = aggregate_edges(row.view(1, 1, -1, 1), 0.5, 2)
    torch.testing.assert_close(upright.flatten(), found.flatten())


def test_aggregation_does_not_mix_rows_classes_or_images():
    heatmap = torch.rand(2, 3, 4, 5)
    found = aggregate_edges(heatmap, 0.1, 3)
    for image, label, y in itertools.product(range(2), range(3), range(4)):
        alone = aggregate_edges(heatmap[image, label, y].view(1, 1, 1, -1), 0.1, 3)
        assert torch.equal(alone.flatten(), found[image, label, y])
