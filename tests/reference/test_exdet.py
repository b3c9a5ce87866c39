"""exdet against measurements of the original: edge aggregation, grouping, targets, losses, merging of passes."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from centernet.data.coco import CocoDataset
from centernet.data.transforms import eval_pipeline
from centernet.detector import Detector
from centernet.fields import move
from centernet.ops.affine import crop_matrix, fit_extent, flip_matrix
from centernet.ops.grouping import aggregate_edges
from centernet.structures import AtCells, DenseMap, Objects, Targets
from centernet.tasks.exdet import ExdetTask
from centernet.tasks.terms.extremes import SIDES
from tests.places import REFERENCE
from tests.reference.cases import Case, arrays, cases, measures, read
from tests.reference.test_nms import assert_same_rows, merges
from tests.tiny import make_batch

LETTERS = dict(zip("tlbr", SIDES, strict=True))
HEADS = {"hm_c": "heatmap"}
HEADS |= {f"hm_{letter}": side for letter, side in LETTERS.items()}
HEADS |= {f"reg_{letter}": f"{side}_offset" for letter, side in LETTERS.items()}
# The original trains crowds like objects.
CROWDS = {"heatmap": {"crowds": "objects"}}
NO_OFFSETS = {f"{side}_offset": None for side in SIDES}


# Decoding ------------------------------------------------------------------------------------------------------------


def is_aggregation(entry: dict[str, Any]) -> bool:
    return "_h/_v_aggregate" in entry["function"]


@pytest.mark.parametrize("entry", cases("decode_xy", is_aggregation))
def test_edges_are_aggregated_as_in_the_original(entry):
    case = read("decode_xy", entry)
    heat = case.tensors()["heat"]
    for axis, name in ((3, "h"), (2, "v")):
        found = aggregate_edges(heat, case.params["aggr_weight"], axis)
        np.testing.assert_allclose(found, case.outputs[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("entry", cases("decode_xy", measures("exct_decode", "agnex_ct_decode")))
def test_extreme_points_are_grouped_as_in_the_original(entry):
    case = read("decode_xy", entry)
    names = {"ct_heat": "heatmap"}
    names |= {f"{letter}_heat": side for letter, side in LETTERS.items()}
    names |= {f"{letter}_regr": f"{side}_offset" for letter, side in LETTERS.items()}
    maps = {names[name]: value for name, value in case.tensors().items()}
    params = case.params
    task = ExdetTask(
        num_classes=maps["heatmap"].shape[1],
        agnostic=maps["top"].shape[1] < maps["heatmap"].shape[1],
        heatmap={
            "candidates": params["K"],
            "groups": params["num_dets"],
            "min_score": params["scores_thresh"],
            "min_center_score": params["center_thresh"],
            "aggregation": params["aggr_weight"],
        },
        **({} if "top_offset" in maps else NO_OFFSETS),
    )
    found = task.decode(maps)
    counts = np.ravel(case.outputs["num_positive_score"]).tolist()
    for image, theirs in enumerate(case.outputs["dets"]):
        ours = torch.cat(
            [
                found["boxes"][image] / 4,
                found["scores"][image, :, None],
                found["extreme_points"][image].flatten(1) / 4,
                found["labels"][image, :, None].float(),
            ],
            1,
        ).numpy()
        ours, theirs = ours[ours[:, 4] > 0], theirs[theirs[:, 4] > 0]
        assert len(ours) == len(theirs)
        assert counts[image if len(counts) > 1 else 0] >= 0
        np.testing.assert_allclose(ours[:, 4], theirs[:, 4], rtol=1e-5)
        if len(theirs) == params["num_dets"]:  # of the groups that share the last score any may be left out
            last = theirs[-1, 4] + 1e-6
            ours, theirs = ours[ours[:, 4] > last], theirs[theirs[:, 4] > last]
        # Among equal scores the order is free.
        ours, theirs = (rows[np.lexsort(rows.round(3).T)] for rows in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


# Targets -------------------------------------------------------------------------------------------------------------


@cache
def dataset() -> CocoDataset:
    source = REFERENCE / "dataset"
    return CocoDataset(source / "instances.json", source / "images", eval_pipeline((512, 512)), extreme_points="masks")


@cache
def annotations(image_id: int) -> list[dict[str, Any]]:
    content = json.loads((REFERENCE / "dataset" / "instances.json").read_text())
    return [row for row in content["annotations"] if row["image_id"] == image_id]


def objects_of(image_id: int) -> tuple[Objects, tuple[int, int], np.ndarray]:
    """Objects of an image as the package reads them, in the order of the file, its size (height, width), and which of
    the annotations they are: flat boxes are dropped, which the original skips when it draws them."""
    data = dataset()
    place = data.image_ids.index(image_id)
    kept = np.flatnonzero([min(row["bbox"][2:]) > 0 for row in annotations(image_id)])
    return data.objects(place), tuple(data.sizes[place].tolist()), kept


@pytest.mark.parametrize("entry", cases("targets_exdet", lambda entry: True))
def test_targets_are_those_of_the_original(entry):
    prefix = f"{entry['config']}/{entry['image_id']}/"
    recorded = {name: arrays("targets_exdet")[prefix + name] for name in entry["fields"]}
    objects, (height, width), rows = objects_of(entry["image_id"])
    size = tuple(entry["input_shape"][1:])
    matrix = crop_matrix((width / 2, height / 2), fit_extent((height, width), size), size)
    if entry["flipped"]:
        matrix = matrix @ flip_matrix(width)
    task = ExdetTask(len(dataset().class_names), agnostic=bool(entry["options"].get("agnostic_ex")), **CROWDS)
    targets = task.encode(make_batch(move(objects, torch.from_numpy(matrix))), (size[0] // 4, size[1] // 4))
    mask = recorded["reg_mask"] > 0
    assert mask.any() or not len(objects["labels"])
    for theirs, ours in HEADS.items():
        target = targets[ours]
        if theirs.startswith("hm_"):
            assert isinstance(target, DenseMap)
            np.testing.assert_allclose(target.value[0], recorded[theirs], atol=1e-6, err_msg=theirs)
            continue
        assert isinstance(target, AtCells)
        own = mask[rows]
        assert np.array_equal(target.mask[0], own)
        assert own.sum() == mask.sum()
        cells = recorded[theirs.replace("reg_", "ind_")][rows]
        assert np.array_equal(target.cell[0].numpy()[own], cells[own]), theirs
        np.testing.assert_allclose(target.value[0].numpy()[own], recorded[theirs][rows][own], atol=2e-4)


def test_the_points_of_a_file_are_read_as_they_are():
    path = REFERENCE / "dataset" / "instances.json"
    if not path.is_file() or "extreme_points" not in path.read_text():
        pytest.skip(f"no extreme points in {path} (set CENTERNET_REFERENCE)")
    for image in dataset().image_ids:
        ours, _, kept = objects_of(image)
        theirs = np.reshape([annotations(image)[n]["extreme_points"] for n in kept], (-1, 4, 2))
        np.testing.assert_allclose(ours["extreme_points"], theirs, rtol=1e-6)


# Losses --------------------------------------------------------------------------------------------------------------


def stacks(case: Case) -> list[dict[str, Tensor]]:
    return [
        {
            ours: torch.from_numpy(case.inputs[f"out_stack{n}_{theirs}"]).requires_grad_()
            for theirs, ours in HEADS.items()
            if f"out_stack{n}_{theirs}" in case.inputs
        }
        for n in range(case.params["num_stacks"])
    ]


@pytest.mark.parametrize("entry", cases("losses_xy", measures("ExdetLoss(opt)")))
def test_the_whole_loss_every_part_and_every_gradient(entry):
    case = read("losses_xy", entry)
    options, outputs = case.params, stacks(case)
    batch = {name.removeprefix("batch_"): value for name, value in case.tensors().items() if name.startswith("batch_")}
    targets: Targets = {}
    for theirs, ours in HEADS.items():
        if theirs in batch and theirs.startswith("hm_"):
            targets[ours] = DenseMap(batch[theirs])
        elif theirs in batch:
            targets[ours] = AtCells(batch[theirs.replace("reg_", "ind_")], batch[theirs], batch["reg_mask"])
    heatmap = {"weight": options["hm_weight"], "loss": "mse" if options["mse_loss"] else "focal"}
    offsets = {f"{side}_offset": {"weight": options["off_weight"]} for side in SIDES}
    task = ExdetTask(
        batch["hm_c"].shape[1],
        agnostic=batch["hm_t"].shape[1] < batch["hm_c"].shape[1],
        **dict.fromkeys(("heatmap", *SIDES), heatmap),
        **(offsets if options["reg_offset"] else NO_OFFSETS),
    )
    parts = task.losses(outputs, targets)
    parts["loss"].backward()
    wanted = {name: float(value) for name, value in case.outputs.items() if name.startswith("stat_")}
    assert parts["loss"].item() == pytest.approx(wanted["stat_loss"], rel=1e-5)
    heatmaps = sum(parts[name].item() for name in ("heatmap", *SIDES))
    assert heatmaps == pytest.approx(wanted["stat_hm_loss"], rel=1e-5)
    found = sum(parts[name].item() for name in NO_OFFSETS if name in parts)
    assert found == pytest.approx(wanted["stat_off_loss"], rel=1e-5)
    for n, stack in enumerate(outputs):
        for theirs, ours in HEADS.items():
            if ours in stack:
                gradient = case.outputs[f"grad_stack{n}_{theirs}"]
                np.testing.assert_allclose(stack[ours].grad, gradient, rtol=1e-4, atol=1e-7, err_msg=f"{n} {ours}")


# Flip testing and merging --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", cases("postprocess_xy", merges("ExdetDetector")))
def test_an_image_and_its_mirror_image_are_merged_as_in_the_original(entry):
    case = read("postprocess_xy", entry)
    params, given = case.params, torch.from_numpy(case.inputs["dets"])
    options = {"max_detections": params["max_per_image"]}
    task = ExdetTask(params["num_classes"], heatmap=options)
    size = (4 * params["out_height"], 4 * params["out_width"])
    passes = [
        {"boxes": rows[None, :, :4] * 4, "scores": rows[None, :, 4], "labels": rows[None, :, -1].long()}
        for rows in given
    ]
    passes[1] = task.unmirrored(passes[1], size[1])
    extent = float(np.ravel(case.inputs["s"])[0])
    matrix = crop_matrix(tuple(case.inputs["c"]), extent, size) @ np.diag([params["scale"], params["scale"], 1.0])
    batch = {"input_from_image": torch.from_numpy(matrix)[None]}
    lifted = task.lift({name: torch.cat([each[name] for each in passes], 1) for name in passes[0]}, batch)
    post = case.outputs["post_rows"].reshape(-1, 14)
    np.testing.assert_allclose(lifted["boxes"][0], post[:, :4], rtol=1e-4, atol=1e-2)
    detector = Detector(nn.Identity(), task, modes={"flip": True})
    found = detector._merge([lifted])
    rows = torch.cat([found["boxes"][0], found["scores"][0, :, None], found["labels"][0, :, None]], 1)
    theirs = case.outputs["merged_rows"]
    ours = rows[found["scores"][0] > 0].double().numpy()
    assert_same_rows(ours, np.concatenate([theirs[:, 1:], theirs[:, :1] - 1], 1))
