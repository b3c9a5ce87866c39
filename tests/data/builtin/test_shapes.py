"""shapes: real COCO files, the same from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from centernet.data.builtin.shapes import CLASSES, ShapesDataModule
from centernet.data.images import read_image


@pytest.fixture(scope="module")
def drawn(drawn_shapes) -> Path:
    return drawn_shapes


@pytest.fixture(scope="module")
def train(drawn) -> COCO:
    return COCO(str(drawn / "annotations" / "instances_train.json"))


def test_every_kind_of_scene_is_there(train):
    rows = train.dataset["annotations"]
    assert {row["category_id"] for row in rows} == set(range(1, len(CLASSES) + 1))
    crowds = [row for row in rows if row["iscrowd"]]
    empty = [image for image in train.getImgIds() if not train.getAnnIds(image)]
    assert 1 <= len(crowds) <= 20
    assert 1 <= len(empty) <= 20
    sides = np.array([row["bbox"][2:] for row in rows if not row["iscrowd"]])
    assert (sides.max(1) < 32).any()
    assert (sides.max(1) > 64).any()
    assert overlaps(train) > 5


def overlaps(truth: COCO) -> int:
    """How many pairs of objects share a part of their boxes."""
    count = 0
    for image in truth.getImgIds():
        boxes = np.array([row["bbox"] for row in truth.loadAnns(truth.getAnnIds(image))])
        for n in range(len(boxes)):
            for m in range(n):
                low = np.maximum(boxes[n, :2], boxes[m, :2])
                high = np.minimum(boxes[n, :2] + boxes[n, 2:], boxes[m, :2] + boxes[m, 2:])
                count += bool((high - low > 1).all())
    return count


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
def test_masks_boxes_areas_and_images_agree(train, drawn):
    for image in train.dataset["images"][:40]:
        pixels = read_image(drawn / "train" / image["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        for row in train.loadAnns(train.getAnnIds(image["id"])):
            mask = train.annToMask(row)
            assert mask.shape == pixels.shape[:2]
            x, y, w, h = row["bbox"]
            assert 0 <= x < x + w <= image["width"]
            assert 0 <= y < y + h <= image["height"]
            ys, xs = mask.nonzero()
            found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            np.testing.assert_allclose(found, [x, y, x + w, y + h], atol=2.1)
            assert mask.sum() == pytest.approx(row["area"], rel=0.2, abs=12)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_objects_stand_out_from_what_is_around_them(train, drawn):
    differences = []
    for image in train.dataset["images"][:40]:
        pixels = read_image(drawn / "train" / image["file_name"]).astype(float)
        masks = [train.annToMask(row) for row in train.loadAnns(train.getAnnIds(image["id"])) if not row["iscrowd"]]
        around = np.ones(pixels.shape[:2], bool)
        for mask in masks:
            around &= mask == 0
        for mask in masks:
            differences.append(np.abs(pixels[mask > 0].mean(0) - pixels[around].mean(0)).sum())
    assert np.median(differences) > 60


def test_the_data_module_draws_on_first_use(tmp_path):
    data = ShapesDataModule(
        root=tmp_path / "new", train_count=5, val_count=2, resolution=(64, 64), batch_size=2, num_workers=0
    )
    data.setup("fit")
    assert data.class_names == list(CLASSES)
    assert [len(data.datasets[split]) for split in ("train", "val")] == [5, 2]
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 64, 64)
