"""Heatmaps: radii, Gaussians drawn for a whole batch at once, peaks found again.

Objects as Points, Sec. 3 (targets), Sec. 4.1 (peaks); the radius follows CornerNet (Law and Deng, 2018, Sec. 3.1).

Convention: grid space, a cell's value sits at its integer coordinate; maps are ``[B, C, H, W]``; a ``cell`` is the flat
index y * W + x.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RADII = ("centernet", "cornernet", "proportional")


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

    ``centers`` int ``[N, 2]`` (x, y) inside or outside the grid, ``radius`` int ``[N]``, ``size`` (height, width) of
    the grid. A Gaussian has sigma (2 r + 1) / ``sharpness``, ends at the square of r cells around its center, and is 1
    there, or (``unit_sum``) sums to 1 over that square, whether all of it lies in the grid or not.
    The windows are laid out one after the other, so memory follows their real area and not N x H x W.
    """
    height, width = size
    x, y = centers.unbind(-1)
    x1, x2 = (x - radius).clamp(0, width), (x + radius + 1).clamp(0, width)
    y1, y2 = (y - radius).clamp(0, height), (y + radius + 1).clamp(0, height)
    columns = (x2 - x1).clamp(min=0)
    count = columns * (y2 - y1).clamp(min=0)
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    start = count.cumsum(0) - count
    nth = torch.arange(len(owner), device=count.device) - start[owner]
    per_row = columns[owner]
    gx = x1[owner] + nth % per_row
    gy = y1[owner] + torch.div(nth, per_row, rounding_mode="floor")
    squared = (gx - x[owner]).square() + (gy - y[owner]).square()
    sigma = (2 * radius + 1).to(torch.float32) / sharpness
    value = torch.exp(-squared.to(torch.float32) / (2 * sigma.square())[owner])
    if unit_sum:
        value = value / _gaussian_sum(radius, sigma)[owner]
    return owner, gy * width + gx, value


def _gaussian_sum(radius: Tensor, sigma: Tensor) -> Tensor:
    """Sum ``[N]`` of each Gaussian over its whole square: the square of the sum along one axis."""
    if not len(radius):
        return sigma
    step = torch.arange(int(radius.max()) + 1, device=radius.device)
    half = torch.exp(-step.square() / (2 * sigma.square())[:, None]) * (step <= radius[:, None])
    return (2 * half.sum(1) - 1).square()


def draw_gaussians(
    centers: Tensor, radius: Tensor, channel: Tensor, shape: tuple[int, int, int, int], image: Tensor
) -> Tensor:
    """Heatmaps ``[B, C, H, W]`` float32: at each cell the largest of the Gaussians drawn into its channel.

    ``centers`` int ``[N, 2]``, ``radius`` int ``[N]``, ``channel`` int ``[N]``, ``image`` int ``[N]`` (row of the
    batch).
    """
    _, channels, height, width = shape
    owner, cell, value = gaussian_windows(centers, radius, (height, width))
    flat = value.new_zeros(shape).view(-1)
    where = (image[owner] * channels + channel[owner]) * (height * width) + cell
    flat.scatter_reduce_(0, where, value, "amax")
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

    The object with the largest Gaussian wins a cell, the later one where two are equal. For ``sharpness`` and
    ``unit_sum`` see ``gaussian_windows``.
    """
    _, height, width = shape
    owner, cell, value = gaussian_windows(centers, radius, (height, width), sharpness, unit_sum)
    where = image[owner] * (height * width) + cell
    strongest = value.new_zeros(shape).view(-1)
    strongest.scatter_reduce_(0, where, value, "amax")
    winner = owner.new_full((strongest.numel(),), -1)
    wins = value == strongest[where]
    winner.scatter_reduce_(0, where[wins], owner[wins], "amax")
    return winner.view(shape), strongest.view(shape)


def draw_regions(boxes: Tensor, channel: Tensor, shape: tuple[int, int, int, int], image: Tensor) -> Tensor:
    """Mask bool ``[B, C, H, W]``: True in the cells that lie inside a box ``[N, 4]`` of that channel and image."""
    _, _, height, width = shape
    xs = torch.arange(width, device=boxes.device)
    ys = torch.arange(height, device=boxes.device)
    mask = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    inside_x = (xs >= boxes[:, 0:1].floor()) & (xs <= boxes[:, 2:3].ceil())
    inside_y = (ys >= boxes[:, 1:2].floor()) & (ys <= boxes[:, 3:4].ceil())
    # Crowd regions are few: a loop over them costs less than N full maps.
    for n in range(len(boxes)):
        mask[image[n], channel[n]] |= inside_y[n, :, None] & inside_x[n, None, :]
    return mask


def suppress_non_peaks(heatmap: Tensor, kernel: int = 3) -> Tensor:
    """Zero every cell of ``[B, C, H, W]`` that is not the largest of its ``kernel`` x ``kernel`` neighborhood."""
    peak = F.max_pool2d(heatmap, kernel, stride=1, padding=kernel // 2)
    return heatmap * (peak == heatmap).to(heatmap.dtype)


def top_per_channel(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k strongest cells of each channel: scores and cells ``[B, C, k']``, k' = min(k, H * W)."""
    flat = heatmap.flatten(2)
    return torch.topk(flat, min(k, flat.shape[-1]))


def find_peaks(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k strongest cells over all channels: score, label and cell, each ``[B, k']`` by falling score.

    ``heatmap`` holds probabilities ``[B, C, H, W]`` with non-peaks at zero. Two stages (per channel, then over
    channels) keep the index arithmetic in small numbers, which the exported graph needs; k' = min(k, C * H * W).
    """
    scores, cells = top_per_channel(heatmap, k)
    best, which = torch.topk(scores.flatten(1), min(k, scores[0].numel()))
    label = torch.div(which, scores.shape[-1], rounding_mode="floor")
    return best, label, cells.flatten(1).gather(1, which)


def gather_cells(feature: Tensor, cell: Tensor) -> Tensor:
    """Values ``[B, M, C]`` of a map ``[B, C, H, W]`` at flat cells ``[B, M]``."""
    flat = feature.flatten(2)
    return flat.gather(2, cell[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def points_of_cells(cell: Tensor, width: int) -> Tensor:
    """(x, y) ``[..., 2]`` float of flat cells ``[...]``."""
    return torch.stack([cell % width, torch.div(cell, width, rounding_mode="floor")], -1).to(torch.float32)
