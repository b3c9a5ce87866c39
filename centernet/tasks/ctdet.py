"""ctdet: 2D boxes as centers with a size.

Objects as Points, Sec. 3 (targets, losses) and Sec. 4.1 (decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from centernet.metrics.coco import BACKENDS, CocoAP
from centernet.ops.boxes import box_sides, clip_boxes
from centernet.ops.heatmap import (
    RADII,
    dense_owner,
    draw_gaussians,
    draw_regions,
    find_peaks,
    gather_cells,
    gaussian_radius,
    points_of_cells,
    suppress_non_peaks,
)
from centernet.structures import (
    HEATMAP_BIAS,
    AtCells,
    DenseMap,
    Detections,
    Head,
    InputError,
    Objects,
    Outputs,
    Targets,
)
from centernet.tasks.base import Task


class Placed(NamedTuple):
    """Objects ``[B, M]`` on the grid; all numbers in cells."""

    boxes: Tensor  # [B, M, 4] clipped
    size: Tensor  # [B, M, 2] width, height
    center: Tensor  # [B, M, 2]
    corner: Tensor  # [B, M, 2] of the cell that holds the center
    cell: Tensor  # int64 [B, M] its flat index, 0 where there is no object
    present: Tensor  # bool [B, M] a crowd region or an object, with something of it inside the grid
    is_object: Tensor  # bool [B, M] trained as an object
    rows: tuple[Tensor, ...]  # the N places where is_object
    radius: Tensor  # int64 [N] of their Gaussians


class CtdetTask(Task):
    """Boxes from center heatmap, size and sub-cell offset.

    - ``k``: detections per image. ``radius``: ``centernet`` (the original's formula), ``cornernet`` (the intended one)
      or ``proportional``, at ``min_overlap``.
    - ``heatmap_loss``: ``focal`` or ``mse``; ``regression_loss``: ``l1`` or ``smooth_l1``.
    - ``size_target``: ``center`` (one size map, supervised at centers), ``per_class`` (a size map per class) or
      ``dense`` (supervised under the whole Gaussian, weighted by it).
    - ``offset``: whether to regress where in its cell a center lies.
    - ``evaluator``: ``faster-coco-eval`` or ``pycocotools``; same numbers.
    - ``crowds``: ``ignore`` (no loss inside crowd regions) or ``objects`` (trained like objects, as the original does).
    """

    name = "ctdet"
    edge: ClassVar[int] = 1
    """How many cells before the grid's end boxes are clipped; the original keeps them off the last cell."""

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        k: int = 100,
        radius: str = "centernet",
        min_overlap: float = 0.7,
        heatmap_weight: float = 1.0,
        size_weight: float = 0.1,
        offset_weight: float = 1.0,
        heatmap_loss: str = "focal",
        regression_loss: str = "l1",
        size_target: str = "center",
        offset: bool = True,
        crowds: str = "ignore",
        evaluator: str = "faster-coco-eval",
    ) -> None:
        super().__init__(num_classes, stride, k)
        for option, value, choices in (
            ("radius", radius, RADII),
            ("heatmap_loss", heatmap_loss, ("focal", "mse")),
            ("regression_loss", regression_loss, ("l1", "smooth_l1")),
            ("size_target", size_target, ("center", "per_class", "dense")),
            ("crowds", crowds, ("ignore", "objects")),
            ("evaluator", evaluator, BACKENDS),
        ):
            if value not in choices:
                raise InputError(f"task {self.name}: {option}={value!r} is unknown; choose one of {', '.join(choices)}")
        if not 0 < min_overlap < 1:
            raise InputError(f"task {self.name}: min_overlap={min_overlap} must lie between 0 and 1")
        self.radius, self.min_overlap = radius, min_overlap
        self.heatmap_weight, self.size_weight, self.offset_weight = heatmap_weight, size_weight, offset_weight
        self.heatmap_loss, self.regression_loss = heatmap_loss, regression_loss
        self.size_target, self.offset, self.crowds, self.evaluator = size_target, offset, crowds, evaluator

    @property
    def heads(self) -> dict[str, Head]:
        size_channels = 2 * self.num_classes if self.size_target == "per_class" else 2
        size_loss = "dense_l1" if self.size_target == "dense" else self.regression_loss
        heads = {
            "heatmap": Head(self.num_classes, self.heatmap_loss, self.heatmap_weight, HEATMAP_BIAS, per_class=True),
            "size": Head(size_channels, size_loss, self.size_weight, per_class=self.size_target == "per_class"),
        }
        if self.offset:
            heads["offset"] = Head(2, self.regression_loss, self.offset_weight)
        return heads

    def encode(self, objects: Objects, grid_size: tuple[int, int]) -> Targets:
        return self.encode_placed(self.place(objects, grid_size), objects, grid_size)

    def encode_placed(self, placed: Placed, objects: Objects, grid_size: tuple[int, int]) -> Targets:
        """``encode``, once it is known where the objects lie on the grid."""
        height, width = grid_size
        targets: Targets = {"heatmap": self.encode_heatmap(placed, objects["labels"], grid_size)}
        if self.size_target == "center":
            targets["size"] = AtCells(placed.cell, placed.size, placed.is_object)
        elif self.size_target == "per_class":
            args = placed.cell, placed.size, placed.is_object, objects["labels"], self.num_classes
            targets["size"] = _per_class(*args)
        else:
            shape = (len(placed.boxes), height, width)
            owner, gaussian = dense_owner(placed.corner[placed.rows].long(), placed.radius, placed.rows[0], shape)
            size = placed.size[placed.rows]
            values = torch.cat([size, size.new_zeros(1, 2)])  # the last row stands for "no owner"
            targets["size"] = DenseMap(values[owner].permute(0, 3, 1, 2), gaussian[:, None].expand(-1, 2, -1, -1))
        if self.offset:
            targets["offset"] = AtCells(placed.cell, placed.center - placed.corner, placed.is_object)
        return targets

    def place(self, objects: Objects, grid_size: tuple[int, int]) -> Placed:
        """Where padded objects (input pixels) lie on a grid of this size, and which of them are trained."""
        height, width = grid_size
        boxes = clip_boxes(objects["boxes"].float() / self.stride, width - self.edge, height - self.edge)
        object_width, object_height = box_sides(boxes)
        present = objects["valid"] & (object_width > 0) & (object_height > 0)
        is_object = present & ~objects["crowd"] if self.crowds == "ignore" else present
        is_object = is_object & (objects["labels"] >= 0)  # -1: a region that is ignored for every class
        center = (boxes[..., :2] + boxes[..., 2:]) / 2
        corner = center.floor()
        rows = is_object.nonzero(as_tuple=True)
        radius = gaussian_radius(object_height[rows].ceil(), object_width[rows].ceil(), self.min_overlap, self.radius)
        return Placed(
            boxes=boxes,
            size=torch.stack([object_width, object_height], -1),
            center=center,
            corner=corner,
            cell=(corner[..., 1] * width + corner[..., 0]).long() * is_object,
            present=present,
            is_object=is_object,
            rows=rows,
            radius=radius.long(),
        )

    def encode_heatmap(self, placed: Placed, labels: Tensor, grid_size: tuple[int, int]) -> DenseMap:
        """The Gaussians of the objects, and no weight inside crowd regions."""
        shape = (len(labels), self.num_classes, *grid_size)
        corner = placed.corner[placed.rows].long()
        heatmap = draw_gaussians(corner, placed.radius, labels[placed.rows], shape, placed.rows[0])
        ignored = placed.present & ~placed.is_object
        if not ignored.any():
            return DenseMap(heatmap)
        row, channel = classes_of(labels[ignored], self.num_classes)
        image = ignored.nonzero(as_tuple=True)[0]
        regions = draw_regions(placed.boxes[ignored][row], channel, shape, image[row])
        return DenseMap(heatmap, (~regions).to(heatmap.dtype))

    def decode(self, maps: Outputs) -> Detections:
        return self.decode_boxes(maps)[0]

    def decode_boxes(self, maps: Outputs) -> tuple[Detections, Tensor]:
        """Boxes, scores, labels, and the cells ``[B, K]`` of their peaks."""
        width = maps["heatmap"].shape[-1]
        scores, labels, cell = find_peaks(suppress_non_peaks(maps["heatmap"]), self.k)
        size = gather_cells(maps["size"], cell)
        if self.size_target == "per_class":
            which = labels[..., None, None].expand(-1, -1, 1, 2)
            size = size.unflatten(-1, (self.num_classes, 2)).gather(2, which).squeeze(2)
        # Without an offset map the middle of the cell is the best guess, as in the original.
        offset = gather_cells(maps["offset"], cell) if self.offset else 0.5
        center = points_of_cells(cell, width) + offset
        boxes = torch.cat([center - size / 2, center + size / 2], -1) * self.stride
        return {"boxes": boxes, "scores": scores, "labels": labels}, cell

    def merge_flipped(self, maps: Outputs) -> Outputs:
        merged = {}
        for name, value in maps.items():
            plain, mirrored = value.chunk(2)
            # The offset of a mirrored center is not the mirror of its offset: the original keeps the plain one.
            merged[name] = plain if name == "offset" else (plain + mirrored.flip(-1)) / 2
        return merged

    def metric(self, class_names: Sequence[str]) -> CocoAP:
        return CocoAP(class_names, backend=self.evaluator)


def classes_of(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Every pair of a row of ``labels [N]`` and a class that it stands for; -1 stands for all of them."""
    classes = torch.arange(num_classes, device=labels.device)
    return ((labels[:, None] == classes) | (labels[:, None] == -1)).nonzero(as_tuple=True)


def _per_class(cell: Tensor, size: Tensor, is_object: Tensor, labels: Tensor, num_classes: int) -> AtCells:
    """Sizes in the two channels of the object's own class, the other channels masked out."""
    rows, count = labels.shape
    value = size.new_zeros(rows, count, num_classes, 2)
    mask = torch.zeros_like(value)
    which = labels.clamp(min=0)[..., None, None].expand(-1, -1, 1, 2)
    value.scatter_(2, which, size[:, :, None])
    mask.scatter_(2, which, is_object[..., None, None].to(value.dtype).expand(-1, -1, 1, 2))
    return AtCells(cell, value.flatten(2), mask.flatten(2))
