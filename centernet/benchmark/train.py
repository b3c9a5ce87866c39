"""The whole training step as `python train.py` makes it: images per second, where its time goes, its memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from centernet.benchmark.made import training_parts
from centernet.benchmark.record import Record, table
from centernet.benchmark.timing import PeakMemory, in_own_process
from centernet.errors import InputError

TRACED = 3  # steps in which operators are counted, after those that are timed


def measure_train(overrides: Sequence[str], rounds: int, warmup: int = 3, operators: int = 10) -> Record:
    """Print and record the time of ``rounds`` training steps by part, and the operators that take longest.

    ``overrides``: as for `python train.py`. The training is Lightning's, with the callbacks of the configuration, in a
    process of its own; a GPU is waited for after each part (``callbacks.profile``).
    """
    found = in_own_process(_train, list(overrides), rounds, warmup, operators)
    if len(found["steps"]) < rounds:
        raise InputError(f"train: only {len(found['steps'])} of {rounds} steps were made; lower --rounds")
    about = found["about"]
    record = Record("train", {"overrides": list(overrides), **about, "warmup": warmup})
    network = {"network": about["network"]}
    for part in found["steps"][0]:
        taken = [1000 * step[part] for step in found["steps"]]
        record.add_many({**network, "part": part}, "time", "ms", taken)
    rates = [about["batch"] / step["step"] for step in found["steps"]]
    record.add_many(network, "rate", "images/s", rates, "more")
    record.add(network, "memory", "MB", found["memory"])
    shown = table(record.rows)
    for name, each in found["operators"]:
        record.add({**network, "operator": name}, "self time", "ms", each)
    print("{network}, {task}, {height}x{width}, batch {batch}, {precision}, {device}".format(**about))
    print(shown)
    if found["operators"]:
        print(f"\nlargest operators, ms a step by themselves, in {TRACED} steps")
        print("\n".join(f"{name:<60}{each:10.2f}" for name, each in found["operators"]))
    return record


def _train(overrides: list[str], rounds: int, warmup: int, operators: int) -> dict[str, Any]:
    """Seconds of every step by part, the largest operators, and megabytes at the peak."""
    from centernet.app import _quiet

    _quiet()  # before anything imports Lightning
    from centernet.build import build_module, build_trainer
    from centernet.callbacks.profile import Profile

    steps = warmup + rounds + TRACED
    words = ["debug=profile", *overrides, "logger=csv", f"trainer.max_steps={steps}"]
    words += [f"callbacks.profile.{key}={n}" for key, n in (("warmup", warmup), ("steps", rounds), ("traced", TRACED))]
    cfg, data = training_parts(words)
    with tempfile.TemporaryDirectory() as folder:
        cfg.paths.run = folder
        trainer = build_trainer(cfg)
        module = build_module(cfg, data.class_names, data.facts)
        profile = next(callback for callback in trainer.callbacks if isinstance(callback, Profile))
        device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
        watched = PeakMemory(device)
        trainer.fit(module, data)
        memory = watched.growth()
        largest = profile.largest_operators(operators)
    height, width = data.resolution
    about = {
        "network": module.backbone["name"],
        "task": module.task.name,
        "height": height,
        "width": width,
        "batch": min(data.batch_size, len(data.datasets["train"])),
        "precision": str(trainer.precision),
        "device": device,
        "threads": torch.get_num_threads(),
    }
    return {"about": about, "steps": profile.each, "operators": largest, "memory": memory}
