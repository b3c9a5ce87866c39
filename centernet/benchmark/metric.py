"""COCO's evaluation of made-up detections: seconds and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from centernet.benchmark.record import Record, table
from centernet.benchmark.timing import PeakMemory, in_own_process
from centernet.errors import InputError

SIZES = {"images": 5000, "detections": 100, "classes": 80, "objects": 7}  # as val2017 of COCO has them


def measure_metric(rounds: int, backend: str = "faster-coco-eval", **sizes: int) -> Record:
    """Print and record the seconds to add and to evaluate this many made-up images, and the memory at the peak beyond
    the made-up content. In a process of its own, so that the memory is that of the evaluation."""
    from centernet.metrics.coco import BACKENDS

    if backend not in BACKENDS:
        raise InputError(f"metric: --backend {backend} is unknown; choose one of {', '.join(BACKENDS)}")
    given = {**SIZES, **sizes}
    taken, memory, found = in_own_process(_measure, given, backend, rounds)
    record = Record("metric", {**given, "backend": backend, "rounds": rounds})
    print(
        "{images} images, {objects} objects and {detections} detections each, {classes} classes, seed 0".format(**given)
        + f", {backend} (AP {found:.4f})"
    )
    for step, values in taken.items():
        record.add_many({"backend": backend, "step": step}, "time", "s", values)
    record.add({"backend": backend}, "memory", "MB", memory)
    record.add({"backend": backend}, "AP", "", found, "neither")
    print(table(record.rows[:-1]))
    return record


def _measure(given: dict[str, int], backend: str, rounds: int) -> tuple[dict[str, list[float]], float, float]:
    from centernet.metrics.coco import CocoAP

    batches = list(coco_batches(**given))
    # Libraries are not counted: they are imported by a first, tiny evaluation.
    tiny = CocoAP(["a"], backend=backend)
    for found, truth, ids in coco_batches(2, 1, 1, 1):
        tiny.update(found, truth, ids)
    tiny.compute()
    watched = PeakMemory()
    taken: dict[str, list[float]] = {"update": [], "compute": [], "together": []}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        metric = CocoAP([f"class {n}" for n in range(given["classes"])], backend=backend)
        started = time.perf_counter()
        for found, truth, ids in batches:
            metric.update(found, truth, ids)
        added = time.perf_counter()
        results = metric.compute()
        ended = time.perf_counter()
        for name, seconds in (("update", added - started), ("compute", ended - added), ("together", ended - started)):
            taken[name].append(seconds)
    return taken, watched.growth(), float(results["AP"])


def coco_batches(
    images: int, detections: int, classes: int, objects: int, batch: int = 16
) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]]:
    """Batches of detections, truth and image ids, as the metric takes them: boxes of COCO's sizes in images of 480 x
    640, detections near the objects and elsewhere, some objects crowds. Between none and twice ``objects`` per
    image."""
    random = np.random.default_rng(0)
    most = max(2 * objects, 1)
    for start in range(0, images, batch):
        count = min(batch, images - start)
        size = np.exp(random.normal(4, 1, (count, most, 2))).clip(4, 400)
        corner = random.uniform(0, 1, (count, most, 2)) * (np.array([640, 480]) - size)
        truth = {
            "boxes": np.concatenate([corner, corner + size], -1),
            "labels": random.integers(0, classes, (count, most)),
            "crowd": random.random((count, most)) < 0.01,
            "area": size.prod(-1) * 0.6,
            "valid": np.arange(most) < random.integers(0, most + 1, count)[:, None],
        }
        near, rows = random.integers(0, most, (count, detections)), np.arange(count)[:, None]
        around = truth["boxes"][rows, near]
        spread = np.tile(size[rows, near], 2) * random.choice([0.03, 0.1, 1], (count, detections, 1))
        low, high = np.split(around + spread * random.normal(0, 0.5, (count, detections, 4)), 2, -1)
        found = {
            "boxes": np.concatenate([np.minimum(low, high), np.maximum(low, high) + 1], -1).astype(np.float32),
            "scores": -np.sort(-random.random((count, detections)).astype(np.float32)),
            "labels": np.where(
                random.random((count, detections)) < 0.8,
                truth["labels"][rows, near],
                random.integers(0, classes, (count, detections)),
            ),
        }
        yield (
            {name: torch.from_numpy(value) for name, value in found.items()},
            {name: torch.from_numpy(value) for name, value in truth.items()},
            torch.arange(start, start + count),
        )
