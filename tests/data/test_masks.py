"""Boxes from masks: the visible part of drawn polygons against a pixel count; polygons, run lengths and neither."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from centernet.data.coco import CocoDataModule, CocoDataset
from centernet.data.datamodule import collate
from centernet.data.masks import Masks, visible_polygon_box
from centernet.data.transforms import train_pipeline, trim_objects
from centernet.fields import move
from centernet.ops.affine import flip_matrix, place_matrix
from tests.tiny import make_coco, make_objects

IMAGE, SIZE = (90, 120), (64, 80)
# A window around the middle, enlarged and stretched; mirrored; turned.
MATRICES = {
    "cropped": place_matrix((60, 45), (40, 32), (1.7, 1.2)),
    "mirrored": place_matrix((70, 45), (30, 40), (1.1, 1.6)) @ flip_matrix(IMAGE[1]),
    "turned": place_matrix((60, 45), (40, 32), (1.4, 1.2), rotation=25),
    "shrunk": place_matrix((60, 45), (40, 32), (0.3, 0.4)),
}


def star(x: float, y: float, radius: float, corners: int = 5, turn: float = 0.3) -> np.ndarray:
    """A star ``[2 * corners, 2]``: concave, so that its visible part can fall into pieces."""
    angles = np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False) + turn
    radii = np.tile([radius, 0.4 * radius], corners)
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)


def counted(points: np.ndarray, size: tuple[int, int] = SIZE, fine: int = 16) -> np.ndarray | None:
    """The visible box of a polygon by drawing it, ``fine`` pixels to each input pixel, and looking where it is."""
    canvas = np.zeros((size[0] * fine, size[1] * fine), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * fine * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    y, x = canvas.nonzero()
    return None if not len(x) else np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / fine


@pytest.mark.parametrize("name", MATRICES)
@given(x=st.floats(-20, 140), y=st.floats(-20, 110), radius=st.floats(8, 70), turn=st.floats(0, 1))
def test_the_box_of_a_polygon_is_that_of_its_visible_pixels(name, x, y, radius, turn):
    matrix = MATRICES[name]
    polygon = star(x, y, radius, turn=turn)
    masks = Masks.of([[polygon.ravel().tolist()]], [IMAGE])
    ours = masks.visible_box(0, matrix, SIZE)
    wanted = counted(polygon @ matrix[:2, :2].T + matrix[:2, 2])
    if wanted is None or ours is None:
        # A tip may show less than a pixel of itself.
        assert wanted is None or (wanted[2:] - wanted[:2]).min() < 0.3
        assert ours is None or (ours[2:] - ours[:2]).min() < 0.5
    else:
        np.testing.assert_allclose(ours, wanted, atol=0.3)


def test_a_window_inside_a_polygon_is_filled_by_it():
    around = np.array([[-50, -50], [200, -50], [200, 200], [-50, 200]], float)
    assert visible_polygon_box(around, np.array([4]), SIZE).tolist() == [0, 0, 80, 64]


def test_a_hole_is_no_part_of_a_polygon():
    around = np.array([[-50, -50], [200, -50], [200, 200], [-50, 200]], float)
    hole = np.array([[-10, -10], [100, -10], [100, 40], [-10, 40]], float)
    found = visible_polygon_box(np.concatenate([around, hole]), np.array([4, 8]), SIZE)
    assert found.tolist() == [0, 40, 80, 64]


def test_pieces_of_a_concave_polygon_do_not_reach_into_corners_that_they_leave_free():
    # A hook whose bend lies outside on the left: only its lower arm shows, above it the left edge is free.
    hook = np.array([[-30, -40], [30, -40], [30, -30], [-20, -30], [-20, 40], [30, 40], [30, 50], [-30, 50]], float)
    assert visible_polygon_box(hook, np.array([8]), SIZE).tolist() == [0, 40, 30, 50]


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_say_the_same_as_the_polygon_they_were_drawn_from(name, compressed):
    for polygon in (star(60, 45, 40), star(85, 60, 28), star(20, 20, 18), star(60, 45, 4)):
        encoded = rle.merge(rle.frPyObjects([polygon.ravel().tolist()], *IMAGE))
        if compressed:
            segmentation = {"size": list(IMAGE), "counts": encoded["counts"].decode()}
        else:
            flat = rle.decode(encoded).ravel(order="F")
            ends = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [len(flat)]])
            runs = np.diff(ends).tolist()
            segmentation = {"size": list(IMAGE), "counts": [0, *runs] if flat[0] else runs}
        masks = Masks.of([segmentation, [polygon.ravel().tolist()]], [IMAGE] * 2)
        matrix = MATRICES[name]
        bitmap, exact = masks.visible_box(0, matrix, SIZE), masks.visible_box(1, matrix, SIZE)
        # A pixel of the mask is as large as the matrix makes it.
        tolerance = np.tile(np.abs(matrix[:2, :2]).sum(1), 2) + 0.5
        if bitmap is None or exact is None:
            assert all(box is None or (box[2:] - box[:2] < tolerance[:2]).any() for box in (bitmap, exact))
            continue
        assert (np.abs(bitmap - exact) <= tolerance).all()


def test_segmentations_that_are_none_or_make_no_sense_are_no_masks():
    given = [None, [], [[1, 2, 3, 4]], [[1, 2, 3]], {"counts": [5, 5], "size": [3, 3]}, {"size": [3, 3]}, "polygon"]
    masks = Masks.of(given, [IMAGE] * len(given))
    assert not any(masks.has_mask(n) for n in range(len(masks)))


def trimmed(boxes: list[list[float]], masks: Masks | None = None, crowd: list[bool] | None = None) -> list[list[float]]:
    """Boxes of an image that is its own input of 64 x 80, after trimming."""
    return trim_objects(make_objects(boxes, crowd=crowd), np.eye(3), SIZE, masks)["boxes"].tolist()


def test_a_box_that_loses_a_tenth_at_most_is_clipped_and_another_one_rebuilt_from_its_mask():
    triangle = [[60, 10, 100, 10, 100, 50]]  # within the box, its visible part ends at x = 80
    cut = [60, 10, 100, 50]
    masks = Masks.of([triangle] * 2, [IMAGE] * 2)
    assert trimmed([cut], masks) == [[60, 10, 80, 30]]
    assert trimmed([cut]) == [[60, 10, 80, 50]]  # only a box: clipped
    assert trimmed([[42, 10, 82, 50]], masks) == [[42, 10, 80, 50]]  # loses a twentieth: clipped
    assert trimmed([[10, 10, 50, 50]], masks) == [[10, 10, 50, 50]]  # whole: as it was
    assert trimmed([cut, cut], Masks.of([None, triangle], [IMAGE] * 2)) == [[60, 10, 80, 50], [60, 10, 80, 30]]


def test_a_box_with_nothing_of_its_mask_in_sight_is_dropped():
    assert trimmed([[60, 10, 100, 50]], Masks.of([[[90, 10, 100, 10, 100, 50]]], [IMAGE])) == []
    assert trimmed([[85, 10, 100, 50]]) == []


def test_an_object_stays_if_two_cells_or_half_of_it_remain_and_a_crowd_region_whatever_remains():
    sliver, small_half, large = [-99, -99, 2, 2], [-3, -3, 4, 4], [-50, -50, 10, 6]
    assert trimmed([sliver, small_half, large]) == [[0, 0, 4, 4], [0, 0, 10, 6]]
    assert trimmed([sliver], crowd=[True]) == [[0, 0, 2, 2]]


def test_a_turned_box_becomes_tight_again():
    disc = star(60, 45, 20, corners=40)
    matrix = place_matrix((60, 45), (40, 32), (1, 1), rotation=45)
    objects = move(make_objects([[40, 25, 80, 65]]), torch.from_numpy(matrix))
    loose = trim_objects(objects, matrix, SIZE)["boxes"][0]
    tight = trim_objects(objects, matrix, SIZE, Masks.of([[disc.ravel().tolist()]], [IMAGE]))["boxes"][0]
    assert (loose[2] - loose[0]).item() == pytest.approx(56.6, abs=0.1)
    assert tight.tolist() == pytest.approx([20, 12, 60, 52], abs=0.5)


ANNOTATIONS = [
    {"image_id": 1, "bbox": [4, 4, 40, 30], "segmentation": [[4, 4, 44, 4, 44, 34]]},
    {"image_id": 1, "bbox": [0, 0, 20, 48], "iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [0, 960, 2112]}},
    {"image_id": 2, "bbox": [10, 10, 30, 20]},
]


def test_images_with_and_without_masks_go_into_one_batch(tmp_path):
    path, images = make_coco(tmp_path, ANNOTATIONS, images=[{"id": 1}, {"id": 2}, {"id": 3}])
    dataset = CocoDataset(path, images, train_pipeline((32, 32), "stretch"), train=True, masks=True)
    assert [dataset.masks.has_mask(n) for n in range(3)] == [True, True, False]
    dataset.visible_boxes = True
    for _ in range(20):
        batch = collate([dataset[n] for n in range(3)])
        boxes = batch["objects"]["boxes"][batch["objects"]["valid"]]
        assert ((boxes >= 0) & (boxes <= 32)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_masks_belong_to_their_objects_whatever_the_order_of_the_annotations(tmp_path):
    path, images = make_coco(tmp_path, ANNOTATIONS[::-1])
    dataset = CocoDataset(path, images, train_pipeline((48, 64), None), train=True, masks=True)
    of_image = {
        bool(crowd): dataset.masks.visible_box(n, np.eye(3), (48, 64))
        for n, crowd in enumerate(dataset.fields["crowd"][:2])
    }
    assert of_image[False].tolist() == [4, 4, 44, 34]
    assert of_image[True].tolist() == [0, 0, 20, 48]


def test_masks_are_kept_only_when_the_augmentation_asks_for_them(tmp_path):
    for split in ("train", "val"):
        make_coco(tmp_path, ANNOTATIONS, split=split)
    for options in ({}, {"mosaic": 0.5, "mixup": 0.5}, {"visible_boxes": True}, {"copy_paste": 0.5}):
        data = CocoDataModule(tmp_path, resolution=(32, 32), augment={"warp": "crop", **options})
        data.setup("fit")
        asked = "visible_boxes" in options or "copy_paste" in options
        assert (data.datasets["train"].masks is not None) == asked
        assert data.datasets["val"].masks is None
