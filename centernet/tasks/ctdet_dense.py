"""ctdet_dense: 2D boxes, size and offset regressed densely in one head.

HarDNet (Chao et al., 2019, arXiv:1909.00948) as its authors train CenterNet with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from centernet.metrics.coco import CocoAP
from centernet.tasks.base import Task
from centernet.tasks.terms.box import DenseBox
from centernet.tasks.terms.points import Points


class CtdetDenseTask(Task):
    """Every cell of an object's window predicts the object's center and size."""

    name = "ctdet_dense"
    TERMS = {"heatmap": partial(Points, margin=0), "box": DenseBox}

    def metric(self, class_names: Sequence[str], **options: Any) -> CocoAP:
        return CocoAP(class_names, **options)
