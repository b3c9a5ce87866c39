"""Files for ONNX: written by torch's exporter, with metadata."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from centernet.export.graph import INPUT, Graph, Shape, trace
from centernet.export.metadata import pack
from centernet.export.packages import need

OPSET = 20
"""DeformConv is in 19, GridSample for all interpolations in 20; every runtime since 2024 has it."""


def to_onnx(graph: Graph, shape: Shape) -> Any:
    """The graph as an ONNX model (opset 20) with its weights inside.

    Raises ``InputError`` for a missing package, or a shape that the network cannot take.
    """
    need("onnxscript", "export to ONNX")
    onnx = need("onnx", "export to ONNX")
    program = trace(graph, shape)
    with quiet():
        exported = torch.onnx.export(
            program,
            (),
            input_names=[INPUT],
            output_names=graph.names,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    # A plain copy, whose values are independent of torch's memory.
    return onnx.ModelProto.FromString(exported.model_proto.SerializeToString())


def save_onnx(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model with metadata, without the names of layers that torch's exporter notes at every operator."""
    onnx = need("onnx", "export to ONNX")
    onnx.helper.set_model_props(model, pack(metadata))
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say about themselves: their errors are raised."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
