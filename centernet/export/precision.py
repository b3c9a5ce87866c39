"""Files in 16 and 8 bits: which parts of a graph bear it, and the conversion of ONNX and OpenVINO models.

8 bits come after training, by the range of values on real images. In ONNX, and in 8 bits, pixels and decoding stay in
32 bits, and so do the last convolutions of the heads, as their values are the results; in 8 bits also those that
predict the offsets of deformable convolutions, which are positions. OpenVINO in 16 bits has weights of 16 bits, and its
runtime chooses in what it computes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from centernet.export.graph import INPUT
from centernet.export.onnx_file import quiet
from centernet.export.packages import need

CONVOLUTIONS = {"Conv", "ConvTranspose", "DeformConv", "Convolution", "ConvolutionBackpropData", "GroupConvolution",
                "GroupConvolutionBackpropData", "DeformableConvolution"}  # fmt: skip
DEFORMABLE = {"DeformConv", "DeformableConvolution"}
"""Names of operators, in ONNX and in OpenVINO."""


class Step(NamedTuple):
    """An operator of a graph: its name, its kind, and the names of those that it reads."""

    name: str
    kind: str
    reads: tuple[str, ...]


class Parts(NamedTuple):
    """Names of operators: ``network``, from the first to the last convolutions; ``last``, these last ones; and
    ``sensitive``, those that stay in float in 8 bits."""

    network: set[str]
    last: set[str]
    sensitive: set[str]


def parts_of(steps: Sequence[Step]) -> Parts:
    """The parts of a graph whose steps come in the order of their execution."""
    convolutions = {step.name for step in steps if step.kind in CONVOLUTIONS}
    kinds = {step.name: step.kind for step in steps}
    readers: dict[str, list[str]] = {}
    for step in steps:
        for name in step.reads:
            readers.setdefault(name, []).append(step.name)
    after: set[str] = set()  # there is a convolution before
    for step in steps:
        if any(name in after or name in convolutions for name in step.reads):
            after.add(step.name)
    before: set[str] = set()  # there is a convolution after
    for step in reversed(steps):
        if any(name in before or name in convolutions for name in readers.get(step.name, ())):
            before.add(step.name)
    network = convolutions | (after & before)
    last = convolutions - before
    sensitive = {step.name for step in steps} - network | last
    # Back from each deformable convolution's offsets and masks to the convolution that predicts them.
    inputs = {step.name: step.reads for step in steps}
    for step in steps:
        if step.kind in DEFORMABLE:
            waiting = [name for name in step.reads[1:] if name in network]
            sensitive.add(step.name)
            while waiting:
                name = waiting.pop()
                if name not in sensitive:
                    sensitive.add(name)
                    waiting += [] if kinds[name] in CONVOLUTIONS else [one for one in inputs[name] if one in network]
    return Parts(network, last, sensitive)


def steps_of_onnx(model: Any) -> list[Step]:
    """The operators of an ONNX model."""
    made_by = {output: node.name for node in model.graph.node for output in node.output}
    return [
        Step(node.name, node.op_type, tuple(made_by[name] for name in node.input if name in made_by))
        for node in model.graph.node
    ]


def steps_of_openvino(model: Any) -> list[Step]:
    """The operators of an OpenVINO model. The data comes first among what an operator reads."""
    return [
        Step(
            node.get_friendly_name(),
            node.get_type_name(),
            tuple(value.get_node().get_friendly_name() for value in node.input_values()),
        )
        for node in model.get_ordered_ops()
    ]


def halve_onnx(model: Any) -> Any:
    """An ONNX model whose network computes in float16; inputs and outputs keep their types."""
    float16 = need("onnxruntime.transformers.float16", "--precision fp16")
    parts = parts_of(steps_of_onnx(model))
    # Results of the last convolutions need all bits: rounded to 11, neighboring cells of a heatmap may be equal, and
    # each of them is a peak then.
    others = [node.name for node in model.graph.node if node.name not in parts.network - parts.last]
    # Sums over whole maps exceed the range of float16 (HarDNet's context). Some runtimes have no deformable convolution
    # in 16 bits, and positions lose precision in it.
    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, "ReduceSum", "DeformConv"]
    sorting = need("onnxruntime.transformers.onnx_model", "--precision fp16")
    constants = {each.name: copy.deepcopy(each) for each in model.graph.initializer}
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        halved = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=blocked, node_block_list=others
        )
        _spare_others(halved, constants)
        made = sorting.OnnxModel(halved)
        made.topological_sort()  # the conversion appends its casts at the end
        made.prune_graph()
        del halved.graph.value_info[:]  # which have the kinds from before
    return halved


def _spare_others(model: Any, constants: Mapping[str, Any]) -> None:
    """Let what stays in 32 bits read and pass on 32 bits.

    The conversion takes every value between two such operators to 16 bits and back, and makes all ``constants`` (of the
    model before) so small: places of cells beyond 2048 would be others.
    """
    onnx = need("onnx", "--precision fp16")
    halves, floats = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    graph = model.graph
    to_half = {node.output[0]: node for node in graph.node if _casts_to(node, halves)}
    halved = {each.name for each in graph.initializer if each.data_type == halves}
    results = {each.name for each in graph.output}
    instead: dict[str, str] = {}
    for node in graph.node:
        if not _casts_to(node, floats):
            continue
        read = node.input[0]
        if read in to_half:
            source = to_half[read].input[0]
        elif read in halved and constants[read].data_type == floats:
            whole = constants[read]
            whole.name = f"{read}_in_32_bits"
            if whole.name not in {each.name for each in graph.initializer}:
                graph.initializer.append(whole)
            source = whole.name
        else:
            continue
        if node.output[0] in results:
            node.input[0] = source
        else:
            instead[node.output[0]] = source
    for node in graph.node:
        for n, name in enumerate(node.input):
            while name in instead:
                name = instead[name]
            node.input[n] = name


def _casts_to(node: Any, kind: int) -> bool:
    return node.op_type == "Cast" and any(each.name == "to" and each.i == kind for each in node.attribute)


def quantize_onnx(model: Any, batches: Callable[[], Iterable[np.ndarray]], symmetric: bool = False) -> Any:
    """An ONNX model with 8-bit weights (per channel) and activations, as pairs of QuantizeLinear and DequantizeLinear.

    ``batches``: images as the model takes them, for the ranges of activations. ``symmetric``: zero points are 0, as
    TensorRT needs.
    """
    quantization = need("onnxruntime.quantization", "--precision int8")
    onnx = need("onnx", "--precision int8")
    parts = parts_of(steps_of_onnx(model))
    types = sorted({node.op_type for node in model.graph.node if node.name in parts.network - parts.sensitive})

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(batches())

        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(self.rest, None)
            return None if images is None else {INPUT: images}

    with tempfile.TemporaryDirectory() as folder, quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantization.quantize_static(
            before,
            after,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=types,
            nodes_to_exclude=sorted(parts.sensitive),
            activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )
        return onnx.load(after)


def quantize_openvino(model: Any, batches: Callable[[], Iterable[np.ndarray]], count: int) -> Any:
    """An OpenVINO model with 8-bit weights and activations. ``batches``: at most ``count`` arrays of images as it takes
    them."""
    nncf = need("nncf", "--precision int8")
    sensitive = parts_of(steps_of_openvino(model)).sensitive
    computing = {
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Parameter", "Result")
    }
    with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset(batches()),
            subset_size=count,
            ignored_scope=nncf.IgnoredScope(names=sorted(sensitive & computing), validate=False),
        )
