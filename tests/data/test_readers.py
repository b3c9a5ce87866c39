"""Which reader an evaluation takes for other data than a checkpoint was trained on."""

from __future__ import annotations

import pytest

from centernet.data.readers import reader_for

COCO, VOC, YOLO, CREATEML, AUTO = (
    f"centernet.data.{name}"
    for name in (
        *("coco.CocoDataModule", "voc.VocDataModule", "yolo.YoloDataModule"),
        *("createml.CreateMLDataModule", "auto.data_module"),
    )
)
SHAPES = "centernet.data.builtin.shapes.ShapesDataModule"


@pytest.mark.parametrize(
    ("trained", "given", "reader"),
    [
        (SHAPES, ["root"], COCO),
        (COCO, ["root"], COCO),
        (VOC, ["root"], VOC),
        (VOC, ["root", "val_split"], VOC),
        (YOLO, ["root"], YOLO),
        (CREATEML, ["root"], CREATEML),
        (AUTO, ["root"], AUTO),
        (VOC, ["val_annotations", "val_images"], COCO),
        (COCO, ["yaml"], YOLO),
        (SHAPES, ["yaml"], YOLO),
    ],
)
def test_other_files_are_read_in_the_format_of_the_training_unless_they_say_another(trained, given, reader):
    options = {"_target_": trained, "batch_size": 4, "val_share": 0.2, "root": "elsewhere"}
    assert reader_for((), options, given) == {"_target_": reader, "batch_size": 4}


def test_joints_and_3d_boxes_have_readers_of_their_own():
    assert reader_for(("joints",), {})["prefix"] == "person_keypoints"
    assert reader_for(("location",), {"_target_": VOC})["_target_"] == "centernet.data.kitti.KittiDataModule"
