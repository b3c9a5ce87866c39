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
from torchmetrics import Metric

from centernet.ops.boxes import xywh_from_xyxy
from centernet.structures import Detections, Objects

BACKENDS = ("faster-coco-eval", "pycocotools")
AREAS = {"s": "small", "m": "medium", "l": "large"}


class CocoAP(Metric):
    """AP and AR of boxes in image pixels.

    ``compute()`` returns ``AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl`` in 0 .. 1, NaN where there
    is no ground truth (pycocotools says -1 there); the best 100 detections of an image count. ``per_class`` then holds
    ``{name: {AP, AP50, AR100, objects}}``. Works across processes: an image that distributed padding brought twice
    counts once.
    """

    full_state_update = False

    def __init__(self, class_names: Sequence[str], backend: str = "faster-coco-eval", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
        self.class_names, self.backend = list(class_names), backend
        self.per_class: dict[str, dict[str, float]] = {}
        # A visit is one passing of one image through this metric; it ties rows to images and tells duplicates apart.
        self.add_state("images", [], dist_reduce_fx="cat")  # int64 [N, 2]: image id, visit
        self.add_state("detection_rows", [], dist_reduce_fx="cat")  # float [N, 6]: x1 y1 x2 y2 score label
        self.add_state("detection_visits", [], dist_reduce_fx="cat")  # int64 [N]
        self.add_state("truth_rows", [], dist_reduce_fx="cat")  # float [N, 7]: x1 y1 x2 y2 label crowd area
        self.add_state("truth_visits", [], dist_reduce_fx="cat")  # int64 [N]
        self._visits = 0

    def update(self, detections: Detections, truth: Objects, image_id: Tensor) -> None:
        """Add a batch: ``detections [B, K, ..]`` and padded ``truth [B, M, ..]`` in image pixels, ``image_id`` int
        ``[B]``."""
        count, k = detections["scores"].shape
        device = detections["scores"].device
        real = torch.float32 if device.type == "mps" else torch.float64
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        visit = torch.arange(count, device=device) + self._visits + (rank << 40)
        self._visits += count
        self.images.append(torch.stack([image_id.to(device).long(), visit], -1))
        rows = [detections["boxes"], detections["scores"][..., None], detections["labels"][..., None]]
        self.detection_rows.append(torch.cat([row.to(real) for row in rows], -1).flatten(0, 1))
        self.detection_visits.append(visit.repeat_interleave(k))
        valid = truth["valid"]
        fields = [truth["boxes"], *(truth[name][..., None] for name in ("labels", "crowd", "area"))]
        self.truth_rows.append(torch.cat([field.to(real) for field in fields], -1)[valid])
        self.truth_visits.append(visit[:, None].expand(valid.shape)[valid])

    def reset(self) -> None:
        super().reset()
        self._visits = 0

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank that saw no image must still take part in the gathering, with rows of the right shape.
        for name, width, dtype in (
            ("images", 2, torch.int64),
            ("detection_rows", 6, torch.float64),
            ("detection_visits", None, torch.int64),
            ("truth_rows", 7, torch.float64),
            ("truth_visits", None, torch.int64),
        ):
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                shape = (0,) if width is None else (0, width)
                getattr(self, name).append(torch.zeros(shape, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        rows = {name: _cat(getattr(self, name)) for name in self._defaults}
        evaluation = _evaluate(rows, len(self.class_names), self.backend)
        results, per_class = _summarise(*evaluation)
        self.per_class = {name: per_class[label] for label, name in enumerate(self.class_names)}
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in results.items()}


def _cat(state: list[Tensor] | Tensor) -> np.ndarray:
    if isinstance(state, Tensor):
        return state.cpu().numpy()
    return torch.cat(state).cpu().numpy() if state else np.zeros((0,))


def _evaluate(rows: dict[str, np.ndarray], num_classes: int, backend: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """precision ``[T, R, K, A, M]``, recall ``[T, K, A, M]`` (-1 = undefined) and objects per class ``[K]``."""
    images = rows["images"].reshape(-1, 2).astype(np.int64)
    _, first = np.unique(images[:, 0], return_index=True)
    image_of = {int(visit): int(image) for image, visit in images[first]}
    annotations = []
    for visit, row in zip(rows["truth_visits"], rows["truth_rows"], strict=True):
        if (image := image_of.get(int(visit))) is not None:
            x1, y1, x2, y2, label, crowd, area = row.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    boxes = xywh_from_xyxy(torch.from_numpy(rows["detection_rows"].reshape(-1, 6)[:, :4])).tolist()
    found = [
        {"image_id": image, "category_id": int(row[5]), "bbox": box, "score": float(row[4])}
        for visit, row, box in zip(rows["detection_visits"], rows["detection_rows"], boxes, strict=True)
        if (image := image_of.get(int(visit))) is not None
    ]
    objects = np.bincount([a["category_id"] for a in annotations if not a["iscrowd"]], minlength=num_classes)
    dataset = {
        "images": [{"id": int(image)} for image in images[first][:, 0]],
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
