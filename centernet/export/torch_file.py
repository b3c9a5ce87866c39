"""Files for torch.export (``.pt2``): a program that PyTorch runs without this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from centernet.export.graph import Graph, Shape, trace
from centernet.export.metadata import pack
from centernet.export.onnx_file import quiet
from centernet.ops.peaks import first_of_equal

EXTRA = "metadata.json"
"""The file inside with the metadata: a JSON object of texts (``centernet.export.metadata.pack``)."""


def write_torch(graph: Graph, shape: Shape, path: Path, metadata: Mapping[str, Any], orders_ties: bool = True) -> None:
    """Write the graph as a program of torch.export. ``orders_ties``: equal scores come by rising class and cell, by a
    search that only PyTorch has. Raises ``InputError`` for a shape that the network cannot take."""
    program = trace(graph, shape)
    with torch.no_grad(), quiet():
        if orders_ties:
            program = program.run_decompositions({torch.ops.aten.topk.default: _topk})
        torch.export.save(program, path, extra_files={EXTRA: json.dumps(pack(metadata))})


def _topk(values: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """torch's search for the k largest, with equal ones by rising index; its own order of these is arbitrary."""
    if not values.is_floating_point() or dim not in (-1, values.ndim - 1) or not largest:
        return NotImplemented
    which = first_of_equal(values, k)
    return values.gather(-1, which), which
