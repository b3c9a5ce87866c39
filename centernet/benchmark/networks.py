"""What each network costs: parameters, multiply-accumulates, a training step by part, detection."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from centernet.benchmark.made import some_objects
from centernet.benchmark.record import Record
from centernet.benchmark.timing import in_own_process, times
from centernet.choices import defaults
from centernet.errors import InputError

RECOMMENDED = ("n", "s", "m")
PARTS = ("backbone", "neck", "head", "rest", "step", "detect 1")


def measure_networks(names: Sequence[str], size: tuple[int, int], batch: int, bf16: bool, rounds: int) -> Record:
    """Print and record what each network costs on this CPU, with the heads of the recommended task and three
    classes."""
    from centernet.tasks import build_task

    heads = build_task(usual_task(), 3).heads
    specs = [spec_of(name) for name in names]
    for name, spec in zip(names, specs, strict=True):
        require_size("networks", name, spec, size)
    kind = "bf16" if bf16 else "float32"
    settings = {"size": list(size), "batch": batch, "precision": kind, "rounds": rounds}
    record = Record("networks", settings)
    print(
        f"CPU, {torch.get_num_threads()} threads, {size[0]}x{size[1]}, batch {batch}, {kind}, best of {rounds} rounds"
    )
    width = max(len(name) for name in names)
    print(f"{'network':<{width}}{'parameters':>12}{'GMACs':>8}" + "".join(f"{part:>10}" for part in PARTS))
    for name, spec in zip(names, specs, strict=True):
        costs = count_costs(spec, heads, size)
        taken = in_own_process(_measure_network, spec, size, batch, bf16, rounds)
        print(
            f"{name:<{width}}{costs[0]:10.2f} M{costs[1]:8.2f}" + "".join(f"{each:10.1f}" for each in taken), flush=True
        )
        record.add({"network": name}, "parameters", "M", costs[0], "neither")
        record.add({"network": name}, "multiply-accumulates", "G", costs[1], "neither")
        for part, each in zip(PARTS, taken, strict=True):
            of = {"work": part} if part == PARTS[-1] else {"work": "step", "part": part}
            record.add({"network": name, **of}, "time", "ms", each)
    print(
        "milliseconds; rest: losses, backward and optimizer; detect 1: one image in the inference form, with decoding"
    )
    return record


def usual_task() -> str:
    """The task that trainings have by default."""
    return next(default.option for default in defaults("train") if default.group == "task")


def spec_of(name: str) -> dict[str, Any]:
    """The description of a network from the word that names it: NAME, or NAME:NECK for this neck and one hidden layer
    that all heads share."""
    from centernet.models.centernet import network_spec

    name, _, neck = name.partition(":")
    light = {"neck": {"name": neck}, "head_channels": 64, "head_tower": 1} if neck else {}
    return network_spec({"name": name, **light})


def require_size(part: str, name: str, spec: Mapping[str, Any], size: Sequence[int]) -> None:
    """Raise ``InputError`` if the network does not take inputs of this size."""
    from centernet.models.centernet import divisor_of

    if any(side % divisor_of(spec) for side in size):
        raise InputError(f"{part}: {name} takes sizes in multiples of {divisor_of(spec)}; change --size")


def count_costs(spec: Mapping[str, Any], heads: Any, size: tuple[int, int]) -> tuple[float, float]:
    """Millions of parameters, billions of multiply-accumulates."""
    from centernet.models.summary import build_counted, count_macs, count_parameters

    network = build_counted(spec, heads)
    return count_parameters(network) / 1e6, count_macs(network, size) / 1e9


def _measure_network(
    spec: dict[str, Any], size: tuple[int, int], batch: int, bf16: bool, rounds: int
) -> tuple[float, ...]:
    """Milliseconds of backbone, neck, head, the rest of a step, the step, and detection in one image."""
    from centernet.detector import build_detector

    torch.manual_seed(0)
    detector = build_detector(usual_task(), 3, spec).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8).to(memory_format=torch.channels_last)
    objects = some_objects(batch, min(size), 3)
    optimizer = torch.optim.AdamW(detector.parameters(), fused=True)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)
    network, seen = detector.network, {"backbone": 0.0, "neck": 0.0, "head": 0.0}

    def watch(part: str) -> None:
        """Count the time that a part of the network takes forward."""
        began = [0.0]
        module = getattr(network, part)
        module.register_forward_pre_hook(lambda *_: began.__setitem__(0, time.perf_counter()))
        module.register_forward_hook(lambda *_: seen.__setitem__(part, time.perf_counter() - began[0]))

    for part in seen:
        watch(part)

    def step() -> None:
        with mixed:
            targets = detector.task.encode(objects, (size[0] // network.stride, size[1] // network.stride))
            loss = detector.task.losses(detector.outputs(images), targets)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    best: tuple[float, ...] = (float("inf"),) * 5
    for _ in range(rounds + 1):  # the first one allocates, and is never the best
        started = time.perf_counter()
        step()
        whole = time.perf_counter() - started
        if whole < best[-1]:
            best = (*seen.values(), whole - sum(seen.values()), whole)
    detector = detector.eval().fuse()

    def detect() -> None:
        with torch.inference_mode(), mixed:
            detector(images[:1])

    return (*(1000 * each for each in best), min(times(detect, rounds, torch.device("cpu"))))
