"""Setting up a data set as large as COCO's train2017, and the memory of its workers in the course of an epoch."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from centernet.benchmark.record import Record


def measure_startup(images: int = 118_000, boxes: int = 860_000, workers: int = 2) -> Record:
    """Print and record the seconds of two set-ups with masks, and the private memory of the workers of one epoch."""
    from centernet.data.coco import CocoDataModule

    record = Record("startup", {"images": images, "boxes": boxes, "workers": workers})
    augment = {"visible_boxes": True, "color": None}
    with tempfile.TemporaryDirectory() as folder:
        path = _write_large(Path(folder), "train", images, boxes)
        _write_large(Path(folder), "val", 10, 10)
        print(f"{images} images, {boxes} boxes, {path.stat().st_size / 1e6:.0f} MB of json, {workers} workers, seed 0")
        for start in ("first", "second"):
            data = CocoDataModule(folder, resolution=(64, 64), batch_size=100, num_workers=workers, augment=augment)
            started, used = time.perf_counter(), time.process_time()
            data.setup("fit")
            started, used = time.perf_counter() - started, time.process_time() - used
            print(f"{start + ' start':<13}{started:7.1f} s  ({used:.1f} s of one core)")
            record.add({"start": start}, "time", "s", started)
            record.add({"start": start}, "processor time", "s", used)
        loader = data.train_dataloader()
        shown = {1, len(loader) // 10, len(loader) // 2, len(loader)}
        print(f"epoch of {len(loader)} batches, private memory of each worker")
        for n, _ in enumerate(loader, 1):
            if n in shown:
                memory = _private_memory()
                print(f"batch {n:<7}" + ", ".join(f"{mebibytes:7.1f}" for mebibytes in memory) + " MiB")
                for worker, mebibytes in enumerate(memory):
                    record.add({"batch": n, "worker": worker}, "private memory", "MB", mebibytes)
    return record


def _write_large(folder: Path, split: str, images: int, boxes: int) -> Path:
    """A split in COCO's layout: links to a few small files, and outlines as long as COCO's; returns the json."""
    random = np.random.default_rng(0)
    height, width, points = 120, 160, 31
    (folder / split).mkdir()
    (folder / "annotations").mkdir(exist_ok=True)
    drawn = [folder / f"{split}_{n}.jpg" for n in range(16)]
    for file in drawn:
        cv2.imwrite(str(file), cv2.resize(random.integers(0, 256, (3, 4, 3), np.uint8), (width, height)))
    listed = []
    for n in range(images):
        name = f"{n:012d}.jpg"
        os.link(drawn[n % len(drawn)], folder / split / name)
        listed.append({"id": n + 1, "file_name": name, "height": height, "width": width})
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    path = folder / "annotations" / f"instances_{split}.json"
    categories = [{"id": n + 1, "name": f"class {n}"} for n in range(80)]
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(categories)}, "annotations": [')
        for start in range(0, boxes, 1000):
            count = min(1000, boxes - start)
            radius = random.uniform(4, 50, (count, 1, 2))
            center = random.uniform(radius, (width, height) - radius)
            outlines = (center + radius * ring * random.uniform(0.8, 1, (count, points, 1))).round(2)
            low = outlines.min(1)
            rows = [
                {
                    "segmentation": [outline],
                    "area": area,
                    "iscrowd": 0,
                    "image_id": image,
                    "bbox": box,
                    "category_id": (start + n) % len(categories) + 1,
                    "id": start + n + 1,
                }
                for n, (outline, area, image, box) in enumerate(
                    zip(
                        outlines.reshape(count, -1).tolist(),
                        (3.14159 * radius.prod(-1)[:, 0]).round(4).tolist(),
                        random.integers(1, images + 1, count).tolist(),
                        np.concatenate([low, outlines.max(1) - low], 1).round(2).tolist(),
                        strict=True,
                    )
                )
            ]
            file.write(("," if start else "") + json.dumps(rows, separators=(",", ":"))[1:-1])
        file.write("]}")
    return path


def _private_memory() -> list[float]:
    """MiB that belong to each child process alone."""
    memory = []
    for process in multiprocessing.active_children():
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        memory.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024)
    return memory
