"""The heatmap of points: object centers, their Gaussians, and ignored regions.

Objects as Points, Sec. 3 (Eq. 1, the Gaussians) and Sec. 4.1 (peaks).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from centernet.ops.boxes import box_sides, clip_boxes
from centernet.ops.heatmap import (
    RADII,
    draw_gaussians,
    draw_regions,
    find_peaks,
    gaussian_radius,
    points_of_cells,
    suppress_non_peaks,
)
from centernet.structures import DenseMap, Objects, Outputs
from centernet.tasks.terms.base import About, HeatmapTerm, Peaks, Placed

# The largest value of a heatmap cell that is not a center: its penalty is almost 0.
NO_CENTER = 0.9999


class Points(HeatmapTerm):
    """One channel per class, with a Gaussian at the center of each box.

    - ``radius``: ``centernet`` (the original's formula), ``cornernet`` (the intended one) or ``proportional``, at
      ``min_overlap``.
    - ``crowds``: ``ignore`` (no loss inside crowd regions) or ``objects`` (trained like objects, as the original does).
    - ``margin``: boxes are clipped this many cells before the grid's end; the original excludes the last cell.
    - ``max_detections``: peaks per image.
    """

    needs = ("boxes", "labels")
    per_class = True
    rounds_sides: ClassVar[bool] = True
    """Whether sides are rounded up to whole cells before the radius is computed."""

    def __init__(
        self,
        name: str,
        about: About,
        weight: float = 1.0,
        loss: str = "focal",
        radius: str = "centernet",
        min_overlap: float = 0.7,
        crowds: str = "ignore",
        margin: int = 1,
        max_detections: int = 100,
    ) -> None:
        super().__init__(name, about, weight, loss)
        self.channels = about.num_classes
        self.radius = self.choice("radius", radius, RADII)
        self.min_overlap = self.number("min_overlap", min_overlap, above=0, below=1)
        self.crowds = self.choice("crowds", crowds, ("ignore", "objects"))
        self.margin = self.number("margin", margin, least=0)
        self.max_detections = int(self.number("max_detections", max_detections, least=1))

    def place(self, objects: Objects, grid_size: tuple[int, int]) -> Placed:
        """Place padded objects (input pixels) on a grid of this size and select those to train on."""
        height, width = grid_size
        boxes = clip_boxes(objects["boxes"].float() / self.about.stride, width - self.margin, height - self.margin)
        sides = torch.stack(box_sides(boxes), -1)
        present = objects["valid"] & (sides > 0).all(-1)
        is_object = present & ~objects["crowd"] if self.crowds == "ignore" else present
        is_object = is_object & (objects["labels"] >= 0)  # -1: a region ignored for every class
        center = (boxes[..., :2] + boxes[..., 2:]) / 2
        center, present, is_object = self.locate(objects, grid_size, center, present, is_object)
        corner = center.floor()
        cell = torch.where(is_object, corner[..., 1] * width + corner[..., 0], 0).long()
        rows = is_object.nonzero(as_tuple=True)
        radius = torch.zeros_like(cell)
        radius[rows] = self.radii(sides[rows])
        return Placed(grid_size, boxes, sides, center, corner, cell, present, is_object, radius)

    def locate(
        self, objects: Objects, grid_size: tuple[int, int], center: Tensor, present: Tensor, is_object: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The points of objects, and which are ``present`` and trained (see ``Placed``), from those of their boxes."""
        return center, present, is_object

    def radii(self, size: Tensor) -> Tensor:
        """Radii int64 ``[N]`` of the Gaussians of objects with these sizes ``[N, 2]`` (width, height in cells)."""
        sides = size.ceil() if self.rounds_sides else size
        return gaussian_radius(sides[:, 1], sides[:, 0], self.min_overlap, self.radius).long()

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        labels = objects["labels"]
        shape = (len(labels), self.channels, *placed.grid_size)
        rows = placed.is_object.nonzero(as_tuple=True)
        heatmap = draw_gaussians(placed.corner[rows].long(), placed.radius[rows], labels[rows], shape, rows[0])
        return self.ignore(heatmap, placed, labels)

    def ignore(self, heatmap: Tensor, placed: Placed, labels: Tensor) -> DenseMap:
        """The heatmap ``[B, C, H, W]`` with zero weight inside ignored objects."""
        ignored = placed.present & ~placed.is_object
        if not ignored.any():
            return DenseMap(heatmap)
        row, channel = classes_of(labels[ignored], self.channels)
        image = ignored.nonzero(as_tuple=True)[0][row]
        regions = draw_regions(self.region(placed.boxes[ignored][row]), channel, tuple(heatmap.shape), image)
        return DenseMap(heatmap, (~regions).to(heatmap.dtype))

    def region(self, boxes: Tensor) -> Tensor:
        """The parts of the grid that ignored boxes ``[N, 4]`` cover."""
        return boxes

    def find(self, maps: Outputs) -> Peaks:
        """The peaks of activated maps."""
        heatmap = maps[self.name]
        scores, labels, cell = find_peaks(suppress_non_peaks(heatmap), self.max_detections)
        return Peaks(scores, labels, cell, points_of_cells(cell, heatmap.shape[-1]))


class StreetPoints(Points):
    """Points as the original's monocular 3D task draws them: sides are not rounded before the radius is computed.

    ``ignore``: for ignored objects, the heatmap is not penalized under a ``gaussian``, or in the whole box
    (``region``). A center remains a center; in the original, an ignored object overwrites the centers of objects
    annotated before it.
    """

    rounds_sides = False

    def __init__(
        self,
        name: str,
        about: About,
        weight: float = 1.0,
        radius: str = "centernet",
        min_overlap: float = 0.7,
        ignore: str = "gaussian",
        max_detections: int = 100,
    ) -> None:
        super().__init__(name, about, weight, "focal", radius, min_overlap, max_detections=max_detections)
        self.ignore_by = self.choice("ignore", ignore, ("gaussian", "region"))

    def region(self, boxes: Tensor) -> Tensor:
        return boxes.floor()  # whole cells, the one with the far corner included

    def ignore(self, heatmap: Tensor, placed: Placed, labels: Tensor) -> DenseMap:
        if self.ignore_by == "region":
            return super().ignore(heatmap, placed, labels)
        ignored = (placed.present & ~placed.is_object).nonzero(as_tuple=True)
        row, channel = classes_of(labels[ignored], self.channels)
        if not len(row):
            return DenseMap(heatmap)
        middle = (placed.boxes[ignored][:, :2] + placed.boxes[ignored][:, 2:]) / 2
        radius = self.radii(placed.size[ignored])
        unknown = draw_gaussians(
            middle.floor().long()[row], radius[row], channel, tuple(heatmap.shape), ignored[0][row]
        )
        return DenseMap(torch.maximum(heatmap, unknown.clamp(max=NO_CENTER)))


class ProjectedPoints(StreetPoints):
    """As ``StreetPoints``, but the point of an object is the projection of its 3D center (MonoDLE, Sec. 4.1).

    Objects with a center outside the grid are dropped; those beyond ``max_depth`` meters are ignored (Sec. 4.2).
    """

    needs = (*StreetPoints.needs, "location", "center_3d")

    def __init__(self, name: str, about: About, max_depth: float = 65.0, **options: object) -> None:
        super().__init__(name, about, **options)
        self.max_depth = self.number("max_depth", max_depth, above=0)

    def locate(
        self, objects: Objects, grid_size: tuple[int, int], center: Tensor, present: Tensor, is_object: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        is_object = is_object & (objects["location"][..., 2] <= self.max_depth)
        projected = objects["center_3d"].float() / self.about.stride
        corner, (height, width) = projected.floor(), grid_size
        is_inside = (corner >= 0).all(-1) & (corner[..., 0] < width) & (corner[..., 1] < height)
        present = present & (is_inside | ~is_object)
        is_object = is_object & is_inside
        return torch.where(is_object[..., None], projected, center), present, is_object


def classes_of(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """All pairs (row of ``labels [N]``, class); a label of -1 pairs with every class."""
    classes = torch.arange(num_classes, device=labels.device)
    return ((labels[:, None] == classes) | (labels[:, None] == -1)).nonzero(as_tuple=True)
