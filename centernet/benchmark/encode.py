"""From the objects of a training batch to targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from centernet.benchmark.made import counts, some_objects, training_parts
from centernet.benchmark.record import Record
from centernet.benchmark.timing import times

MADE_UP = {"batch": 32, "objects": 10, "classes": 80, "side": 512}


def measure_encode(words: Sequence[str], rounds: int, warmup: int = 1) -> Record:
    """Print and record how long the targets of one training batch take; medians of ``rounds``.

    ``words``: overrides of a training, whose first batch is encoded for its task; or ``batch=N objects=N classes=N
    side=N``, for made-up boxes and every task that learns from boxes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if words and all(word.partition("=")[0] in MADE_UP for word in words):
        return _measure_made_up({**MADE_UP, **counts(words, tuple(MADE_UP))}, rounds, warmup, device)
    return _measure_training(words, rounds, warmup, device)


def _measure_training(words: Sequence[str], rounds: int, warmup: int, device: torch.device) -> Record:
    from centernet.build import plain
    from centernet.data.datamodule import collate
    from centernet.tasks import build_task

    cfg, data = training_parts(words)
    dataset = data.datasets["train"]
    count = min(data.batch_size, len(dataset))
    batch = collate([dataset[n] for n in range(count)])
    options = plain(cfg.task)
    task = build_task(options.pop("name"), len(data.class_names), data.facts, **options)
    size = tuple(side // task.stride for side in data.resolution)
    objects = {name: value.to(device) for name, value in batch["objects"].items()}
    found = int(objects["valid"].sum())
    print(f"{task.name}: {count} images of {data.resolution}, {found} objects, {task.num_classes} classes, {device}")
    record = Record("encode", {"overrides": list(words), "images": count, "objects": found, "device": device.type})
    taken = times(lambda: task.encode(objects, size), rounds, device, warmup)
    row = record.add_many({"task": task.name}, "time", "ms", taken)
    print(f"encode       {row.value:7.2f} ms a batch")
    return record


def _measure_made_up(given: dict[str, Any], rounds: int, warmup: int, device: torch.device) -> Record:
    from centernet.tasks import build_task, task_names

    record = Record("encode", {**given, "device": device.type})
    made = some_objects(
        given["batch"], given["side"], given["classes"], given["objects"], torch.Generator().manual_seed(0)
    )
    objects = {name: value.to(device) for name, value in made.items()}
    print(
        f"{given['batch']} images of {given['side']}x{given['side']}, {given['objects']} objects each, "
        f"{given['classes']} classes, {device}, {torch.get_num_threads()} threads, seed 0"
    )
    for name in task_names():
        task = build_task(name, given["classes"])
        if missing := sorted(set(task.needs) - set(objects)):
            print(f"{name:<16} needs {', '.join(missing)}; give data that has them, such as task={name} data=NAME")
            continue
        size = (given["side"] // task.stride,) * 2
        taken = times(lambda task=task, size=size: task.encode(objects, size), rounds, device, warmup)
        row = record.add_many({"task": name}, "time", "ms", taken)
        print(f"{name:<16}{row.value:9.2f} ms a batch")
    return record
