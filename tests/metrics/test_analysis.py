"""What goes wrong: matching equals COCO's, and every number on a case worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.metrics import analysis
from centernet.metrics.analysis import analyze, kinds_of, worst
from centernet.metrics.coco import CocoAP
from centernet.metrics.matching import average_precision, match, overlaps

NAMES = ["cat", "dog"]
BOX = (0, 0, 100, 100)


def found(*rows: tuple[float, int, tuple[float, ...]], image: int = 0) -> dict[str, np.ndarray]:
    """Detections of one image: score, label, box."""
    return {
        "boxes": np.array([row[2] for row in rows], float).reshape(-1, 4),
        "scores": np.array([row[0] for row in rows], float),
        "labels": np.array([row[1] for row in rows], float),
        "image": np.full(len(rows), image),
    }


def truth(*rows: tuple[int, tuple[float, ...]], crowd: tuple[bool, ...] = (), image: int = 0) -> dict[str, np.ndarray]:
    """Objects of one image: label, box."""
    boxes = np.array([row[1] for row in rows], float).reshape(-1, 4)
    return {
        "boxes": boxes,
        "labels": np.array([row[0] for row in rows], float),
        "crowd": np.array(crowd or [False] * len(rows), float),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(1),
        "image": np.full(len(rows), image),
    }


def kinds(detections, objects) -> tuple[list[str], list[bool]]:
    errors = kinds_of(detections, objects, match(detections, objects))
    return errors.kinds.tolist(), errors.missed.tolist()


@pytest.mark.parametrize(
    ("detection", "kind", "is_missed"),
    [
        ((0.9, 0, BOX), "", False),
        ((0.9, 0, (0, 0, 100, 40)), "location", False),
        ((0.9, 1, (0, 0, 100, 90)), "class", False),
        ((0.9, 1, (0, 0, 100, 40)), "both", True),
        ((0.9, 0, (0, 0, 100, 9)), "background", True),
        ((0.9, 0, (200, 200, 300, 300)), "background", True),
    ],
)
def test_a_detection_has_the_kind_of_error_that_its_place_and_class_say(detection, kind, is_missed):
    assert kinds(found(detection), truth((0, BOX))) == ([kind], [is_missed])


def test_a_second_detection_of_an_object_is_a_duplicate():
    assert kinds(found((0.7, 0, BOX), (0.9, 0, (0, 0, 100, 95))), truth((0, BOX))) == (["duplicate", ""], [False])


def test_what_covers_a_crowd_counts_neither_way():
    detections, objects = found((0.9, 0, (10, 10, 50, 50)), (0.8, 1, BOX)), truth((0, BOX), crowd=(True,))
    matches = match(detections, objects)
    assert matches.ignored.tolist() == [True, False]
    assert matches.truth_of.tolist() == [-1, -1]
    assert kinds(detections, objects) == (["", "background"], [False])


def test_each_kind_costs_what_correcting_it_brings():
    objects = truth((0, BOX), (0, (200, 0, 300, 100)))
    # Two objects; the better detection is beside none, the second finds one.
    detections = found((0.9, 0, (400, 400, 500, 500)), (0.8, 0, BOX))
    result = analyze(np.array([7]), detections, objects, ["cat"])
    assert result["AP50"] == pytest.approx(0.5 * 51 / 101)  # half precision up to half of the recalls, of 101
    errors = {kind: (about["count"], about["cost"]) for kind, about in result["errors"].items()}
    assert errors["background"] == (1, pytest.approx((51 - 25.5) / 101))
    assert errors["missed"] == (1, pytest.approx((0.5 * 101 - 25.5) / 101))
    assert {kind for kind, (count, _) in errors.items() if count} == {"background", "missed"}
    assert all(errors[kind] == (0, 0) for kind in ("class", "location", "both", "duplicate"))


def test_an_error_of_place_is_corrected_unless_the_object_is_found_anyway():
    objects = truth((0, BOX))
    alone = analyze(np.array([0]), found((0.9, 0, (0, 0, 100, 40))), objects, ["cat"])
    assert alone["AP50"] == 0
    assert alone["errors"]["location"]["cost"] == pytest.approx(1)
    both = analyze(np.array([0]), found((0.9, 0, (0, 0, 100, 40)), (0.5, 0, BOX)), objects, ["cat"])
    assert both["AP50"] == pytest.approx(0.5)
    assert both["errors"]["location"]["cost"] == pytest.approx(0.5)  # removed


def test_an_error_of_class_is_corrected_in_the_class_of_its_object():
    result = analyze(np.array([0]), found((0.9, 1, BOX)), truth((0, BOX)), NAMES)
    assert result["AP50"] == 0
    assert result["errors"]["class"] == {"count": 1, "cost": pytest.approx(1), "about": analysis.KINDS["class"]}


def test_the_best_threshold_has_the_largest_f1_and_equal_scores_pass_together():
    objects = truth((0, BOX), (0, (200, 0, 300, 100)))
    rows = [(0.9, 0, BOX), (0.6, 0, (200, 0, 300, 100)), (0.3, 0, (400, 0, 500, 100))]
    best = analyze(np.array([0]), found(*rows), objects, ["cat"])["best"]
    assert best == {"threshold": 0.6, "precision": 1, "recall": 1, "F1": 1}
    tied = [(0.9, 0, BOX), (0.9, 0, (400, 0, 500, 100))]
    best = analyze(np.array([0]), found(*tied), objects, ["cat"])["best"]
    assert best == pytest.approx({"threshold": 0.9, "precision": 0.5, "recall": 0.5, "F1": 0.5})
    nothing = analyze(np.array([0]), found(), objects, ["cat"])["best"]
    assert nothing["threshold"] == 1
    assert math.isnan(nothing["F1"])


def test_confusions_are_counted_by_true_and_found_class():
    objects = truth((0, BOX), (1, (200, 0, 300, 100)), (1, (400, 0, 500, 100)))
    detections = found((0.9, 0, BOX), (0.8, 0, (200, 0, 300, 100)), (0.7, 1, (0, 400, 100, 500)), (0.01, 1, BOX))
    result = analyze(np.array([0]), detections, objects, NAMES)["confusion"]
    assert result["threshold"] == 0.9  # F1 1/2; the third object is not found, so no more is gained below
    objects = analysis.confusion(detections, objects, 2, {"threshold": 0.5})["counts"]
    assert objects == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_scores_are_compared_with_how_often_they_are_right():
    detections = found((0.95, 0, BOX), (0.95, 0, (400, 0, 500, 100)), (0.25, 0, (600, 0, 700, 100)))
    result = analyze(np.array([0]), detections, truth((0, BOX)), ["cat"])["reliability"]
    assert [result["count"][n] for n in (9, 2)] == [2, 1]
    assert [result["right"][n] for n in (9, 2)] == [0.5, 0]
    assert [result["score"][n] for n in (9, 2)] == pytest.approx([0.95, 0.25])
    assert result["error"] == pytest.approx((2 * 0.45 + 0.25) / 3)


def test_recall_is_told_by_size_and_by_crowding():
    objects = truth((0, BOX), (0, (0, 0, 100, 80)), (0, (300, 0, 310, 10)), (1, (400, 0, 450, 50)))
    groups = analyze(np.array([0]), found((0.9, 0, BOX), (0.8, 0, (300, 0, 310, 10))), objects, NAMES)["groups"]
    shown = {name: (about["objects"], about["recall"]) for name, about in groups.items() if about["objects"]}
    assert shown == {"small": (1, 1.0), "medium": (2, 0.0), "large": (1, 1.0), "alone": (2, 0.5), "crowded": (2, 0.5)}


def test_the_worst_are_the_surest_false_ones_and_the_largest_missed_ones():
    objects = truth((0, BOX), (1, (400, 0, 450, 50)))
    detections = found((0.3, 0, (600, 0, 700, 100)), (0.8, 1, (800, 0, 900, 100)))
    rows = worst(
        detections, objects, (matches := match(detections, objects)), kinds_of(detections, objects, matches), 1
    )
    assert [(row["kind"], row["label"], row["score"]) for row in rows] == [("background", 1, 0.8), ("missed", 0, None)]
    assert rows[0]["box"] == [800, 0, 900, 100]


def test_overlaps_divide_by_the_detection_where_the_other_is_a_crowd():
    pair = np.array([[0, 0, 100, 50.0]]), np.array([BOX, BOX], float)
    assert overlaps(*pair, np.array([False, True])).tolist() == [[0.5, 1.0]]
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4)), np.array([False])).tolist() == [[0]]


def test_without_objects_there_is_no_average_precision():
    assert math.isnan(average_precision(np.array([0.5]), np.array([False]), 0))
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(0, 12), st.integers(0, 8))
def test_ap50_of_every_class_is_the_metric_s(seed, detections, objects):
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> torch.Tensor:
        corner = rng.integers(0, 40, (3, count, 2))
        return torch.from_numpy(np.concatenate([corner, corner + rng.integers(1, 40, (3, count, 2))], -1)).double()

    batch = {"boxes": boxes(objects), "labels": torch.from_numpy(rng.integers(0, 2, (3, objects)))}
    batch["crowd"] = torch.from_numpy(rng.random((3, objects)) < 0.2)
    batch["area"] = (batch["boxes"][..., 2:] - batch["boxes"][..., :2]).prod(-1)
    batch["valid"] = torch.from_numpy(rng.random((3, objects)) < 0.8)
    scores = torch.from_numpy(rng.permutation(np.linspace(0.01, 0.99, 3 * detections)).reshape(3, detections))
    results = {
        "boxes": boxes(detections),
        "scores": scores,
        "labels": torch.from_numpy(rng.integers(0, 2, scores.shape)),
    }
    metric, rows = CocoAP(NAMES), analysis.BoxRows()
    for each in (metric, rows):
        each.update(results, batch, torch.tensor([4, 2, 9]))
    metric.compute()
    mine = analyze(*rows.compute().values(), NAMES)
    for name in NAMES:
        wanted = metric.per_class[name]
        assert mine["classes"][name]["objects"] == wanted["objects"]
        assert mine["classes"][name]["AP50"] == pytest.approx(wanted["AP50"], abs=1e-6, nan_ok=True)
