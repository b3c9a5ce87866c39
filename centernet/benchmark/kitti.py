"""KITTI's evaluation on made-up frames, as many as in its validation set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from centernet.benchmark.record import Record


def measure_kitti(frames: int = 3769, detections: int = 50) -> Record:
    """Print and record the seconds to add and evaluate this many synthetic frames."""
    from centernet.metrics.kitti import KittiAP

    metric = KittiAP(["Car", "Pedestrian", "Cyclist"])
    batches = list(_kitti_frames(frames, detections))
    started = time.perf_counter()
    for found, truth, ids in batches:
        metric.update(found, truth, ids)
    added = time.perf_counter()
    results = metric.compute()
    ended = time.perf_counter()
    objects = sum(row["objects"] for row in metric.per_class.values())
    print(f"{frames} frames, {objects} objects, {detections} detections a frame, 3 classes, seed 0")
    print(f"update       {added - started:7.2f} s")
    print(f"compute      {ended - added:7.2f} s  (AP_3d {100 * float(results['AP_3d']):.2f} %)")
    print(f"together     {ended - started:7.2f} s")
    record = Record("kitti", {"frames": frames, "detections": detections})
    for name, seconds in (("update", added - started), ("compute", ended - added), ("together", ended - started)):
        record.add({"step": name}, "time", "s", seconds)
    return record


def _kitti_frames(frames: int, detections: int, batch: int = 16) -> Iterator[tuple[Any, Any, torch.Tensor]]:
    """Batches of detections, truth and image ids: street-like frames, detections around the objects and elsewhere."""
    random = np.random.default_rng(0)
    typical = np.array([[1.53, 1.63, 3.88], [1.76, 0.66, 0.84], [1.74, 0.6, 1.76]])  # of KITTI's objects, in meters
    most = 16

    def solids(labels: np.ndarray, location: np.ndarray) -> dict[str, np.ndarray]:
        dimensions = typical[labels] * random.uniform(0.9, 1.1, (*labels.shape, 1))
        return {"dimensions": dimensions, "location": location, "yaw": random.uniform(-np.pi, np.pi, labels.shape)}

    def seen(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x, y, z = np.moveaxis(rows["location"], -1, 0)
        height, width = 720 * rows["dimensions"][..., 0] / z, 720 * rows["dimensions"][..., 1:].mean(-1) / z
        u, v = 610 + 720 * x / z, 173 + 720 * y / z
        boxes = np.stack([u - width / 2, v - height, u + width / 2, v], -1).clip(0, 1241)
        return {**rows, "boxes": boxes, "alpha": rows["yaw"] - np.arctan2(x, z)}

    for start in range(0, frames, batch):
        shape = (min(batch, frames - start), most)
        labels = random.choice(3, shape, p=[0.75, 0.17, 0.08])
        place = np.stack(
            [random.uniform(-15, 15, shape), random.uniform(1.4, 1.8, shape), random.uniform(6, 60, shape)]
        )
        truth = seen(solids(labels, np.moveaxis(place, 0, -1)))
        kind = random.choice(4, shape, p=[0.8, 0.08, 0.02, 0.1])  # an object, its neighbor, a truck, DontCare
        truth |= {"labels": np.where(kind == 3, -1, labels), "crowd": kind > 0, "neutral": kind == 1}
        truth |= {"truncation": random.choice([0, 0, 0, 0.2, 0.4], shape), "occlusion": random.integers(0, 4, shape)}
        truth["valid"] = np.arange(most) < random.integers(2, most, shape[0])[:, None]
        near = random.integers(0, most, (shape[0], detections))
        rows = np.arange(shape[0])[:, None]
        spread = random.choice([0.05, 0.3, 3], (*near.shape, 1)) * random.normal(size=(*near.shape, 3))
        found = solids(labels[rows, near], truth["location"][rows, near] + spread * [1, 0.2, 1])
        found["location"][..., 2] = found["location"][..., 2].clip(3)
        found["yaw"] = truth["yaw"][rows, near] + random.normal(0, 0.2, near.shape)
        found = seen(found) | {"labels": labels[rows, near], "scores": -np.sort(-random.random(near.shape))}
        yield (
            {name: torch.from_numpy(value) for name, value in found.items()},
            {name: torch.from_numpy(value) for name, value in truth.items()},
            torch.arange(start, start + shape[0]),
        )
