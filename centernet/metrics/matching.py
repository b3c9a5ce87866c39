"""Which detection is which object: COCO's greedy matching at one overlap, kept row by row for a look at the errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from centernet.metrics.rows import Columns

RECALLS = np.linspace(0, 1, 101)
MOST = 100  # detections of an image and class that count


@dataclass
class Matches:
    """Detections ``[R]`` and truth ``[T]`` of a data set, matched at one overlap.

    ``truth_of [R]``: the row of truth that a detection found, -1 for none. ``ignored [R]``: it counts neither way,
    because it covers a crowd region or is below the best 100 of its image and class. ``found [T]``: whether an object
    was found. ``own [R]``, ``other [R]``: the largest overlap with an object of its class and of any other class, 0
    without one; ``own_row``, ``other_row``: the rows of these objects, -1 without one.
    """

    truth_of: np.ndarray
    ignored: np.ndarray
    found: np.ndarray
    own: np.ndarray
    own_row: np.ndarray
    other: np.ndarray
    other_row: np.ndarray


def match(found: Columns, truth: Columns, overlap: float = 0.5) -> Matches:
    """Match detections to truth as COCO does: in each image and class by falling score, each to the object not found
    before that it overlaps most, by at least ``overlap``; if there is none, to a crowd region.

    ``found`` and ``truth``: columns of ``ImageMetric.collected``; ``boxes [., 4]`` in image pixels.
    """
    count = len(found["scores"])
    crowd = truth["crowd"] > 0
    matches = Matches(
        truth_of=np.full(count, -1),
        ignored=np.zeros(count, bool),
        found=np.zeros(len(crowd), bool),
        own=np.zeros(count),
        own_row=np.full(count, -1),
        other=np.zeros(count),
        other_row=np.full(count, -1),
    )
    order = np.lexsort((-found["scores"], found["image"]))
    rows_of_truth = _by_image(truth["image"], np.arange(len(crowd)))
    for image, rows in _by_image(found["image"], order).items():
        targets = rows_of_truth.get(image, np.zeros(0, np.int64))
        _match_image(matches, found, truth, rows, targets, crowd, overlap)
    return matches


def _by_image(image: np.ndarray, order: np.ndarray) -> dict[int, np.ndarray]:
    """The rows of each image, in this order of all rows."""
    order = order[np.argsort(image[order], kind="stable")]
    if not len(order):
        return {}
    images, first = np.unique(image[order], return_index=True)
    return dict(zip(images.tolist(), np.split(order, first[1:]), strict=True))


def _match_image(
    matches: Matches, found: Columns, truth: Columns, rows: np.ndarray, targets: np.ndarray, crowd: np.ndarray,
    overlap: float,
) -> None:  # fmt: skip
    is_crowd = crowd[targets]
    ratios = overlaps(found["boxes"][rows], truth["boxes"][targets], is_crowd)
    labels, target_labels = found["labels"][rows], truth["labels"][targets]
    same = labels[:, None] == target_labels
    anything = same | (target_labels < 0)  # a region ignored for every class
    for mask, value, place in (
        (same & ~is_crowd, matches.own, matches.own_row),
        (~anything & ~is_crowd, matches.other, matches.other_row),
    ):
        if len(targets):
            masked = np.where(mask, ratios, 0.0)
            best = masked.argmax(1)
            value[rows] = masked[np.arange(len(rows)), best]
            place[rows] = np.where(value[rows] > 0, targets[best], -1)
    taken = np.zeros(len(targets), bool)
    seen: dict[float, int] = {}
    least = min(overlap, 1 - 1e-10)
    for n, row in enumerate(rows):
        seen[labels[n]] = seen.get(labels[n], 0) + 1
        if seen[labels[n]] > MOST:
            matches.ignored[row] = True
            continue
        free = np.where(same[n] & ~is_crowd & ~taken & (ratios[n] >= least), ratios[n], -1.0)
        if len(free) and free.max() >= 0:
            best = len(free) - 1 - free[::-1].argmax()  # of equal overlaps COCO takes the last
            taken[best], matches.truth_of[row], matches.found[targets[best]] = True, targets[best], True
        else:
            matches.ignored[row] = bool((anything[n] & is_crowd & (ratios[n] >= least)).any())


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union ``[N, M]``; over the area of the detection where the other is a ``crowd`` ``[M]``."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    area, other = ((each[:, 2:] - each[:, :2]).clip(min=0).prod(-1) for each in (boxes, others))
    whole = np.where(crowd, area[:, None], area[:, None] + other - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def curve(scores: np.ndarray, is_true: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall ``[R]`` after each detection by falling score (``scores``, ``is_true [R]``)."""
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(is_true[order])
    return true / np.arange(1, len(order) + 1), true / max(objects, 1)


def average_precision(scores: np.ndarray, is_true: np.ndarray, objects: int) -> float:
    """COCO's AP at one overlap: the mean of the largest precision at or beyond 101 recalls; NaN without objects."""
    if not objects:
        return float("nan")
    precision, recall = curve(scores, is_true, objects)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.where(place < len(envelope), np.append(envelope, 0)[np.minimum(place, len(envelope))], 0).mean())
