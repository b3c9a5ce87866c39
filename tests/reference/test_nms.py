"""Suppression and merging of passes against measurements of the original (soft_nms, postprocess: merge_outputs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from centernet.detector import Detector
from centernet.ops.affine import crop_matrix, place_matrix
from centernet.ops.nms import decay_scores
from centernet.structures import AtCells
from centernet.tasks import build_task
from centernet.tasks._spread import spread
from tests.reference.cases import Case, cases, measures, read
from tests.test_inference import ColorNetwork

METHODS = {0: "plain", 1: "linear", 2: "soft"}


@pytest.mark.parametrize("entry", cases("soft_nms", lambda entry: entry["function"].startswith("soft_nms")))
def test_scores_decay_as_in_the_original(entry):
    case = read("soft_nms", entry)
    rows = torch.from_numpy(np.asarray(case.inputs["boxes"]))
    boxes, scores = rows[None, :, :4], rows[None, :, 4]
    params = case.params
    found = decay_scores(
        boxes, scores, torch.zeros_like(scores, dtype=torch.long), METHODS[params["method"]],
        overlap=params["Nt"], sigma=params["sigma"], least=params["threshold"],
    )[0]  # fmt: skip
    # Rows behind the kept ones are left-overs of the original's in-place algorithm.
    wanted = np.asarray(case.outputs["boxes_after"])[: int(case.outputs["num_keep"])]
    kept = found > 0
    mine = torch.cat([rows[kept, :4], found[kept, None], rows[kept, 5:]], 1).numpy()
    order = [np.lexsort((each[:, 0], -each[:, 4])) for each in (mine, wanted)]
    np.testing.assert_allclose(mine[order[0]], wanted[order[1]], rtol=1e-5, atol=1e-6)


def merged(case: Case, task: str, stretched: bool = False) -> np.ndarray:
    """Their detections (grid cells, an image for each scale), lifted and merged by ours: box, score, and label or
    joints."""
    params, given = case.params, torch.from_numpy(case.inputs["dets"])
    scales = params.get("scales") or [params["scale"]]
    size = (4 * params["out_height"], 4 * params["out_width"])
    modes = {"scales": scales, "nms": "soft" if params["nms"] else None}
    detector = Detector(ColorNetwork(), build_task(task, params.get("num_classes", 1)), modes=modes)
    extents = case.inputs["s"].reshape(len(scales), -1).astype(np.float64)
    passes = []
    for rows, center, extent, scale in zip(given, case.inputs["c"].reshape(-1, 2), extents, scales, strict=True):
        if stretched:
            sides = np.array(size[::-1], np.float64)
            matrix = place_matrix(tuple(center), tuple(sides / 2), tuple(sides / np.broadcast_to(extent, (2,))))
        else:
            matrix = crop_matrix(tuple(center), float(extent[0]), size)  # of two the original reads the first
        matrix = matrix @ np.diag([scale, scale, 1.0])
        found = {"boxes": rows[:, :4] * 4, "scores": rows[:, 4], "labels": rows[:, -1].long()}
        if task == "multi_pose":
            found["joints"] = rows[:, 5:39].unflatten(-1, (-1, 2)) * 4
        batch = {"input_from_image": torch.from_numpy(matrix)[None]}
        passes.append(detector.task.lift({name: value[None] for name, value in found.items()}, batch))
    out = {name: value[0] for name, value in detector._merge(passes, params.get("max_per_image")).items()}
    last = out["joints"].flatten(1) if task == "multi_pose" else out["labels"][:, None]
    return torch.cat([out["boxes"], out["scores"][:, None], last], 1)[out["scores"] > 0].double().numpy()


def assert_same_rows(ours: np.ndarray, theirs: np.ndarray) -> None:
    # Where a score fell below the least, the original leaves a second copy of a row that it keeps.
    theirs = np.unique(theirs, axis=0)
    ours, theirs = (rows[np.lexsort((rows[:, 0], -rows[:, 4]))] for rows in (ours, theirs))
    np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-4, atol=2e-2)
    assert len(theirs) - len(ours) in (0, 1)


def merges(detector: str) -> Callable[[dict[str, Any]], bool]:
    """Whether an entry measures how this detector of the original merges its passes."""
    return lambda entry: entry["function"].startswith(detector) and "merge_outputs" in entry["function"]


BOXES = [(file, *param.values) for file in ("postprocess_xy", "postprocess_hardnet")
         for param in cases(file, merges("CtdetDetector"))]  # fmt: skip


@pytest.mark.parametrize(("file", "entry"), BOXES)
def test_boxes_of_several_scales_are_merged_as_in_the_original(file, entry):
    if entry is None:
        pytest.skip(f"no such case in {file}.json (set CENTERNET_REFERENCE)")
    case = read(file, entry)
    theirs = case.outputs["merged_rows"]
    assert_same_rows(
        merged(case, "ctdet", file.endswith("hardnet")), np.concatenate([theirs[:, 1:], theirs[:, :1] - 1], 1)
    )


@pytest.mark.parametrize("entry", cases("postprocess_xy", merges("MultiPoseDetector")))
def test_people_are_merged_as_in_the_original(entry):
    case = read("postprocess_xy", entry)
    assert_same_rows(merged(case, "multi_pose"), case.outputs["merged_rows"])


@pytest.mark.parametrize("entry", cases("decode_xy", measures("gen_oracle_map")))
def test_the_truth_is_spread_as_in_the_original(entry):
    case = read("decode_xy", entry)
    feat, cell = case.tensors()["feat"], case.tensors()["ind"].long()
    target = AtCells(cell, feat.float(), cell > 0)  # theirs takes cell 0 as "no object"
    found = spread(target, (), (case.params["h"], case.params["w"]))
    np.testing.assert_allclose(found.value.numpy(), case.outputs["map"], rtol=1e-6)
