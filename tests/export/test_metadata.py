"""A file says what it is and how to use it, and refuses what it cannot take, in one sentence."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from centernet.errors import InputError
from centernet.export.graph import Shape
from centernet.export.metadata import PREFIX, describe, unpack
from centernet.export.onnx_file import to_onnx
from centernet.export.runtime import Artifact
from centernet.tasks import build_task
from tests.export.exported import (
    CLASSES,
    FREE,
    SUFFIXES,
    artifact_of,
    description_of,
    graph_of,
    graph_of_edges,
    pictures,
    scratch,
)
from tests.tiny import NETWORK


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_every_format_holds_the_same_description(suffix):
    assert artifact_of("cells", suffix).metadata == describe(graph_of("cells"), description_of("cells"), FREE)


def test_a_description_is_enough_to_use_the_file():
    told = describe(graph_of("multi_pose"), description_of("multi_pose"), Shape(2, (128, 160), "float32", "size"))
    assert told["class_names"] == CLASSES
    assert told["backbone"] == NETWORK
    assert told["input"] == {
        "name": "images",
        "dtype": "float32",
        "shape": [2, 3, None, None],
        "channels": "RGB",
        "range": [0, 255],
    }
    assert told["outputs"] == ["boxes", "scores", "labels", "joints", "joint_scores"]
    assert told["resolution"] == [128, 160]
    assert told["transform"]["mode"] == "fit"
    assert len(told["facts"]["joints"]["names"]) == 17
    assert told["facts"]["joints"]["flip_pairs"]
    task = build_task(told["task"], told["num_classes"], facts=told["facts"], **told["task_options"])
    assert list(task.heads) == list(graph_of("multi_pose").task.heads)


def test_every_value_of_an_onnx_file_is_json_under_a_key_of_its_own():
    artifact = artifact_of("cells")
    properties = {entry.key: entry.value for entry in onnx.load(artifact.path).metadata_props}
    assert properties[f"{PREFIX}class_names"] == '["cat", "dog", "owl"]'


def test_a_foreign_file_is_refused():
    node = helper.make_node("Identity", ["a"], ["b"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    model = helper.make_model(
        helper.make_graph([node], "foreign", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    path = scratch() / "foreign.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match="was not exported by this project; make it with scripts/export"):
        Artifact.load(path)


def test_a_newer_file_is_refused():
    with pytest.raises(InputError, match="exported by a newer version"):
        unpack({f"{PREFIX}task": '"ctdet"', f"{PREFIX}format": "99"}, "a.onnx")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(b"nothing of use")
    with pytest.raises(InputError, match=r"cannot load .*damaged"):
        Artifact.load(path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("a.onnx", "the file does not exist; make it with"), ("a.tflite", r"give one of \*\.onnx, \*\.xml, \*\.pt2")],
)
def test_a_missing_file_and_an_unknown_format_are_named(name, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        Artifact.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_missing_runtime_is_named_with_the_command_that_installs_it(suffix, monkeypatch):
    path = artifact_of("cells", suffix).path
    package, extra = {".onnx": ("onnxruntime", "export"), ".xml": ("openvino", "openvino")}[suffix]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf'package {package}; pip install "centernet-lightning\[{extra}\]"'):
        Artifact.load(path)


def test_nobody_is_told_of_an_export():
    assert artifact_of("cells", ".xml").path.is_file()
    assert sys.modules["openvino_telemetry"] is None
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]


def test_a_missing_exporter_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r'needs the package onnxscript; pip install "centernet-lightning\[export\]"'):
        to_onnx(graph_of("cells"), FREE)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (pictures(1, 66, 64), r"H, W = multiples of 4 from \d+ on, not \[1, 3, 66, 64\]"),
        (pictures(1, 64, 64)[0], r"takes images \[N, 3, H, W\]"),
        (pictures(1, 64, 64).astype(np.float32), "takes uint8 in 0 .. 255, not float32"),
        (pictures(0, 64, 64), r"not \[0, 3, 64, 64\]"),
    ],
    ids=["size", "axes", "type", "nothing"],
)
def test_images_that_a_file_cannot_take_are_refused(images, sentence):
    with pytest.raises(InputError, match=sentence):
        artifact_of("cells").run(images)


def test_a_file_of_a_fixed_size_names_it():
    artifact = artifact_of("cells", ".onnx", Shape(2, (64, 96), dynamic="none"))
    with pytest.raises(InputError, match="H, W = 64x96"):
        artifact.run(pictures(1, 96, 64))


@pytest.mark.parametrize(
    ("task", "shape", "sentence"),
    [
        ("ctdet", Shape(1, (100, 128)), "input 100x128 is not divisible by 32; use 96x128, 128x128"),
        ("ctdet", Shape(0, (128, 128)), "--batch 0 is no number of images"),
        ("ctdet", Shape(1, (32, 32), dynamic="size"), "too small for a free size, .* use 64 64 or more"),
    ],
)
def test_a_shape_that_the_network_cannot_take_is_refused(task, shape, sentence):
    with pytest.raises(InputError, match=sentence):
        to_onnx(graph_of(task), shape)


def test_a_task_that_goes_through_the_grid_line_by_line_has_a_fixed_size():
    with pytest.raises(InputError, match="cannot have a free size; use --dynamic batch, or none"):
        to_onnx(graph_of_edges(), Shape(1, (128, 128), dynamic="size"))
