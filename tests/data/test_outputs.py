"""Outputs: what is written for each frame is read back as it was found."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from centernet.data.coco import CocoDataModule
from centernet.data.kitti_format import read_labels
from centernet.data.outputs import CocoFile, CsvFile, JsonFile, KittiFolder, TracksFile, VideoFile
from centernet.structures import InputError
from tests.tiny import make_image

SIZE = (48, 64)


def found(count: int = 2, ids: bool = False, **more) -> dict:
    boxes = torch.tensor([[1.0, 2, 11, 22], [30, 10, 50, 40]])[:count]
    rows = {"boxes": boxes, "scores": torch.tensor([0.9, 0.5])[:count], "labels": torch.tensor([1, 0])[:count]}
    return {**rows, "names": ["dog", "cat"][:count], **({"ids": torch.tensor([7, 0])[:count]} if ids else {}), **more}


def written(output, *frames) -> None:
    for n, rows in enumerate(frames):
        output.add(f"{n}.png", SIZE, rows)
    output.close()


def test_json_has_the_detections_of_every_frame(tmp_path):
    written(JsonFile(tmp_path / "a.json"), found(ids=True), found(0))
    content = json.loads((tmp_path / "a.json").read_text())
    assert content == {
        "0.png": [
            {"name": "dog", "score": 0.9, "box": [1, 2, 11, 22], "id": 7},
            {"name": "cat", "score": 0.5, "box": [30, 10, 50, 40], "id": 0},
        ],
        "1.png": [],
    }
    written(JsonFile(tmp_path / "b.json"))
    assert json.loads((tmp_path / "b.json").read_text()) == {}


def test_csv_has_a_row_for_every_detection(tmp_path):
    written(CsvFile(tmp_path / "a.csv"), found(), found(0), found(1, ids=True))
    rows = list(csv.reader((tmp_path / "a.csv").open(newline="")))
    assert rows[0] == ["frame", "name", "score", "x1", "y1", "x2", "y2", "id"]
    assert rows[1] == ["0.png", "dog", "0.9", "1.0", "2.0", "11.0", "22.0", ""]
    assert [row[0] for row in rows[1:]] == ["0.png", "0.png", "2.png"]
    assert rows[3][-1] == "7"


def test_coco_is_a_data_set_that_can_be_trained_on(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(2):
        cv2.imwrite(str(folder / f"{n}.png"), make_image(*SIZE))
    written(CocoFile(tmp_path / "a.json", ["cat", "dog"]), found(), found(0))
    paths = {f"{split}_{kind}": path for split in ("train", "val")
             for kind, path in (("annotations", tmp_path / "a.json"), ("images", folder))}  # fmt: skip
    data = CocoDataModule(resolution=(64, 64), num_workers=0, **paths)
    data.setup("fit")
    assert data.class_names == ["cat", "dog"]
    objects = data.datasets["val"].objects(0)
    assert objects["boxes"].tolist() == [[1, 2, 11, 22], [30, 10, 50, 40]]
    assert objects["labels"].tolist() == [1, 0]
    assert len(data.datasets["val"].objects(1)["labels"]) == 0
    written(CocoFile(tmp_path / "b.json", ["cat"]))
    assert json.loads((tmp_path / "b.json").read_text()) == {
        "annotations": [], "images": [], "categories": [{"id": 1, "name": "cat"}]
    }  # fmt: skip


def test_joints_are_written_as_keypoints(tmp_path):
    joints = torch.tensor([[[3.0, 4], [5, 6]]])
    written(CocoFile(tmp_path / "a.json", ["cat", "dog"]), found(1, joints=joints))
    (row,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert (row["keypoints"], row["num_keypoints"]) == ([3, 4, 2, 5, 6, 2], 2)


def test_kitti_has_a_file_for_every_frame_with_unknown_values_where_a_task_finds_none(tmp_path):
    more = {"yaw": torch.tensor([0.5, 1.0]), "dimensions": torch.ones(2, 3), "location": torch.full((2, 3), 9.0)}
    written(KittiFolder(tmp_path / "kitti"), found(**more, alpha=torch.tensor([0.1, 0.2])), found())
    first, second = (read_labels(tmp_path / "kitti" / f"{n}.txt", with_scores=True) for n in (0, 1))
    assert first.types.tolist() == ["dog", "cat"]
    assert first.yaw.tolist() == [0.5, 1.0]
    assert second.location[0].tolist() == [-1000, -1000, -1000]
    assert second.scores.tolist() == pytest.approx([0.9, 0.5])


def test_tracks_are_rows_of_the_motchallenge_with_frames_from_one(tmp_path):
    written(TracksFile(tmp_path / "a.txt"), found(ids=True), found(0, ids=True), found(1, ids=True))
    assert (tmp_path / "a.txt").read_text().splitlines() == [
        "1,7,1.0,2.0,10.0,20.0,0.9000,-1,-1,-1",
        "3,7,1.0,2.0,10.0,20.0,0.9000,-1,-1,-1",
    ]


def test_a_video_has_every_picture_in_the_size_of_the_first(tmp_path):
    video = VideoFile(tmp_path / "new" / "a.mp4", 12.5)
    for n, size in enumerate([(49, 65), (49, 65), (98, 130)]):
        video.write(np.full((*size, 3), 80 * n, np.uint8))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "new" / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert [frame.mean() for frame in frames] == pytest.approx([0, 80, 160], abs=6)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.json cannot be written \(.*\); choose another --out"):
        JsonFile(tmp_path / "file" / "a.json")
