"""The same objects give the same samples, whatever format they are written in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from centernet.data.auto import data_module
from centernet.data.coco import CocoDataModule
from centernet.data.createml import CreateMLDataModule
from centernet.data.datamodule import Draw
from centernet.data.voc import VocDataModule
from centernet.data.yolo import YoloDataModule
from centernet.errors import InputError
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


@pytest.mark.parametrize("name", FORMATS)
def test_auto_reads_each_format_with_its_own_reader(tmp_path, name, caplog):
    write, module = FORMATS[name]
    root = write(tmp_path / "data")
    with caplog.at_level("INFO"):
        data = data_module(root, **OPTIONS)
    assert type(data) is module
    assert f"{root} is taken for" in caplog.text
    data.setup("fit")
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
