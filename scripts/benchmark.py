"""Measure speed: `python scripts/benchmark.py data data=coco data.root=DIR` (more kinds will follow).

data: images per second of one worker through the whole training data path (read, warp, colour, objects, collate),
beside the rate of a bare `cv2.imread` of the same files in the same run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable

import cv2

from centernet.app import CONFIGS, understand_groups
from centernet.structures import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("data",))
    parser.add_argument("--rounds", type=int, default=5, help="passes over the files; the best one counts (default: 5)")
    parser.add_argument("overrides", nargs="*", help="as for train.py: data=coco data.root=DIR resolution=[512,512]")
    args = parser.parse_intermixed_args()  # options may stand between the overrides
    try:
        benchmark_data(args.overrides, args.rounds)
    except InputError as error:
        sys.exit(f"error: {error}")


def benchmark_data(overrides: list[str], rounds: int) -> None:
    """Print the rate of one worker and of bare reading, on one core, alternating so that both see the same machine."""
    from hydra import compose, initialize_config_dir

    from centernet.build import build_datamodule
    from centernet.data.datamodule import SeededSampler, collate

    understand_groups(overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides)
    data = build_datamodule(cfg.data)
    data.prepare_data()
    data.setup("fit")
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
    print(f"data path    {path_rate:7.1f} images/s  (read, warp, colour, objects, collate)")
    print(f"cv2.imread   {bare_rate:7.1f} images/s")
    print(f"ratio        {path_rate / bare_rate:7.2f}")


def _rate(work: Callable[[], None], count: int) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


__all__: Iterable[str] = ("benchmark_data",)

if __name__ == "__main__":
    main()
