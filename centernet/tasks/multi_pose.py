"""multi_pose: boxes and the joints of each object (human pose).

Objects as Points, Sec. 4.2 and 5.3: joints are regressed from the center, then snapped to the nearest peak of a joint
heatmap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from centernet.errors import InputError
from centernet.metrics.coco import CocoAP
from centernet.ops.heatmap import gather_cells, points_of_cells, suppress_non_peaks, top_per_channel
from centernet.structures import Detections, Objects, Outputs
from centernet.tasks.base import Task
from centernet.tasks.terms.base import Peaks, Placed
from centernet.tasks.terms.box import Offset, Size
from centernet.tasks.terms.joints import JointHeatmap, JointOffset, Joints, joint_set
from centernet.tasks.terms.points import Points

# Peaks of joint heatmaps below this probability are discarded; a joint farther from its peak than this fraction of the
# box's longer side keeps its regressed position (both as in the original).
MIN_JOINT_SCORE, SNAP_DISTANCE = 0.1, 0.3
# Position of a missing peak: farther away than any joint.
NOWHERE = 1e4


class MultiPoseTask(Task):
    """Boxes as in ``ctdet``, and the joints of each: offsets from the center, joint heatmaps, joint offsets.

    ``unlabeled``: an object without labeled joints supervises its center only (``center``, as in the original), or its
    size and offset as well (``box``). Objects of a class that has no joints always supervise their box.
    """

    name = "multi_pose"
    TERMS = {
        "heatmap": Points,
        "size": Size,
        "offset": Offset,
        "joints": Joints,
        "joint_heatmap": JointHeatmap,
        "joint_offset": JointOffset,
    }
    OPTIONAL = ("offset", "joint_heatmap", "joint_offset")

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        facts: Mapping[str, Any] | None = None,
        unlabeled: str = "center",
        **options: Any,
    ) -> None:
        if unlabeled not in ("center", "box"):
            raise InputError(f"task {self.name}: unlabeled={unlabeled!r} is unknown; choose one of center, box")
        if options.get("joint_heatmap", {}) is None:
            options["joint_offset"] = None  # it refines that heatmap's peaks
        super().__init__(num_classes, stride, facts, **options)
        self.unlabeled = unlabeled

    def metric(self, class_names: Sequence[str], **options: Any) -> CocoAP:
        sigmas = joint_set(self.heatmap).sigmas
        return CocoAP(class_names, iou_type="keypoints", sigmas=sigmas, **options)

    def supervised(self, placed: Placed, objects: Objects) -> Mapping[str, Tensor]:
        if self.unlabeled == "box":
            return {}
        visibility = objects["joints"][..., 2]
        # Objects of a class without joints have none to label.
        known = (visibility > 0).any(-1) | (visibility < 0).all(-1)
        return {"size": known, "offset": known}

    def finish(self, found: Detections, peaks: Peaks, maps: Outputs) -> Detections:
        """Snap joints to the peaks of their heatmaps; the peaks' probabilities become their scores."""
        if "joint_heatmap" not in self.terms:
            return {**found, "joint_scores": found["scores"][..., None].expand(found["joints"].shape[:-1])}
        joints, scores = self._snap(found["joints"] / self.stride, found["boxes"] / self.stride, maps)
        return {**found, "joints": joints * self.stride, "joint_scores": scores}

    def _snap(self, joints: Tensor, boxes: Tensor, maps: Outputs) -> tuple[Tensor, Tensor]:
        """Joints ``[B, K, J, 2]`` snapped to the nearest peak of their heatmap, and its values there ``[B, K, J]``.

        A joint keeps its regressed position if that peak is weak, outside the box, or too far away. All in cells.
        """
        height, width = maps["joint_heatmap"].shape[-2:]
        heatmap = suppress_non_peaks(maps["joint_heatmap"])
        peak_scores, cells = top_per_channel(heatmap, self.heatmap.max_detections)  # [B, J, P]
        peaks = points_of_cells(cells, width)
        if "joint_offset" in self.terms:
            peaks = peaks + gather_cells(maps["joint_offset"], cells.flatten(1)).view_as(peaks)
        else:
            peaks = peaks + 0.5
        peaks = torch.where((peak_scores > MIN_JOINT_SCORE)[..., None], peaks, -NOWHERE)
        regressed = joints.transpose(1, 2)  # [B, J, K, 2]
        # Not torch.cdist: its matrix product loses precision, and export has no operator for it.
        squared = (regressed[:, :, :, None] - peaks[:, :, None]).square().sum(-1)
        nearest, which = squared.min(-1)  # [B, J, K]
        snapped = peaks.gather(2, which[..., None].expand(-1, -1, -1, 2))
        low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]
        reach = SNAP_DISTANCE * (high - low).amax(-1)
        is_near = nearest.sqrt() <= reach
        is_inside = ((snapped >= low) & (snapped <= high)).all(-1)
        is_snapped = is_near & is_inside & (snapped[..., 0] > -NOWHERE)
        # The score of a joint that was not snapped is its heatmap's probability at the regressed cell.
        x, y = regressed.floor().unbind(-1)
        in_grid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        cell = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
        there = maps["joint_heatmap"].flatten(2).gather(2, cell) * in_grid
        scores = torch.where(is_snapped, peak_scores.gather(2, which), there)
        joints = torch.where(is_snapped[..., None], snapped, regressed)
        return joints.transpose(1, 2), scores.transpose(1, 2)
