"""The evaluator against the official numbers of COCO's own made-up detections, read through the package's data set."""

from __future__ import annotations

import json
import re

import pytest
import torch

from centernet.data.coco import CocoDataset
from centernet.fields import stack_objects
from centernet.metrics.coco import BACKENDS, CocoAP
from centernet.structures import Objects
from tests.places import COCO_EVAL

# What the official table calls the twelve numbers.
ROWS = {
    "Precision all 100": ("AP", "AP50", "AP75"),
    "Precision small 100": ("APs",),
    "Precision medium 100": ("APm",),
    "Precision large 100": ("APl",),
    "Recall all 1": ("AR1",),
    "Recall all 10": ("AR10",),
    "Recall all 100": ("AR100",),
    "Recall small 100": ("ARs",),
    "Recall medium 100": ("ARm",),
    "Recall large 100": ("ARl",),
}
OVERLAPS = {"0.50:0.95": "", "0.50": "50", "0.75": "75"}


@pytest.fixture(scope="module")
def official() -> dict[str, float]:
    """The twelve numbers of the block for boxes."""
    text = next(COCO_EVAL.glob("*eval_res.txt")).read_text()
    block = re.split(r"type=", text.split("type=bbox")[1])[0]
    found = re.findall(r"Average (\w+)\s+\(A.\) @\[ IoU=(\S+)\s*\| area=\s*(\w+) \| maxDets=\s*(\d+) \] = (\S+)", block)
    numbers = {}
    for kind, overlap, area, most, value in found:
        names = ROWS[f"{kind} {area} {most}"]
        numbers[names[0] + OVERLAPS[overlap] if len(names) > 1 else names[0]] = float(value)
    assert len(numbers) == 12
    return numbers


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The numbers of each backend."""
    annotations = next(COCO_EVAL.glob("instances_*.json"))
    images = tmp_path_factory.mktemp("images")
    for image in json.loads(annotations.read_text())["images"]:
        (images / image["file_name"]).touch()  # only truth is read here, but the data set wants its files to be there
    dataset = CocoDataset(annotations, images, pipeline=None)
    assert not dataset.notes
    by_image: dict[int, list[dict]] = {int(image_id): [] for image_id in dataset.ids}
    for row in json.loads(next(COCO_EVAL.glob("*results.json")).read_text()):
        by_image[row["image_id"]].append(row)
    label_of = {category: label for label, category in enumerate(dataset.category_ids)}
    metrics = {backend: CocoAP(dataset.class_names, backend=backend) for backend in BACKENDS}
    for index, (image_id, rows) in enumerate(by_image.items()):
        truth: Objects = stack_objects([dataset.objects(index)])
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
        detections = {
            "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(1, -1, 4),
            "scores": torch.tensor([[row["score"] for row in rows]], dtype=torch.float64),
            "labels": torch.tensor([[label_of[row["category_id"]] for row in rows]]),
        }
        for metric in metrics.values():
            metric.update(detections, truth, torch.tensor([image_id]))
    return {backend: {name: value.item() for name, value in m.compute().items()} for backend, m in metrics.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_twelve_official_numbers_come_out(computed, official, backend):
    assert {name: round(value, 3) for name, value in computed[backend].items()} == official


def test_both_backends_give_the_same_numbers(computed):
    first, second = (computed[backend] for backend in BACKENDS)
    assert first.keys() == second.keys()
    assert first == pytest.approx(second, abs=1e-7)  # float32; tests/metrics compares in float64
