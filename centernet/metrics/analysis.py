"""What goes wrong: errors of detections by kind, and what each kind costs; thresholds, confusions, reliability.

Kinds of errors and their costs follow TIDE (Bolya et al., 2020, arXiv:2008.08115, Sec. 2), at an overlap of 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from centernet.metrics.matching import Matches, average_precision, curve, match, overlaps
from centernet.metrics.rows import Columns, ImageMetric

OVERLAP, BACKGROUND = 0.5, 0.1
"""Overlaps from which a detection counts as on an object, and up to which it counts as on none."""
THRESHOLDS = np.linspace(0, 1, 101)
BINS = 10  # of scores, for reliability
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # pixels, as in COCO
CROWDING = {"alone": (0, 1e-9), "touching": (1e-9, 0.3), "crowded": (0.3, np.inf)}
"""Groups of objects by their largest overlap with another object of the image."""

KINDS = {
    "class": "right place, wrong class",
    "location": "right class, box too far off",
    "both": "wrong class, and box too far off",
    "duplicate": "the object was found by a better detection",
    "background": "no object there",
    "missed": "objects that no detection is near",
}


class BoxRows(ImageMetric):
    """The boxes of detections and truth of a data set, of any task; ``collected`` returns them."""

    def __init__(self) -> None:
        super().__init__({"boxes": 4, "scores": 1, "labels": 1}, {"boxes": 4, "labels": 1, "crowd": 1, "area": 1})

    def compute(self) -> dict[str, Any]:
        """All rows: image ids, detections, truth."""
        return dict(zip(("images", "found", "truth"), self.collected(), strict=True))


class Errors(NamedTuple):
    """The kind of each detection, and which objects were missed."""

    kinds: np.ndarray  # [R] names of KINDS, "" for a true or ignored detection
    missed: np.ndarray  # bool [T]


def analyze(images: np.ndarray, found: Columns, truth: Columns, class_names: Sequence[str]) -> dict[str, Any]:
    """All numbers about the errors of ``found``, as plain data.

    Arguments as ``ImageMetric.collected`` returns them. Keys: ``AP50`` (as the metric's), ``classes`` (of each: AP50,
    objects, best threshold with precision, recall and F1 there), ``best`` (the same for all classes together),
    ``errors`` (of each kind: count, cost in AP50), ``confusion``, ``reliability``, ``groups`` (recall by size and by
    crowding).
    """
    matches = match(found, truth, OVERLAP)
    errors = kinds_of(found, truth, matches)
    counted = truth["crowd"] == 0
    return {
        "images": len(images),
        "AP50": mean_ap(found["scores"], matches.truth_of >= 0, found["labels"], ~matches.ignored, truth, class_names),
        "best": best_threshold(found, matches, int(counted.sum())),
        "classes": {name: _of_class(found, truth, matches, label) for label, name in enumerate(class_names)},
        "errors": costs(found, truth, matches, errors, class_names),
        "confusion": confusion(found, truth, len(class_names), best_threshold(found, matches, int(counted.sum()))),
        "reliability": reliability(found, matches),
        "groups": {
            **_recall_by(SIZES, truth["area"], truth, matches),
            **_recall_by(CROWDING, crowding(truth), truth, matches),
        },
    }


def kinds_of(found: Columns, truth: Columns, matches: Matches) -> Errors:
    """The kind of error of each detection that neither found an object nor is ignored, and the missed objects: those
    that were not found, nor lie under a detection with an error of class or location."""
    wrong = (matches.truth_of < 0) & ~matches.ignored
    tests = (
        ("background", np.maximum(matches.own, matches.other) <= BACKGROUND),
        ("location", (matches.own >= BACKGROUND) & (matches.own < OVERLAP)),
        ("class", matches.other >= OVERLAP),
        ("duplicate", matches.own >= OVERLAP),
        ("both", np.ones(len(wrong), bool)),
    )
    kinds = np.full(len(wrong), "", dtype="U10")
    for kind, holds in tests:
        kinds[wrong & (kinds == "") & holds] = kind
    near = np.zeros(len(matches.found), bool)
    near[matches.own_row[kinds == "location"]] = True
    near[matches.other_row[kinds == "class"]] = True
    return Errors(kinds, (truth["crowd"] == 0) & ~matches.found & ~near)


def mean_ap(
    scores: np.ndarray, is_true: np.ndarray, labels: np.ndarray, kept: np.ndarray, truth: Columns,
    class_names: Sequence[str], without: np.ndarray | None = None,
) -> float:  # fmt: skip
    """AP at one overlap, mean of the classes with objects; of the detections that are ``kept``, and of truth without
    the objects ``without`` (bool ``[T]``)."""
    counts = (truth["crowd"] == 0) if without is None else (truth["crowd"] == 0) & ~without
    values = []
    for label in range(len(class_names)):
        rows = kept & (labels == label)
        values.append(average_precision(scores[rows], is_true[rows], int((counts & (truth["labels"] == label)).sum())))
    defined = [value for value in values if value == value]
    return float(np.mean(defined)) if defined else float("nan")


def costs(
    found: Columns, truth: Columns, matches: Matches, errors: Errors, class_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Of each kind of error: how many, and how much AP50 would rise without them. An error of class or location is
    corrected if it is the most confident one of both kinds at an object that no detection found, and removed
    otherwise; the other kinds are removed; missed objects are left out of the truth."""
    plain = (found["scores"], matches.truth_of >= 0, found["labels"], ~matches.ignored)
    before = mean_ap(*plain, truth, class_names)
    result = {}
    for kind, about in KINDS.items():
        if kind == "missed":
            after, count = mean_ap(*plain, truth, class_names, errors.missed), int(errors.missed.sum())
        else:
            count = int((errors.kinds == kind).sum())
            after = mean_ap(*_without(kind, plain, found, truth, matches, errors), truth, class_names)
        result[kind] = {"count": count, "cost": float(np.nan_to_num(after - before)), "about": about}
    return result


def _without(
    kind: str, plain: tuple[np.ndarray, ...], found: Columns, truth: Columns, matches: Matches, errors: Errors
) -> tuple[np.ndarray, ...]:
    """``plain`` with the errors of a kind corrected or removed."""
    scores, is_true, labels, kept = (each.copy() for each in plain)
    rows, target = errors.kinds == kind, _at(matches, errors)
    kept[rows] = False
    fixed = rows & _firsts(found["scores"], matches, target)
    is_true[fixed] = kept[fixed] = True
    labels[fixed] = truth["labels"][target[fixed]]
    return scores, is_true, labels, kept


def _at(matches: Matches, errors: Errors) -> np.ndarray:
    """The object ``[R]`` at which a detection with an error of class or location is, -1 for other detections."""
    on_own, on_other = errors.kinds == "location", errors.kinds == "class"
    return np.select([on_own, on_other], [matches.own_row, matches.other_row], -1)


def _firsts(scores: np.ndarray, matches: Matches, target: np.ndarray) -> np.ndarray:
    """Which detections ``[R]`` are the most confident ones at an object ``target [R]`` that none has found."""
    rows = np.flatnonzero(target >= 0)
    rows = rows[~matches.found[target[rows]]]
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    result = np.zeros(len(scores), bool)
    result[rows[np.unique(target[rows], return_index=True)[1]]] = True
    return result


def best_threshold(found: Columns, matches: Matches, objects: int, rows: np.ndarray | None = None) -> dict[str, float]:
    """The score threshold with the largest F1, with precision and recall there."""
    kept = ~matches.ignored if rows is None else ~matches.ignored & rows
    scores, is_true = found["scores"][kept], matches.truth_of[kept] >= 0
    if not objects or not len(scores):
        return {"threshold": 1.0, "precision": float("nan"), "recall": float("nan"), "F1": float("nan")}
    precision, recall = curve(scores, is_true, objects)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    ordered = np.sort(scores)[::-1]
    # Equal scores pass a threshold together.
    f1[:-1][ordered[:-1] == ordered[1:]] = -1
    best = int(f1.argmax())
    values = {"threshold": ordered[best], "precision": precision[best], "recall": recall[best], "F1": f1[best]}
    return {name: float(value) for name, value in values.items()}


def _of_class(found: Columns, truth: Columns, matches: Matches, label: int) -> dict[str, float]:
    rows, objects = found["labels"] == label, int(((truth["crowd"] == 0) & (truth["labels"] == label)).sum())
    kept = rows & ~matches.ignored
    ap = average_precision(found["scores"][kept], matches.truth_of[kept] >= 0, objects)
    return {"objects": objects, "AP50": ap, **best_threshold(found, matches, objects, rows)}


def curves_of(found: Columns, truth: Columns, matches: Matches, label: int) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of one class over its scores, all ``[R]`` by falling score."""
    rows = (found["labels"] == label) & ~matches.ignored
    objects = int(((truth["crowd"] == 0) & (truth["labels"] == label)).sum())
    precision, recall = curve(found["scores"][rows], matches.truth_of[rows] >= 0, objects)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {"score": np.sort(found["scores"][rows])[::-1], "precision": precision, "recall": recall, "F1": f1}


def confusion(found: Columns, truth: Columns, classes: int, best: dict[str, float]) -> dict[str, Any]:
    """Counts ``[classes + 1, classes + 1]``: rows are true classes, columns found ones; the last row stands for no
    object, the last column for nothing found. Detections from the best threshold on, matched whatever their class, by
    falling overlap."""
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    kept = found["scores"] >= best["threshold"]
    objects = truth["crowd"] == 0
    for image in np.unique(np.concatenate([found["image"][kept], truth["image"]])):
        rows, targets = (
            np.flatnonzero(mask & (side["image"] == image)) for mask, side in ((kept, found), (objects, truth))
        )
        regions = np.flatnonzero(~objects & (truth["image"] == image))
        ratios = overlaps(found["boxes"][rows], truth["boxes"][targets], np.zeros(len(targets), bool))
        left, open_ = set(range(len(rows))), set(range(len(targets)))
        for n, m in zip(*np.unravel_index(np.argsort(-ratios, axis=None, kind="stable"), ratios.shape), strict=True):
            if ratios[n, m] < OVERLAP:
                break
            if n in left and m in open_:
                left.remove(n)
                open_.remove(m)
                counts[int(truth["labels"][targets[m]]), int(found["labels"][rows[n]])] += 1
        covered = overlaps(found["boxes"][rows], truth["boxes"][regions], np.ones(len(regions), bool)) >= OVERLAP
        for n in left:
            if not covered[n].any():
                counts[classes, int(found["labels"][rows[n]])] += 1
        for m in open_:
            counts[int(truth["labels"][targets[m]]), classes] += 1
    return {"threshold": best["threshold"], "counts": counts.tolist()}


def reliability(found: Columns, matches: Matches) -> dict[str, Any]:
    """In ten bins of the score: how many detections, their mean score, and the share that is right; and the expected
    reliability error, the mean difference of both, weighted by the counts."""
    kept = ~matches.ignored
    scores, is_true = found["scores"][kept], matches.truth_of[kept] >= 0
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    means = [
        np.bincount(place, each, minlength=BINS) / np.maximum(count, 1) for each in (scores, is_true.astype(float))
    ]
    error = float((count * np.abs(means[0] - means[1])).sum() / max(count.sum(), 1))
    return {"count": count.tolist(), "score": means[0].tolist(), "right": means[1].tolist(), "error": error}


def crowding(truth: Columns) -> np.ndarray:
    """The largest overlap ``[T]`` of each object with another object of its image."""
    result = np.zeros(len(truth["labels"]))
    for image in np.unique(truth["image"]):
        rows = np.flatnonzero((truth["image"] == image) & (truth["crowd"] == 0))
        ratios = overlaps(truth["boxes"][rows], truth["boxes"][rows], np.zeros(len(rows), bool))
        np.fill_diagonal(ratios, 0)
        if len(rows) > 1:
            result[rows] = ratios.max(1)
    return result


def _recall_by(
    groups: dict[str, tuple[float, float]], value: np.ndarray, truth: Columns, matches: Matches
) -> dict[str, dict[str, float]]:
    result = {}
    for name, (low, high) in groups.items():
        rows = (truth["crowd"] == 0) & (value >= low) & (value < high)
        recall = float(matches.found[rows].mean()) if rows.any() else float("nan")
        result[name] = {"objects": int(rows.sum()), "recall": recall}
    return result


def worst(found: Columns, truth: Columns, matches: Matches, errors: Errors, count: int = 12) -> list[dict[str, Any]]:
    """The most confident false detections and the largest missed objects, ``count`` of each: ``kind``, ``image`` (its
    position), ``box``, ``label``, and the score."""
    wrong, missed = np.flatnonzero(errors.kinds != ""), np.flatnonzero(errors.missed)
    false = wrong[np.argsort(-found["scores"][wrong], kind="stable")][:count]
    missed = missed[np.argsort(-truth["area"][missed], kind="stable")][:count]
    return [
        *({"kind": str(errors.kinds[n]), **_row(found, n), "score": float(found["scores"][n])} for n in false),
        *({"kind": "missed", **_row(truth, n), "score": None} for n in missed),
    ]


def _row(side: Columns, n: int) -> dict[str, Any]:
    return {"image": int(side["image"][n]), "box": side["boxes"][n].tolist(), "label": int(side["labels"][n])}
