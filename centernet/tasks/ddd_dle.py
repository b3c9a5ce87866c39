"""ddd_dle: 3D boxes from one image, with what MonoDLE found about where they are lost.

Ma et al., "Delving into Localization Errors for Monocular 3D Object Detection", CVPR 2021 (arXiv:2103.16237): the
projection of the 3D center is found instead of the 2D center, objects too far away to be located are left out of
training, and dimensions are trained by what they cost in overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from centernet.metrics.kitti import KittiAP
from centernet.ops.affine import Size as ImageSize
from centernet.structures import Batch, Detections, Objects, Outputs
from centernet.tasks.base import Task
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
    """3D boxes at the projections of their centers, with depths that know how sure they are.

    The heatmap, the 2D box and everything else belong to the cell that the 3D center is projected into. A score is the
    peak's times the probability that the depth is right to within a meter, by the Laplace distribution that the network
    says. (The authors multiply by a decreasing function of the spread that may exceed 1; exp(-spread) would put every
    near guess before every far object.) All losses are means over objects; the authors give depth the weight 1.
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
    threshold = 0.15  # scores are peaks times the confidence of depth

    def metric(self, class_names: Sequence[str], **options: Any) -> KittiAP:
        return KittiAP(class_names, **options)

    def supervised(self, placed: Placed, objects: Objects) -> Mapping[str, Tensor]:
        return known_in_space(self.terms["depth"], objects)

    def finish(self, found: Detections, peaks: Peaks, maps: Outputs) -> Detections:
        """Scores are multiplied by the confidence of depth, and the detections sorted anew."""
        found = dict(found)
        found["scores"] = found["scores"] * confidence_of(found.pop("depth_spread"))
        order = found["scores"].topk(found["scores"].shape[1]).indices
        return {
            name: value.gather(1, order.view(*order.shape, *[1] * (value.ndim - 2)).expand_as(value))
            for name, value in found.items()
        }

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        return lift_to_space(super().lift(detections, batch), batch, self.terms["depth"])

    def image_fields(self, given: Mapping[str, Any], image_size: ImageSize) -> dict[str, Tensor]:
        return camera_fields(given, image_size)
