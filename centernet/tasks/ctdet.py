"""ctdet: 2D boxes as centers with a size.

Objects as Points, Sec. 3 (targets, losses) and Sec. 4.1 (decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from centernet.metrics.coco import CocoAP
from centernet.tasks.base import Task
from centernet.tasks.terms.box import Offset, Size
from centernet.tasks.terms.points import Points


class CtdetTask(Task):
    """Center heatmap, box size, and offset in the cell."""

    name = "ctdet"
    TERMS = {"heatmap": Points, "size": Size, "offset": Offset}
    OPTIONAL = ("offset",)

    def metric(self, class_names: Sequence[str], **options: Any) -> CocoAP:
        return CocoAP(class_names, **options)
