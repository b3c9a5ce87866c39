"""multi_pose: boxes and the joints of each object (human pose).

Objects as Points, Sec. 4.2 and 5.3: joints are regressed from the center, then snapped to the nearest peak of a joint
heatmap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from centernet.metrics.coco import CocoAP
from centernet.ops.affine import transform_points
from centernet.ops.heatmap import (
    dense_owner,
    draw_gaussians,
    draw_regions,
    gather_cells,
    points_of_cells,
    suppress_non_peaks,
    top_per_channel,
)
from centernet.structures import (
    HEATMAP_BIAS,
    AtCells,
    Batch,
    DenseMap,
    Detections,
    Head,
    InputError,
    JointSet,
    Objects,
    Outputs,
    Targets,
)
from centernet.tasks.base import require_fields
from centernet.tasks.ctdet import CtdetTask, Placed

# A peak of a joint heatmap below this probability is none; a joint farther from its peak than this share of the box's
# longer side stays where the center says (both as in the original).
MIN_JOINT_SCORE, SNAP_DISTANCE = 0.1, 0.3
# Where a missing peak is put: farther away than anything.
NOWHERE = 1e4


class MultiPoseTask(CtdetTask):
    """Boxes as in ``CtdetTask``, and J joints of each: offsets from the center, joint heatmaps, joint offsets.

    - ``joints``: names, flip pairs, sigmas, skeleton (``JointSet.of``); null: those of the data, else COCO's 17.
    - ``joint_heatmap``: whether there are joint heatmaps to snap to; ``joint_offset``: whether their peaks are refined
      by an offset map; ``joints_target``: ``center`` (regressed at centers) or ``dense`` (under the whole Gaussian).
    - ``jointless``: an object without any labeled joint supervises its center only (``center``, as the original), or
      its size and offset as well (``box``). Objects of a class that has no joints always supervise their box.
    - ``joint_heatmap_loss``: ``focal`` or ``mse`` (what the original's ``mse_loss`` changes in this task).
    - ``radius``, ``min_overlap``, ``k``, ``heatmap_loss``, ``regression_loss``, ``offset``, ``crowds``, ``evaluator``:
      see ``CtdetTask``; a joint's Gaussian is as wide as that of its object.
    """

    name = "multi_pose"
    requires = ("boxes", "labels", "joints")
    takes = ("joints",)

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        k: int = 100,
        joints: Mapping[str, Any] | None = None,
        radius: str = "centernet",
        min_overlap: float = 0.7,
        heatmap_weight: float = 1.0,
        size_weight: float = 0.1,
        offset_weight: float = 1.0,
        joints_weight: float = 1.0,
        joint_heatmap_weight: float = 1.0,
        joint_offset_weight: float = 1.0,
        heatmap_loss: str = "focal",
        joint_heatmap_loss: str = "focal",
        regression_loss: str = "l1",
        joints_target: str = "center",
        offset: bool = True,
        joint_heatmap: bool = True,
        joint_offset: bool = True,
        jointless: str = "center",
        crowds: str = "ignore",
        evaluator: str = "faster-coco-eval",
    ) -> None:
        super().__init__(
            num_classes,
            stride,
            k,
            radius,
            min_overlap,
            heatmap_weight,
            size_weight,
            offset_weight,
            heatmap_loss,
            regression_loss,
            offset=offset,
            crowds=crowds,
            evaluator=evaluator,
        )
        for option, value, choices in (
            ("joints_target", joints_target, ("center", "dense")),
            ("jointless", jointless, ("center", "box")),
            ("joint_heatmap_loss", joint_heatmap_loss, ("focal", "mse")),
        ):
            if value not in choices:
                raise InputError(f"task {self.name}: {option}={value!r} is unknown; choose one of {', '.join(choices)}")
        self.joints = JointSet.of(joints, f"task {self.name}: joints")
        self.joints_weight, self.joint_heatmap_weight = joints_weight, joint_heatmap_weight
        self.joint_offset_weight = joint_offset_weight
        self.joints_target, self.jointless = joints_target, jointless
        self.joint_heatmap_loss = joint_heatmap_loss
        self.joint_heatmap, self.joint_offset = joint_heatmap, joint_heatmap and joint_offset

    @property
    def heads(self) -> dict[str, Head]:
        count = len(self.joints.names)
        joints_loss = "dense_l1" if self.joints_target == "dense" else "l1"
        heads = {**super().heads, "joints": Head(2 * count, joints_loss, self.joints_weight)}
        if self.joint_heatmap:
            heads["joint_heatmap"] = Head(count, self.joint_heatmap_loss, self.joint_heatmap_weight, HEATMAP_BIAS)
        if self.joint_offset:
            heads["joint_offset"] = Head(2, self.regression_loss, self.joint_offset_weight)
        return heads

    def check_data(self, fields: Mapping[str, Tensor], facts: Mapping[str, Any], where: str) -> None:
        require_fields(self, fields, where)
        there = JointSet.of(facts.get("joints"))
        theirs, mine = there.names, self.joints.names
        if len(theirs) != len(mine):
            raise InputError(
                f"{where} has {len(theirs)} joints ({', '.join(theirs[:4])}, ...), the model has {len(mine)} "
                f"({', '.join(mine[:4])}, ...)"
            )
        for place, (a, b) in enumerate(zip(theirs, mine, strict=True)):
            if a != b:
                raise InputError(
                    f"joint {place} is {a!r} in {where} and {b!r} in the model; they must be the same "
                    "(data.joints={names: [...]} renames those of the data)"
                )
        if {frozenset(pair) for pair in there.flip_pairs} != {frozenset(pair) for pair in self.joints.flip_pairs}:
            raise InputError(
                f"{where} pairs left and right joints otherwise than the model; say data.joints={{flip_pairs: [...]}} "
                "and leave task.joints alone"
            )

    def encode_placed(self, placed: Placed, objects: Objects, grid_size: tuple[int, int]) -> Targets:
        height, width = grid_size
        targets = super().encode_placed(placed, objects, grid_size)
        joints = objects["joints"].float()
        points = joints[..., :2] / self.stride  # [B, M, J, 2] cells
        is_labeled = (joints[..., 2] > 0) & placed.is_object[..., None]
        if self.jointless == "center":
            # Of a class without joints nobody could label any.
            is_known = placed.is_object & (is_labeled.any(-1) | (joints[..., 2] < 0).all(-1))
            for name in ("size", "offset"):
                if name in targets:
                    targets[name].mask = is_known
        is_inside = ((points >= 0) & (points < points.new_tensor([width, height]))).all(-1)
        is_shown = is_labeled & is_inside  # bool [B, M, J]
        from_center = torch.where(is_shown[..., None], points - placed.corner[..., None, :], 0)
        if self.joints_target == "dense":
            targets["joints"] = self._encode_dense(placed, points, is_shown, grid_size)
        else:
            mask = is_shown[..., None].expand(*is_shown.shape, 2)
            targets["joints"] = AtCells(placed.cell, from_center.flatten(2), mask.flatten(2))
        cells = torch.where(is_shown[..., None], points.floor(), 0)
        if self.joint_heatmap:
            targets["joint_heatmap"] = self._encode_joint_heatmap(placed, cells, is_shown, grid_size)
        if self.joint_offset:
            flat = (cells[..., 1] * width + cells[..., 0]).long().flatten(1)
            offset = torch.where(is_shown[..., None], points - cells, 0)
            targets["joint_offset"] = AtCells(flat, offset.flatten(1, 2), is_shown.flatten(1))
        return targets

    def _encode_joint_heatmap(
        self, placed: Placed, cells: Tensor, is_shown: Tensor, grid_size: tuple[int, int]
    ) -> DenseMap:
        """A Gaussian at every joint, as wide as its object's, and no weight inside crowd regions."""
        image, row, joint = is_shown.nonzero(as_tuple=True)
        shape = (len(cells), len(self.joints.names), *grid_size)
        heatmap = draw_gaussians(cells[image, row, joint].long(), _radii(placed)[image, row], joint, shape, image)
        ignored = placed.present & ~placed.is_object
        if not ignored.any():
            return DenseMap(heatmap)
        of_image = ignored.nonzero(as_tuple=True)[0]
        regions = draw_regions(placed.boxes[ignored], torch.zeros_like(of_image), (shape[0], 1, *grid_size), of_image)
        return DenseMap(heatmap, (~regions).to(heatmap.dtype).expand(shape))

    def _encode_dense(self, placed: Placed, points: Tensor, is_shown: Tensor, grid_size: tuple[int, int]) -> DenseMap:
        """Where each joint lies, as seen from every cell of its object's window; weighted by the Gaussian."""
        (height, width), count = grid_size, len(self.joints.names)
        image, row, joint = is_shown.nonzero(as_tuple=True)
        shape = (len(points) * count, height, width)
        corner = placed.corner[image, row].long()
        owner, weight = dense_owner(corner, _radii(placed)[image, row], image * count + joint, shape)
        joints = torch.cat([points[image, row, joint], points.new_zeros(1, 2)])[owner]  # the last row: no owner
        cells = points_of_cells(torch.arange(height * width, device=points.device), width).view(height, width, 2)
        value = torch.where(owner[..., None] >= 0, joints - cells, 0).permute(0, 3, 1, 2)
        weight = weight[:, None].expand(-1, 2, -1, -1)
        return DenseMap(*(each.reshape(len(points), 2 * count, height, width) for each in (value, weight)))

    def decode(self, maps: Outputs) -> Detections:
        detections, cell = self.decode_boxes(maps)
        width = maps["heatmap"].shape[-1]
        centers = points_of_cells(cell, width)[:, :, None]
        joints = centers + gather_cells(maps["joints"], cell).unflatten(-1, (-1, 2))  # [B, K, J, 2] cells
        if self.joint_heatmap:
            joints, scores = self._snap(joints, detections["boxes"] / self.stride, maps)
        else:
            scores = detections["scores"][..., None].expand(joints.shape[:-1])
        return {**detections, "joints": joints * self.stride, "joint_scores": scores}

    def _snap(self, joints: Tensor, boxes: Tensor, maps: Outputs) -> tuple[Tensor, Tensor]:
        """Joints ``[B, K, J, 2]`` moved to the nearest peak of their heatmap, and the heatmap there ``[B, K, J]``.

        A joint stays where it was regressed when that peak is weak, lies outside the box or too far away.
        """
        height, width = maps["joint_heatmap"].shape[-2:]
        peak_scores, cells = top_per_channel(suppress_non_peaks(maps["joint_heatmap"]), self.k)  # [B, J, P]
        peaks = points_of_cells(cells, width)
        if self.joint_offset:
            peaks = peaks + gather_cells(maps["joint_offset"], cells.flatten(1)).view_as(peaks)
        else:
            peaks = peaks + 0.5
        peaks = torch.where((peak_scores > MIN_JOINT_SCORE)[..., None], peaks, -NOWHERE)
        regressed = joints.transpose(1, 2)  # [B, J, K, 2]
        # Not torch.cdist: its matrix product loses the last digits, and the export has no operator for it.
        squared = (regressed[:, :, :, None] - peaks[:, :, None]).square().sum(-1)
        nearest, which = squared.min(-1)  # [B, J, K]
        snapped = peaks.gather(2, which[..., None].expand(-1, -1, -1, 2))
        low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]
        reach = SNAP_DISTANCE * (high - low).amax(-1)
        is_near = nearest.sqrt() <= reach
        is_inside = ((snapped >= low) & (snapped <= high)).all(-1)
        is_snapped = is_near & is_inside & (snapped[..., 0] > -NOWHERE)
        # What the heatmap says of a joint that was not snapped: its probability in the cell where it was regressed.
        x, y = regressed.floor().unbind(-1)
        in_grid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        cell = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
        there = maps["joint_heatmap"].flatten(2).gather(2, cell) * in_grid
        scores = torch.where(is_snapped, peak_scores.gather(2, which), there)
        joints = torch.where(is_snapped[..., None], snapped, regressed)
        return joints.transpose(1, 2), scores.transpose(1, 2)

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        lifted = super().lift(detections, batch)
        image_from_input = torch.linalg.inv(batch["input_from_image"])
        points = transform_points(image_from_input, detections["joints"].flatten(1, 2))
        return {**lifted, "joints": points.view_as(detections["joints"])}

    def merge_flipped(self, maps: Outputs) -> Outputs:
        merged = super().merge_flipped({name: value for name, value in maps.items() if not name.startswith("joint")})
        order = self.joints.mirrored
        for name in ("joints", "joint_heatmap", "joint_offset"):
            if name not in maps:
                continue
            plain, mirrored = maps[name].chunk(2)
            if name == "joint_offset":
                merged[name] = plain  # as with the centers' offset
            elif name == "joint_heatmap":
                merged[name] = (plain + mirrored.flip(-1)[:, order]) / 2
            else:
                there = mirrored.flip(-1).unflatten(1, (-1, 2))[:, order] * plain.new_tensor([-1, 1]).view(2, 1, 1)
                merged[name] = (plain + there.flatten(1, 2)) / 2
        return merged

    def metric(self, class_names: Sequence[str]) -> CocoAP:
        return CocoAP(class_names, self.evaluator, iou_type="keypoints", sigmas=self.joints.sigmas)


def _radii(placed: Placed) -> Tensor:
    """Radius of every object ``[B, M]``, 0 where there is none."""
    radius = placed.cell.new_zeros(placed.cell.shape)
    radius[placed.rows] = placed.radius
    return radius
