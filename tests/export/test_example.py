"""examples/onnx_detect.py: the same detections as the Predictor, with onnxruntime, numpy and OpenCV alone."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from centernet.export.exported import load_exported
from centernet.inference import Predictor
from tests import tiny
from tests.export.exported import artifact_of
from tests.export.files import color_file, squares
from tests.places import ROOT

EXAMPLE = ROOT / "examples" / "onnx_detect.py"
# Runs the example as its user does, in a process that has neither torch nor this package.
WITHOUT = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "centernet"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = map(str, (EXAMPLE, *arguments))
    return subprocess.run([sys.executable, "-c", WITHOUT, *words], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_the_example_has_at_most_60_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 60


@pytest.mark.parametrize(
    ("dynamic", "mode"), [("batch", "fit"), ("none", "stretch"), ("batch", "width"), ("both", "keep")]
)
def test_the_example_finds_what_the_predictor_finds_without_torch(tmp_path, dynamic, mode):
    file, image = color_file(dynamic, mode), squares()[0]
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    done = run(file, "photo.png", "drawn.png", 0.3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = Predictor(file)(image, threshold=0.3)
    assert len(wanted)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == wanted.names
    np.testing.assert_allclose([float(row[1]) for row in rows], wanted.scores, atol=0.006)
    np.testing.assert_allclose([[float(side) for side in row[2:]] for row in rows], wanted.boxes, atol=0.06)
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    assert drawn.shape == image.shape
    assert (drawn != image[..., ::-1]).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.onnx", "photo.png"], "error: nothing.onnx does not exist; make it with scripts/export.py"),
        (["nothing.onnx", "text.png"], "error: text.png is no image that OpenCV reads; give another"),
        (["text.png", "photo.png"], "give a file of scripts/export.py, an image, a file, a number"),
        (["text.png", "photo.png", "drawn.png", "high"], "could not convert string to float: 'high'"),
        ([], "Detect with an exported file, without torch"),
    ],
)
def test_the_example_says_what_is_wrong(tmp_path, words, message):
    cv2.imwrite(str(tmp_path / "photo.png"), squares()[0])
    (tmp_path / "text.png").write_text("no picture")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_example_moves_joints_into_the_picture():
    import onnxruntime

    detect, path = runpy.run_path(str(EXAMPLE))["detect"], artifact_of("multi_pose").path
    image = tiny.make_image(100, 140, seed=3)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = detect(session, image[..., ::-1], load_exported(path).artifact.metadata)
    wanted = Predictor(path)(image)
    np.testing.assert_allclose(found["scores"][:5], wanted.scores[:5], atol=1e-4)
    np.testing.assert_allclose(found["joints"][:5], wanted.joints[:5], atol=1e-2)
