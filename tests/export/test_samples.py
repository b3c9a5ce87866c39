"""Images as inputs: in the batches that a graph takes, and in small ones for the ranges of 8 bits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from centernet.export.elsewhere import next_steps
from centernet.export.graph import Shape
from centernet.export.samples import Samples
from tests.tiny import make_image


def sizes(samples: Samples, most: int | None = None) -> list[int]:
    return [len(batch) for batch in samples.batches(most)]


def test_a_free_batch_is_seen_alone_and_in_any_number_unless_there_is_a_limit():
    samples = Samples([make_image(20, 30, seed=n) for n in range(8)], Shape(1, (32, 32)), "fit", 4)
    assert sizes(samples) == [1, 7]
    assert sizes(samples, 3) == [1, 3, 3, 1]
    assert sizes(samples, 1) == [1] * 8
    assert np.array_equal(np.concatenate(list(samples.batches(3))), np.concatenate(list(samples.inputs())))


def test_a_fixed_batch_stays_what_it_is():
    samples = Samples([make_image(20, 30)] * 5, Shape(2, (32, 32), dynamic="none"), "fit", 4)
    assert sizes(samples) == sizes(samples, 8) == [2, 2, 2]


def test_images_of_16_bits_are_read_as_in_a_prediction(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((32, 32), 4000, np.uint16))
    (found,) = Samples([Path(tmp_path / "deep.png")], Shape(1, (32, 32)), "fit", 4, bit_depth=12).inputs()
    assert found.max() == round(4000 * 255 / 4095)


@pytest.mark.parametrize(("precision", "word"), [("fp32", "precision.FLOAT32"), ("fp16", "precision.FLOAT16")])
def test_core_ml_is_told_the_precision(precision, word):
    assert word in next_steps("coreml", Path("a.pt2"), Shape(1, (32, 32)), precision, 32)


def test_a_path_with_a_space_can_be_pasted():
    assert "'--onnx=my model.onnx'" in next_steps("tensorrt", Path("my model.onnx"), Shape(1, (32, 32)), "fp32", 32)
