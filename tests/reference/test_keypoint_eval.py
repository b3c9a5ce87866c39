"""The keypoint evaluation against pycocotools on annotations of files, persons without joints and crowds among them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from centernet.fields import stack_objects
from centernet.joints import COCO_SIGMAS
from centernet.metrics.coco import BACKENDS, CocoAP
from centernet.structures import Objects
from tests.places import DATA, REFERENCE

NAMES = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


def keypoint_files() -> list[Any]:
    """Every json of the data folders and the reference whose annotations have COCO's number of keypoints."""
    found = []
    for path in sorted([*DATA.glob("*/annotations/*.json"), *REFERENCE.glob("dataset/*.json")]):
        content = json.loads(path.read_text())
        rows = content.get("annotations", []) if isinstance(content, dict) else []
        if any(len(row.get("keypoints", ())) == 3 * len(COCO_SIGMAS) for row in rows):
            found.append(pytest.param(path, id=path.stem))
    return found or [
        pytest.param(None, marks=pytest.mark.skip(reason=f"no keypoint annotations in {DATA} and {REFERENCE}"))
    ]


def jittered(rows: list[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Detections of one image: the persons with joints, more or less exact, crowds and persons without joints roughly
    in their boxes, and some that nobody is near."""
    found = []
    for row in rows:
        x, y, w, h = row["bbox"]
        points = np.array(row["keypoints"], float).reshape(-1, 3)
        anywhere = rng.uniform((x, y), (x + w, y + h), (len(points), 2))
        for noise in (0.5, 2.0):
            near = points[:, :2] + noise * np.sqrt(row["area"]) * np.array(COCO_SIGMAS)[:, None] * rng.normal(
                0, 1, (len(points), 2)
            )
            joints = np.where(points[:, 2:] > 0, near, anywhere)
            found.append({"joints": joints, "score": rng.random()})
    for _ in range(3):
        found.append({"joints": rng.uniform(0, 400, (len(COCO_SIGMAS), 2)), "score": rng.random()})
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", keypoint_files())
def test_the_numbers_of_jittered_truth_are_those_of_pycocotools(path: Path, backend: str):
    rng = np.random.default_rng(0)
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(str(path))
    (category,) = official.getCatIds()
    metric = CocoAP(["person"], backend=backend, iou_type="keypoints", sigmas=COCO_SIGMAS)
    results = []
    for image_id in official.getImgIds():
        rows = official.loadAnns(official.getAnnIds(image_id))
        found = jittered(rows, rng)
        for one in found:
            flat = np.concatenate([one["joints"], np.ones((len(COCO_SIGMAS), 1))], 1).ravel().tolist()
            results.append({"image_id": image_id, "category_id": category, "keypoints": flat, "score": one["score"]})
        boxes = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth: Objects = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.zeros(len(rows), dtype=torch.long),
            "crowd": torch.tensor([bool(row["iscrowd"]) for row in rows]),
            "area": torch.tensor([row["area"] for row in rows], dtype=torch.float64),
            "joints": torch.tensor([row["keypoints"] for row in rows], dtype=torch.float64).reshape(
                -1, len(COCO_SIGMAS), 3
            ),
        }
        joints = torch.from_numpy(np.stack([one["joints"] for one in found]))
        detections = {
            "boxes": torch.cat([joints.amin(1), joints.amax(1)], -1)[None],
            "scores": torch.tensor([[one["score"] for one in found]], dtype=torch.float64),
            "labels": torch.zeros(1, len(found), dtype=torch.long),
            "joints": joints[None],
        }
        metric.update(detections, stack_objects([truth]), torch.tensor([image_id]))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(official, official.loadRes(results), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    numbers = metric.compute()
    wanted = np.where(evaluator.stats < 0, np.nan, evaluator.stats)  # -1: no person of this size
    np.testing.assert_allclose([numbers[name].item() for name in NAMES], wanted, atol=1e-6)
    assert 0.1 < numbers["AP"] < 0.95
