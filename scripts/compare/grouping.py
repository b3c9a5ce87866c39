"""Group extreme points with and without all combinations: `python scripts/compare/grouping.py --k 40 100`.

Time and memory of `centernet.ops.grouping`, beside those of K^4 combinations of K points of each of the four kinds
held at once, as the original implementation of CenterNet holds them. The K^4 form here holds as little as it can: for
each combination the cell of its center (8 bytes), its score (4), and whether it is allowed (1, and 1 while comparing).
The scores found are compared. Points and centers are random: of 80 classes, as with COCO, and of one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from centernet.command import run_command
from centernet.ops.grouping import Extremes, group_extremes

SIDE, MOST = 128, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, nargs="+", default=[40, 100], help="points of each kind (default: 40 100)")
    parser.add_argument("--classes", type=int, nargs="+", default=[80, 1])
    parser.add_argument("--rounds", type=int, default=5, help="the median counts (default: 5)")
    args = parser.parse_args()
    print(f"one image, {SIDE}x{SIDE} cells, {torch.get_num_threads()} threads, median of {args.rounds}, seed 0")
    heads = ("here: ms", 12), ("MB", 8), ("K^4: ms", 12), ("MB", 8), ("largest difference", 20)
    print(f"{'classes':<9}{'K':>5}{'K^4':>13}" + "".join(f"{name:>{width}}" for name, width in heads))
    for classes in args.classes:
        for k in args.k:
            results = []
            for way in (ours, every_combination):
                # In a process of its own: the memory of one way is not counted for the other.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    results.append(pool.apply(measure, (way, classes, k, args.rounds)))
            (mine, milliseconds, memory), (others, their_milliseconds, their_memory) = results
            difference = (mine - others).abs().max().item()
            print(
                f"{classes:<9}{k:>5}{k**4:>13,}{milliseconds:12.1f}{memory:8.0f}{their_milliseconds:12.1f}"
                f"{their_memory:8.0f}{difference:20.1e}",
                flush=True,
            )


def draw(classes: int, k: int) -> tuple[list[Extremes], Tensor]:
    """K points of each kind ``[1, K]``, and centers ``[1, C, 128, 128]``."""
    rng = torch.Generator().manual_seed(0)
    kinds = [
        Extremes(
            (0.1 + 0.9 * torch.rand(1, k, generator=rng)).sort(descending=True).values,
            torch.randint(classes, (1, k), generator=rng),
            torch.randperm(SIDE * SIDE, generator=rng)[None, :k],
        )
        for _ in range(4)
    ]
    return kinds, torch.rand(1, classes, SIDE, SIDE, generator=rng)


def ours(kinds: Sequence[Extremes], centers: Tensor) -> Tensor:
    return group_extremes(kinds, centers, MOST).scores[0]


def every_combination(kinds: Sequence[Extremes], centers: Tensor) -> Tensor:
    """The best scores of all K^4 groups: top, left, bottom and right points along the four axes."""

    def along(axis: int, value: Tensor) -> Tensor:
        return value.view([-1 if each == axis else 1 for each in range(4)])

    y, x = ([along(n, part(kind.cell[0])) for n, kind in enumerate(kinds)] for part in (_row, _column))
    labels = [along(n, kind.labels[0]) for n, kind in enumerate(kinds)]
    (top, left, bottom, right) = range(4)
    middle = (y[top] + y[bottom]) // 2 * SIDE + (x[left] + x[right]) // 2
    center = centers[0].flatten()[labels[top] * SIDE * SIDE + middle]
    allowed = center >= 0.1
    for other in (left, bottom, right):
        allowed &= labels[top] == labels[other]
        allowed &= y[top] <= y[other]
    for other in (top, left, right):
        allowed &= y[bottom] >= y[other]
    for other in (top, bottom, right):
        allowed &= x[left] <= x[other]
    for other in (top, left, bottom):
        allowed &= x[right] >= x[other]
    score = center.mul_(2)
    for n, kind in enumerate(kinds):
        score += along(n, kind.scores[0])
    score.div_(6).mul_(allowed)
    return score.flatten().topk(MOST).values


def _row(cell: Tensor) -> Tensor:
    return torch.div(cell, SIDE, rounding_mode="floor")


def _column(cell: Tensor) -> Tensor:
    return cell % SIDE


def measure(
    way: Callable[[Sequence[Extremes], Tensor], Tensor], classes: int, k: int, rounds: int
) -> tuple[Tensor, float, float]:
    """Scores, milliseconds, and megabytes by which the process grew."""
    kinds, centers = draw(classes, k)
    ours(*draw(1, 5))  # what torch sets up once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = way(kinds, centers)
        taken.append(1000 * (time.perf_counter() - started))
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found, sorted(taken)[rounds // 2], memory


if __name__ == "__main__":
    run_command(main)
