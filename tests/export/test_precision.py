"""16 and 8 bits: what is converted, what stays in float, and that the files run."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from centernet.export.agreement import compare
from centernet.export.graph import Shape
from centernet.export.metadata import describe
from centernet.export.onnx_file import save_onnx, to_onnx
from centernet.export.openvino_file import save_openvino, to_openvino
from centernet.export.precision import Step, halve_onnx, parts_of, quantize_onnx, quantize_openvino, steps_of_onnx
from centernet.export.runtime import Artifact
from tests.export.exported import FREE, description_of, found_by_torch, graph_of, pictures

STEPS = [
    Step("pixels", "Cast", ()),
    Step("first", "Conv", ("pixels",)),
    Step("relu", "Relu", ("first",)),
    Step("predict", "Conv", ("relu",)),
    Step("offsets", "Slice", ("predict",)),
    Step("masks", "Sigmoid", ("predict",)),
    Step("deform", "DeformConv", ("relu", "offsets", "masks")),
    Step("wide", "Conv", ("deform",)),
    Step("size", "Conv", ("wide",)),
    Step("heatmap", "Conv", ("wide",)),
    Step("peaks", "TopK", ("heatmap",)),
    Step("boxes", "Gather", ("size", "peaks")),
]


def test_the_network_lies_between_its_first_and_last_convolutions():
    network = parts_of(STEPS).network
    assert {step.name for step in STEPS} - network == {"pixels", "peaks", "boxes"}


def test_the_last_convolutions_are_those_of_the_heads():
    assert parts_of(STEPS).last == {"size", "heatmap"}


def test_results_and_positions_stay_in_float():
    sensitive = parts_of(STEPS).sensitive
    assert sensitive == {"pixels", "predict", "offsets", "masks", "deform", "size", "heatmap", "peaks", "boxes"}


@pytest.fixture(scope="module")
def onnx_model():
    return to_onnx(graph_of("ctdet"), FREE)


def batches():
    return (pictures(1, 128, 128, seed=n) for n in range(4))


def told(precision):
    return describe(graph_of("ctdet"), description_of("ctdet"), FREE, precision)


def test_onnx_in_16_bits_finds_the_same_in_half_the_size(onnx_model, tmp_path):
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    save_onnx(copy.deepcopy(onnx_model), whole, told("fp32"))
    save_onnx(halve_onnx(copy.deepcopy(onnx_model)), half, told("fp16"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    images = pictures(2, 128, 128, seed=9)
    found = Artifact.load(half).run(images)
    assert found["boxes"].dtype == np.float32
    assert compare([(found_by_torch("ctdet", images), found)], "fp16").rows > 50


def test_only_the_network_reads_and_writes_16_bits(onnx_model):
    import onnx

    halved = onnx.shape_inference.infer_shapes(halve_onnx(copy.deepcopy(onnx_model)), strict_mode=True)
    kinds = {each.name: each.type.tensor_type.elem_type for each in halved.graph.value_info}
    kinds |= {each.name: each.data_type for each in halved.graph.initializer}
    parts = parts_of(steps_of_onnx(onnx_model))
    others = [node for node in halved.graph.node if node.name not in parts.network and node.op_type != "Cast"]
    assert len(others) > 20
    for node in others:
        assert onnx.TensorProto.FLOAT16 not in {kinds.get(name) for name in [*node.input, *node.output]}, node.name
    rounded = {node.output[0] for node in halved.graph.node if node.op_type == "Cast" and node.attribute[0].i == 10}
    for node in halved.graph.node:  # nothing is taken to 16 bits to come back at once
        assert node.op_type != "Cast" or node.attribute[0].i != 1 or node.input[0] not in rounded, node.name
    read = {name for node in halved.graph.node for name in node.input} | {each.name for each in halved.graph.output}
    assert not [node.name for node in halved.graph.node if not read & set(node.output)]
    weights = [kinds[node.input[1]] for node in halved.graph.node if node.op_type == "Conv"]
    assert weights.count(onnx.TensorProto.FLOAT16) > weights.count(onnx.TensorProto.FLOAT) > 0


@pytest.mark.parametrize("task", ["ctdet", "ctdet_iou"])
def test_places_of_a_map_of_more_cells_than_16_bits_can_count_are_exact(task, tmp_path):
    shape = Shape(1, (256, 512), dynamic="none")  # 64 x 128 cells
    save_onnx(halve_onnx(to_onnx(graph_of(task), shape)), tmp_path / "half.onnx", told("fp16"))
    images = pictures(1, 256, 512, seed=3)
    found = Artifact.load(tmp_path / "half.onnx").run(images)
    agreement = compare([(found_by_torch(task, images), found)], "fp16")
    assert agreement.rows > 50
    assert agreement.jumps <= 0.02 * agreement.rows


@pytest.mark.parametrize("symmetric", [False, True])
def test_onnx_in_8_bits_quantizes_all_but_the_last_convolutions(onnx_model, symmetric, tmp_path):
    quantized = quantize_onnx(copy.deepcopy(onnx_model), batches, symmetric)
    made_by = {output: node for node in quantized.graph.node for output in node.output}
    parts = parts_of(steps_of_onnx(onnx_model))
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            is_quantized = node.input[1] in made_by  # its weights come from DequantizeLinear
            assert is_quantized == (node.name not in parts.sensitive), node.name
    searches = {node.name for node in onnx_model.graph.node if node.op_type == "TopK"}
    assert searches
    assert searches <= parts.sensitive
    path = tmp_path / "int8.onnx"
    save_onnx(quantized, path, told("int8"))
    found = Artifact.load(path).run(pictures(2, 160, 128))
    assert np.isfinite(found["boxes"]).all()


@pytest.mark.slow
def test_openvino_in_16_and_8_bits_is_smaller_and_runs(tmp_path):
    model = to_openvino(graph_of("ctdet"), FREE)
    save_openvino(model, tmp_path / "fp32.xml", told("fp32"))
    save_openvino(model, tmp_path / "fp16.xml", told("fp16"), halved=True)
    save_openvino(quantize_openvino(model, batches, 4), tmp_path / "int8.xml", told("int8"))
    sizes = {name: (tmp_path / f"{name}.bin").stat().st_size for name in ("fp32", "fp16", "int8")}
    assert sizes["int8"] < sizes["fp16"] < 0.6 * sizes["fp32"]
    images = pictures(2, 160, 128)
    for name in sizes:
        artifact = Artifact.load(tmp_path / f"{name}.xml")
        assert artifact.metadata["precision"] == name
        assert np.isfinite(artifact.run(images)["boxes"]).all()
