"""ddd: 3D boxes from one image.

Objects as Points, Sec. 4 and appendix (targets and losses of depth, dimensions and orientation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from centernet.metrics.kitti import KittiAP
from centernet.ops.affine import Size as ImageSize
from centernet.structures import Batch, Detections, Objects, Outputs
from centernet.tasks.base import Task
from centernet.tasks.terms.angle import TwoBins
from centernet.tasks.terms.base import Peaks, Placed
from centernet.tasks.terms.box import Offset, Size
from centernet.tasks.terms.points import StreetPoints
from centernet.tasks.terms.space import Depth, Dimensions, camera_fields, known_in_space, lift_to_space


class DddTask(Task):
    """Depth, dimensions and observation angle at the centers of 2D boxes, lifted to space by the image's camera."""

    name = "ddd"
    TERMS = {
        "heatmap": StreetPoints,
        "depth": Depth,
        "dimensions": Dimensions,
        "rotation": TwoBins,
        "size": Size,
        "offset": Offset,
    }
    OPTIONAL = ("size", "offset")
    IMAGE_FIELDS = ("calibration",)
    any_scale = False

    def metric(self, class_names: Sequence[str], **options: Any) -> KittiAP:
        return KittiAP(class_names, **options)

    def supervised(self, placed: Placed, objects: Objects) -> Mapping[str, Tensor]:
        return known_in_space(self.terms["depth"], objects)

    def finish(self, found: Detections, peaks: Peaks, maps: Outputs) -> Detections:
        return {**found, "center_3d": found["center"]}

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        return lift_to_space(super().lift(detections, batch), batch, self.terms["depth"])

    def image_fields(self, given: Mapping[str, Any], image_size: ImageSize) -> dict[str, Tensor]:
        return camera_fields(given, image_size)
