"""ctdet_iou: 2D boxes that are trained by their overlap, many cells per object. The recommended task for boxes.

After TTFNet (Liu et al., 2019, arXiv:1909.00700), with the quality of each box in its score (arXiv:1912.05992).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from centernet.metrics.coco import CocoAP
from centernet.structures import Detections, Outputs
from centernet.tasks.base import Task, by_score
from centernet.tasks.terms.base import Peaks
from centernet.tasks.terms.points import EllipsePoints
from centernet.tasks.terms.sides import Sides


class CtdetIouTask(Task):
    """Center heatmap with Gaussians of the boxes' own shapes, and the four sides of each box."""

    name = "ctdet_iou"
    TERMS = {"heatmap": EllipsePoints, "box": Sides}
    clips_boxes = True
    threshold = 0.5  # the predicted overlap, rarely below a half, raises low scores

    def metric(self, class_names: Sequence[str], **options: Any) -> CocoAP:
        return CocoAP(class_names, **options)

    def finish(self, found: Detections, peaks: Peaks, maps: Outputs) -> Detections:
        """Scores by how likely there is a center and how well its box fits."""
        if not (share := self.terms["box"].quality):
            return found
        found = dict(found)
        fit = found.pop("box_quality")
        found["scores"] = found["scores"] ** (1 - share) * fit**share
        return by_score(found)
