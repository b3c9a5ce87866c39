"""An exported file whose detections are known: it finds filled squares of pure colors (``ColorNetwork``)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import nn

from centernet.detector import Detector
from centernet.export.graph import Graph, Shape
from centernet.export.metadata import describe
from centernet.export.onnx_file import save_onnx, to_onnx
from centernet.tasks.ctdet import CtdetTask
from tests.export.exported import scratch
from tests.test_inference import NAMES, ColorNetwork
from tests.tiny import NETWORK

SIDE = 128


class _Squares(ColorNetwork):
    """With a parameter, by which others tell where a network is."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)


@functools.cache
def color_detector() -> Detector:
    """Finds filled squares of pure colors, at most ten of them."""
    return Detector(_Squares(), CtdetTask(3, heatmap={"max_detections": 10})).eval()


@functools.cache
def color_file(dynamic: str = "batch", mode: str = "fit") -> Path:
    """The same as an ONNX file."""
    path = scratch() / f"colors-{dynamic}-{mode}.onnx"
    graph, shape = Graph(color_detector()), Shape(1, (SIDE, SIDE), dynamic=dynamic)
    module = {
        "task": "ctdet",
        "task_options": {"heatmap": {"max_detections": 10}},
        "facts": {},
        "class_names": NAMES,
        "backbone": NETWORK,
        "normalization": "coco",
    }
    spec = {"resolution": [SIDE, SIDE], "mode": mode, "divisor": 32}
    save_onnx(to_onnx(graph, shape), path, describe(graph, {"module": module, "eval": spec}, shape))
    return path


@functools.cache
def squares() -> list[np.ndarray]:
    """Black pictures of several sizes, each with a square of another color (red, green, blue)."""
    pictures = []
    for n, (height, width) in enumerate([(120, 200), (160, 160), (200, 90), (100, 128)]):
        image = np.zeros((height, width, 3), np.uint8)
        side = 28 + 4 * n
        image[40 : 40 + side, 20 + 8 * n : 20 + 8 * n + side, n % 3] = 255
        pictures.append(image)
    return pictures
