"""Files for OpenVINO (``.xml`` with ``.bin``): converted from torch's program, not from ONNX, as OpenVINO's reader of
ONNX has no deformable convolution."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from centernet.export.graph import INPUT, Graph, Shape, trace
from centernet.export.metadata import pack
from centernet.export.onnx_file import quiet
from centernet.export.packages import need

INFO = "centernet"
"""The path of the metadata in the file's runtime information."""


def to_openvino(graph: Graph, shape: Shape) -> Any:
    """The graph as an OpenVINO model.

    Raises ``InputError`` for a missing package, or a shape that the network cannot take.
    """
    openvino = need("openvino", "export to OpenVINO")
    program = trace(graph, shape)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, graph.names, strict=True):
        output.get_tensor().set_names({name})
    # The converter leaves every axis of the input open.
    model.reshape({INPUT: openvino.PartialShape([-1 if side is None else side for side in shape.plain])})
    order_ties(model)
    return model


def order_ties(model: Any) -> None:
    """Let every search for the largest values return equal ones by rising index (``stable``), in place: the converter
    makes searches of an older kind, which promise no order."""
    opset = need("openvino.opset13", "export to OpenVINO")
    for node in model.get_ordered_ops():
        if node.get_type_name() != "TopK":
            continue
        known = node.get_attributes()
        stable = opset.topk(
            node.input_value(0),
            node.input_value(1),
            known["axis"],
            known["mode"],
            "value",
            known["index_element_type"],
            stable=True,
        )
        for old, new in zip(node.outputs(), stable.outputs(), strict=True):
            for target in list(old.get_target_inputs()):
                target.replace_source_output(new)


def save_openvino(model: Any, path: Path, metadata: Mapping[str, Any], halved: bool = False) -> None:
    """Write a model with metadata; ``halved``: its weights as float16."""
    openvino = need("openvino", "export to OpenVINO")
    for key, text in pack(metadata).items():
        model.set_rt_info(text, [INFO, key])
    openvino.save_model(model, path, compress_to_fp16=halved)
