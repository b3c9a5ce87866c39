"""The training data path of one worker, beside a bare reading of the same files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import cv2

from centernet.benchmark.made import training_parts
from centernet.benchmark.record import Record


def measure_data(overrides: Sequence[str], rounds: int) -> Record:
    """Print and record the rate of one worker and of bare reading, on one core, in turns, so that both meet the same
    load of the machine."""
    from centernet.data.datamodule import SeededSampler, collate

    # Files are read in every round, not kept in memory after the first one; a later override may say otherwise.
    _, data = training_parts(["data.cache=none", *overrides])
    dataset = data.datasets["train"]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    batch = min(data.batch_size, len(dataset))
    sampler = SeededSampler(dataset, num_replicas=1, rank=0, seed=0)
    sizes = []

    def whole() -> None:
        waiting = []
        for draw in sampler:
            waiting.append(dataset[draw])
            if len(waiting) == batch:
                sizes[:] = [collate(waiting)["image"][0].numel()]
                waiting = []

    def bare() -> None:
        for file in dataset.files:
            cv2.imread(file)

    rates: dict[str, list[float]] = {"path": [], "imread": []}
    try:
        for epoch in range(rounds):
            sampler.set_epoch(epoch)
            rates["path"].append(_rate(whole, len(dataset)))
            rates["imread"].append(_rate(bare, len(dataset)))
    finally:
        cv2.setNumThreads(threads)
    height, width = data.resolution
    best = {name: max(values) for name, values in rates.items()}
    print(f"{len(dataset)} images of {data.root}, input {height}x{width}, one core, best of {rounds} rounds")
    print(f"data path    {best['path']:7.1f} images/s  (read, warp, color, objects, collate)")
    print(f"cv2.imread   {best['imread']:7.1f} images/s")
    print(f"ratio        {best['path'] / best['imread']:7.2f}")
    record = Record("data", {"images": len(dataset), "resolution": [height, width], "overrides": list(overrides)})
    record.add_many({"work": "data path"}, "rate", "images/s", rates["path"], "more")
    record.add_many({"work": "cv2.imread"}, "rate", "images/s", rates["imread"], "more")
    ratios = [path / bare for path, bare in zip(*rates.values(), strict=True)]
    record.add_many({"work": "data path by cv2.imread"}, "ratio", "", ratios, "more")
    record.add({"work": "input"}, "bytes to the device", "MB", sizes[0] / 1e6, "less")
    return record


def _rate(work: Callable[[], None], count: int) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)
