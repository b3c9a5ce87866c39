"""exdet: 2D boxes as four extreme points and a center.

ExtremeNet (Zhou et al., 2019, "Bottom-up Object Detection by Grouping Extreme and Center Points", arXiv:1901.08043), as
the original implementation of CenterNet has it: targets and losses (Sec. 3, 4), grouping (Sec. 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from centernet.errors import InputError
from centernet.metrics.coco import CocoAP
from centernet.ops.grouping import Groups
from centernet.ops.heatmap import gather_cells, points_of_cells
from centernet.ops.nms import suppress_ghosts
from centernet.structures import Detections, Outputs
from centernet.tasks.base import Task, by_score
from centernet.tasks.terms.extremes import (
    SIDES,
    Bottom,
    BottomOffset,
    ExtremeCenters,
    Left,
    LeftOffset,
    Right,
    RightOffset,
    Top,
    TopOffset,
    box_of,
)


class ExdetTask(Task):
    """Five heatmaps, of centers and of the topmost, leftmost, bottommost and rightmost points, and offsets of the
    latter in their cells. The points are grouped by the centers between them (``ExtremeCenters.find``).

    ``agnostic``: extreme points have no classes; their objects have those of the centers.
    """

    name = "exdet"
    TERMS = {
        "heatmap": ExtremeCenters,
        "top": Top,
        "left": Left,
        "bottom": Bottom,
        "right": Right,
        "top_offset": TopOffset,
        "left_offset": LeftOffset,
        "bottom_offset": BottomOffset,
        "right_offset": RightOffset,
    }
    OPTIONAL = tuple(f"{side}_offset" for side in SIDES)
    merges_maps = False
    suppression = "soft"

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        facts: Mapping[str, Any] | None = None,
        agnostic: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(agnostic, bool):
            raise InputError(f"task {self.name}: agnostic={agnostic!r} is not possible; use true or false")
        super().__init__(num_classes, stride, facts, **options)
        self.agnostic = agnostic
        if agnostic:
            for side in SIDES:
                self.terms[side].ignore_classes()

    def metric(self, class_names: Sequence[str], **options: Any) -> CocoAP:
        return CocoAP(class_names, **options)

    def finish(self, found: Detections, peaks: Groups, maps: Outputs) -> Detections:
        """The points of the groups, refined by their offsets (else in the middles of their cells), and the boxes that
        they lie on."""
        points = []
        for side, cell in zip(SIDES, peaks.extremes.unbind(-1), strict=True):
            offset = maps.get(f"{side}_offset")
            within: Tensor | float = 0.5 if offset is None else gather_cells(offset, cell)
            points.append(points_of_cells(cell, maps[side].shape[-1]) + within)
        extremes = torch.stack(points, -2) * self.stride
        extremes = torch.where((peaks.scores > 0)[..., None, None], extremes, 0)
        return {**found, "boxes": box_of(extremes), "extreme_points": extremes}

    def settle(self, found: Detections) -> Detections:
        if self.heatmap.ghosts is None:
            return found
        scores = suppress_ghosts(found["boxes"], found["scores"], found["labels"], self.heatmap.ghosts)
        return by_score({**found, "scores": scores})
