"""Extreme points of objects: the topmost, leftmost, bottommost and rightmost point of each (Papadopoulos et al., 2017,
arXiv:1708.02750), from their masks.

Where several points of an outline are extreme, or nearly, the original's rule decides, which ExtremeNet (Zhou et al.,
2019, arXiv:1901.08043, Sec. 5.1) describes as the middle of an edge that is almost parallel to the axis: from the first
extreme vertex of a polygon on, neighbors count in both directions as long as they lie within 2 % of the object's height
(for the left and right point, of its width) of it, and the point is half-way between the outermost of them. It lies
exactly on the side of the object's box.

Points move with the image; in one that augmentation turns, they stay the points of the upright object.

Convention: corners of pixels, as in COCO's boxes: pixel i of a run-length mask covers i .. i + 1.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch

from centernet.data.masks import Masks
from centernet.errors import InputError, some

KEY = "extreme_points"  # of annotations, as in the original's files; and of objects
WAYS = ("masks", "boxes")
# How far from the side of a box a vertex counts as extreme, as a fraction of the box's extent, in whole pixels with the
# last one (the original's constant).
TOLERANCE = 0.02
# The sides in the field's order: the axis that they bound, and whether from below.
_SIDES = ((1, True), (0, True), (1, False), (0, False))


def extreme_points_of(masks: Masks) -> np.ndarray:
    """Extreme points float32 ``[N, 4, 2]`` (top, left, bottom, right; x and y in image pixels) of N masks; NaN where an
    object has none."""
    found = _of_polygons(masks)
    for n in np.flatnonzero(np.isnan(found[:, 0, 0])):
        if masks.has_mask(n):
            found[n] = _of_bitmap(masks.bitmap(n))
    return found


def edge_middles(boxes: np.ndarray) -> np.ndarray:
    """The middles float32 ``[N, 4, 2]`` of the top, left, bottom and right edges of ``boxes [N, 4]`` (x1, y1, x2,
    y2)."""
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return np.stack([x, y1, x1, y, x, y2, x2, y], 1).reshape(-1, 4, 2).astype(np.float32)


def read_extreme_points(
    rows: Sequence[Mapping[str, Any]],
    masks: Masks,
    boxes: np.ndarray,
    way: str,
    where: str,
) -> np.ndarray:
    """Extreme points float32 ``[N, 4, 2]`` of COCO annotations: those that they hold, else those of their masks.

    ``way``: with ``boxes``, the middles of the edges of ``boxes [N, 4]`` (x1, y1, x2, y2) stand for the points of
    objects that have neither; with ``masks`` this raises ``InputError``, apart from crowds, which have no points.
    ``where`` names the file.
    """
    found = extreme_points_of(masks)
    for n, row in enumerate(rows):
        if (given := row.get(KEY)) is not None:
            found[n] = _given(given, f"{where}: annotation {row.get('id', '(without id)')}")
    missing = np.isnan(found).any((1, 2))
    if way == "masks":
        unknown = [n for n in np.flatnonzero(missing) if not rows[n].get("iscrowd", 0)]
        if unknown:
            ids = some([str(rows[n].get("id", "(without id)")) for n in unknown[:6]])
            raise InputError(
                f"{where}: {len(unknown)} of {len(rows)} annotations have neither a mask nor {KEY} ({ids}); add masks, "
                "or set data.extreme_points=boxes to take the middles of the edges of their boxes"
            )
    found[missing] = edge_middles(boxes[missing])
    return found


def complete_extreme_points(fields: MutableMapping[str, torch.Tensor], way: str | None, where: str) -> None:
    """Add the extreme points that ``way`` (data.extreme_points) asks for to ``fields`` of data without masks.

    Raises ``InputError`` if they would have to come from masks. ``where`` names the data.
    """
    if way is None or KEY in fields:
        return
    if way == "masks":
        raise InputError(
            f"{where} has no masks to find extreme points in; set data.extreme_points=boxes to take the middles of the "
            "edges of boxes"
        )
    fields[KEY] = torch.from_numpy(edge_middles(fields["boxes"].numpy()))


def require_way(way: str | None) -> str | None:
    """``way`` if it is one of ``WAYS`` or None. Raises ``InputError``."""
    if way is not None and way not in WAYS:
        raise InputError(f"data.extreme_points={way!r} is unknown; choose one of {', '.join(WAYS)} or null")
    return way


def _given(points: Any, where: str) -> np.ndarray:
    try:
        values = np.asarray(points, np.float64).reshape(4, 2)
    except (TypeError, ValueError):
        values = np.full((4, 2), np.nan)
    if not np.isfinite(values).all():
        raise InputError(f"{where} has {KEY} {points!r}; give [x, y] of the top, left, bottom and right point")
    return values


def _of_polygons(masks: Masks) -> np.ndarray:
    """Of the masks that are polygons; NaN for the others. All at once: a loop takes minutes for COCO."""
    found = np.full((len(masks), 4, 2), np.nan, np.float32)
    starts = masks.ring_ends[masks.rings]
    counts = np.diff(starts)
    owners = np.flatnonzero(counts)
    if not len(owners):
        return found
    points, first = masks.points, starts[:-1][owners]
    owner = np.repeat(np.arange(len(owners)), counts[owners])  # of each point
    low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
    reach = np.float32(TOLERANCE) * (high - low + 1)
    for side, (axis, is_low) in enumerate(_SIDES):
        edge = (low if is_low else high)[:, axis]
        away = np.abs(points[:, axis] - edge[owner])
        run, count = _runs(away <= reach[owner, axis], masks.ring_ends)
        extreme = np.flatnonzero(away == 0)
        _, firsts = np.unique(owner[extreme], return_index=True)
        chosen = run[extreme[firsts]]
        along = points[:, 1 - axis]
        start, end = np.full(count, np.inf, np.float32), np.full(count, -np.inf, np.float32)
        counted = run >= 0
        np.minimum.at(start, run[counted], along[counted])
        np.maximum.at(end, run[counted], along[counted])
        found[owners, side, axis] = edge
        found[owners, side, 1 - axis] = (start[chosen] + end[chosen]) / 2
    return found


def _runs(is_near: np.ndarray, ring_ends: np.ndarray) -> tuple[np.ndarray, int]:
    """The number of the run of neighboring near points that each point ``[P]`` of rings is in, -1 for the others, and
    how many numbers there are. A ring's last point is a neighbor of its first."""
    first, last = ring_ends[:-1], ring_ends[1:] - 1
    begins = is_near.copy()
    begins[1:] &= ~is_near[:-1]
    begins[first] = is_near[first]
    run = np.where(is_near, np.cumsum(begins) - 1, -1)
    count = int(begins.sum())
    number = np.arange(count)
    closed = is_near[first] & is_near[last]
    number[run[last[closed]]] = run[first[closed]]
    return np.where(is_near, number[run] if count else -1, -1), count


def _of_bitmap(bitmap: np.ndarray) -> np.ndarray:
    """Of a mask uint8 ``[H, W]``; NaN if it is empty. Its pixels at a side, and those behind them within the tolerance,
    are the neighbors of the first one as far as there are no gaps between them."""
    y, x = bitmap.nonzero()
    if not len(x):
        return np.full((4, 2), np.nan)
    x1, y1, x2, y2 = x.min(), y.min(), x.max() + 1, y.max() + 1
    shown = bitmap[y1:y2, x1:x2] > 0
    return np.array(
        [
            [x1 + _middle(shown), y1],
            [x1, y1 + _middle(shown.T)],
            [x1 + _middle(shown[::-1]), y2],
            [x2, y1 + _middle(shown.T[::-1])],
        ]
    )


def _middle(lines: np.ndarray) -> float:
    """Half-way along the run of pixels at the first of ``lines`` bool ``[L, P]``."""
    first = int(lines[0].argmax())
    near = lines[: int(TOLERANCE * len(lines)) + 1].any(0)
    gaps = np.flatnonzero(~near)
    start = gaps[gaps < first].max(initial=-1) + 1
    end = gaps[gaps > first].min(initial=len(near))
    return (start + end) / 2
