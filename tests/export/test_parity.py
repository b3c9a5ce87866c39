"""Exported files find what PyTorch finds."""

from __future__ import annotations

import numpy as np
import pytest

from centernet.export.agreement import compare
from centernet.export.graph import Shape
from centernet.tasks import task_names
from tests.export.exported import SUFFIXES, artifact_of, found_by_torch, pictures

QUICK = {("ctdet_iou", ".onnx"), ("ctdet", ".pt2")}
EVERY = [
    pytest.param(task, suffix, marks=[] if (task, suffix) in QUICK else pytest.mark.slow)
    for task in task_names()
    for suffix in SUFFIXES
]


@pytest.mark.parametrize(("task", "suffix"), EVERY)
def test_a_file_of_every_task_finds_what_pytorch_finds_in_batches_and_sizes_of_any_kind(task, suffix):
    artifact = artifact_of(task, suffix)
    pairs = [
        (found_by_torch(task, images), artifact.run(images))
        for images in (pictures(1, 128, 128), pictures(4, 160, 224, seed=1))
    ]
    assert compare(pairs).rows > 100


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_scores_come_by_rising_class_and_cell_in_every_format(suffix):
    # Three levels of gray in blocks of a cell: hundreds of peaks with few different scores, of which twenty are kept.
    levels = np.random.default_rng(0).integers(0, 3, (4, 3, 24, 32)) * 100 + 55
    images = levels.astype(np.uint8).repeat(4, -1).repeat(4, -2)
    wanted, found = found_by_torch("cells", images), artifact_of("cells", suffix).run(images)
    assert len(np.unique(wanted["scores"])) <= 3
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_without_anything_has_no_score(suffix):
    images = np.zeros((2, 3, 64, 64), np.uint8)
    found = artifact_of("cells", suffix).run(images)
    assert found["scores"].shape == (2, 20)
    assert not found["scores"].any()
    assert np.isfinite(found["boxes"]).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_more_objects_than_a_file_returns_the_best_come(suffix):
    levels = np.random.default_rng(1).permutation(3 * 32 * 32).reshape(1, 3, 32, 32) % 251
    images = levels.astype(np.uint8).repeat(4, -1).repeat(4, -2)
    wanted, found = found_by_torch("cells", images), artifact_of("cells", suffix).run(images)
    assert (found["scores"] > 0).all()
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)
    assert (np.diff(found["scores"]) <= 0).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_a_fixed_batch_takes_any_number_of_images(suffix):
    artifact = artifact_of("cells", suffix, Shape(2, (64, 96), dynamic="none"))
    images = pictures(5, 64, 96)
    assert compare([(found_by_torch("cells", images), artifact.run(images))]).images == 5


def test_a_file_of_floats_takes_bytes_too():
    artifact = artifact_of("cells", ".onnx", Shape(1, (64, 64), "float32", "batch"))
    images = pictures(2, 64, 64)
    both = (artifact.run(some) for some in (images, images.astype(np.float32)))
    assert compare([tuple(both)]).jumps == 0
