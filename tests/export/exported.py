"""Small detectors as exported files, made once for all tests of a process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from centernet.detector import Detector, build_detector
from centernet.export.graph import Graph
from tests.tiny import NETWORK, enliven

CLASSES = ["cat", "dog", "owl"]


@functools.cache
def tiny_detector(task: str, **options: Any) -> Detector:
    """A detector of this task with a small untrained network that finds many things."""
    torch.manual_seed(0)
    detector = build_detector(task, CLASSES, NETWORK, task_options=dict(options))
    enliven(detector.network)
    return detector.eval()


@functools.cache
def tiny_graph(task: str) -> Graph:
    return Graph(tiny_detector(task))


def description_of(detector: Detector) -> dict[str, Any]:
    """What a checkpoint would say about a tiny detector."""
    module = {
        "task": detector.task.name,
        "task_options": {},
        "facts": {},
        "class_names": CLASSES,
        "backbone": NETWORK,
        "normalization": detector.normalization,
    }
    return {"module": module, "eval": {"resolution": [128, 128], "mode": "fit", "divisor": 32}}


@functools.cache
def scratch() -> Path:
    """A folder for the files of this process."""
    return Path(tempfile.mkdtemp(prefix="exported"))


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth images uint8 ``[count, 3, height, width]`` whose peaks differ."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255).byte().numpy()
