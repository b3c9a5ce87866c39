"""KITTI's average precision in 2D, bird's eye view and 3D, and its orientation similarity, as a torchmetrics Metric.

The protocol of the benchmark's offline tool (Geiger et al., "Are we ready for autonomous driving?", CVPR 2012;
cvlibs.net), with 11 recall points as first published and with 40 (Simonelli et al., arXiv:1905.12365, Sec. 5).

For each class, kind of overlap and difficulty there are two passes. The first assigns to every ground-truth object the
best-scored detection that overlaps it; the scores of the matches are sampled at 41 recalls. The second, at each of
these thresholds, assigns the detection with the largest overlap. Both follow one rule here: object by object, in the
order of the file, the first free detection in an order of preference; all images and thresholds at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from centernet.metrics.rows import Columns, ImageMetric, hidden_note, percent, with_objects
from centernet.ops.rotated import rectangle_intersection, rectangles_of_boxes, shared_height
from centernet.structures import InputError

RECALLS = 41
KINDS = ("2d", "bev", "3d")  # of overlap
MEASURES = ("2d", "aos", "bev", "3d")
SUMMARY = ("AP", "AP_2d", "AOS", "AP_bev", "AP_3d")
PROTOCOLS = ("official", "relaxed")
PLACE = {"boxes": 4, "alpha": 1, "dimensions": 3, "location": 3, "yaw": 1}


class Difficulty(NamedTuple):
    """Limits of objects that count: minimum box height in pixels, maximum occlusion and truncation."""

    height: int
    occlusion: int
    truncation: float


DIFFICULTIES = {"easy": Difficulty(40, 0, 0.15), "moderate": Difficulty(25, 1, 0.3), "hard": Difficulty(25, 2, 0.5)}
Curves = dict[str, np.ndarray]


class KittiAP(ImageMetric):
    """AP of boxes, footprints and 3D boxes and AOS, as KITTI's offline tool computes them.

    ``overlap``: IoU that counts as a match. ``official``: more than 0.7 for a car, 0.5 for every other class;
    ``relaxed``: in bird's-eye view and 3D 0.5 for a car, 0.25 for every other class, in 2D as official. Names are
    compared without their case.

    Truth rows with ``crowd & neutral`` (Van for Car, Person_sitting for Pedestrian) count neither way; those with label
    -1 (DontCare) absorb false positives; other crowd rows are excluded. Detections with label -1 belong to a class that
    is not evaluated; as in the tool, those that are too small still take part.

    ``compute()`` returns values in 0 .. 1: first ``AP`` (mean of the next four), ``AP_2d, AOS, AP_bev, AP_3d`` (means
    over the classes of moderate, 40 recall points), then ``car_3d_moderate_R40`` and its like. NaN where the tool
    reports nothing: a class that no detection has, a class of which every detection has the location -1000 (bev, 3d),
    AOS when any detection has the alpha -10. In the means, a class without objects does not count, and one with objects
    but no detections counts as 0, so finding nothing does not raise the mean. ``per_class`` then holds ``{name: {2D,
    AOS, BEV, 3D, objects}}``, and ``curves`` the precision at the 41 recalls by ``car_3d_moderate``.
    """

    def __init__(self, class_names: Sequence[str], overlap: str = "official", **kwargs: Any) -> None:
        super().__init__(
            detection_fields={**PLACE, "scores": 1, "labels": 1},
            truth_fields={**PLACE, "labels": 1, "crowd": 1, "neutral": 1, "truncation": 1, "occlusion": 1},
            **kwargs,
        )
        if overlap not in PROTOCOLS:
            raise InputError(f"KittiAP: overlap={overlap!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
        self.class_names, self.overlap = list(class_names), overlap
        self.headline = self.plotted = SUMMARY

    def precision_over_recall(self) -> Curves:
        return {name: curve for name, curve in self.curves.items() if name.endswith("_moderate")}

    def compute(self) -> dict[str, Tensor]:
        _, found, truth = self.collected()
        self.curves = _evaluate(_by_image(found), _by_image(truth), self.class_names, self.overlap)
        values = {
            f"{name}_{points}": value
            for name, curve in self.curves.items()
            for points, value in (("R11", curve[::4].mean()), ("R40", curve[1:].mean()))
        }
        detected, rows, overlooked = set(found["labels"].tolist()), [], 0
        self.per_class = {}
        for label, name in enumerate(self.class_names):
            objects = int(((truth["crowd"] == 0) & (truth["labels"] == label)).sum())
            row = {measure: values[f"{name.lower()}_{measure}_moderate_R40"] for measure in MEASURES}
            self.per_class[name] = {measure.upper(): value for measure, value in row.items()} | {"objects": objects}
            if objects and label in detected:
                rows.append(list(row.values()))
            elif objects:
                overlooked += 1
        means = [_mean(column, overlooked) for column in np.array(rows).reshape(-1, len(MEASURES)).T]
        summary = dict(zip(SUMMARY[1:], means, strict=True))
        results = {"AP": _mean(np.array(means), 0), **summary, **values}
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in results.items()}

    def table(self, results: Mapping[str, Tensor | float]) -> str:
        """What ``compute`` returned as a table: class and measure by difficulty, in percent, for 40 and 11 points,
        without the classes that have no objects."""
        levels = "".join(f"{level:>10}" for level in DIFFICULTIES)
        lines = [f"{'':<24}{'40 recall points':^30}  {'11 recall points':^30}", f"{'AP in %':<24}{levels}  {levels}"]
        for name in with_objects(self.per_class):
            for measure in MEASURES:
                cells = {
                    points: "".join(
                        percent(float(results[f"{name.lower()}_{measure}_{level}_{points}"])) for level in DIFFICULTIES
                    )
                    for points in ("R40", "R11")
                }
                lines.append(f"{name:<18}{measure.upper():<6}{cells['R40']}  {cells['R11']}")
        return "\n".join([*lines, *filter(None, [hidden_note(self.per_class)])])


def limit_of(class_name: str, kind: str, protocol: str) -> float:
    """The overlap that a match must exceed."""
    is_car = class_name.lower() == "car"
    if protocol == "relaxed" and kind != "2d":
        return 0.5 if is_car else 0.25
    return 0.7 if is_car else 0.5


def _evaluate(found: Columns, truth: Columns, class_names: Sequence[str], protocol: str) -> Curves:
    """The precision ``[41]`` of each class, measure and difficulty; NaN where the tool reports nothing. Rows sorted by
    image."""
    # The tool cuts this to a whole number before it compares it with 40 or 25, which changes nothing.
    found = {**found, "height": np.abs(found["boxes"][:, 3] - found["boxes"][:, 1])}
    in_class = truth["labels"] >= 0
    aims = _select(truth, in_class & ((truth["crowd"] == 0) | (truth["neutral"] > 0)))
    aims["height"] = aims["boxes"][:, 3] - aims["boxes"][:, 1]
    first, second = _pairs(found["image"], aims["image"])
    tallest = max(level.height for level in DIFFICULTIES.values())
    is_near = (found["labels"][first] == aims["labels"][second]) | (found["height"][first] < tallest)
    first, second = first[is_near], second[is_near]
    overlaps = _overlaps(found, aims, first, second, over_union=True)
    regions = _select(truth, truth["labels"] == -1)
    inside, region = _pairs(found["image"], regions["image"])
    shares = _overlaps(found, regions, inside, region, over_union=False)

    curves: Curves = {}
    has_alpha = not (found["alpha"] == -10).any()
    for label, name in enumerate(class_names):
        mine = found["labels"] == label
        reported = {
            "2d": (found["boxes"][mine, 0] >= 0).any(),
            "bev": (found["location"][mine, 0] != -1000).any(),
            "3d": (found["location"][mine, 1] != -1000).any(),
        }
        of_class = np.flatnonzero(aims["labels"] == label)
        position = np.full(len(aims["labels"]), -1)
        position[of_class] = np.arange(len(of_class))
        goals = _select(aims, of_class)
        for kind in KINDS:
            limit = limit_of(name, kind, protocol)
            is_candidate = (position[second] >= 0) & (overlaps[kind] > limit)
            candidates = first[is_candidate], position[second[is_candidate]], overlaps[kind][is_candidate]
            absorbed = np.zeros(len(mine), bool)
            absorbed[inside[shares[kind] > limit]] = True
            for level, difficulty in DIFFICULTIES.items():
                nothing = np.full(RECALLS, np.nan)
                precision, similarity = nothing, nothing
                if reported[kind]:
                    precision, similarity = _curve(found, goals, mine, absorbed, candidates, difficulty)
                curves[f"{name.lower()}_{kind}_{level}"] = precision
                if kind == "2d":
                    curves[f"{name.lower()}_aos_{level}"] = similarity if has_alpha else nothing
    return curves


def _curve(
    found: Columns,
    goals: Columns,
    mine: np.ndarray,
    absorbed: np.ndarray,
    candidates: tuple[np.ndarray, np.ndarray, np.ndarray],
    difficulty: Difficulty,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and orientation similarity ``[41]`` of one class.

    ``goals``: its truth rows and neutral ones. Of the detections, ``mine`` marks those of the class, ``absorbed`` those
    in a DontCare region. ``candidates``: detection, goal, and their overlap, beyond the limit.
    """
    # Float32 has 0.3 as a little more than 0.3.
    is_easier = (goals["occlusion"] <= difficulty.occlusion) & (goals["truncation"] <= difficulty.truncation + 1e-6)
    counts = (goals["crowd"] == 0) & is_easier & (goals["height"] >= difficulty.height)
    # A small detection of any class may take a goal, and is then neither a hit nor a false positive.
    small = found["height"] < difficulty.height
    valid = mine & ~small
    detection, goal, overlap = (column[(valid | small)[candidates[0]]] for column in candidates)
    scores = found["scores"]

    by_score = np.lexsort((detection, -scores[detection], goal))
    taken = _assign(goals["image"], goal[by_score], detection[by_score], scores, np.array([-np.inf]))[:, 0]
    is_hit = counts & np.append(valid, False)[taken]
    thresholds = _sample(scores[taken[is_hit]], int(counts.sum()))

    by_overlap = np.lexsort((detection, np.where(small[detection], 0, -overlap), small[detection], goal))
    taken = _assign(goals["image"], goal[by_overlap], detection[by_overlap], scores, thresholds)
    hits = counts[:, None] & np.append(valid, False)[taken]
    angle = goals["alpha"][:, None] - np.append(found["alpha"], 0)[taken]
    could_be_false = valid & ~absorbed
    rising = np.sort(scores[could_be_false])
    false = len(rising) - np.searchsorted(rising, thresholds) - np.append(could_be_false, False)[taken].sum(0)
    # No hits and no false positives at a threshold: the tool divides 0 by 0; here it is 0 before the curve is made
    # monotone.
    total = np.maximum(hits.sum(0) + false, 1)
    curves = np.zeros((2, RECALLS))
    curves[0, : len(thresholds)] = hits.sum(0) / total
    curves[1, : len(thresholds)] = np.where(hits, (1 + np.cos(angle)) / 2, 0).sum(0) / total
    precision, similarity = np.maximum.accumulate(curves[:, ::-1], 1)[:, ::-1]
    return precision, similarity


def _assign(
    images: np.ndarray, goal: np.ndarray, detection: np.ndarray, scores: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """The detection ``[G, T]`` that each goal takes at each threshold; the number of detections where it takes none.

    ``goal`` and ``detection``: candidates, sorted by goal and then by preference. In the order of the rows each goal of
    an image takes the first candidate that reaches the threshold and is still free.
    """
    none, steps = len(scores), np.arange(len(thresholds))
    free = np.append(scores, -np.inf)[:, None] >= thresholds
    free[none] = False
    chosen = np.full((len(images), len(thresholds)), none)
    column = _places(goal)
    table = np.full((len(images), column.max(initial=-1) + 1), none)
    table[goal, column] = detection
    wanted = np.unique(goal)
    turn = _places(images[wanted])  # goals of one turn lie in different images and cannot take the same detection
    for now in range(turn.max(initial=-1) + 1):
        rows = wanted[turn == now]
        is_free = free[table[rows]]  # [n, candidates, thresholds]
        picked = np.take_along_axis(table[rows], is_free.argmax(1), 1)
        chosen[rows] = picked = np.where(is_free.any(1), picked, none)
        free[picked, steps] = False
    return chosen


def _sample(scores: np.ndarray, objects: int) -> np.ndarray:
    """Falling thresholds: of the hits' scores those that come closest to the recalls 0, 1/40 .. 1, at most 41."""
    falling, kept, recall = np.sort(scores)[::-1], [], 0.0
    for n, score in enumerate(falling):
        here, next_one = (n + 1) / objects, (n + 2) / objects
        if n < len(falling) - 1 and next_one - recall < recall - here:
            continue
        kept.append(score)
        recall += 1 / (RECALLS - 1)
    return np.array(kept)


def _overlaps(a: Columns, b: Columns, rows_a: np.ndarray, rows_b: np.ndarray, over_union: bool) -> Curves:
    """Overlap ``[P]`` of each kind for pairs of rows: intersection over union, or over the size of what is in a."""
    box_a, box_b = a["boxes"][rows_a], b["boxes"][rows_b]
    sides = np.minimum(box_a[:, 2:], box_b[:, 2:]) - np.maximum(box_a[:, :2], box_b[:, :2])
    solid_a, solid_b = _solids(a)[torch.from_numpy(rows_a)], _solids(b)[torch.from_numpy(rows_b)]
    ground = rectangle_intersection(rectangles_of_boxes(solid_a), rectangles_of_boxes(solid_b)).numpy()
    common = {
        "2d": np.where((sides > 0).all(1), sides.prod(1), 0.0),
        "bev": ground,
        "3d": ground * shared_height(solid_a, solid_b).numpy(),
    }
    sizes_a, sizes_b = _sizes(a), _sizes(b)
    overlaps = {}
    for kind, inter in common.items():
        size = sizes_a[kind][rows_a]
        total = size + sizes_b[kind][rows_b] - inter if over_union else size
        overlaps[kind] = np.divide(inter, total, out=np.zeros_like(inter), where=(inter > 0) & (total > 0))
    return overlaps


def _solids(rows: Columns) -> Tensor:
    """Boxes ``[R, 7]`` as ``ops.rotated`` wants them."""
    return torch.from_numpy(np.concatenate([rows["location"], rows["dimensions"], rows["yaw"][:, None]], 1))


def _sizes(rows: Columns) -> Curves:
    """Area in the image, area on the ground, volume; ``[R]`` each."""
    height, width, length = rows["dimensions"].T
    return {
        "2d": (rows["boxes"][:, 2:] - rows["boxes"][:, :2]).prod(1),
        "bev": np.abs(length * width),
        "3d": height * length * width,
    }


def _pairs(images_a: np.ndarray, images_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a row in a and a row in b of the same image; both are sorted by image."""
    start, end = np.searchsorted(images_b, images_a, "left"), np.searchsorted(images_b, images_a, "right")
    count = end - start
    first = np.repeat(np.arange(len(images_a)), count)
    return first, np.arange(len(first)) - np.repeat(count.cumsum() - count, count) + start[first]


def _places(groups: np.ndarray) -> np.ndarray:
    """Which one of its group each row is, counted from 0; rows of a group lie together, groups rise."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def _by_image(rows: Columns) -> Columns:
    return _select(rows, np.argsort(rows["image"], kind="stable"))


def _select(rows: Columns, keep: np.ndarray) -> Columns:
    return {name: column[keep] for name, column in rows.items()}


def _mean(values: np.ndarray, zeros: int) -> float:
    """Mean of what is a number, with so many zeros besides; NaN where there are values and none is a number."""
    known = values[~np.isnan(values)]
    count = len(known) + zeros if len(known) or not len(values) else 0
    return float(known.sum() / count) if count else float("nan")
