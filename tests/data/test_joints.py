"""Joints in COCO files: read as they are, named by the json or the config, moved with the image; messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from centernet.data.coco import CocoDataModule, CocoDataset
from centernet.data.combine import join_quadrants
from centernet.data.transforms import eval_pipeline
from centernet.joints import COCO_SKELETON
from centernet.structures import InputError
from tests.tiny import make_coco

BOX = {"image_id": 1, "bbox": [10, 8, 30, 24]}
PERSON = [{"id": 1, "name": "person", "keypoints": ["head", "left_hand", "right_hand"], "skeleton": [[1, 2], [1, 3]]}]
JOINTS = {"keypoints": [20, 10, 2, 30, 20, 1, 0, 0, 0]}


def open_dataset(tmp_path, *annotations, categories=PERSON, **options) -> CocoDataset:
    path, images = make_coco(tmp_path, annotations, categories=categories)
    return CocoDataset(path, images, eval_pipeline((48, 64)), **options)


def test_joints_their_names_and_lines_come_from_the_category(tmp_path):
    dataset = open_dataset(tmp_path, {**BOX, **JOINTS}, BOX, {**BOX, "iscrowd": 1, "keypoints": [0] * 9})
    assert dataset.joints.names == ("head", "left_hand", "right_hand")
    assert dataset.joints.flip_pairs == ((1, 2),)
    assert dataset.joints.skeleton == ((0, 1), (0, 2))
    assert dataset.objects(0)["joints"].tolist() == [
        [[20, 10, 2], [30, 20, 1], [0, 0, 0]],
        [[0] * 3] * 3,
        [[0] * 3] * 3,
    ]
    assert dataset.facts == {"joints": dataset.joints.plain()}
    sample = dataset[0]
    assert sample["objects"]["joints"][0, 1].tolist() == [30, 20, 1]
    assert sample["truth"]["joints"].dtype == torch.float32


def test_boxes_alone_have_no_joints(tmp_path):
    dataset = open_dataset(tmp_path, BOX, categories=[{"id": 1, "name": "cat"}])
    assert dataset.joints is None
    assert "joints" not in dataset.fields
    assert dataset.facts == {}


def test_a_joint_that_is_not_labeled_has_no_place_whatever_stands_there(tmp_path):
    dataset = open_dataset(tmp_path, {**BOX, "keypoints": [20, 10, 0, 30, 20, 2, 5, 5, 0]})
    assert dataset.objects(0)["joints"].tolist() == [[[0, 0, 0], [30, 20, 2], [0, 0, 0]]]


def test_seventeen_joints_without_names_are_those_of_coco(tmp_path):
    dataset = open_dataset(tmp_path, {**BOX, "keypoints": [1, 2, 2] * 17}, categories=[{"id": 1, "name": "person"}])
    assert dataset.joints.names[0] == "nose"
    assert dataset.joints.skeleton == COCO_SKELETON


def test_the_config_names_joints_that_the_json_does_not(tmp_path):
    joints = {"names": ["a", "b"], "flip_pairs": [["a", "b"]], "sigmas": [0.1, 0.2], "skeleton": [["a", "b"]]}
    category = [{"id": 1, "name": "thing"}]
    dataset = open_dataset(tmp_path, {**BOX, "keypoints": [20, 10, 2, 30, 20, 1]}, categories=category, joints=joints)
    assert dataset.joints.plain() == {
        "names": ["a", "b"], "flip_pairs": [[0, 1]], "sigmas": [0.1, 0.2], "skeleton": [[0, 1]],
    }  # fmt: skip


def test_the_config_replaces_pairs_and_tolerances_of_the_json(tmp_path):
    joints = {"flip_pairs": [["head", "left_hand"]], "sigmas": [0.1, 0.1, 0.1]}
    dataset = open_dataset(tmp_path, {**BOX, **JOINTS}, joints=joints)
    assert dataset.joints.flip_pairs == ((0, 1),)
    assert dataset.joints.sigmas == (0.1,) * 3
    assert dataset.joints.skeleton == ((0, 1), (0, 2))


def test_classes_with_different_joints_share_the_union_of_them(tmp_path):
    categories = [*PERSON, {"id": 2, "name": "snake", "keypoints": ["tail", "head"]}, {"id": 3, "name": "stone"}]
    rows = [{**BOX, **JOINTS}, {**BOX, "category_id": 2, "keypoints": [5, 6, 2, 7, 8, 1]}, {**BOX, "category_id": 3}]
    dataset = open_dataset(tmp_path, *rows, categories=categories)
    assert dataset.joints.names == ("head", "left_hand", "right_hand", "tail")
    person, snake, stone = dataset.objects(0)["joints"].tolist()
    assert person == [[20, 10, 2], [30, 20, 1], [0, 0, 0], [0, 0, -1]]
    assert snake == [[7, 8, 1], [0, 0, -1], [0, 0, -1], [5, 6, 2]]
    assert stone == [[0, 0, -1]] * 4  # it has no joints at all
    found = {
        "boxes": torch.tensor([[0.0, 0, 9, 9]] * 2),
        "scores": torch.tensor([0.9, 0.8]),
        "labels": torch.tensor([0, 1]),
        "joints": torch.arange(16.0).view(2, 4, 2),
    }
    person, snake = (row["keypoints"] for row in dataset.result_rows(1, found))
    assert person == [0, 1, 1, 2, 3, 1, 4, 5, 1]
    assert snake == [14, 15, 1, 8, 9, 1]  # tail, head


def test_joints_are_mirrored_with_the_image_and_keep_their_names(tmp_path):
    for split in ("train", "val"):
        make_coco(tmp_path, [{**BOX, **JOINTS}], categories=PERSON, split=split)
    data = CocoDataModule(
        root=tmp_path, resolution=(48, 64), batch_size=1, num_workers=0,
        augment={"warp": "jitter", "p_jitter": 0.0, "flip": 1.0, "color": None},
    )  # fmt: skip
    data.setup("fit")
    joints = next(b for b in data.train_dataloader() if b["objects"]["valid"].any())["objects"]["joints"][0, 0]
    # The hand named left was labeled at x = 30; in the mirror image it is a right hand. (The original's window is
    # centered at width / 2 and its mirror image at width / 2 - 1, hence 64 - x.)
    assert joints.tolist() == [[44, 10, 2], [64, 0, 0], [34, 20, 1]]


def test_in_a_mosaic_joints_beyond_their_quarter_are_not_labeled(tmp_path):
    row = {**BOX, "bbox": [0, 0, 60, 40], "keypoints": [10, 10, 2, 50, 10, 2, 10, 40, 1]}
    sample = open_dataset(tmp_path, row)[0]
    joints = join_quadrants([sample] * 4, (32, 24))["objects"]["joints"]
    assert joints[..., 2].tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("annotation", "options", "message"),
    [
        ({"keypoints": [1, 2, 2]}, {}, r"annotation 1 has 3 numbers in keypoints, but its category has 3 joints"),
        ({"keypoints": [float("nan"), 2, 2] * 3}, {}, r"annotation 1 has keypoints that are not finite"),
        (
            JOINTS,
            {"joints": {"names": ["a", "b"]}},
            r"has 3 joints \(head, left_hand, right_hand\), but data.joints names 2",
        ),
        (
            JOINTS,
            {"joints": ["head"]},
            r"data.joints=\['head'\] is not a mapping; give names, flip_pairs, sigmas or skeleton",
        ),
        (JOINTS, {"joints": {"sigmas": 0.1}}, r"sigmas=0.1 does not fit 3 joints"),
        (
            JOINTS,
            {"categories": [{"id": 1, "name": "a", "keypoints": ["x", "x", "y"]}]},
            r"category 1 has two joints named 'x'; give each a unique name",
        ),
        (JOINTS, {"joints": {"flip_pairs": [["head", "hat"]]}}, r"flip pair \['head', 'hat'\] has unknown joint 'hat'"),
        (
            {"keypoints": [1, 2, 2]},
            {"categories": [{"id": 1, "name": "dot"}]},
            r"annotations of category 1 have 1 joints without names; set data.joints=",
        ),
    ],
)
def test_odd_joints_are_refused_in_one_sentence(tmp_path, annotation, options, message):
    with pytest.raises(InputError, match=message) as raised:
        open_dataset(tmp_path, {**BOX, **annotation}, **options)
    assert "\n" not in str(raised.value)


def test_the_config_renames_and_orders_joints(tmp_path):
    renamed = open_dataset(tmp_path, BOX, joints={"names": ["a", "b", "c"], "sigmas": [0.1, 0.2, 0.3]})
    assert (renamed.joints.names, renamed.joints.sigmas) == (("a", "b", "c"), (0.1, 0.2, 0.3))
    categories = [*PERSON, {"id": 2, "name": "snake", "keypoints": ["tail", "head"]}]
    order = {"names": ["tail", "right_hand", "left_hand", "head"], "sigmas": [0.1, 0.2, 0.3, 0.4]}
    ordered = open_dataset(tmp_path, {**BOX, **JOINTS}, categories=categories, joints=order)
    assert dict(zip(ordered.joints.names, ordered.joints.sigmas, strict=True))["head"] == 0.4
    assert ordered.objects(0)["joints"][0].tolist() == [[0, 0, -1], [0, 0, 0], [30, 20, 1], [20, 10, 2]]


def test_classes_without_joints_are_a_fact_of_the_data(tmp_path):
    categories = [*PERSON, {"id": 2, "name": "car"}]
    assert open_dataset(tmp_path, {**BOX, **JOINTS}, categories=categories).facts["jointless"] == [1]
    assert "jointless" not in open_dataset(tmp_path, {**BOX, **JOINTS}, categories=PERSON).facts


def test_joints_without_left_and_right_are_noted(tmp_path):
    category = [{"id": 1, "name": "thing", "keypoints": ["front", "back"]}]
    dataset = open_dataset(tmp_path, BOX, categories=category)
    (note,) = dataset.notes
    assert "none of the 2 joints has a left-right pair" in note
    assert not open_dataset(tmp_path, BOX).notes


def test_the_keypoint_files_of_coco_are_found_by_their_prefix(tmp_path):
    for split in ("train", "val"):
        path, _ = make_coco(tmp_path, [{**BOX, **JOINTS}], categories=PERSON, split=split)
        path.rename(path.with_name(f"person_keypoints_{split}.json"))
        make_coco(tmp_path, [BOX], split=split)
    plain = CocoDataModule(root=tmp_path, resolution=(48, 64), num_workers=0)
    pose = CocoDataModule(root=tmp_path, prefix="person_keypoints", resolution=(48, 64), num_workers=0)
    for data in (plain, pose):
        data.setup("fit")
    assert "joints" not in plain.facts
    assert plain.class_names == ["cat", "dog"]
    assert pose.facts["joints"]["names"] == ["head", "left_hand", "right_hand"]


def test_real_keypoint_files_are_read_as_pycocotools_reads_them(data_folder):
    from pycocotools.coco import COCO

    root = data_folder / "coco-tiny"
    if not root.is_dir():
        pytest.skip(f"no coco-tiny in {data_folder}")
    data = CocoDataModule(root=root, prefix="person_keypoints", resolution=(64, 64), num_workers=0)
    data.setup("fit")
    for dataset in data.datasets.values():
        theirs = COCO(str(dataset.source))
        for index, image_id in enumerate(dataset.ids.tolist()):
            rows = [a for a in theirs.imgToAnns[image_id] if a["bbox"][2] > 0 and a["bbox"][3] > 0]
            wanted = np.array([a["keypoints"] for a in rows], np.float32).reshape(-1, 17, 3)
            np.testing.assert_array_equal(dataset.objects(index)["joints"], wanted)
