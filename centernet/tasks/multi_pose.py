"""multi_pose: boxes and the joints of each object (human pose).

Objects as Points, Sec. 4.2 and 5.3: joints are regressed from the center, then snapped to the nearest peak of a joint
heatmap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from centernet.errors import InputError
from centernet.metrics.coco import CocoAP
from centernet.ops.heatmap import gather_cells, points_of_cells
from centernet.structures import Detections, Objects, Outputs
from centernet.tasks.base import Task
from centernet.tasks.terms.base import Peaks, Placed
from centernet.tasks.terms.box import Offset, Size
from centernet.tasks.terms.joints import (
    JointHeatmap,
    JointOffset,
    Joints,
    joint_peaks,
    joint_set,
    nearest_peak,
    snap_joints,
)
from centernet.tasks.terms.points import Points


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
        scores, cells = joint_peaks(maps["joint_heatmap"], self.heatmap.max_detections)
        peaks = points_of_cells(cells, maps["joint_heatmap"].shape[-1])
        if "joint_offset" in self.terms:
            peaks = peaks + gather_cells(maps["joint_offset"], cells.flatten(1)).view_as(peaks)
        else:
            peaks = peaks + 0.5
        joints, boxes = found["joints"] / self.stride, found["boxes"] / self.stride
        joints, scores = snap_joints(joints, boxes, maps["joint_heatmap"], peaks, scores, nearest_peak)
        return {**found, "joints": joints * self.stride, "joint_scores": scores}
