"""Timing work repeatedly: warm-up, rounds that take turns, percentiles, and the memory of a process at its peak."""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from centernet.errors import InputError

NOTABLE = 0.1
"""Spreads above this share of the median are marked in tables: the machine had other work, or the work varies."""


class Spread(NamedTuple):
    """What several measurements of one quantity have in common, all in its unit."""

    rounds: int
    best: float
    p10: float
    p50: float
    p90: float
    mean: float

    @classmethod
    def of(cls, values: Sequence[float], better: str = "less") -> Spread:
        """Of these measurements; percentiles between two of them are interpolated. ``better``: less or more."""
        p10, p50, p90 = (float(value) for value in np.percentile(values, (10, 50, 90)))
        best = min(values) if better == "less" else max(values)
        return cls(len(values), float(best), p10, p50, p90, float(np.mean(values)))

    @property
    def share(self) -> float:
        """The distance from the 10th to the 90th percentile, as a share of the median."""
        return (self.p90 - self.p10) / self.p50 if self.p50 else 0.0


def time_in_turns(
    works: Mapping[Any, Callable[[], Any]], rounds: int, warmup: int = 1, wait: Callable[[], Any] | None = None
) -> dict[Any, list[float]]:
    """Milliseconds of each round of each work.

    The works take turns, so that all of them meet the same other load of the machine and their ratios hold. The
    ``warmup`` rounds before do not count: they allocate, compile, and choose algorithms. ``wait`` is called after each
    work, inside its time; for a GPU it is ``torch.cuda.synchronize``.
    """
    taken: dict[Any, list[float]] = {name: [] for name in works}
    for turn in range(warmup + rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if wait is not None:
                wait()
            if turn >= warmup:
                taken[name].append(1000 * (time.perf_counter() - started))
    return taken


def times(work: Callable[[], Any], rounds: int, device: Any, warmup: int = 1) -> list[float]:
    """Milliseconds of each round of one work on a ``torch.device``."""
    return time_in_turns({"": work}, rounds, warmup, waiting_for(device))[""]


def waiting_for(device: Any) -> Callable[[], Any] | None:
    """What waits until a ``torch.device`` has done what it was given; None for a CPU, which never runs ahead."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.synchronize


def in_own_process(work: Callable[..., Any], *given: Any) -> Any:
    """What ``work(*given)`` returns in a new process, which leaves nothing behind, and may start processes itself.

    Raises what the work raises, and ``InputError`` if the process is ended from outside.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        try:
            return pool.submit(work, *given).result()
        except BrokenProcessPool:
            raise InputError(
                "the process of a measurement was ended from outside; perhaps memory ran out: use smaller sizes"
            ) from None


def _end_with_parent() -> None:
    """Let this process end when the one that started it does, even if that is killed."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class PeakMemory:
    """The memory of this process at its peak beyond what it had when this was made, in megabytes (2^20 bytes).

    For one measurement in a process of its own: what other work has left behind would be used again, unseen. On
    ``cuda``, what torch allocated there; on a CPU, the resident memory. Linux forgets earlier peaks when asked to;
    elsewhere only growth beyond an earlier peak is seen.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.before = _status("VmRSS") or _highest()

    def growth(self) -> float:
        """Megabytes at the peak since then."""
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20 - self.before
        return max(_highest() - self.before, 0.0)


def _highest() -> float:
    # The peak that getrusage knows outlives the start of another program; that of the address space does not.
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(name: str) -> float | None:
    """Megabytes of one line of Linux's description of this process."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024
    return None
