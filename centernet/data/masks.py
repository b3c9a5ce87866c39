"""Object masks, stored flat for a whole data set: the box of the part that a crop shows, and the pixels in it.

Formats of cocodataset.org: polygons, and run lengths (RLE) as numbers or compressed into a string.

Convention: corners of pixels, as in COCO's boxes: pixel i of a mask covers i .. i + 1, before and after the warp
(``Masks.pixels`` excepted).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from centernet.ops.affine import Size

# Bits behind the point of coordinates that are drawn.
_FRACTION = 4


@dataclass(frozen=True)
class Masks:
    """One mask or none for each of N objects.

    Flat arrays with offsets (polygon points, compressed run lengths), which worker processes share without copying.
    """

    points: np.ndarray  # float32 [P, 2]
    ring_ends: np.ndarray  # of each ring among the points
    rings: np.ndarray  # of each object among the rings
    runs: np.ndarray  # uint8
    run_ends: np.ndarray  # of each object among the runs
    sizes: np.ndarray  # int32 [N, 2] (height, width) of each object's image

    @classmethod
    def of(cls, segmentations: Sequence[Any], sizes: np.ndarray | Sequence[Size]) -> Masks:
        """``segmentations`` as in the json (None and unusable entries count as no mask); ``sizes`` (height, width) of
        each object's image."""
        points: list[array] = []
        rings_of, runs = [], []
        sizes = np.array(sizes, np.int32).reshape(-1, 2)
        for n, segmentation in enumerate(segmentations):
            is_encoded = isinstance(segmentation, dict)
            rings = [] if is_encoded else rings_in(segmentation)
            points += rings
            rings_of.append(len(rings))
            runs.append(_compress(segmentation, tuple(sizes[n].tolist())) if is_encoded else b"")
        return cls(
            points=np.frombuffer(b"".join(points), np.float32).reshape(-1, 2),
            ring_ends=_offsets([len(ring) // 2 for ring in points]),
            rings=_offsets(rings_of),
            runs=np.frombuffer(b"".join(runs), np.uint8),
            run_ends=_offsets([len(text) for text in runs]),
            sizes=sizes,
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def has_mask(self, n: int) -> bool:
        """Whether object ``n`` has a mask."""
        return bool(self.rings[n + 1] > self.rings[n] or self.run_ends[n + 1] > self.run_ends[n])

    def visible_box(self, n: int, input_from_image: np.ndarray, size: Size) -> np.ndarray | None:
        """Box ``[4]`` in input pixels of the part of mask ``n`` that an input of ``size`` (height, width) shows.

        None if nothing is visible. ``input_from_image`` float64 ``[3, 3]``.
        """
        points, ends = self.polygon(n)
        if len(points):
            return visible_polygon_box(points @ input_from_image[:2, :2].T + input_from_image[:2, 2], ends, size)
        return visible_bitmap_box(self.bitmap(n), input_from_image, size)

    def pixels(self, n: int, input_from_image: np.ndarray, size: Size) -> np.ndarray:
        """The pixels uint8 ``[H, W]`` (0 or 1) of mask ``n`` in an input, or its window, of ``size`` (height, width).

        They are those that ``cv2.warpAffine`` moves there: unlike a box, a mask has to fit its pixels, whose centers
        are half a pixel from their corners.
        """
        points, ends = self.polygon(n)
        if not len(points):
            return cv2.warpAffine(self.bitmap(n), input_from_image[:2], size[::-1], flags=cv2.INTER_NEAREST)
        pixels = np.zeros(size, np.uint8)
        points = (points - 0.5) @ input_from_image[:2, :2].T + input_from_image[:2, 2]
        rings = np.split((points * 2**_FRACTION).round().astype(np.int32), ends[:-1])
        return cv2.fillPoly(pixels, rings, 1, shift=_FRACTION)

    def polygon(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The points ``[P, 2]`` of all rings of object ``n``, and where each ring ends; empty if it has run lengths."""
        ends = self.ring_ends[self.rings[n] : self.rings[n + 1] + 1]
        return self.points[ends[0] : ends[-1]], ends[1:] - ends[0]

    def bitmap(self, n: int) -> np.ndarray:
        """The run lengths of object ``n`` as an image uint8 ``[H, W]`` of 0 and 1."""
        counts = self.runs[self.run_ends[n] : self.run_ends[n + 1]].tobytes()
        return rle.decode({"size": self.sizes[n].tolist(), "counts": counts})


def visible_polygon_box(points: np.ndarray, ends: np.ndarray, size: Size) -> np.ndarray | None:
    """Exact box of the part of a multi-ring polygon inside ``0 .. width, 0 .. height``; None if there is none.

    ``points [P, 2]`` of all rings, concatenated; ``ends``: where each ring ends. The extent of a clipped polygon is
    that of its clipped edges and of the window's corners inside it, so no polygon has to be built.
    """
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = np.concatenate([[0], ends[:-1]])
    start, step = points, points[following] - points
    window = np.array([size[1], size[0]], np.float64)
    # Liang and Barsky: the part of each edge between all four sides, as a range of its parameter.
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = -start / step, (window - start) / step
    flat = step == 0
    outside = ((start < 0) | (start > window)) & flat
    low = np.where(flat, 0, np.minimum(near, far)).max(1).clip(0)
    high = np.where(flat, 1, np.maximum(near, far)).min(1).clip(max=1)
    seen = (low <= high) & ~outside.any(1)
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * window
    found = [
        start[seen] + low[seen, None] * step[seen],
        start[seen] + high[seen, None] * step[seen],
        corners[_inside(corners, start, step)],
    ]
    shown = np.concatenate(found)
    return np.concatenate([shown.min(0), shown.max(0)]).clip(0) if len(shown) else None


def visible_bitmap_box(bitmap: np.ndarray, input_from_image: np.ndarray, size: Size) -> np.ndarray | None:
    """Box of the pixels of a mask ``[H, W]`` at least partly inside an input of this size; None if there are none."""
    y, x = bitmap.nonzero()
    linear = input_from_image[:2, :2]
    centers = np.stack([x + 0.5, y + 0.5], 1) @ linear.T + input_from_image[:2, 2]
    half = np.abs(linear).sum(1) / 2  # of a moved pixel's extent
    window = np.array([size[1], size[0]], np.float64)
    seen = centers[((centers + half > 0) & (centers - half < window)).all(1)]
    if not len(seen):
        return None
    return np.concatenate([(seen.min(0) - half).clip(0), np.minimum(seen.max(0) + half, window)])


def _inside(places: np.ndarray, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Whether places ``[N, 2]`` lie inside the polygon with these edges ``[E, 2]``: odd number of crossings."""
    x, y = places[:, :1], places[:, 1:]
    crosses = (start[:, 1] > y) != (start[:, 1] + step[:, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = start[:, 0] + (y - start[:, 1]) / step[:, 1] * step[:, 0]
    return (crosses & (x < at)).sum(1) % 2 == 1


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.array(counts, np.int64))])


def rings_in(segmentation: Any) -> list[array]:
    """The rings of a polygon, x and y in turn, float32; those of fewer than three points are dropped."""
    if not isinstance(segmentation, list):
        return []
    if segmentation and type(segmentation[0]) is array:  # what this function has made
        return segmentation
    return [
        ring if isinstance(ring, array) else array("f", ring)
        for ring in segmentation
        if isinstance(ring, (list, array)) and len(ring) >= 6 and len(ring) % 2 == 0
    ]


def _compress(segmentation: Mapping[str, Any], size: Size) -> bytes:
    """Run lengths as COCO's compressed string; empty if they do not fit the image."""
    counts = segmentation.get("counts")
    given = segmentation.get("size") or size
    if counts is None or tuple(given) != tuple(size):
        return b""
    if isinstance(counts, (list, tuple)):
        if sum(counts) != size[0] * size[1]:
            return b""
        counts = rle.frPyObjects({"size": list(size), "counts": list(counts)}, *size)["counts"]
    return counts.encode() if isinstance(counts, str) else bytes(counts)
