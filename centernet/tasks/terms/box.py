"""Terms of 2D boxes: size, offset in the cell, or both in one head.

Objects as Points, Sec. 3 (Eqs. 2 and 3); HarDNet (Chao et al., 2019, arXiv:1909.00948), as its authors train CenterNet.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from centernet.losses import LOSSES
from centernet.structures import DenseMap, Detections, Head, Objects, Target
from centernet.tasks.terms.base import About, Peaks, Placed, Regression


class Size(Regression):
    """Width and height in cells; ``per_class``: a pair of channels for each class, supervised in the object's own."""

    def __init__(
        self,
        name: str,
        about: About,
        weight: float = 0.1,
        supervise: str = "center",
        loss: str = "l1",
        per_class: bool = False,
    ) -> None:
        super().__init__(name, about, weight, supervise, loss)
        self.per_class = bool(self.choice("per_class", per_class, (True, False)))
        self.channels = 2 * about.num_classes if self.per_class else 2

    @property
    def head(self) -> Head:
        head = super().head
        return Head(head.channels, head.loss, head.weight, per_class=self.per_class)

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        if not self.per_class:
            return placed.size, placed.is_object
        classes = torch.arange(self.about.num_classes, device=placed.cell.device)
        known = placed.is_object[..., None] & (objects["labels"][..., None] == classes)
        return placed.size.repeat(1, 1, self.about.num_classes), known

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        if self.per_class:
            which = peaks.labels[..., None, None].expand(-1, -1, 1, 2)
            values = values.unflatten(-1, (self.about.num_classes, 2)).gather(2, which).squeeze(2)
        return {"size": values * self.about.stride}


class Offset(Regression):
    """Position of an object's point in its cell, x and y in 0 .. 1. Flip testing keeps the plain image's, as in the
    original."""

    positions = (True,)
    channels = 2
    is_merged = False

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        return placed.center, placed.is_object

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"center": (peaks.corner + values) * self.about.stride}

    def mirror(self, values: Tensor) -> Tensor:
        # Input pixels are mirrored at the last pixel: a point at the very start of a cell ends a pixel before the next.
        x, y = values.split(1, 1)
        return torch.cat([1 - 1 / self.about.stride - x, y], 1)


class BoxOffset(Offset):
    """Center of the 2D box in cells, relative to the object's cell, when the object's point is another one."""

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        return (placed.boxes[..., :2] + placed.boxes[..., 2:]) / 2, placed.is_object


class DenseBox(Regression):
    """Size and center in one head of four channels, supervised in every cell of an object's window, as in HarDNet.

    Width, height, and x and y from the cell to the center, in cells. The weights are a Gaussian of a quarter of the
    heatmap's width that sums to 1 for each object, so small and large objects have the same weight.
    """

    channels = 4
    known_losses = ("l1",)
    positions = (False, True)
    sharpness = 24.0
    unit_sum = True
    parts: ClassVar[tuple[str, str]] = ("size", "offset")

    def __init__(self, name: str, about: About, size_weight: float = 0.05, offset_weight: float = 0.5) -> None:
        super().__init__(name, about, 1.0, "dense")
        self.size_weight = self.number("size_weight", size_weight, least=0)
        self.offset_weight = self.number("offset_weight", offset_weight, least=0)

    @property
    def weights(self) -> dict[str, float]:
        return dict(zip(self.parts, (self.size_weight, self.offset_weight), strict=True))

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        return torch.cat([placed.size, placed.center], -1), placed.is_object

    def losses(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        halves = (part.chunk(2, 1) for part in (raw, target.value, target.weight))
        return {
            part: LOSSES["dense_l1"](output, DenseMap(value, weight))
            for part, output, value, weight in zip(self.parts, *halves, strict=True)
        }

    def imitation(self, raw: Tensor, target: DenseMap) -> dict[str, Tensor]:
        return self.losses(raw, target)

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        size, offset = values.chunk(2, -1)
        return {"size": size * self.about.stride, "center": (peaks.corner + offset) * self.about.stride}

    def mirror(self, values: Tensor) -> Tensor:
        # The original's: from the mirrored cell's other side the center lies 1 - x away.
        size, x, y = values.split([2, 1, 1], 1)
        return torch.cat([size, 1 - x, y], 1)
