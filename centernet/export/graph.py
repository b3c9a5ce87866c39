"""The whole way from pixels to detections as one graph: normalization, network, decoding with top-k.

The graph ends where ``Task.decode`` ends: detections in pixels of its input (Objects as Points, Sec. 4.1). Moving them
to the image, the cameras of 3D boxes and the suppression of several passes are left to the caller (``Task.lift``,
``Detector.find_in_images``), as they need what is not in the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from centernet.detector import Detector
from centernet.errors import InputError
from centernet.models.centernet import require_divisible

INPUT = "images"
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
DYNAMIC = ("none", "batch", "size", "both")
# Bounds of what is free, for the exporter; nothing is allocated by them.
MOST_IMAGES, MOST_PIXELS = 1024, 8192


class Shape(NamedTuple):
    """The input of a graph: ``batch`` images of ``size`` (height, width), as ``dtype`` in 0 .. 255; which of them are
    free (``none``, ``batch``, ``size``, ``both``)."""

    batch: int
    size: tuple[int, int]
    dtype: str = "uint8"
    dynamic: str = "batch"

    @property
    def frees_batch(self) -> bool:
        return self.dynamic in ("batch", "both")

    @property
    def frees_size(self) -> bool:
        return self.dynamic in ("size", "both")

    @property
    def plain(self) -> list[int | None]:
        """``[N, 3, H, W]`` with None where any number is possible."""
        size = [None, None] if self.frees_size else list(self.size)
        return [None if self.frees_batch else self.batch, 3, *size]


class Graph(nn.Module):
    """Images ``[N, 3, H, W]``, RGB, uint8 or float32 in 0 .. 255, to a tuple of detections, ``names`` in their order.

    The detector is taken in its inference form (``Detector.fuse``). Its modes of inference are not part of the graph.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        fused = detector.cpu().eval().fuse().eval()
        self.network, self.task = fused.network, fused.task
        self.register_buffer("mean", fused.mean, persistent=False)
        self.register_buffer("std", fused.std, persistent=False)
        self.divisor: int = fused.network.divisor
        self.stride: int = fused.task.stride
        side = self.smallest_side
        with torch.no_grad():
            self.names = list(self.find(torch.zeros(1, 3, side, side)))

    def find(self, images: Tensor) -> dict[str, Tensor]:
        """Detections by name."""
        maps = self.network((images.float() - self.mean) / self.std)[-1]
        return self.task.decode(self.task.activate(maps))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.find(images)
        return tuple(found[name] for name in self.names)

    @property
    def smallest_side(self) -> int:
        """The least side of a square input whose grid has a cell for every detection, in multiples of the divisor: a
        graph of free size keeps the number of detections."""
        cells = math.ceil(math.sqrt(self.task.heatmap.most_peaks))
        return math.ceil(max(cells * self.stride, 2 * self.divisor) / self.divisor) * self.divisor


def trace(graph: Graph, shape: Shape) -> torch.export.ExportedProgram:
    """The graph as a program of torch.export, for inputs of this shape. Raises ``InputError`` for a size that the
    network cannot take."""
    check_shape(graph, shape)
    # Two images: torch.export takes a batch of one for a constant.
    images = torch.zeros(max(shape.batch, 2) if shape.frees_batch else shape.batch, 3, *_example(graph, shape))
    with torch.no_grad():
        return torch.export.export(
            graph, (images.to(DTYPES[shape.dtype]),), dynamic_shapes=(dynamic_axes(graph, shape),), strict=False
        )


def dynamic_axes(graph: Graph, shape: Shape) -> dict[int, Any]:
    """The free axes for ``torch.export``."""
    axes: dict[int, Any] = {}
    if shape.frees_batch:
        axes[0] = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
    if shape.frees_size:
        least, most = graph.smallest_side // graph.divisor, MOST_PIXELS // graph.divisor
        for axis, name in ((2, "rows"), (3, "columns")):
            axes[axis] = graph.divisor * torch.export.Dim(name, min=least, max=most)
    return axes


def _example(graph: Graph, shape: Shape) -> Sequence[int]:
    """Height and width to trace with. Sizes that are free must differ from each other and from the bounds."""
    if not shape.frees_size:
        return shape.size
    side = graph.smallest_side
    return side + graph.divisor, side + 2 * graph.divisor


def check_shape(graph: Graph, shape: Shape) -> None:
    """Raise ``InputError`` for a shape that the graph cannot take."""
    if shape.batch < 1:
        raise InputError(f"--batch {shape.batch} is no number of images; give at least 1")
    require_divisible(shape.size, graph.divisor)
    if shape.frees_size and not graph.task.heatmap.takes_any_grid:
        raise InputError(
            f"task {graph.task.name} with these options cannot have a free size; use --dynamic batch, or none"
        )
    if shape.frees_size and min(shape.size) < graph.smallest_side:
        side = graph.smallest_side
        raise InputError(
            f"--size {shape.size[0]} {shape.size[1]} is too small for a free size, which needs a cell for each of "
            f"{graph.task.heatmap.most_peaks} detections; use {side} {side} or more, or --dynamic batch"
        )
