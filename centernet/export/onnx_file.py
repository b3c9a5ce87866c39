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


def write_onnx(graph: Graph, shape: Shape, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the graph as an ONNX file (opset 20) with its weights inside.

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
    model = exported.model_proto
    onnx.helper.set_model_props(model, pack(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say about themselves: their errors are raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
