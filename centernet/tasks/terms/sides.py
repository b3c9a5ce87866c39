"""Boxes as four distances, learned by overlap in every cell near an object's center, with the quality of each box.

TTFNet (Liu et al., 2019, arXiv:1909.00700), Sec. 4.2: many samples per object and a loss that is the metric's own
overlap converge in a fraction of the epochs that size and offset at one cell need. The quality is that of IoU-aware
detectors (Wu et al., 2019, arXiv:1912.05992).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.losses import LOSSES, box_quality
from centernet.ops.boxes import OVERLAPS, box_area, box_sides, overlap
from centernet.ops.heatmap import gather_cells
from centernet.structures import DenseMap, Detections, Head, Objects, Target
from centernet.tasks.terms.base import About, Peaks, Placed, Regression

# The distance, in cells, of an output of 0.
UNIT = 4.0
# The largest logarithm of a distance in units, and the smallest distance in cells that a perfect network predicts.
HIGHEST, LEAST = 6.0, 1e-4
# A logit of near certainty.
SURE = 16.0


class Sides(Regression):
    """Distances (cells) to a box's left, top, right and bottom side, and how well the box will fit.

    Every cell under an object's Gaussian predicts its box. A distance is the exponential of the map, so that all sizes
    are learned at the same relative speed; it is measured from the cell's opposite edge, so that a cell that holds the
    center can express any box around it, however small.

    ``loss``: the overlap that is maximized: ``giou``, ``iou``, ``diou``, ``ciou``. Cells weigh as the Gaussian, objects
    as the logarithm of their area in input pixels. ``quality``: a fifth channel predicts the box's IoU, and a score is
    peak^(1 - q) * IoU^q with q = ``quality`` (0: no such channel); ``quality_weight``: its weight in the total loss.
    ``smoothing``: a detection's box is the mean of those that the peak's cell and its eight neighbors predict, which
    have learned the same box. A neighbor weighs as a Gaussian of its distance, with this standard deviation relative to
    the box's width and height, times the square of the overlap of both boxes (0: the box of the peak's cell).
    """

    known_losses = ("giou", "iou", "diou", "ciou")
    dense_losses = OVERLAPS
    positions = (True, True)

    def __init__(
        self,
        name: str,
        about: About,
        weight: float = 5.0,
        loss: str = "giou",
        quality: float = 0.5,
        quality_weight: float = 1.0,
        smoothing: float = 0.08,
    ) -> None:
        super().__init__(name, about, weight, "dense", loss)
        self.smoothing = self.number("smoothing", smoothing, least=0)
        self.quality = self.number("quality", quality, least=0, below=1)
        self.quality_weight = self.number("quality_weight", quality_weight, least=0)
        self.channels = 5 if self.quality else 4

    @property
    def head(self) -> Head:
        return Head(self.channels, f"box_{self.loss}", self.weight)

    @property
    def weights(self) -> dict[str, float]:
        weights = super().weights
        return {**weights, "quality": self.quality_weight} if self.quality else weights

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        return placed.boxes, placed.is_object

    def weigh(self, gaussian: Tensor, owner: Tensor, placed: Placed) -> Tensor:
        area = box_area(placed.boxes).flatten() * self.about.stride**2
        # The last row stands for "no owner".
        sums = gaussian.new_zeros(len(area) + 1).index_add_(0, owner.flatten() % (len(area) + 1), gaussian.flatten())
        share = F.pad(area.clamp(min=math.e).log(), (0, 1)) / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        return gaussian * share[owner]

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        target = super().encode(placed, objects)
        return DenseMap(target.value, target.weight[:, :1])

    def activate(self, raw: Tensor) -> Tensor:
        """Distances in cells, and the IoU as a probability."""
        distances, others = raw.float().split([4, raw.shape[1] - 4], 1)
        return torch.cat([UNIT * distances.clamp(max=HIGHEST).exp(), others.sigmoid()], 1)

    def losses(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        boxes = boxes_of(self.activate(raw))
        found = {self.name: LOSSES[self.head.loss](boxes, target)}
        return {**found, "quality": box_quality(raw[:, 4:], boxes.detach(), target)} if self.quality else found

    def imitation(self, raw: Tensor, target: DenseMap) -> dict[str, Tensor]:
        """The overlap with the teacher's boxes, and the L1 of the quality."""
        values = self.activate(raw)
        theirs = DenseMap(boxes_of(target.value), target.weight)
        found = {self.name: LOSSES[self.head.loss](boxes_of(values), theirs)}
        if self.quality:
            quality = DenseMap(target.value[:, 4:], target.weight[:, 4:])
            found["quality"] = LOSSES["dense_l1"](values[:, 4:], quality)
        return found

    def at_peaks(self, values: Tensor, peaks: Peaks) -> Tensor:
        here = gather_cells(values, peaks.cell)
        if not self.smoothing:
            return here
        height, width = values.shape[-2:]
        line = torch.arange(-1, 2, dtype=values.dtype, device=values.device)
        steps = torch.cartesian_prod(line, line)  # [9, 2], x and y to each neighbor, and to the cell itself
        x, y = (peaks.corner[:, :, None] + steps).unbind(-1)  # [B, K, 9]
        is_neighbor = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (steps != 0).any(-1)
        cells = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
        # As distances from the peak's cell.
        near = gather_cells(values[:, :4], cells.flatten(1)).unflatten(1, (-1, len(steps)))
        near = near + torch.cat([-steps, steps], -1)
        own = here[:, :, None, :4]
        boxes = [torch.cat([1 - each[..., :2], each[..., 2:]], -1) for each in (near, own)]
        spread = self.smoothing * torch.stack(box_sides(boxes[1]), -1).clamp(min=LEAST)
        weight = (-0.5 * (steps / spread).square().sum(-1)).exp() * overlap(*boxes).square() * is_neighbor
        total = own.squeeze(2) + (weight[..., None] * near).sum(2)
        return torch.cat([total / (1 + weight.sum(2))[..., None], here[..., 4:]], -1)

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        low, high = peaks.corner + 1 - values[..., :2], peaks.corner + values[..., 2:4]
        found = {
            "center": (low + high) * (self.about.stride / 2),
            "size": (high - low).clamp(min=0) * self.about.stride,
        }
        return {**found, "box_quality": values[..., 4]} if self.quality else found

    def mirror(self, values: Tensor) -> Tensor:
        # Input pixels are mirrored at the last pixel, so the image moves by a pixel against the cells.
        left, top, right, bottom, *others = values.split(1, 1)
        pixel = 1 / self.about.stride
        return torch.cat([right + pixel, top, left - pixel, bottom, *others], 1)

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        low, high = target.value.chunk(2, 1)
        distances = torch.cat([1 - low, high], 1).clamp(min=LEAST)
        raw = (distances / UNIT).log()
        return torch.cat([raw, torch.full_like(raw[:, :1], SURE)], 1) if self.quality else raw

    def oracle(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        # Outside of the box some distances are negative, which no network says.
        low, high = target.value.chunk(2, 1)
        return torch.cat([1 - low, high, *([torch.ones_like(low[:, :1])] if self.quality else [])], 1)


def boxes_of(values: Tensor) -> Tensor:
    """Boxes ``[B, 4, H, W]`` (x1, y1, x2, y2 in cells, relative to the cell) with the distances in an activated map."""
    return torch.cat([1 - values[:, :2], values[:, 2:4]], 1)
