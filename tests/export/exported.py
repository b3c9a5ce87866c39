"""Small detectors as exported files, each made once for all tests of a process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from centernet.detector import Detector, build_detector
from centernet.export.graph import Graph, Shape
from centernet.export.metadata import describe
from centernet.export.onnx_file import save_onnx, to_onnx
from centernet.export.openvino_file import save_openvino, to_openvino
from centernet.export.runtime import Artifact
from centernet.export.torch_file import write_torch
from centernet.models.centernet import build_network
from centernet.tasks import build_task
from tests.tiny import NETWORK, enliven

CLASSES = ["cat", "dog", "owl"]
FREE = Shape(1, (128, 128), dynamic="both")
SUFFIXES = (".onnx", ".xml", ".pt2")
# A network that has learned nothing finds more extreme points than a graph can combine.
OPTIONS: dict[str, dict[str, Any]] = {"exdet": {"heatmap": {"candidates": 60, "groups": 200}}}


class Cells(nn.Module):
    """A network whose maps are the largest values of each cell's pixels: equal pixels give exactly equal scores."""

    stride, divisor = 4, 4

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        cells = F.max_pool2d(images, self.stride)
        return [{"heatmap": cells / 4, "size": cells[:, :2] + 4, "offset": cells[:, :2] / 8}]


@functools.cache
def detector_of(task: str) -> Detector:
    """A detector of this task with a small network that has learned nothing and finds many things; ``cells``: boxes
    by ``Cells``."""
    if task == "cells":
        made = build_task("ctdet", len(CLASSES), heatmap={"loss": "mse", "max_detections": 20})
        return Detector(Cells(), made).eval()
    torch.manual_seed(0)
    detector = build_detector(task, CLASSES, NETWORK, task_options=OPTIONS.get(task, {}))
    enliven(detector.network)
    return detector.eval()


@functools.cache
def graph_of_edges() -> Graph:
    """A graph that goes through the grid line by line."""
    made = build_task("exdet", len(CLASSES), heatmap={"aggregation": 0.1, "candidates": 20})
    return Graph(Detector(build_network(NETWORK, made.heads), made))


@functools.cache
def graph_of(task: str) -> Graph:
    return Graph(detector_of(task))


def description_of(task: str) -> dict[str, Any]:
    """What a checkpoint would say about it."""
    detector = detector_of(task)
    module = {
        "task": detector.task.name,
        "task_options": OPTIONS.get(task, {}),
        "facts": {},
        "metric_options": {"backend": "pycocotools"} if detector.task.name == "ctdet" else {},
        "class_names": CLASSES,
        "backbone": NETWORK,
        "normalization": detector.normalization,
    }
    evaluation = {"resolution": [128, 128], "mode": "fit", "divisor": 32}
    return {"module": module, "eval": evaluation, "config": None}


@functools.cache
def scratch() -> Path:
    """A folder for the files of this process."""
    return Path(tempfile.mkdtemp(prefix="exported"))


def artifact_of(task: str, suffix: str = ".onnx", shape: Shape = FREE) -> Artifact:
    """The detector of this task as an exported file."""
    return _artifact_of(task, suffix, shape)


@functools.cache
def _artifact_of(task: str, suffix: str, shape: Shape) -> Artifact:
    graph = graph_of(task)
    told = describe(graph, description_of(task), shape)
    path = scratch() / f"{task}-{abs(hash(shape))}{suffix}"
    if suffix == ".onnx":
        save_onnx(to_onnx(graph, shape), path, told)
    elif suffix == ".xml":
        save_openvino(to_openvino(graph, shape), path, told)
    else:
        write_torch(graph, shape, path, told)
    return Artifact.load(path, threads=1)


@torch.inference_mode()
def found_by_torch(task: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the detector finds in PyTorch, not fused, decoded in its own way."""
    return {name: value.numpy() for name, value in detector_of(task)(torch.from_numpy(images)).items()}


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth images uint8 ``[count, 3, height, width]`` whose peaks differ."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255).byte().numpy()
