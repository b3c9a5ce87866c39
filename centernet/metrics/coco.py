"""COCO average precision as a torchmetrics Metric.

The protocol of cocodataset.org (ten IoU thresholds, 101 recall points, areas 32^2 and 96^2, crowds neither hit nor
missed), computed by faster-coco-eval, or by pycocotools on request; both give the same numbers.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from centernet.metrics.rows import Columns, ImageMetric
from centernet.ops.boxes import xywh_from_xyxy

BACKENDS = ("faster-coco-eval", "pycocotools")
AREAS = {"s": "small", "m": "medium", "l": "large"}


class CocoAP(ImageMetric):
    """AP and AR of boxes in image pixels.

    ``compute()`` returns ``AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl`` in 0 .. 1, NaN where there
    is no ground truth (pycocotools says -1 there); the best 100 detections of an image count. ``per_class`` then holds
    ``{name: {AP, AP50, AR100, objects}}``. Works across processes: an image that distributed padding brought twice
    counts once.
    """

    def __init__(self, class_names: Sequence[str], backend: str = "faster-coco-eval", **kwargs: Any) -> None:
        super().__init__(
            detection_fields={"boxes": 4, "scores": 1, "labels": 1},
            truth_fields={"boxes": 4, "labels": 1, "crowd": 1, "area": 1},
            **kwargs,
        )
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
        self.class_names, self.backend = list(class_names), backend

    def compute(self) -> dict[str, Tensor]:
        evaluation = _evaluate(*self.collected(), len(self.class_names), self.backend)
        results, per_class = _summarise(*evaluation)
        self.per_class = {name: per_class[label] for label, name in enumerate(self.class_names)}
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in results.items()}


def _evaluate(
    images: np.ndarray, detections: Columns, truth: Columns, num_classes: int, backend: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """precision ``[T, R, K, A, M]``, recall ``[T, K, A, M]`` (-1 = undefined) and objects per class ``[K]``."""
    columns = (
        xywh_from_xyxy(torch.from_numpy(truth["boxes"])).numpy(),
        *(truth[n] for n in ("labels", "crowd", "area")),
    )
    annotations = [
        {
            "id": n + 1,
            "image_id": int(images[image]),
            "category_id": int(label),
            "bbox": box.tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for n, (image, box, label, crowd, area) in enumerate(zip(truth["image"], *columns, strict=True))
    ]
    boxes = xywh_from_xyxy(torch.from_numpy(detections["boxes"])).tolist()
    found = [
        {"image_id": int(images[image]), "category_id": int(label), "bbox": box, "score": float(score)}
        for image, box, label, score in zip(
            detections["image"], boxes, detections["labels"], detections["scores"], strict=True
        )
    ]
    objects = np.bincount([a["category_id"] for a in annotations if not a["iscrowd"]], minlength=num_classes)
    dataset = {
        "images": [{"id": int(image)} for image in images],
        "annotations": annotations,
        "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
    }
    max_dets = [1, 10, 100]  # the protocol's, however many detections there are
    shape = (10, 101, num_classes, 4, 3)
    if not annotations:
        return -np.ones(shape), -np.ones(shape[:1] + shape[2:]), objects
    if not found:
        precision = np.where(objects[None, None, :, None, None] > 0, 0.0, -np.ones(shape))
        return precision, precision[:, 0], objects
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluator.params.maxDets = max_dets
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"]), objects


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _summarise(
    precision: np.ndarray, recall: np.ndarray, objects: np.ndarray
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The twelve official numbers, and a row per class. Axes: IoU 0.50 .. 0.95, recall, class, area, detections."""
    results = {
        "AP": _mean(precision[:, :, :, 0, 2]),
        "AP50": _mean(precision[0, :, :, 0, 2]),
        "AP75": _mean(precision[5, :, :, 0, 2]),
    }
    for column, suffix in enumerate(AREAS, start=1):
        results[f"AP{suffix}"] = _mean(precision[:, :, :, column, 2])
    for column, name in enumerate(("AR1", "AR10", "AR100")):
        results[name] = _mean(recall[:, :, 0, column])
    for column, suffix in enumerate(AREAS, start=1):
        results[f"AR{suffix}"] = _mean(recall[:, :, column, 2])
    per_class = [
        {
            "AP": _mean(precision[:, :, label, 0, 2]),
            "AP50": _mean(precision[0, :, label, 0, 2]),
            "AR100": _mean(recall[:, label, 0, 2]),
            "objects": int(objects[label]),
        }
        for label in range(precision.shape[2])
    ]
    return results, per_class
