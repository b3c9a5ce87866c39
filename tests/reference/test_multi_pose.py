"""multi_pose against measurements of the original: targets, losses, decoding, flip testing, lifting.

Slot k of the original's arrays is annotation k, and so is ours.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from centernet.data.coco import CocoDataset
from centernet.data.transforms import eval_pipeline
from centernet.fields import index, move, stack_objects
from centernet.joints import JointSet
from centernet.ops.affine import crop_matrix, flip_matrix
from centernet.structures import AtCells, DenseMap, Detections, Objects, Targets
from centernet.tasks.multi_pose import MultiPoseTask
from tests.places import REFERENCE
from tests.reference.cases import Case, arrays, cases, measures, read
from tests.tiny import make_objects

TARGETS, LOSSES, DECODE, POST = "targets_multi_pose", "losses_xy", "decode_xy", "postprocess_xy"
HEADS = {
    "hm": "heatmap",
    "heat": "heatmap",
    "wh": "size",
    "reg": "offset",
    "hps": "joints",
    "kps": "joints",
    "hm_hp": "joint_heatmap",
    "hp_offset": "joint_offset",
}
PARTS = {
    "stat_loss": "loss",
    "stat_hm_loss": "heatmap",
    "stat_wh_loss": "size",
    "stat_off_loss": "offset",
    "stat_hp_loss": "joints",
    "stat_hm_hp_loss": "joint_heatmap",
    "stat_hp_offset_loss": "joint_offset",
}


@cache
def dataset() -> CocoDataset:
    folder = REFERENCE / "dataset"
    return CocoDataset(folder / "person_keypoints.json", folder / "images", eval_pipeline((512, 512)))


@cache
def annotations() -> dict[str, Any]:
    return json.loads((REFERENCE / "dataset" / "person_keypoints.json").read_text())


def truth_of(image_id: int) -> Objects:
    """Every annotation of an image, boxes without area included (the data set drops those)."""
    rows = [row for row in annotations()["annotations"] if row["image_id"] == image_id]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
    crowd = [bool(row.get("iscrowd", 0)) for row in rows]
    joints = torch.tensor([row["keypoints"] for row in rows], dtype=torch.float32).view(-1, 17, 3)
    return {**make_objects(boxes, crowd=crowd), "joints": joints}


class Sample:
    """One recorded sample beside what the package makes of the same objects with the same window."""

    def __init__(self, entry: dict[str, Any]) -> None:
        prefix = f"{entry['config']}/{entry['image_id']}/"
        self.recorded = {name: arrays(TARGETS)[prefix + name] for name in entry["fields"]}
        self.truth = truth_of(entry["image_id"])
        self.size = tuple(entry["input_shape"][1:])
        self.grid_size = (self.size[0] // 4, self.size[1] // 4)
        self.matrix = self._matrix(entry, entry["rot"])
        upright = self._matrix(entry, 0.0)
        order = JointSet.of().mirrored
        self.warped = move(self.truth, torch.from_numpy(self.matrix), {"joints": order})
        # When the original rotates, its boxes stay upright; ours become the hull of the rotated box.
        self.warped["boxes"] = move(self.truth, torch.from_numpy(upright), {"joints": order})["boxes"]
        options = entry["options"]
        self.task = MultiPoseTask(
            num_classes=1,
            heatmap={"crowds": "objects"},
            joints={"supervise": "dense" if options.get("dense_hp") else "center"},
            joint_heatmap={} if options.get("hm_hp", True) else None,
            joint_offset={} if options.get("reg_hp_offset", True) else None,
        )
        self.targets: Targets = self.task.encode(stack_objects([self.warped]), self.grid_size)
        placed = self.task.heatmap.place(stack_objects([self.warped]), self.grid_size)
        # When it rotates, the original trains objects that were moved out of the picture, too, at its edge.
        self.outside = entry["rot"] != 0 and bool((~placed.is_object).any())

    def _matrix(self, entry: dict[str, Any], rotation: float) -> np.ndarray:
        extent = float(np.ravel(self.recorded["meta_s"])[0])
        matrix = crop_matrix(tuple(self.recorded["meta_c"]), extent, self.size, rotation)
        if entry["flipped"]:
            width = next(image["width"] for image in annotations()["images"] if image["id"] == entry["image_id"])
            matrix = matrix @ flip_matrix(width)
        return matrix

    def at_cells(self, head: str) -> tuple[np.ndarray, ...]:
        target = self.targets[head]
        assert isinstance(target, AtCells)
        return tuple(field[0].numpy() for field in (target.cell, target.value, target.mask))


def is_upright(entry: dict[str, Any]) -> bool:
    return entry["rot"] == 0


@pytest.mark.parametrize("entry", cases(TARGETS, is_upright))
def test_center_heatmaps_are_those_of_the_original(entry):
    sample = Sample(entry)
    np.testing.assert_allclose(sample.targets["heatmap"].value[0], sample.recorded["hm"], atol=1e-6)


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: "hm_hp" in entry["fields"]))
def test_joint_heatmaps_are_those_of_the_original(entry):
    sample = Sample(entry)
    ours, theirs = sample.targets["joint_heatmap"].value[0].numpy(), sample.recorded["hm_hp"]
    if sample.outside:  # the original also draws joints of objects that its rotation moved out of the picture
        assert (theirs >= ours - 1e-6).all()
        assert (theirs[ours == 1] == 1).all()
        ours = np.where(theirs > ours, theirs, ours)
        assert (ours != 0).sum() < 2 * (sample.targets["joint_heatmap"].value[0] != 0).sum()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: not is_upright(entry)))
def test_of_a_rotated_image_the_original_supervises_the_joint_heatmaps_only(entry):
    # Ours supervises everything: boxes become the hull of the rotated box (docs/architecture.md).
    sample = Sample(entry)
    assert (sample.recorded["hm"] == np.float32(0.9999)).all()
    assert not sample.recorded["reg_mask"].any()
    assert not sample.recorded["hps_mask"].any()
    assert sample.recorded["hp_mask"].any() == sample.targets["joint_offset"].mask.any().item()


@pytest.mark.parametrize("entry", cases(TARGETS, is_upright))
def test_sizes_and_offsets_are_those_of_the_original(entry):
    sample = Sample(entry)
    cell, size, mask = sample.at_cells("size")
    _, offset, offset_mask = sample.at_cells("offset")
    rows = len(mask)
    assert not sample.recorded["reg_mask"][rows:].any()
    assert np.array_equal(mask, offset_mask)
    assert np.array_equal(mask, sample.recorded["reg_mask"][:rows] > 0)
    assert np.array_equal(cell[mask], sample.recorded["ind"][:rows][mask])
    np.testing.assert_allclose(size[mask], sample.recorded["wh"][:rows][mask], rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(offset[mask], sample.recorded["reg"][:rows][mask], atol=2e-4)


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: is_upright(entry) and "hps" in entry["fields"]))
def test_joints_from_the_center_are_those_of_the_original(entry):
    sample = Sample(entry)
    cell, joints, mask = sample.at_cells("joints")
    rows = len(mask)
    assert np.array_equal(mask, sample.recorded["hps_mask"][:rows] > 0)
    assert not sample.recorded["hps_mask"][rows:].any()
    np.testing.assert_allclose(joints[mask], sample.recorded["hps"][:rows][mask], rtol=1e-5, atol=2e-4)
    seen = mask.any(1)
    assert np.array_equal(cell[seen], sample.recorded["ind"][:rows][seen])


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: "hp_offset" in entry["fields"]))
def test_joint_offsets_are_those_of_the_original(entry):
    sample = Sample(entry)
    cell, offset, mask = sample.at_cells("joint_offset")
    rows = len(mask)
    theirs = sample.recorded["hp_mask"][:rows] > 0
    if not sample.outside:
        assert np.array_equal(mask, theirs)
    assert not (mask & ~theirs).any()
    assert np.array_equal(cell[mask], sample.recorded["hp_ind"][:rows][mask])
    np.testing.assert_allclose(offset[mask], sample.recorded["hp_offset"][:rows][mask], atol=2e-4)


@pytest.mark.parametrize("entry", cases(TARGETS, lambda entry: "dense_hps" in entry["fields"]))
def test_dense_joints_are_those_of_the_original_where_one_object_says_them(entry):
    # Where several persons' windows overlap the original compares a joint's Gaussian with the heatmap of all persons,
    # those without this joint included, and may leave 0 under a weight. Ours writes the nearest owner everywhere.
    sample = Sample(entry)
    dense = sample.targets["joints"]
    assert isinstance(dense, DenseMap)
    weight, value = dense.weight[0].numpy(), dense.value[0].numpy()
    np.testing.assert_allclose(weight, sample.recorded["dense_hps_mask"], atol=1e-6)
    covered = weight > 0
    written = covered & (sample.recorded["dense_hps"] != 0)
    assert written.sum() > 0.5 * covered.sum()
    same = np.isclose(value, sample.recorded["dense_hps"], rtol=1e-5, atol=5e-4)
    alone = alone_cells(sample)
    assert (written & alone).sum() > 0.2 * written.sum()
    assert same[written & alone].all()


def alone_cells(sample: Sample) -> np.ndarray:
    """Cells ``[1, H, W]`` that the window of exactly one object covers."""
    placed = sample.task.heatmap.place(stack_objects([sample.warped]), sample.grid_size)
    y, x = np.indices(sample.grid_size)
    count = np.zeros(sample.grid_size, int)
    rows = placed.is_object
    for (cx, cy), radius in zip(placed.corner[rows].tolist(), placed.radius[rows][:, 0].tolist(), strict=True):
        count += (np.abs(x - cx) <= radius) & (np.abs(y - cy) <= radius)
    return (count == 1)[None]


@pytest.mark.parametrize("entry", cases(TARGETS, is_upright))
def test_perfect_outputs_decode_to_the_objects_that_were_encoded(entry):
    sample = Sample(entry)
    found = sample.task.detect(sample.task.perfect(sample.targets, sample.grid_size))
    at_centers = MultiPoseTask(num_classes=1, heatmap={"crowds": "objects"}).encode(
        stack_objects([sample.warped]), sample.grid_size
    )["joints"]
    cell, joints, mask = (field[0].numpy() for field in (at_centers.cell, at_centers.value, at_centers.mask))
    # A cell that several objects share can hold the joints of one; where dense joints are told, those of the nearest.
    taken = np.bincount(sample.at_cells("size")[0][sample.at_cells("size")[2]], minlength=np.prod(sample.grid_size))
    is_own = taken == 1
    if sample.task.terms["joints"].supervise == "dense":
        is_own &= alone_cells(sample)[0].ravel()
    rows = [row for row in np.flatnonzero(mask.any(1)) if is_own[cell[row]]]
    for row in rows:
        corner = np.array([cell[row] % sample.grid_size[1], cell[row] // sample.grid_size[1]])
        centers = (found["boxes"][0, :, :2] + found["boxes"][0, :, 2:]).numpy() / 8
        nearest = np.abs(centers - corner - 0.5).max(1).argmin()
        wanted = (joints[row].reshape(-1, 2) + corner)[mask[row][::2]]
        ours = found["joints"][0, nearest].numpy()[mask[row][::2]] / 4
        # Neighboring joints of one kind may share a cell of the joint heatmap; regression then is a cell off at most.
        assert np.median(np.abs(ours - wanted)) < 1e-2


@pytest.mark.parametrize("entry", cases(LOSSES, measures("MultiPoseLoss(opt)")))
def test_the_whole_loss_every_part_and_every_gradient(entry):
    case = read(LOSSES, entry)
    task, outputs, targets = build_task(case), stacks(case), build_targets(case)
    parts = task.losses(outputs, targets)
    parts["loss"].backward()
    for theirs, ours in PARTS.items():
        if ours in parts:
            assert parts[ours].item() == pytest.approx(float(case.outputs[theirs]), rel=1e-5), ours
        else:
            assert float(case.outputs[theirs]) == 0
    for n, stack in enumerate(outputs):
        for theirs, ours in HEADS.items():
            if f"grad_stack{n}_{theirs}" in case.outputs:
                wanted = case.outputs[f"grad_stack{n}_{theirs}"]
                np.testing.assert_allclose(stack[ours].grad, wanted, rtol=1e-4, atol=1e-7, err_msg=f"{n} {ours}")


def build_task(case: Case) -> MultiPoseTask:
    options = case.params
    loss = {"l1": "l1", "sl1": "smooth_l1"}[options["reg_loss"]]
    has_joint_offset = options["hm_hp"] and options["reg_hp_offset"]
    return MultiPoseTask(
        num_classes=case.inputs["batch_hm"].shape[1],
        heatmap={"weight": options["hm_weight"]},
        size={"weight": options["wh_weight"], "loss": loss},
        offset={"weight": options["off_weight"], "loss": loss} if options["reg_offset"] else None,
        joints={"weight": options["hp_weight"], "supervise": "dense" if options["dense_hp"] else "center"},
        joint_heatmap={"weight": options["hm_hp_weight"], "loss": "mse" if options["mse_loss"] else "focal"}
        if options["hm_hp"]
        else None,
        joint_offset={"weight": options["off_weight"], "loss": loss} if has_joint_offset else None,
    )


def stacks(case: Case) -> list[dict[str, torch.Tensor]]:
    return [
        {
            ours: torch.from_numpy(case.inputs[f"out_stack{n}_{theirs}"]).requires_grad_()
            for theirs, ours in HEADS.items()
            if f"out_stack{n}_{theirs}" in case.inputs
        }
        for n in range(case.params["num_stacks"])
    ]


def build_targets(case: Case) -> Targets:
    batch = {name.removeprefix("batch_"): value for name, value in case.tensors().items() if name.startswith("batch_")}
    cell, mask = batch["ind"], batch["reg_mask"]
    targets: Targets = {
        "heatmap": DenseMap(batch["hm"]),
        "size": AtCells(cell, batch["wh"], mask),
        "offset": AtCells(cell, batch["reg"], mask),
    }
    if "dense_hps" in batch:
        targets["joints"] = DenseMap(batch["dense_hps"], batch["dense_hps_mask"])
    else:
        targets["joints"] = AtCells(cell, batch["hps"], batch["hps_mask"])
    if "hm_hp" in batch:
        targets["joint_heatmap"] = DenseMap(batch["hm_hp"])
    if "hp_offset" in batch:
        targets["joint_offset"] = AtCells(batch["hp_ind"], batch["hp_offset"], batch["hp_mask"])
    return targets


@pytest.mark.parametrize("entry", cases(DECODE, measures("multi_pose_decode")))
def test_decoding_gives_the_boxes_and_joints_of_the_original(entry):
    case = read(DECODE, entry)
    maps = {HEADS[name]: value for name, value in case.tensors().items()}
    assert_same(task_for(maps, case.params["K"]).decode(maps), case.outputs["dets"])


@pytest.mark.parametrize(
    "entry", cases(DECODE, lambda entry: entry["function"].startswith("MultiPoseDetector.process"))
)
def test_raw_outputs_are_activated_merged_with_their_mirror_and_decoded(entry):
    case = read(DECODE, entry)
    outputs = {HEADS[name.removeprefix("raw_")]: value for name, value in case.tensors().items()}
    task = task_for(outputs, case.params["K"])
    assert [list(pair) for pair in task.terms["joints"].joints.flip_pairs] == case.params["flip_idx"]
    maps = task.activate(outputs)
    if case.params["flip_test"]:
        maps = task.merge_flipped(maps)
    assert_same(task.decode(maps), case.outputs["dets"])


def task_for(maps: dict[str, torch.Tensor], k: int) -> MultiPoseTask:
    return MultiPoseTask(
        num_classes=maps["heatmap"].shape[1],
        heatmap={"max_detections": k},
        **{name: None for name in MultiPoseTask.OPTIONAL if name not in maps},
    )


def assert_same(found: Detections, wanted: np.ndarray) -> None:
    """Theirs: x1 y1 x2 y2 score, x and y of 17 joints, class, in grid cells. Ours: input pixels, four to a cell."""
    parts = [found["boxes"] / 4, found["scores"][..., None], found["joints"].flatten(2) / 4]
    ours = torch.cat([*parts, found["labels"].float()[..., None]], -1).numpy()
    for mine, theirs in zip(ours, wanted, strict=True):
        # Among equal scores the order is free.
        mine, theirs = (rows[np.lexsort((rows[:, 0], -rows[:, 4]))] for rows in (mine, theirs))
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("entry", cases(POST, measures("multi_pose_post_process")))
def test_boxes_and_joints_are_lifted_to_the_image_pixels_of_the_original(entry):
    case = read(POST, entry)
    rows = torch.from_numpy(case.inputs["dets"])
    size = (4 * case.params["h"], 4 * case.params["w"])
    matrices = [
        crop_matrix(tuple(center), float(np.ravel(extent)[0]), size)
        for center, extent in [(case.inputs["c"], case.inputs["s"])]
    ]
    detections: Detections = {
        "boxes": rows[..., :4] * 4,
        "scores": rows[..., 4],
        "labels": rows[..., 39].long(),
        "joints": rows[..., 5:39].unflatten(-1, (17, 2)) * 4,
    }
    lifted = MultiPoseTask(1).lift(detections, {"input_from_image": torch.from_numpy(np.stack(matrices))})
    ours = torch.cat([lifted["boxes"], lifted["scores"][..., None], lifted["joints"].flatten(2)], -1)
    wanted = case.outputs["rows"].reshape(-1, case.outputs["rows"].shape[-1])[:, -39:]
    # The recorded boxes were drawn at random, some inside out; ours are the upright boxes around the moved corners.
    wanted[:, [0, 2]], wanted[:, [1, 3]] = np.sort(wanted[:, [0, 2]], 1), np.sort(wanted[:, [1, 3]], 1)
    np.testing.assert_allclose(ours.reshape(-1, 39), wanted, rtol=1e-4, atol=1e-2)


def test_results_are_written_as_the_original_writes_them(reference_folder):
    content = json.loads((reference_folder / "results_format.json").read_text())["coco_hp"]
    source = dataset()
    written = []
    for image_id, classes in content["results_39"].items():
        for rows in classes.values():
            found = torch.tensor(rows, dtype=torch.float64).reshape(-1, 39)
            detections = {
                "boxes": found[:, :4],
                "scores": found[:, 4],
                "labels": torch.zeros(len(found), dtype=torch.long),
                "joints": found[:, 5:].unflatten(-1, (17, 2)),
            }
            written += source.result_rows(int(image_id), index(detections, torch.ones(len(found), dtype=torch.bool)))
    for ours, theirs in zip(written, content["detections"], strict=True):
        assert ours.keys() == theirs.keys()
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        np.testing.assert_allclose(ours["keypoints"], theirs["keypoints"], atol=1e-9)
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], atol=1e-9)
        assert ours["score"] == pytest.approx(theirs["score"], abs=0.0051)  # theirs has two decimals
