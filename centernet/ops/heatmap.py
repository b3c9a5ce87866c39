"""Heatmaps: radii, Gaussians drawn for a whole batch at once, peaks found again.

Objects as Points, Sec. 3 (targets), Sec. 4.1 (peaks); the radius follows CornerNet (Law and Deng, 2018, Sec. 3.1).

Convention: grid space, a cell's value sits at its integer coordinate; maps are ``[B, C, H, W]``; a ``cell`` is the flat
index y * W + x.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

RADII = ("centernet", "cornernet", "proportional")
# Cells of a grid, times objects, that are evaluated in one go: 64 MB in float32.
CELLS_AT_ONCE = 2**24
BLOCKS = (64, 16)  # cells that are searched together in exported graphs


def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float = 0.7, formula: str = "centernet") -> Tensor:
    """How far (cells, real-valued, same shape) a box's corners may move and still overlap it by ``min_overlap``.

    ``height``, ``width`` in cells. ``formula``:

    - ``centernet``: what CenterNet and its published numbers use. It takes (b + sqrt(b^2 - 4ac)) / 2 as the root of
      each of the three quadratics, which is the larger root and lacks the division by a, so that the third case decides
      and the radius is about 3.3 times the intended one for a square box.
    - ``cornernet``: the intended roots.
    - ``proportional``: (1 - min_overlap) / 2 of the shorter side, the shift of one side that a box bears.
    """
    # float64 where there is one: the result is truncated to whole cells, so a rounding error can cost a cell.
    precise = torch.float32 if height.device.type == "mps" else torch.float64
    h, w = height.to(precise), width.to(precise)
    if formula == "proportional":
        return torch.minimum(h, w) * ((1 - min_overlap) / 2)
    m = min_overlap
    # The three ways in which two corners can move: one in one out, both in, both out.
    quadratics = (
        (torch.ones_like(h), h + w, w * h * (1 - m) / (1 + m), 1.0),
        (torch.full_like(h, 4.0), 2 * (h + w), (1 - m) * w * h, 1.0),
        (torch.full_like(h, 4.0 * m), -2 * m * (h + w), (m - 1) * w * h, -1.0),
    )
    roots = []
    for a, b, c, sign in quadratics:
        root = (b * b - 4 * a * c).clamp(min=0).sqrt()
        if formula == "centernet":
            roots.append((b + root) / 2)
        elif formula == "cornernet":
            # sign picks the smaller positive root: (b - root) / 2a for the first two, (b + root) / 2a for the third,
            # whose b is negative.
            roots.append((b - sign * root) / (2 * a))
        else:
            raise ValueError(f"unknown radius formula {formula!r}; choose one of {', '.join(RADII)}")
    return torch.stack(roots).amin(0)


def gaussian_windows(
    centers: Tensor, radius: Tensor, size: tuple[int, int], sharpness: float = 6.0, unit_sum: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Every cell that the Gaussians of N objects touch: object ``[T]``, cell ``[T]``, value ``[T]``.

    ``centers`` int ``[N, 2]`` (x, y) inside or outside the grid, ``radius`` int ``[N]``, or ``[N, 2]`` along x and y
    (negative: no Gaussian), ``size`` (height, width) of the grid. A Gaussian has sigma (2 r + 1) / ``sharpness``, ends
    at the rectangle of r cells around its center, and is 1 there, or (``unit_sum``, for radii up to the grid's longer
    side) sums to 1 over that rectangle, whether all of it lies in the grid or not. The windows are laid out one after
    the other, so memory follows their real area and not N x H x W.
    """
    height, width = size
    radius = _along_axes(radius)
    (x, y), (reach_x, reach_y) = centers.unbind(-1), radius.unbind(-1)
    x1, x2 = (x - reach_x).clamp(0, width), (x + reach_x + 1).clamp(0, width)
    y1, y2 = (y - reach_y).clamp(0, height), (y + reach_y + 1).clamp(0, height)
    owner, gx, gy = _cells_of_windows(x1, y1, x2, y2)
    bell = _Bell(radius, size, sharpness, unit_sum)
    squared = (gx - x[owner]).square().float() + (gy - y[owner]).square().float() * bell.stretch[owner]
    return owner, gy * width + gx, bell.at(squared, owner)


def _along_axes(radius: Tensor) -> Tensor:
    """Radii ``[N, 2]`` along x and y of radii ``[N]`` or ``[N, 2]``."""
    return radius if radius.ndim == 2 else radius[:, None].expand(-1, 2)


def _cells_of_windows(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Window, x and y ``[T]`` of every cell in x1 <= x < x2, y1 <= y < y2, int ``[N]`` each."""
    columns = (x2 - x1).clamp(min=0)
    count = columns * (y2 - y1).clamp(min=0)
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    start = count.cumsum(0) - count
    nth = torch.arange(len(owner), device=count.device) - start[owner]
    per_row = columns[owner]
    return owner, x1[owner] + nth % per_row, y1[owner] + torch.div(nth, per_row, rounding_mode="floor")


def _gaussians_on_grid(
    centers: Tensor, radius: Tensor, size: tuple[int, int], sharpness: float, unit_sum: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same with every cell of the grid, 0 outside the windows: object ``[n, 1]``, cell ``[H * W]``, value ``[n, H *
    W]``, for a few objects at a time."""
    height, width = size
    radius = _along_axes(radius)
    bell = _Bell(radius, size, sharpness, unit_sum)
    step = max(CELLS_AT_ONCE // max(height * width, 1), 1)
    cell = torch.arange(height * width, device=radius.device)
    for owner in torch.arange(len(radius), device=radius.device)[:, None].split(step):
        away = [torch.arange(side, device=radius.device) - centers[owner, n] for n, side in enumerate((width, height))]
        x, y = (
            each.square().float().masked_fill(each.abs() > radius[owner, n], torch.inf) for n, each in enumerate(away)
        )
        squared = ((y * bell.stretch[owner])[:, :, None] + x[:, None]).flatten(1)
        yield owner, cell, bell.at(squared, owner)


class _Bell:
    """The Gaussians of objects with ``radius [N, 2]``.

    Distances count in units of x: those along y are multiplied by ``stretch [N]``, exactly 1 for a round Gaussian.
    """

    def __init__(self, radius: Tensor, size: tuple[int, int], sharpness: float, unit_sum: bool) -> None:
        variance = ((2 * radius + 1).to(torch.float32) / sharpness).square()
        self.double_variance = 2 * variance[:, 0]
        self.stretch = variance[:, 0] / variance[:, 1]
        self.total: Tensor | None = None
        if unit_sum:
            # Over the whole rectangle: the product of the sums along the axes.
            away = torch.arange(max(size) + 1, device=radius.device)
            half = torch.exp(-away.square() / (2 * variance)[..., None]) * (away <= radius[..., None])
            self.total = (2 * half.sum(-1) - 1).prod(-1)

    def at(self, squared: Tensor, owner: Tensor) -> Tensor:
        """Values at squared distances (float32) from the objects ``owner``."""
        value = torch.exp(-squared / self.double_variance[owner])
        return value if self.total is None else value / self.total[owner]


def on_host(tensor: Tensor) -> bool:
    """Whether Python may ask for numbers of a tensor: then it can lay out exactly the cells that are touched.

    Only a GPU knows how large the windows of its objects are, and asking it stops the CPU until it has finished
    everything before. So a GPU, which computes faster than it answers, evaluates every object on the whole grid.
    """
    return tensor.device.type == "cpu"


def zeros_on_host(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros on a CPU. Memory that nobody writes to or reads is never touched, whereas torch writes all of it: maps of
    many classes are almost empty."""
    return torch.from_numpy(np.zeros(shape, np.dtype(str(dtype).removeprefix("torch."))))


def is_recorded() -> bool:
    """Whether a graph is being recorded, which is to stay one for inputs of other sizes."""
    return torch.jit.is_tracing() or torch.jit.is_scripting() or torch.compiler.is_compiling()


def _pieces(centers: Tensor, radius: Tensor, *rest: Any) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Objects, cells and values of all Gaussians."""
    if on_host(radius):
        return [gaussian_windows(centers, radius, *rest)]
    return _gaussians_on_grid(centers, radius, *rest)


def draw_gaussians(
    centers: Tensor, radius: Tensor, channel: Tensor, shape: tuple[int, int, int, int], image: Tensor
) -> Tensor:
    """Heatmaps ``[B, C, H, W]`` float32: at each cell the largest of the Gaussians drawn into its channel.

    ``centers`` int ``[N, 2]``, ``radius`` int ``[N]``, or ``[N, 2]`` along x and y (negative: nothing is drawn),
    ``channel`` int ``[N]``, ``image`` int ``[N]`` (row of the batch).
    """
    _, channels, height, width = shape
    empty = zeros_on_host(shape) if on_host(radius) else torch.zeros(shape, device=radius.device)
    flat = empty.view(-1)
    start = (image * channels + channel) * (height * width)
    for owner, cell, value in _pieces(centers, radius, (height, width), 6.0, False):
        flat.scatter_reduce_(0, (start[owner] + cell).flatten(), value.flatten(), "amax")
    return flat.view(shape)


def dense_owner(
    centers: Tensor,
    radius: Tensor,
    image: Tensor,
    shape: tuple[int, int, int],
    sharpness: float = 6.0,
    unit_sum: bool = False,
) -> tuple[Tensor, Tensor]:
    """Which object owns each cell: owner int64 ``[B, H, W]`` (-1 = none) and its Gaussian ``[B, H, W]``.

    The object with the largest Gaussian wins a cell, the later one where two are equal, none where all are 0 in
    float32. Arguments as for ``draw_gaussians``; for ``sharpness`` and ``unit_sum`` see ``gaussian_windows``.
    """
    _, height, width = shape
    # Value and owner in one number: positive floats have the order of their bits.
    best = torch.zeros(shape, dtype=torch.long, device=radius.device).view(-1)
    start = image * (height * width)
    for owner, cell, value in _pieces(centers, radius, (height, width), sharpness, unit_sum):
        key = torch.where(value > 0, (value.view(torch.int32).long() << 32) + owner + 1, 0)
        best.scatter_reduce_(0, (start[owner] + cell).flatten(), key.flatten(), "amax")
    best = best.view(shape)
    return (best & 0xFFFFFFFF) - 1, (best >> 32).int().view(torch.float32)


def draw_regions(
    boxes: Tensor, channel: Tensor, shape: tuple[int, int, int, int], image: Tensor, shown: Tensor
) -> Tensor:
    """Mask bool ``[B, C, H, W]``: True in the cells that a box ``[N, 4]`` of that channel and image touches, if it is
    ``shown`` (bool ``[N]``)."""
    _, channels, height, width = shape
    x1, y1, x2, y2 = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil() + 1], -1).long().unbind(-1)
    x1, x2, y1, y2 = x1.clamp(0, width), x2.clamp(0, width), y1.clamp(0, height), y2.clamp(0, height)
    shown = shown & (x1 < x2) & (y1 < y2)
    plane = image * channels + channel
    if on_host(boxes):
        owner, x, y = _cells_of_windows(x1, y1, torch.where(shown, x2, x1), y2)
        mask = torch.zeros(shape, dtype=torch.bool)
        mask.view(-1)[(plane[owner] * height + y) * width + x] = True
        return mask
    # Steps at the corners; their sum over all cells above and to the left is the number of boxes over a cell.
    steps = torch.zeros(*shape[:2], height + 1, width + 1, dtype=torch.int32, device=boxes.device)
    for x, y, sign in ((x1, y1, 1), (x2, y1, -1), (x1, y2, -1), (x2, y2, 1)):
        steps.view(-1).index_add_(0, (plane * (height + 1) + y) * (width + 1) + x, sign * shown.int())
    return steps.cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32)[..., :height, :width] > 0


def suppress_non_peaks(heatmap: Tensor, kernel: int = 3) -> Tensor:
    """Zero every cell of ``[B, C, H, W]`` that is not the largest of its ``kernel`` x ``kernel`` neighborhood."""
    peak = F.max_pool2d(heatmap, kernel, stride=1, padding=kernel // 2)
    return heatmap * (peak == heatmap).to(heatmap.dtype)


def top_per_channel(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k strongest cells of each channel: scores and cells ``[B, C, k']``, k' = min(k, H * W)."""
    flat = heatmap.flatten(2)
    if block := _block_in_graph(flat.shape[-1], k):
        return _top_of_blocks(flat, k, block)
    return torch.topk(flat, at_most(k, flat.shape[-1]))


def _block_in_graph(count: int, k: int) -> int:
    """Cells of a block, if a graph is exported whose maps have a fixed size and several times as many blocks as are
    sought; else 0. Runtimes on a CPU search slowly: OpenVINO's search of whole maps took longer than a small
    network."""
    if not torch.compiler.is_exporting() or not isinstance(count, int):
        return 0
    return next((block for block in BLOCKS if count % block == 0 and count // block >= 2 * k), 0)


def _top_of_blocks(values: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """The k largest ``values [..., N]`` and their places ``[..., k]``, for N in whole blocks, of which there are at
    least k: the k largest lie in the k blocks with the largest maxima, which are searched in the order of their places,
    so that equal values keep it where the runtime's search does."""
    blocks = values.unflatten(-1, (-1, block))
    _, which = torch.topk(blocks.amax(-1), k)
    which = which.sort(-1).values
    rows = which[..., None].expand(*which.shape, block)
    best, place = torch.topk(blocks.gather(-2, rows).flatten(-2), k)
    row = torch.div(place, block, rounding_mode="floor")
    return best, which.gather(-1, row) * block + place - row * block


def at_most(k: int, count: int) -> int:
    """The smaller of both, as a number: ``min`` would keep it open in a graph whose sizes are free."""
    return k if count >= k else count


def find_peaks(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k strongest cells over all channels: score, label and cell, each ``[B, k']`` by falling score.

    ``heatmap`` holds probabilities ``[B, C, H, W]`` with non-peaks at zero. Two stages (per channel, then over
    channels) keep the index arithmetic in small numbers, which the exported graph needs; k' = min(k, C * H * W).
    """
    count = heatmap.shape[2] * heatmap.shape[3]
    if block := _block_in_graph(heatmap.shape[1] * count, k):
        best, place = _top_of_blocks(heatmap.flatten(1), k, block)
        label = torch.div(place, count, rounding_mode="floor")
        return best, label, place - label * count
    scores, cells = top_per_channel(heatmap, k)
    best, which = torch.topk(scores.flatten(1), at_most(k, scores.shape[1] * scores.shape[2]))
    label = torch.div(which, scores.shape[-1], rounding_mode="floor")
    return best, label, cells.flatten(1).gather(1, which)


def gather_cells(feature: Tensor, cell: Tensor) -> Tensor:
    """Values ``[B, M, C]`` of a map ``[B, C, H, W]`` at flat cells ``[B, M]``."""
    flat = feature.flatten(2)
    return flat.gather(2, cell[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def points_of_cells(cell: Tensor, width: int) -> Tensor:
    """(x, y) ``[..., 2]`` float of flat cells ``[...]``."""
    row = torch.div(cell, width, rounding_mode="floor")
    # Not cell % width: the exporter to ONNX has no remainder by a width that is free.
    return torch.stack([cell - row * width, row], -1).to(torch.float32)
