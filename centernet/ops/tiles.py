"""Tiles: a large input cut into overlapping pieces whose maps are put together again."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple


class Tile(NamedTuple):
    """One tile along one axis, in pixels: it covers ``start`` to ``start + size``, and the joint result takes ``first``
    to ``last`` from it."""

    start: int
    size: int
    first: int
    last: int


def tile_axis(length: int, size: int, overlap: float, step: int, stride: int) -> list[Tile]:
    """Tiles of ``size`` that cover ``length`` pixels, neighbors overlapping by at least the share ``overlap``.

    Tiles start at multiples of ``step``, on which a network's grid repeats; ``length`` and ``size`` must be multiples
    of it. The seam of two neighbors is in the middle of what they share, at a multiple of ``stride``, so every result
    comes from the tile that sees most around it.
    """
    if size >= length:
        return [Tile(0, length, 0, length)]
    advance = max(int(size * (1 - overlap)) // step, 1) * step
    count = math.ceil((length - size) / advance) + 1
    starts = [round(n * (length - size) / (count - 1) / step) * step for n in range(count)]
    seams = [(nxt + start + size) // 2 // stride * stride for start, nxt in itertools.pairwise(starts)]
    return [
        Tile(start, size, first, last) for start, first, last in zip(starts, [0, *seams], [*seams, length], strict=True)
    ]
