"""From maps to boxes against measurements of the original (decode_xy), with and without flip testing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from centernet.ops.heatmap import suppress_non_peaks
from centernet.structures import Detections
from centernet.tasks.ctdet import CtdetTask
from tests.reference.cases import cases, measures, read

FILE = "decode_xy"
NAMES = {"heat": "heatmap", "hm": "heatmap", "wh": "size", "reg": "offset"}


@pytest.mark.parametrize("entry", cases(FILE, measures("ctdet_decode")))
def test_decoding_gives_the_boxes_of_the_original(entry):
    case = read(FILE, entry)
    maps = {NAMES[name]: value for name, value in case.tensors().items()}
    task = CtdetTask(
        num_classes=maps["heatmap"].shape[1],
        heatmap={"max_detections": case.params["K"]},
        size={"per_class": bool(case.params["cat_spec_wh"])},
        offset={} if "offset" in maps else None,
    )
    assert_same(task.decode(maps), case.outputs["dets"])


@pytest.mark.parametrize("entry", cases(FILE, measures("_nms")))
def test_of_equal_neighbors_all_are_peaks(entry):
    case = read(FILE, entry)
    assert torch.equal(suppress_non_peaks(torch.from_numpy(case.inputs["heat"])), torch.from_numpy(case.outputs["nms"]))


def is_process(entry: dict[str, Any]) -> bool:
    return entry["function"].startswith("CtdetDetector.process")


@pytest.mark.parametrize("entry", cases(FILE, is_process))
def test_raw_outputs_are_activated_merged_with_their_mirror_and_decoded(entry):
    case = read(FILE, entry)
    outputs = {NAMES[name.removeprefix("raw_")]: value for name, value in case.tensors().items()}
    task = CtdetTask(outputs["heatmap"].shape[1], heatmap={"max_detections": case.params["K"]})
    maps = task.activate(outputs)
    if case.params["flip_test"]:
        maps = task.merge_flipped(maps)
    assert_same(task.decode(maps), case.outputs["dets"])


def assert_same(found: Detections, wanted: np.ndarray) -> None:
    """Theirs: x1 y1 x2 y2 score class in grid cells. Ours: input pixels, four to a cell."""
    labels = found["labels"].to(torch.float32)
    ours = torch.cat([found["boxes"] / 4, found["scores"][..., None], labels[..., None]], -1).numpy()
    assert (np.diff(ours[..., 4]) <= 0).all()
    for mine, theirs in zip(ours, wanted, strict=True):
        # Among equal scores the order is free.
        mine, theirs = (rows[np.lexsort((rows[:, 0], rows[:, 5], -rows[:, 4]))] for rows in (mine, theirs))
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
