"""What a measurement ran on: processor and what it can do in 16 and 8 bits, cores, threads, GPU, versions."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from centernet.machine import available_cores

# What decides how fast a CPU multiplies: vector width, 8-bit products, 16-bit products, matrix units.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "sve")
LIBRARIES = (
    *("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "faster-coco-eval"),
    *("onnxruntime", "openvino"),
)


def describe_machine() -> dict[str, Any]:
    """The machine and the libraries as plain data, for the record of a measurement."""
    import torch

    about, flags = _processor()
    found: dict[str, Any] = {
        "cpu": about,
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {},
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found["gpu"] = {"name": card.name, "memory_gb": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found["versions"][name] = metadata.version(name)
    return found


def machine_line(machine: dict[str, Any]) -> str:
    """A machine in one line, for the top of a table."""
    words = [
        f"{machine['cpu']} ({', '.join(machine['instructions']) or 'no vector instructions known'})",
        f"{machine['cores']} cores, {machine['threads']} threads",
        f"torch {machine['versions'].get('torch', 'unknown')}",
    ]
    if machine["gpu"]:
        words.insert(0, machine["gpu"]["name"])
    if machine["load"] is not None and machine["load"] > 0.5:
        words.append(f"load {machine['load']:g} before the start")
    return "machine: " + "; ".join(words)


def _processor() -> tuple[str, set[str]]:
    """Name and features, as Linux lists them; elsewhere the name alone."""
    with suppress(OSError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        told = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        flags = told.get("flags") or told.get("Features") or ""
        return told.get("model name") or platform.machine(), set(flags.split())
    return platform.processor() or platform.machine(), set()


def _memory() -> float | None:
    with suppress(AttributeError, ValueError, OSError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None
