"""What this process may use of the machine."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Number of processors that this process may run on, which containers and ``taskset`` keep below the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
