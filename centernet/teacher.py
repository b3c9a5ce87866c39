"""Teacher: a trained detector whose maps another network learns to predict (distillation).

Hinton et al., 2015 (arXiv:1503.02531): a small network learns more from a large one's probabilities than from the
labels alone. What is learned from each map is defined by its term (``Task.imitation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from centernet.checkpoint import load_detector
from centernet.errors import InputError
from centernet.models.transfer import keep_classes
from centernet.structures import Outputs
from centernet.tasks import Task


class Teacher:
    """The detector of a checkpoint, in its inference form, for a student of ``task`` with ``class_names``.

    Not a ``torch.nn.Module``, so whoever holds it neither trains it nor saves it. ``weight``: of its loss in the total.
    Raises ``InputError`` for a file that is not a checkpoint, and for a teacher that lacks a class or whose maps say
    something else than the student's.
    """

    def __init__(self, path: str | Path, task: Task, class_names: Sequence[str], weight: Any = 1.0) -> None:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight > 0:
            raise InputError(f"teacher_weight={weight!r} must be a number above 0; teacher=null trains without one")
        detector, description = load_detector(path)
        task.check_teacher(detector.task)
        theirs = description["module"]["class_names"]
        if missing := [name for name in class_names if name not in theirs]:
            raise InputError(
                f"the teacher {path} does not know the class {missing[0]!r} (it knows {', '.join(theirs[:8])}); give "
                "one that was trained on all classes of this run"
            )
        by_class = [name for name, head in detector.task.heads.items() if head.per_class]
        keep_classes(detector.network, [theirs.index(name) for name in class_names], by_class, len(theirs))
        self.divisor: int = detector.network.divisor
        self.weight = weight
        self._detector = detector.fuse().eval().requires_grad_(False)

    @torch.no_grad()
    def maps(self, images: Tensor) -> Outputs:
        """Activated maps for images ``[B, 3, H, W]`` in 0 .. 255, of the student's classes in their order."""
        detector = self._detector.to(images.device)
        return detector.task.activate(detector.outputs(images)[-1])
