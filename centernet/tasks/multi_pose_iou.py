"""multi_pose_iou: boxes trained by their overlap, joints by their tolerances. The recommended task for pose.

Boxes as in TTFNet (Liu et al., 2019, arXiv:1909.00700); joints as in Objects as Points, Sec. 4.2 and 5.3, but in many
cells each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from centernet.metrics.coco import CocoAP
from centernet.structures import Detections, Outputs
from centernet.tasks.base import Task, by_score
from centernet.tasks.terms.base import Peaks
from centernet.tasks.terms.joints import (
    NearJoints,
    RelativeJoints,
    SpreadHeatmap,
    joint_peaks,
    joint_set,
    likeliest_peak,
    snap_joints,
    vote,
)
from centernet.tasks.terms.points import EllipsePoints
from centernet.tasks.terms.sides import Sides


class MultiPoseIouTask(Task):
    """Center heatmap with Gaussians of the boxes' own shapes, the sides of each box, and its joints: offsets from the
    center, joint heatmaps, and offsets from the cells near a joint.

    A score says how likely there is a center, how well its box fits, and how sure its joints are, if its class has any
    (``jointless``: a fact of the data, the classes that have none). An object without labeled joints supervises its
    center and box.
    """

    name = "multi_pose_iou"
    clips_boxes = True
    TERMS = {
        "heatmap": EllipsePoints,
        "box": Sides,
        "joints": RelativeJoints,
        "joint_heatmap": SpreadHeatmap,
        "joint_offset": NearJoints,
    }

    def metric(self, class_names: Sequence[str], **options: Any) -> CocoAP:
        sigmas = joint_set(self.heatmap).sigmas
        return CocoAP(class_names, iou_type="keypoints", sigmas=sigmas, **options)

    def finish(self, found: Detections, peaks: Peaks, maps: Outputs) -> Detections:
        heatmap = maps["joint_heatmap"]
        scores, cells = joint_peaks(heatmap, self.heatmap.max_detections)
        points = vote(heatmap, maps["joint_offset"], cells)
        joints, boxes = found["joints"] / self.stride, found["boxes"] / self.stride
        joints, joint_scores = snap_joints(joints, boxes, heatmap, points, scores, likeliest_peak)
        found = {**found, "joints": joints * self.stride, "joint_scores": joint_scores}
        if share := self.terms["box"].quality:
            found["scores"] = found["scores"] ** (1 - share) * found.pop("box_quality") ** share
        shares = [self.terms["joint_heatmap"].share] * self.num_classes
        for label in self.facts.get("jointless", ()):
            shares[label] = 0.0
        share = torch.tensor(shares, device=joints.device)[found["labels"]]
        found["scores"] = found["scores"] ** (1 - share) * joint_scores.mean(-1) ** share
        return by_score(found)
