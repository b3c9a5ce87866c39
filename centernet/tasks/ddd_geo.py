"""ddd_geo: 3D boxes from one image, with depth from appearance and depth from the ground.

Two estimates of one depth, averaged by their predicted uncertainties, as in MonoFlex (Zhang et al., CVPR 2021,
arXiv:2104.02323, Sec. 3.4); the second is where a box stands on the ground rather than how tall it looks. Everything
else is MonoDLE's (``centernet.tasks.ddd_dle``), taught in nine cells instead of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from centernet.metrics.kitti import KittiAP
from centernet.ops.affine import Size as ImageSize
from centernet.structures import Batch, Detections, Objects
from centernet.tasks.base import Task, by_score
from centernet.tasks.terms.angle import TwelveBins
from centernet.tasks.terms.base import Placed
from centernet.tasks.terms.box import BoxOffset, Size
from centernet.tasks.terms.points import BlockPoints
from centernet.tasks.terms.space import (
    Bottom,
    LogDepth,
    ProjectedOffset,
    RelativeDimensions,
    camera_fields,
    confidence_of,
    known_in_space,
    lift_to_space,
    meet_ground,
)


class DddGeoTask(Task):
    """3D boxes at their projected centers, with two estimates of depth.

    The network predicts the logarithm of depth, and the row in which a box touches the ground, both as Laplace
    distributions. Lifting, which knows the camera, turns the row into a depth and averages. A score is the peak's score
    times the probability that the depth is within a meter; so scores of ``decode``, without a camera, are the peaks'.
    """

    name = "ddd_geo"
    TERMS = {
        "heatmap": BlockPoints,
        "depth": LogDepth,
        "bottom": Bottom,
        "dimensions": RelativeDimensions,
        "rotation": partial(TwelveBins, weight=3.0),
        "size": partial(Size, weight=1.0),
        "offset": BoxOffset,
        "offset_3d": ProjectedOffset,
    }
    IMAGE_FIELDS = ("calibration",)
    any_scale = False
    threshold = 0.3

    def metric(self, class_names: Sequence[str], **options: Any) -> KittiAP:
        return KittiAP(class_names, **options)

    def supervised(self, placed: Placed, objects: Objects) -> Mapping[str, Tensor]:
        return known_in_space(self.terms["depth"], objects)

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        """Adds the ground's depth, multiplies scores by depth confidence and sorts the detections again."""
        depth, bottom = self.terms["depth"], self.terms["bottom"]
        found = meet_ground(super().lift(detections, batch), batch, depth, bottom)
        spread = found.pop("depth_spread") * depth.scale(batch)[:, None].to(found["depth"])
        found["scores"] = found["scores"] * confidence_of(spread)
        return by_score(lift_to_space(found, batch, depth))

    def image_fields(self, given: Mapping[str, Any], image_size: ImageSize) -> dict[str, Tensor]:
        return camera_fields(given, image_size)
