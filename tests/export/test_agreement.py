"""Comparing detections: what counts as a difference and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from centernet.errors import InputError
from centernet.export.agreement import MismatchError, compare

RNG = np.random.default_rng(0)


def some_detections(count=20, last=0.0):
    low = RNG.uniform(0, 50, (1, count, 2)).astype(np.float32)
    scores = np.linspace(0.9, 0.2, count, dtype=np.float32)[None]
    scores[:, -1] = last
    return {
        "boxes": np.concatenate([low, low + RNG.uniform(5, 50, (1, count, 2)).astype(np.float32)], -1),
        "scores": scores,
        "labels": RNG.integers(0, 3, (1, count)),
    }


def in_order(found, order):
    return {name: value[:, order] for name, value in found.items()}


def test_equal_detections_agree():
    wanted = some_detections()
    agreement = compare([(wanted, in_order(wanted, slice(None)))])
    assert (agreement.images, agreement.rows, agreement.jumps) == (1, 19, 0)
    assert agreement.largest == {"boxes": 0, "scores": 0}


def test_equal_scores_may_come_in_any_order():
    wanted = some_detections()
    wanted["scores"][:, 3:9] = 0.5
    assert compare([(wanted, in_order(wanted, [0, 1, 2, 8, 6, 7, 3, 5, 4, *range(9, 20)]))]).jumps == 0


def test_what_is_as_near_to_the_last_score_as_rounding_may_be_another():
    wanted = some_detections(last=0.2)
    wanted["scores"][:, -2] = 0.2
    found = {**wanted, "boxes": wanted["boxes"].copy()}
    found["boxes"][:, -2:] += 40
    assert compare([(wanted, found)]).rows == 18


@pytest.mark.parametrize("name", ["boxes", "scores", "labels"])
def test_another_value_is_a_mismatch(name):
    wanted = some_detections()
    found = {key: value.copy() for key, value in wanted.items()}
    found[name][0, 4] += 1
    with pytest.raises(MismatchError, match="1 of 19 detections"):
        compare([(wanted, found)])


def test_small_differences_are_reported_and_agree():
    wanted = some_detections()
    found = {**wanted, "boxes": wanted["boxes"] + np.float32(0.01)}
    agreement = compare([(wanted, found)])
    assert agreement.largest["boxes"] == pytest.approx(0.01, abs=1e-4)
    assert "largest difference of boxes: 0.01" in "\n".join(agreement.lines())


def test_names_come_before_shapes_and_shapes_before_values():
    wanted = some_detections()
    with pytest.raises(MismatchError, match="outputs are boxes, scores; PyTorch's are boxes, scores, labels"):
        compare([(wanted, {name: wanted[name][:, :3] for name in ("boxes", "scores")})])
    with pytest.raises(MismatchError, match=r"boxes has the shape \[1, 3, 4\]; PyTorch's is \[1, 20, 4\]"):
        compare([(wanted, {name: value[:, :3] + 1 for name, value in wanted.items()})])


def test_values_that_are_not_finite_are_a_mismatch():
    wanted = some_detections()
    with pytest.raises(MismatchError, match="not finite"):
        compare([(wanted, {**wanted, "boxes": wanted["boxes"] * np.float32(np.nan)})])


def test_in_eight_bits_boxes_need_only_overlap():
    wanted = some_detections()
    found = {**wanted, "boxes": wanted["boxes"] + np.float32(0.5), "scores": wanted["scores"] * np.float32(0.97)}
    with pytest.raises(MismatchError):
        compare([(wanted, found)])
    assert compare([(wanted, found)], "int8").jumps == 0
    with pytest.raises(MismatchError):
        compare([(wanted, {**found, "boxes": wanted["boxes"] + np.float32(60)})], "int8")


def test_nothing_found_agrees_with_nothing_only():
    nothing = {name: np.zeros_like(value) for name, value in some_detections().items()}
    agreement = compare([(nothing, nothing)])
    assert agreement.rows == 0
    assert "give others with --images" in agreement.lines()[1]
    with pytest.raises(MismatchError):
        compare([(nothing, some_detections())])


def test_no_images_are_no_comparison():
    with pytest.raises(InputError, match="no images to compare"):
        compare([])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_a_file_invents_is_a_mismatch(precision):
    wanted = some_detections()
    wanted["scores"][:, 8:] = 0
    found = {name: value.copy() for name, value in wanted.items()}
    found["scores"][:, 8:14] = 0.6  # boxes that PyTorch has with a score of zero
    found["boxes"][:, 8:14] += 100
    with pytest.raises(MismatchError, match="6 of 8 detections of the exported file differ from PyTorch's"):
        compare([(wanted, found)], precision)
