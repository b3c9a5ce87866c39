"""COCO average precision as a torchmetrics Metric.

The protocols of cocodataset.org for boxes and for keypoints (ten thresholds, 101 recall points, areas 32^2 and 96^2,
crowds count neither way), computed by faster-coco-eval or, on request, by pycocotools; both give the same numbers.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from centernet.machine import without_garbage_collection
from centernet.metrics.rows import Columns, ImageMetric
from centernet.metrics.voc import area_under, eleven_points, voc_curve
from centernet.ops.boxes import xywh_from_xyxy
from centernet.structures import Detections, InputError, Objects

BACKENDS = ("faster-coco-eval", "pycocotools")
ROWS_AT_ONCE = 2**15  # objects and detections that a library gets in one go, each about 2 KB there
UNKNOWN = -1  # whether an object is difficult, in data that does not say so


class Protocol(NamedTuple):
    """COCO's protocol: suffixes of the areas after `all`, and maximum detections per image and class."""

    areas: tuple[str, ...]
    most: tuple[int, ...]


PROTOCOLS = {"bbox": Protocol(("s", "m", "l"), (1, 10, 100)), "keypoints": Protocol(("m", "l"), (20,))}


class CocoAP(ImageMetric):
    """AP and AR of boxes, or of joints and boxes, in image pixels.

    ``iou_type`` bbox: ``compute()`` returns ``AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl`` in 0 ..
    1, NaN without ground truth (-1 in pycocotools); the best 100 detections of an image count. ``per_class`` then holds
    ``{name: {AP, AP50, AR100, objects}}``.

    ``iou_type`` keypoints: detections also have ``joints [.., J, 2]``, truth has ``joints [.., J, 3]``, and ``sigmas``
    are the J standard deviations of the object keypoint similarity. ``compute()`` returns ``AP, AP50, AP75, APm, APl,
    AR, AR50, AR75, ARm, ARl`` of the joints (the best 20 detections of an image count; truth without a labeled joint is
    ignored) and ``box_AP, box_AP50, box_AP75`` of the boxes; ``per_class`` holds ``{name: {AP, AP50, box_AP,
    objects}}``.

    ``curves`` holds the precision at AP50's overlap of every class and of their mean.

    Truth with the field ``difficult`` is Pascal VOC's: ``VOC07_AP`` (11 points) and ``VOC_AP`` (area) at an overlap of
    0.5, means of the classes with objects, come beside these numbers (``centernet.metrics.voc``).

    Works across processes; images duplicated by distributed padding count once. Raises ``InputError`` if sigmas are
    missing or do not fit the joints.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        backend: str = "faster-coco-eval",
        iou_type: str = "bbox",
        sigmas: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if backend not in BACKENDS:
            raise InputError(f"CocoAP: backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
        if iou_type not in PROTOCOLS:
            raise InputError(f"CocoAP: iou_type={iou_type!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
        self.sigmas = np.array(() if sigmas is None or iou_type == "bbox" else sigmas, np.float64)
        count = len(self.sigmas)
        if iou_type == "keypoints" and not (count and (self.sigmas > 0).all()):
            raise InputError(f"CocoAP: sigmas={sigmas} is invalid; give one positive number per joint")
        super().__init__(
            detection_fields={"boxes": 4, "scores": 1, "labels": 1} | ({"joints": 2 * count} if count else {}),
            truth_fields={"boxes": 4, "labels": 1, "crowd": 1, "area": 1, "difficult": 1}
            | ({"joints": 3 * count} if count else {}),
            **kwargs,
        )
        self.class_names, self.backend, self.iou_type = list(class_names), backend, iou_type
        boxes = ("box_AP",) if count else ()
        self.headline = ("AP", "AP50", *boxes)
        self.plotted = ("AP", "AP50", "AP75", *(f"AP{suffix}" for suffix in PROTOCOLS[iou_type].areas), *boxes)

    def update(self, detections: Detections, truth: Objects, image_id: Tensor) -> None:
        for name, side in (("detections", detections), ("truth", truth)):
            if len(self.sigmas) and side["joints"].shape[-2] != len(self.sigmas):
                raise InputError(
                    f"CocoAP: {name} have {side['joints'].shape[-2]} joints but there are {len(self.sigmas)} sigmas; "
                    "give one per joint"
                )
        if "difficult" not in truth:
            truth = {**truth, "difficult": torch.full_like(truth["labels"], UNKNOWN)}
        super().update(detections, truth, image_id)

    def compute(self) -> dict[str, Tensor]:
        rows = self.collected()
        precision, recall = _evaluate(*rows, len(self.class_names), self.backend)
        results = _summarize(precision, recall, "bbox")
        columns = {"AP": precision, "AP50": precision[:1], "AR100": recall}
        if self.iou_type == "keypoints":
            joints = _evaluate(*rows, len(self.class_names), self.backend, self.sigmas)
            of_boxes = {f"box_{name}": results[name] for name in ("AP", "AP50", "AP75")}
            results = _summarize(*joints, "keypoints") | of_boxes
            columns = {"AP": joints[0], "AP50": joints[0][:1], "box_AP": precision}
        at_50 = columns["AP50"][0, ..., 0, -1]
        at_50 = np.where(at_50 < 0, np.nan, at_50)  # [recalls, classes]
        self.curves = {"mean of classes": np.array([_mean(values) for values in at_50])}
        self.curves |= dict(zip(self.class_names, at_50.T, strict=True))
        truth = rows[2]
        objects = np.bincount(truth["labels"][truth["crowd"] == 0].astype(int), minlength=len(self.class_names))
        voc = _voc_of_classes(rows[1], truth, len(self.class_names)) if (truth["difficult"] != UNKNOWN).any() else {}
        results |= {name: _mean_defined(values) for name, values in voc.items()}
        self.per_class = {
            name: {column: _mean(values[..., label, 0, -1]) for column, values in columns.items()}
            | {column: values[label] for column, values in voc.items()}
            | {"objects": int(objects[label])}
            for label, name in enumerate(self.class_names)
        }
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in results.items()}


def _evaluate(
    images: np.ndarray,
    detections: Columns,
    truth: Columns,
    num_classes: int,
    backend: str,
    sigmas: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """precision ``[T, R, K, A, M]`` and recall ``[T, K, A, M]`` (-1 = undefined) of the boxes, or, with ``sigmas``, of
    the joints.

    Both libraries take a dictionary for each row, and keep several copies of it. Classes are independent of each other,
    so that a few of them are evaluated at a time, on the images that have anything of them.
    """
    sides = [_by_class(side) for side in (_best(detections, PROTOCOLS[_kind(sigmas)].most[-1]), truth)]
    starts = [np.searchsorted(side["labels"], np.arange(num_classes + 1)) for side in sides]
    parts = []
    with without_garbage_collection():
        for first, end in _class_groups(sum(starts)):
            some = [
                {name: values[start[first] : start[end]] for name, values in side.items()}
                for side, start in zip(sides, starts, strict=True)
            ]
            shown = images[np.unique(np.concatenate([side["image"] for side in some])).astype(np.int64)]
            parts.append(_evaluate_classes(images, shown, *some, range(first, end), backend, sigmas))
    precision, recall = zip(*parts, strict=True)
    return np.concatenate(precision, 2), np.concatenate(recall, 1)


def _kind(sigmas: np.ndarray | None) -> str:
    return "bbox" if sigmas is None else "keypoints"


def _by_class(rows: Columns) -> Columns:
    """Rows by rising class, those of a class in their order."""
    order = np.argsort(rows["labels"], kind="stable")
    return {name: values[order] for name, values in rows.items()}


def _class_groups(starts: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of classes (first, end) of at most ``ROWS_AT_ONCE`` rows, or of one class; ``starts [K + 1]``: the first
    row of each class."""
    groups, first = [], 0
    for label in range(1, len(starts) - 1):
        if starts[label + 1] - starts[first] > ROWS_AT_ONCE:
            groups.append((first, label))
            first = label
    return [*groups, (first, len(starts) - 1)]


def _evaluate_classes(
    images: np.ndarray,
    shown: np.ndarray,
    detections: Columns,
    truth: Columns,
    classes: range,
    backend: str,
    sigmas: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The same for the rows of these classes, which lie in the images with the ids ``shown``."""
    iou_type = _kind(sigmas)
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        for rows in (_truth_rows(images, truth), _result_rows(images, detections, iou_type)):
            side = COCO()
            side.dataset = {
                "images": [{"id": int(image)} for image in shown],
                "annotations": rows,
                "categories": [{"id": label, "name": str(label)} for label in classes],
            }
            side.createIndex()
            sides.append(side)
        evaluator = COCOeval(*sides, iou_type)
        evaluator.params.maxDets = list(PROTOCOLS[iou_type].most)  # the protocol's, however many detections there are
        evaluator.params.catIds = list(classes)  # also those without truth
        if sigmas is not None:
            evaluator.params.kpt_oks_sigmas = sigmas
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _truth_rows(images: np.ndarray, truth: Columns) -> list[dict[str, Any]]:
    """Truth as COCO's annotations."""
    boxes = xywh_from_xyxy(torch.from_numpy(truth["boxes"])).tolist()
    rows = [
        {
            "id": n + 1,
            "image_id": int(images[image]),
            "category_id": int(label),
            "bbox": box,
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for n, (image, box, label, crowd, area) in enumerate(
            zip(truth["image"], boxes, *(truth[name] for name in ("labels", "crowd", "area")), strict=True)
        )
    ]
    if "joints" in truth:
        labeled = (truth["joints"][:, 2::3] > 0).sum(1).tolist()
        for row, joints, count in zip(rows, truth["joints"].tolist(), labeled, strict=True):
            row |= {"keypoints": joints, "num_keypoints": count}
    return rows


def _result_rows(images: np.ndarray, detections: Columns, iou_type: str) -> list[dict[str, Any]]:
    """Detections as both libraries load COCO's result files: with ids, and the area of the boxes or of the joints'
    extent, which assigns unmatched detections to an area."""
    rows: list[dict[str, Any]] = [
        {"id": n + 1, "image_id": int(images[image]), "category_id": int(label), "score": float(score), "iscrowd": 0}
        for n, (image, label, score) in enumerate(
            zip(*(detections[name] for name in ("image", "labels", "scores")), strict=True)
        )
    ]
    if iou_type == "bbox":
        sides = detections["boxes"][:, 2:] - detections["boxes"][:, :2]
        shapes = {"bbox": np.concatenate([detections["boxes"][:, :2], sides], 1).tolist()}
    else:
        points = detections["joints"].reshape(len(rows), detections["joints"].shape[1] // 2, 2)
        low, sides = points.min(1), np.ptp(points, axis=1)
        flat = np.concatenate([points, np.ones_like(points[..., :1])], -1).reshape(len(rows), 3 * points.shape[1])
        shapes = {"keypoints": flat.tolist(), "bbox": np.concatenate([low, sides], 1).tolist()}
    for row, area, *values in zip(rows, sides.prod(1).tolist(), *shapes.values(), strict=True):
        row |= {"area": area, **dict(zip(shapes, values, strict=True))}
    return rows


def _best(detections: Columns, most: int) -> Columns:
    """The best ``most`` detections of each image and class; equal scores keep their order."""
    order = np.lexsort((-detections["scores"], detections["labels"], detections["image"]))
    pairs = np.stack([detections["image"][order], detections["labels"][order]], 1)
    _, first, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    kept = order[np.arange(len(order)) - first[group.reshape(-1)] < most]
    return {name: values[kept] for name, values in detections.items()}


def _voc_of_classes(detections: Columns, truth: Columns, num_classes: int) -> dict[str, list[float]]:
    """VOC's numbers of each class."""
    curves = [voc_curve(detections, truth, label) for label in range(num_classes)]
    return {"VOC07_AP": [eleven_points(curve) for curve in curves], "VOC_AP": [area_under(curve) for curve in curves]}


def _mean_defined(values: Sequence[float]) -> float:
    defined = [value for value in values if value == value]
    return float(np.mean(defined)) if defined else float("nan")


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _summarize(precision: np.ndarray, recall: np.ndarray, iou_type: str) -> dict[str, float]:
    """The official numbers. Axes: threshold 0.50 .. 0.95, recall, class, area, detections."""
    areas, most = PROTOCOLS[iou_type]
    results = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    results |= {f"AP{suffix}": precision[..., column, -1] for column, suffix in enumerate(areas, start=1)}
    if iou_type == "keypoints":
        results |= {"AR": recall[..., 0, -1], "AR50": recall[0, ..., 0, -1], "AR75": recall[5, ..., 0, -1]}
    else:
        results |= {f"AR{count}": recall[..., 0, column] for column, count in enumerate(most)}
    results |= {f"AR{suffix}": recall[..., column, -1] for column, suffix in enumerate(areas, start=1)}
    return {name: _mean(values) for name, values in results.items()}
