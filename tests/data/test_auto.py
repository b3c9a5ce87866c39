"""Which format a folder holds: found by its files, said in the log, refused with what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from centernet.data.auto import FORMATS, data_module, find_format
from centernet.data.coco import CocoDataModule
from centernet.data.createml import CreateMLDataModule
from centernet.data.kitti import KittiDataModule
from centernet.errors import InputError
from tests import formats

OPTIONS: dict[str, Any] = {"resolution": (64, 64), "batch_size": 2, "num_workers": 0}
WHOLE = {"train": [scene._replace(name=f"{scene.name}{n}") for n in range(3) for scene in formats.SCENES["train"]]}


def undivided(tmp_path: Path, json_name: str, images_name: str, prefix: str = "") -> Path:
    """Data as a tool exports a project: one json, its images in a folder."""
    made = formats.write_coco(tmp_path / "made", WHOLE)
    root = tmp_path / "project"
    (root / json_name).parent.mkdir(parents=True)
    content = json.loads((made / "annotations" / "instances_train.json").read_text())
    for entry in content["images"]:
        entry["file_name"] = prefix + entry["file_name"]
    (root / json_name).write_text(json.dumps(content))
    shutil.copytree(made / "train", root / images_name)
    return root


@pytest.mark.parametrize(
    ("json_name", "images_name", "prefix", "why"),
    [
        ("result.json", "images", "images/", "it has result.json, as Label Studio's exports are called"),
        ("annotations/instances_default.json", "images/default", "", "instances_default.json, as CVAT's exports are"),
        ("annotations/instances_default.json", "images", "", "instances_default.json, as CVAT's exports are called"),
        ("_annotations.coco.json", "here", "here/", "it has _annotations.coco.json, as Roboflow's exports are called"),
        ("mine.json", "images", "", "it has mine.json"),
    ],
)
def test_the_exports_of_tools_are_found_and_divided(tmp_path, json_name, images_name, prefix, why, caplog):
    root = undivided(tmp_path, json_name, images_name, prefix)
    with caplog.at_level("INFO"):
        data = data_module(root, val_share=0.25, **OPTIONS)
        data.setup("fit")
    assert f"{root} is taken for COCO data: " in caplog.text
    assert why in caplog.text
    assert sum(len(dataset) for dataset in data.datasets.values()) == 12
    assert "are held out for validation (data.val_share=0.25): always the same ones" in caplog.text


def test_data_that_is_not_divided_is_refused_with_the_option_that_divides_it(tmp_path):
    data = data_module(undivided(tmp_path, "result.json", "images", "images/"), **OPTIONS)
    with pytest.raises(
        InputError, match=r"result\.json is not divided: data\.val_share=0\.2 holds out a fifth of its im"
    ):
        data.setup("fit")


def test_keypoints_are_found_by_their_own_name(figures):
    data = data_module(figures, **OPTIONS)
    assert isinstance(data, CocoDataModule)
    data.setup("fit")
    assert data.datasets["train"].joints is not None


def test_kitti_is_found(cuboids, caplog):
    data = data_module(cuboids, augment={"warp": None, "color": None}, **OPTIONS)
    assert isinstance(data, KittiDataModule)
    with caplog.at_level("INFO"):
        data.setup("validate")
    assert "is taken for KITTI data: it has training/image_2 and training/label_2" in caplog.text


def test_an_option_that_a_format_does_not_have_is_refused(cuboids):
    with pytest.raises(InputError, match=r"^data\.val_share=0\.2 has no meaning for KITTI data; leave it out$"):
        data_module(cuboids, val_share=0.2, **OPTIONS)


def test_of_several_formats_one_is_read_and_the_others_are_named(tmp_path):
    formats.write_coco(tmp_path)
    formats.write_yolo(tmp_path)
    chosen, why = find_format(tmp_path)
    assert chosen.name == "COCO"
    assert why == "it has annotations/instances_train.json; not read: data.yaml (YOLO; data=yolo reads it)"


def test_a_folder_without_a_known_format_is_refused_with_what_each_needs(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(InputError) as error:
        data_module(tmp_path)
    for each in FORMATS:
        assert f"{each.name}: {each.needs}" in str(error.value)
    assert str(error.value).endswith("; found notes.json, photos/; set data.root to the folder that holds it")


def test_a_folder_too_high_is_answered_with_the_one_that_is_meant(tmp_path):
    formats.write_yolo(tmp_path / "inner")
    with pytest.raises(InputError, match=r"set data\.root=.*inner, which has one$"):
        data_module(tmp_path)


@pytest.mark.parametrize(
    ("root", "reason"), [(None, "no data given"), ("nowhere", "data.root=nowhere is not an existing")]
)
def test_a_folder_is_needed(root, reason):
    with pytest.raises(InputError, match=reason):
        data_module(root)


# CreateML, which has no option of its own.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not valid JSON"),
        ("{}", "is not in CreateML's format: a list of images, each with image and annotations"),
        (
            [{"image": "a.png", "annotations": [3]}],
            "image a.png, annotation 1 has no label; CreateML requires the name",
        ),
        (
            [{"image": "a.png", "annotations": [{"label": "cat", "coordinates": {"x": 1, "y": None}}]}],
            "image a.png, annotation 1 (cat) has coordinates {'x': 1, 'y': None}; CreateML requires the numbers x, y,",
        ),
        ([{"image": "a.png", "annotations": []}] * 2, "image 'a.png' is listed twice; list it once"),
        ([{"image": "a.png", "annotations": []}], "has no annotations, and so no classes; give annotated images"),
    ],
)
def test_a_damaged_createml_json_is_refused_with_its_image(tmp_path, content, reason):
    root = formats.write_createml(tmp_path)
    path = root / "train" / "_annotations.createml.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as error:
        CreateMLDataModule(root=root, **OPTIONS).setup("fit")
    assert str(error.value).removeprefix(str(path)).lstrip(": ").startswith(reason)


def test_a_createml_json_is_recognized_by_what_it_holds(tmp_path):
    root = formats.write_createml(tmp_path / "data", WHOLE)
    (root / "train" / "_annotations.createml.json").rename(root / "train" / "annotations.json")
    chosen, why = find_format(root)
    assert (chosen.name, why) == ("CreateML", "it has train/annotations.json")
