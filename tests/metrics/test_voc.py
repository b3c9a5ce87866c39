"""VOC's average precision on cases that can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from centernet.fields import stack_objects
from centernet.metrics.coco import CocoAP
from centernet.metrics.voc import area_under, eleven_points, voc_curve
from tests.tiny import make_objects

BOX = [10, 10, 30, 30]


def rows(boxes: list, labels: list[int] | None = None, **fields: list) -> dict[str, np.ndarray]:
    """Rows of one class in one image, unless they say otherwise."""
    count = len(boxes)
    start = {"boxes": np.array(boxes, float).reshape(-1, 4), "labels": np.array(labels or [0] * count)}
    fields = {"image": [0] * count, "difficult": [0] * count, **fields}
    return start | {name: np.array(values) for name, values in fields.items()}


def test_the_two_means_of_one_hit_among_two_objects():
    curve = voc_curve(rows([BOX], scores=[0.9]), rows([BOX, [50, 50, 60, 60]]), 0)
    assert curve.objects == 2
    assert area_under(curve) == 0.5
    assert eleven_points(curve) == pytest.approx(6 / 11)  # recalls 0, 0.1, ..., 0.5


def test_the_second_detection_of_an_object_is_wrong():
    truth = rows([BOX, [50, 50, 70, 70]])
    curve = voc_curve(rows([BOX, BOX, [50, 50, 70, 70]], scores=[0.9, 0.8, 0.7]), truth, 0)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    assert area_under(curve) == pytest.approx((1 + 2 / 3) / 2)


def test_a_detection_of_a_difficult_object_does_not_count_however_often_it_is_found():
    truth = rows([BOX, [50, 50, 70, 70]], difficult=[1, 0])
    curve = voc_curve(rows([BOX, BOX, [50, 50, 70, 70]], scores=[0.9, 0.8, 0.7]), truth, 0)
    assert curve.objects == 1
    assert area_under(curve) == eleven_points(curve) == 1


def test_a_detection_is_compared_with_the_object_that_it_overlaps_most_difficult_or_not():
    # It would find the second object too, but lies better on the difficult one.
    truth = rows([[10, 10, 30, 30], [12, 10, 32, 30]], difficult=[1, 0])
    curve = voc_curve(rows([[10, 10, 30, 30]], scores=[0.9]), truth, 0)
    assert area_under(curve) == 0


def test_an_overlap_of_exactly_one_half_is_not_enough():
    truth = rows([[0, 0, 10, 10]])
    assert area_under(voc_curve(rows([[0, 0, 10, 5]], scores=[0.9]), truth, 0)) == 0
    assert area_under(voc_curve(rows([[0, 0, 10, 5.1]], scores=[0.9]), truth, 0)) == 1


def test_other_classes_and_other_images_do_not_matter():
    found = rows([BOX, BOX, BOX], [0, 1, 0], image=[0, 0, 1], scores=[0.9, 0.8, 0.7])
    truth = rows([BOX, BOX], [0, 0], image=[0, 1])
    assert area_under(voc_curve(found, truth, 0)) == 1
    assert math.isnan(area_under(voc_curve(found, truth, 1)))
    assert math.isnan(eleven_points(voc_curve(found, truth, 1)))


def evaluated(*, marked: bool) -> CocoAP:
    """An image with a found, a missed and a difficult object."""
    truth = make_objects([BOX, [50, 50, 70, 70], [80, 80, 90, 90]], crowd=[False, False, marked])
    if marked:
        truth["difficult"] = torch.tensor([False, False, True])
    found = {"boxes": torch.tensor([[BOX]]).double(), "scores": torch.tensor([[0.9]]), "labels": torch.tensor([[0]])}
    metric = CocoAP(["cat", "dog"])
    metric.update(found, stack_objects([truth]), torch.tensor([1]))
    return metric


def test_they_come_beside_cocos_numbers_where_truth_says_what_is_difficult():
    metric = evaluated(marked=True)
    results = metric.compute()
    assert results["VOC07_AP"] == pytest.approx(6 / 11)
    assert results["VOC_AP"] == pytest.approx(0.5)
    assert results["AP50"] == pytest.approx(51 / 101, abs=1e-4)
    assert metric.per_class["cat"]["VOC_AP"] == 0.5
    assert metric.per_class["cat"]["objects"] == 2
    assert "VOC07_AP" in metric.table({name: float(value) for name, value in results.items()})
    assert "VOC07_AP" in metric.class_table()


def test_they_are_left_out_of_other_data():
    metric = evaluated(marked=False)
    assert not {"VOC07_AP", "VOC_AP"} & metric.compute().keys()
    assert "VOC_AP" not in metric.per_class["cat"]
