"""The same objects give the same samples, whatever format they are written in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from centernet.data.auto import data_module
from centernet.data.coco import CocoDataModule
from centernet.data.createml import CreateMLDataModule
from centernet.data.datamodule import Draw
from centernet.data.voc import VocDataModule
from centernet.data.yolo import YoloDataModule
from centernet.errors import InputError
from centernet.joints import COCO_JOINTS, JointSet
from tests import formats

FORMATS: dict[str, tuple[Callable[..., Path], type]] = {
    "coco": (formats.write_coco, CocoDataModule),
    "voc": (formats.write_voc, VocDataModule),
    "yolo": (formats.write_yolo, YoloDataModule),
    "createml": (formats.write_createml, CreateMLDataModule),
}
OPTIONS: dict[str, Any] = {"resolution": (64, 64), "batch_size": 2, "num_workers": 0}


@pytest.fixture(params=["voc", "yolo", "createml"])
def both(request, tmp_path):
    """Data modules of COCO's and of another format, which read the same objects."""
    made = []
    for name in ("coco", request.param):
        write, module = FORMATS[name]
        made.append(module(root=write(tmp_path / name), **OPTIONS))
        made[-1].setup("fit")
    return made


def test_every_format_gives_the_same_training_samples(both):
    coco, other = (data.datasets["train"] for data in both)
    assert coco.class_names == other.class_names == formats.CLASSES
    assert len(coco) == len(other) == 4
    for n in range(len(coco)):
        first, second = (dataset[Draw(n, (7, 0, 0))] for dataset in (coco, other))
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["input_from_image"], second["input_from_image"])
        for name in ("boxes", "labels", "crowd", "area"):
            torch.testing.assert_close(second["objects"][name], first["objects"][name], rtol=0, atol=1e-4)


def test_every_format_gives_the_same_truth(both):
    coco, other = (data.datasets["val"] for data in both)
    for n, scene in enumerate(formats.SCENES["val"]):
        for dataset in (coco, other):
            truth = dataset.objects(n)
            torch.testing.assert_close(
                truth["boxes"],
                torch.tensor([thing.box for thing in scene.things], dtype=torch.float64).reshape(-1, 4),
                rtol=0,
                atol=1e-9,
            )
            assert [formats.CLASSES[label] for label in truth["labels"]] == [thing.name for thing in scene.things]


def test_every_format_writes_coco_results(both, tmp_path):
    for data in both:
        dataset = data.datasets["val"]
        image_id = int(dataset.ids[0])
        found = {
            "boxes": torch.tensor([[1.0, 2.0, 4.0, 6.0]]),
            "scores": torch.tensor([0.5]),
            "labels": torch.tensor([1]),
        }
        dataset.write_results(tmp_path, {image_id: found})
        assert '"bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5' in (tmp_path / "detections.json").read_text()


def write_yolo_poses(coco: Path, root: Path) -> Path:
    """The drawn persons, from their json, as YOLO's lines of boxes and joints."""
    for split in ("train", "val"):
        content = json.loads((coco / "annotations" / f"person_keypoints_{split}.json").read_text())
        shutil.copytree(coco / split, root / "images" / split)
        (root / "labels" / split).mkdir(parents=True)
        for image in content["images"]:
            size = np.array([image["width"], image["height"]])
            lines = []
            for row in content["annotations"]:
                if row["image_id"] == image["id"] and not row.get("iscrowd"):
                    corner, sides = np.array(row["bbox"]).reshape(2, 2)
                    joints = np.array(row["keypoints"], float).reshape(-1, 3)
                    joints[:, :2] /= size
                    values = [*(corner + sides / 2) / size, *sides / size, *joints.flatten()]
                    lines.append(" ".join(["0", *(repr(float(value)) for value in values)]))
            path = root / "labels" / split / f"{Path(image['file_name']).stem}.txt"
            path.write_text("\n".join(lines))
    partners = JointSet.of({"names": COCO_JOINTS}).mirrored
    content = {"train": "images/train", "val": "images/val", "names": ["person"], "kpt_shape": [17, 3]}
    (root / "data.yaml").write_text(yaml.safe_dump({**content, "flip_idx": list(partners)}))
    return root


def test_poses_of_yolo_give_the_same_training_samples_as_those_of_coco(figures, tmp_path):
    augment = {"warp": "crop", "flip": 0.5, "color": None}
    coco = CocoDataModule(root=figures, prefix="person_keypoints", augment=augment, **OPTIONS)
    yolo = YoloDataModule(root=write_yolo_poses(figures, tmp_path), augment=augment, **OPTIONS)
    for data in (coco, yolo):
        data.setup("fit")
    assert coco.facts == yolo.facts
    compared = 0
    for n in range(12):
        first, second = (data.datasets["train"][Draw(n, (3, 0, 0))] for data in (coco, yolo))
        assert torch.equal(first["image"], second["image"])
        kept = ~first["objects"]["crowd"]
        for name in ("boxes", "joints", "labels"):
            torch.testing.assert_close(second["objects"][name], first["objects"][name][kept], rtol=0, atol=1e-3)
        compared += int(kept.sum())
    assert compared > 12


@pytest.mark.parametrize("name", FORMATS)
def test_auto_reads_each_format_with_its_own_reader(tmp_path, name, caplog):
    write, module = FORMATS[name]
    root = write(tmp_path / "data")
    data = data_module(root, **OPTIONS)
    assert type(data) is module
    with caplog.at_level("INFO"):
        data.setup("fit")
        data.setup("validate")
    assert caplog.text.count(f"{root} is taken for") == 1
    assert [len(data.datasets[split]) for split in ("train", "val")] == [4, 2]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_divided_if_it_is_not(tmp_path, name):
    write, module = FORMATS[name]
    scenes = [scene._replace(name=f"{scene.name}{n}") for n in range(5) for scene in formats.SCENES["train"]]
    root = write(tmp_path / "data", {"train": scenes})
    data = module(root=root, val_share=0.2, **OPTIONS)
    data.setup("fit")
    shares = {name: [0, 0] for name in formats.CLASSES}
    for place, split in enumerate(("train", "val")):
        dataset = data.datasets[split]
        for n in range(len(dataset)):
            for label in set(dataset.objects(n)["labels"].tolist()):
                shares[dataset.class_names[label]][place] += 1
    assert shares == {"cat": [8, 2], "dog": [8, 2]}
    assert sum(len(dataset) for dataset in data.datasets.values()) == 20
    files = [set(data.datasets[split].files.tolist()) for split in ("train", "val")]
    assert not files[0] & files[1]
    again = module(root=root, val_share=0.2, seed=3, **OPTIONS)
    again.setup("fit")
    assert set(again.datasets["val"].files.tolist()) == files[1]


@pytest.mark.parametrize("name", FORMATS)
def test_a_share_is_refused_where_there_is_a_validation_split(tmp_path, name):
    write, module = FORMATS[name]
    data = module(root=write(tmp_path / "data"), val_share=0.2, **OPTIONS)
    with pytest.raises(InputError, match=r"data\.val_share=0\.2 holds out training images, but "):
        data.setup("fit")
