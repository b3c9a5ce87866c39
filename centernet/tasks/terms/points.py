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
    dense_owner,
    draw_gaussians,
    draw_regions,
    gaussian_radius,
    points_of_cells,
)
from centernet.ops.peaks import strongest_peaks
from centernet.structures import DenseMap, Objects, Outputs
from centernet.tasks.terms.base import About, HeatmapTerm, Peaks, Placed, ignored_regions

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

    @property
    def rows(self) -> int:
        """Detections per image of one pass."""
        return self.max_detections

    @property
    def most_peaks(self) -> int:
        """Peaks that are sought in one map."""
        return self.max_detections

    @property
    def takes_any_grid(self) -> bool:
        """Whether a graph of the search for peaks can take grids of any size."""
        return True

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
        image = torch.arange(len(cell), device=cell.device)[:, None].expand_as(cell)
        radius = torch.where(is_object[..., None], self.radii(sides), -1)
        return Placed(grid_size, image, boxes, sides, center, corner, cell, present, is_object, radius)

    def locate(
        self, objects: Objects, grid_size: tuple[int, int], center: Tensor, present: Tensor, is_object: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The points of objects, and which are ``present`` and trained (see ``Placed``), from those of their boxes."""
        return center, present, is_object

    def samples(self, placed: Placed, objects: Objects) -> tuple[Placed, Objects]:
        """The rows that other terms are trained on: objects and the cells that predict them. Here each object at its
        own cell."""
        return placed, objects

    def radii(self, size: Tensor) -> Tensor:
        """Radii int64 ``[..., 2]`` along x and y of the Gaussians of objects with these sizes ``[..., 2]`` (width,
        height in cells)."""
        sides = size.ceil() if self.rounds_sides else size
        radius = gaussian_radius(sides[..., 1], sides[..., 0], self.min_overlap, self.radius).long()
        return torch.stack([radius, radius], -1)

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        labels = objects["labels"]
        heatmap = gaussians(placed, placed.corner, placed.radius, labels.clamp(min=0), self.channels)
        return self.ignore(heatmap, placed, labels)

    def ignore(self, heatmap: Tensor, placed: Placed, labels: Tensor) -> DenseMap:
        """The heatmap ``[B, C, H, W]`` with zero weight inside ignored objects."""
        regions = ignored_regions(placed, self.region(placed.boxes), *self.ignored_channels(labels))
        return DenseMap(heatmap, None if regions is None else (~in_every_class(regions)).to(heatmap.dtype))

    def ignored_channels(self, labels: Tensor) -> tuple[Tensor, int]:
        """Channels to draw ignored objects into, and their number: the classes, and a last one for label -1."""
        return torch.where(labels < 0, self.channels, labels), self.channels + 1

    def region(self, boxes: Tensor) -> Tensor:
        """The parts of the grid that ignored boxes ``[N, 4]`` cover."""
        return boxes

    def find(self, maps: Outputs) -> Peaks:
        """The peaks of activated maps."""
        heatmap = maps[self.name]
        scores, labels, cell = strongest_peaks(heatmap, self.max_detections)
        return Peaks(scores, labels, cell, points_of_cells(cell, heatmap.shape[-1]))


class EllipsePoints(Points):
    """Points whose Gaussians have the shape of their boxes (TTFNet, arXiv:1909.00700, Sec. 4.1).

    - ``extent``: width and height of a Gaussian's ellipse as fractions of the box's.
    - ``center``: the ``cell`` that counts as the center, or a ``block`` of 3 by 3 around it, as far as the Gaussian
      reaches.
    """

    def __init__(
        self,
        name: str,
        about: About,
        weight: float = 1.0,
        extent: float = 0.54,
        center: str = "cell",
        crowds: str = "ignore",
        max_detections: int = 100,
    ) -> None:
        super().__init__(name, about, weight, crowds=crowds, margin=0, max_detections=max_detections)
        self.extent = self.number("extent", extent, above=0)
        self.is_block = self.choice("center", center, ("cell", "block")) == "block"

    def radii(self, size: Tensor) -> Tensor:
        return (size * (self.extent / 2)).long()

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        target = super().encode(placed, objects)
        if not self.is_block:
            return target
        reach = placed.radius.clamp(max=1)
        near = torch.cat([placed.corner - reach, placed.corner + reach], -1)
        rows = (near, objects["labels"].clamp(min=0), placed.image, placed.is_object)
        near, channel, image, shown = (each.flatten(0, 1) for each in rows)
        positive = draw_regions(near, channel, tuple(target.value.shape), image, shown)
        return DenseMap(target.value.masked_fill(positive, 1), target.weight)


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
        middle = (placed.boxes[..., :2] + placed.boxes[..., 2:]) / 2
        radius = torch.where((placed.present & ~placed.is_object)[..., None], self.radii(placed.size), -1)
        unknown = in_every_class(gaussians(placed, middle, radius, *self.ignored_channels(labels)))
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


class BlockPoints(ProjectedPoints):
    """As ``ProjectedPoints``, but the eight cells around an object's own learn its properties too.

    A neighboring cell belongs to the object with the nearest center. Nine samples of an object instead of one are what
    dense supervision gives 2D boxes (``terms.sides``), for losses of any kind; and a peak that is a cell off reads as
    well.
    """

    def samples(self, placed: Placed, objects: Objects) -> tuple[Placed, Objects]:
        (images, count), (height, width) = placed.cell.shape, placed.grid_size
        nth = torch.arange(9, device=placed.cell.device)
        step = torch.stack([nth % 3, torch.div(nth, 3, rounding_mode="floor")], -1) - 1
        corner = (placed.corner[:, :, None] + step).flatten(1, 2)
        x, y = corner.unbind(-1)
        is_inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        cell = torch.where(is_inside, y * width + x, 0).long()
        centers, radius = placed.corner.long().flatten(0, 1), torch.where(placed.is_object, 1, -1).flatten()
        owner, _ = dense_owner(centers, radius, placed.image.flatten(), (images, height, width))
        row = torch.arange(count, device=cell.device).repeat_interleave(9)
        own = torch.arange(images, device=cell.device)[:, None] * count + row
        is_own = is_inside & (owner.flatten(1).gather(1, cell) == own)
        repeated = Placed(placed.grid_size, *(value[:, row] for value in placed[1:]))
        rows = repeated._replace(
            corner=corner, cell=torch.where(is_own, cell, 0), is_object=repeated.is_object & is_own
        )
        return rows, {name: value[:, row] for name, value in objects.items()}


def gaussians(placed: Placed, points: Tensor, radius: Tensor, channel: Tensor, channels: int) -> Tensor:
    """Gaussians ``[B, channels, H, W]`` in the cells of ``points [B, M, 2]``; ``radius [B, M, 2]``, ``channel [B,
    M]``."""
    rows = (points.floor().long().flatten(0, 1), radius.flatten(0, 1), channel.flatten())
    return draw_gaussians(*rows, (len(points), channels, *placed.grid_size), placed.image.flatten())


def in_every_class(maps: Tensor) -> Tensor:
    """Maps ``[B, C, H, W]`` with what is in the last channel of ``[B, C + 1, H, W]`` in all of them."""
    return torch.maximum(maps[:, :-1], maps[:, -1:])
