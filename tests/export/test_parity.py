"""Exported files find what PyTorch finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from centernet.export.graph import Shape
from centernet.export.metadata import describe
from centernet.export.onnx_file import save_onnx, to_onnx
from centernet.export.runtime import Artifact
from tests.export.exported import description_of, pictures, scratch, tiny_detector, tiny_graph

SHAPE = Shape(1, (128, 128), dynamic="both")


def onnx_file(task, shape=SHAPE):
    path = scratch() / f"{task}-{'-'.join(map(str, shape.plain))}-{shape.dtype}.onnx"
    if not path.exists():
        graph = tiny_graph(task)
        save_onnx(to_onnx(graph, shape), path, describe(graph, description_of(tiny_detector(task)), shape))
    return path


@pytest.mark.parametrize("task", ["ctdet", "ctdet_iou"])
@pytest.mark.parametrize("size", [(1, 128, 128), (4, 160, 224)], ids=["one", "four-of-another-size"])
def test_a_file_of_free_batch_and_size_finds_what_the_detector_finds(task, size):
    images = pictures(*size)
    with torch.no_grad():
        wanted = tiny_graph(task).find(torch.from_numpy(images))
    found = Artifact.load(onnx_file(task)).run(images)
    assert list(found) == list(wanted)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-4)
    assert found["labels"].dtype == np.int64
