"""The strongest peaks, against the plain way: non-peaks to zero, then a sort of every cell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from centernet.ops import peaks
from centernet.ops.heatmap import find_peaks, suppress_non_peaks, top_per_channel
from centernet.ops.peaks import strongest_peaks, strongest_peaks_per_channel

# Widths that divide into runs of 16, 8 and 4, and one that does not; grids of a single row or column.
sizes = st.tuples(st.sampled_from([1, 2, 3, 9]), st.sampled_from([4, 7, 8, 16, 24, 32]))


def made(seed: int, channels: int, size: tuple[int, int], levels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Maps of two images with this many different values: few of them make ties and plateaus."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(levels + 1, (2, channels, *size), generator=generator) / levels).to(dtype)


@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    sizes,
    st.sampled_from([1, 3, 20, 10**6]),
    st.sampled_from([1, 7, 40, 10**4]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_the_strongest_peaks_are_those_of_the_plain_way_in_order_of_class_and_cell(
    seed, channels, size, levels, k, dtype, is_channels_last
):
    heatmap = made(seed, channels, size, levels, dtype)
    plain = suppress_non_peaks(heatmap)
    area = size[0] * size[1]
    held = heatmap.contiguous(memory_format=torch.channels_last) if is_channels_last else heatmap
    score, label, cell = strongest_peaks(held, k)
    values, places = plain.flatten(1).sort(dim=-1, descending=True, stable=True)
    assert score.dtype == dtype
    assert torch.equal(score, values[:, :k])
    if size[1] % peaks.SHORTEST_RUN == 0:  # else torch decides among equals
        assert torch.equal(label * area + cell, places[:, :k])
    scores, cells = strongest_peaks_per_channel(held, k)
    values, places = plain.flatten(2).sort(dim=-1, descending=True, stable=True)
    assert torch.equal(scores, values[..., :k])
    if size[1] % peaks.SHORTEST_RUN == 0:
        assert torch.equal(cells, places[..., :k])


@given(st.integers(0, 10_000), sizes, st.sampled_from([1, 5, 64]))
def test_without_ties_the_result_is_that_of_the_plain_functions(seed, size, k):
    generator = torch.Generator().manual_seed(seed)
    count = 2 * 3 * size[0] * size[1]
    heatmap = ((torch.randperm(count, generator=generator) + 1) / count).view(2, 3, *size)
    plain = suppress_non_peaks(heatmap)
    some = min(k, int((plain > 0).flatten(1).sum(1).min()))  # the zeros of other cells are ties
    for ours, theirs in zip(strongest_peaks(heatmap, some), find_peaks(plain, some), strict=True):
        assert torch.equal(ours, theirs)
    least = min(k, int((plain > 0).flatten(2).sum(2).min()))
    for ours, theirs in zip(strongest_peaks_per_channel(heatmap, least), top_per_channel(plain, least), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("cells", [1, 100, 300, 10**6])
def test_the_size_of_the_pieces_changes_nothing(cells, monkeypatch):
    heatmap = made(0, 5, (8, 16), 10**6)
    wanted = strongest_peaks(heatmap, 20)
    monkeypatch.setattr(peaks, "CELLS_AT_ONCE", cells)
    assert all(torch.equal(*pair) for pair in zip(strongest_peaks(heatmap, 20), wanted, strict=True))


def test_negative_values_and_both_zeros_are_in_order_too():
    heatmap = -made(0, 2, (4, 8), 5)  # -1 .. -0.0
    score, label, cell = strongest_peaks(heatmap, 64)
    values, places = suppress_non_peaks(heatmap).add(0.0).flatten(1).sort(dim=-1, descending=True, stable=True)
    assert torch.equal(score, values)
    assert torch.equal(label * 32 + cell, places)


def test_a_graph_holds_the_plain_way_for_any_batch():
    class Finds(torch.nn.Module):
        def forward(self, heatmap):
            return strongest_peaks(heatmap, 5), strongest_peaks_per_channel(heatmap, 5)

    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(Finds(), (made(0, 3, (8, 16), 10**6),), dynamic_shapes=({0: batch},)).module()
    heatmap = made(1, 3, (8, 16), 10**6).repeat(3, 1, 1, 1)
    (score, label, cell), (scores, cells) = exported(heatmap)
    assert all(torch.equal(*pair) for pair in zip((score, label, cell), strongest_peaks(heatmap, 5), strict=True))
    assert all(
        torch.equal(*pair) for pair in zip((scores, cells), strongest_peaks_per_channel(heatmap, 5), strict=True)
    )
    traced = torch.jit.trace(Finds(), made(0, 3, (8, 16), 10**6), check_trace=False)
    assert torch.equal(traced(heatmap)[0][2], cell)


@given(st.integers(0, 10_000), st.sampled_from([(8, 16), (16, 16), (6, 8), (5, 7)]), st.sampled_from([1, 3, 40]))
def test_exported_graphs_search_in_blocks_and_find_the_same(seed, size, k):
    heatmap = made(seed, 3, size, 10**6 if seed % 2 else 4)
    wanted = strongest_peaks(heatmap, k), strongest_peaks_per_channel(heatmap, k)
    suppressed = suppress_non_peaks(heatmap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        found = find_peaks(suppressed, k), top_per_channel(suppressed, k)
    # The scores are the same; of equal ones torch chooses some, but none twice.
    assert all(torch.equal(mine[0], theirs[0]) for mine, theirs in zip(wanted, found, strict=True))
    (score, label, cell), (scores, cells) = found
    area = size[0] * size[1]
    assert torch.equal(suppressed.flatten(1).gather(1, label * area + cell), score)
    assert torch.equal(suppressed.flatten(2).gather(2, cells), scores)
    for row in (*(label * area + cell), *cells.flatten(0, 1)):
        assert len(row.unique()) == len(row)


def test_gradients_reach_the_scores():
    heatmap = made(0, 2, (8, 16), 10**6).requires_grad_()
    score, label, cell = strongest_peaks(heatmap, 1)
    score.sum().backward()
    assert heatmap.grad.sum() == 2
    assert (heatmap.grad.flatten(2)[torch.arange(2), label[:, 0], cell[:, 0]] == 1).all()
