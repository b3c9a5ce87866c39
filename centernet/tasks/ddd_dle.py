"""ddd_dle: 3D boxes from one image, with MonoDLE's findings on localization errors.

Ma et al., "Delving into Localization Errors for Monocular 3D Object Detection", CVPR 2021 (arXiv:2103.16237): the
heatmap marks projected 3D centers instead of 2D centers, objects too distant to locate are ignored in training, and the
loss of dimensions is weighted by overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from centernet.metrics.kitti import KittiAP
from centernet.ops.affine import Size as ImageSize
from centernet.structures import Batch, Detections, Objects, Outputs
from centernet.tasks.base import Task, by_score
from centernet.tasks.terms.angle import TwelveBins
from centernet.tasks.terms.base import Peaks, Placed
from centernet.tasks.terms.box import BoxOffset, Size
from centernet.tasks.terms.points import ProjectedPoints
from centernet.tasks.terms.space import (
    DepthWithSpread,
    ProjectedOffset,
    RelativeDimensions,
    camera_fields,
    confidence_of,
    known_in_space,
    lift_to_space,
)


class DddDleTask(Task):
    """3D boxes at their projected centers, with depth uncertainty.

    The heatmap, the 2D box and everything else belong to the cell that the 3D center is projected into. A score is the
    peak's score times the probability, under the predicted Laplace distribution, that the depth is within a meter. (The
    authors multiply by a decreasing function of the spread that may exceed 1; exp(-spread) would rank every near guess
    above every far object.) All losses are means over objects; the authors use a depth weight of 1.
    """

    name = "ddd_dle"
    TERMS = {
        "heatmap": ProjectedPoints,
        "depth": partial(DepthWithSpread, focal="data"),
        "dimensions": RelativeDimensions,
        "rotation": TwelveBins,
        "size": partial(Size, weight=1.0),
        "offset": BoxOffset,
        "offset_3d": ProjectedOffset,
    }
    IMAGE_FIELDS = ("calibration",)
    any_scale = False
    threshold = 0.15  # scores are peaks times the confidence of depth

    def metric(self, class_names: Sequence[str], **options: Any) -> KittiAP:
        return KittiAP(class_names, **options)

    def supervised(self, placed: Placed, objects: Objects) -> Mapping[str, Tensor]:
        return known_in_space(self.terms["depth"], objects)

    def finish(self, found: Detections, peaks: Peaks, maps: Outputs) -> Detections:
        """Multiply scores by depth confidence and sort the detections again."""
        found = dict(found)
        found["scores"] = found["scores"] * confidence_of(found.pop("depth_spread"))
        return by_score(found)

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        return lift_to_space(super().lift(detections, batch), batch, self.terms["depth"])

    def image_fields(self, given: Mapping[str, Any], image_size: ImageSize) -> dict[str, Tensor]:
        return camera_fields(given, image_size)
