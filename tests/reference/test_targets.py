"""Targets of ctdet against what the original's sampler returned (targets_ctdet), on the reference's synthetic data set.

The matrix is made from the recorded center and extent; from there on everything is the package's: reading, warp, boxes,
encoding. Slot k of the original's arrays is annotation k, and so is ours.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from centernet.data.images import read_image
from centernet.detector import Detector
from centernet.fields import move
from centernet.ops.affine import crop_matrix, flip_matrix
from centernet.ops.heatmap import gaussian_radius
from centernet.structures import AtCells, DenseMap, Targets
from centernet.tasks.ctdet import CtdetTask
from tests.places import REFERENCE
from tests.reference.cases import arrays, cases
from tests.reference.test_postprocess import Fixed
from tests.tiny import make_batch, make_objects

FILE = "targets_ctdet"


def every(entry: dict[str, Any]) -> bool:
    return True


@cache
def annotations(is_pascal: bool) -> dict[str, Any]:
    return json.loads((REFERENCE / "dataset" / ("pascal.json" if is_pascal else "instances.json")).read_text())


class Sample:
    """One recorded sample beside what the package makes of the same image with the same window."""

    def __init__(self, entry: dict[str, Any]) -> None:
        prefix = f"{entry['config']}/{entry['image_id']}/"
        self.recorded = {name: arrays(FILE)[prefix + name] for name in (*entry["fields"], "input_idx", "input_val")}
        self.is_pascal = "num_classes" in entry["options"]
        content = annotations(self.is_pascal)
        image = next(row for row in content["images"] if row["id"] == entry["image_id"])
        self.path = REFERENCE / "dataset" / "images" / image["file_name"]
        self.size = tuple(entry["input_shape"][1:])
        extent = float(np.ravel(self.recorded["meta_s"])[0])
        self.matrix = crop_matrix(tuple(self.recorded["meta_c"]), extent, self.size)
        if entry["flipped"]:
            self.matrix = self.matrix @ flip_matrix(image["width"])
        label_of = {row["id"]: n for n, row in enumerate(sorted(content["categories"], key=lambda row: row["id"]))}
        rows = [row for row in content["annotations"] if row["image_id"] == entry["image_id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
        crowd = [bool(row.get("iscrowd", 0)) for row in rows]
        self.objects = make_objects(boxes, [label_of[row["category_id"]] for row in rows], crowd)
        kinds = {"cat_spec_wh": {"per_class": True}, "dense_wh": {"supervise": "dense"}}
        size = next((kinds[name] for name in kinds if entry["options"].get(name)), {})
        self.task = CtdetTask(len(content["categories"]), heatmap={"crowds": "objects"}, size=size)
        self.warped = move(self.objects, torch.from_numpy(self.matrix))
        self.grid_size = (self.size[0] // 4, self.size[1] // 4)
        self.targets: Targets = self.task.encode(make_batch(self.warped), self.grid_size)

    def at_cells(self, head: str) -> tuple[np.ndarray, ...]:
        """Cell, value and mask of a head, padded to the number of slots that the original has."""
        target = self.targets[head]
        assert isinstance(target, AtCells)
        slots = len(self.recorded["reg_mask"])
        padded = []
        for field in (target.cell[0], target.value[0], target.mask[0]):
            rows = field.numpy()
            assert len(rows) <= slots
            padded.append(np.concatenate([rows, np.zeros((slots - len(rows), *rows.shape[1:]), rows.dtype)]))
        return tuple(padded)


@pytest.mark.parametrize("entry", cases(FILE, every))
def test_heatmap_cells_and_offsets_are_those_of_the_original(entry):
    sample = Sample(entry)
    heatmap = sample.targets["heatmap"]
    assert isinstance(heatmap, DenseMap)
    np.testing.assert_allclose(heatmap.value[0], sample.recorded["hm"], atol=1e-6)
    cell, offset, mask = sample.at_cells("offset")
    is_object = sample.recorded["reg_mask"] > 0
    assert np.array_equal(mask, is_object)
    assert np.array_equal(cell[is_object], sample.recorded["ind"][is_object])
    np.testing.assert_allclose(offset[is_object], sample.recorded["reg"][is_object], atol=2e-4)


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: "wh" in entry["fields"]))
def test_sizes_are_those_of_the_original(entry):
    sample = Sample(entry)
    _, size, mask = sample.at_cells("size")
    np.testing.assert_allclose(size[mask], sample.recorded["wh"][mask], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: "cat_spec_wh" in entry["fields"]))
def test_sizes_per_class_are_those_of_the_original(entry):
    sample = Sample(entry)
    _, size, mask = sample.at_cells("size")
    assert np.array_equal(mask, sample.recorded["cat_spec_mask"])
    np.testing.assert_allclose(size[mask > 0], sample.recorded["cat_spec_wh"][mask > 0], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: "dense_wh" in entry["fields"]))
def test_dense_sizes_are_those_of_the_original_where_it_writes_them(entry):
    # The original draws the regression after the heatmap and so leaves about half of the cells at 0 while they are
    # weighted like the others (see test_image.py). Ours writes every cell; where theirs is written, both must agree.
    sample = Sample(entry)
    dense = sample.targets["size"]
    assert isinstance(dense, DenseMap)
    theirs, ours = sample.recorded["dense_wh"], dense.value[0].numpy()
    covered = sample.recorded["dense_wh_mask"][0]
    np.testing.assert_allclose(dense.weight[0], sample.recorded["dense_wh_mask"], atol=1e-6)
    assert (ours[:, covered > 0] > 0).all()
    assert (ours[:, covered == 0] == 0).all()
    assert (theirs[:, covered == 0] == 0).all()
    if not covered.any():
        return  # an image without objects
    each = exact_gaussians(sample)
    is_written = (np.sort(each, 0)[-1] >= covered) & ((each >= covered * (1 - 1e-6)).sum(0) == 1) & (covered > 0)
    assert is_written.sum() > 0.2 * (covered > 0).sum()
    np.testing.assert_allclose(ours[:, is_written], theirs[:, is_written], rtol=1e-5, atol=2e-4)


def exact_gaussians(sample: Sample) -> np.ndarray:
    """The Gaussian of every object ``[N, H, W]`` in float64, by the original's definition."""
    task = CtdetTask(sample.task.num_classes, heatmap={"crowds": "objects"})
    plain = task.encode(make_batch(sample.warped), sample.grid_size)
    mask = plain["size"].mask[0]
    size, cell = plain["size"].value[0][mask], plain["size"].cell[0][mask].numpy()
    radius = gaussian_radius(size[:, 1].ceil(), size[:, 0].ceil()).long().numpy()[:, None, None]
    y, x = np.indices(sample.grid_size)
    dy, dx = (np.abs(a - b[:, None, None]) for a, b in zip((y, x), np.divmod(cell, sample.grid_size[1]), strict=True))
    value = np.exp(-(dx**2 + dy**2) / (2 * ((2 * radius + 1) / 6) ** 2))
    return np.where((dx <= radius) & (dy <= radius), value, 0)


@pytest.mark.parametrize("entry", cases(FILE, every))
def test_the_pixels_are_those_of_the_original(entry):
    sample = Sample(entry)
    warped = Fixed(sample.size, sample.matrix)(read_image(sample.path))
    # On Pascal the original gives ImageNet's values, which are in RGB order, to BGR images.
    detector = Detector(nn.Identity(), sample.task, "imagenet_swapped" if sample.is_pascal else "coco")
    pixels = detector.normalize(torch.from_numpy(warped).permute(2, 0, 1)[None])[0]
    ours = pixels.flip(0).flatten()[sample.recorded["input_idx"]].numpy()
    difference = np.abs(ours - sample.recorded["input_val"])
    assert difference.mean() < 0.05
    assert (difference > 0.3).mean() < 0.02


@pytest.mark.parametrize("entry", cases(FILE, every))
def test_perfect_outputs_decode_to_the_boxes_that_the_original_notes(entry):
    sample = Sample(entry)
    noted = sample.recorded["meta_gt_det"]
    noted = noted[noted[:, 4] > 0]
    centers = np.floor((noted[:, :2] + noted[:, 2:4]) / 2)
    # A cell that several objects share can hold the size of one.
    is_alone = (centers[:, None] == centers).all(-1).sum(1) == 1
    assert not len(noted) or is_alone.mean() > 0.5
    found = sample.task.detect(sample.task.perfect(sample.targets, sample.grid_size))
    boxes, labels = found["boxes"][0].numpy() / 4, found["labels"][0].numpy()
    for row in noted[is_alone]:
        distance = np.abs(boxes - row[:4]).max(1) + 1000 * (labels != row[5])
        assert distance.min() < 1e-2
