"""YOLO's files as people have them: where images and labels lie, what lines mean, what is refused with a word."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given

from centernet.data.yolo import YoloDataModule
from centernet.data.yolo_format import find_files, label_file, read_description, read_labels
from centernet.errors import InputError
from centernet.joints import COCO_JOINTS
from tests import formats
from tests.data.mangled import mangled


def data_of(root: Path | None = None, **options: Any) -> YoloDataModule:
    return YoloDataModule(root=root, resolution=(32, 32), batch_size=2, num_workers=0, **options)


def opened(root: Path | None = None, **options: Any) -> YoloDataModule:
    data = data_of(root, **options)
    data.setup("fit")
    return data


def stems(data: YoloDataModule) -> list[list[str]]:
    return [[Path(file).stem for file in data.datasets[split].files] for split in ("train", "val")]


def relabel(root: Path, text: str) -> YoloDataModule:
    """The data with other labels of its first image, of 64x48 pixels."""
    (root / "labels" / "train" / "a.txt").write_text(text)
    return data_of(root)


# Where files lie.


EVERYTHING = [["a", "b", "c", "d"], ["e", "f"]]


def test_the_yaml_is_found_or_given(tmp_path):
    root = formats.write_yolo(tmp_path / "data")
    assert stems(opened(root)) == stems(opened(yaml=root / "data.yaml")) == EVERYTHING
    (root / "data.yaml").rename(root / "cats.yaml")
    assert stems(opened(root)) == stems(opened(root, yaml="cats.yaml")) == EVERYTHING


@pytest.mark.parametrize("names", [["cat", "dog"], {0: "cat", 1: "dog"}, {"1": "dog", "0": "cat"}])
def test_names_are_a_list_or_numbered(tmp_path, names):
    assert opened(formats.write_yolo(tmp_path, names=names)).class_names == ["cat", "dog"]


def test_an_image_without_a_label_file_has_no_objects(tmp_path):
    dataset = opened(formats.write_yolo(tmp_path)).datasets["train"]
    assert [len(dataset.objects(n)["labels"]) for n in range(4)] == [2, 1, 0, 1]


@pytest.mark.parametrize("path", [None, "", ".", "/nowhere/else", "ABSOLUTE"])
def test_paths_are_relative_to_path_and_that_to_the_yaml(tmp_path, path):
    keys = {} if path is None else {"path": str(tmp_path) if path == "ABSOLUTE" else path}
    assert stems(opened(formats.write_yolo(tmp_path, **keys))) == EVERYTHING


def test_roboflows_way_up_and_down_again_is_followed(tmp_path):
    root = formats.write_yolo(tmp_path / "data", train="../train/images", val="../valid/images", test="../test/images")
    for split, folder in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (root / folder).mkdir(exist_ok=True)
            (root / kind / split).rename(root / folder / kind)
    assert stems(opened(root)) == EVERYTHING


def test_a_split_is_a_folder_or_a_list_in_a_text_file_or_several_of_them(tmp_path):
    root = formats.write_yolo(tmp_path, train=["images/train", "more.txt"], val="val.txt")
    (root / "val.txt").write_text("./images/val/e.png\n\nimages/val/f.png\n")
    formats.write_images(root / "images" / "more", [formats.Scene("g")])
    (root / "more.txt").write_text(f"{root}/images/more/g.png\n")
    assert stems(opened(root)) == [["a", "b", "c", "d", "g"], ["e", "f"]]


def test_images_in_folders_below_are_found_with_their_labels(tmp_path):
    root = formats.write_yolo(tmp_path)
    for kind, end in (("images", "png"), ("labels", "txt")):
        (root / kind / "train" / "deep").mkdir()
        (root / kind / "train" / f"a.{end}").rename(root / kind / "train" / "deep" / f"a.{end}")
    dataset = opened(root).datasets["train"]
    assert sum(len(dataset.objects(n)["labels"]) for n in range(4)) == 4


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("x/images/train/a.jpg", "x/labels/train/a.txt"),
        ("x/train/images/a.b.png", "x/train/labels/a.b.txt"),
        ("images/x/images/a.jpg", "images/x/labels/a.txt"),
        ("x/train/a.jpg", "x/train/a.txt"),
        ("my_images/a.jpg", "my_images/a.txt"),
    ],
)
def test_convention_the_last_folder_images_becomes_labels(image, labels):
    assert label_file(Path(image)) == Path(labels)


def test_a_list_of_classes_is_enough_for_data_that_is_divided_or_will_be(tmp_path):
    root = formats.write_yolo(tmp_path / "data")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    assert stems(opened(root)) == EVERYTHING
    flat = tmp_path / "flat"
    for kind in ("images", "labels"):
        shutil.copytree(root / kind / "train", flat / kind)
    (flat / "classes.txt").write_text("cat\ndog\n")
    train, val = stems(opened(flat, val_share=0.3))
    assert sorted(train + val) == EVERYTHING[0]


def test_the_test_split_is_evaluated_on_request_and_where_there_is_no_other(tmp_path):
    root = formats.write_yolo(tmp_path, test="images/train")
    assert stems(opened(root, val_split="test"))[1] == EVERYTHING[0]
    content = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump({**content, "test": "images/val", "val": None}))
    data = opened(root)
    assert stems(data) == EVERYTHING
    assert "has a test split and none for validation, so test also chooses the best" in data.datasets["val"].notes[0]


# What lines mean.


def test_an_outline_becomes_its_box_its_area_and_a_mask(tmp_path):
    root = formats.write_yolo(tmp_path)
    data = relabel(root, "1 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.75\n")
    data.visible_boxes = True  # which uses masks
    data.setup("fit")
    dataset = data.datasets["train"]
    truth = dataset.objects(0)
    assert truth["boxes"].tolist() == [[16, 12, 48, 36]]
    assert truth["area"].tolist() == [32 * 12 + 32 * 12 / 2]
    points, _ = dataset.masks.polygon(0)
    assert points.tolist() == [[16, 12], [48, 12], [48, 24], [16, 36]]


def pose(root: Path, lines: str, **keys: Any) -> Path:
    formats.write_yolo(root, **keys)
    for path in (root / "labels").rglob("*.txt"):
        path.unlink()
    (root / "labels" / "train" / "a.txt").write_text(lines)
    return root


def test_joints_have_pairs_of_flip_idx_and_numbers_for_names(tmp_path):
    line = "0 0.5 0.5 0.5 0.5 0.25 0.25 2 0.75 0.25 1 0 0 0\n"
    dataset = opened(pose(tmp_path, line, kpt_shape=[3, 3], flip_idx=[1, 0, 2])).datasets["train"]
    assert dataset.objects(0)["joints"].tolist() == [[[16, 12, 2], [48, 12, 1], [0, 0, 0]]]
    assert dataset.joints.names == ("0", "1", "2")
    assert dataset.joints.flip_pairs == ((0, 1),)


def test_joints_without_a_visibility_are_labeled_unless_they_lie_in_the_corner(tmp_path):
    line = "0 0.5 0.5 0.5 0.5 0.25 0.25 0 0\n"
    dataset = opened(pose(tmp_path, line, kpt_shape=[2, 2], flip_idx=[1, 0])).datasets["train"]
    assert dataset.objects(0)["joints"].tolist() == [[[16, 12, 2], [0, 0, 0]]]


def test_seventeen_joints_are_cocos_and_others_are_named_by_the_yaml_or_the_option(tmp_path):
    coco = opened(pose(tmp_path / "coco", "", kpt_shape=[17, 3]), allow_empty=True)
    assert coco.datasets["train"].joints.names == COCO_JOINTS
    named = pose(tmp_path / "named", "", kpt_shape=[2, 2], kpt_names={0: ["left_tip", "right_tip"]}, names=["cat"])
    assert opened(named, allow_empty=True).facts["joints"]["flip_pairs"] == [[0, 1]]
    given = opened(named, allow_empty=True, joints={"names": ["head", "tail"]})
    assert given.datasets["train"].joints.names == ("head", "tail")
    with pytest.raises(InputError, match=r"data\.joints names 1 joints, but kpt_shape of .* has 2; name them all"):
        opened(named, joints={"names": ["head"]})


# What is refused.


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.5 x", "'x' is not a number"),
        ("0 0.5 0.5 0.5 nan", "a number is not finite"),
        ("2 0.5 0.5 0.5 0.5", "class 2, and the classes are 0 to 1"),
        ("0.5 0.5 0.5 0.5 0.5", "class 0.5, and the classes are 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "class -1, and the classes are 0 to 1"),
        ("0 0.5 0.5", "3 numbers, where a box has 5 and an outline 7, 9, 11, ..."),
        ("0 0.5 0.5 0.5 0.5 0.9", "6 numbers, where a box has 5 and an outline 7, 9, 11, ..."),
        ("0 320 240 100 100", "320 is no share of the image's size, from 0 to 1"),
        ("0 0.5 0.5 -0.2 0.1", "-0.2 is no share of the image's size, from 0 to 1"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path, line, reason):
    root = formats.write_yolo(tmp_path)
    data = relabel(root, f"0 0.5 0.5 0.25 0.25\n\n{line}\n")
    with pytest.raises(InputError) as error:
        data.setup("fit")
    place = root / "labels" / "train" / "a.txt"
    assert str(error.value) == f"1 label line cannot be read: {place} line 3: {reason}; correct or remove it"


def test_many_bad_lines_are_counted(tmp_path):
    data = relabel(formats.write_yolo(tmp_path), "9 9 9 9 9\n" * 5)
    with pytest.raises(
        InputError, match=r"^5 label lines cannot be read: .*line 3: class 9, .*; \.\.\.; correct or remove them$"
    ):
        data.setup("fit")


def test_a_pose_line_has_as_many_numbers_as_kpt_shape_says(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt line 1: 5 numbers, where kpt_shape \[2, 3\] needs 11; correct"):
        opened(pose(tmp_path, "0 0.5 0.5 0.5 0.5\n", kpt_shape=[2, 3]))


def test_boxes_without_size_are_dropped_with_their_file_and_line(tmp_path):
    data = relabel(formats.write_yolo(tmp_path), "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0 0.5\n")
    data.setup("fit")
    assert data.datasets["train"].notes[0].endswith("labels/train/a.txt line 2)")


def test_an_image_that_cannot_be_read_is_refused_or_left_out(tmp_path):
    root = formats.write_yolo(tmp_path)
    (root / "images" / "train" / "a.png").write_bytes(b"no image")
    with pytest.raises(
        InputError, match=r"image .*a\.png cannot be read; replace or remove it, or set data\.on_bad_image"
    ):
        opened(root)
    data = opened(root, on_bad_image="skip")
    assert stems(data)[0] == ["b", "c", "d"]
    assert "left out 1 images that cannot be read" in data.datasets["train"].notes[0]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"names": None}, "has no names of classes; add names: [NAME, ...] or names: {0: NAME, ...}"),
        ({"names": {"a": "cat"}}, "names has the key a; its keys are numbers of classes, from 0"),
        ({"names": {0: "cat", 2: "dog"}}, "names has the numbers 0, 2; number the classes 0, 1, 2, ..."),
        ({"names": ["cat", "cat"]}, "two classes are called 'cat'; give every class its own name"),
        ({"names": [["cat"], "dog"]}, "names holds ['cat']; give a name for each class"),
        ({"nc": 3}, "nc is 3, but names has 2 classes; make them agree"),
        ({"train": None, "val": None}, "names no images; YOLO's yaml has the keys train and val"),
        ({"train": "nowhere"}, "train is nowhere, which does not exist in "),
        ({"train": [3]}, "train holds 3; give a folder, a text file of images, or a list of them"),
        ({"path": 3}, "path is 3; give the folder of the data, or leave it out"),
        ({"val": None}, "names no images for val; data.val_share=0.2 holds out a fifth of the training images"),
        ({"kpt_shape": 17}, "kpt_shape is 17; give [number of joints, 2 or 3]"),
        ({"kpt_shape": [17, 4]}, "kpt_shape is [17, 4]; a joint has 2 numbers (x, y) or 3 (x, y, visibility)"),
        ({"kpt_shape": [2, 2], "flip_idx": [0, 0]}, "flip_idx is [0, 0]; give the place of each joint's partner in t"),
        ({"kpt_shape": [2, 2], "kpt_names": ["a"]}, "kpt_names does not hold 2 different names, the same for all cla"),
    ],
)
def test_a_yaml_that_does_not_fit_is_refused_with_its_key(tmp_path, keys, reason):
    root = formats.write_yolo(tmp_path, **keys)
    with pytest.raises(InputError) as error:
        opened(root)
    assert str(error.value).removeprefix(str(root / "data.yaml")).lstrip(": ").startswith(reason)


def test_missing_files_are_told(tmp_path):
    with pytest.raises(InputError, match=r"^no data given; set data\.yaml=FILE, or data\.root=DIR"):
        opened()
    with pytest.raises(InputError, match=r"^data\.root=.*nowhere is not an existing folder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^data\.yaml=.*a\.yaml does not exist; give the yaml"):
        opened(yaml=tmp_path / "a.yaml")
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"^no yaml in .* that describes YOLO data, .*; found photos; set data\.yaml="):
        opened(tmp_path)
    with pytest.raises(InputError, match=r"^no images in .*photos; correct the paths in data\.yaml$"):
        find_files([tmp_path / "photos"], Path("data.yaml"))
    (tmp_path / "list.txt").write_text("a.jpg\n")
    with pytest.raises(InputError, match=r"^1 images in .*list\.txt do not exist \(a\.jpg\); correct the list$"):
        find_files([tmp_path / "list.txt"], Path("data.yaml"))


TEXT = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8\n"
YAML = (
    b"path: .\ntrain: images\nval: [images, list.txt]\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
    b"kpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
)


@given(data=mangled(TEXT))
def test_whatever_a_label_file_holds_its_lines_are_read_or_named(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mangled.txt"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        for joints in (None, (2, 2)):
            labels, faults = read_labels(path, 2, joints)
            assert all(np.isfinite(label.box).all() and label.number in (0, 1) for label in labels)
            assert all(str(path) in fault for fault in faults)


@given(data=mangled(YAML))
def test_whatever_a_yaml_holds_it_is_read_or_refused_with_a_sentence(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "mangled"
    os.makedirs(folder / "images", exist_ok=True)
    path = folder / "data.yaml"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        found = read_description(path)
        assert len(set(found.names)) == len(found.names) > 0
        for split in found.splits:
            found.places(split)


@given(data=mangled(b"./images/a.png\nimages/a.png\n"))
def test_whatever_a_list_holds_its_images_are_found_or_it_is_refused_with_a_sentence(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "mangled_list_of_yolo"
    if not folder.is_dir():
        formats.write_images(folder / "images", [formats.Scene("a")])
    path = folder / "list.txt"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        assert all(file.exists() for file in find_files([path], folder / "data.yaml"))


# Results.


def test_results_call_images_by_their_numbers_where_they_have_some(tmp_path):
    scenes = [formats.Scene(f"{n:012d}", formats.SCENES["train"][0].things) for n in (9, 139)]
    data = opened(formats.write_yolo(tmp_path, {"train": scenes, "val": scenes}))
    dataset = data.datasets["val"]
    assert dataset.ids.tolist() == [9, 139]
    found = {"boxes": torch.ones(1, 4), "scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.int64)}
    assert dataset.result_rows(139, found)[0]["image_id"] == 139
    assert dataset.result_rows(139, found)[0]["category_id"] == 0


@pytest.mark.parametrize("names", [("7", "07"), ("7", "8" * 30), ("7", "b")])
def test_results_call_images_by_their_names_where_numbers_do_not_tell_them_apart(tmp_path, names):
    scenes = [formats.Scene(name, formats.SCENES["train"][0].things) for name in names]
    dataset = opened(formats.write_yolo(tmp_path, {"train": scenes, "val": scenes})).datasets["val"]
    assert sorted(dataset.image_ids) == sorted(names)
    assert dataset.ids.tolist() == [0, 1]
