"""shapes: real COCO files, the same from the same seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from centernet.data.builtin.shapes import CLASSES, ShapesDataModule, write_shapes
from centernet.data.images import read_image


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder with a checksum of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Enough scenes that the rare ones are among them."""
    return write_shapes(tmp_path_factory.mktemp("drawn") / "shapes", train=90, val=10, seed=3)


@pytest.fixture(scope="module")
def train(drawn) -> COCO:
    return COCO(str(drawn / "annotations" / "instances_train.json"))


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(drawn, tmp_path):
    assert digest(write_shapes(tmp_path / "again", train=90, val=10, seed=3)) == digest(drawn)
    other = digest(write_shapes(tmp_path / "other", train=3, val=1, seed=4))
    assert not set(other.values()) & set(digest(drawn).values())


def test_fewer_images_are_the_first_of_more(drawn, tmp_path):
    few = digest(write_shapes(tmp_path / "few", train=3, val=1, seed=3))
    many = digest(drawn)
    for name in few:
        if name.endswith(".jpg"):
            assert few[name] == many[name]


def test_validation_shows_other_scenes_than_training(drawn):
    files = digest(drawn)
    train, val = ({files[name] for name in files if name.startswith(f"{split}/")} for split in ("train", "val"))
    assert (len(train), len(val)) == (90, 10)
    assert not train & val
    ids = [
        {image["id"] for image in json.loads((drawn / "annotations" / f"instances_{split}.json").read_text())["images"]}
        for split in ("train", "val")
    ]
    assert not ids[0] & ids[1]


def test_nothing_is_drawn_twice_and_another_order_replaces_the_folder(tmp_path):
    folder = write_shapes(tmp_path / "shapes", train=3, val=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_shapes(folder, train=3, val=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    write_shapes(folder, train=2, val=1)
    assert len(list((folder / "train").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]  # no draft is left behind


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
