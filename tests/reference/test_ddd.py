"""Monocular 3D against measurements of the original: targets, losses, decoding, lifting, the camera."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from centernet.data.warps import EvalWarp
from centernet.fields import move
from centernet.losses import mean_l1, mean_multi_bin
from centernet.ops.affine import crop_matrix
from centernet.ops.camera import box_corners, project, unproject, yaw_of_alpha
from centernet.structures import AtCells, DenseMap, Targets
from centernet.tasks.ddd import DddTask
from centernet.tasks.terms.angle import TwoBins
from centernet.tasks.terms.base import About
from centernet.tasks.terms.points import NO_CENTER
from tests.places import REFERENCE
from tests.reference.cases import Case, arrays, cases, measures, read
from tests.reference.test_postprocess import Fixed
from tests.tiny import alpha_of_yaw, make_batch, make_objects

ANGLE = TwoBins("rotation", About("ddd", 3))
# The originals' names of heads, of decoded maps and of losses.
HEADS = {"hm": "heatmap", "dep": "depth", "dim": "dimensions", "rot": "rotation", "wh": "size", "reg": "offset"}
MAPS = {"heat": "heatmap", "depth": "depth", "dim": "dimensions", "rot": "rotation", "wh": "size", "reg": "offset"}
PARTS = {
    "stat_loss": "loss",
    "stat_hm_loss": "heatmap",
    "stat_dep_loss": "depth",
    "stat_dim_loss": "dimensions",
    "stat_rot_loss": "rotation",
    "stat_wh_loss": "size",
    "stat_off_loss": "offset",
}
# The original's classes, and whose neighbors are left alone: -1 stands for all classes, None for nothing at all.
CLASSES = {"Pedestrian": 0, "Car": 1, "Cyclist": 2}
NEIGHBORS = {"Van": 1, "Truck": 1, "Person_sitting": 0, "DontCare": -1, "Tram": None, "Misc": None}


# Targets -------------------------------------------------------------------------------------------------------------


def every(entry: dict[str, Any]) -> bool:
    return True


@cache
def annotations() -> dict[str, Any]:
    return json.loads((REFERENCE / "dataset" / "kitti.json").read_text())


class Sample:
    """One recorded sample beside what the package makes of the same annotations with the same window."""

    def __init__(self, entry: dict[str, Any]) -> None:
        prefix, options = f"{entry['config']}/{entry['image_id']}/", entry["options"]
        self.recorded = {name: arrays("targets_ddd")[prefix + name] for name in entry["fields"]}
        content = annotations()
        self.image = next(row for row in content["images"] if row["id"] == entry["image_id"])
        names = {row["id"]: row["name"] for row in content["categories"]}
        rows = [row for row in content["annotations"] if row["image_id"] == entry["image_id"]]
        labels = [{**CLASSES, **NEIGHBORS}[names[row["category_id"]]] for row in rows]
        # Slot k of the original's arrays is annotation k, whatever becomes of it.
        self.slot = [n for n, label in enumerate(labels) if label is not None]
        kept = [rows[n] for n in self.slot]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in kept)]
        crowd = [names[row["category_id"]] in NEIGHBORS for row in kept]
        # The original marks a sample as augmented as a whole, whatever the scale.
        is_augmented = bool((self.recorded["rot_mask"] > 0).any() and not (self.recorded["reg_mask"] > 0).any())
        self.objects = {
            **make_objects(boxes, [labels[n] for n in self.slot], crowd),
            "alpha": torch.tensor([row["alpha"] for row in kept]),
            "yaw": torch.tensor([row["rotation_y"] for row in kept]),
            "dimensions": torch.tensor([row["dim"] for row in kept]),
            "location": torch.tensor([row["location"] for row in kept]),
            "rescaled": torch.full((len(kept),), is_augmented),
        }
        self.size = tuple(entry["input_shape"][1:])
        extent = float(np.ravel(self.recorded["meta_s"])[0])
        self.matrix = crop_matrix(tuple(self.recorded["meta_c"]), extent, self.size)
        self.grid_size = (self.size[0] // 4, self.size[1] // 4)
        self.task = DddTask(
            options["num_classes"],
            pad_objects=50,
            heatmap={"ignore": "region" if options.get("rect_mask") else "gaussian", "max_detections": 50},
            size={} if options.get("reg_bbox", True) else None,
            offset={} if options.get("reg_offset", True) else None,
        )
        self.warped = move(self.objects, torch.from_numpy(self.matrix))
        self.targets: Targets = self.task.encode(make_batch(self.warped), self.grid_size)

    def at_cells(self, head: str, targets: Targets | None = None) -> tuple[np.ndarray, ...]:
        """Cell, value and mask of a head, in the original's slots."""
        target, slots = (targets or self.targets)[head], len(self.recorded["rot_mask"])
        assert isinstance(target, AtCells)
        assert target.cell.shape[1] == slots
        placed = []
        for field in (target.cell[0], target.value[0], target.mask[0]):
            rows = np.zeros((slots, *field.shape[1:]), field.numpy().dtype)
            rows[self.slot] = field.numpy()[: len(self.slot)]
            placed.append(rows)
        return tuple(placed)


@pytest.mark.parametrize("entry", cases("targets_ddd", every))
def test_the_heatmap_is_that_of_the_original(entry):
    sample = Sample(entry)
    heatmap, wanted = sample.targets["heatmap"], sample.recorded["hm"].copy()
    assert isinstance(heatmap, DenseMap)
    ours = heatmap.value[0].numpy().copy()
    # There what is ignored overwrites the centers that were drawn before it; ours stay.
    cell, _, mask = sample.at_cells("rotation")
    y, x = np.divmod(cell[mask], sample.grid_size[1])
    label = np.zeros(len(mask), int)
    label[sample.slot] = sample.objects["labels"]
    centers = (label[mask], y, x)
    assert (ours[centers] == 1).all()
    assert np.isin(wanted[centers], np.float32([1, NO_CENTER])).all()
    wanted[centers] = 1
    if heatmap.weight is not None:
        hidden = heatmap.weight[0].numpy() == 0
        hidden[centers] = False
        assert (wanted[hidden] >= np.float32(NO_CENTER)).all()
        ours[hidden] = wanted[hidden]
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize("entry", cases("targets_ddd", every))
def test_cells_depth_dimensions_and_angles_are_those_of_the_original(entry):
    sample = Sample(entry)
    is_object, is_known = sample.recorded["rot_mask"] > 0, sample.recorded["reg_mask"] > 0
    cell, rotation, mask = sample.at_cells("rotation")
    assert np.array_equal(mask, is_object)
    assert np.array_equal(cell[is_object], sample.recorded["ind"][is_object])
    assert np.array_equal(rotation[is_object, :2], sample.recorded["rotbin"][is_object])
    np.testing.assert_allclose(rotation[is_object, 2:], sample.recorded["rotres"][is_object], atol=1e-5)
    # What the original notes of a rescaled sample it does not train; ours are 0 there, so that they are encoded anew.
    as_they_are = {name: value for name, value in sample.warped.items() if name != "rescaled"}
    whole = sample.task.encode(make_batch(as_they_are), sample.grid_size)
    for ours, theirs in (("depth", "dep"), ("dimensions", "dim")):
        assert np.array_equal(sample.at_cells(ours)[2], is_known)
        _, value, _ = sample.at_cells(ours, whole)
        np.testing.assert_allclose(value[is_object], sample.recorded[theirs][is_object], rtol=1e-6)


@pytest.mark.parametrize("entry", cases("targets_ddd", every))
def test_sizes_and_offsets_are_those_of_the_original_where_it_has_them(entry):
    sample = Sample(entry)
    is_object = sample.recorded["rot_mask"] > 0
    for ours, theirs in (("size", "wh"), ("offset", "reg")):
        assert (ours in sample.targets) == (theirs in sample.recorded)
        if ours in sample.targets:
            _, value, mask = sample.at_cells(ours)
            assert np.array_equal(mask, is_object)
            np.testing.assert_allclose(value[is_object], sample.recorded[theirs][is_object], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("entry", cases("targets_ddd", lambda entry: not entry["options"].get("keep_res")))
def test_the_width_fills_the_input_as_in_the_original(entry):
    sample = Sample(entry)
    image_size = sample.image["height"], sample.image["width"]
    if float(np.ravel(sample.recorded["meta_s"])[0]) != image_size[1]:
        return  # scaled by augmentation
    np.testing.assert_allclose(EvalWarp(sample.size, "width").matrix(image_size), sample.matrix, atol=1e-9)


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", cases("losses_xy", measures("L1Loss()")))
def test_l1_over_all_rows_and_its_gradient(entry):
    case = read("losses_xy", entry)
    given = case.tensors()
    output = given["output"].requires_grad_()
    loss = mean_l1(output, AtCells(given["ind"], given["target"], given["mask"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(case.outputs["loss"]), rel=1e-5)
    np.testing.assert_allclose(output.grad, case.outputs["grad_output"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("entry", cases("losses_xy", measures("BinRotLoss()")))
def test_the_loss_of_angles_in_bins_and_its_gradient(entry):
    case = read("losses_xy", entry)
    given = case.tensors()
    output = given["output"].requires_grad_()
    value = torch.cat([given["rotbin"].float(), given["rotres"]], -1)
    loss = mean_multi_bin(output, AtCells(given["ind"], value, given["mask"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(case.outputs["loss"]), rel=1e-5)
    np.testing.assert_allclose(output.grad, case.outputs["grad_output"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("entry", cases("losses_xy", measures("DddLoss(opt)")))
def test_the_whole_loss_of_ddd_every_part_and_every_gradient(entry):
    case = read("losses_xy", entry)
    options, batch = case.params, case.tensors()
    task = DddTask(
        num_classes=batch["batch_hm"].shape[1],
        pad_objects=50,
        heatmap={"weight": options["hm_weight"]},
        depth={"weight": options["dep_weight"]},
        dimensions={"weight": options["dim_weight"]},
        rotation={"weight": options["rot_weight"]},
        size={"weight": options["wh_weight"]} if options["reg_bbox"] else None,
        offset={"weight": options["off_weight"]} if options["reg_offset"] else None,
    )
    outputs = [
        {
            ours: batch[f"out_stack{n}_{theirs}"].requires_grad_()
            for theirs, ours in HEADS.items()
            if f"out_stack{n}_{theirs}" in batch
        }
        for n in range(options["num_stacks"])
    ]
    parts = task.losses(outputs, build_targets(batch))
    parts["loss"].backward()
    for theirs, ours in PARTS.items():
        if ours in parts:
            assert parts[ours].item() == pytest.approx(float(case.outputs[theirs]), rel=1e-5), ours
        else:
            assert float(case.outputs[theirs]) == 0
    for n, stack in enumerate(outputs):
        for theirs, ours in HEADS.items():
            if ours in stack:
                wanted = case.outputs[f"grad_stack{n}_{theirs}"]
                np.testing.assert_allclose(stack[ours].grad, wanted, rtol=1e-4, atol=1e-7, err_msg=f"{n} {ours}")


def build_targets(batch: dict[str, Tensor]) -> Targets:
    """The original's batch in our two kinds of target; its sizes and offsets have the mask of the angles."""
    cell = batch["batch_ind"]
    bins = torch.cat([batch["batch_rotbin"].float(), batch["batch_rotres"]], -1)
    values = {"dep": batch["batch_dep"], "dim": batch["batch_dim"], "rot": bins}
    values |= {name: batch[f"batch_{name}"] for name in ("wh", "reg") if f"batch_{name}" in batch}
    masks = {name: batch["batch_reg_mask" if name in ("dep", "dim") else "batch_rot_mask"] for name in values}
    cells: Targets = {HEADS[name]: AtCells(cell, value, masks[name]) for name, value in values.items()}
    return {"heatmap": DenseMap(batch["batch_hm"]), **cells}


# Decoding and lifting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", cases("decode_xy", measures("ddd_decode")))
def test_decoding_gives_the_rows_of_the_original(entry):
    case = read("decode_xy", entry)
    maps = {MAPS[name]: value for name, value in case.tensors().items()}
    left_out = {name: None for name in DddTask.OPTIONAL if name not in maps}
    task = DddTask(maps["heatmap"].shape[1], heatmap={"max_detections": case.params["K"]}, **left_out)
    found = task.decode(maps)
    # x y score rotation[8] depth dimensions[3] [w h] class, x y w h in cells.
    wanted = torch.from_numpy(case.outputs["dets"])
    sides = found["boxes"][..., 2:] - found["boxes"][..., :2]
    ours = [found["center_3d"] / 4, found["scores"][..., None], found["alpha"][..., None], found["depth"][..., None]]
    ours += [found["dimensions"], *([sides / 4] if "size" in task.terms else []), found["labels"][..., None].float()]
    theirs = torch.cat([wanted[..., :3], ANGLE.angle(wanted[..., 3:11])[..., None], wanted[..., 11:]], -1)
    for mine, other in zip(torch.cat(ours, -1).numpy(), theirs.numpy(), strict=True):
        assert (np.diff(mine[:, 2]) <= 0).all()
        # Among equal scores the order is free.
        mine, other = (rows[np.lexsort((rows[:, 0], rows[:, -1], -rows[:, 2]))] for rows in (mine, other))
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("entry", cases("postprocess_xy", measures("get_alpha")))
def test_angles_are_read_from_the_bins_as_in_the_original_and_wrapped(entry):
    case = read("postprocess_xy", entry)
    ours, theirs = ANGLE.angle(torch.from_numpy(case.inputs["rot"])).numpy(), case.outputs["alpha"]
    assert np.abs(ours).max() <= np.pi + 1e-6
    np.testing.assert_allclose(np.exp(1j * ours), np.exp(1j * theirs), atol=1e-5)


@pytest.mark.parametrize("entry", cases("postprocess_xy", measures("ddd_post_process")))
def test_detections_are_lifted_into_camera_space_as_in_the_original(entry):
    # Two of its artifacts are mended here and taken into account: depth is z (there it is the projective depth, so that
    # ours must be given less), and sizes are not moved by the translation of the inverse map.
    case = read("postprocess_xy", entry)
    dets = torch.from_numpy(case.inputs["dets"])
    camera = torch.from_numpy(case.inputs["calib"]).double()
    size = (4 * case.params["output_h"], 4 * case.params["output_w"])
    matrix = crop_matrix(tuple(case.inputs["c"]), float(np.ravel(case.inputs["s"])[0]), size)
    center, half = dets[..., :2], dets[..., 15:17] / 2
    detections = {
        "boxes": torch.cat([center - half, center + half], -1) * 4,
        "scores": dets[..., 2],
        "labels": dets[..., -1].long(),
        "center_3d": center * 4,
        "depth": dets[..., 11] - camera[2, 3].float(),
        "dimensions": dets[..., 12:15],
        "alpha": ANGLE.angle(dets[..., 3:11]),
    }
    batch = {
        "input_from_image": torch.from_numpy(matrix).expand(len(dets), 3, 3),
        "calibration": camera.expand(len(dets), 3, 4),
    }
    found = DddTask(case.params["num_classes"]).lift(detections, batch)
    # Theirs: class from 1, alpha, box, h w l, x y z, rotation_y, score; grouped by class.
    rows = [row for label in range(3) for row in range(dets.shape[1]) if detections["labels"][0, row] == label]
    wanted = case.outputs["rows"]
    assert len(wanted) == len(rows)
    ours = {name: value[0, rows].numpy() for name, value in found.items()}
    np.testing.assert_array_equal(ours["labels"] + 1, wanted[:, 0])
    np.testing.assert_allclose(np.exp(1j * ours["alpha"]), np.exp(1j * wanted[:, 1]), atol=1e-4)
    np.testing.assert_allclose(ours["dimensions"], wanted[:, 6:9], rtol=1e-5)
    np.testing.assert_allclose(ours["location"], wanted[:, 9:12], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.exp(1j * ours["yaw"]), np.exp(1j * wanted[:, 12]), atol=1e-4)
    np.testing.assert_allclose(ours["scores"], wanted[:, 13], rtol=1e-6)
    middle = (wanted[:, 2:4] + wanted[:, 4:6]) / 2
    np.testing.assert_allclose((ours["boxes"][:, :2] + ours["boxes"][:, 2:]) / 2, middle, rtol=1e-4, atol=1e-2)
    shift = np.linalg.inv(matrix)[:2, 2]
    sides = ours["boxes"][:, 2:] - ours["boxes"][:, :2]
    np.testing.assert_allclose(sides + shift, wanted[:, 4:6] - wanted[:, 2:4], rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize(
    "entry", cases("postprocess_xy", lambda entry: entry["function"].startswith("DddDetector.pre_process"))
)
def test_an_image_is_placed_as_in_the_original(entry):
    case = read("postprocess_xy", entry)
    size = (case.params["input_h"], case.params["input_w"])
    image = np.ascontiguousarray(case.inputs["image"][..., ::-1])
    matrix = crop_matrix(tuple(case.outputs["c"]), float(case.outputs["s"][0]), size)
    if not case.params["keep_res"]:
        np.testing.assert_allclose(EvalWarp(size, "width").matrix(image.shape[:2]), matrix, atol=1e-9)
    pixels = torch.from_numpy(Fixed(size, matrix)(image)).permute(2, 0, 1)
    mean, std = (torch.tensor(case.params[name]).view(3, 1, 1) for name in ("mean", "std"))
    # ImageNet's values, which are in RGB order, on BGR images.
    ours = (pixels.flip(0) / 255 - mean) / std
    difference = np.abs(ours.numpy() - case.outputs["images"][0].astype(np.float32))
    assert difference.mean() < 0.05
    assert (difference > 0.3).mean() < 0.02


# The camera ----------------------------------------------------------------------------------------------------------


def camera_case(entry: dict[str, Any]) -> tuple[Case, dict[str, Tensor]]:
    case = read("ddd_utils", entry)
    return case, {name: value.double() for name, value in case.tensors().items()}


@pytest.mark.parametrize("entry", cases("ddd_utils", measures("compute_box_3d")))
def test_the_corners_of_boxes(entry):
    case, given = camera_case(entry)
    ours = box_corners(given["dim"], given["location"], given["rotation_y"])
    np.testing.assert_allclose(ours, case.outputs["corners"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("entry", cases("ddd_utils", measures("project_to_image")))
def test_projection(entry):
    case, given = camera_case(entry)
    np.testing.assert_allclose(project(given["P"], given["pts_3d"]), case.outputs["pts_2d"], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("entry", cases("ddd_utils", measures("project_3d_bbox")))
def test_projection_of_boxes(entry):
    case, given = camera_case(entry)
    corners = box_corners(given["dim"], given["location"], given["rotation_y"])
    np.testing.assert_allclose(project(given["P"], corners), case.outputs["pts_2d"], rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("entry", cases("ddd_utils", measures("compute_orientation_3d")))
def test_the_front_of_a_box_is_where_it_looks(entry):
    case, given = camera_case(entry)
    corners = box_corners(given["dim"], given["location"], given["rotation_y"])
    # Theirs: from the location along the length of the object.
    start, end = torch.from_numpy(case.outputs["pts_3d"]).double().unbind(-2)
    ahead = corners[:, [0, 1]].mean(1) - given["location"]
    np.testing.assert_allclose(start, given["location"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(torch.cosine_similarity(end - start, ahead, dim=-1), 1, atol=1e-6)


@pytest.mark.parametrize("entry", cases("ddd_utils", measures("unproject_2d_to_3d")))
def test_lifting_a_pixel(entry):
    case, given = camera_case(entry)
    ours = unproject(given["P"], given["pt_2d"], given["depth"])
    np.testing.assert_allclose(ours, case.outputs["pt_3d"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("entry", cases("ddd_utils", measures("alpha2rot_y", "rot_y2alpha")))
def test_observation_angles(entry):
    case, given = camera_case(entry)
    to_yaw = "alpha" in given
    turn, angle = (yaw_of_alpha, given["alpha"]) if to_yaw else (alpha_of_yaw, given["rot_y"])
    wanted = case.outputs["rot_y" if to_yaw else "alpha"]
    np.testing.assert_allclose(np.exp(1j * turn(given["P"], angle, given["x"]).numpy()), np.exp(1j * wanted), atol=1e-6)


@pytest.mark.parametrize("entry", cases("ddd_utils", measures("ddd2locrot")))
def test_from_a_center_to_a_place_and_a_yaw(entry):
    case, given = camera_case(entry)
    count, camera = len(given["depth"]), given["P"]
    detections = {
        "boxes": torch.zeros(1, count, 4).double(),
        "scores": torch.ones(1, count),
        "labels": torch.zeros(1, count, dtype=torch.long),
        "center_3d": given["center"][None],
        "depth": given["depth"][None] - camera[2, 3],
        "dimensions": given["dim"][None],
        "alpha": given["alpha"][None],
    }
    batch = {"input_from_image": torch.eye(3).double()[None], "calibration": camera[None]}
    found = DddTask(1).lift(detections, batch)
    np.testing.assert_allclose(found["location"][0], case.outputs["locations"], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(np.exp(1j * found["yaw"][0].numpy()), np.exp(1j * case.outputs["rotation_y"]), atol=1e-6)
