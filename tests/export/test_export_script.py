"""`scripts/export.py`: what it writes, prints and refuses."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch
from PIL import Image

from centernet.export import make
from centernet.export.agreement import MismatchError
from centernet.export.runtime import Artifact
from tests.export.exported import CLASSES, detector_of
from tests.places import ROOT
from tests.tiny import NETWORK, make_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The tiny detector as a checkpoint, as training would write it."""
    from centernet.module import CtdetModule

    module = CtdetModule(backbone=NETWORK, class_names=CLASSES)
    module.detector.network.load_state_dict(detector_of("ctdet").network.state_dict())
    module.eval_spec = {"resolution": [64, 96], "mode": "fit", "divisor": 32}
    content = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.6.0"}
    module.on_save_checkpoint(content)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture
def export(monkeypatch, capsys, checkpoint, tmp_path):
    """Run the script in this process; returns its status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, source=checkpoint):
        monkeypatch.setattr(sys, "argv", ["export.py", str(source), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "export.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out + err

    return call


def test_a_checkpoint_becomes_a_file_beside_it_that_was_compared(export, checkpoint):
    code, said = export("--format", "torch")
    assert code == 0, said
    assert "images ?x3x64x96 uint8 (drawn images)" in said
    assert "compared with PyTorch on 8 images" in said
    artifact = Artifact.load(checkpoint.with_suffix(".pt2"))
    assert artifact.metadata["class_names"] == CLASSES
    assert artifact.metadata["resolution"] == [64, 96]


def test_given_images_are_compared_on_and_every_option_reaches_the_file(export, tmp_path):
    Image.fromarray(make_image(100, 80)).save(tmp_path / "a.png")
    options = ("--dynamic", "none", "--batch", 2, "--size", 96, 64, "--input", "float32", "--images", "a.png")
    code, said = export("--format", "onnx", "--out", "deep/b.onnx", *options)
    assert code == 0, said
    assert "images 2x3x96x64 float32 (given images)" in said
    assert Artifact.load(tmp_path / "deep" / "b.onnx").metadata["input"]["shape"] == [2, 3, 96, 64]


def test_for_tensorrt_the_command_is_printed(export):
    code, said = export("--format", "tensorrt", "--out", "c.onnx", "--precision", "fp16")
    assert code == 0, said
    assert "Not run here" in said
    assert "trtexec --onnx=c.onnx --saveEngine=c.engine --fp16" in said
    assert "--minShapes=images:1x3x64x96 --optShapes=images:1x3x64x96 --maxShapes=images:16x3x64x96" in said


@pytest.mark.parametrize(("target", "words"), [("coreml", "coremltools.convert"), ("executorch", "XnnpackPartitioner")])
def test_for_core_ml_and_executorch_the_lines_are_printed(export, target, words):
    code, said = export("--format", target, "--out", "d.pt2", "--dynamic", "none")
    assert code == 0, said
    assert words in said
    assert "torch.export.load('d.pt2')" in said


def test_a_file_that_finds_something_else_is_an_error(export, monkeypatch):
    def differs(*arguments):
        raise MismatchError("3 of 5 detections of the exported file differ from PyTorch's")

    monkeypatch.setattr(make, "compare", differs)
    code, said = export("--format", "torch", "--out", "e.pt2")
    assert code == 1
    assert "error: 3 of 5 detections" in said
    assert "e.pt2 is wrong, do not use it" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--format", "onnx", "--out", "a.xml"), "--out a.xml does not end as files of onnx do; name it *.onnx"),
        (("--format", "onnx", "--precision", "int8"), "--precision int8 needs images like those that will be seen"),
        (("--format", "onnx", "--calibrate", "x"), "--calibrate is for --precision int8"),
        (("--format", "torch", "--precision", "fp16"), "--format torch has no precision fp16; choose one of fp32"),
        (("--format", "onnx", "--size", "60", "64"), "input 60x64 is not divisible by 32; use 32x64, 64x64"),
        (("--format", "onnx", "--images", "none.png"), "none.png does not exist"),
        (("--format", "tflite"), "invalid choice: 'tflite'"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(export, arguments, sentence):
    code, said = export(*arguments)
    assert code == 2
    assert sentence in said
    assert "Traceback" not in said


def test_a_missing_checkpoint_is_named(export):
    code, said = export("--format", "onnx", source="none.ckpt")
    assert code == 2
    assert "none.ckpt: the file does not exist" in said


def test_the_list_of_formats_is_that_of_the_package():
    names = runpy.run_path(str(ROOT / "scripts" / "export.py"))
    assert names["FORMATS"] == {name: form.suffix for name, form in make.FORMATS.items()}
