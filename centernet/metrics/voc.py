"""Pascal VOC's average precision: at one overlap, with difficult objects left out.

Everingham et al., IJCV 2010, Sec. 4.2: precision at eleven recalls (VOC2007); devkit of VOC2010: the area under the
curve. Tested against numbers of the Python evaluation that CenterNet's authors used (``tests/reference``).

Convention: boxes are corners of pixels, so that overlaps are those of boxes that include their last pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from centernet.metrics.matching import overlaps
from centernet.metrics.rows import Columns

RECALLS = np.arange(0.0, 1.1, 0.1)  # with the rounding errors of VOC's


class VocCurve(NamedTuple):
    """Precision and recall ``[R]`` of a class by falling score, and its number of objects, difficult ones left out."""

    precision: np.ndarray
    recall: np.ndarray
    objects: int


def voc_curve(found: Columns, truth: Columns, label: int, overlap: float = 0.5) -> VocCurve:
    """The curve of one class. ``found`` and ``truth``: columns of ``ImageMetric.collected``, ``truth`` with
    ``difficult``.

    By falling score, each detection is compared with the object of its class that it overlaps most. It is right if they
    overlap by more than ``overlap`` and no detection before was; it does not count if the object is difficult.
    """
    rows = np.flatnonzero(found["labels"] == label)
    rows = rows[np.argsort(-found["scores"][rows], kind="stable")]
    targets = np.flatnonzero(truth["labels"] == label)
    targets = targets[np.argsort(truth["image"][targets], kind="stable")]
    first, last = (np.searchsorted(truth["image"][targets], found["image"][rows], side) for side in ("left", "right"))
    difficult = truth["difficult"][targets] > 0
    taken = np.zeros(len(targets), bool)
    is_true, counts = np.zeros(len(rows), bool), np.ones(len(rows), bool)
    for n, (row, start, end) in enumerate(zip(rows, first, last, strict=True)):
        if start == end:
            continue
        objects = targets[start:end]
        ratios = overlaps(found["boxes"][row : row + 1], truth["boxes"][objects], np.zeros(end - start, bool))[0]
        best = int(ratios.argmax())
        if ratios[best] > overlap:
            counts[n] = not difficult[start + best]
            is_true[n] = counts[n] and not taken[start + best]
            taken[start + best] |= is_true[n]
    right, wrong = np.cumsum(is_true), np.cumsum(counts & ~is_true)
    objects = int((~difficult).sum())
    return VocCurve(right / np.maximum(right + wrong, 1), right / max(objects, 1), objects)


def eleven_points(curve: VocCurve) -> float:
    """The mean of the largest precision at or beyond the recalls 0, 0.1, ..., 1 (VOC2007); NaN without objects."""
    if not curve.objects:
        return float("nan")
    best = [curve.precision[curve.recall >= recall].max(initial=0.0) for recall in RECALLS]
    return float(np.mean(best))


def area_under(curve: VocCurve) -> float:
    """The area under the largest precision at or beyond each recall (VOC2010 and later); NaN without objects."""
    if not curve.objects:
        return float("nan")
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float((np.diff(curve.recall, prepend=0.0) * envelope).sum())
