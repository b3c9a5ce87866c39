"""Results: detections of an image by attribute, item, number, slice and mask; as COCO rows, drawn, saved."""

from __future__ import annotations

import io
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from centernet.data.images import read_image
from centernet.inference import Predictor
from centernet.results import Result
from centernet.structures import InputError
from tests.test_inference import NAMES, build_detector
from tests.tiny import make_image


def result(**more) -> Result:
    fields = {
        "boxes": torch.tensor([[1.0, 2, 11, 22], [30, 10, 50, 40], [5, 5, 9, 9]]),
        "scores": torch.tensor([0.9, 0.5, 0.2]),
        "labels": torch.tensor([1, 0, 1]),
    }
    return Result({**fields, **more}, ["cat", "dog"], (48, 64))


def test_fields_are_attributes_and_items():
    found = result()
    assert len(found) == 3
    assert found.names == found["names"] == ["dog", "cat", "dog"]
    assert found.boxes is found["boxes"]
    assert dict(found).keys() == {"boxes", "scores", "labels", "names"}
    assert "scores" in found
    assert "joints" not in found
    assert repr(found) == "Result(2 dog, 1 cat)"
    assert found.image_size == (48, 64)
    with pytest.raises(AttributeError, match="no 'joints'; they have boxes, scores, labels, names"):
        found.joints  # noqa: B018


@pytest.mark.parametrize(
    ("key", "scores"),
    [
        (0, [0.9]),
        (-1, [0.2]),
        (slice(1, None), [0.5, 0.2]),
        ([True, False, True], [0.9, 0.2]),
        (np.array([2, 0]), [0.2, 0.9]),
        (torch.tensor([False, False, False]), []),
    ],
)
def test_numbers_slices_and_masks_select_detections(key, scores):
    kept = result()[key]
    assert isinstance(kept, Result)
    assert kept.scores.tolist() == pytest.approx(scores)
    assert len(kept.names) == len(kept) == len(kept.boxes) == len(scores)


def test_a_mask_by_score_and_a_loop_work_as_everywhere():
    found = result()
    assert found[found.scores > 0.4].names == ["dog", "cat"]
    assert [one.names for one in found] == [["dog"], ["cat"], ["dog"]]
    with pytest.raises(IndexError, match="detection 3 of 3"):
        found[3]


def test_rows_for_coco_have_categories_from_one_and_joints():
    rows = result(joints=torch.ones(3, 2, 2)).to_coco(image_id=7)
    assert rows[0] == {
        "image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 20], "score": pytest.approx(0.9),
        "keypoints": [1, 1, 1, 1, 1, 1],
    }  # fmt: skip
    assert [row["category_id"] for row in rows] == [2, 1, 2]


def test_it_is_drawn_and_saved(tmp_path):
    image = make_image()
    drawn = result().draw(image)
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)
    assert np.array_equal(read_image(result().save(tmp_path / "new" / "a.png", Image.fromarray(image))), drawn)


def test_without_supervision_its_name_is_told_and_with_it_its_class_is_filled(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="needs the package supervision"):
        result().to_supervision()
    made = type("Module", (), {"Detections": staticmethod(lambda **given: given)})
    monkeypatch.setitem(sys.modules, "supervision", made)
    found = result().to_supervision()
    assert found["xyxy"].shape == (3, 4)
    assert found["class_id"].tolist() == [1, 0, 1]
    assert found["data"]["class_name"].tolist() == ["dog", "cat", "dog"]


def test_a_predictor_takes_bytes_and_arrays_of_opencv():
    image = make_image()
    plain, turned = (Predictor(build_detector(), NAMES, (64, 96), bgr=bgr) for bgr in (False, True))
    wanted = plain(image)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    for found in (
        plain(buffer.getvalue()),
        turned(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)),
        turned(Image.fromarray(image)),
    ):
        assert torch.equal(found.scores, wanted.scores)
    assert not torch.equal(turned(image).scores, wanted.scores)
    assert wanted.image_size == image.shape[:2]
