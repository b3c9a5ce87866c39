"""Measure speed: `python scripts/benchmark.py data data=coco data.root=DIR`, `... encode`, `... decode`, `... kitti`.

data: images per second of one worker through the whole training data path (read, warp, color, objects, collate),
beside the rate of a bare `cv2.imread` of the same files in the same run.

encode: milliseconds from the objects of a training batch to targets, for the task and data of a training: `encode
task=multi_pose data=figures data.batch_size=16 resolution=[512,512]`.

decode: milliseconds from raw maps to detections for every task, on a GPU if available, else the CPU: 16 images of 512 x
512 with 100 detections each (or `batch=N`, `side=N`, `k=N`).

kitti: seconds of KITTI's evaluation on synthetic frames, as many as in its validation set (or `frames=N`), with 50
detections per frame (or `detections=N`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import torch

from centernet.app import CONFIGS, understand_groups
from centernet.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("data", "encode", "decode", "kitti"))
    parser.add_argument("--rounds", type=int, default=5, help="passes over the files; the best one counts (default: 5)")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="as for train.py: data=coco data.root=DIR resolution=[512,512]; decode: batch=N side=N k=N; "
        "kitti: frames=N detections=N",
    )
    args = parser.parse_intermixed_args()  # options may be mixed with overrides
    try:
        if args.kind == "data":
            benchmark_data(args.overrides, args.rounds)
        elif args.kind == "encode":
            benchmark_encode(args.overrides, args.rounds)
        elif args.kind == "decode":
            benchmark_decode(args.rounds, **_counts(args.overrides, ("batch", "side", "k")))
        else:
            benchmark_kitti(**_counts(args.overrides, ("frames", "detections")))
    except InputError as error:
        sys.exit(f"error: {error}")


def benchmark_data(overrides: list[str], rounds: int) -> None:
    """Print the rate of one worker and of bare reading, on one core, alternating so both see the same machine load."""
    from centernet.data.datamodule import SeededSampler, collate

    _, data = _compose(overrides)
    dataset = data.datasets["train"]
    cv2.setNumThreads(0)
    batch = min(data.batch_size, len(dataset))
    sampler = SeededSampler(dataset, num_replicas=1, rank=0, seed=0)

    def whole() -> None:
        waiting = []
        for draw in sampler:
            waiting.append(dataset[draw])
            if len(waiting) == batch:
                collate(waiting)
                waiting = []

    def bare() -> None:
        for file in dataset.files:
            cv2.imread(file)

    path_rate = bare_rate = 0.0
    for epoch in range(rounds):
        sampler.set_epoch(epoch)
        path_rate = max(path_rate, _rate(whole, len(dataset)))
        bare_rate = max(bare_rate, _rate(bare, len(dataset)))
    height, width = data.resolution
    print(f"{len(dataset)} images of {data.root}, input {height}x{width}, one core, best of {rounds} rounds")
    print(f"data path    {path_rate:7.1f} images/s  (read, warp, color, objects, collate)")
    print(f"cv2.imread   {bare_rate:7.1f} images/s")
    print(f"ratio        {path_rate / bare_rate:7.2f}")


def benchmark_encode(overrides: list[str], rounds: int) -> None:
    """Print how long the targets of one training batch take; the median of ``rounds``."""
    from centernet.build import plain
    from centernet.data.datamodule import collate
    from centernet.tasks import build_task

    cfg, data = _compose(overrides)
    dataset = data.datasets["train"]
    count = min(data.batch_size, len(dataset))
    batch = collate([dataset[n] for n in range(count)])
    options = plain(cfg.task)
    task = build_task(options.pop("name"), len(data.class_names), data.facts, **options)
    size = tuple(side // task.stride for side in data.resolution)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objects = {name: value.to(device) for name, value in batch["objects"].items()}
    taken = _median(lambda: task.encode(objects, size), rounds, device)
    most = objects["valid"].sum(1).tolist()
    print(
        f"{task.name}: {count} images of {data.resolution}, {sum(most)} objects, {task.num_classes} classes, {device}"
    )
    print(f"encode       {taken:7.2f} ms a batch")


def _compose(overrides: list[str]) -> tuple[Any, Any]:
    """The configuration of a training, and its data, set up."""
    from hydra import compose, initialize_config_dir

    from centernet.build import build_datamodule

    understand_groups(overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides)
    data = build_datamodule(cfg.data)
    data.prepare_data()
    data.setup("fit")
    return cfg, data


@torch.inference_mode()
def benchmark_decode(rounds: int, batch: int = 16, side: int = 512, k: int = 100) -> None:
    """Print how long each task takes to activate and decode a batch of random maps; the median of ``rounds``."""
    from centernet.tasks import build_task, task_names

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"batch {batch}, {side}x{side}, {k} detections an image, {device}, {torch.get_num_threads()} threads, seed 0")
    counts = (1, 3, 80)
    print(f"{'ms with':<12}" + "".join(f"{f'{n} class' + 'es' * (n > 1):>12}" for n in counts))
    for name in task_names():
        times = []
        for classes in counts:
            task = build_task(name, classes, heatmap={"max_detections": k})
            generator = torch.Generator().manual_seed(0)
            size = (side // task.stride, side // task.stride)
            maps = {
                head: torch.randn(batch, about.channels, *size, generator=generator).to(device)
                - (4 if about.is_heatmap else 0)
                for head, about in task.heads.items()
            }
            times.append(_median(lambda task=task, maps=maps: task.detect(maps), rounds, device))
        print(f"{name:<12}" + "".join(f"{taken:12.1f}" for taken in times))


def _median(work: Callable[[], Any], rounds: int, device: torch.device) -> float:
    """Median milliseconds of ``work``, after one warm-up round."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return 1000 * float(np.median(taken[1:]))


def benchmark_kitti(frames: int = 3769, detections: int = 50) -> None:
    """Print the seconds to add and evaluate this many synthetic frames."""
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


def _counts(words: list[str], known: tuple[str, ...]) -> dict[str, int]:
    """``name=N`` words as numbers."""
    counts = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known or not value.isdigit() or int(value) < 1:
            raise InputError(f"{word!r} is not an option here; use {' or '.join(f'{name}=N' for name in known)}")
        counts[name] = int(value)
    return counts


def _rate(work: Callable[[], None], count: int) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


__all__: Iterable[str] = ("benchmark_data", "benchmark_decode", "benchmark_encode", "benchmark_kitti")

if __name__ == "__main__":
    main()
