"""Suppression of overlapping detections, against cases worked by hand and against the plain algorithm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.ops.nms import decay_scores


def decayed(boxes, scores, labels=None, method="soft", **options):
    labels = [0] * len(scores) if labels is None else labels
    found = decay_scores(
        torch.tensor([boxes], dtype=torch.float64), torch.tensor([scores], dtype=torch.float64), torch.tensor([labels]),
        method, **options,
    )  # fmt: skip
    return found[0].tolist()


# Nine by nine pixels, ten with the last ones; the second is moved by five, so they share half of each: 50 of 150.
PAIR = [[0, 0, 9, 9], [5, 0, 14, 9]]


@pytest.mark.parametrize(
    ("method", "overlap", "second"),
    [
        ("none", 0.3, 0.8),
        ("plain", 0.3, 0.0),
        ("plain", 0.34, 0.8),
        ("linear", 0.3, 0.8 * 2 / 3),
        ("linear", 0.34, 0.8),
        ("soft", 0.9, 0.8 * math.exp(-(1 / 9) / 0.5)),
    ],
)
def test_of_two_boxes_that_share_a_third_the_second_is_lowered_by_the_method(method, overlap, second):
    assert decayed(PAIR, [0.9, 0.8], method=method, overlap=overlap) == pytest.approx([0.9, second])
    assert decayed(PAIR[::-1], [0.8, 0.9], method=method, overlap=overlap) == pytest.approx([second, 0.9])


def test_another_class_is_left_alone():
    assert decayed(PAIR, [0.9, 0.8], [0, 1], "plain", overlap=0.1) == [0.9, 0.8]


def test_what_is_suppressed_suppresses_nothing():
    boxes = [[0, 0, 9, 9], [5, 0, 14, 9], [10, 0, 19, 9]]
    assert decayed(boxes, [0.9, 0.8, 0.7], method="plain", overlap=0.3) == [0.9, 0.0, 0.7]


def test_a_score_that_falls_below_the_least_is_no_detection():
    assert decayed(PAIR, [0.9, 0.01], least=0.009) == [0.9, 0.0]
    assert decayed(PAIR, [0.9, 0.01], least=0.001)[1] > 0.007


def test_images_of_a_batch_do_not_see_each_other():
    boxes = torch.tensor([PAIR, [PAIR[1], [50, 50, 60, 60]]], dtype=torch.float32)
    scores, labels = torch.tensor([[0.9, 0.8], [0.7, 0.6]]), torch.zeros(2, 2, dtype=torch.long)
    found = decay_scores(boxes, scores, labels, "plain", overlap=0.3)
    assert found.tolist() == [pytest.approx([0.9, 0.0]), pytest.approx([0.7, 0.6])]
    assert scores[0, 1] == pytest.approx(0.8)  # what was given is left as it is
    assert decay_scores(boxes[:, :0], scores[:, :0], labels[:, :0]).shape == (2, 0)


def one_by_one(boxes, scores, labels, method, overlap, sigma, least):
    """The algorithm as its paper prints it, a box at a time."""
    scores, left = list(scores), set(range(len(scores)))
    while left:
        best = max(left, key=lambda n: (scores[n], -n))
        left.remove(best)
        for n in sorted(left):
            a, b = boxes[best], boxes[n]
            width = min(a[2], b[2]) - max(a[0], b[0]) + 1
            height = min(a[3], b[3]) - max(a[1], b[1]) + 1
            if labels[n] != labels[best] or width <= 0 or height <= 0:
                continue
            areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
            o = width * height / (sum(areas) - width * height)
            weight = {
                "plain": float(o <= overlap),
                "linear": 1 - o if o > overlap else 1.0,
                "soft": math.exp(-o * o / sigma),
            }[method]
            scores[n] *= weight
            if scores[n] < least:
                scores[n] = 0.0
                left.remove(n)
    return scores


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 14), st.sampled_from(["plain", "linear", "soft"]))
def test_all_at_once_is_one_by_one(seed, count, method):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (count, 2)).astype(float)
    boxes = np.concatenate([corner, corner + rng.integers(0, 25, (count, 2))], 1).tolist()
    scores, labels = rng.permutation(np.linspace(0.02, 0.98, count)).tolist(), rng.integers(0, 2, count).tolist()
    options = {"overlap": 0.3, "sigma": 0.5, "least": 0.01}
    wanted = one_by_one(boxes, scores, labels, method, **options)
    assert decayed(boxes, scores, labels, method, **options) == pytest.approx(wanted, abs=1e-12)
