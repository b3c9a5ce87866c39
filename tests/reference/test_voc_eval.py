"""VOC's average precision against the original Python evaluation: every class, both means, two overlaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from centernet.data.transforms import eval_pipeline
from centernet.data.voc import VocDataModule
from centernet.data.voc_format import write_results
from centernet.fields import stack_objects
from centernet.metrics.coco import CocoAP
from centernet.metrics.voc import area_under, eleven_points, voc_curve
from tests import formats

MEANS = {"voc07_11point": eleven_points, "area": area_under}


@pytest.fixture(scope="module")
def case(reference_folder: Path) -> dict[str, Any]:
    """Truth, detections and the AP of the original."""
    return json.loads((reference_folder / "voc_eval.json").read_text())


@pytest.fixture(scope="module")
def metric(case, tmp_path_factory) -> CocoAP:
    """The metric after an evaluation of the case, its truth written as xml and read by the data set."""
    truth = case["ground_truth"]
    names = sorted(truth)
    scenes = [
        formats.Scene(
            name,
            [
                formats.Thing(
                    row["name"],
                    (row["bbox_1based_xyxy"][0] - 1, row["bbox_1based_xyxy"][1] - 1, *row["bbox_1based_xyxy"][2:]),
                    bool(row["difficult"]),
                )
                for row in truth[name]
            ],
            (500, 500),
        )
        for name in names
    ]
    root = formats.write_voc(tmp_path_factory.mktemp("voc"), {"trainval": scenes[:1], "test": scenes})
    data = VocDataModule(root=root, num_workers=0)
    data.class_names = case["classes"]
    dataset = data.build_dataset("val", eval_pipeline((64, 64)), False)
    assert not dataset.notes
    metric = CocoAP(case["classes"])
    for n, name in enumerate(dataset.image_ids):
        found = detections_of(case, name)
        metric.update(
            {key: value[None] for key, value in found.items()}, stack_objects([dataset.objects(n)]), torch.tensor([n])
        )
    return metric


def detections_of(case: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    """Detections of an image as the original writes and evaluates them: rounded, counted from 1, the last pixel
    included."""
    rows = [
        (label, round(score, 3), [round(value + 1, 1) for value in corners])
        for label, of_class in enumerate(case["classes"])
        for image, score, *corners in case["detections"][of_class]
        if image == name
    ]
    boxes = torch.tensor([corners for _, _, corners in rows], dtype=torch.float64).reshape(-1, 4)
    boxes[:, :2] -= 1
    return {
        "boxes": boxes,
        "scores": torch.tensor([score for _, score, _ in rows], dtype=torch.float64),
        "labels": torch.tensor([label for label, _, _ in rows], dtype=torch.int64),
    }


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("overlap", [0.5, 0.7])
def test_every_class_has_the_originals_average_precision(case, metric, mean, overlap):
    _, found, truth = metric.collected()
    for label, name in enumerate(case["classes"]):
        curve = voc_curve(found, truth, label, overlap)
        assert MEANS[mean](curve) == pytest.approx(case["expected_ap"][name][f"iou{overlap}_{mean}"], abs=1e-9)


def test_the_means_stand_beside_cocos_numbers(case, metric):
    results = metric.compute()
    expected = case["expected_mean_ap"]
    assert results["VOC07_AP"].item() == pytest.approx(expected["iou0.5_voc07_11point"], abs=1e-6)  # float32
    assert results["VOC_AP"].item() == pytest.approx(expected["iou0.5_area"], abs=1e-6)
    assert 0 < results["AP"] < results["AP50"]
    for name in case["classes"]:
        assert metric.per_class[name]["VOC07_AP"] == pytest.approx(case["expected_ap"][name]["iou0.5_voc07_11point"])


def test_the_text_files_hold_what_was_evaluated(case, tmp_path):
    names = sorted(case["ground_truth"])
    write_results(
        tmp_path,
        "test",
        case["classes"],
        dict(enumerate(names)),
        {n: detections_of(case, name) for n, name in enumerate(names)},
    )
    for name in case["classes"]:
        lines = [line.split() for line in (tmp_path / f"comp4_det_test_{name}.txt").read_text().splitlines()]
        expected = sorted(case["detections"][name])
        assert [line[0] for line in lines] == [row[0] for row in expected]
        numbers = np.array([[float(value) for value in line[1:]] for line in sorted(lines)])
        rows = np.array([[round(row[1], 3), *(round(value + 1, 1) for value in row[2:])] for row in expected])
        np.testing.assert_allclose(np.sort(numbers, 0), np.sort(rows, 0), atol=1e-6)
