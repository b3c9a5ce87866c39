"""figures: real COCO keypoint files, the same from the same seed, and joints where they are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from centernet.data.builtin.figures import Canvas, FiguresDataModule, draw_figure, make_figure
from centernet.data.images import read_image
from centernet.joints import COCO_JOINTS, COCO_SKELETON, JointSet

JOINT = {name: n for n, name in enumerate(COCO_JOINTS)}


@pytest.fixture(scope="module")
def drawn(drawn_figures) -> Path:
    return drawn_figures


@pytest.fixture(scope="module")
def train(drawn) -> COCO:
    return COCO(str(drawn / "annotations" / "person_keypoints_train.json"))


@pytest.fixture(scope="module")
def people(train) -> list[dict]:
    return [row for row in train.dataset["annotations"] if not row["iscrowd"]]


def joints_of(rows: list[dict]) -> np.ndarray:
    """Joints ``[M, 17, 3]``."""
    return np.array([row["keypoints"] for row in rows], float).reshape(-1, len(COCO_JOINTS), 3)


def test_the_category_is_the_person_of_coco(train):
    (category,) = train.loadCats(train.getCatIds())
    assert category["name"] == "person"
    assert tuple(category["keypoints"]) == COCO_JOINTS
    assert [(a - 1, b - 1) for a, b in category["skeleton"]] == list(COCO_SKELETON)
    assert category["skeleton"][0] == [16, 14]  # COCO counts from 1: left ankle to left knee


def test_every_kind_of_scene_and_figure_is_there(train, people):
    images = len(train.getImgIds())
    crowds = [row for row in train.dataset["annotations"] if row["iscrowd"]]
    empty = [image for image in train.getImgIds() if not train.getAnnIds(image)]
    jointless = [row for row in people if row["num_keypoints"] == 0]
    assert 0.02 < len(crowds) / images < 0.2
    assert 0.01 < len(empty) / images < 0.15
    assert 0.03 < len(jointless) / len(people) < 0.2
    counts = np.bincount([len(train.getAnnIds(image, iscrowd=False)) for image in train.getImgIds()])
    assert (counts[1:7] > 0).sum() >= 5
    assert len(people) / images > 3
    seen = joints_of([row for row in people if row["num_keypoints"]])[..., 2]
    assert (seen == 0).mean() > 0.03
    assert (seen == 1).mean() > 0.01
    assert (seen == 2).mean() > 0.7
    heights = np.array([row["bbox"][3] for row in people if row["num_keypoints"] == len(COCO_JOINTS)])
    assert heights.max() / heights.min() > 2


def test_joints_that_are_not_labeled_are_zeros_and_the_others_are_counted(train):
    for row in train.dataset["annotations"]:
        joints = joints_of([row])[0]
        assert set(joints[:, 2]) <= {0, 1, 2}
        assert (joints[joints[:, 2] == 0] == 0).all()
        assert row["num_keypoints"] == (joints[:, 2] > 0).sum()
        if row["iscrowd"]:
            assert row["num_keypoints"] == 0


def test_joints_lie_in_their_box_and_their_image(train, people):
    for row in people:
        joints = joints_of([row])[0]
        points = joints[joints[:, 2] > 0, :2]
        x, y, w, h = row["bbox"]
        image = train.loadImgs(row["image_id"])[0]
        assert 0 <= x < x + w <= image["width"] - 1
        assert 0 <= y < y + h <= image["height"] - 1
        assert ((points >= [x, y]) & (points <= [x + w, y + h])).all()


def test_figures_face_us_so_that_their_left_is_at_the_right(people):
    joints = joints_of(people)
    for pair in JointSet.of().flip_pairs:
        left, right = joints[:, pair[0]], joints[:, pair[1]]
        both = (left[:, 2] > 0) & (right[:, 2] > 0)
        assert both.sum() > 50
        assert (left[both, 0] > right[both, 0]).mean() > 0.98, COCO_JOINTS[pair[0]]
    both = (joints[:, [JOINT["nose"], JOINT["left_hip"]], 2] > 0).all(1)
    assert (joints[both, JOINT["nose"], 1] < joints[both, JOINT["left_hip"], 1]).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
def test_masks_boxes_areas_and_images_agree(train, drawn):
    for image in train.dataset["images"][:40]:
        pixels = read_image(drawn / "train" / image["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        for row in train.loadAnns(train.getAnnIds(image["id"])):
            mask = train.annToMask(row)
            assert mask.shape == pixels.shape[:2]
            ys, xs = mask.nonzero()
            x, y, w, h = row["bbox"]
            found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            np.testing.assert_allclose(found, [x, y, x + w, y + h], atol=2.1)
            assert mask.sum() == pytest.approx(row["area"], rel=0.1, abs=12)


def test_visible_joints_are_dots_that_are_drawn_there(people, drawn, train):
    # The pupils are dark and the noses red, whoever it is; a hidden or misplaced one would not be.
    colors: dict[str, list[np.ndarray]] = {"left_eye": [], "right_eye": [], "nose": []}
    for row in people:
        if row["num_keypoints"] == 0 or row["bbox"][3] < 60:
            continue
        pixels = read_image(drawn / "train" / train.loadImgs(row["image_id"])[0]["file_name"])
        for name, found in colors.items():
            x, y, seen = joints_of([row])[0, JOINT[name]]
            if seen == 2:
                found.append(pixels[round(y), round(x)].astype(float))
    for name in ("left_eye", "right_eye"):
        assert len(colors[name]) > 50
        assert np.mean(colors[name], 0).max() < 80, name
    red, green, blue = np.mean(colors["nose"], 0)
    assert red > 180 > 110 > max(green, blue)


def test_a_figure_is_drawn_where_its_joints_are_to_a_tenth_of_a_pixel():
    # A disc of a joint alone on a canvas: its center of mass is where it was put.
    for at in ([20.0, 30.0], [20.25, 30.5], [21.4, 29.7]):
        canvas = Canvas(np.zeros((64, 64, 3), np.uint8))
        canvas.disc(np.array(at), 4.0, [255, 255, 255], 5)
        mass = canvas.image()[..., 0].astype(float)
        ys, xs = np.mgrid[:64, :64]
        middle = [(xs * mass).sum() / mass.sum(), (ys * mass).sum() / mass.sum()]
        np.testing.assert_allclose(middle, at, atol=0.1)
        assert mass.sum() / 255 == pytest.approx(np.pi * 16, rel=0.06)


def test_a_joint_is_hidden_by_what_is_drawn_over_it():
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8))
    at = np.array([20.0, 30.0])
    canvas.disc(at, 3.0, [255, 0, 0], joint=7)
    assert canvas.shows(at, 7)
    assert not canvas.shows(at, 8)
    assert not canvas.shows(at + 10, 7)
    canvas.limb(at - 20, at + 20, 2.0, [0, 255, 0])
    assert not canvas.shows(at, 7)
    assert not canvas.shows(np.array([-1.0, 30.0]), -1)


def test_the_hull_holds_every_pixel_that_is_drawn():
    for seed in range(10):
        figure = make_figure(np.random.default_rng(seed), np.array([80.0, 90.0]), 90.0)
        canvas = Canvas(np.full((160, 160, 3), 255, np.uint8))
        draw_figure(canvas, figure, first=0)
        ys, xs = (canvas.image() < 200).any(-1).nonzero()
        hull = figure.hull
        assert all(cv2.pointPolygonTest(hull, (float(x), float(y)), True) > -1.5 for x, y in zip(xs, ys, strict=True))
        found = [xs.min(), ys.min(), xs.max(), ys.max()]
        np.testing.assert_allclose([*hull.min(0), *hull.max(0)], found, atol=2.5)


def test_the_data_module_draws_on_first_use_and_hands_out_joints(tmp_path):
    data = FiguresDataModule(
        root=tmp_path / "new", train_count=5, val_count=2, resolution=(64, 64), batch_size=2, num_workers=0
    )
    data.setup("fit")
    assert data.class_names == ["person"]
    assert [len(data.datasets[split]) for split in ("train", "val")] == [5, 2]
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["objects"]["joints"].shape[2:] == (17, 3)
    assert JointSet.of(data.facts["joints"]) == JointSet.of()
    content = json.loads((data.root / "annotations" / "person_keypoints_val.json").read_text())
    written = joints_of(content["annotations"])
    np.testing.assert_allclose(data.datasets["val"].fields["joints"], written, atol=1e-4)
