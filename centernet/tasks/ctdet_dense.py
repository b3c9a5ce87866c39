"""ctdet_dense: 2D boxes, size and offset regressed densely in one head.

HarDNet (Chao et al., 2019, arXiv:1909.00948) as its authors train CenterNet with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from centernet.ops.heatmap import dense_owner, points_of_cells
from centernet.structures import HEATMAP_BIAS, DenseMap, Head, Objects, Outputs, Targets
from centernet.tasks.base import weighted_losses
from centernet.tasks.ctdet import CtdetTask

# Diameter of an object's window over the sigma of its weights: a quarter of the heatmap's Gaussian.
SHARPNESS = 24.0


class CtdetDenseTask(CtdetTask):
    """Boxes from center heatmap and one head ``size`` with four channels: width, height, offset x, offset y (cells).

    Every cell of an object's window says where the object's center is and how large it is; the weights of these
    statements are a narrow Gaussian that sums to 1 for each object, so that small and large objects count the same.
    Where objects overlap, the one with the larger weight has the cell. Options: ``CtdetTask``.
    """

    name = "ctdet_dense"
    edge = 0

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        k: int = 100,
        radius: str = "centernet",
        min_overlap: float = 0.7,
        heatmap_weight: float = 1.0,
        size_weight: float = 0.05,
        offset_weight: float = 0.5,
        heatmap_loss: str = "focal",
        crowds: str = "ignore",
        evaluator: str = "faster-coco-eval",
    ) -> None:
        super().__init__(
            num_classes,
            stride,
            k,
            radius,
            min_overlap,
            heatmap_weight,
            size_weight,
            offset_weight,
            heatmap_loss,
            crowds=crowds,
            evaluator=evaluator,
        )

    @property
    def heads(self) -> dict[str, Head]:
        return {
            "heatmap": Head(self.num_classes, self.heatmap_loss, self.heatmap_weight, HEATMAP_BIAS, per_class=True),
            "size": Head(4, "dense_l1"),
        }

    def encode(self, objects: Objects, grid_size: tuple[int, int]) -> Targets:
        height, width = grid_size
        placed = self.place(objects, grid_size)
        corner = placed.corner[placed.rows].long()
        shape = (len(placed.boxes), height, width)
        owner, weight = dense_owner(corner, placed.radius, placed.rows[0], shape, SHARPNESS, unit_sum=True)
        # The last row stands for "no owner".
        size, center = (
            torch.cat([rows[placed.rows], rows.new_zeros(1, 2)])[owner] for rows in (placed.size, placed.center)
        )
        cells = points_of_cells(torch.arange(height * width, device=weight.device), width).view(height, width, 2)
        offset = torch.where(owner[..., None] >= 0, center - cells, 0)
        value = torch.cat([size, offset], -1).permute(0, 3, 1, 2)
        return {
            "heatmap": self.encode_heatmap(placed, objects["labels"], grid_size),
            "size": DenseMap(value, weight[:, None].expand(-1, 4, -1, -1)),
        }

    def activate(self, outputs: Outputs) -> Outputs:
        return split_size(super().activate(outputs))

    def merge_flipped(self, maps: Outputs) -> Outputs:
        merged = super().merge_flipped(maps)
        plain, mirrored = maps["offset"].chunk(2)
        mirrored = mirrored.flip(-1)
        # From the mirrored cell's other side the center lies 1 - x away.
        x = (plain[:, :1] + 1 - mirrored[:, :1]) / 2
        merged["offset"] = torch.cat([x, (plain[:, 1:] + mirrored[:, 1:]) / 2], 1)
        return merged

    def losses(self, outputs: Sequence[Outputs], targets: Targets) -> dict[str, Tensor]:
        heads, both = self.heads, targets["size"]
        terms = {
            "heatmap": heads["heatmap"],
            "size": Head(2, "dense_l1", self.size_weight),
            "offset": Head(2, "dense_l1", self.offset_weight),
        }
        size, offset = (
            DenseMap(value, weight)
            for value, weight in zip(both.value.chunk(2, 1), both.weight.chunk(2, 1), strict=True)
        )
        parted = {"heatmap": targets["heatmap"], "size": size, "offset": offset}
        return weighted_losses(terms, [split_size(stack) for stack in outputs], parted)


def split_size(maps: Outputs) -> Outputs:
    """The four channels of ``size`` as ``size`` and ``offset``, two each."""
    size, offset = maps["size"].chunk(2, 1)
    return {**maps, "size": size, "offset": offset}
