"""Ten real images with the xml that their annotators left, against the same objects as COCO json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from centernet.data.auto import data_module
from centernet.data.transforms import eval_pipeline
from centernet.data.voc import VocDataModule


@pytest.fixture(scope="module")
def sample(data_folder: Path) -> Path:
    folder = data_folder / "voc-sample"
    if not folder.is_dir():
        pytest.skip(f"no voc-sample in {data_folder} (set CENTERNET_DATA)")
    return folder


def test_the_objects_are_those_of_the_json(sample, data_folder):
    dataset = VocDataModule(root=sample, train_split="trainval").build_dataset("train", eval_pipeline((64, 64)), True)
    assert dataset.class_names == ["Platelets", "RBC", "WBC"]
    assert len(dataset) == 10
    assert "dropped 2 of" in dataset.notes[0]
    assert "2 without width or height (annotations BloodImage_00338.xml object 13, " in dataset.notes[0]
    rows: dict[str, list] = {}
    for split in ("train", "val"):
        content = json.loads((data_folder / "bccd" / "annotations" / f"instances_{split}.json").read_text())
        names = {entry["id"]: Path(entry["file_name"]).stem for entry in content["images"]}
        for row in content["annotations"]:
            rows.setdefault(names[row["image_id"]], []).append([*row["bbox"], row["category_id"] - 1])
    for n, name in enumerate(dataset.image_ids):
        boxes = np.array([row for row in rows[name] if row[2] > 0 and row[3] > 0])
        # The json counts from 1 as the xml does, and leaves the last pixel out.
        boxes[:, 2:4] += boxes[:, :2]
        boxes[:, :2] -= 1
        truth = dataset.objects(n)
        found = np.column_stack([truth["boxes"].numpy(), truth["labels"].numpy()])
        assert sorted(found.tolist()) == sorted(boxes.tolist())


def test_it_is_found_and_divided(sample, caplog):
    with caplog.at_level("INFO"):
        data = data_module(sample, val_share=0.3, resolution=(64, 64), num_workers=0)
        data.setup("fit")
    assert "is taken for Pascal VOC data: it has Annotations/*.xml" in caplog.text
    assert [len(data.datasets[split]) for split in ("train", "val")] == [7, 3]
    assert data.datasets["train"][0]["image"].shape == (3, 64, 64)
