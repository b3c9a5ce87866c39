"""The strongest peaks of heatmaps, found on a CPU without a second map of their size.

Objects as Points, Sec. 4.1: a peak is a cell whose value no cell of its 3 x 3 neighborhood exceeds. The plain way
(``heatmap.suppress_non_peaks``, then a search of all cells) is what a GPU and exported graphs do. A CPU reads maps
larger than its caches from memory once, in pieces that stay in the caches, and keeps the largest peak of each short run
of cells. The k largest peaks lie in the k runs with the largest ones, so that the search looks at these only.

Convention: as in ``centernet.ops.heatmap``. On a CPU, equal values come by rising class and cell; elsewhere torch
decides their order.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from centernet.ops.heatmap import find_peaks, is_recorded, on_host, suppress_non_peaks, top_per_channel

RUN = 16  # cells, at most, of one row
RUN_OF_CHANNEL = 8  # the same where each channel is searched: more runs to look at
SHORTEST_RUN = 4  # of less, the runs would be as many as the cells
# Cells in one go: with the copies that finding peaks takes, a core's cache holds them.
CELLS_AT_ONCE = 2**18


def strongest_peaks(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k strongest peaks over all channels: score, label and cell, each ``[B, k']`` by falling score.

    ``heatmap``: probabilities ``[B, C, H, W]``; k' = min(k, C * H * W). Where there are fewer peaks, cells with a score
    of zero follow.
    """
    if not _is_for_caches(heatmap):
        return find_peaks(suppress_non_peaks(heatmap), k)
    height, width = heatmap.shape[2:]
    run = gcd(width, RUN)
    best = _best_of_runs(heatmap, run).flatten(1)
    which = _first(best, _positions(best), k)
    image = torch.arange(len(heatmap))[:, None]
    start = which * run
    channel, cell = torch.div(start, height * width, rounding_mode="floor"), start % (height * width)
    values, cells = _peaks_in_runs(heatmap, image, channel, cell, run)
    places = channel[..., None] * (height * width) + cells
    values, places = values.flatten(1), places.flatten(1)
    chosen = _first(values, places, k)
    places = places.gather(1, chosen)
    label = torch.div(places, height * width, rounding_mode="floor")
    return values.gather(1, chosen), label, places % (height * width)


def strongest_peaks_per_channel(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k strongest peaks of each channel: scores and cells ``[B, C, k']``, k' = min(k, H * W)."""
    if not _is_for_caches(heatmap):
        return top_per_channel(suppress_non_peaks(heatmap), k)
    run = gcd(heatmap.shape[-1], RUN_OF_CHANNEL)
    best = _best_of_runs(heatmap, run).flatten(2)
    which = _first(best, _positions(best), k)
    image, channel = torch.arange(len(heatmap))[:, None, None], torch.arange(heatmap.shape[1])[:, None]
    values, cells = (each.flatten(2) for each in _peaks_in_runs(heatmap, image, channel, which * run, run))
    chosen = _first(values, cells, k)
    return values.gather(2, chosen), cells.gather(2, chosen)


def _is_for_caches(heatmap: Tensor) -> bool:
    """Whether to take the way that suits caches: not in a graph, whose shapes may be free, not for gradients."""
    if is_recorded():
        return False
    if heatmap.requires_grad and torch.is_grad_enabled():
        return False
    is_short = heatmap.dtype in (torch.float32, torch.bfloat16, torch.float16)  # others have no `_first`
    return on_host(heatmap) and is_short and heatmap.numel() > 0 and gcd(heatmap.shape[-1], RUN) >= SHORTEST_RUN


def _best_of_runs(heatmap: Tensor, run: int) -> Tensor:
    """The largest peak of each run of cells of a row: ``[B, C, H, W / run]``; 0 where there is none."""
    count, channels, height, width = heatmap.shape
    # As it lies in memory: [N, H, W, D] with all channels in D, or none. Networks may have them last.
    if heatmap.is_contiguous() or not heatmap.is_contiguous(memory_format=torch.channels_last):
        maps = heatmap.contiguous().view(-1, height, width, 1)
    else:
        maps = heatmap.permute(0, 2, 3, 1)
    depth = maps.shape[-1]
    best = maps.new_empty(len(maps), height, width // run, depth)
    at_once = max(CELLS_AT_ONCE // (height * width * depth), 1)
    rows = max(CELLS_AT_ONCE // (at_once * width * depth), 1)
    for some, of_some in zip(maps.split(at_once), best.split(at_once), strict=True):
        for top in range(0, height, rows):
            end, above = min(top + rows, height), max(top - 1, 0)  # with a row more on either side
            largest = _largest_of_three(some[:, above : end + 1], 1)[:, top - above : end - above]
            piece, largest = some[:, top:end], _largest_of_three(largest, 2)
            peaks = largest.eq_(piece).mul_(piece)  # in place: a mask of bool would take three times as long
            torch.amax(peaks.unflatten(2, (-1, run)), 3, out=of_some[:, top:end])
    if depth == channels and depth > 1:
        return best.permute(0, 3, 1, 2).contiguous()
    return best.view(count, channels, height, width // run)


def _largest_of_three(values: Tensor, axis: int) -> Tensor:
    """The largest of each value and its two neighbors along an axis."""
    length = values.shape[axis]
    if length == 1:
        return values.clone()
    pairs = torch.maximum(values.narrow(axis, 0, length - 1), values.narrow(axis, 1, length - 1))
    largest = torch.empty_like(values)
    inner = largest.narrow(axis, 1, length - 2)
    torch.maximum(pairs.narrow(axis, 0, length - 2), pairs.narrow(axis, 1, length - 2), out=inner)
    for end in (0, -1):
        largest.select(axis, end).copy_(pairs.select(axis, end))
    return largest


def _peaks_in_runs(heatmap: Tensor, image: Tensor, channel: Tensor, start: Tensor, run: int) -> tuple[Tensor, Tensor]:
    """Values (0 where there is no peak) and cells ``[..., run]`` of the runs that start at the cells ``start [...]``
    of these images and channels (of shapes that broadcast)."""
    height, width = heatmap.shape[2:]
    row = torch.div(start, width, rounding_mode="floor")[..., None, None]
    column = (start % width)[..., None, None]
    # A row and a column around each run; at the border, cells of the neighborhood are repeated.
    rows = (row + torch.arange(-1, 2)[:, None]).clamp(0, height - 1)
    columns = (column + torch.arange(-1, run + 1)).clamp(0, width - 1)
    flat, (of_image, of_channel, of_row, of_column) = _flattened(heatmap)
    first = (image * of_image + channel * of_channel)[..., None, None]
    place = first + rows * of_row + columns * of_column
    around = flat.index_select(0, place.flatten()).view(place.shape)  # a quarter of the time of four indices
    values, largest = around[..., 1, 1:-1], around.amax(-2)
    largest = torch.maximum(torch.maximum(largest[..., :-2], largest[..., 2:]), largest[..., 1:-1])
    return values * (values == largest), start[..., None] + torch.arange(run)


def _flattened(heatmap: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """All values as they lie in memory, and how far apart those of the next image, channel, row and column are."""
    if heatmap.is_contiguous(memory_format=torch.channels_last):
        return heatmap.permute(0, 2, 3, 1).reshape(-1), heatmap.stride()
    heatmap = heatmap.contiguous()
    return heatmap.view(-1), heatmap.stride()


def _positions(values: Tensor) -> Tensor:
    """0, 1, 2, ... along the last axis."""
    return torch.arange(values.shape[-1]).expand_as(values)


def first_of_equal(values: Tensor, k: int) -> Tensor:
    """Indices ``[..., k]`` of the k largest ``values [..., N]`` along the last axis; equal ones by rising index."""
    return _first(values, torch.arange(values.shape[-1], device=values.device), k)


def _first(values: Tensor, places: Tensor, k: int) -> Tensor:
    """Indices ``[..., k']`` of the k largest ``values [..., N]`` along the last axis; equal ones by rising place.

    The order is that of one integer for each: floats have the order of their bits, negative ones the opposite.
    """
    bits = (values.float() + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    return torch.topk(order - places, min(k, values.shape[-1])).indices
