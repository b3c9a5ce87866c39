"""What this process may use of the machine, and how it uses it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def available_cores() -> int:
    """Number of processors that this process may run on, which containers and ``taskset`` keep below the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pauses the search for garbage, which takes long where millions of new objects without cycles are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
