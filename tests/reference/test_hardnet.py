"""HarDNet's variant against measurements of its repository: targets, losses, decoding, geometry, boxes from masks."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from centernet.data.combine import join_quadrants
from centernet.data.images import read_image
from centernet.data.masks import Masks, visible_bitmap_box
from centernet.data.transforms import eval_pipeline, trim_objects, warp_image
from centernet.data.warps import EvalWarp
from centernet.detector import Detector
from centernet.fields import move
from centernet.ops.affine import flip_matrix, place_matrix, transform_points
from centernet.ops.heatmap import dense_owner
from centernet.structures import DenseMap
from centernet.tasks.ctdet_dense import CtdetDenseTask
from centernet.tasks.terms.box import DenseBox
from tests.places import REFERENCE
from tests.reference.cases import arrays, cases, measures, read
from tests.reference.test_decode import assert_same, is_process
from tests.reference.test_postprocess import Fixed, assert_same_pixels, is_pre_process, shrunk
from tests.tiny import make_batch, make_objects

IMAGE, TARGETS = "image_hardnet", "targets_hardnet_ctdet"
NAMES = {"raw_hm": "heatmap", "raw_wh": "box"}
SHARPNESS = DenseBox.sharpness


@pytest.mark.parametrize("entry", cases("decode_hardnet", is_process))
def test_raw_outputs_are_merged_with_their_mirror_and_decoded(entry):
    case = read("decode_hardnet", entry)
    outputs = {NAMES[name]: value for name, value in case.tensors().items()}
    task = CtdetDenseTask(outputs["heatmap"].shape[1], heatmap={"max_detections": case.params["K"]})
    maps = task.activate(outputs)
    if case.params["flip_test"]:
        maps = task.merge_flipped(maps)
    assert_same(task.decode(maps), case.outputs["dets"])


def is_task_loss(entry: dict[str, Any]) -> bool:
    return "CtdetLoss(opt)" in entry["function"]


@pytest.mark.parametrize("entry", cases("losses_hardnet", is_task_loss))
def test_the_whole_loss_every_part_and_every_gradient(entry):
    case = read("losses_hardnet", entry)
    given = case.tensors()
    task = CtdetDenseTask(
        given["batch_hm"].shape[1],
        heatmap={"weight": case.params["hm_weight"], "loss": "mse" if case.params["mse_loss"] else "focal"},
        box={"size_weight": case.params["wh_weight"], "offset_weight": case.params["off_weight"]},
    )
    stacks = [
        {ours: given[f"out_stack{n}_{theirs}"].requires_grad_() for theirs, ours in (("hm", "heatmap"), ("wh", "box"))}
        for n in range(case.params["num_stacks"])
    ]
    value = torch.cat([given["batch_dense_wh"], given["batch_dense_off"]], 1)
    weight = given["batch_dense_wh_mask"].repeat(1, 2, 1, 1)
    parts = task.losses(stacks, {"heatmap": DenseMap(given["batch_hm"]), "box": DenseMap(value, weight)})
    parts["loss"].backward()
    recorded = {"loss": "stat_loss", "heatmap": "stat_hm_loss", "size": "stat_wh_loss", "offset": "stat_off_loss"}
    for ours, theirs in recorded.items():
        assert parts[ours].item() == pytest.approx(float(case.outputs[theirs]), rel=1e-5), ours
    for n, stack in enumerate(stacks):
        for theirs, ours in (("hm", "heatmap"), ("wh", "box")):
            np.testing.assert_allclose(stack[ours].grad, case.outputs[f"grad_stack{n}_{theirs}"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("entry", cases(IMAGE, measures("draw_dense_reg")))
def test_a_dense_regression_belongs_to_the_object_with_the_largest_weight(entry):
    case = read(IMAGE, entry)
    centers, boxes, radius = (case.tensors()[name] for name in ("centers_xy", "bbox_x1y1x2y2", "radius"))
    size = (case.params["height"], case.params["width"])
    zeros = torch.zeros(len(radius), dtype=torch.long)
    owner, weight = (field[0].numpy() for field in dense_owner(centers, radius, zeros, (1, *size), SHARPNESS, True))
    np.testing.assert_allclose(np.broadcast_to(weight, (4, *size)), case.outputs["regmask"], rtol=1e-5, atol=1e-7)
    y, x = np.indices(size)
    sides, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    told = np.concatenate([sides[owner], center[owner] - torch.from_numpy(np.stack([x, y], -1))], -1).transpose(2, 0, 1)
    # Weights below the smallest step of a float64 are 0 in the original, whoever owns the cell.
    counts = (case.outputs["regmask"] > 1e-12).all(0) & ~ties(centers, radius, size, weight)
    assert counts.sum() >= len(set(map(tuple, centers.tolist())))
    np.testing.assert_allclose(told[:, counts], case.outputs["regmap"][:, counts], atol=1e-4)


def ties(centers: torch.Tensor, radius: torch.Tensor, size: tuple[int, int], weight: np.ndarray) -> np.ndarray:
    """Cells ``[H, W]`` that several objects claim with the same weight, where rounding decides in the original."""
    zero = torch.zeros(1, dtype=torch.long)
    each = [
        dense_owner(centers[n, None], radius[n, None], zero, (1, *size), SHARPNESS, True)[1] for n in range(len(radius))
    ]
    claims = sum((one[0].numpy() >= weight * (1 - 1e-5)) & (weight > 0) for one in each)
    return np.asarray(claims) > 1


@pytest.mark.parametrize("entry", cases(IMAGE, measures("get_affine_transform")))
def test_convention_the_stretching_matrix_is_that_of_the_original(entry):
    case = read(IMAGE, entry)
    target = np.asarray(case.params["output_size_wh"], np.float64)
    scale = target / np.broadcast_to(np.asarray(case.params["scale"], np.float64), (2,))
    middle = np.asarray(case.params.get("shift", target / 2), np.float64)
    matrix = place_matrix(tuple(case.inputs["center"]), tuple(middle), tuple(scale), case.params["rot"])
    close = {"rtol": 1e-4, "atol": 2e-3}  # the original computes in float32
    np.testing.assert_allclose(matrix[:2], case.outputs["trans"], **close)
    points = torch.from_numpy(case.inputs["pts"]).double()
    np.testing.assert_allclose(transform_points(torch.from_numpy(matrix), points), case.outputs["pts_trans"], **close)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(inverse[:2, :2], case.outputs["trans_inv"][:, :2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entry", cases("postprocess_hardnet", measures("ctdet_post_process")))
def test_detections_are_lifted_to_the_image_pixels_of_the_original(entry):
    case = read("postprocess_hardnet", entry)
    grid_boxes = torch.from_numpy(case.inputs["dets"])
    size = np.array([4 * case.params["w"], 4 * case.params["h"]], np.float64)
    matrices = [
        place_matrix(tuple(center), tuple(size / 2), tuple(size / np.broadcast_to(extent, (2,))))
        for center, extent in zip(case.inputs["c"], case.inputs["s"], strict=True)
    ]
    task = CtdetDenseTask(case.params["num_classes"])
    detections = {"boxes": grid_boxes[..., :4] * 4, "scores": grid_boxes[..., 4], "labels": grid_boxes[..., 5].long()}
    lifted = task.lift(detections, {"input_from_image": torch.from_numpy(np.stack(matrices))})
    rows = [
        [image, label + 1, *lifted["boxes"][image, n].tolist(), lifted["scores"][image, n].item()]
        for image in range(len(grid_boxes))
        for label in range(task.num_classes)
        for n in (lifted["labels"][image] == label).nonzero().flatten().tolist()
    ]
    np.testing.assert_allclose(rows, case.outputs["rows"], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "entry", cases("postprocess_hardnet", lambda entry: is_pre_process(entry) and entry["params"]["fix_res"])
)
def test_stretch_places_an_image_as_the_original(entry):
    case = read("postprocess_hardnet", entry)
    size = (case.params["input_h"], case.params["input_w"])
    pipeline = eval_pipeline(size, "stretch")
    pixels, matrix = warp_image(pipeline, cv2.cvtColor(shrunk(case), cv2.COLOR_BGR2RGB))
    extent = np.broadcast_to(np.asarray(case.outputs["s"], np.float64), (2,))
    theirs = place_matrix(tuple(case.outputs["c"]), (size[1] / 2, size[0] / 2), tuple(np.array(size[::-1]) / extent))
    if case.params["scale"] == 1:
        np.testing.assert_allclose(matrix, theirs, rtol=1e-6, atol=1e-4)
    assert_same_pixels(pixels, case)


@cache
def annotations() -> dict[str, Any]:
    return json.loads((REFERENCE / "dataset" / "instances.json").read_text())


def recorded(entry: dict[str, Any]) -> dict[str, np.ndarray]:
    prefix = f"{entry['config']}/{entry['image_id']}/"
    return {name: arrays(TARGETS)[prefix + name] for name in (*entry["fields"], "input_idx", "input_val")}


def picture(entry: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in annotations()["images"] if row["id"] == entry["image_id"])


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: True))
def test_targets_of_the_noted_boxes_are_those_of_the_original(entry):
    found = recorded(entry)
    noted = found["meta_gt_det"][found["meta_gt_det"][:, 4] > 0]
    heatmap = found["hm"]
    task = CtdetDenseTask(len(heatmap), heatmap={"crowds": "objects"})
    objects = make_batch(make_objects(noted[:, :4] * 4.0, noted[:, 5]))
    targets = task.encode(objects, heatmap.shape[1:])
    np.testing.assert_allclose(targets["heatmap"].value[0], heatmap, atol=1e-6)
    value, weight = targets["box"].value[0].numpy(), targets["box"].weight[0].numpy()
    np.testing.assert_allclose(weight[:2], found["dense_wh_mask"], rtol=1e-5, atol=1e-6)
    placed = task.heatmap.place(objects, heatmap.shape[1:])
    tied = ties(placed.corner[0].long(), placed.radius[0, :, 0], heatmap.shape[1:], weight[0])
    counts = (found["dense_wh_mask"] > 1e-9).all(0) & ~tied
    theirs = np.concatenate([found["dense_wh"], found["dense_off"]])
    np.testing.assert_allclose(value[:, counts], theirs[:, counts], atol=2e-4)


@pytest.mark.parametrize(
    "entry", cases(TARGETS, lambda entry: entry["split_mode"] == "val" and not entry["options"].get("keep_res"))
)
def test_stretch_is_the_transform_of_the_validation(entry):
    height, width = picture(entry)["height"], picture(entry)["width"]
    matrix = EvalWarp(tuple(entry["input_shape"][1:]), "stretch").matrix((height, width))
    np.testing.assert_allclose(matrix[:2], recorded(entry)["trans_input"], atol=1e-5)


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: True))
def test_the_recorded_arguments_make_the_recorded_matrix_and_the_pixels(entry):
    found = recorded(entry)
    scale = np.array(entry["affine_output_size"]) / np.array(entry["affine_scale"])
    matrix = place_matrix(entry["affine_center"], entry["affine_shift"], tuple(scale), entry["rot_deg"])
    np.testing.assert_allclose(matrix[:2], found["trans_input"], rtol=1e-5, atol=2e-3)
    if entry["flipped"]:
        matrix = matrix @ flip_matrix(picture(entry)["width"])
    size = tuple(entry["input_shape"][1:])
    image = read_image(REFERENCE / "dataset" / "images" / picture(entry)["file_name"])
    warped = torch.from_numpy(Fixed(size, matrix)(image)).permute(2, 0, 1)
    pixels = Detector(nn.Identity(), CtdetDenseTask(1), "coco").normalize(warped[None])[0]
    difference = np.abs(pixels.flip(0).flatten()[found["input_idx"]].numpy() - found["input_val"])
    assert difference.mean() < 0.05


def is_shown_by_box(entry: dict[str, Any]) -> bool:
    return entry["function"].startswith(("mask2box", "get_border_coord"))


@pytest.mark.parametrize("entry", cases(IMAGE, is_shown_by_box))
def test_the_box_of_the_visible_part_of_a_mask_is_that_of_the_original(entry):
    case = read(IMAGE, entry)
    left, top, right, bottom = case.params["crop_x0y0xeye"]
    mask = case.inputs["mask"][:, ::-1] if case.params["flipped"] else case.inputs["mask"]
    matrix = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ np.concatenate([case.inputs["trans"], [[0, 0, 1]]])
    box = visible_bitmap_box(mask, matrix, (bottom - top, right - left))
    if not mask.any():
        assert box is None
        assert (case.outputs["box"] == 0).all()
        return
    # Theirs goes from the first pixel to the last one, ours to the end of the last one; theirs may overlap the border.
    pixel = np.tile(np.abs(matrix[:2, :2]).sum(1), 2)
    assert (np.abs(box + np.array([left, top, left, top]) - case.outputs["box"]) <= pixel + 1).all()


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: entry["split_mode"] == "train"))
def test_objects_that_a_crop_cuts_are_kept_dropped_and_boxed_as_in_the_original(entry):
    found, width, height = recorded(entry), picture(entry)["width"], picture(entry)["height"]
    matrix = np.concatenate([found["trans_input"], [[0, 0, 1]]])
    if entry["flipped"]:
        matrix = matrix @ [[-1, 0, width], [0, 1, 0], [0, 0, 1]]  # of boxes the original mirrors the borders
    content = annotations()
    labels = sorted(row["id"] for row in content["categories"])
    of_image = [row for row in content["annotations"] if row["image_id"] == entry["image_id"]]
    # Boxes without a width or height are no objects here; the original rebuilds them from their masks.
    rows = [row for row in of_image if min(row["bbox"][2:]) > 0]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
    objects = make_objects(boxes, [labels.index(row["category_id"]) for row in rows])
    masks = Masks.of([row["segmentation"] for row in rows], [(height, width)] * len(rows))
    size = tuple(entry["input_shape"][1:])
    ours = trim_objects(move(objects, torch.from_numpy(matrix)), matrix, size, masks)
    noted = found["meta_gt_det"][found["meta_gt_det"][:, 4] > 0]
    assert len(noted) - len(ours["boxes"]) in range(len(of_image) - len(rows) + 1)
    # One pixel of the image and one of the input: theirs are made of the indices of pixels.
    tolerance = np.tile(np.abs(matrix[:2, :2]).sum(1), 2) + 1.05
    for box, label in zip(ours["boxes"].numpy(), ours["labels"].tolist(), strict=True):
        same = noted[noted[:, 5] == label, :4] * 4
        assert (np.abs(same - box) <= tolerance).all(1).any(), (box, same)


@pytest.mark.parametrize("entry", cases(IMAGE, measures("blend_truth_mosaic")))
def test_a_mosaic_is_put_together_as_in_the_original(entry):
    case = read(IMAGE, entry)
    images = torch.from_numpy(case.inputs["images"])
    rows = case.inputs["anns_x1y1x2y2cls"]
    four = [
        {"image": image, "objects": make_objects(each[:, :4], each[:, 4])}
        for image, each in zip(images, rows, strict=True)
    ]
    made = join_quadrants(four, (case.params["cut_x"], case.params["cut_y"]))
    assert torch.equal(made["image"], torch.from_numpy(case.outputs["out_img"]))
    # Theirs keeps every box of more than a pixel, ours those of which enough remains.
    ours = torch.cat([made["objects"]["boxes"], made["objects"]["labels"][:, None]], 1).numpy()
    theirs = case.outputs["kept_x1y1x2y2clsquadrant"][:, :5]
    large = ours[(ours[:, 2:4] - ours[:, :2]).min(1) > 1]
    assert len(large) > 3
    for row in large:
        assert np.abs(theirs - row).max(1).min() < 1e-4
